// voxelize_sparse by tiles: after `voxelize_tiles` each block sorts the points of one tile of a cloud's grid.
//
// Three launches: `count` says how many points and occupied voxels a tile has, `number` what the tiles before it have,
// and `order` writes the order and what `fill` turns into rows. In the order the points of a voxel ascend: few are
// ranked by how many are smaller; of a tile where some voxel has many, each of four warps walks over its part of the
// chunks in turn.

#include "voxelize_tiles.cuh"

using namespace robocache;

struct VoxelizeSparseTilesParams {
  Chunks chunks;
  int2* sums;       // [B * tiles + 1]: points and occupied voxels of a tile, then of those before it
  int* cells;       // [B, N]: each point's cell, or -1; then its row, or -1
  int* order;       // [B, N]
  int4* voxels;     // [B * N]: of each row its cloud, cell, place in the order of its cloud and number of points
  i64* num_voxels;  // [1]
  i64 batch;
  int tiles;  // of a grid
};
static_assert(sizeof(VoxelizeSparseTilesParams) == 96, "mirrors ops::voxelize_sparse::cuda::TilesParams");

struct VoxelizeSparseTilesFillParams {
  const int* rows;  // [B, N]
  const int4* voxels;
  const i64* num_voxels;
  int* coords;       // [M, 4]
  int* counts;       // [M]
  int* starts;       // [M]
  i64* point_voxel;  // [B, N]
  i64 size[3];
  i64 points;        // of all clouds
  i64 length;        // M
};
static_assert(sizeof(VoxelizeSparseTilesFillParams) == 96, "mirrors ops::voxelize_sparse::cuda::TilesFill");

namespace {

// Words of a bitmap of the most points of a chunk.
constexpr int WORDS = 16384 / WARP;
// Warps that share a tile with full voxels, each with counters of its own.
constexpr int TEAM = 4;
constexpr int NUMBER_BLOCK = 1024;

__device__ void count(const VoxelizeSparseTilesParams& p) {
  __shared__ Runs runs;
  __shared__ unsigned occupied[TILE / 32];
  const Tile tile = tile_of(p.tiles);
  if (threadIdx.x < TILE / 32) occupied[threadIdx.x] = 0;
  __syncthreads();
  const int all = walk(p.chunks, tile, runs, [&](int, int, int cell) {
    if (cell >= 0) atomicOr(&occupied[cell / 32], 1u << cell % 32);
  });
  if (threadIdx.x >= WARP) return;
  int voxels = __popc(occupied[threadIdx.x]);
  for (int step = WARP / 2; step > 0; step /= 2) voxels += __shfl_xor_sync(ALL_LANES, voxels, step);
  if (threadIdx.x == 0) p.sums[tile.cloud * p.tiles + tile.index] = int2{all, voxels};
}

// Threads: one block, which walks over the tiles of all clouds.
__device__ void number(const VoxelizeSparseTilesParams& p) {
  __shared__ int of_warp[WARP];
  const int tiles = static_cast<int>(p.batch) * p.tiles;
  int points = 0, voxels = 0;
  for (int first = 0; first < tiles; first += NUMBER_BLOCK * EACH) {
    const int mine = first + static_cast<int>(threadIdx.x) * EACH;
    int2 sums[EACH];
    int2 sum{0, 0};
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
      sums[k] = mine + k < tiles ? p.sums[mine + k] : int2{0, 0};
      sum.x += sums[k].x;
      sum.y += sums[k].y;
    }
    int2 all;
    int2 before{before_in_block(sum.x, of_warp, all.x), before_in_block(sum.y, of_warp, all.y)};
    before.x += points;
    before.y += voxels;
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
      if (mine + k < tiles) p.sums[mine + k] = before;
      before.x += sums[k].x;
      before.y += sums[k].y;
    }
    points += all.x;
    voxels += all.y;
  }
  if (threadIdx.x != 0) return;
  p.sums[tiles] = int2{points, voxels};
  *p.num_voxels = voxels;
}

// What a block that sorts a tile knows of its voxels.
struct Voxels {
  alignas(16) int starts[TILE];  // where the points of a voxel begin in the tile's order, then where they end
  short ranks[TILE];             // occupied voxels before it
  int of_warp[WARP];
};

struct Few {
  int order[KEPT];
  Unsorted<Runs> unsorted;
};

struct Many {
  int counts[TEAM][TILE];
  unsigned marks[TEAM][WORDS];
};

// Ranks the points of a tile among those of their voxels.
template <class Put>
__device__ void order_few(Few& few, Voxels& voxels, int all, const Put& put) {
  const auto add = [&](int cell, int number) { return atomicAdd(&voxels.starts[cell], number); };
  for (int first = 0; first < all; first += BLOCK) {
    const int index = first + static_cast<int>(threadIdx.x);
    const int place = count_up(index < all ? int{few.unsorted.cells[index]} : -1, add);
    if (place >= 0) few.order[place] = few.unsorted.points[index];
  }
  __syncthreads();
  for (int index = threadIdx.x; index < all; index += BLOCK) {
    const int point = few.unsorted.points[index], cell = few.unsorted.cells[index];
    const int begin = cell == 0 ? 0 : voxels.starts[cell - 1], end = voxels.starts[cell];
    int place = begin;
    for (int other = begin; other < end; ++other) place += few.order[other] < point;
    put(place, point, cell);
  }
}

// A warp of the team takes neighbouring chunks: first it counts their points in each voxel, then it walks over them
// again, in order.
template <class Put>
__device__ void order_many(
    const VoxelizeSparseTilesParams& p, const Tile& tile, Many& many, const Voxels& voxels, const Put& put) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, each = (p.chunks.chunks + TEAM - 1) / TEAM;
  const int first = warp * each, end = first + each < p.chunks.chunks ? first + each : p.chunks.chunks;
  const i64 row = tile.cloud * p.chunks.points;
  const unsigned short* column = p.chunks.table + tile.cloud * p.chunks.chunks * p.chunks.pitch + tile.index;
  const unsigned mask = (1u << p.chunks.bits) - 1;
  const int words = p.chunks.chunk / WARP;
  for (int team = 0; team < TEAM; ++team)
    reinterpret_cast<int4*>(many.counts[team])[threadIdx.x] = int4{0, 0, 0, 0};
  __syncthreads();
  if (warp < TEAM) {
    int* counts = many.counts[warp];
    const auto add = [counts](int cell, int number) { return atomicAdd(&counts[cell], number); };
    for (int chunk = first; chunk < end; ++chunk) {
      const unsigned short* run = column + static_cast<i64>(chunk) * p.chunks.pitch;
      const int begin = run[0], length = run[1] - begin;
      const unsigned* entries = p.chunks.entries + row + static_cast<i64>(chunk) * p.chunks.chunk + begin;
      for (int from = 0; from < length; from += WARP)
        count_up(from + lane < length ? static_cast<int>(entries[from + lane] & CELL) : -1, add);
    }
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    const int cell = static_cast<int>(threadIdx.x) * EACH + k;
    int start = voxels.starts[cell];
    for (int team = 0; team < TEAM; ++team) {
      const int count = many.counts[team][cell];
      many.counts[team][cell] = start;
      start += count;
    }
  }
  __syncthreads();
  if (warp >= TEAM) return;
  int* places = many.counts[warp];
  unsigned* marks = many.marks[warp];
  for (int chunk = first; chunk < end; ++chunk) {
    const unsigned short* run = column + static_cast<i64>(chunk) * p.chunks.pitch;
    const int begin = run[0], length = run[1] - begin, start = chunk * p.chunks.chunk;
    if (length == 0) continue;
    for (int word = lane; word < words; word += WARP) marks[word] = 0;
    __syncwarp();
    for (int at = lane; at < length; at += WARP) {
      const unsigned number = p.chunks.entries[row + start + begin + at] >> TILE_BITS;
      atomicOr(&marks[number / 32], 1u << number % 32);
    }
    __syncwarp();
    for (int word = 0; word < words; ++word) {
      if (marks[word] == 0) continue;
      const bool mine = (marks[word] >> lane & 1) != 0;
      const int point = start + word * WARP + lane;
      const int cell = mine ? static_cast<int>(static_cast<unsigned>(p.cells[row + point]) & mask) : -1;
      const unsigned peers = __match_any_sync(ALL_LANES, cell), before = peers & ((1u << lane) - 1);
      const int place = mine ? places[cell] + __popc(before) : 0;
      __syncwarp();
      if (mine && before == 0) places[cell] += __popc(peers);
      __syncwarp();
      if (mine) put(place, point, cell);
    }
    __syncwarp();
  }
}

__device__ void order_tile(const VoxelizeSparseTilesParams& p, const Tile& tile) {
  union Memory {
    Few few;
    Many many;
  };
  __shared__ Memory memory;
  __shared__ Voxels voxels;
  const int2 before = p.sums[tile.cloud * p.tiles + tile.index], after = p.sums[tile.cloud * p.tiles + tile.index + 1];
  if (after.x == before.x) return;
  reinterpret_cast<int4*>(voxels.starts)[threadIdx.x] = int4{0, 0, 0, 0};
  __syncthreads();
  const auto add = [&](int cell, int number) { return atomicAdd(&voxels.starts[cell], number); };
  const int all = walk(p.chunks, tile, memory.few.unsorted.runs, [&](int index, int point, int cell) {
    count_up(cell, add);
    if (cell < 0 || index >= KEPT) return;
    memory.few.unsorted.points[index] = point;
    memory.few.unsorted.cells[index] = static_cast<short>(cell);
  });
  const int4 count = reinterpret_cast<const int4*>(voxels.starts)[threadIdx.x];
  const int counts[EACH] = {count.x, count.y, count.z, count.w};
  int occupied = 0, total, most = 0;
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    occupied += counts[k] > 0;
    most = counts[k] > most ? counts[k] : most;
  }
  int start = before_in_block(count.x + count.y + count.z + count.w, voxels.of_warp, total);
  int rank = before_in_block(occupied, voxels.of_warp, total);
  const int first = before.x - p.sums[tile.cloud * p.tiles].x;
  int4* rows = p.voxels + before.y;
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    const int cell = static_cast<int>(threadIdx.x) * EACH + k;
    voxels.starts[cell] = start;
    voxels.ranks[cell] = static_cast<short>(rank);
    if (counts[k] > 0) {
      rows[rank++] = int4{
          static_cast<int>(tile.cloud), static_cast<int>(tile.index << p.chunks.bits) + cell, first + start, counts[k]};
    }
    start += counts[k];
  }
  const i64 row = tile.cloud * p.chunks.points;
  int* order = p.order + row + first;
  const auto put = [&](int place, int point, int cell) {
    order[place] = point;
    p.cells[row + point] = before.y + voxels.ranks[cell];
  };
  if (__syncthreads_or(most > ALONE) == 0 && all <= KEPT) order_few(memory.few, voxels, all, put);
  else order_many(p, tile, memory.many, voxels, put);
}

// Writes the dropped points of a chunk behind all others of its cloud.
__device__ void order_dropped(const VoxelizeSparseTilesParams& p, i64 cloud, int chunk) {
  __shared__ int of_warp[WARP];
  const unsigned short* kept = p.chunks.table + cloud * p.chunks.chunks * p.chunks.pitch + p.tiles;
  const int start = chunk * p.chunks.chunk;
  const i64 left = p.chunks.points - start, row = cloud * p.chunks.points;
  const int here = left < p.chunks.chunk ? static_cast<int>(left) : p.chunks.chunk;
  if (kept[static_cast<i64>(chunk) * p.chunks.pitch] == here) return;
  int mine = 0, before;
  for (int other = threadIdx.x; other < chunk; other += BLOCK) mine += kept[static_cast<i64>(other) * p.chunks.pitch];
  before_in_block(mine, of_warp, before);
  const int all = p.sums[(cloud + 1) * p.tiles].x - p.sums[cloud * p.tiles].x;
  int* order = p.order + row + all + (start - before);
  for (int first = 0; first < here; first += BLOCK * EACH) {
    const int at = first + static_cast<int>(threadIdx.x) * EACH;
    bool dropped[EACH];
    int number = 0, sum;
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
      dropped[k] = at + k < here && p.cells[row + start + at + k] < 0;
      number += dropped[k];
    }
    int place = before_in_block(number, of_warp, sum);
#pragma unroll
    for (int k = 0; k < EACH; ++k)
      if (dropped[k]) order[place++] = start + at + k;
    order += sum;
  }
}

// Threads: a block takes a tile of a cloud, or behind all tiles a chunk of its points.
__device__ void order(const VoxelizeSparseTilesParams& p) {
  const Tile tile = tile_of(p.tiles + p.chunks.chunks);
  if (tile.index < p.tiles) order_tile(p, tile);
  else order_dropped(p, tile.cloud, static_cast<int>(tile.index) - p.tiles);
}

// Threads: one for each point and for each row.
__device__ void fill(const VoxelizeSparseTilesFillParams& p) {
  const i64 at = static_cast<i64>(blockIdx.x) * BLOCK + threadIdx.x;
  if (at < p.points) {
    const int row = p.rows[at];
    p.point_voxel[at] = row < p.length ? row : -1;
  }
  if (at >= p.length) return;
  int4 coords{-1, -1, -1, -1};
  int count = 0, start = 0;
  if (at < *p.num_voxels) {
    const int4 voxel = p.voxels[at];
    const unsigned y = static_cast<unsigned>(p.size[1]), z = static_cast<unsigned>(p.size[2]);
    const unsigned cell = static_cast<unsigned>(voxel.y), column = cell / z, x = column / y;
    coords = {voxel.x, static_cast<int>(x), static_cast<int>(column - x * y), static_cast<int>(cell - column * z)};
    start = voxel.z;
    count = voxel.w;
  }
  p.coords[4 * at] = coords.x;
  p.coords[4 * at + 1] = coords.y;
  p.coords[4 * at + 2] = coords.z;
  p.coords[4 * at + 3] = coords.w;
  p.counts[at] = count;
  p.starts[at] = start;
}

}  // namespace

#define KERNEL(NAME, PARAMS, THREADS, BODY)                                                                            \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                \
      voxelize_sparse_tile_##NAME(const __grid_constant__ PARAMS p) {                                                  \
    begin();                                                                                                           \
    BODY(p);                                                                                                           \
  }
KERNEL(count, VoxelizeSparseTilesParams, BLOCK, count)
KERNEL(number, VoxelizeSparseTilesParams, NUMBER_BLOCK, number)
KERNEL(order, VoxelizeSparseTilesParams, BLOCK, order)
KERNEL(fill, VoxelizeSparseTilesFillParams, BLOCK, fill)
