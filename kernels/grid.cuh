// Where a point lies: floor((p - origin) / voxel_size) in the points' type, and what is dropped. The device half of
// src/ops/voxelize/grid.rs.
#pragma once

#include "common.cuh"

namespace robocache {

struct Clouds {
  const void* points;   // [B, N, 3]
  const void* lengths;  // [B] or null
  i64 cloud_stride, point_stride, axis_stride;
  i64 lengths_step;
  i64 batch, points_count;
  i64 size[3];
  double origin[3], voxel_size[3];
  i64 cells;
  int lengths_bytes;
  int tiles;  // blocks of a cloud
};
static_assert(sizeof(Clouds) == 152, "mirrors ops::voxelize::cuda::Points");

// Which cloud a block works on, and on which of its tiles.
struct Tile {
  i64 cloud, index;
};

__device__ inline Tile tile_of(int tiles) {
  const unsigned cloud = blockIdx.x / static_cast<unsigned>(tiles);
  return {static_cast<i64>(cloud), static_cast<i64>(blockIdx.x - cloud * static_cast<unsigned>(tiles))};
}

// Valid points of a cloud, clamped to [0, N].
__device__ inline i64 count_of(const Clouds& p, i64 cloud) {
  if (p.lengths == nullptr) return p.points_count;
  const i64 at = cloud * p.lengths_step;
  const i64 stated = p.lengths_bytes == 8 ? *element<i64>(p.lengths, at) : *element<int>(p.lengths, at);
  return stated < 0 ? 0 : stated < p.points_count ? stated : p.points_count;
}

__device__ inline float quotient(float p, double origin, double size) {
  return __fdiv_rn(p - static_cast<float>(origin), static_cast<float>(size));
}
__device__ inline double quotient(double p, double origin, double size) { return __ddiv_rn(p - origin, size); }

// The place along an axis, or -1. What is not below zero is rounded down by cutting its fraction off; NaN compares as
// false; the conversion saturates past the grid.
__device__ inline i64 place_along(float q, i64 voxels) {
  if (!(q >= 0)) return -1;
  const i64 place = __float2ll_rz(q);
  return place < voxels ? place : -1;
}
__device__ inline i64 place_along(double q, i64 voxels) {
  if (!(q >= 0)) return -1;
  const i64 place = __double2ll_rz(q);
  return place < voxels ? place : -1;
}

// The cell of a point, row-major, or -1; a cell of the largest sparse grid is still below 2^63.
template <class P>
__device__ i64 cell_of(const Clouds& p, i64 cloud, i64 point) {
  const P* from = element<P>(p.points, cloud * p.cloud_stride + point * p.point_stride);
  i64 cell = 0;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    const auto coordinate = Element<P>::widen(from[axis * p.axis_stride]);
    const i64 place = place_along(quotient(coordinate, p.origin[axis], p.voxel_size[axis]), p.size[axis]);
    if (place < 0) return -1;
    cell = cell * p.size[axis] + place;
  }
  return cell;
}

}  // namespace robocache
