// What the points of a voxel come to: their exact sum or mean, or the first that holds the extremum.
//
// A thread, a warp or a block takes 16 bytes of a row's channels at a time. Sums are exact and an extremum's holder is
// the lowest index, so that neither the order of the points nor who adds them matters.
#pragma once

#include "exact.cuh"
#include "grid.cuh"

namespace robocache {

struct VoxelizeRowsParams {
  const void* features;  // [B, N, C]
  const void* tangent;   // as features, or null: what a pick returns instead
  i64 features_strides[3], tangent_strides[3];
  const int* coords;  // [M, 4], or null: rows are the cells of B grids
  const int* counts;  // [rows]
  const int* starts;  // [rows], where a row's points begin in the order of its cloud
  const int* order;   // [B, N]
  const void* grad;   // read at a row's place by a send, else null
  void* output;       // a row's place, or with grad [B, N, C]
  int* counted;       // [B, rows] or null: how many points each row of a dense grid is found to have
  int* point_voxel;   // [B, points] or null: the row of a dense grid in which each point is found, or -1
  i64 strides[3];     // of the rows' side: cloud, channel, row
  i64 rows, batch, points, channels;  // rows: of one grid, or all of a sparse one
  int least;  // min and not max
  int mean;
  int tiles;  // blocks of a grid
};
static_assert(sizeof(VoxelizeRowsParams) == 200, "mirrors ops::voxelize::params::RowsParams");

constexpr int BLOCK = 256;
constexpr int WARPS = BLOCK / WARP;

// Points of a row that one thread still takes alone: a warp of full rows is as busy with them as with one long row.
constexpr int ALONE = 32;
// Points of a row that one warp still takes: what a scanner drops into one voxel keeps all warps of a block busy.
constexpr int TOGETHER = 512;

// What a warp of a block found of a row, for each channel of a group.
struct Partial {
  u64 bits;  // of a sum, or a holder's preference
  int rest;  // whether the sum is exact, or the holder's point
};
using Partials = Partial[WARPS][MOST_TAKEN];

// The block's, one for groups of any width.
__device__ inline Partials& partials_of_block() {
  __shared__ Partials partials;
  return partials;
}

// A voxel and its points.
struct Row {
  i64 cloud, place;  // place: along the last of the strides
  const int* points;
  int count;

  __device__ i64 point(const VoxelizeRowsParams& p, int index) const {
    const int point = points[index];
    // Rows come from the caller: nothing outside the clouds is read, whatever they say.
    return point >= 0 && point < p.points ? point : 0;
  }
};

// N neighbouring channels of a cloud's features: a group that is WHOLE is one access, of others each channel.
template <class V, int N, bool WHOLE>
struct Features {
  using Chunk = Vector<V, N>;
  const V* first;
  i64 point_stride, channel_stride;
  int count;  // channels that are left

  __device__ Features(const VoxelizeRowsParams& p, i64 cloud, i64 channel) {
    const i64* strides = p.features_strides;
    first = element<V>(p.features, cloud * strides[0] + channel * strides[2]);
    point_stride = strides[1];
    channel_stride = strides[2];
    count = p.channels - channel < N ? static_cast<int>(p.channels - channel) : N;
  }

  __device__ bool has(int k) const { return WHOLE || k < count; }

  __device__ V at(i64 point) const { return first[point * point_stride]; }

  // Channels past the last are zero.
  __device__ Chunk load(i64 point) const {
    const V* from = first + point * point_stride;
    if constexpr (WHOLE) {
      Packed<Chunk> packed;
      packed.load(from);
      return packed.unpack();
    } else {
      Chunk chunk;
#pragma unroll
      for (int k = 0; k < N; ++k) chunk.at[k] = has(k) ? from[k * channel_stride] : narrow_from<V>(0.0);
      return chunk;
    }
  }
};

// Groups of channels can be one access each, but for the last ones of a row.
template <class V>
__device__ bool is_aligned(const VoxelizeRowsParams& p) {
  const i64* strides = p.features_strides;
  return strides[2] == 1 && strides[1] % TAKEN<V> == 0 && strides[0] % TAKEN<V> == 0 &&
         reinterpret_cast<u64>(p.features) % sizeof(Vector<V, TAKEN<V>>) == 0;
}

// N neighbouring channels that a thread takes at a time: of which a row has a whole number, each of them one access, or
// each channel an access.
template <int N, bool ONE>
struct Access {
  static constexpr int CHANNELS = N;
  static constexpr bool WHOLE = ONE;
};

// Channels of a row from which a thread takes several even where each is an access.
constexpr int WIDE_ROW = 8;

// Calls `visit(access)` for the widest of at most MOST channels that the layout allows.
template <class V, int MOST, class Visit>
__device__ void by_access(const VoxelizeRowsParams& p, const Visit& visit) {
  const i64* strides = p.features_strides;
  const u64 first = reinterpret_cast<u64>(p.features) / sizeof(V);
  const u64 each = static_cast<u64>(p.channels | strides[1] | strides[0]) | first;
  if (strides[2] == 1 && each % MOST == 0) visit(Access<MOST, true>{});
  else if (MOST > 2 && strides[2] == 1 && each % 2 == 0) visit(Access<2, true>{});
  else if (p.channels >= WIDE_ROW) visit(Access<MOST, false>{});
  else visit(Access<1, true>{});
}

template <class V>
__device__ __noinline__ V sum_exactly(const VoxelizeRowsParams& p, Row row, i64 channel) {
  const Features<V, 1, true> features(p, row.cloud, channel);
  Adder<V> adder;
  for (int index = 0; index < row.count; ++index) adder.add(to_f64(features.at(row.point(p, index))));
  return adder.finish(p.mean != 0 ? row.count : 1);
}

template <class V>
__device__ __noinline__ V sum_exactly_together(const VoxelizeRowsParams& p, Row row, i64 channel, int lane) {
  const Features<V, 1, true> features(p, row.cloud, channel);
  Adder<V> adder;
  for (int index = lane; index < row.count; index += WARP) adder.add(to_f64(features.at(row.point(p, index))));
  adder.add_lanes();
  return adder.finish(p.mean != 0 ? row.count : 1);
}

// The sums or means of a row and a group of N channels; `keep(k, sum)` takes that of each.
template <class V, int CHANNELS = TAKEN<V>, bool EVERY = false, int ALONE_FLIGHT = 1>
struct Summed {
  template <int OTHER>
  using Of = Summed<V, OTHER, EVERY, ALONE_FLIGHT>;
  static constexpr bool SENDS = false;
  static constexpr int MOST = TAKEN<V>;
  static constexpr int MOST_ALONE = ALONE;  // points
  static constexpr int N = CHANNELS;

  // Adds every `step`th point from `first` on; the loads of FLIGHT of them do not wait for each other. With EVERY all of
  // these happen, past the last point of this again, so that none depends on a branch.
  template <int FLIGHT, class Group>
  static __device__ void add_points(
      const VoxelizeRowsParams& p, const Row& row, const Group& features, int first, int step, Sum (&sums)[N]) {
    for (int index = first; index < row.count; index += FLIGHT * step) {
      Vector<V, N> chunks[FLIGHT];
#pragma unroll
      for (int each = 0; each < FLIGHT; ++each) {
        const int at = index + each * step;
        if constexpr (EVERY) chunks[each] = features.load(row.point(p, at < row.count ? at : row.count - 1));
        else if (at < row.count) chunks[each] = features.load(row.point(p, at));
      }
#pragma unroll
      for (int each = 0; each < FLIGHT; ++each) {
        if (index + each * step >= row.count) continue;
#pragma unroll
        for (int k = 0; k < N; ++k) sums[k].add(to_f64(chunks[each].at[k]));
      }
    }
  }

  template <class Group, class Keep>
  static __device__ void alone(
      const VoxelizeRowsParams& p, const Row& row, i64 channel, const Group& features, const Keep& keep) {
    Sum sums[N];
    if (row.count > 0) {
      // A first addition has nothing to lose.
      const auto chunk = features.load(row.point(p, 0));
#pragma unroll
      for (int k = 0; k < N; ++k) sums[k].value += to_f64(chunk.at[k]);
    }
    add_points<ALONE_FLIGHT>(p, row, features, 1, 1, sums);
    const double count = p.mean != 0 && row.count != 0 ? row.count : 1;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (features.has(k))
        keep(k, sums[k].exact ? rounded<V>(sums[k].value, count) : sum_exactly<V>(p, row, channel + k));
    }
  }

  template <class Group, class Keep>
  static __device__ void together(
      const VoxelizeRowsParams& p, const Row& row, i64 channel, const Group& features, int lane, const Keep& keep) {
    Sum sums[N];
    add_points<4>(p, row, features, lane, WARP, sums);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (!features.has(k)) continue;
      add_lanes(sums[k]);
      const V found = finish(p, row, channel + k, sums[k], lane);
      if (lane == 0) keep(k, found);
    }
  }

  // All threads of a block come; a warp finishes each of the channels.
  template <class Group, class Keep>
  static __device__ void by_block(
      const VoxelizeRowsParams& p, const Row& row, i64 channel, const Group& features, Partials& partials,
      const Keep& keep) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    Sum sums[N];
    add_points<4>(p, row, features, threadIdx.x, BLOCK, sums);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      add_lanes(sums[k]);
      if (lane == 0) partials[warp][k] = {bits_of(sums[k].value), sums[k].exact};
    }
    __syncthreads();
    for (int k = warp; k < N; k += WARPS) {
      if (!features.has(k)) continue;
      Sum all;
      for (int other = 0; other < WARPS; ++other) {
        all.add(from_bits(partials[other][k].bits));
        all.exact &= partials[other][k].rest != 0;
      }
      const V found = finish(p, row, channel + k, all, lane);
      if (lane == 0) keep(k, found);
    }
    __syncthreads();
  }

  // The sum of every lane's, in every lane.
  static __device__ void add_lanes(Sum& sum) {
    for (int step = WARP / 2; step > 0; step /= 2) sum.add(__shfl_xor_sync(ALL_LANES, sum.value, step));
    sum.exact = __all_sync(ALL_LANES, sum.exact) != 0;
  }

  // What a warp makes of its sum.
  static __device__ V finish(const VoxelizeRowsParams& p, const Row& row, i64 channel, const Sum& sum, int lane) {
    return sum.exact ? rounded<V>(sum.value, p.mean != 0 ? row.count : 1)
                     : sum_exactly_together<V>(p, row, channel, lane);
  }
};

// A point that may hold the extremum; greater for what is preferred: a NaN before all, and of zeros the positive one is
// the greater.
struct Holder {
  u64 preference = 0;
  int point = 0x7fffffff;

  __device__ void meet(u64 other, int at) {
    if (other > preference || (other == preference && at < point)) {
      preference = other;
      point = at;
    }
  }
};

__device__ inline u64 preference_of(double value, int least) {
  if (value != value) return ~0ull;
  const u64 bits = bits_of(value), ascending = bits >> 63 == 0 ? bits | 1ull << 63 : ~bits;
  return least != 0 ? ~ascending : ascending;
}

// The holders of a row's extrema in a group of N channels; `keep` takes what each has, or with SEND its number.
template <class V, bool SEND, int CHANNELS = TAKEN<V>>
struct Picked {
  template <int OTHER>
  using Of = Picked<V, SEND, OTHER>;
  static constexpr bool SENDS = SEND;
  static constexpr int MOST = SEND ? 2 : TAKEN<V>;  // scattered stores, a channel each, are most of what sending takes
  static constexpr int MOST_ALONE = ALONE;
  static constexpr int N = CHANNELS;

  template <class Group>
  static __device__ void meet(
      const VoxelizeRowsParams& p, const Row& row, const Group& features, int first, int step, Holder (&holders)[N]) {
    for (int index = first; index < row.count; index += step) {
      const i64 point = row.point(p, index);
      const auto chunk = features.load(point);
#pragma unroll
      for (int k = 0; k < N; ++k)
        holders[k].meet(preference_of(to_f64(chunk.at[k]), p.least), static_cast<int>(point));
    }
  }

  template <class Group, class Keep>
  static __device__ void alone(
      const VoxelizeRowsParams& p, const Row& row, i64 channel, const Group& features, const Keep& keep) {
    Holder holders[N];
    meet(p, row, features, 0, 1, holders);
    settle(p, row, holders, channel, features, keep);
  }

  template <class Group, class Keep>
  static __device__ void together(
      const VoxelizeRowsParams& p, const Row& row, i64 channel, const Group& features, int lane, const Keep& keep) {
    Holder holders[N];
    meet(p, row, features, lane, WARP, holders);
    meet_lanes(holders);
    if (lane == 0) settle(p, row, holders, channel, features, keep);
  }

  // All threads of a block come; one settles what its warps found.
  template <class Group, class Keep>
  static __device__ void by_block(
      const VoxelizeRowsParams& p, const Row& row, i64 channel, const Group& features, Partials& partials,
      const Keep& keep) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    Holder holders[N];
    meet(p, row, features, threadIdx.x, BLOCK, holders);
    meet_lanes(holders);
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (lane == 0) partials[warp][k] = {holders[k].preference, holders[k].point};
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll
      for (int k = 0; k < N; ++k)
        for (int other = 1; other < WARPS; ++other) holders[k].meet(partials[other][k].bits, partials[other][k].rest);
      settle(p, row, holders, channel, features, keep);
    }
    __syncthreads();
  }

  // The holders among those of every lane, in every lane.
  static __device__ void meet_lanes(Holder (&holders)[N]) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      for (int step = WARP / 2; step > 0; step /= 2) {
        const u64 preference = __shfl_xor_sync(ALL_LANES, holders[k].preference, step);
        holders[k].meet(preference, __shfl_xor_sync(ALL_LANES, holders[k].point, step));
      }
    }
  }

  template <class Group, class Keep>
  static __device__ void settle(
      const VoxelizeRowsParams& p, const Row& row, const Holder (&holders)[N], i64 channel, const Group& features,
      const Keep& keep) {
    if constexpr (SEND) {
#pragma unroll
      for (int k = 0; k < N; ++k)
        if (features.has(k) && row.count != 0) keep(k, holders[k].point);
    } else {
      const bool own = p.tangent == nullptr;
      const i64* strides = own ? p.features_strides : p.tangent_strides;
      const V* read = element<V>(own ? p.features : p.tangent, row.cloud * strides[0] + channel * strides[2]);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        if (!features.has(k)) continue;
        // A row without points is zero.
        const V zero = narrow_from<V>(0.0);
        keep(k, row.count == 0 ? zero : read[holders[k].point * strides[1] + k * strides[2]]);
      }
    }
  }
};

}  // namespace robocache
