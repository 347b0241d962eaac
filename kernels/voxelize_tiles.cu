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

constexpr int WIDE_BLOCK = 1024;
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
  for (int first = 0; first < eights; first += WIDE_BLOCK) {
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

// Sets some bytes to zero, of memory and a number of bytes that are multiples of the same.
template <class Word>
__device__ void clear_words(unsigned char* memory, i64 bytes) {
  for (i64 at = 0; at < bytes; at += sizeof(Word)) *reinterpret_cast<Word*>(memory + at) = Word{};
}

__device__ void clear_row(const VoxelizeTilesParams& p, i64 point) {
  unsigned char* row = p.zeros + point * p.row_bytes;
  const u64 all = reinterpret_cast<u64>(p.zeros) | static_cast<u64>(p.row_bytes);
  if (all % 16 == 0) clear_words<uint4>(row, p.row_bytes);
  else if (all % 4 == 0) clear_words<unsigned>(row, p.row_bytes);
  else clear_words<unsigned short>(row, p.row_bytes);
}

// Points that a block takes in one round.
constexpr int ROUND = WIDE_BLOCK * FOUR;
static_assert(EIGHTS >= ROUND / 4 + ROUND / EIGHT + 1, "counters of as many tiles leave room for a round's entries");

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
  unsigned* words = reinterpret_cast<unsigned*>(counters);
  if (chunk.index == 0 && thread == 0) p.cursor[chunk.cloud] = 0;
  for (int at = thread; at < eights; at += WIDE_BLOCK) counters[at] = uint4{0, 0, 0, 0};
  __syncthreads();
  const auto add = [words](int tile, int number) { return add_to(words, tile, number); };
  int* cells = p.cells != nullptr ? p.cells + row + start : nullptr;
  const bool whole = row % FOUR == 0;
  int four[FOUR], ranks[FOUR];
  for (int first = 0; first < here; first += ROUND) {
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
      if (p.zeros != nullptr && four[k] < 0 && at + k < here) clear_row(p, row + start + at + k);
    }
  }
  __syncthreads();
  uint4* line = reinterpret_cast<uint4*>(
      p.chunks.table + (chunk.cloud * p.chunks.chunks + chunk.index) * p.chunks.pitch);
  scan_tiles(counters, line, eights);
  unsigned* entries = p.chunks.entries + row + start;
  if (p.chunks.chunk == ROUND) {
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
  for (int first = 0; first < here; first += ROUND) {
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

// A tile's points by voxel.
struct Sorted {
  List list;
  int order[KEPT];
  alignas(16) int ends[TILE];  // where a voxel's points end
  int base;                    // where the order begins that is not kept here
};

// Puts the points of a tile in order; returns whether some voxel has too many for a thread.
__device__ bool sort_tile(
    const VoxelizeTileRowsParams& p, const Tile& tile, Unsorted& unsorted, Sorted& sorted, bool& kept) {
  reinterpret_cast<int4*>(sorted.ends)[threadIdx.x] = int4{0, 0, 0, 0};
  if (threadIdx.x == 0) sorted.list.size = 0;
  __syncthreads();
  const auto add = [&](int cell, int number) { return atomicAdd(&sorted.ends[cell], number); };
  const int all = walk(p.chunks, tile, unsorted.runs, [&](int index, int point, int cell) {
    count_up(cell, add);
    if (cell < 0 || index >= KEPT) return;
    unsorted.points[index] = point;
    unsorted.cells[index] = static_cast<short>(cell);
  });
  kept = all <= KEPT;
  if (all == 0) {
    sorted.list.occupied[threadIdx.x] = 0;
    __syncthreads();
    return false;
  }
  const int4 count = reinterpret_cast<const int4*>(sorted.ends)[threadIdx.x];
  const int counts[EACH] = {count.x, count.y, count.z, count.w};
  int total;
  const int start = before_in_block(count.x + count.y + count.z + count.w, unsorted.runs.of_warp, total);
  reinterpret_cast<int4*>(sorted.ends)[threadIdx.x] =
      int4{start, start + count.x, start + count.x + count.y, start + count.x + count.y + count.z};
  if (threadIdx.x == 0 && !kept) sorted.base = atomicAdd(&p.cursor[tile.cloud], all);
  const bool many = add_rows(sorted.list, counts);
  if (kept) {
    for (int first = 0; first < all; first += BLOCK) {
      const int index = first + static_cast<int>(threadIdx.x);
      const int place = count_up(index < all ? unsorted.cells[index] : -1, add);
      if (place >= 0) sorted.order[place] = unsorted.points[index];
    }
  } else {
    int* order = p.order + tile.cloud * p.rows.points + sorted.base;
    walk(p.chunks, tile, unsorted.runs, [&](int, int point, int cell) {
      const int place = count_up(cell, add);
      if (place >= 0) order[place] = point;
    });
  }
  __syncthreads();
  return many;
}

template <class V, class Reduced>
__device__ void reduce_tile(const VoxelizeTileRowsParams& p) {
  union Memory {
    uint4 staged[TILE];
    Unsorted unsorted;
  };
  __shared__ Sorted sorted;
  __shared__ Memory memory;
  const Tile tile = tile_of(p.rows.tiles);
  bool kept;
  const bool many = sort_tile(p, tile, memory.unsorted, sorted, kept);
  const int* order = kept ? sorted.order : p.order + tile.cloud * p.rows.points + sorted.base;
  const int* ends = sorted.ends;
  const i64 cloud = tile.cloud, first = tile.index << p.chunks.bits;
  const auto row_of = [=](int at) {
    const int start = at == 0 ? 0 : ends[at - 1];
    return Row{cloud, first + at, order + start, ends[at] - start};
  };
  V* staged = reinterpret_cast<V*>(memory.staged);
  reduce_list<V, Reduced>(p.rows, tile, p.chunks.bits, sorted.list, many, staged, row_of);
}

// Groups of channels of a point that neighbouring threads send, so that they fill sectors.
constexpr int MOST_GROUP_BITS = 2;

// The gradient of a tile's voxels, divided by their points for a mean, goes to all of its points. It is read where a
// point needs it: the points of a tile share its sectors in the first-level cache.
template <class V>
__device__ void spread_tile(const VoxelizeTileRowsParams& p) {
  using Chunk = Vector<V, GROUP<V>>;
  alignas(16) __shared__ int counts[TILE];
  __shared__ Unsorted unsorted;
  const Tile tile = tile_of(p.rows.tiles);
  reinterpret_cast<int4*>(counts)[threadIdx.x] = int4{0, 0, 0, 0};
  __syncthreads();
  const auto add = [&](int cell, int number) { return atomicAdd(&counts[cell], number); };
  const int all = walk(p.chunks, tile, unsorted.runs, [&](int index, int point, int cell) {
    count_up(cell, add);
    if (cell < 0 || index >= KEPT) return;
    unsorted.points[index] = point;
    unsorted.cells[index] = static_cast<short>(cell);
  });
  const i64 row = tile.cloud * p.rows.points, channels = p.rows.channels;
  const i64 first_cell = tile.index << p.chunks.bits;
  const V* grad = element<V>(p.rows.grad, tile.cloud * p.rows.strides[0] + first_cell * p.rows.strides[2]);
  V* output = static_cast<V*>(p.rows.output);
  const bool whole = channels % GROUP<V> == 0 && reinterpret_cast<u64>(output) % sizeof(Chunk) == 0;
  const auto send = [&](int point, int cell, i64 group) {
    const i64 channel = group * GROUP<V>;
    const V* from = grad + channel * p.rows.strides[1] + cell * p.rows.strides[2];
    V* to = output + (row + point) * channels + channel;
    const int here = channels - channel < GROUP<V> ? static_cast<int>(channels - channel) : GROUP<V>;
    const int count = p.rows.mean != 0 ? counts[cell] : 1;
    Chunk chunk;
#pragma unroll
    for (int k = 0; k < GROUP<V>; ++k)
      if (k < here) chunk.at[k] = from[k * p.rows.strides[1]];
#pragma unroll
    for (int k = 0; k < GROUP<V>; ++k)
      if (k < here && count > 1) chunk.at[k] = divided(chunk.at[k], count);
    if (whole) {
      Packed<Chunk> packed;
      packed.pack(chunk);
      packed.store(to);
      return;
    }
#pragma unroll
    for (int k = 0; k < GROUP<V>; ++k)
      if (k < here) to[k] = chunk.at[k];
  };
  const i64 groups = (channels + GROUP<V> - 1) / GROUP<V>;
  int bits = 0;
  while (bits < MOST_GROUP_BITS && 2 << bits <= groups) ++bits;
  // Blocks along y take turns.
  for (i64 first = i64{blockIdx.y} << bits; first < groups; first += i64{gridDim.y} << bits) {
    if (all <= KEPT) {
      for (int each = threadIdx.x; each < all << bits; each += BLOCK) {
        const int index = each >> bits;
        const i64 group = first + (each & ((1 << bits) - 1));
        if (group < groups) send(unsorted.points[index], unsorted.cells[index], group);
      }
    } else {
      walk(p.chunks, tile, unsorted.runs, [&](int, int point, int cell) {
        for (i64 group = first; cell >= 0 && group < groups && group < first + (1 << bits); ++group)
          send(point, cell, group);
      });
    }
  }
}

}  // namespace

#define TILES(NAME, P)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(WIDE_BLOCK)                                                             \
      voxelize_tiles_##NAME(const __grid_constant__ VoxelizeTilesParams p) {                                           \
    begin();                                                                                                           \
    write_chunk<P>(p);                                                                                                 \
  }
#define KERNEL(NAME, V, ...)                                                                                           \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_tile_##NAME(const __grid_constant__ VoxelizeTileRowsParams p) {                                         \
    begin();                                                                                                           \
    reduce_tile<V, __VA_ARGS__>(p);                                                                                    \
  }
#define SPREAD(NAME, V)                                                                                                \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_tile_spread_##NAME(const __grid_constant__ VoxelizeTileRowsParams p) {                                  \
    begin();                                                                                                           \
    spread_tile<V>(p);                                                                                                 \
  }
#define TYPE(NAME, T)                                                                                                  \
  TILES(NAME, T)                                                                                                       \
  SPREAD(NAME, T)                                                                                                      \
  KERNEL(sum_##NAME, T, Summed<T>)                                                                                     \
  KERNEL(pick_##NAME, T, Picked<T, false>)                                                                             \
  KERNEL(send_##NAME, T, Picked<T, true>)
TYPE(f64, double)
TYPE(f32, float)
TYPE(f16, __half)
TYPE(bf16, __nv_bfloat16)
