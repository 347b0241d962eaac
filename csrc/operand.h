// From tensors to Rust and back: operands by address, the place to run, and Rust's errors as torch's exceptions.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <optional>
#include <string>
#include <string_view>

#include "robocache/src/ffi.rs.h"

namespace robocache {

using core::Kind;
using core::Operand;
using core::Place;

inline Kind kind(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return Kind::F64;
    case at::kFloat: return Kind::F32;
    case at::kHalf: return Kind::F16;
    case at::kBFloat16: return Kind::BF16;
    case at::kLong: return Kind::I64;
    case at::kInt: return Kind::I32;
    case at::kShort: return Kind::I16;
    case at::kChar: return Kind::I8;
    case at::kUInt64: return Kind::U64;
    case at::kUInt32: return Kind::U32;
    case at::kUInt16: return Kind::U16;
    case at::kByte: return Kind::U8;
    case at::kBool: return Kind::Bool;
    default: return Kind::None;
  }
}

// A tensor of at most three axes; the caller keeps it alive for the call.
inline Operand operand(const at::Tensor& tensor) {
  TORCH_INTERNAL_ASSERT(tensor.dim() <= 3);
  Operand operand{reinterpret_cast<std::size_t>(tensor.const_data_ptr()), kind(tensor.scalar_type()),
                  static_cast<std::size_t>(tensor.dim()), {1, 1, 1}, {0, 0, 0}};
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
    operand.sizes[axis] = static_cast<std::size_t>(tensor.size(axis));
    operand.strides[axis] = static_cast<std::ptrdiff_t>(tensor.stride(axis));
  }
  return operand;
}

inline Operand operand(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() && tensor->defined() ? operand(*tensor) : Operand{0, Kind::None, 0, {1, 1, 1}, {0, 0, 0}};
}

// A dense tensor as one axis: an output, or a workspace, which is no tensor where nothing is borrowed.
inline Operand flat(at::Tensor& tensor) {
  if (!tensor.defined()) return {0, Kind::U8, 1, {0, 1, 1}, {1, 0, 0}};
  return {reinterpret_cast<std::size_t>(tensor.mutable_data_ptr()), kind(tensor.scalar_type()), 1,
          {static_cast<std::size_t>(tensor.numel()), 1, 1}, {1, 0, 0}};
}

// The CPU, or the caller's current stream of the device; the same library serves torch with and without CUDA, so the
// stream comes from whatever backend torch has registered.
inline Place place(const at::Device& device) {
  if (!device.is_cuda()) return {-1, 0};
  const c10::impl::VirtualGuardImpl backend(device.type());
  return {device.index(), reinterpret_cast<std::size_t>(backend.getStream(device).native_handle())};
}

// Memory that a call borrows from torch, on the device of `like`: Rust plans the bytes.
inline at::Tensor borrow(std::size_t bytes, const at::Tensor& like) {
  if (bytes == 0) return {};
  return at::empty({static_cast<int64_t>(bytes)}, like.options().dtype(at::kByte));
}

inline rust::Str str(std::string_view text) {
  return {text.data(), text.size()};
}

// Raises "ValueError: text" and its like as the exception of that name.
[[noreturn]] inline void raise(std::string_view told) {
  const auto is = [&](std::string_view name) {
    if (told.substr(0, name.size()) != name) return false;
    told.remove_prefix(name.size());
    return true;
  };
  if (is("ValueError: ")) C10_THROW_ERROR(ValueError, std::string(told));
  if (is("TypeError: ")) C10_THROW_ERROR(TypeError, std::string(told));
  if (is("NotImplementedError: ")) C10_THROW_ERROR(NotImplementedError, std::string(told));
  is("RuntimeError: ");
  C10_THROW_ERROR(Error, std::string(told));
}

// Calls Rust; its errors become torch's exceptions.
template <class Call>
auto rust_call(Call&& call) {
  try {
    return call();
  } catch (const rust::Error& error) {
    raise(error.what());
  }
}

} // namespace robocache
