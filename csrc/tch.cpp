// The operators for Rust's tch: called through the dispatcher, so that autograd and every device work as from Python.

#include "tch.h"

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include <robocache/robocache.h>

#include <vector>

#include "robocache/src/ffi.rs.h"

namespace robocache {
namespace {

[[noreturn]] void raise(const char* kind, const std::string& message) {
  throw std::runtime_error(std::string(kind) + ": " + message);
}

// What `call` returns; torch's exceptions with their kind, and without the C++ backtrace that their what() holds.
template <typename Call>
auto with_kind(Call call) {
  try {
    return call();
  } catch (const c10::ValueError& error) {
    raise("ValueError", error.what_without_backtrace());
  } catch (const c10::TypeError& error) {
    raise("TypeError", error.what_without_backtrace());
  } catch (const c10::NotImplementedError& error) {
    raise("NotImplementedError", error.what_without_backtrace());
  } catch (const c10::Error& error) {
    raise("RuntimeError", error.what_without_backtrace());
  } catch (const std::exception& error) {
    raise("RuntimeError", error.what());
  }
}

std::string_view view(rust::Str text) {
  return {text.data(), text.size()};
}

template <typename Number>
c10::ArrayRef<Number> numbers(rust::Slice<const Number> slice) {
  return {slice.data(), slice.size()};
}

const at::Tensor& tensor(std::size_t address) {
  return *reinterpret_cast<const at::Tensor*>(address);
}

std::optional<at::Tensor> optional_tensor(std::size_t address) {
  return address == 0 ? std::nullopt : std::optional<at::Tensor>(tensor(address));
}

std::vector<at::Tensor> tensors(rust::Slice<const std::size_t> addresses) {
  std::vector<at::Tensor> all;
  for (const std::size_t address : addresses) all.push_back(tensor(address));
  return all;
}

// tch::Tensor deletes it.
std::size_t owned(at::Tensor result) {
  return reinterpret_cast<std::size_t>(new at::Tensor(std::move(result)));
}

} // namespace

std::size_t tch_resample(
    std::size_t values,
    std::size_t source_times,
    std::size_t target_times,
    rust::Str mode,
    rust::Str outside,
    std::size_t source_lengths) {
  return with_kind([&] {
    return owned(resample(
        tensor(values), tensor(source_times), tensor(target_times), view(mode), view(outside),
        optional_tensor(source_lengths)));
  });
}

std::size_t tch_resample_mask(
    std::size_t source_times,
    std::size_t target_times,
    const core::MaxGap& max_gap,
    std::size_t source_lengths) {
  return with_kind([&] {
    std::optional<at::Scalar> gap;
    if (max_gap.given) gap = max_gap.whole ? at::Scalar(max_gap.ticks) : at::Scalar(max_gap.number);
    return owned(resample_mask(tensor(source_times), tensor(target_times), gap, optional_tensor(source_lengths)));
  });
}

std::size_t tch_fuse(
    rust::Slice<const std::size_t> values,
    rust::Slice<const std::size_t> source_times,
    std::size_t target_times,
    rust::Str mode,
    rust::Str outside,
    std::size_t source_lengths) {
  return with_kind([&] {
    return owned(
        fuse(tensors(values), tensors(source_times), tensor(target_times), view(mode), view(outside),
             optional_tensor(source_lengths)));
  });
}

std::size_t tch_voxelize(
    std::size_t points,
    std::size_t features,
    rust::Slice<const double> origin,
    rust::Slice<const double> voxel_size,
    rust::Slice<const std::int64_t> grid_size,
    rust::Str reduce,
    std::size_t lengths) {
  return with_kind([&] {
    return owned(voxelize(
        tensor(points), optional_tensor(features), numbers(origin), numbers(voxel_size), numbers(grid_size),
        view(reduce), optional_tensor(lengths)));
  });
}

core::SparseVoxels tch_voxelize_sparse(
    std::size_t points,
    std::size_t features,
    rust::Slice<const double> origin,
    rust::Slice<const double> voxel_size,
    rust::Slice<const std::int64_t> grid_size,
    rust::Str reduce,
    std::int64_t capacity,
    std::size_t lengths) {
  return with_kind([&] {
    const SparseVoxels found = voxelize_sparse(
        tensor(points), optional_tensor(features), numbers(origin), numbers(voxel_size), numbers(grid_size),
        view(reduce), capacity, optional_tensor(lengths));
    return core::SparseVoxels{
        owned(found.coords), owned(found.values), owned(found.counts), owned(found.point_voxel),
        owned(found.num_voxels)};
  });
}

} // namespace robocache
