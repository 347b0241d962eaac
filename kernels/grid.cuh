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
static_assert(sizeof(Clouds) == 152, "mirrors ops::voxelize::params::Points");

// Cells of a grid that int32 counts are found in less time.
__device__ inline bool is_narrow(const Clouds& clouds) { return clouds.cells <= 0x7fffffff; }

// Which cloud a block works on, and on which of its tiles.
struct Tile {
  i64 cloud, index;
};

__device__ inline Tile tile_of(int tiles) {
  const unsigned cloud = blockIdx.x / static_cast<unsigned>(tiles);
  return {static_cast<i64>(cloud), static_cast<i64>(blockIdx.x - cloud * static_cast<unsigned>(tiles))};
}

// Memory of the clouds that their blocks ask for before they wait, the part'th of each so many bytes of it.
struct Asked {
  const unsigned char* first;
  i64 cloud_step, bytes;
  int each;  // 0: nothing is asked for
  int pad;
};
static_assert(sizeof(Asked) == 32, "mirrors ops::voxelize::params::Asked");

// Asks for a block's part of the points and of the features, one code for both, by a thread of a warp each.
__device__ inline void ask_ahead(const Asked (&asked)[2], const Tile& tile) {
  if (threadIdx.x % WARP != 0 || threadIdx.x > WARP) return;
  const Asked& mine = asked[threadIdx.x / WARP];
  ask_for_part(mine.first + tile.cloud * mine.cloud_step, mine.bytes, mine.each, static_cast<unsigned>(tile.index));
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

// The whole part of what is not below zero; the conversion saturates past every grid.
__device__ inline void cut(float q, int& place) { place = __float2int_rz(q); }
__device__ inline void cut(float q, i64& place) { place = __float2ll_rz(q); }
__device__ inline void cut(double q, int& place) { place = __double2int_rz(q); }
__device__ inline void cut(double q, i64& place) { place = __double2ll_rz(q); }

// The cell of three coordinates, row-major, or -1; NaN compares as false. An `Index` counts all cells of the grid.
template <class Index, class T>
__device__ Index cell_at(const Clouds& p, T x, T y, T z) {
  const T coordinates[3] = {x, y, z};
  Index cell = 0;
  bool inside = true;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    const T q = quotient(coordinates[axis], p.origin[axis], p.voxel_size[axis]);
    const Index voxels = static_cast<Index>(p.size[axis]);
    Index place = 0;
    cut(q, place);
    inside &= q >= 0 && place < voxels;
    cell = inside ? cell * voxels + place : 0;
  }
  return inside ? cell : -1;
}

// Loads come before this, however late the compiler would like them.
__device__ inline void loaded(float& a, float& b, float& c) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+f"(a), "+f"(b), "+f"(c));
#endif
}
__device__ inline void loaded(double& a, double& b, double& c) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+d"(a), "+d"(b), "+d"(c));
#endif
}

// The cell of a point, row-major, or -1; a cell of the largest sparse grid is still below 2^63.
template <class P, class Index = i64>
__device__ Index cell_of(const Clouds& p, i64 cloud, i64 point) {
  const P* from = element<P>(p.points, cloud * p.cloud_stride + point * p.point_stride);
  const auto coordinate = [&](int axis) { return Element<P>::widen(from[axis * p.axis_stride]); };
  auto x = coordinate(0), y = coordinate(1), z = coordinate(2);
  loaded(x, y, z);
  return cell_at<Index>(p, x, y, z);
}

// Neighbouring points that a thread takes together.
constexpr int FOUR = 4;

// The coordinates of four neighbouring points, NaN from point `end` on, by whole accesses where the layout allows it.
template <class P>
__device__ void load_four(const Clouds& p, i64 cloud, i64 point, i64 end, P (&numbers)[3 * FOUR]) {
  constexpr int N = sizeof(P) == 8 ? 2 : 4;  // numbers of an access
  using Part = Vector<P, N>;
  const P* from = element<P>(p.points, cloud * p.cloud_stride + point * p.point_stride);
  const bool dense = p.axis_stride == 1 && p.point_stride == 3 && reinterpret_cast<u64>(from) % sizeof(Part) == 0;
  if (dense && point + FOUR <= end) {
#pragma unroll
    for (int part = 0; part < 3 * FOUR / N; ++part) {
      const Part read = reinterpret_cast<const Part*>(from)[part];
#pragma unroll
      for (int k = 0; k < N; ++k) numbers[part * N + k] = read.at[k];
    }
  } else {
#pragma unroll
    for (int k = 0; k < FOUR; ++k)
#pragma unroll
      for (int axis = 0; axis < 3; ++axis)
        numbers[3 * k + axis] =
            point + k < end ? from[k * p.point_stride + axis * p.axis_stride] : Element<P>::nan();
  }
}

// The cells of four neighbouring points, -1 from point `end` on.
template <class P, class Index>
__device__ void cells_of_four(const Clouds& p, i64 cloud, i64 point, i64 end, Index (&cells)[FOUR]) {
  P numbers[3 * FOUR];
  load_four(p, cloud, point, end, numbers);
#pragma unroll
  for (int k = 0; k < FOUR; ++k) {
    const auto coordinate = [&](int axis) { return Element<P>::widen(numbers[3 * k + axis]); };
    cells[k] = cell_at<Index>(p, coordinate(0), coordinate(1), coordinate(2));
  }
}

// Cells of one access, whose marks become bytes.
constexpr int MARKS = 16;

// Writes the lowest 16 bits of a word as bytes, at most as many as there are cells.
__device__ inline void write_marks(unsigned char* to, unsigned bits, i64 cells) {
  // Four bits to the lowest of a byte each.
  const auto four = [&](int k) { return (bits >> 4 * k & 15) * 0x00204081u & 0x01010101u; };
  if (cells >= MARKS && reinterpret_cast<u64>(to) % MARKS == 0) {
    *reinterpret_cast<uint4*>(to) = uint4{four(0), four(1), four(2), four(3)};
  } else {
    for (int k = 0; k < MARKS && k < cells; ++k) to[k] = static_cast<unsigned char>(bits >> k & 1);
  }
}

// One more at `key` of some counters; gives the count before. All lanes of a warp come, those without a key with -1.
// Neighbouring points often lie in one voxel: where lanes share a key, one adds for all.
template <class Key, class Add>
__device__ int count_up(Key key, const Add& add) {
  const int lane = threadIdx.x % WARP;
  const Key other = __shfl_up_sync(ALL_LANES, key, 1);
  const unsigned alike = __ballot_sync(ALL_LANES, lane > 0 && key >= 0 && key == other);
  if (__popc(alike) < WARP / 4) return key >= 0 ? add(key, 1) : -1;
  const unsigned peers = __match_any_sync(ALL_LANES, key);
  const int leader = __ffs(static_cast<int>(peers)) - 1;
  const int base = key >= 0 && lane == leader ? add(key, __popc(peers)) : 0;
  const int first = __shfl_sync(ALL_LANES, base, leader);
  return key >= 0 ? first + __popc(peers & ((1u << lane) - 1)) : -1;
}

// The sum of a block's values before this thread's, and of all; `of_warp` has a place for each warp.
__device__ inline int before_in_block(int value, int* of_warp, int& all) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  int sum = value;
  for (int step = 1; step < WARP; step *= 2) {
    const int other = __shfl_up_sync(ALL_LANES, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();
  if (lane == WARP - 1) of_warp[warp] = sum;
  __syncthreads();
  int theirs = lane < warps ? of_warp[lane] : 0;
  for (int step = 1; step < WARP; step *= 2) {
    const int other = __shfl_up_sync(ALL_LANES, theirs, step);
    if (lane >= step) theirs += other;
  }
  all = __shfl_sync(ALL_LANES, theirs, WARP - 1);
  const int before = __shfl_sync(ALL_LANES, theirs, warp > 0 ? warp - 1 : 0);
  return (warp > 0 ? before : 0) + sum - value;
}

}  // namespace robocache
