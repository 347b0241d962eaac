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
  int* cells;            // [B, N]: each point's cell, or -1; may be null where a chunk is one round of a block
  int* cursor;           // [B], set to zero here: how many places of the order are given away
  unsigned char* zeros;  // [B, N, row_bytes] or null: the rows of dropped points are set to zero
  i64 row_bytes;
};
static_assert(sizeof(VoxelizeTilesParams) == 224, "mirrors ops::voxelize::params::TilesParams");

struct VoxelizeTileRowsParams {
  VoxelizeRowsParams rows;
  Chunks chunks;
  int* order;   // [B, N]: of the tiles whose points are too many for shared memory
  int* cursor;  // [B]
};
static_assert(sizeof(VoxelizeTileRowsParams) == 240, "mirrors ops::voxelize::params::TileRowsParams");

namespace {

// Threads of a block that writes a chunk; small chunks have fewer.
constexpr int WIDE_BLOCK = 1024;
// Of these a multiprocessor holds two where it has room for 2048 threads, else one.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 900 || __CUDA_ARCH__ == 1000)
constexpr int WIDE_BLOCKS = 2;
#else
constexpr int WIDE_BLOCKS = 1;
#endif
constexpr int MOST_TILES = 16384;
// Counters of 16 bits, eight together.
constexpr int EIGHT = 8;
constexpr int EIGHTS = MOST_TILES / EIGHT + 1;

// Adds to the 16 bits of a counter and gives what they were.
__device__ int add_to(unsigned* counters, int index, int number) {
  const int shift = index % 2 * 16;
  return static_cast<int>(atomicAdd(&counters[index / 2], static_cast<unsigned>(number) << shift) >> shift & 0xffff);
}

// The counters of the tiles become the places where the tiles' entries begin; so they go to the chunk's line as well.
__device__ void scan_tiles(uint4* counters, uint4* line, int eights) {
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

// Points that a block takes in one round are four for each thread.
constexpr int MOST_ROUND = WIDE_BLOCK * FOUR;
static_assert(EIGHTS >= MOST_ROUND / 4 + MOST_ROUND / EIGHT + 1, "as many tiles leave room for its entries");

__device__ unsigned entry_of(int number, int cell, int bits) {
  return static_cast<unsigned>(number << TILE_BITS | (cell & ((1 << bits) - 1)));
}

// Threads: a block takes a chunk of a cloud, a thread four neighbouring points at a time.
template <class P>
__device__ void write_chunk(const VoxelizeTilesParams& p) {
  __shared__ uint4 counters[EIGHTS];
  const Tile chunk = tile_of(p.clouds.tiles);
  const i64 start = chunk.index * p.chunks.chunk, row = chunk.cloud * p.clouds.points_count;
  const i64 left = p.clouds.points_count - start, valid = count_of(p.clouds, chunk.cloud) - start;
  const int here = left < p.chunks.chunk ? static_cast<int>(left) : p.chunks.chunk, bits = p.chunks.bits;
  const int eights = p.chunks.pitch / EIGHT, thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x), round = threads * FOUR;
  unsigned* words = reinterpret_cast<unsigned*>(counters);
  if (chunk.index == 0 && thread == 0) p.cursor[chunk.cloud] = 0;
  for (int at = thread; at < eights; at += threads) counters[at] = uint4{0, 0, 0, 0};
  __syncthreads();
  const auto add = [words](int tile, int number) { return add_to(words, tile, number); };
  int* cells = p.cells != nullptr ? p.cells + row + start : nullptr;
  const bool whole = row % FOUR == 0;
  int four[FOUR], ranks[FOUR];
  for (int first = 0; first < here; first += round) {
    const int at = first + thread * FOUR;
    cells_of_four<P>(p.clouds, chunk.cloud, start + at, start + (valid < here ? valid : here), four);
    if (p.cells != nullptr) {
      if (whole && at + FOUR <= here) {
        *reinterpret_cast<int4*>(cells + at) = int4{four[0], four[1], four[2], four[3]};
      } else {
        for (int k = 0; k < FOUR && at + k < here; ++k) cells[at + k] = four[k];
      }
    }
#pragma unroll
    for (int k = 0; k < FOUR; ++k) {
      ranks[k] = count_up(four[k] >> bits, add);
      if (p.zeros != nullptr && four[k] < 0 && at + k < here) clear_row(p.zeros, p.row_bytes, row + start + at + k);
    }
  }
  __syncthreads();
  uint4* line = reinterpret_cast<uint4*>(
      p.chunks.table + (chunk.cloud * p.chunks.chunks + chunk.index) * p.chunks.pitch);
  scan_tiles(counters, line, eights);
  unsigned* entries = p.chunks.entries + row + start;
  if (p.chunks.chunk == round) {
    // The entries are put in order behind the counters, then written side by side.
    const unsigned short* starts = reinterpret_cast<const unsigned short*>(counters);
    unsigned* sorted = words + eights * (EIGHT / 2);
#pragma unroll
    for (int k = 0; k < FOUR; ++k)
      if (ranks[k] >= 0) sorted[starts[four[k] >> bits] + ranks[k]] = entry_of(thread * FOUR + k, four[k], bits);
    __syncthreads();
    const int at = thread * FOUR, kept = starts[p.chunks.pitch - 1];
    if (whole && at + FOUR <= kept) {
      *reinterpret_cast<uint4*>(entries + at) = *reinterpret_cast<const uint4*>(sorted + at);
    } else {
      for (int k = 0; k < FOUR && at + k < kept; ++k) entries[at + k] = sorted[at + k];
    }
    return;
  }
  for (int first = 0; first < here; first += round) {
    const int at = first + thread * FOUR;
    // A thread reads what it has written itself.
#pragma unroll
    for (int k = 0; k < FOUR; ++k) four[k] = at + k < here ? cells[at + k] : -1;
#pragma unroll
    for (int k = 0; k < FOUR; ++k) {
      const int place = count_up(four[k] >> bits, add);
      if (place >= 0) entries[place] = entry_of(at + k, four[k], bits);
    }
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

  template <class Visit>
  __device__ int walk(const Tile& tile, Runs& runs, const Visit& visit) const {
    return robocache::walk(chunks, tile, runs, visit);
  }

  __device__ int* room(i64 cloud, int number) const {
    return order + cloud * chunks.points + atomicAdd(&cursor[cloud], number);
  }
};

}  // namespace

#define TILES(NAME, P)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(WIDE_BLOCK, WIDE_BLOCKS)                                                \
      voxelize_tiles_##NAME(const __grid_constant__ VoxelizeTilesParams p) {                                           \
    begin();                                                                                                           \
    write_chunk<P>(p);                                                                                                 \
  }
#define KERNEL(NAME, V, ...)                                                                                           \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_tile_##NAME(const __grid_constant__ VoxelizeTileRowsParams p) {                                         \
    begin();                                                                                                           \
    reduce_tile<V, __VA_ARGS__>(p.rows, Written(p));                                                                   \
  }
#define LINK(NAME, V)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_tile_link_##NAME(const __grid_constant__ VoxelizeTileRowsParams p) {                                    \
    begin();                                                                                                           \
    sum_tile<V>(p.rows, Written(p));                                                                                   \
  }
#define SPREAD(NAME, V)                                                                                                \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_tile_spread_##NAME(const __grid_constant__ VoxelizeTileRowsParams p) {                                  \
    begin();                                                                                                           \
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
