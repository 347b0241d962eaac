// Checks that real, Meta and symbolic tensors share: sizes are symbolic, texts are the same everywhere.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/util/Exception.h>

#include <optional>
#include <ostream>
#include <sstream>
#include <string>
#include <string_view>

namespace robocache {

// The name as Python spells it.
inline std::string dtype_name(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return "float64";
    case at::kFloat: return "float32";
    case at::kHalf: return "float16";
    case at::kBFloat16: return "bfloat16";
    case at::kLong: return "int64";
    case at::kInt: return "int32";
    case at::kShort: return "int16";
    case at::kChar: return "int8";
    case at::kUInt64: return "uint64";
    case at::kUInt32: return "uint32";
    case at::kUInt16: return "uint16";
    case at::kByte: return "uint8";
    case at::kBool: return "bool";
    case at::kComplexHalf: return "complex32";
    case at::kComplexFloat: return "complex64";
    case at::kComplexDouble: return "complex128";
    default: {
      std::string name = c10::toString(type);
      for (char& letter : name) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
      return name;
    }
  }
}

// A size for an error text: a symbolic one by the number that it stands for.
inline std::string size_text(const c10::SymInt& size) {
  std::ostringstream text;
  if (size.is_heap_allocated() && size.toSymNode()->has_hint()) text << size.guard_int(__FILE__, __LINE__);
  else text << size;
  return text.str();
}

inline std::string shape_text(c10::SymIntArrayRef sizes) {
  std::ostringstream text;
  text << '[';
  for (size_t axis = 0; axis < sizes.size(); ++axis) text << (axis == 0 ? "" : ", ") << size_text(sizes[axis]);
  text << ']';
  return text.str();
}

// True where two sizes are equal; an unknown symbolic size is taken to be, and checked when it is known.
inline bool same(const c10::SymInt& a, const c10::SymInt& b) {
  const auto known_a = a.maybe_as_int(), known_b = b.maybe_as_int();
  if (known_a.has_value() && known_b.has_value()) return *known_a == *known_b;
  return a.sym_eq(b).expect_true(__FILE__, __LINE__);
}

// True where a size is not zero, by the same rule.
inline bool positive(const c10::SymInt& size) {
  const auto known = size.maybe_as_int();
  if (known.has_value()) return *known > 0;
  return size.sym_gt(0).expect_true(__FILE__, __LINE__);
}

// An argument's name, and its place where the arguments are lists; written out only for an error.
struct Argument {
  std::string_view name;
  int64_t place = -1; // values[1]; -1: no list

  Argument(const char* name, int64_t place = -1) : name(name), place(place) {}

  friend std::ostream& operator<<(std::ostream& out, const Argument& argument) {
    out << argument.name;
    return argument.place < 0 ? out : out << '[' << argument.place << ']';
  }
};

inline bool has_shape(const at::Tensor& tensor, c10::SymIntArrayRef expected) {
  const c10::SymIntArrayRef sizes = tensor.sym_sizes();
  if (sizes.size() != expected.size()) return false;
  for (size_t axis = 0; axis < expected.size(); ++axis)
    if (!same(sizes[axis], expected[axis])) return false;
  return true;
}

// resample: source_times must have shape [2, 5], got [2, 4]
inline void check_shape(
    const char* op,
    const Argument& argument,
    const at::Tensor& tensor,
    c10::SymIntArrayRef expected) {
  TORCH_CHECK_VALUE(
      has_shape(tensor, expected), op, ": ", argument, " must have shape ", shape_text(expected), ", got ",
      shape_text(tensor.sym_sizes()));
}

// resample: target_times must be on cpu (as values), got cuda:0
inline void check_device(
    const char* op,
    const Argument& argument,
    const at::Tensor& tensor,
    const Argument& first_argument,
    const at::Tensor& first) {
  TORCH_CHECK_VALUE(
      tensor.device() == first.device(), op, ": ", argument, " must be on ", first.device(), " (as ", first_argument,
      "), got ", tensor.device());
}

// resample: target_times must be float64 (as source_times), got float32
inline void check_same_dtype(
    const char* op,
    const Argument& argument,
    const at::Tensor& tensor,
    const Argument& first_argument,
    const at::Tensor& first) {
  TORCH_CHECK_TYPE(
      tensor.scalar_type() == first.scalar_type(), op, ": ", argument, " must be ", dtype_name(first.scalar_type()),
      " (as ", first_argument, "), got ", dtype_name(tensor.scalar_type()));
}

} // namespace robocache
