// robocache::voxelize for C++: point clouds as dense grids.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <robocache/operator.h>

#include <optional>
#include <string_view>

namespace robocache {

/// What the points of a cloud say of each voxel of a grid: [B, X, Y, Z] or [B, C, X, Y, Z], contiguous.
///
/// The voxel of a point is `floor((p - origin) / voxel_size)` along each axis, in the dtype of the points (float32 for
/// the halves). A point outside the grid, or with a NaN or infinite coordinate, is dropped. An empty voxel: false or 0.
///
///     auto occupied = robocache::voxelize(points, std::nullopt, {-8, -8, -1}, {0.125}, {128, 128, 32});
///     auto mean = robocache::voxelize(points, features, {-8, -8, -1}, {0.125, 0.125, 0.25}, {128, 128, 16}, "mean");
///
/// Differentiable in `features`, of any order; points get no gradient. The same bits on CPU and CUDA, for any number of
/// threads and any order of the points. CUDA runs on the current stream and device and never waits.
///
/// Throws as `resample` does: `voxelize: lengths must have shape [2], got [3]`.
inline at::Tensor voxelize(
    // [B, N, 3], or [N, 3] for one cloud, any strides, in metres or any other unit; float64, float32, float16 or
    // bfloat16.
    const at::Tensor& points,
    // [B, N, C], or [N, C] for one cloud; of a floating dtype that need not be the points'. None, or not read, for
    // "occupancy" and "count".
    const std::optional<at::Tensor>& features,
    // The lowest corner of the grid, 3 numbers in the unit of the points.
    c10::ArrayRef<double> origin,
    // The edges of a voxel, 3 positive numbers, or 1 for a cube.
    c10::ArrayRef<double> voxel_size,
    // Voxels along x, y and z.
    at::IntArrayRef grid_size,
    // "occupancy" (bool), "count" (int32), or of the features, in their dtype: "sum" and "mean" (exact, rounded once),
    // "max" or "min".
    std::string_view reduce = "occupancy",
    // [B], int32 or int64, from 0 to N: how many points of each cloud are valid. None: all N.
    const std::optional<at::Tensor>& lengths = std::nullopt) {
  using Signature = at::Tensor(
      const at::Tensor&,
      const std::optional<at::Tensor>&,
      c10::ArrayRef<double>,
      c10::ArrayRef<double>,
      at::IntArrayRef,
      std::string_view,
      const std::optional<at::Tensor>&);
  static const auto op = detail::find_operator<Signature>("robocache::voxelize");
  return op.call(points, features, origin, voxel_size, grid_size, reduce, lengths);
}

} // namespace robocache
