// voxelize_sparse: a stable radix sort of each cloud's points by voxel, then a row for each voxel in that order.
//
// A key is a cell of the grid, or the number of cells for a dropped point, which so comes last. A block of the sort
// takes 2048 neighbouring points of one cloud, a warp 256 of them in 8 rounds. A pass over 8 bits takes three
// launches: `count` the digits of each tile, `scan` them over the tiles, `shift` the keys.

#include "exact.cuh"
#include "grid.cuh"

using namespace robocache;

struct VoxelizeSparseKeysParams {
  Clouds clouds;
  u64* keys;   // [B, N]
  int* order;  // [B, N]
  u64 dropped;
};
static_assert(sizeof(VoxelizeSparseKeysParams) == 176, "mirrors ops::voxelize_sparse::cuda::Keys");

struct VoxelizeSparseSortParams {
  const u64* keys;   // [B, N]
  const int* order;  // [B, N]
  u64* sorted_keys;
  int* sorted_order;
  int* counts;  // [B, tiles, 256]: keys of each digit, then keys of that digit in the tiles before
  int* totals;  // [B, 256]
  i64 batch, points;
  int tiles;
  int first_bit;
};
static_assert(sizeof(VoxelizeSparseSortParams) == 72, "mirrors ops::voxelize_sparse::cuda::Sort");

struct VoxelizeSparseRowsParams {
  const u64* keys;   // [B, N], sorted
  const int* order;  // [B, N]
  i64* heads;        // [B, tiles]: voxels that begin in a tile, then voxels that begin before it
  i64* num_voxels;   // [1]
  int* coords;       // [M, 4]
  int* counts;       // [M]
  int* starts;       // [M]
  i64* point_voxel;  // [B, N]
  int* ends;         // [B * N]: where a row's points end
  u64 dropped;
  i64 size[3];
  i64 batch, points, rows;
  int tiles;
};
static_assert(sizeof(VoxelizeSparseRowsParams) == 136, "mirrors ops::voxelize_sparse::cuda::RowsParams");

struct VoxelizeSparseSpreadParams {
  const void* grad;        // [M, C]
  const i64* point_voxel;  // [B, N]
  const int* counts;       // [M] or null
  void* output;            // [B, N, C]
  i64 row_stride, channel_stride;
  i64 points, channels, rows;  // points: of all clouds
};
static_assert(sizeof(VoxelizeSparseSpreadParams) == 72, "mirrors ops::voxelize_sparse::cuda::SpreadParams");

namespace {

constexpr int BLOCK = 256;
constexpr int WARPS = BLOCK / WARP;
constexpr int DIGITS = 256;
constexpr int EACH = 8;
constexpr int TILE = BLOCK * EACH;
constexpr int OF_WARP = WARP * EACH;

template <class P>
__device__ void keys(const VoxelizeSparseKeysParams& p) {
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 point = tile.index * BLOCK + threadIdx.x, all = p.clouds.points_count;
  if (point >= all) return;
  const bool valid = point < count_of(p.clouds, tile.cloud);
  const i64 cell = valid ? cell_of<P>(p.clouds, tile.cloud, point) : -1;
  p.keys[tile.cloud * all + point] = cell < 0 ? p.dropped : static_cast<u64>(cell);
  p.order[tile.cloud * all + point] = static_cast<int>(point);
}

__device__ int digit_of(u64 key, int first_bit) { return static_cast<int>(key >> first_bit) & (DIGITS - 1); }

// The place in the cloud of a thread's `round`th point.
__device__ i64 place_of(const Tile& tile, int round) {
  return tile.index * TILE + threadIdx.x / WARP * OF_WARP + round * WARP + threadIdx.x % WARP;
}

__device__ void count(const VoxelizeSparseSortParams& p) {
  __shared__ int counts[DIGITS];
  const Tile tile = tile_of(p.tiles);
  counts[threadIdx.x] = 0;
  __syncthreads();
  for (int round = 0; round < EACH; ++round) {
    const i64 place = place_of(tile, round);
    if (place < p.points) atomicAdd(&counts[digit_of(p.keys[tile.cloud * p.points + place], p.first_bit)], 1);
  }
  __syncthreads();
  p.counts[(tile.cloud * p.tiles + tile.index) * DIGITS + threadIdx.x] = counts[threadIdx.x];
}

// The sum of a warp's values in the lanes up to and with this.
__device__ int up_to(int value, int lane) {
  for (int step = 1; step < WARP; step *= 2) {
    const int other = __shfl_up_sync(ALL_LANES, value, step);
    if (lane >= step) value += other;
  }
  return value;
}

// Threads: a warp for each digit of each cloud.
__device__ void scan(const VoxelizeSparseSortParams& p) {
  const int lane = threadIdx.x % WARP;
  const i64 warp = warp_of_grid(), cloud = warp / DIGITS, digit = warp % DIGITS;
  if (cloud >= p.batch) return;
  int before = 0;
  for (int first = 0; first < p.tiles; first += WARP) {
    const int tile = first + lane;
    int* place = p.counts + (cloud * p.tiles + tile) * DIGITS + digit;
    const int count = tile < p.tiles ? *place : 0, sum = up_to(count, lane);
    if (tile < p.tiles) *place = before + sum - count;
    before += __shfl_sync(ALL_LANES, sum, WARP - 1);
  }
  if (lane == 0) p.totals[cloud * DIGITS + digit] = before;
}

__device__ void shift(const VoxelizeSparseSortParams& p) {
  __shared__ int counts[WARPS][DIGITS];  // of each warp, then of the warps before it
  __shared__ int bases[DIGITS];
  __shared__ int of_warp[WARPS];
  const Tile tile = tile_of(p.tiles);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const i64 row = tile.cloud * p.points;
  for (int other = 0; other < WARPS; ++other) counts[other][threadIdx.x] = 0;
  __syncthreads();
  u64 keys[EACH];
  int ranks[EACH];
#pragma unroll
  for (int round = 0; round < EACH; ++round) {
    const i64 place = place_of(tile, round);
    const bool valid = place < p.points;
    keys[round] = valid ? p.keys[row + place] : 0;
    const int digit = digit_of(keys[round], p.first_bit);
    unsigned alike = __ballot_sync(ALL_LANES, valid);
#pragma unroll
    for (int bit = 0; bit < 8; ++bit) {
      const unsigned set = __ballot_sync(ALL_LANES, (digit >> bit & 1) != 0);
      alike &= (digit >> bit & 1) != 0 ? set : ~set;
    }
    const int before = __popc(alike & ((1u << lane) - 1));
    ranks[round] = counts[warp][digit] + before;
    __syncwarp();
    if (valid && before == 0) counts[warp][digit] += __popc(alike);
    __syncwarp();
  }
  // Threads: one for each digit.
  const int total = p.totals[tile.cloud * DIGITS + threadIdx.x], sum = up_to(total, lane);
  if (lane == WARP - 1) of_warp[warp] = sum;
  __syncthreads();
  int before = sum - total;
  for (int other = 0; other < warp; ++other) before += of_warp[other];
  bases[threadIdx.x] = before + p.counts[(tile.cloud * p.tiles + tile.index) * DIGITS + threadIdx.x];
  int running = 0;
  for (int other = 0; other < WARPS; ++other) {
    const int theirs = counts[other][threadIdx.x];
    counts[other][threadIdx.x] = running;
    running += theirs;
  }
  __syncthreads();
#pragma unroll
  for (int round = 0; round < EACH; ++round) {
    const i64 place = place_of(tile, round);
    if (place >= p.points) continue;
    const int digit = digit_of(keys[round], p.first_bit);
    const i64 to = row + bases[digit] + counts[warp][digit] + ranks[round];
    p.sorted_keys[to] = keys[round];
    p.sorted_order[to] = p.order[row + place];
  }
}

// True where a voxel begins.
__device__ bool is_head(const VoxelizeSparseRowsParams& p, i64 row, i64 place) {
  if (place >= p.points) return false;
  const u64 key = p.keys[row + place];
  return key != p.dropped && (place == 0 || p.keys[row + place - 1] != key);
}

__device__ void heads(const VoxelizeSparseRowsParams& p) {
  __shared__ int all;
  const Tile tile = tile_of(p.tiles);
  if (threadIdx.x == 0) all = 0;
  __syncthreads();
  int mine = 0;
  for (int round = 0; round < EACH; ++round) mine += is_head(p, tile.cloud * p.points, place_of(tile, round));
  for (int step = WARP / 2; step > 0; step /= 2) mine += __shfl_xor_sync(ALL_LANES, mine, step);
  if (threadIdx.x % WARP == 0) atomicAdd(&all, mine);
  __syncthreads();
  if (threadIdx.x == 0) p.heads[tile.cloud * p.tiles + tile.index] = all;
}

// Threads: one block, which walks over the tiles of all clouds.
__device__ void number(const VoxelizeSparseRowsParams& p) {
  __shared__ i64 of_warp[WARPS];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const i64 tiles = p.points == 0 ? 0 : p.batch * p.tiles;
  i64 before = 0;
  for (i64 first = 0; first < tiles; first += BLOCK) {
    const i64 tile = first + threadIdx.x;
    const int count = tile < tiles ? static_cast<int>(p.heads[tile]) : 0;
    const int sum = up_to(count, lane);
    if (lane == WARP - 1) of_warp[warp] = sum;
    __syncthreads();
    i64 all = 0, mine = before + sum - count;
    for (int other = 0; other < WARPS; ++other) {
      if (other < warp) mine += of_warp[other];
      all += of_warp[other];
    }
    if (tile < tiles) p.heads[tile] = mine;
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) *p.num_voxels = before;
}

__device__ void fill(const VoxelizeSparseRowsParams& p) {
  __shared__ int of_warp[WARPS];
  const Tile tile = tile_of(p.tiles);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const i64 row = tile.cloud * p.points;
  unsigned begins[EACH];
  int mine = 0;
#pragma unroll
  for (int round = 0; round < EACH; ++round) {
    begins[round] = __ballot_sync(ALL_LANES, is_head(p, row, place_of(tile, round)));
    mine += __popc(begins[round]);
  }
  if (lane == 0) of_warp[warp] = mine;
  __syncthreads();
  i64 voxel = p.heads[tile.cloud * p.tiles + tile.index] - 1;
  for (int other = 0; other < warp; ++other) voxel += of_warp[other];
#pragma unroll
  for (int round = 0; round < EACH; ++round) {
    const i64 place = place_of(tile, round);
    // The lanes up to and with this.
    const i64 mine = voxel + __popc(begins[round] & ((2u << lane) - 1));
    voxel += __popc(begins[round]);
    if (place >= p.points) continue;
    const u64 key = p.keys[row + place];
    const bool kept = key != p.dropped && mine < p.rows;
    p.point_voxel[row + p.order[row + place]] = kept ? mine : -1;
    if (!kept) continue;
    if ((begins[round] >> lane & 1) != 0) {
      const u64 y = static_cast<u64>(p.size[1]), z = static_cast<u64>(p.size[2]);
      p.coords[4 * mine] = static_cast<int>(tile.cloud);
      p.coords[4 * mine + 1] = static_cast<int>(key / (y * z));
      p.coords[4 * mine + 2] = static_cast<int>(key / z % y);
      p.coords[4 * mine + 3] = static_cast<int>(key % z);
      p.starts[mine] = static_cast<int>(place);
    }
    if (place + 1 == p.points || p.keys[row + place + 1] != key) p.ends[mine] = static_cast<int>(place + 1);
  }
}

__device__ void finish(const VoxelizeSparseRowsParams& p) {
  const i64 row = static_cast<i64>(blockIdx.x) * BLOCK + threadIdx.x;
  if (row >= p.rows) return;
  if (row < *p.num_voxels) {
    p.counts[row] = p.ends[row] - p.starts[row];
    return;
  }
  for (int k = 0; k < 4; ++k) p.coords[4 * row + k] = -1;
  p.counts[row] = 0;
  p.starts[row] = 0;
}

// Threads: one for each point and 16 bytes of its channels.
template <class V>
__device__ void spread(const VoxelizeSparseSpreadParams& p) {
  constexpr int GROUP = WIDE<V>;
  using Chunk = Vector<V, GROUP>;
  const i64 at = static_cast<i64>(blockIdx.x) * BLOCK + threadIdx.x, groups = (p.channels + GROUP - 1) / GROUP;
  if (at >= p.points * groups) return;
  const i64 point = p.points * groups <= 0xffffffffll
                        ? static_cast<i64>(static_cast<unsigned>(at) / static_cast<unsigned>(groups))
                        : at / groups;
  const i64 channel = (at - point * groups) * GROUP, row = p.point_voxel[point];
  const bool kept = row >= 0 && row < p.rows;
  const double count = kept && p.counts != nullptr ? p.counts[row] : 1;
  const V* from = element<V>(p.grad, (kept ? row : 0) * p.row_stride + channel * p.channel_stride);
  V* to = static_cast<V*>(p.output) + point * p.channels + channel;
  const bool whole = p.channels % GROUP == 0 && p.channel_stride == 1 && p.row_stride % GROUP == 0 &&
                     (reinterpret_cast<u64>(p.grad) | reinterpret_cast<u64>(p.output)) % sizeof(Chunk) == 0;
  const V zero = narrow_from<V>(0.0);
  if (whole) {
    Packed<Chunk> packed;
    Chunk chunk;
    if (kept) {
      packed.load(from);
      chunk = packed.unpack();
    }
#pragma unroll
    for (int k = 0; k < GROUP; ++k) chunk.at[k] = kept ? rounded<V>(to_f64(chunk.at[k]), count) : zero;
    packed.pack(chunk);
    packed.store(to);
    return;
  }
#pragma unroll 1
  for (int k = 0; k < GROUP && channel + k < p.channels; ++k)
    to[k] = kept ? rounded<V>(to_f64(from[k * p.channel_stride]), count) : zero;
}

}  // namespace

#define KERNEL(NAME, PARAMS, BODY)                                                                                     \
  extern "C" __global__ void __launch_bounds__(BLOCK) voxelize_sparse_##NAME(const __grid_constant__ PARAMS p) {       \
    begin();                                                                                                           \
    BODY(p);                                                                                                           \
  }
KERNEL(keys_f64, VoxelizeSparseKeysParams, keys<double>)
KERNEL(keys_f32, VoxelizeSparseKeysParams, keys<float>)
KERNEL(keys_f16, VoxelizeSparseKeysParams, keys<__half>)
KERNEL(keys_bf16, VoxelizeSparseKeysParams, keys<__nv_bfloat16>)
KERNEL(count, VoxelizeSparseSortParams, count)
KERNEL(scan, VoxelizeSparseSortParams, scan)
KERNEL(shift, VoxelizeSparseSortParams, shift)
KERNEL(heads, VoxelizeSparseRowsParams, heads)
KERNEL(number, VoxelizeSparseRowsParams, number)
KERNEL(fill, VoxelizeSparseRowsParams, fill)
KERNEL(finish, VoxelizeSparseRowsParams, finish)
KERNEL(spread_f64, VoxelizeSparseSpreadParams, spread<double>)
KERNEL(spread_f32, VoxelizeSparseSpreadParams, spread<float>)
KERNEL(spread_f16, VoxelizeSparseSpreadParams, spread<__half>)
KERNEL(spread_bf16, VoxelizeSparseSpreadParams, spread<__nv_bfloat16>)
