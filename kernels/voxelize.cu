// voxelize: which voxel has points, how many, and which; a voxel is floor((p - origin) / voxel_size).
//
// Grouping takes four launches and no float atomics: `count` gives each point its place among those of its cell,
// `starts` gives each cell its part of the order, `order` writes it; kernels/voxelize_rows.cu then reduces the parts.
// Which place a point gets depends on chance, but what follows does not depend on the places. Occupancy is marked by
// bytes, or of many points by bits, which then become bytes (or by bins: kernels/voxelize_bins.cu).

#include "grid.cuh"

using namespace robocache;

struct VoxelizeClearParams {
  unsigned char* memory;
  i64 bytes;
};
static_assert(sizeof(VoxelizeClearParams) == 16, "mirrors ops::voxelize::params::Clear");

struct VoxelizePointsParams {
  Clouds clouds;
  unsigned char* output;  // [B, cells] bytes that are 0 or 1, or int32; or [B, N] int32
  int* places;            // [B, N] or null: each point's place among those of its cell, or -1
  int each;               // neighbouring points of a thread: four, or one of few
};
static_assert(sizeof(VoxelizePointsParams) == 176, "mirrors ops::voxelize::params::PointsParams");

struct VoxelizeUnpackParams {
  const unsigned char* bits;  // [B, cells], each cloud's in whole words of 64
  unsigned char* output;      // [B, cells]
  i64 cells;
  int tiles;  // blocks of a cloud
};
static_assert(sizeof(VoxelizeUnpackParams) == 32, "mirrors ops::voxelize::params::UnpackParams");

struct VoxelizeStartsParams {
  const int* counts;  // [B, cells]
  int* starts;        // [B, cells]
  int* cursor;        // [B], zero: how many places of the order are given away
  i64 cells;
  int tiles;
};
static_assert(sizeof(VoxelizeStartsParams) == 40, "mirrors ops::voxelize::params::StartsParams");

struct VoxelizeOrderParams {
  Clouds clouds;
  const int* places;  // [B, N]
  const int* starts;  // [B, cells]
  int* order;         // [B, N]
};
static_assert(sizeof(VoxelizeOrderParams) == 176, "mirrors ops::voxelize::params::OrderParams");

namespace {

constexpr int BLOCK = 256;
constexpr int SCANNED = 16;
constexpr int FOURS = SCANNED / 4;

// Writes a value to each voxel with points. Threads: one for four neighbouring points, as in `count`, or for one.
template <class P, class Index, class T>
__device__ void mark(const VoxelizePointsParams& p, T value) {
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 point = (tile.index * BLOCK + threadIdx.x) * p.each, end = count_of(p.clouds, tile.cloud);
  T* output = reinterpret_cast<T*>(p.output) + tile.cloud * p.clouds.cells;
  // Threads that meet here write the same.
  if (p.each == 1) {
    const Index cell = point < end ? cell_of<P, Index>(p.clouds, tile.cloud, point) : -1;
    if (cell >= 0) output[cell] = value;
    return;
  }
  Index cells[FOUR];
  cells_of_four<P>(p.clouds, tile.cloud, point, end, cells);
#pragma unroll
  for (int k = 0; k < FOUR; ++k)
    if (cells[k] >= 0) output[cells[k]] = value;
}

template <class P>
__device__ void occupancy(const VoxelizePointsParams& p) {
  constexpr unsigned char occupied = 1;
  if (is_narrow(p.clouds)) mark<P, int>(p, occupied);
  else mark<P, i64>(p, occupied);
}

// Sets to zero the counts that `count` then adds to, and no others: of few points in a large grid.
template <class P>
__device__ void reset(const VoxelizePointsParams& p) {
  if (is_narrow(p.clouds)) mark<P, int>(p, 0);
  else mark<P, i64>(p, 0);
}

// Writes the cell of each point, which int32 counts, or -1. Threads: as in `mark`.
template <class P>
__device__ void place(const VoxelizePointsParams& p) {
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 point = (tile.index * BLOCK + threadIdx.x) * p.each, end = count_of(p.clouds, tile.cloud);
  const i64 all = p.clouds.points_count;
  int* to = reinterpret_cast<int*>(p.output) + tile.cloud * all + point;
  if (p.each == 1) {
    if (point < all) *to = point < end ? cell_of<P, int>(p.clouds, tile.cloud, point) : -1;
    return;
  }
  int cells[FOUR];
  cells_of_four<P>(p.clouds, tile.cloud, point, end, cells);
#pragma unroll
  for (int k = 0; k < FOUR; ++k)
    if (point + k < all) to[k] = cells[k];
}

// Points a voxel from which it is worth looking whether it is marked.
constexpr int CROWD = 4;

// Bytes of a cloud's bits.
__device__ i64 bytes_of_bits(i64 cells) { return (cells + 63) / 64 * 8; }

// The same in bits: an eighth of the memory, so that more of it is near.
template <class P, class Index>
__device__ void mark_bits(const VoxelizePointsParams& p) {
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 point = (tile.index * BLOCK + threadIdx.x) * FOUR;
  unsigned* words = reinterpret_cast<unsigned*>(p.output + tile.cloud * bytes_of_bits(p.clouds.cells));
  // Where points are many in a voxel most find it marked; a thread that does not see the mark makes it again.
  const bool crowded = p.clouds.points_count / CROWD >= p.clouds.cells;
  Index cells[FOUR];
  cells_of_four<P>(p.clouds, tile.cloud, point, count_of(p.clouds, tile.cloud), cells);
#pragma unroll
  for (int k = 0; k < FOUR; ++k) {
    if (cells[k] < 0) continue;
    unsigned* word = words + cells[k] / 32;
    const unsigned bit = 1u << cells[k] % 32;
    if (!crowded || (*word & bit) == 0) atomicOr(word, bit);
  }
}

template <class P>
__device__ void occupancy_bits(const VoxelizePointsParams& p) {
  if (is_narrow(p.clouds)) mark_bits<P, int>(p);
  else mark_bits<P, i64>(p);
}

// Threads: one for 16 neighbouring cells, whose bits become bytes.
__device__ void unpack(const VoxelizeUnpackParams& p) {
  const Tile tile = tile_of(p.tiles);
  const i64 cell = (tile.index * BLOCK + threadIdx.x) * MARKS;
  if (cell >= p.cells) return;
  const unsigned bits = *element<unsigned short>(p.bits + tile.cloud * bytes_of_bits(p.cells), cell / MARKS);
  write_marks(p.output + tile.cloud * p.cells + cell, bits, p.cells - cell);
}

// It follows the launch that sets the counts to zero, so it may read points before it begins.
template <class P, class Index>
__device__ void count_in(const VoxelizePointsParams& p) {
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 point = (tile.index * BLOCK + threadIdx.x) * p.each, end = count_of(p.clouds, tile.cloud);
  int* counts = reinterpret_cast<int*>(p.output) + tile.cloud * p.clouds.cells;
  const i64 row = tile.cloud * p.clouds.points_count;
  const auto take = [&](Index cell, i64 point) {
    const int place = count_up(cell, [counts](Index cell, int number) { return atomicAdd(&counts[cell], number); });
    if (p.places != nullptr && point < p.clouds.points_count) p.places[row + point] = place;
  };
  if (p.each == 1) {
    const Index cell = point < end ? cell_of<P, Index>(p.clouds, tile.cloud, point) : -1;
    begin();
    return take(cell, point);
  }
  Index cells[FOUR];
  cells_of_four<P>(p.clouds, tile.cloud, point, end, cells);
  begin();
#pragma unroll
  for (int k = 0; k < FOUR; ++k) take(cells[k], point + k);
}

template <class P>
__device__ void count(const VoxelizePointsParams& p) {
  if (is_narrow(p.clouds)) count_in<P, int>(p);
  else count_in<P, i64>(p);
}

// Threads: one for 16 cells in four places, so that each access of a warp is whole; a block takes the places of its
// cells together.
__device__ void starts(const VoxelizeStartsParams& p) {
  __shared__ int of_warp[BLOCK / WARP];
  __shared__ int first;
  const Tile tile = tile_of(p.tiles);
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const i64 row = tile.cloud * p.cells;
  const bool whole = p.cells % 4 == 0;
  const auto cell_of_four = [&](int four) { return ((tile.index * FOURS + four) * BLOCK + threadIdx.x) * 4; };
  int4 counts[FOURS];
  int mine = 0;
#pragma unroll
  for (int four = 0; four < FOURS; ++four) {
    const i64 cell = cell_of_four(four);
    const int* from = p.counts + row + cell;
    if (whole) {
      counts[four] = cell < p.cells ? *reinterpret_cast<const int4*>(from) : int4{0, 0, 0, 0};
    } else {
      const auto at = [&](int k) { return cell + k < p.cells ? from[k] : 0; };
      counts[four] = int4{at(0), at(1), at(2), at(3)};
    }
    mine += counts[four].x + counts[four].y + counts[four].z + counts[four].w;
  }
  int before = mine;
  for (int step = 1; step < WARP; step *= 2) {
    const int other = __shfl_up_sync(ALL_LANES, before, step);
    if (lane >= step) before += other;
  }
  if (lane == WARP - 1) of_warp[warp] = before;
  before -= mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    int all = 0;
    for (int other = 0; other < BLOCK / WARP; ++other) {
      const int theirs = of_warp[other];
      of_warp[other] = all;
      all += theirs;
    }
    first = all == 0 ? 0 : atomicAdd(&p.cursor[tile.cloud], all);
  }
  __syncthreads();
  int start = first + of_warp[warp] + before;
#pragma unroll
  for (int four = 0; four < FOURS; ++four) {
    const i64 cell = cell_of_four(four);
    const int4 count = counts[four];
    const int4 places{start, start + count.x, start + count.x + count.y, start + count.x + count.y + count.z};
    start = places.w + count.w;
    int* to = p.starts + row + cell;
    if (whole) {
      if (cell < p.cells) *reinterpret_cast<int4*>(to) = places;
      continue;
    }
    if (cell < p.cells) to[0] = places.x;
    if (cell + 1 < p.cells) to[1] = places.y;
    if (cell + 2 < p.cells) to[2] = places.z;
    if (cell + 3 < p.cells) to[3] = places.w;
  }
}

template <class P>
__device__ void order(const VoxelizeOrderParams& p) {
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 point = tile.index * BLOCK + threadIdx.x, row = tile.cloud * p.clouds.points_count;
  if (point >= p.clouds.points_count) return;
  const int place = p.places[row + point];
  if (place < 0) return;
  const i64 cell = cell_of<P>(p.clouds, tile.cloud, point);
  p.order[row + p.starts[tile.cloud * p.clouds.cells + cell] + place] = static_cast<int>(point);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(BLOCK) voxelize_clear(const __grid_constant__ VoxelizeClearParams p) {
  begin();
  const i64 at = (static_cast<i64>(blockIdx.x) * BLOCK + threadIdx.x) * 16;
  if (at + 16 <= p.bytes && reinterpret_cast<u64>(p.memory) % 16 == 0) {
    *reinterpret_cast<uint4*>(p.memory + at) = uint4{0, 0, 0, 0};
  } else {
    for (i64 byte = at; byte < p.bytes && byte < at + 16; ++byte) p.memory[byte] = 0;
  }
}

extern "C" __global__ void __launch_bounds__(BLOCK) voxelize_unpack(const __grid_constant__ VoxelizeUnpackParams p) {
  begin();
  unpack(p);
}

extern "C" __global__ void __launch_bounds__(BLOCK) voxelize_starts(const __grid_constant__ VoxelizeStartsParams p) {
  begin();
  starts(p);
}

#define POINTS(NAME, P)                                                                                                \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
      voxelize_occupancy_##NAME(const __grid_constant__ VoxelizePointsParams p) {                                      \
    begin();                                                                                                           \
    occupancy<P>(p);                                                                                                   \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
      voxelize_mark_##NAME(const __grid_constant__ VoxelizePointsParams p) {                                           \
    begin();                                                                                                           \
    occupancy_bits<P>(p);                                                                                              \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
      voxelize_reset_##NAME(const __grid_constant__ VoxelizePointsParams p) {                                          \
    begin();                                                                                                           \
    reset<P>(p);                                                                                                       \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
      voxelize_place_##NAME(const __grid_constant__ VoxelizePointsParams p) {                                          \
    begin();                                                                                                           \
    place<P>(p);                                                                                                       \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
      voxelize_count_##NAME(const __grid_constant__ VoxelizePointsParams p) {                                          \
    count<P>(p);                                                                                                       \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
      voxelize_order_##NAME(const __grid_constant__ VoxelizeOrderParams p) {                                           \
    begin();                                                                                                           \
    order<P>(p);                                                                                                       \
  }
POINTS(f64, double)
POINTS(f32, float)
POINTS(f16, __half)
POINTS(bf16, __nv_bfloat16)
