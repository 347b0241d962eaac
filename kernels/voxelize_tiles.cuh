// The points of a cloud in the order of the tiles of its grid: what kernels/voxelize_tiles.cu writes, a chunk of a
// cloud by a block, and how a block reads the points of one tile.
#pragma once

#include "voxelize_tile.cuh"

namespace robocache {

// A tile is 2^bits neighbouring cells; in grids of very many cells 2^shared_bits neighbouring tiles share a list of
// entries, in others each has its own. A chunk is some neighbouring points. An entry stands for a point: its number in
// the chunk above its cell in the list. The entries of a chunk lie by list, and the chunk's line of the table says
// where each begins.
struct Chunks {
  unsigned* entries;      // [B, N]
  unsigned short* table;  // [B, chunks, pitch], pitch > lists
  i64 points;             // of a cloud
  int chunk;              // points of a chunk
  int chunks;             // of a cloud
  int pitch;
  int bits;
  int shared_bits;
};
static_assert(sizeof(Chunks) == 48, "mirrors ops::voxelize::params::Chunks");

// The bits of an entry that are its cell.
constexpr int ENTRY_BITS = TILE_BITS + 3;
constexpr unsigned ENTRY_CELL = (1u << ENTRY_BITS) - 1;

// What a block needs to walk over a tile's entries.
struct Runs {
  int ends[BLOCK];    // of the runs, counted over the tile's entries
  int shifts[BLOCK];  // from there to the place in the cloud's entries
  int of_warp[WARP];
  int found;  // points of a tile among those of its list
};

// Entries that a thread reads before the first is visited: a full tile waits less for memory.
constexpr int AHEAD = 4;

// Calls `visit(index, point, cell)` for the points of a list in the chunks from `begin` to `end`; in threads beyond
// them with a cell of -1, so that whole warps come. Returns the number of points.
template <class Visit>
__device__ int walk(const Chunks& p, const Tile& list, Runs& runs, int begin, int end, const Visit& visit) {
  const unsigned short* column = p.table + list.cloud * p.chunks * p.pitch + list.index;
  const unsigned* entries = p.entries + list.cloud * p.points;
  int walked = 0;
  for (int first = begin; first < end; first += BLOCK) {
    const int chunk = first + static_cast<int>(threadIdx.x);
    int length = 0, start = 0, all;
    if (chunk < end) {
      const unsigned short* run = column + static_cast<i64>(chunk) * p.pitch;
      length = run[1] - run[0];
      start = chunk * p.chunk + run[0];
    }
    const int before = before_in_block(length, runs.of_warp, all);
    runs.ends[threadIdx.x] = before + length;
    runs.shifts[threadIdx.x] = start - before;
    __syncthreads();
    int widest = BLOCK / 2;
    while (widest > 0 && widest >= end - first) widest /= 2;
    const auto read = [&](int index, int& point, int& cell) {
      int run = 0;
      for (int step = widest; step > 0; step /= 2)
        if (runs.ends[run + step - 1] <= index) run += step;
      const bool valid = index < all;
      const unsigned entry = valid ? entries[runs.shifts[run] + index] : 0;
      point = (first + run) * p.chunk + static_cast<int>(entry >> ENTRY_BITS);
      cell = valid ? static_cast<int>(entry & ENTRY_CELL) : -1;
    };
    int base = 0;
    for (; base + AHEAD * BLOCK <= all; base += AHEAD * BLOCK) {
      int points[AHEAD], cells[AHEAD], index = base + static_cast<int>(threadIdx.x);
#pragma unroll
      for (int k = 0; k < AHEAD; ++k) read(index + k * BLOCK, points[k], cells[k]);
#pragma unroll 1
      for (int each = 0; each < AHEAD; ++each, index += BLOCK) {
        visit(walked + index, points[0], cells[0]);
#pragma unroll
        for (int k = 1; k < AHEAD; ++k) {
          points[k - 1] = points[k];
          cells[k - 1] = cells[k];
        }
      }
    }
    for (; base < all; base += BLOCK) {
      if (base + static_cast<int>(threadIdx.x / WARP * WARP) >= all) break;
      const int index = base + static_cast<int>(threadIdx.x);
      int point, cell;
      read(index, point, cell);
      visit(walked + index, point, cell);
    }
    walked += all;
    __syncthreads();
  }
  return walked;
}

// The same for all points of a tile that has a list of its own.
template <class Visit>
__device__ int walk(const Chunks& p, const Tile& tile, Runs& runs, const Visit& visit) {
  return walk(p, tile, runs, 0, p.chunks, visit);
}

// The same for all points of a tile that may share its list with others.
template <class Visit>
__device__ int walk_shared(const Chunks& p, const Tile& tile, Runs& runs, const Visit& visit) {
  if (p.shared_bits != 0) {
    if (threadIdx.x == 0) runs.found = 0;
    __syncthreads();
  }
  const Tile list{tile.cloud, tile.index >> p.shared_bits};
  const int number = static_cast<int>(tile.index) & ((1 << p.shared_bits) - 1);
  const int all = walk(p, list, runs, [&](int index, int point, int cell) {
    if (p.shared_bits != 0) {
      const bool mine = cell >= 0 && cell >> p.bits == number;
      cell = mine ? cell & ((1 << p.bits) - 1) : -1;
      index = found_index(runs.found, mine);
      if (index < 0) return;
    }
    visit(index, point, cell);
  });
  if (p.shared_bits == 0) return all;
  // All read it before a next walk counts anew.
  const int found = runs.found;
  __syncthreads();
  return found;
}

}  // namespace robocache
