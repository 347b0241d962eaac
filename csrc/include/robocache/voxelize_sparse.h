// robocache::voxelize_sparse for C++: point clouds as rows for the occupied voxels only.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <robocache/operator.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

namespace robocache {

/// What `voxelize_sparse` returns: a row for each of M voxels, in the order of (b, x, y, z).
struct SparseVoxels {
  /// [M, 4] int32: (b, x, y, z) of each row; -1 in a row that is not used.
  at::Tensor coords;
  /// [M, C]: what each voxel says of its points' features; [M, 0] without features, and for "occupancy" and "count".
  at::Tensor values;
  /// [M] int32: the points of each voxel.
  at::Tensor counts;
  /// [B, N] int64 ([N] for one cloud): the row of each point's voxel, or -1.
  at::Tensor point_voxel;
  /// [1] int64: how many voxels have points, those past the capacity too.
  at::Tensor num_voxels;
};

/// The occupied voxels of a grid as rows: memory grows with the points, not with the grid. Which voxel a point is in,
/// and what `reduce` means, is as for `voxelize`; the values are its bits.
///
///     auto voxels = robocache::voxelize_sparse(points, features, {-80, -80, -4}, {0.05}, {3200, 3200, 160});
///     auto rows = voxels.values;   // [M, C], beside voxels.coords [M, 4]
///
/// Differentiable in `features` through `values`, of any order. CUDA waits for the device once where `capacity` is -1,
/// else never: such a call can be captured in a CUDA graph.
///
/// Throws as `resample` does: `voxelize_sparse: capacity must be -1 or at least 0, got -2`.
inline SparseVoxels voxelize_sparse(
    // [B, N, 3], or [N, 3] for one cloud; as for `voxelize`.
    const at::Tensor& points,
    // [B, N, C], or [N, C] for one cloud, or none.
    const std::optional<at::Tensor>& features,
    // The lowest corner of the grid, 3 numbers in the unit of the points.
    c10::ArrayRef<double> origin,
    // The edges of a voxel, 3 positive numbers, or 1 for a cube.
    c10::ArrayRef<double> voxel_size,
    // Voxels along x, y and z, each at most 2^21.
    at::IntArrayRef grid_size,
    // As for `voxelize`.
    std::string_view reduce = "mean",
    // -1: as many rows as there are occupied voxels. Else the number of rows: those that are left over have coords -1
    // and zeros, and the last voxels, if there are more, are dropped.
    int64_t capacity = -1,
    // [B], int32 or int64, from 0 to N: how many points of each cloud are valid. None: all N.
    const std::optional<at::Tensor>& lengths = std::nullopt) {
  using Signature = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor&,
      const std::optional<at::Tensor>&,
      c10::ArrayRef<double>,
      c10::ArrayRef<double>,
      at::IntArrayRef,
      std::string_view,
      int64_t,
      const std::optional<at::Tensor>&);
  static const auto op = detail::find_operator<Signature>("robocache::voxelize_sparse");
  auto [coords, values, counts, point_voxel, num_voxels] =
      op.call(points, features, origin, voxel_size, grid_size, reduce, capacity, lengths);
  return {std::move(coords), std::move(values), std::move(counts), std::move(point_voxel), std::move(num_voxels)};
}

} // namespace robocache
