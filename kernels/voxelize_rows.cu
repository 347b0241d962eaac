// What the points of a voxel come to: their exact sum or mean, or the first that holds the extremum; for the dense
// grids of voxelize and the rows of voxelize_sparse.
//
// Threads: a block takes 1024 neighbouring rows (voxels) and as many channels as fill a sector of 32 bytes. It lists
// the rows that have points, a thread takes a channel of one of them, and a dense result is put together in shared
// memory, so that all of it is written in order. A row of many points is taken by a warp. Sums are exact and an
// extremum's holder is the lowest index, so that neither the order of the points nor who adds them matters.

#include "exact.cuh"
#include "grid.cuh"

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
  i64 rows, batch, points, channels;  // rows: of one grid, or all of a sparse one
  int least;  // min and not max
  int mean;
  int tiles;  // blocks of a grid
};
static_assert(sizeof(VoxelizeRowsParams) == 184, "mirrors ops::voxelize::cuda::RowsParams");

namespace {

constexpr int BLOCK = 256;
constexpr int WARPS = BLOCK / WARP;
// Rows of a thread, whose counts and starts are loads of 16 bytes.
constexpr int EACH = 4;
constexpr int TILE = BLOCK * EACH;
template <class V>
constexpr int CHANNELS = 32 / sizeof(V);
// Points of a row that one thread still takes alone: a warp of full rows is as busy with them as with one long row.
constexpr int ALONE = 32;

// A voxel and its points.
struct Row {
  i64 cloud, place;  // place: along the last of the strides
  const int* points;
  int count;

  __device__ i64 point(const VoxelizeRowsParams& p, int index) const {
    const i64 point = points[index];
    // Rows come from the caller: nothing outside the clouds is read, whatever they say.
    return point >= 0 && point < p.points ? point : 0;
  }
};

// The rows that a block works on, listed by its threads.
struct List {
  short places[TILE];
  int counts[TILE], starts[TILE];
  int size;
};

__device__ Row row_of(const VoxelizeRowsParams& p, const Tile& tile, const List& list, int index) {
  const int start = list.starts[index], count = list.counts[index];
  const i64 place = tile.index * TILE + list.places[index];
  if (p.coords == nullptr) return {tile.cloud, place, p.order + tile.cloud * p.points + start, count};
  const i64 cloud = p.coords[4 * place];
  const bool valid = count > 0 && start >= 0 && i64{start} + count <= p.points && cloud >= 0 && cloud < p.batch;
  if (!valid) return {0, place, p.order, 0};
  return {cloud, place, p.order + cloud * p.points + start, count};
}

// Four neighbouring numbers of a grid's rows, by one access where the layout allows it; zero past the last row.
__device__ int4 four_of(const VoxelizeRowsParams& p, const int* numbers, i64 grid, i64 place) {
  if (p.rows % EACH == 0 && reinterpret_cast<u64>(numbers) % sizeof(int4) == 0)
    return place < p.rows ? __ldg(reinterpret_cast<const int4*>(numbers + grid + place)) : int4{0, 0, 0, 0};
  const auto at = [&](int k) { return place + k < p.rows ? numbers[grid + place + k] : 0; };
  return {at(0), at(1), at(2), at(3)};
}

// Lists the rows with points, of a sparse grid all; returns whether some have many.
__device__ bool list_rows(const VoxelizeRowsParams& p, const Tile& tile, List& list) {
  const int lane = threadIdx.x % WARP, first = threadIdx.x * EACH;
  const i64 place = tile.index * TILE + first, grid = tile.cloud * p.rows;
  if (threadIdx.x == 0) list.size = 0;
  const int4 count = four_of(p, p.counts, grid, place), start = four_of(p, p.starts, grid, place);
  const int counts[EACH] = {count.x, count.y, count.z, count.w}, starts[EACH] = {start.x, start.y, start.z, start.w};
  const auto listed = [&](int k) { return place + k < p.rows && (counts[k] > 0 || p.coords != nullptr); };
  int mine = 0, most = 0;
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    mine += listed(k);
    most = counts[k] > most ? counts[k] : most;
  }
  int before = mine;
  for (int step = 1; step < WARP; step *= 2) {
    const int other = __shfl_up_sync(ALL_LANES, before, step);
    if (lane >= step) before += other;
  }
  __syncthreads();
  int base = 0;
  if (lane == WARP - 1 && before != 0) base = atomicAdd(&list.size, before);
  int index = __shfl_sync(ALL_LANES, base, WARP - 1) + before - mine;
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    if (!listed(k)) continue;
    list.places[index] = static_cast<short>(first + k);
    list.counts[index] = counts[k];
    list.starts[index] = starts[k];
    ++index;
  }
  return __syncthreads_or(most > ALONE) != 0;
}

template <class V>
__device__ V* place_of(const VoxelizeRowsParams& p, void* memory, const Row& row, i64 channel) {
  const i64 cloud = p.coords == nullptr ? row.cloud : 0;
  return static_cast<V*>(memory) + cloud * p.strides[0] + channel * p.strides[1] + row.place * p.strides[2];
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
    adder.add(feature<V>(p, row, row.point(p, index), channel));
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

// The sum or mean of a row and channel.
template <class V>
struct Summed {
  static constexpr bool SENDS = false;

  static __device__ V alone(const VoxelizeRowsParams& p, const Row& row, i64 channel) {
    if (row.count == 0) return narrow_from<V>(0.0);
    Sum sum;
    sum.value += feature<V>(p, row, row.point(p, 0), channel);
    for (int index = 1; index < row.count; ++index) sum.add(feature<V>(p, row, row.point(p, index), channel));
    return sum.exact ? rounded<V>(sum.value, p.mean != 0 ? row.count : 1) : sum_exactly<V>(p, row, channel);
  }

  static __device__ V together(const VoxelizeRowsParams& p, const Row& row, i64 channel, int lane) {
    Sum sum;
    for (int index = lane; index < row.count; index += WARP)
      sum.add(feature<V>(p, row, row.point(p, index), channel));
    bool exact = sum.exact;
    for (int step = WARP / 2; step > 0; step /= 2) {
      sum.add(__shfl_xor_sync(ALL_LANES, sum.value, step));
      exact &= sum.exact;
    }
    return __all_sync(ALL_LANES, exact) != 0 ? rounded<V>(sum.value, p.mean != 0 ? row.count : 1)
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

__device__ u64 preference_of(double value, int least) {
  if (value != value) return ~0ull;
  const u64 bits = bits_of(value), ascending = bits >> 63 == 0 ? bits | 1ull << 63 : ~bits;
  return least != 0 ? ~ascending : ascending;
}

// What the holder of a row's extremum has, or with SEND what it gets; a row without points is zero.
template <class V, bool SEND>
struct Picked {
  static constexpr bool SENDS = SEND;

  static __device__ void meet(const VoxelizeRowsParams& p, const Row& row, int index, i64 channel, Holder& holder) {
    const i64 point = row.point(p, index);
    holder.meet(preference_of(feature<V>(p, row, point, channel), p.least), static_cast<int>(point));
  }

  static __device__ V alone(const VoxelizeRowsParams& p, const Row& row, i64 channel) {
    if (row.count == 0) return narrow_from<V>(0.0);
    Holder holder;
    for (int index = 0; index < row.count; ++index) meet(p, row, index, channel, holder);
    return settle(p, row, holder.point, channel);
  }

  static __device__ V together(const VoxelizeRowsParams& p, const Row& row, i64 channel, int lane) {
    Holder holder;
    for (int index = lane; index < row.count; index += WARP) meet(p, row, index, channel, holder);
    for (int step = WARP / 2; step > 0; step /= 2) {
      const u64 preference = __shfl_xor_sync(ALL_LANES, holder.preference, step);
      holder.meet(preference, __shfl_xor_sync(ALL_LANES, holder.point, step));
    }
    return settle(p, row, holder.point, channel);
  }

  static __device__ V settle(const VoxelizeRowsParams& p, const Row& row, i64 point, i64 channel) {
    if constexpr (SEND) {
      V* output = static_cast<V*>(p.output) + (row.cloud * p.points + point) * p.channels + channel;
      return *output = *place_of<V>(p, const_cast<void*>(p.grad), row, channel);
    } else {
      const bool own = p.tangent == nullptr;
      const i64* strides = own ? p.features_strides : p.tangent_strides;
      const i64 at = row.cloud * strides[0] + point * strides[1] + channel * strides[2];
      return *element<V>(own ? p.features : p.tangent, at);
    }
  }
};

// Writes the staged rows, four neighbours at a time where the layout allows it.
template <class V>
__device__ void write_staged(
    const VoxelizeRowsParams& p, const Tile& tile, i64 first_channel, int channels,
    const V (&staged)[CHANNELS<V>][TILE]) {
  using Four = Vector<V, EACH>;
  const i64 place = tile.index * TILE + threadIdx.x * EACH;
  V* output = static_cast<V*>(p.output) + tile.cloud * p.strides[0] + first_channel * p.strides[1] + place;
  const bool whole = p.rows % EACH == 0 && reinterpret_cast<u64>(p.output) % sizeof(Four) == 0;
  for (int k = 0; k < channels; ++k, output += p.strides[1]) {
    const V* from = &staged[k][threadIdx.x * EACH];
    if (whole) {
      if (place < p.rows) *reinterpret_cast<Four*>(output) = *reinterpret_cast<const Four*>(from);
      continue;
    }
    for (int row = 0; row < EACH && place + row < p.rows; ++row) output[row] = from[row];
  }
}

template <class V, class Reduced>
__device__ void reduce_rows(const VoxelizeRowsParams& p) {
  __shared__ List list;
  alignas(32) __shared__ V staged[CHANNELS<V>][TILE];
  const Tile tile = tile_of(p.tiles);
  const i64 first = blockIdx.y * i64{CHANNELS<V>};
  const int channels = p.channels - first < CHANNELS<V> ? static_cast<int>(p.channels - first) : CHANNELS<V>;
  const bool dense = p.coords == nullptr && !Reduced::SENDS;
  if (dense) {
    const V zero = narrow_from<V>(0.0);
    for (int k = 0; k < channels; ++k)
      *reinterpret_cast<Vector<V, EACH>*>(&staged[k][threadIdx.x * EACH]) = Vector<V, EACH>{{zero, zero, zero, zero}};
  }
  const bool many = list_rows(p, tile, list);
  const auto keep = [&](const Row& row, int index, int k, V found) {
    if (Reduced::SENDS) return;
    if (dense) staged[k][list.places[index]] = found;
    else *place_of<V>(p, p.output, row, first + k) = found;
  };
  for (int each = threadIdx.x; each < list.size * channels; each += BLOCK) {
    const int index = channels == CHANNELS<V> ? each / CHANNELS<V> : each / channels, k = each - index * channels;
    const Row row = row_of(p, tile, list, index);
    if (row.count <= ALONE) keep(row, index, k, Reduced::alone(p, row, first + k));
  }
  if (many) {
    const int lane = threadIdx.x % WARP;
    for (int each = threadIdx.x / WARP; each < list.size * channels; each += WARPS) {
      const int index = each / channels, k = each - index * channels;
      const Row row = row_of(p, tile, list, index);
      if (row.count <= ALONE) continue;
      const V found = Reduced::together(p, row, first + k, lane);
      if (lane == 0) keep(row, index, k, found);
    }
  }
  if (!dense) return;
  __syncthreads();
  write_staged<V>(p, tile, first, channels, staged);
}

}  // namespace

#define ROWS(NAME, V)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
      voxelize_sum_##NAME(const __grid_constant__ VoxelizeRowsParams p) {                                              \
    reduce_rows<V, Summed<V>>(p);                                                                                      \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
      voxelize_pick_##NAME(const __grid_constant__ VoxelizeRowsParams p) {                                             \
    reduce_rows<V, Picked<V, false>>(p);                                                                               \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
      voxelize_send_##NAME(const __grid_constant__ VoxelizeRowsParams p) {                                             \
    reduce_rows<V, Picked<V, true>>(p);                                                                                \
  }
ROWS(f64, double)
ROWS(f32, float)
ROWS(f16, __half)
ROWS(bf16, __nv_bfloat16)
