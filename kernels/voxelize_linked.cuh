// Sums of a tile whose voxels have few points: those of a voxel are linked in shared memory in the order in which they
// come, which a sum does not depend on. A voxel with one point is that point. It spares what kernels/voxelize_tile.cuh
// does for full voxels, counts, places and an order, and small clouds most of its code, which is what they wait for.
#pragma once

#include "voxelize_list.cuh"

namespace robocache {

// Points of a tile that are linked at most, a few more than a plan wants in one.
constexpr int LINKED = 1216;

// Points of a thread that are looked up together where a tile has more than a block's threads. Of float32 two cost as much
// as they gain of halves, a fortieth; why was not found.
template <class V>
constexpr int LINKED_AHEAD = sizeof(V) < sizeof(float) ? 2 : 1;

struct Linked {
  alignas(16) int heads[TILE];  // a voxel's point that came last, or -1
  int points[LINKED];
  int links[LINKED];                 // the point before it in its voxel plus one, or zero, above the voxel
  short several[LINKED / 2];         // voxels with more than one point that one thread takes
  short many[LINKED / (ALONE + 1)];  // voxels with more points
  int several_size, many_size;

  __device__ void clear() {
    reinterpret_cast<int4*>(heads)[threadIdx.x] = int4{-1, -1, -1, -1};
    if (threadIdx.x == 0) several_size = many_size = 0;
    __syncthreads();
  }

  __device__ void add(int index, int point, int cell) {
    points[index] = point;
    links[index] = (atomicExch(&heads[cell], index) + 1) << TILE_BITS | cell;
  }

  __device__ int cell(int index) const { return links[index] & (TILE - 1); }
  __device__ int next(int index) const { return (links[index] >> TILE_BITS) - 1; }
  __device__ bool is_head(int index) const { return heads[cell(index)] == index; }

  // Lists the voxels with more than one of the points, `all` of which are there. All threads of the block come.
  __device__ void list(int all) {
#pragma unroll 1
    for (int index = threadIdx.x; index < all; index += BLOCK) {
      if (next(index) < 0 || !is_head(index)) continue;
      int count = 1;
#pragma unroll 1
      for (int before = next(index); before >= 0 && count <= ALONE; before = next(before)) ++count;
      const short place = static_cast<short>(cell(index));
      if (count <= ALONE) several[atomicAdd(&several_size, 1)] = place;
      else many[atomicAdd(&many_size, 1)] = place;
    }
    __syncthreads();
  }

  // Writes how many of the points, `all` of which are there, each voxel has; `counts` is room for the tile's.
  __device__ void count(const VoxelizeRowsParams& p, const Tile& tile, int bits, int all, int* counts) const {
    int4& four = reinterpret_cast<int4*>(counts)[threadIdx.x];
    four = int4{0, 0, 0, 0};
    __syncthreads();
#pragma unroll 1
    for (int index = threadIdx.x; index < all; index += BLOCK) atomicAdd(&counts[cell(index)], 1);
    __syncthreads();
    write_counts(p, tile, bits, four);
    __syncthreads();
  }

  // Bits that say which of four neighbouring voxels have points.
  __device__ unsigned operator()(int four) const {
    const int4 found = reinterpret_cast<const int4*>(heads)[four];
    return static_cast<unsigned>(found.x >= 0) | static_cast<unsigned>(found.y >= 0) << 1 |
           static_cast<unsigned>(found.z >= 0) << 2 | static_cast<unsigned>(found.w >= 0) << 3;
  }
};

// The exact sum or mean of linked numbers.
template <class V>
__device__ __noinline__ V sum_linked_exactly(const Linked& linked, int head, const V* from, i64 stride, bool mean) {
  Adder<V> adder;
  int count = 0;
  for (int index = head; index >= 0; index = linked.next(index), ++count)
    adder.add(to_f64(from[linked.points[index] * stride]));
  return adder.finish(mean ? count : 1);
}

// Stages the sums of a part's voxels, N channels at a time.
template <class V, int N, bool WHOLE>
__device__ void stage_linked(const Part<V>& part, const Linked& linked, int all, V* staged) {
  using Chunk = Vector<V, N>;
  const i64* strides = part.p.features_strides;
  const V* features = element<V>(part.p.features, part.cloud * strides[0] + part.first * strides[2]);
  const i64 point_stride = strides[1], channel_stride = strides[2];
  const bool mean = part.p.mean != 0;
  const int bits = part.bits, group_bits = part.template group_bits<N>(), mask = (1 << group_bits) - 1;
  const auto load = [&](int channel, int index) {
    const V* from = features + channel * channel_stride + linked.points[index] * point_stride;
    if constexpr (WHOLE) {
      return *reinterpret_cast<const Chunk*>(from);
    } else {
      // There is room for the sums of channels past the last.
      Chunk chunk;
#pragma unroll
      for (int k = 0; k < N; ++k)
        chunk.at[k] = channel + k < part.channels ? from[k * channel_stride] : narrow_from<V>(0.0);
      return chunk;
    }
  };
  const auto stage = [&](int channel, int cell, int count, const Sum (&sums)[N]) {
    V* to = staged + (channel << bits | cell);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const V* from = features + (channel + k) * channel_stride;
      to[k << bits] = sums[k].exact ? rounded<V>(sums[k].value, mean ? count : 1)
                                    : sum_linked_exactly<V>(linked, linked.heads[cell], from, point_stride, mean);
    }
  };
#pragma unroll 1
  for (int each = threadIdx.x; each < all << group_bits; each += BLOCK) {
    const int index = each >> group_bits, channel = (each & mask) * N;
    if (channel >= part.channels || linked.next(index) >= 0 || !linked.is_head(index)) continue;
    const Chunk chunk = load(channel, index);
    V* to = staged + (channel << bits | linked.cell(index));
#pragma unroll
    for (int k = 0; k < N; ++k) to[k << bits] = narrow_from<V>(0.0 + to_f64(chunk.at[k]));
  }
  // The last threads begin, which had the fewest of these.
#pragma unroll 1
  for (int each = BLOCK - 1 - threadIdx.x; each < linked.several_size << group_bits; each += BLOCK) {
    const int cell = linked.several[each >> group_bits], channel = (each & mask) * N;
    if (channel >= part.channels) continue;
    Sum sums[N];
    int count = 1, index = linked.heads[cell];
#pragma unroll 1
    for (Chunk chunk = load(channel, index);; ++count) {
      index = linked.next(index);
      Chunk following{};
      if (index >= 0) following = load(channel, index);
#pragma unroll
      for (int k = 0; k < N; ++k) sums[k].add(to_f64(chunk.at[k]));
      if (index < 0) break;
      chunk = following;
    }
    stage(channel, cell, count, sums);
  }
  // A warp looks for the points of a voxel among all.
  const int lane = threadIdx.x % WARP;
#pragma unroll 1
  for (int each = threadIdx.x / WARP; each < linked.many_size << group_bits; each += WARPS) {
    const int cell = linked.many[each >> group_bits], channel = (each & mask) * N;
    if (channel >= part.channels) continue;
    Sum sums[N];
    int count = 0;
#pragma unroll 1
    for (int index = lane; index < all; index += WARP) {
      if (linked.cell(index) != cell) continue;
      const Chunk chunk = load(channel, index);
#pragma unroll
      for (int k = 0; k < N; ++k) sums[k].add(to_f64(chunk.at[k]));
      ++count;
    }
    for (int step = WARP / 2; step > 0; step /= 2) count += __shfl_xor_sync(ALL_LANES, count, step);
#pragma unroll
    for (int k = 0; k < N; ++k) Summed<V>::add_lanes(sums[k]);
    if (lane == 0) stage(channel, cell, count, sums);
  }
}

// Sums a tile's points by voxel, if these are no more than are linked; returns whether that is so. All threads of the
// block come.
template <class V, class Points>
__device__ bool sum_linked(
    const VoxelizeRowsParams& p, const Points& from, typename Points::Runs& runs, Linked& linked, V* staged) {
  const Tile tile = tile_of(p.tiles);
  linked.clear();
  begin();
  const auto add = [&](int index, int point, int cell) {
    if (cell >= 0 && index < LINKED) linked.add(index, point, cell);
  };
  const int all = from.template walk<LINKED_AHEAD<V>>(tile, runs, add, LINKED);
  if (all > LINKED) return false;
  linked.list(all);
  if (p.counted != nullptr && blockIdx.y == 0) linked.count(p, tile, from.bits, all, reinterpret_cast<int*>(staged));
  // In a small cloud, whose blocks have few points, more threads take part.
  constexpr int MOST = Points::KEEPS_ALL ? 2 : TAKEN<V>;
  by_parts<V>(p, tile, from.bits, turn_of_block(), [&](const Part<V>& part) {
    by_access<V, MOST>(
        p, [&](auto access) { stage_linked<V, access.CHANNELS, access.WHOLE>(part, linked, all, staged); });
    __syncthreads();
    part.write(staged, linked);
    __syncthreads();
  });
  return true;
}

}  // namespace robocache
