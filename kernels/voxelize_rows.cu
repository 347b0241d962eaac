// What the points of a voxel come to: their exact sum or mean, or the first that holds the extremum; for the dense grids
// of voxelize and the rows of voxelize_sparse.
//
// Threads: one for each row (a voxel) and up to 8 channels, so that a warp writes neighbouring voxels. A row of many points
// is taken by its whole warp. Sums are exact and an extremum's holder is the lowest index, so that neither the order of
// the points nor who adds them matters.

#include "exact.cuh"

using namespace robocache;

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
  i64 strides[3];     // of the rows' side: cloud, channel, row
  i64 rows, cells, batch, points, channels;
  int least;  // min and not max
  int mean;
};
static_assert(sizeof(VoxelizeRowsParams) == 184, "mirrors ops::voxelize::cuda::RowsParams");

namespace {

constexpr int BLOCK = 256;
constexpr int CHANNELS = 8;
// Points of a row that one thread still takes alone: a warp of full rows is as busy with them as with one long row.
constexpr int ALONE = 32;

// A voxel and its points.
struct Row {
  i64 cloud, place;  // place: along the last of the strides
  const int* points;
  int count;
};

__device__ Row row_of(const VoxelizeRowsParams& p, i64 row) {
  Row found{0, row, p.order, 0};
  if (row >= p.rows) return found;
  if (p.coords == nullptr) {
    found.cloud = row / p.cells;
    found.place = row - found.cloud * p.cells;
  } else {
    found.cloud = p.coords[4 * row];
  }
  const i64 count = p.counts[row], start = p.starts[row];
  // Rows come from the caller: nothing outside the clouds is read, whatever they say.
  if (count <= 0 || start < 0 || start + count > p.points || found.cloud < 0 || found.cloud >= p.batch) return found;
  found.points += found.cloud * p.points + start;
  found.count = static_cast<int>(count);
  return found;
}

__device__ i64 point_of(const VoxelizeRowsParams& p, const Row& row, int index) {
  const i64 point = row.points[index];
  return point >= 0 && point < p.points ? point : 0;
}

template <class V>
__device__ V* place_of(const VoxelizeRowsParams& p, void* memory, const Row& row, i64 channel) {
  const i64 cloud = p.coords == nullptr ? row.cloud : 0;
  return static_cast<V*>(memory) + cloud * p.strides[0] + channel * p.strides[1] + row.place * p.strides[2];
}

// A warp's lane broadcasts its row.
__device__ Row row_from(const Row& row, int lane) {
  return {__shfl_sync(ALL_LANES, row.cloud, lane), __shfl_sync(ALL_LANES, row.place, lane),
          reinterpret_cast<const int*>(__shfl_sync(ALL_LANES, reinterpret_cast<u64>(row.points), lane)),
          __shfl_sync(ALL_LANES, row.count, lane)};
}

template <class V>
__device__ double feature(const VoxelizeRowsParams& p, const Row& row, i64 point, i64 channel) {
  return to_f64(*element<V>(p.features, row.cloud * p.features_strides[0] + point * p.features_strides[1] +
                                            channel * p.features_strides[2]));
}

// Adds some points of a row, every `step`th from `first` on, in limbs.
template <class V>
__device__ void add_exactly(
    const VoxelizeRowsParams& p, const Row& row, i64 channel, int first, int step, Adder<V>& adder) {
  for (int index = first; index < row.count; index += step)
    adder.add(feature<V>(p, row, point_of(p, row, index), channel));
}

template <class V>
__device__ __noinline__ V sum_exactly(const VoxelizeRowsParams& p, const Row& row, i64 channel) {
  Adder<V> adder;
  add_exactly(p, row, channel, 0, 1, adder);
  return adder.finish(p.mean != 0 ? row.count : 1);
}

template <class V>
__device__ __noinline__ V sum_exactly_together(const VoxelizeRowsParams& p, const Row& row, i64 channel, int lane) {
  Adder<V> adder;
  add_exactly(p, row, channel, lane, WARP, adder);
  adder.add_lanes();
  return adder.finish(p.mean != 0 ? row.count : 1);
}

template <class V>
__device__ void sum_together(const VoxelizeRowsParams& p, const Row& row, i64 channel, int lane) {
  Sum sum;
  for (int index = lane; index < row.count; index += WARP)
    sum.add(feature<V>(p, row, point_of(p, row, index), channel));
  bool exact = sum.exact;
  for (int step = WARP / 2; step > 0; step /= 2) {
    sum.add(__shfl_xor_sync(ALL_LANES, sum.value, step));
    exact &= sum.exact;
  }
  const V found = __all_sync(ALL_LANES, exact) != 0 ? rounded<V>(sum.value, p.mean != 0 ? row.count : 1)
                                                    : sum_exactly_together<V>(p, row, channel, lane);
  if (lane == 0) *place_of<V>(p, p.output, row, channel) = found;
}

template <class V>
__device__ void sum_rows(const VoxelizeRowsParams& p) {
  const int lane = threadIdx.x % WARP;
  const i64 index = static_cast<i64>(blockIdx.x) * BLOCK + threadIdx.x, first = blockIdx.y * i64{CHANNELS};
  const int channels = p.channels - first < CHANNELS ? static_cast<int>(p.channels - first) : CHANNELS;
  const Row row = row_of(p, index);
  const bool together = row.count > ALONE;
  if (index < p.rows && !together) {
    Sum sums[CHANNELS];
    for (int each = 0; each < row.count; ++each) {
      const i64 point = point_of(p, row, each);
#pragma unroll
      for (int k = 0; k < CHANNELS; ++k)
        if (k < channels) sums[k].add(feature<V>(p, row, point, first + k));
    }
    const double count = p.mean != 0 && row.count > 0 ? row.count : 1;
#pragma unroll
    for (int k = 0; k < CHANNELS; ++k) {
      if (k >= channels) continue;
      const V found = sums[k].exact ? rounded<V>(sums[k].value, count) : sum_exactly<V>(p, row, first + k);
      *place_of<V>(p, p.output, row, first + k) = found;
    }
  }
  for (unsigned todo = __ballot_sync(ALL_LANES, together); todo != 0; todo &= todo - 1) {
    const Row theirs = row_from(row, __ffs(static_cast<int>(todo)) - 1);
    for (int k = 0; k < channels; ++k) sum_together<V>(p, theirs, first + k, lane);
  }
}

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

__device__ u64 preference_of(double value, int least) {
  if (value != value) return ~0ull;
  const u64 bits = bits_of(value), ascending = bits >> 63 == 0 ? bits | 1ull << 63 : ~bits;
  return least != 0 ? ~ascending : ascending;
}

// Returns what a pick returns, or sends what a send sends; a row without points is zero.
template <class V, bool SEND>
__device__ void settle(const VoxelizeRowsParams& p, const Row& row, int point, i64 channel) {
  if constexpr (SEND) {
    if (row.count == 0) return;
    V* output = static_cast<V*>(p.output) + (row.cloud * p.points + point) * p.channels + channel;
    *output = *place_of<V>(p, const_cast<void*>(p.grad), row, channel);
  } else {
    const bool own = p.tangent == nullptr;
    const i64* strides = own ? p.features_strides : p.tangent_strides;
    V* output = place_of<V>(p, p.output, row, channel);
    if (row.count == 0) {
      *output = narrow_from<V>(0.0);
    } else {
      const i64 at = row.cloud * strides[0] + point * strides[1] + channel * strides[2];
      *output = *element<V>(own ? p.features : p.tangent, at);
    }
  }
}

template <class V, bool SEND>
__device__ void pick_together(const VoxelizeRowsParams& p, const Row& row, i64 channel, int lane) {
  Holder holder;
  for (int index = lane; index < row.count; index += WARP) {
    const i64 point = point_of(p, row, index);
    holder.meet(preference_of(feature<V>(p, row, point, channel), p.least), static_cast<int>(point));
  }
  for (int step = WARP / 2; step > 0; step /= 2) {
    const u64 preference = __shfl_xor_sync(ALL_LANES, holder.preference, step);
    holder.meet(preference, __shfl_xor_sync(ALL_LANES, holder.point, step));
  }
  if (lane == 0) settle<V, SEND>(p, row, holder.point, channel);
}

template <class V, bool SEND>
__device__ void pick_rows(const VoxelizeRowsParams& p) {
  const int lane = threadIdx.x % WARP;
  const i64 index = static_cast<i64>(blockIdx.x) * BLOCK + threadIdx.x, first = blockIdx.y * i64{CHANNELS};
  const int channels = p.channels - first < CHANNELS ? static_cast<int>(p.channels - first) : CHANNELS;
  const Row row = row_of(p, index);
  const bool together = row.count > ALONE;
  if (index < p.rows && !together) {
    Holder holders[CHANNELS];
    for (int each = 0; each < row.count; ++each) {
      const i64 point = point_of(p, row, each);
#pragma unroll
      for (int k = 0; k < CHANNELS; ++k)
        if (k < channels)
          holders[k].meet(preference_of(feature<V>(p, row, point, first + k), p.least), static_cast<int>(point));
    }
#pragma unroll
    for (int k = 0; k < CHANNELS; ++k)
      if (k < channels) settle<V, SEND>(p, row, holders[k].point, first + k);
  }
  for (unsigned todo = __ballot_sync(ALL_LANES, together); todo != 0; todo &= todo - 1) {
    const Row theirs = row_from(row, __ffs(static_cast<int>(todo)) - 1);
    for (int k = 0; k < channels; ++k) pick_together<V, SEND>(p, theirs, first + k, lane);
  }
}

}  // namespace

#define ROWS(NAME, V)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                 \
      voxelize_sum_##NAME(const __grid_constant__ VoxelizeRowsParams p) {                                             \
    sum_rows<V>(p);                                                                                                   \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                 \
      voxelize_pick_##NAME(const __grid_constant__ VoxelizeRowsParams p) {                                            \
    pick_rows<V, false>(p);                                                                                           \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                 \
      voxelize_send_##NAME(const __grid_constant__ VoxelizeRowsParams p) {                                            \
    pick_rows<V, true>(p);                                                                                            \
  }
ROWS(f64, double)
ROWS(f32, float)
ROWS(f16, __half)
ROWS(bf16, __nv_bfloat16)
