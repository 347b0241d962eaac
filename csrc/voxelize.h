// What the files of voxelize and voxelize_sparse share: the meaning of the axes, checks, the differentiable operators.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/SmallVector.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "operand.h"

namespace robocache {

using at::Tensor;
using Numbers = c10::ArrayRef<double>;
using Optional = std::optional<Tensor>;

// How the axes of a call are read.
struct Space {
  bool batched; // [B, N, 3], else [N, 3]
  c10::SymInt batch, points;
  c10::SymInt channels; // C; 1 where no features are given
  bool reads; // features are given and read
};

// What a call does with features, and of which kind of grid it is.
struct Rules {
  bool needs_features; // where the reduction reads them
  bool sparse;
};

// Checks every argument that can be checked without reading data; `capacity` is -1 for a dense grid.
Space check_voxelize(
    const char* op,
    Rules rules,
    const Tensor& points, // [B, N, 3] or [N, 3], metres
    const Optional& features, // [B, N, C] or [N, C]
    Numbers origin, // 3, metres
    Numbers voxel_size, // 1 or 3, metres
    at::IntArrayRef grid_size, // 3, voxels
    std::string_view reduce,
    int64_t capacity,
    const Optional& lengths); // [B]

// Refuses another type than the four that are computed with.
void check_floating(const char* op, const char* argument, const Tensor& tensor);

// ROBOCACHE_CHECK=1: reads the lengths of a CUDA call back to the host.
void check_length_data(const char* op, const Tensor& points, const Optional& lengths);

// [B, X, Y, Z], [B, C, X, Y, Z], or these without B.
c10::SymDimVector result_size(const Space& space, at::IntArrayRef grid_size);

// What a dense call borrows.
Tensor workspace_of(
    const Tensor& points, const Space& space, at::IntArrayRef grid_size, std::string_view reduce, bool backward);

inline rust::Slice<const double> slice(Numbers numbers) {
  return {numbers.data(), numbers.size()};
}

inline rust::Slice<const int64_t> slice(at::IntArrayRef numbers) {
  return {numbers.data(), numbers.size()};
}

// The operators under the Autograd key; voxelize_autograd.cpp says what is differentiable.
namespace autograd {

Tensor voxelize(
    const Tensor& points, const Optional& features, Numbers origin, Numbers voxel_size, at::IntArrayRef grid_size,
    std::string_view reduce, const Optional& lengths);
std::tuple<Tensor, Tensor, Tensor> voxelize_counted(
    const Tensor& points, const Tensor& features, Numbers origin, Numbers voxel_size, at::IntArrayRef grid_size,
    const Optional& lengths);
Tensor voxelize_tangent(
    const Tensor& tangent, const Tensor& points, const Tensor& features, Numbers origin, Numbers voxel_size,
    at::IntArrayRef grid_size, std::string_view reduce, const Optional& lengths);
Tensor voxelize_backward(
    const Tensor& grad, const Tensor& points, const Optional& features, Numbers origin, Numbers voxel_size,
    at::IntArrayRef grid_size, std::string_view reduce, const Optional& lengths, const Optional& counts,
    const Optional& point_voxel);
Tensor voxelize_sparse_values(
    const Tensor& features, const Tensor& coords, const Tensor& counts, const Tensor& order, const Tensor& starts,
    const Tensor& point_voxel, std::string_view reduce, const Optional& tangent);
Tensor voxelize_sparse_backward(
    const Tensor& grad, const Optional& features, const Tensor& coords, const Tensor& counts, const Tensor& order,
    const Tensor& starts, const Tensor& point_voxel, std::string_view reduce);

} // namespace autograd
} // namespace robocache
