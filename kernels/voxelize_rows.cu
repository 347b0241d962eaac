// What the points of each voxel come to where their counts, starts and order are in memory: for dense grids of more
// than 2^27 cells and for the rows of voxelize_sparse.
//
// Threads: of a dense grid a block takes 1024 neighbouring voxels (voxelize_list.cuh); of sparse rows a thread takes a
// group of channels of one, a warp those of its threads' rows that have many points, and a block those that have more
// where there are few.

#include "voxelize_list.cuh"

using namespace robocache;

namespace {

// Four neighbouring numbers of a grid's rows, by one access where the layout allows it; zero past the last row.
__device__ int4 four_of(const VoxelizeRowsParams& p, const int* numbers, i64 grid, i64 place) {
  if (p.rows % EACH == 0 && reinterpret_cast<u64>(numbers) % sizeof(int4) == 0)
    return place < p.rows ? __ldg(reinterpret_cast<const int4*>(numbers + grid + place)) : int4{0, 0, 0, 0};
  const auto at = [&](int k) { return place + k < p.rows ? numbers[grid + place + k] : 0; };
  return {at(0), at(1), at(2), at(3)};
}

template <class V, class Reduced>
__device__ void reduce_dense(const VoxelizeRowsParams& p) {
  alignas(16) __shared__ V staged[STAGED * WIDE<V> * TILE];
  alignas(16) __shared__ int counts[TILE];
  alignas(16) __shared__ int starts[TILE];
  __shared__ List list;
  const Tile tile = tile_of(p.tiles);
  const i64 grid = tile.cloud * p.rows, place = tile.index * TILE + threadIdx.x * EACH;
  if (threadIdx.x == 0) list.clear();
  const int4 count = four_of(p, p.counts, grid, place);
  reinterpret_cast<int4*>(counts)[threadIdx.x] = count;
  reinterpret_cast<int4*>(starts)[threadIdx.x] = four_of(p, p.starts, grid, place);
  write_counts(p, tile, TILE_BITS, count);
  __syncthreads();
  const bool many = add_rows(list, {count.x, count.y, count.z, count.w}, Reduced::MOST_ALONE);
  const int *order = p.order + tile.cloud * p.points, *begins = starts, *numbers = counts;
  const i64 cloud = tile.cloud, first = tile.index * TILE;
  const auto row_of = [=](int at) { return Row{cloud, first + at, order + begins[at], numbers[at]}; };
  reduce_list<V, Reduced>(p, tile, TILE_BITS, turn_of_block(), list, many, staged, row_of);
}

// A row of a sparse grid, without points where the caller's numbers make no sense.
__device__ Row sparse_row(const VoxelizeRowsParams& p, i64 place) {
  const int start = p.starts[place], count = p.counts[place];
  const i64 cloud = p.coords[4 * place];
  const bool valid = count > 0 && start >= 0 && i64{start} + count <= p.points && cloud >= 0 && cloud < p.batch;
  if (!valid) return {0, place, p.order, 0};
  return {cloud, place, p.order + cloud * p.points + start, count};
}

// Writes what a reduction found for a row, or sends the row's gradient to the point that it found.
template <class V, bool SENDS>
struct Kept {
  const VoxelizeRowsParams& p;
  const Row& row;
  i64 channel;

  __device__ Kept(const VoxelizeRowsParams& p, const Row& row, i64 channel) : p(p), row(row), channel(channel) {}
  __device__ i64 at(int k) const { return (channel + k) * p.strides[1] + row.place * p.strides[2]; }
  __device__ void operator()(int k, V found) const { static_cast<V*>(p.output)[at(k)] = found; }
};
template <class V>
struct Kept<V, true> : Kept<V, false> {
  using Kept<V, false>::Kept;
  __device__ void operator()(int k, int point) const {
    const i64 to = (this->row.cloud * this->p.points + point) * this->p.channels + this->channel + k;
    static_cast<V*>(this->p.output)[to] = *element<V>(this->p.grad, this->at(k));
  }
};

// What the lanes of a warp add of a row they load together, some of it twice.
template <class V>
using SummedEvery = Summed<V, TAKEN<V>, true>;

// Neighbouring items of a block where blocks take them APART.
constexpr int NEIGHBOURS = 8;

// What a thread of the block takes: of which row which group of channels, counted over all rows.
template <bool APART>
__device__ i64 item_of(int thread) {
  if constexpr (!APART) return static_cast<i64>(blockIdx.x) * BLOCK + thread;
  return (static_cast<i64>(thread / NEIGHBOURS) * gridDim.x + blockIdx.x) * NEIGHBOURS + thread % NEIGHBOURS;
}

// Calls `Reduced::alone` or `together` for a row and a group of channels, which is one access where it can be.
template <class V, class Reduced, class Keep>
__device__ void reduce_alone(
    const VoxelizeRowsParams& p, const Row& row, i64 channel, bool aligned, const Keep& keep) {
  constexpr int N = Reduced::N;
  if (aligned && channel + N <= p.channels)
    Reduced::alone(p, row, channel, Features<V, N, true>(p, row.cloud, channel), keep);
  else Reduced::alone(p, row, channel, Features<V, N, false>(p, row.cloud, channel), keep);
}

template <class V, class Reduced, class Keep>
__device__ void reduce_together(
    const VoxelizeRowsParams& p, const Row& row, i64 channel, bool aligned, int lane, const Keep& keep) {
  constexpr int N = Reduced::N;
  if (aligned && channel + N <= p.channels)
    Reduced::together(p, row, channel, Features<V, N, true>(p, row.cloud, channel), lane, keep);
  else Reduced::together(p, row, channel, Features<V, N, false>(p, row.cloud, channel), lane, keep);
}

// The items of the block's threads that take all of it, one after the other.
template <class V, class Reduced>
__device__ __noinline__ void reduce_sparse_longs(const VoxelizeRowsParams& p, i64 groups, bool mine) {
  __shared__ short threads[BLOCK];
  __shared__ int size;
  Partials& partials = partials_of_block();
  if (threadIdx.x == 0) size = 0;
  __syncthreads();
  if (mine) threads[atomicAdd(&size, 1)] = static_cast<short>(threadIdx.x);
  __syncthreads();
  for (int each = 0; each < size; ++each) {
    const i64 item = item_of<true>(threads[each]), place = item / groups, channel = (item - place * groups) * TAKEN<V>;
    const Row row = sparse_row(p, place);
    const Features<V, Reduced::N, false> features(p, row.cloud, channel);
    Reduced::by_block(p, row, channel, features, partials, Kept<V, Reduced::SENDS>(p, row, channel));
  }
}

// APART is for few rows, where the device waits for the fullest: neighbours, which often are full together, go to
// different blocks, and a block shares its long rows. What that adds to the code costs many short rows more than it
// gains them.
template <class V, class Reduced, bool APART>
__device__ void reduce_sparse(const VoxelizeRowsParams& p) {
  const int lane = threadIdx.x % WARP;
  const i64 groups = (p.channels + TAKEN<V> - 1) / TAKEN<V>, all = p.rows * groups;
  const i64 mine = item_of<APART>(static_cast<int>(threadIdx.x));
  const bool aligned = !APART && is_aligned<V>(p);
  int count = 0;
  if (mine < all) {
    const i64 place = mine / groups, channel = (mine - place * groups) * TAKEN<V>;
    const Row row = sparse_row(p, place);
    count = row.count;
    if (count <= ALONE) reduce_alone<V, Reduced>(p, row, channel, aligned, Kept<V, Reduced::SENDS>(p, row, channel));
  }
  const bool many = count > ALONE && (!APART || count <= TOGETHER);
  for (unsigned waiting = __ballot_sync(ALL_LANES, many); waiting != 0; waiting &= waiting - 1) {
    const i64 item = item_of<APART>(static_cast<int>(threadIdx.x) - lane + __ffs(static_cast<int>(waiting)) - 1);
    const i64 place = item / groups, channel = (item - place * groups) * TAKEN<V>;
    const Row row = sparse_row(p, place);
    reduce_together<V, Reduced>(p, row, channel, aligned, lane, Kept<V, Reduced::SENDS>(p, row, channel));
  }
  if constexpr (APART) {
    if (__syncthreads_or(count > TOGETHER) != 0) reduce_sparse_longs<V, Reduced>(p, groups, count > TOGETHER);
  }
}

}  // namespace

#define KERNEL(NAME, V, BODY, ...)                                                                                     \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_##NAME(const __grid_constant__ VoxelizeRowsParams p) {                                                  \
    begin();                                                                                                           \
    BODY<V, __VA_ARGS__>(p);                                                                                           \
  }
#define ROWS(NAME, V)                                                                                                  \
  KERNEL(sum_##NAME, V, reduce_dense, Summed<V>)                                                                       \
  KERNEL(pick_##NAME, V, reduce_dense, Picked<V, false>)                                                               \
  KERNEL(send_##NAME, V, reduce_dense, Picked<V, true>)                                                                \
  KERNEL(row_sum_##NAME, V, reduce_sparse, SummedEvery<V>, false)                                                      \
  KERNEL(row_pick_##NAME, V, reduce_sparse, Picked<V, false>, false)                                                   \
  KERNEL(row_send_##NAME, V, reduce_sparse, Picked<V, true>, false)                                                    \
  KERNEL(row_apart_sum_##NAME, V, reduce_sparse, SummedEvery<V>, true)                                                 \
  KERNEL(row_apart_pick_##NAME, V, reduce_sparse, Picked<V, false>, true)                                              \
  KERNEL(row_apart_send_##NAME, V, reduce_sparse, Picked<V, true>, true)
ROWS(f64, double)
ROWS(f32, float)
ROWS(f16, __half)
ROWS(bf16, __nv_bfloat16)
