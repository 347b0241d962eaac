// voxelize_sparse: a stable radix sort of each cloud's points by voxel, then a row for each voxel in that order.
//
// A key is a cell of the grid, or the number of cells for a dropped point, which so comes last; it has 32 bits where
// these are enough. A block of the sort takes 2048 neighbouring points of one cloud, a warp 256 of them in 8 rounds. A
// pass over a digit of at most 8 bits takes three launches: `count` the digits of each tile, `scan` them over the
// tiles, `shift` the keys, which a block puts in order in shared memory first, so that it writes those of a digit side
// by side.

#include "exact.cuh"
#include "grid.cuh"

using namespace robocache;

struct VoxelizeSparseKeysParams {
  Clouds clouds;
  void* keys;  // [B, N]
  int* order;  // [B, N]
  u64 dropped;
};
static_assert(sizeof(VoxelizeSparseKeysParams) == 176, "mirrors ops::voxelize_sparse::cuda::Keys");

struct VoxelizeSparseSortParams {
  const void* keys;  // [B, N]
  const int* order;  // [B, N]
  void* sorted_keys;
  int* sorted_order;
  int* counts;  // [B, 256, tiles]: keys of each digit, then keys of that digit in the tiles before
  int* totals;  // [B, 256]
  i64 batch, points;
  int tiles;
  int first_bit;
  int bits;  // of the digit
};
static_assert(sizeof(VoxelizeSparseSortParams) == 80, "mirrors ops::voxelize_sparse::cuda::Sort");

struct VoxelizeSparseRowsParams {
  const void* keys;  // [B, N], sorted
  const int* order;  // [B, N]
  i64* heads;        // [B, tiles]: voxels that begin in a tile, then voxels that begin before it
  i64* num_voxels;   // [1]
  int* coords;       // [M, 4]
  int* counts;       // [M]
  int* starts;       // [M]
  i64* point_voxel;  // [B, N]
  int* ends;         // [B * N]: where a row's points end
  int* rows_of;      // [B, N]: each point's row, or -1, until `finish` widens it; null where int32 cannot hold a row
  u64 dropped;
  i64 size[3];
  i64 batch, points, rows;
  int tiles;
};
static_assert(sizeof(VoxelizeSparseRowsParams) == 144, "mirrors ops::voxelize_sparse::cuda::RowsParams");

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

template <class P, class Key>
__device__ void keys(const VoxelizeSparseKeysParams& p) {
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 point = tile.index * BLOCK + threadIdx.x, all = p.clouds.points_count;
  if (point >= all) return;
  const bool valid = point < count_of(p.clouds, tile.cloud);
  const i64 cell = valid ? cell_of<P>(p.clouds, tile.cloud, point) : -1;
  Key* to = static_cast<Key*>(p.keys) + tile.cloud * all;
  to[point] = static_cast<Key>(cell < 0 ? p.dropped : static_cast<u64>(cell));
  p.order[tile.cloud * all + point] = static_cast<int>(point);
}

template <class Key>
__device__ int digit_of(const VoxelizeSparseSortParams& p, Key key) {
  return static_cast<int>(key >> p.first_bit) & ((1 << p.bits) - 1);
}

// The place in the cloud of a thread's `round`th point.
__device__ i64 place_of(const Tile& tile, int round) {
  return tile.index * TILE + threadIdx.x / WARP * OF_WARP + round * WARP + threadIdx.x % WARP;
}

template <class Key>
__device__ void count(const VoxelizeSparseSortParams& p) {
  __shared__ int counts[DIGITS];
  const Tile tile = tile_of(p.tiles);
  const Key* keys = static_cast<const Key*>(p.keys) + tile.cloud * p.points;
  counts[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int round = 0; round < EACH; ++round) {
    const i64 place = place_of(tile, round);
    if (place < p.points) atomicAdd(&counts[digit_of(p, keys[place])], 1);
  }
  __syncthreads();
  p.counts[(tile.cloud * DIGITS + threadIdx.x) * p.tiles + tile.index] = counts[threadIdx.x];
}

// The sum of a warp's values in the lanes up to and with this.
__device__ int up_to(int value, int lane) {
  for (int step = 1; step < WARP; step *= 2) {
    const int other = __shfl_up_sync(ALL_LANES, value, step);
    if (lane >= step) value += other;
  }
  return value;
}

// Threads: a block for each digit of each cloud.
__device__ void scan(const VoxelizeSparseSortParams& p) {
  __shared__ int of_warp[WARPS];
  int* counts = p.counts + static_cast<i64>(blockIdx.x) * p.tiles;
  int before = 0, all;
  for (int first = 0; first < p.tiles; first += BLOCK * 4) {
    const int tile = first + static_cast<int>(threadIdx.x) * 4;
    int four[4], sum = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += four[k] = tile + k < p.tiles ? counts[tile + k] : 0;
    int mine = before + before_in_block(sum, of_warp, all);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (tile + k < p.tiles) counts[tile + k] = mine;
      mine += four[k];
    }
    before += all;
  }
  if (threadIdx.x == 0) p.totals[blockIdx.x] = before;
}

template <class Key>
__device__ void shift(const VoxelizeSparseSortParams& p) {
  __shared__ int counts[WARPS][DIGITS];  // of each warp, then of the warps before it
  __shared__ int starts[DIGITS];         // where a digit begins in the block's order
  __shared__ int bases[DIGITS];          // from there to its place in the cloud
  __shared__ int of_warp[WARPS];
  __shared__ Key sorted_keys[TILE];
  __shared__ int sorted_order[TILE];
  const Tile tile = tile_of(p.tiles);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const i64 row = tile.cloud * p.points;
  const Key* from = static_cast<const Key*>(p.keys) + row;
  for (int other = 0; other < WARPS; ++other) counts[other][threadIdx.x] = 0;
  Key keys[EACH];
  int points[EACH], ranks[EACH];
#pragma unroll
  for (int round = 0; round < EACH; ++round) {
    const i64 place = place_of(tile, round);
    const bool valid = place < p.points;
    keys[round] = valid ? from[place] : 0;
    points[round] = valid ? p.order[row + place] : 0;
  }
  // Threads: one for each digit.
  const i64 digit_of_cloud = tile.cloud * DIGITS + threadIdx.x;
  const int total = p.totals[digit_of_cloud], ahead = p.counts[digit_of_cloud * p.tiles + tile.index];
  __syncthreads();
#pragma unroll
  for (int round = 0; round < EACH; ++round) {
    const bool valid = place_of(tile, round) < p.points;
    const int digit = digit_of(p, keys[round]);
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
  __syncthreads();
  int running = 0, all;
  for (int other = 0; other < WARPS; ++other) {
    const int theirs = counts[other][threadIdx.x];
    counts[other][threadIdx.x] = running;
    running += theirs;
  }
  const int start = before_in_block(running, of_warp, all);
  int keys_of_cloud;
  starts[threadIdx.x] = start;
  bases[threadIdx.x] = before_in_block(total, of_warp, keys_of_cloud) + ahead - start;
  __syncthreads();
#pragma unroll
  for (int round = 0; round < EACH; ++round) {
    if (place_of(tile, round) >= p.points) continue;
    const int digit = digit_of(p, keys[round]);
    const int to = starts[digit] + counts[warp][digit] + ranks[round];
    sorted_keys[to] = keys[round];
    sorted_order[to] = points[round];
  }
  __syncthreads();
  Key* to = static_cast<Key*>(p.sorted_keys) + row;
#pragma unroll
  for (int round = 0; round < EACH; ++round) {
    const int at = round * BLOCK + static_cast<int>(threadIdx.x);
    if (at >= all) break;
    const Key key = sorted_keys[at];
    const int place = bases[digit_of(p, key)] + at;
    to[place] = key;
    p.sorted_order[row + place] = sorted_order[at];
  }
}

// True where a voxel begins in a cloud's keys.
template <class Key>
__device__ bool is_head(const VoxelizeSparseRowsParams& p, const Key* keys, i64 place) {
  if (place >= p.points) return false;
  const Key key = keys[place];
  return key != static_cast<Key>(p.dropped) && (place == 0 || keys[place - 1] != key);
}

template <class Key>
__device__ void heads(const VoxelizeSparseRowsParams& p) {
  __shared__ int all;
  const Tile tile = tile_of(p.tiles);
  if (threadIdx.x == 0) all = 0;
  __syncthreads();
  const Key* keys = static_cast<const Key*>(p.keys) + tile.cloud * p.points;
  int mine = 0;
#pragma unroll
  for (int round = 0; round < EACH; ++round) mine += is_head(p, keys, place_of(tile, round));
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

__device__ void write_coords(int* to, i64 row, const int4& coords) {
  if (reinterpret_cast<u64>(to) % sizeof(int4) == 0) {
    reinterpret_cast<int4*>(to)[row] = coords;
    return;
  }
  to[4 * row] = coords.x;
  to[4 * row + 1] = coords.y;
  to[4 * row + 2] = coords.z;
  to[4 * row + 3] = coords.w;
}

template <class Key>
__device__ void fill(const VoxelizeSparseRowsParams& p) {
  __shared__ int of_warp[WARPS];
  const Tile tile = tile_of(p.tiles);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const i64 row = tile.cloud * p.points;
  const Key* keys = static_cast<const Key*>(p.keys) + row;
  const Key dropped = static_cast<Key>(p.dropped), y = static_cast<Key>(p.size[1]), z = static_cast<Key>(p.size[2]);
  unsigned begins[EACH];
  int points[EACH], mine = 0;
#pragma unroll
  for (int round = 0; round < EACH; ++round) {
    const i64 place = place_of(tile, round);
    points[round] = place < p.points ? p.order[row + place] : 0;
    begins[round] = __ballot_sync(ALL_LANES, is_head(p, keys, place));
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
    const Key key = keys[place];
    const bool kept = key != dropped && mine < p.rows;
    // Half the bytes more often find their sector still in the L2 cache.
    if (p.rows_of != nullptr) p.rows_of[row + points[round]] = kept ? static_cast<int>(mine) : -1;
    else p.point_voxel[row + points[round]] = kept ? mine : -1;
    if (!kept) continue;
    if ((begins[round] >> lane & 1) != 0) {
      const Key column = key / z, x = column / y;
      const int4 coords{static_cast<int>(tile.cloud), static_cast<int>(x), static_cast<int>(column - x * y),
                        static_cast<int>(key - column * z)};
      write_coords(p.coords, mine, coords);
      p.starts[mine] = static_cast<int>(place);
    }
    if (place + 1 == p.points || keys[place + 1] != key) p.ends[mine] = static_cast<int>(place + 1);
  }
}

// Threads: one for each row and each point.
__device__ void finish(const VoxelizeSparseRowsParams& p) {
  const i64 row = static_cast<i64>(blockIdx.x) * BLOCK + threadIdx.x;
  if (p.rows_of != nullptr && row < p.batch * p.points) p.point_voxel[row] = p.rows_of[row];
  if (row >= p.rows) return;
  if (row < *p.num_voxels) {
    p.counts[row] = p.ends[row] - p.starts[row];
    return;
  }
  write_coords(p.coords, row, {-1, -1, -1, -1});
  p.counts[row] = 0;
  p.starts[row] = 0;
}

// Threads: one for each point and N of its channels, one access where that is aligned.
template <class V, int N>
__device__ void spread_by(const VoxelizeSparseSpreadParams& p) {
  using Chunk = Vector<V, N>;
  const i64 at = static_cast<i64>(blockIdx.x) * BLOCK + threadIdx.x, groups = (p.channels + N - 1) / N;
  if (at >= p.points * groups) return;
  const i64 point = p.points * groups <= 0xffffffffll
                        ? static_cast<i64>(static_cast<unsigned>(at) / static_cast<unsigned>(groups))
                        : at / groups;
  const i64 channel = (at - point * groups) * N, row = p.rows > 0 ? p.point_voxel[point] : -1;
  const bool kept = row >= 0 && row < p.rows;
  V* to = static_cast<V*>(p.output) + point * p.channels + channel;
  const bool whole = p.channels % N == 0 && p.channel_stride == 1 && p.row_stride % N == 0 &&
                     (reinterpret_cast<u64>(p.grad) | reinterpret_cast<u64>(p.output)) % sizeof(Chunk) == 0;
  const V zero = narrow_from<V>(0.0);
  if (p.rows <= 0) {
    for (int k = 0; k < N && channel + k < p.channels; ++k) to[k] = zero;
    return;
  }
  // A point without a row reads the first one's: a load that may not happen waits for those before it.
  const i64 read = kept ? row : 0;
  const V* from = element<V>(p.grad, read * p.row_stride + channel * p.channel_stride);
  if (whole) {
    Packed<Chunk> packed;
    packed.load(from);
    const int count = p.counts != nullptr ? p.counts[read] : 1;
    Chunk chunk = packed.unpack();
    if (count > 1) {
#pragma unroll
      for (int k = 0; k < N; ++k) chunk.at[k] = divided(chunk.at[k], count);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) chunk.at[k] = kept ? chunk.at[k] : zero;
    packed.pack(chunk);
    packed.store(to);
    return;
  }
  const int count = p.counts != nullptr ? p.counts[read] : 1;
#pragma unroll 1
  for (int k = 0; k < N && channel + k < p.channels; ++k) {
    const V sent = from[k * p.channel_stride];
    to[k] = !kept ? zero : (count > 1 ? divided(sent, count) : sent);
  }
}

template <class V>
__device__ void spread(const VoxelizeSparseSpreadParams& p) {
  if (p.channels % WIDE<V> == 0) spread_by<V, WIDE<V>>(p);
  else spread_by<V, TAKEN<V>>(p);
}

}  // namespace

#define KERNEL(NAME, PARAMS, ...)                                                                                      \
  extern "C" __global__ void __launch_bounds__(BLOCK) voxelize_sparse_##NAME(const __grid_constant__ PARAMS p) {       \
    begin();                                                                                                           \
    __VA_ARGS__(p);                                                                                                    \
  }
KERNEL(scan, VoxelizeSparseSortParams, scan)
KERNEL(number, VoxelizeSparseRowsParams, number)
KERNEL(finish, VoxelizeSparseRowsParams, finish)
#define KEYS(NAME, KEY)                                                                                                \
  KERNEL(keys_f64_##NAME, VoxelizeSparseKeysParams, keys<double, KEY>)                                                 \
  KERNEL(keys_f32_##NAME, VoxelizeSparseKeysParams, keys<float, KEY>)                                                  \
  KERNEL(keys_f16_##NAME, VoxelizeSparseKeysParams, keys<__half, KEY>)                                                 \
  KERNEL(keys_bf16_##NAME, VoxelizeSparseKeysParams, keys<__nv_bfloat16, KEY>)                                         \
  KERNEL(count_##NAME, VoxelizeSparseSortParams, count<KEY>)                                                           \
  KERNEL(shift_##NAME, VoxelizeSparseSortParams, shift<KEY>)                                                           \
  KERNEL(heads_##NAME, VoxelizeSparseRowsParams, heads<KEY>)                                                           \
  KERNEL(fill_##NAME, VoxelizeSparseRowsParams, fill<KEY>)
KEYS(u32, unsigned)
KEYS(u64, u64)
KERNEL(spread_f64, VoxelizeSparseSpreadParams, spread<double>)
KERNEL(spread_f32, VoxelizeSparseSpreadParams, spread<float>)
KERNEL(spread_f16, VoxelizeSparseSpreadParams, spread<__half>)
KERNEL(spread_bf16, VoxelizeSparseSpreadParams, spread<__nv_bfloat16>)
