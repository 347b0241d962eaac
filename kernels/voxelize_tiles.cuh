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

// The next entries of a thread, a block's threads apart, and the run of each.
template <int AHEAD>
struct Entries {
  int runs[AHEAD];
  unsigned entries[AHEAD];

  // Those beyond the last are the last, so that no load depends on a branch.
  template <int N>
  __device__ void load(const Runs& of, const unsigned* from, int widest, int index, int all) {
    const auto at = [=](int k) { return index + k * BLOCK < all ? index + k * BLOCK : all - 1; };
#pragma unroll
    for (int k = 0; k < AHEAD; ++k) runs[k] = 0;
    for (int step = widest; step > 0; step /= 2) {
#pragma unroll
      for (int k = 0; k < N; ++k)
        if (of.ends[runs[k] + step - 1] <= at(k)) runs[k] += step;
    }
#pragma unroll
    for (int k = 0; k < AHEAD; ++k) entries[k] = k < N ? from[of.shifts[runs[k]] + at(k)] : 0;
  }

  __device__ void shift() {
#pragma unroll
    for (int k = 1; k < AHEAD; ++k) {
      runs[k - 1] = runs[k];
      entries[k - 1] = entries[k];
    }
  }
};

// No list has more.
constexpr int ANY_NUMBER = 0x7fffffff;

// Calls `visit(index, point, cell)` for the points of a list in the chunks from `begin` to `end`; in threads beyond
// them with a cell of -1, so that whole warps come. Returns the number of points; or more than `most`, as soon as it is
// known that they are more.
template <int AHEAD = ROUNDS_AHEAD, class Visit>
__device__ int walk(
    const Chunks& p, const Tile& list, Runs& runs, int begin, int end, const Visit& visit, int most = ANY_NUMBER) {
  const unsigned short* column = p.table + list.cloud * p.chunks * p.pitch + list.index;
  const unsigned* entries = p.entries + list.cloud * p.points;
  const int lane = static_cast<int>(threadIdx.x) % WARP;
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
    if (all > most - walked) return walked + all;
    runs.ends[threadIdx.x] = before + length;
    runs.shifts[threadIdx.x] = start - before;
    __syncthreads();
    int widest = BLOCK / 2;
    while (widest > 0 && widest >= end - first) widest /= 2;
    for (int base = 0; base < all; base += AHEAD * BLOCK) {
      int index = base + static_cast<int>(threadIdx.x);
      Entries<AHEAD> read;
      if (AHEAD > 1 && all - base > BLOCK) read.template load<AHEAD>(runs, entries, widest, index, all);
      else read.template load<1>(runs, entries, widest, index, all);
      // Whole warps, while they have an entry.
#pragma unroll 1
      for (int each = 0; each < AHEAD && index - lane < all; ++each, index += BLOCK) {
        const int cell = index < all ? static_cast<int>(read.entries[0] & ENTRY_CELL) : -1;
        const int point = (first + read.runs[0]) * p.chunk + static_cast<int>(read.entries[0] >> ENTRY_BITS);
        visit(walked + index, point, cell);
        read.shift();
      }
    }
    walked += all;
    __syncthreads();
  }
  return walked;
}

// The same for all points of a tile that has a list of its own.
template <int AHEAD = ROUNDS_AHEAD, class Visit>
__device__ int walk(const Chunks& p, const Tile& tile, Runs& runs, const Visit& visit, int most = ANY_NUMBER) {
  return walk<AHEAD>(p, tile, runs, 0, p.chunks, visit, most);
}

// The same for all points of a tile that may share its list with others.
template <int AHEAD, class Visit>
__device__ int walk_shared(const Chunks& p, const Tile& tile, Runs& runs, const Visit& visit, int most) {
  if (p.shared_bits != 0) {
    if (threadIdx.x == 0) runs.found = 0;
    __syncthreads();
  }
  const Tile list{tile.cloud, tile.index >> p.shared_bits};
  const int number = static_cast<int>(tile.index) & ((1 << p.shared_bits) - 1);
  const auto visit_mine = [&](int index, int point, int cell) {
    if (p.shared_bits != 0) {
      const bool mine = cell >= 0 && cell >> p.bits == number;
      cell = mine ? cell & ((1 << p.bits) - 1) : -1;
      index = found_index(runs.found, mine);
      if (index < 0) return;
    }
    visit(index, point, cell);
  };
  const int all = walk<AHEAD>(p, list, runs, visit_mine, p.shared_bits == 0 ? most : ANY_NUMBER);
  if (p.shared_bits == 0) return all;
  // All read it before a next walk counts anew.
  const int found = runs.found;
  __syncthreads();
  return found;
}

}  // namespace robocache
