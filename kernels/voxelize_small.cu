// voxelize of small clouds: each block looks at all points of a cloud and takes those in its tile.
//
// One launch, without memory of its own: for few points it costs less to find all cells in every block than to write
// them by tile first.

#include "voxelize_tile.cuh"

using namespace robocache;

// Mirrored by ops::voxelize::params::Small.
enum PointsType : int { F64, F32, F16, BF16 };

struct Small {
  Clouds clouds;
  int type;  // of the points
  int bits;  // a tile is 2^bits neighbouring cells
  Asked asked[2];
};
static_assert(sizeof(Small) == 224, "mirrors ops::voxelize::params::Small");

struct VoxelizeSmallPointsParams {
  Small small;
  unsigned char* output;  // [B, cells] bytes that are 0 or 1, or int32
};
static_assert(sizeof(VoxelizeSmallPointsParams) == 232, "mirrors ops::voxelize::params::SmallPointsParams");

struct VoxelizeSmallRowsParams {
  VoxelizeRowsParams rows;
  Small small;
};
static_assert(sizeof(VoxelizeSmallRowsParams) == 424, "mirrors ops::voxelize::params::SmallRowsParams");

namespace {

// What runs once waits for its instructions more than for anything else, so the four points are a loop.
template <class P>
__device__ int4 cells_as(const Clouds& clouds, i64 cloud, i64 point, i64 end) {
  P numbers[3 * FOUR];
  load_four(clouds, cloud, point, end, numbers);
  int4 cells{-1, -1, -1, -1};
#pragma unroll 1
  for (int k = 0; k < FOUR; ++k) {
    const auto coordinate = [&](int axis) { return Element<P>::widen(numbers[axis]); };
    const int cell = cell_at<int>(clouds, coordinate(0), coordinate(1), coordinate(2));
    cells = int4{cells.y, cells.z, cells.w, cell};
#pragma unroll
    for (int at = 0; at < 3 * (FOUR - 1); ++at) numbers[at] = numbers[at + 3];
  }
  return cells;
}

// The cells of four neighbouring points, -1 from point `end` on. Out of line: kernels by the type of their points too
// would be four times as many.
__device__ __noinline__ int4 cells_of(const Small& small, i64 cloud, i64 point, i64 end) {
  switch (small.type) {
    case F64: return cells_as<double>(small.clouds, cloud, point, end);
    case F32: return cells_as<float>(small.clouds, cloud, point, end);
    case F16: return cells_as<__half>(small.clouds, cloud, point, end);
    default: return cells_as<__nv_bfloat16>(small.clouds, cloud, point, end);
  }
}

// The points of a tile, found among all of its cloud, of which there are no more than a block keeps.
struct Found {
  struct Runs {
    int of_warp[WARP];
    int found;
  };
  static constexpr bool KEEPS_ALL = true;

  const Small& small;
  int bits;
  int* point_voxel;  // where somebody asks

  __device__ explicit Found(const Small& small, int* point_voxel = nullptr)
      : small(small), bits(small.bits), point_voxel(point_voxel) {}

  // Calls `visit(point, cell)` for a cloud's points and -1 for the cell of those that are dropped.
  template <class Visit>
  __device__ void each(i64 cloud, const Visit& visit) const {
    const i64 all = small.clouds.points_count, end = count_of(small.clouds, cloud);
    for (i64 first = 0; first < all; first += BLOCK * FOUR) {
      const i64 point = first + threadIdx.x * FOUR;
      int4 cells = cells_of(small, cloud, point, end);
#pragma unroll 1
      for (int k = 0; k < FOUR; ++k) {
        visit(point + k, cells.x);
        cells = int4{cells.y, cells.z, cells.w, -1};
      }
    }
  }

  template <int = 1, class Visit>
  __device__ int walk(const Tile& tile, Runs& runs, const Visit& visit, int = 0) const {
    if (threadIdx.x == 0) runs.found = 0;
    __syncthreads();
    // All blocks of a cloud find the same: the first writes it.
    const i64 all = small.clouds.points_count;
    int* to = tile.index == 0 && blockIdx.y == 0 && point_voxel != nullptr ? point_voxel + tile.cloud * all : nullptr;
    each(tile.cloud, [&](i64 point, int cell) {
      if (to != nullptr && point < all) to[point] = cell;
      const bool mine = cell >= 0 && cell >> bits == tile.index;
      const int index = found_index(runs.found, mine);
      if (index >= 0) visit(index, static_cast<int>(point), mine ? cell & ((1 << bits) - 1) : -1);
    });
    __syncthreads();
    return runs.found;
  }
};

// Marks or counts the points of a tile's cells, a thread four neighbours of them.
template <class Number>
__device__ void small_points(const VoxelizeSmallPointsParams& p) {
  __shared__ int4 counts[BLOCK];
  const Tile tile = tile_of(p.small.clouds.tiles);
  ask_ahead(p.small.asked, tile);
  counts[threadIdx.x] = int4{0, 0, 0, 0};
  __syncthreads();
  begin();
  const int bits = p.small.bits;
  Found(p.small).each(tile.cloud, [&](i64, int cell) {
    if (cell < 0 || cell >> bits != tile.index) return;
    int& count = reinterpret_cast<int*>(counts)[cell & ((1 << bits) - 1)];
    // Threads that meet here write the same.
    if constexpr (sizeof(Number) == 1) count = 1;
    else atomicAdd(&count, 1);
  });
  __syncthreads();
  write_four(reinterpret_cast<Number*>(p.output), tile, bits, p.small.clouds.cells, counts[threadIdx.x]);
}

// Asks for a block's part of what its cloud's blocks read, and says where its points come from.
__device__ inline Found found_of(const VoxelizeSmallRowsParams& p) {
  ask_ahead(p.small.asked, tile_of(p.rows.tiles));
  return Found(p.small, p.rows.point_voxel);
}

template <class V>
__device__ void small_spread(const VoxelizeSmallRowsParams& p) {
  const Found points(p.small);
  spread_tile<V>(p.rows, points);
  const Tile tile = tile_of(p.rows.tiles);
  if (tile.index != 0 || blockIdx.y != 0) return;
  const i64 row_bytes = p.rows.channels * static_cast<i64>(sizeof(V));
  points.each(tile.cloud, [&](i64 point, int cell) {
    if (cell < 0 && point < p.rows.points)
      clear_row(static_cast<unsigned char*>(p.rows.output), row_bytes, tile.cloud * p.rows.points + point);
  });
}

}  // namespace

extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    voxelize_small_occupancy(const __grid_constant__ VoxelizeSmallPointsParams p) {
  small_points<unsigned char>(p);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    voxelize_small_count(const __grid_constant__ VoxelizeSmallPointsParams p) {
  small_points<int>(p);
}

#define KERNEL(NAME, V, ...)                                                                                           \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_small_##NAME(const __grid_constant__ VoxelizeSmallRowsParams p) {                                       \
    reduce_tile<V, __VA_ARGS__>(p.rows, found_of(p));                                                                  \
  }
#define TYPE(NAME, V)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_small_link_##NAME(const __grid_constant__ VoxelizeSmallRowsParams p) {                                  \
    sum_tile<V>(p.rows, found_of(p));                                                                                  \
  }                                                                                                                    \
  KERNEL(sum_##NAME, V, Summed<V>)                                                                                     \
  KERNEL(pick_##NAME, V, Picked<V, false>)                                                                             \
  KERNEL(send_##NAME, V, Picked<V, true>)                                                                              \
  extern "C" __global__ void __launch_bounds__(BLOCK, 4)                                                               \
      voxelize_small_spread_##NAME(const __grid_constant__ VoxelizeSmallRowsParams p) {                                \
    small_spread<V>(p);                                                                                                \
  }
TYPE(f64, double)
TYPE(f32, float)
TYPE(f16, __half)
TYPE(bf16, __nv_bfloat16)
