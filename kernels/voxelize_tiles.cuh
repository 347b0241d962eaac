// The points of a cloud in the order of the tiles of its grid: what kernels/voxelize_tiles.cu writes, a chunk of a
// cloud by a block, and how a block reads the points of one tile.
#pragma once

#include "voxelize_tile.cuh"

namespace robocache {

// A tile is 2^bits neighbouring cells; a chunk is some neighbouring points. An entry stands for a point: its number in
// the chunk above its cell in the tile. The entries of a chunk lie by tile, and the chunk's line of the table says
// where those of each tile begin.
struct Chunks {
  unsigned* entries;      // [B, N]
  unsigned short* table;  // [B, chunks, pitch], pitch > tiles
  i64 points;             // of a cloud
  int chunk;              // points of a chunk
  int chunks;             // of a cloud
  int pitch;
  int bits;
};
static_assert(sizeof(Chunks) == 40, "mirrors ops::voxelize::params::Chunks");

// What a block needs to walk over a tile's entries.
struct Runs {
  int ends[BLOCK];    // of the runs, counted over the tile's entries
  int shifts[BLOCK];  // from there to the place in the cloud's entries
  int of_warp[WARP];
};

// Calls `visit(index, point, cell)` for all points of a tile; in threads beyond them with a cell of -1, so that whole
// warps come. Returns the number of points.
template <class Visit>
__device__ int walk(const Chunks& p, const Tile& tile, Runs& runs, const Visit& visit) {
  const unsigned short* column = p.table + tile.cloud * p.chunks * p.pitch + tile.index;
  const unsigned* entries = p.entries + tile.cloud * p.points;
  int walked = 0;
  for (int first = 0; first < p.chunks; first += BLOCK) {
    const int chunk = first + static_cast<int>(threadIdx.x);
    int begin = 0, length = 0, start = 0, all;
    if (chunk < p.chunks) {
      const unsigned short* run = column + static_cast<i64>(chunk) * p.pitch;
      begin = run[0];
      length = run[1] - begin;
      start = chunk * p.chunk + begin;
    }
    const int before = before_in_block(length, runs.of_warp, all);
    runs.ends[threadIdx.x] = before + length;
    runs.shifts[threadIdx.x] = start - before;
    __syncthreads();
    int widest = BLOCK / 2;
    while (widest > 0 && widest >= p.chunks - first) widest /= 2;
    for (int base = 0; base < all; base += BLOCK) {
      const int index = base + static_cast<int>(threadIdx.x);
      if (base + static_cast<int>(threadIdx.x / WARP * WARP) >= all) break;
      int run = 0;
      for (int step = widest; step > 0; step /= 2)
        if (runs.ends[run + step - 1] <= index) run += step;
      const bool valid = index < all;
      const unsigned entry = valid ? entries[runs.shifts[run] + index] : 0;
      const int point = (first + run) * p.chunk + static_cast<int>(entry >> TILE_BITS);
      visit(walked + index, point, valid ? static_cast<int>(entry & CELL) : -1);
    }
    walked += all;
    __syncthreads();
  }
  return walked;
}

}  // namespace robocache
