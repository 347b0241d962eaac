// voxelize_sparse by tiles: after `voxelize_tiles` each block sorts the points of one tile of a cloud's grid.
//
// Three launches: `count` says how many points and occupied voxels a tile has, `number` what the tiles before it have,
// and `order` writes the order and what `fill` turns into rows. In the order the points of a voxel ascend: few are
// ranked by how many are smaller; of a tile where some voxel has many, as many voxels as fit are sorted in shared
// memory at a time, and one that does not fit is sorted as bits, since no point comes twice.

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
static_assert(sizeof(VoxelizeSparseTilesParams) == 104, "mirrors ops::voxelize_sparse::cuda::TilesParams");

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

constexpr int NUMBER_BLOCK = 1024;

__device__ void count(const VoxelizeSparseTilesParams& p) {
  __shared__ Runs runs;
  __shared__ unsigned occupied[TILE / 32];
  const Tile tile = tile_of(p.tiles);
  if (threadIdx.x < TILE / 32) occupied[threadIdx.x] = 0;
  __syncthreads();
  const int all = walk<2>(p.chunks, tile, runs, [&](int, int, int cell) {
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
  Runs runs;
  union {
    u64 keys[KEPT];  // the cell of a point above its number
    unsigned bits[KEPT * 2];
  };
  int size;
  int of_warp[WARP];
};
constexpr int BITS = KEPT * 2 * 32;
static_assert(BITS % 16384 == 0, "whole chunks");

// Points of a voxel up to which each is ranked among them.
constexpr int RANKED = 64;

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

// Sorts by a bitonic network; there is room up to the next power of two.
__device__ void sort_keys(u64* keys, int count) {
  int all = 1;
  while (all < count) all *= 2;
  for (int at = count + static_cast<int>(threadIdx.x); at < all; at += BLOCK) keys[at] = ~0ull;
  for (int size = 2; size <= all; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int pair = threadIdx.x; pair < all / 2; pair += BLOCK) {
        const int low = 2 * pair - (pair & (step - 1)), high = low + step;
        const u64 a = keys[low], b = keys[high];
        if ((a > b) == ((low & size) == 0)) {
          keys[low] = b;
          keys[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

// Puts the points of the cells from `first` to `end` in order, of which there are `count`, no more than are kept.
template <class Put>
__device__ void order_cells(
    const Chunks& chunks, const Tile& tile, Many& many, int first, int end, int start, int count, const Put& put) {
  if (threadIdx.x == 0) many.size = 0;
  __syncthreads();
  walk(chunks, tile, many.runs, [&](int, int point, int cell) {
    if (cell >= first && cell < end)
      many.keys[atomicAdd(&many.size, 1)] = static_cast<u64>(cell) << 32 | static_cast<unsigned>(point);
  });
  sort_keys(many.keys, count);
  for (int at = threadIdx.x; at < count; at += BLOCK)
    put(start + at, static_cast<int>(many.keys[at] & 0xffffffff), static_cast<int>(many.keys[at] >> 32));
  __syncthreads();
}

// Puts the points of one cell in order, however many: a part of the cloud's points is marked at a time.
template <class Put>
__device__ void order_cell(const Chunks& chunks, const Tile& tile, Many& many, int cell, int start, const Put& put) {
  constexpr int EACH_WORDS = KEPT * 2 / BLOCK;
  unsigned* mine = many.bits + threadIdx.x * EACH_WORDS;
  for (i64 begin = 0; begin < chunks.points; begin += BITS) {
    for (int word = threadIdx.x; word < KEPT * 2; word += BLOCK) many.bits[word] = 0;
    __syncthreads();
    const i64 end = (begin + BITS) / chunks.chunk;
    const int first_chunk = static_cast<int>(begin / chunks.chunk);
    const int end_chunk = end < chunks.chunks ? static_cast<int>(end) : chunks.chunks;
    walk(chunks, tile, many.runs, first_chunk, end_chunk, [&](int, int point, int other) {
      const unsigned bit = static_cast<unsigned>(point - begin);
      if (other == cell) atomicOr(&many.bits[bit / 32], 1u << bit % 32);
    });
    int count = 0, all;
    for (int word = 0; word < EACH_WORDS; ++word) count += __popc(mine[word]);
    int place = start + before_in_block(count, many.of_warp, all);
    for (int word = 0; word < EACH_WORDS; ++word) {
      const int first = static_cast<int>(begin) + (static_cast<int>(threadIdx.x) * EACH_WORDS + word) * 32;
      for (unsigned left = mine[word]; left != 0; left &= left - 1)
        put(place++, first + __ffs(static_cast<int>(left)) - 1, cell);
    }
    start += all;
    __syncthreads();
  }
}

template <class Put>
__device__ void order_many(
    const Chunks& chunks, const Tile& tile, Many& many, const Voxels& voxels, int all, const Put& put) {
  const auto start_of = [&](int cell) { return cell < TILE ? voxels.starts[cell] : all; };
  for (int cell = 0; cell < TILE;) {
    const int start = start_of(cell);
    int end = cell;
    for (int step = TILE; step > 0; step /= 2)
      if (end + step <= TILE && start_of(end + step) - start <= KEPT) end += step;
    if (end == cell) {
      order_cell(chunks, tile, many, cell, start, put);
      ++end;
    } else if (start_of(end) > start) {
      order_cells(chunks, tile, many, cell, end, start, start_of(end) - start, put);
    }
    cell = end;
  }
}

__device__ void order_tile(const VoxelizeSparseTilesParams& p, const Tile& tile) {
  union Memory {
    Few few;
    Many many;
  };
  __shared__ Memory memory;
  __shared__ Voxels voxels;
  Few& few = memory.few;
  const int2 before = p.sums[tile.cloud * p.tiles + tile.index], after = p.sums[tile.cloud * p.tiles + tile.index + 1];
  if (after.x == before.x) return;
  reinterpret_cast<int4*>(voxels.starts)[threadIdx.x] = int4{0, 0, 0, 0};
  __syncthreads();
  const int all = walk<2>(p.chunks, tile, few.unsorted.runs, [&](int index, int point, int cell) {
    if (cell < 0) return;
    atomicAdd(&voxels.starts[cell], 1);
    if (index >= KEPT) return;
    few.unsorted.points[index] = point;
    few.unsorted.cells[index] = static_cast<short>(cell);
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
  if (__syncthreads_or(most > RANKED) == 0 && all <= KEPT) order_few(few, voxels, all, put);
  else order_many(p.chunks, tile, memory.many, voxels, all, put);
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
  extern "C" __global__ void __launch_bounds__ THREADS                                                                 \
      voxelize_sparse_tile_##NAME(const __grid_constant__ PARAMS p) {                                                  \
    begin();                                                                                                           \
    BODY(p);                                                                                                           \
  }
KERNEL(count, VoxelizeSparseTilesParams, (BLOCK), count)
KERNEL(number, VoxelizeSparseTilesParams, (NUMBER_BLOCK), number)
KERNEL(order, VoxelizeSparseTilesParams, (BLOCK, 6), order)
KERNEL(fill, VoxelizeSparseTilesFillParams, (BLOCK), fill)
