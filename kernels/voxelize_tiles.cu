// voxelize by tiles: the points of a cloud by tile of its grid, then each tile by one block.
//
// Two launches and no float atomics: `voxelize_tiles` writes the entries of each chunk by tile; a block of the second
// launch puts the points of a tile in order by voxel in shared memory and reduces them, or sends them their voxel's
// gradient. Which place a point gets depends on chance, but what follows does not depend on the places.

#include "voxelize_tiles.cuh"

using namespace robocache;

struct VoxelizeTilesParams {
  Clouds clouds;
  Chunks chunks;
  int* cells;            // [B, N] or null: each point's cell, or -1
  int* cursor;           // [B], set to zero here: how many places of the order are given away
  unsigned char* zeros;  // [B, N, row_bytes] or null: the rows of dropped points are set to zero
  i64 row_bytes;
  Asked asked[2];
};
static_assert(sizeof(VoxelizeTilesParams) == 296, "mirrors ops::voxelize::params::TilesParams");

struct VoxelizeTileRowsParams {
  VoxelizeRowsParams rows;
  Chunks chunks;
  int* order;   // [B, N]: of the tiles whose points are too many for shared memory
  int* cursor;  // [B]
};
static_assert(sizeof(VoxelizeTileRowsParams) == 264, "mirrors ops::voxelize::params::TileRowsParams");

namespace {

// Threads of a block that writes a chunk; small chunks have fewer.
constexpr int WIDE_BLOCK = 1024;
// Of these a multiprocessor holds two where it has room for them, else one.
constexpr int WIDE_BLOCKS = SMALL_MULTIPROCESSOR ? 1 : 2;
// Rounds of a block that takes the largest chunk, of which a multiprocessor holds one: it keeps them in registers.
constexpr int MOST_ROUNDS = 4;
// Counters of 16 bits, eight together, and behind them room for entries; with of_warp 48 KB.
constexpr int EIGHT = 8;
constexpr int SHARED_EIGHTS = 3064;

// Adds to the 16 bits of a counter and gives what they were.
__device__ int add_to(unsigned* counters, int index, int number) {
  const int shift = index % 2 * 16;
  return static_cast<int>(atomicAdd(&counters[index / 2], static_cast<unsigned>(number) << shift) >> shift & 0xffff);
}

// The counters of the lists become the places where the lists begin; so they go to the chunk's line as well.
__device__ void scan_lists(uint4* counters, uint4* line, int eights) {
  __shared__ int of_warp[WARP];
  int base = 0;
  for (int first = 0; first < eights; first += blockDim.x) {
    const int at = first + static_cast<int>(threadIdx.x);
    const uint4 eight = at < eights ? counters[at] : uint4{0, 0, 0, 0};
    unsigned words[EIGHT / 2] = {eight.x, eight.y, eight.z, eight.w};
    int mine = 0, all;
#pragma unroll
    for (int k = 0; k < EIGHT / 2; ++k) mine += static_cast<int>((words[k] & 0xffff) + (words[k] >> 16));
    unsigned begin = static_cast<unsigned>(base + before_in_block(mine, of_warp, all));
#pragma unroll
    for (int k = 0; k < EIGHT / 2; ++k) {
      const unsigned middle = begin + (words[k] & 0xffff), end = middle + (words[k] >> 16);
      words[k] = begin | middle << 16;
      begin = end;
    }
    base += all;
    if (at < eights) counters[at] = line[at] = uint4{words[0], words[1], words[2], words[3]};
  }
  __syncthreads();
}

__device__ unsigned entry_of(int number, int cell, int bits) {
  return static_cast<unsigned>(number << ENTRY_BITS | (cell & ((1 << bits) - 1)));
}

// Threads: a block takes a chunk of a cloud, a thread four neighbouring points in each of some rounds.
template <class P, int ROUNDS>
__device__ void write_chunk(const VoxelizeTilesParams& p) {
  __shared__ uint4 shared[SHARED_EIGHTS];
  const Tile chunk = tile_of(p.clouds.tiles);
  const i64 start = chunk.index * p.chunks.chunk, row = chunk.cloud * p.clouds.points_count;
  const i64 left = p.clouds.points_count - start;
  const int here = left < p.chunks.chunk ? static_cast<int>(left) : p.chunks.chunk;
  const int bits = p.chunks.bits + p.chunks.shared_bits, eights = p.chunks.pitch / EIGHT;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  ask_ahead(p.asked, chunk);
  for (int at = thread; at < eights; at += threads) shared[at] = uint4{0, 0, 0, 0};
  __syncthreads();
  begin();
  if (chunk.index == 0 && thread == 0) p.cursor[chunk.cloud] = 0;
  const i64 valid = count_of(p.clouds, chunk.cloud) - start;
  unsigned* words = reinterpret_cast<unsigned*>(shared);
  const auto add = [words](int list, int number) { return add_to(words, list, number); };
  const bool whole = row % FOUR == 0, whole_cells = whole && reinterpret_cast<u64>(p.cells) % sizeof(int4) == 0;
  int cells[ROUNDS][FOUR], places[ROUNDS][FOUR];
#pragma unroll
  for (int round = 0; round < ROUNDS; ++round) {
    int(&four)[FOUR] = cells[round];
    const int at = (round * threads + thread) * FOUR;
    cells_of_four<P>(p.clouds, chunk.cloud, start + at, start + (valid < here ? valid : here), four);
    if (p.cells != nullptr) {
      int* to = p.cells + row + start + at;
      if (whole_cells && at + FOUR <= here) {
        *reinterpret_cast<int4*>(to) = int4{four[0], four[1], four[2], four[3]};
      } else {
        for (int k = 0; k < FOUR && at + k < here; ++k) to[k] = four[k];
      }
    }
#pragma unroll
    for (int k = 0; k < FOUR; ++k) {
      places[round][k] = count_up(four[k] >> bits, add);
      if (p.zeros != nullptr && four[k] < 0 && at + k < here) clear_row(p.zeros, p.row_bytes, row + start + at + k);
    }
  }
  __syncthreads();
  uint4* line = reinterpret_cast<uint4*>(
      p.chunks.table + (chunk.cloud * p.chunks.chunks + chunk.index) * p.chunks.pitch);
  scan_lists(shared, line, eights);
  const unsigned short* starts = reinterpret_cast<const unsigned short*>(shared);
  const int kept = starts[p.chunks.pitch - 1];
#pragma unroll
  for (int round = 0; round < ROUNDS; ++round)
#pragma unroll
    for (int k = 0; k < FOUR; ++k)
      if (places[round][k] >= 0) places[round][k] += starts[cells[round][k] >> bits];
  // The entries are put in order behind the counters, as many as there is room for, then written side by side.
  unsigned *sorted = words + eights * (EIGHT / 2), *entries = p.chunks.entries + row + start;
  const int room = (SHARED_EIGHTS - eights) * (EIGHT / 2);
  for (int first = 0; first < kept; first += room) {
    const int end = kept - first < room ? kept - first : room;
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round)
#pragma unroll
      for (int k = 0; k < FOUR; ++k) {
        const int place = places[round][k] - first;
        if (place < 0 || place >= end) continue;
        sorted[place] = entry_of((round * threads + thread) * FOUR + k, cells[round][k], bits);
      }
    __syncthreads();
    for (int at = thread * FOUR; at < end; at += threads * FOUR) {
      if (whole && at + FOUR <= end) {
        *reinterpret_cast<uint4*>(entries + first + at) = *reinterpret_cast<const uint4*>(sorted + at);
      } else {
        for (int k = 0; k < FOUR && at + k < end; ++k) entries[first + at + k] = sorted[at + k];
      }
    }
    __syncthreads();
  }
}

// The points of a tile as `voxelize_tiles` has written them.
struct Written {
  using Runs = robocache::Runs;
  static constexpr bool KEEPS_ALL = false;

  Chunks chunks;
  int* order;
  int* cursor;
  int bits;

  __device__ explicit Written(const VoxelizeTileRowsParams& p)
      : chunks(p.chunks), order(p.order), cursor(p.cursor), bits(p.chunks.bits) {}

  template <int AHEAD = ROUNDS_AHEAD, class Visit>
  __device__ int walk(const Tile& tile, Runs& runs, const Visit& visit, int most = ANY_NUMBER) const {
    return walk_shared<AHEAD>(chunks, tile, runs, visit, most);
  }

  __device__ int* room(i64 cloud, int number) const {
    return order + cloud * chunks.points + atomicAdd(&cursor[cloud], number);
  }
};

}  // namespace

#define TILES(NAME, P)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(WIDE_BLOCK, WIDE_BLOCKS)                                                \
      voxelize_tiles_##NAME(const __grid_constant__ VoxelizeTilesParams p) {                                           \
    write_chunk<P, 1>(p);                                                                                              \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(WIDE_BLOCK, 1)                                                          \
      voxelize_large_tiles_##NAME(const __grid_constant__ VoxelizeTilesParams p) {                                     \
    write_chunk<P, MOST_ROUNDS>(p);                                                                                    \
  }
#define KERNEL(NAME, V, ...)                                                                                           \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_tile_##NAME(const __grid_constant__ VoxelizeTileRowsParams p) {                                         \
    reduce_tile<V, __VA_ARGS__>(p.rows, Written(p));                                                                   \
  }
#define LINK(NAME, V)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_tile_link_##NAME(const __grid_constant__ VoxelizeTileRowsParams p) {                                    \
    sum_tile<V>(p.rows, Written(p));                                                                                   \
  }
#define SPREAD(NAME, V)                                                                                                \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_tile_spread_##NAME(const __grid_constant__ VoxelizeTileRowsParams p) {                                  \
    spread_tile<V>(p.rows, Written(p));                                                                                \
  }
#define TYPE(NAME, T)                                                                                                  \
  TILES(NAME, T)                                                                                                       \
  SPREAD(NAME, T)                                                                                                      \
  LINK(NAME, T)                                                                                                        \
  KERNEL(sum_##NAME, T, Summed<T>)                                                                                     \
  KERNEL(pick_##NAME, T, Picked<T, false>)                                                                             \
  KERNEL(send_##NAME, T, Picked<T, true>)
TYPE(f64, double)
TYPE(f32, float)
TYPE(f16, __half)
TYPE(bf16, __nv_bfloat16)
