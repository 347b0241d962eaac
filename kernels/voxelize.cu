// voxelize: which voxel has points, how many, and which; a voxel is floor((p - origin) / voxel_size).
//
// Grouping takes four launches and no float atomics: `count` gives each point its place among those of its cell,
// `starts` gives each cell its part of the order, `order` writes it; kernels/voxelize_rows.cu then reduces the parts.
// Which place a point gets depends on chance, but what follows does not depend on the places. Occupancy is marked by
// bytes, or of many points by bits, which then become bytes (or by bins: kernels/voxelize_bins.cu).

#include "exact.cuh"
#include "grid.cuh"

using namespace robocache;

struct VoxelizeClearParams {
  unsigned char* memory;
  i64 bytes;
};
static_assert(sizeof(VoxelizeClearParams) == 16, "mirrors ops::voxelize::params::Clear");

struct VoxelizePointsParams {
  Clouds clouds;
  unsigned char* output;  // [B, cells] bytes that are 0 or 1, or int32
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

struct VoxelizeSpreadParams {
  Clouds clouds;
  const void* grad;   // [B, C, cells]
  const int* counts;  // [B, cells] or null
  void* output;       // [B, N, C], or of shares [B, cells, C], rows `pitch` apart
  i64 cloud_stride, channel_stride, cell_stride, pitch;
  i64 channels;
  int loads, stores;  // elements of one access: 1, 2, 4 or 8
  int follows;        // another launch of the call
  int each;           // neighbouring points of a thread: four of one channel, or one
};
static_assert(sizeof(VoxelizeSpreadParams) == 232, "mirrors ops::voxelize::params::SpreadParams");

namespace {

constexpr int BLOCK = 256;
constexpr int SCANNED = 16;
constexpr int FOURS = SCANNED / 4;

// Cells of a grid that int32 counts are found in less time.
__device__ bool is_narrow(const Clouds& clouds) { return clouds.cells <= 0x7fffffff; }

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

// Channels of a voxel's gradient that a thread moves together, some of which the row may lack.
template <class V, int N>
struct Sent {
  Vector<V, N> values;

  // Those that are not there are the last one again: a load that may not happen waits for the ones before it.
  __device__ void load_each(const V* from, i64 stride, int here) {
#pragma unroll
    for (int k = 0; k < N; ++k) values.at[k] = from[(k < here ? k : here - 1) * stride];
  }
  __device__ void store_each(V* to, i64 stride, int here) const {
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (k < here) to[k * stride] = values.at[k];
  }

  // Of neighbours, in accesses of W elements, which never end outside a row.
  template <int W>
  __device__ void load(const V* from, int here) {
    if constexpr (W <= N && W <= WIDE<V>) {
#pragma unroll
      for (int k = 0; k < N; k += W) {
        Packed<Vector<V, W>> packed{};
        if (k < here) packed.load(from + k);
        const Vector<V, W> part = packed.unpack();
#pragma unroll
        for (int n = 0; n < W; ++n) values.at[k + n] = part.at[n];
      }
    }
  }
  template <int W>
  __device__ void store(V* to, int here) const {
    if constexpr (W <= N && W <= WIDE<V>) {
#pragma unroll
      for (int k = 0; k < N; k += W) {
        Vector<V, W> part;
#pragma unroll
        for (int n = 0; n < W; ++n) part.at[n] = values.at[k + n];
        Packed<Vector<V, W>> packed;
        packed.pack(part);
        if (k < here) packed.store(to + k);
      }
    }
  }

  __device__ void divide(int count) {
#pragma unroll
    for (int k = 0; k < N; ++k) values.at[k] = divided(values.at[k], count);
  }
};
constexpr int MOST_SENT = 8, FEW_SENT = 4;

// Which channels of its rows a thread moves: `here` of them from `first` on, so far `apart`.
struct Share {
  i64 first, apart;
  int here;
};

// Moves some channels of a voxel's gradient, -1 for none, to a row of the output, divided by a count above one. Of no point
// nothing is written, of no voxel zero.
template <class V, int N>
__device__ void send_by(
    const VoxelizeSpreadParams& p, const V* grad, V* to, const Share& share, i64 cell, int count) {
  Sent<V, N> sent;
  const V* from = grad + (cell < 0 ? 0 : cell) * p.cell_stride + share.first * p.channel_stride;
  const int here = share.here;
  if (p.loads == 1) sent.load_each(from, share.apart * p.channel_stride, here);
  else if (p.loads == 2) sent.template load<2>(from, here);
  else if (p.loads == 4) sent.template load<4>(from, here);
  else sent.template load<8>(from, here);
  if (count <= 0) return;
  if (count > 1) sent.divide(count);
  if (cell < 0) sent.values = {};
  V* row = to + share.first;
  if (p.stores == 1) sent.store_each(row, share.apart, here);
  else if (p.stores == 2) sent.template store<2>(row, here);
  else if (p.stores == 4) sent.template store<4>(row, here);
  else sent.template store<8>(row, here);
}

template <class V>
__device__ void send(const VoxelizeSpreadParams& p, const V* grad, V* to, const Share& share, i64 cell, int count) {
  const int most = p.loads > p.stores ? p.loads : p.stores;
  if (share.here > FEW_SENT || most > FEW_SENT) send_by<V, MOST_SENT>(p, grad, to, share, cell, count);
  else if (share.here > 1 || most > 1) send_by<V, FEW_SENT>(p, grad, to, share, cell, count);
  else send_by<V, 1>(p, grad, to, share, cell, count);
}

// Threads: neighbours take the channels of a point, eight each: side by side, or apart where each is an access, so that a
// warp's fill sectors. Where it follows another launch of its call it reads points before it begins.
template <class P, class V, class Index>
__device__ void spread_in(const VoxelizeSpreadParams& p) {
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 all = p.clouds.points_count, item = tile.index * BLOCK + threadIdx.x;
  const bool one = p.channels <= MOST_SENT, each = !one && p.loads == 1 && p.stores == 1;
  const i64 groups = one ? 1 : (p.channels + MOST_SENT - 1) / MOST_SENT, point = one ? item : quotient(item, groups);
  if (p.follows == 0) begin();
  const Index cell = point < count_of(p.clouds, tile.cloud) ? cell_of<P, Index>(p.clouds, tile.cloud, point) : -1;
  begin();
  if (point >= all) return;
  // Counts that the caller made up are no reason to leave a row as it was.
  const int counted = cell >= 0 && p.counts != nullptr ? p.counts[tile.cloud * p.clouds.cells + cell] : 1;
  const int count = counted < 1 ? 1 : counted;
  const V* grad = element<V>(p.grad, tile.cloud * p.cloud_stride);
  V* to = static_cast<V*>(p.output) + (tile.cloud * all + point) * p.pitch;
  const i64 group = one ? 0 : item - point * groups, first = each ? group : group * MOST_SENT;
  const i64 left = each ? quotient(p.channels - first + groups - 1, groups) : p.channels - first;
  send(p, grad, to, Share{first, each ? groups : 1, static_cast<int>(left < MOST_SENT ? left : MOST_SENT)}, cell, count);
}

// The same of one channel, four neighbouring points a thread.
template <class P, class V>
__device__ void spread_four(const VoxelizeSpreadParams& p) {
  constexpr int W = WIDE<V> < FOUR ? WIDE<V> : FOUR;
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 all = p.clouds.points_count, point = (tile.index * BLOCK + threadIdx.x) * FOUR;
  if (p.follows == 0) begin();
  int cells[FOUR], counts[FOUR];
  cells_of_four<P>(p.clouds, tile.cloud, point, count_of(p.clouds, tile.cloud), cells);
  begin();
  if (point >= all) return;
  const int* counted = p.counts == nullptr ? nullptr : p.counts + tile.cloud * p.clouds.cells;
  const V* grad = element<V>(p.grad, tile.cloud * p.cloud_stride);
  Sent<V, FOUR> sent;
#pragma unroll
  for (int k = 0; k < FOUR; ++k) {
    const int cell = cells[k] < 0 ? 0 : cells[k];
    counts[k] = counted == nullptr ? 1 : counted[cell];
    sent.values.at[k] = grad[cell * p.cell_stride];
  }
#pragma unroll
  for (int k = 0; k < FOUR; ++k) {
    if (counts[k] > 1) sent.values.at[k] = divided(sent.values.at[k], counts[k]);
    if (cells[k] < 0) sent.values.at[k] = narrow_from<V>(0.0);
  }
  V* to = static_cast<V*>(p.output) + tile.cloud * all + point;
  if (point + FOUR <= all && reinterpret_cast<u64>(to) % (W * sizeof(V)) == 0) sent.template store<W>(to, FOUR);
  else sent.store_each(to, 1, all - point < FOUR ? static_cast<int>(all - point) : FOUR);
}

template <class P, class V>
__device__ void spread(const VoxelizeSpreadParams& p) {
  if (p.each == FOUR) spread_four<P, V>(p);
  else if (is_narrow(p.clouds)) spread_in<P, V, int>(p);
  else spread_in<P, V, i64>(p);
}

// What each point of a voxel gets, channels side by side; nothing of voxels without points, which nobody reads. Blocks
// along y share the channels. Threads: one for a voxel.
template <class V>
__device__ void share(const VoxelizeSpreadParams& p) {
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 cell = tile.index * BLOCK + threadIdx.x;
  if (cell >= p.clouds.cells) return;
  const i64 row = tile.cloud * p.clouds.cells + cell;
  const int count = p.counts[row];
  const V* grad = element<V>(p.grad, tile.cloud * p.cloud_stride);
  V* to = static_cast<V*>(p.output) + row * p.pitch;
  for (i64 channel = i64{blockIdx.y} * MOST_SENT; channel < p.channels; channel += i64{gridDim.y} * MOST_SENT) {
    const i64 left = p.channels - channel;
    send(p, grad, to, Share{channel, 1, static_cast<int>(left < MOST_SENT ? left : MOST_SENT)}, cell, count);
  }
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

#define SPREAD(NAME, P, V)                                                                                             \
  extern "C" __global__ void __launch_bounds__(BLOCK, sizeof(V) == 8 ? 4 : 5)                                         \
      voxelize_spread_##NAME(const __grid_constant__ VoxelizeSpreadParams p) {                                         \
    spread<P, V>(p);                                                                                                   \
  }
#define SHARE(NAME, V)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(BLOCK, sizeof(V) < 4 ? 5 : 4)                                          \
      voxelize_share_##NAME(const __grid_constant__ VoxelizeSpreadParams p) {                                          \
    begin();                                                                                                           \
    share<V>(p);                                                                                                       \
  }
SHARE(f64, double)
SHARE(f32, float)
SHARE(f16, __half)
SHARE(bf16, __nv_bfloat16)
#define SPREADS(NAME, P)                                                                                               \
  SPREAD(NAME##_f64, P, double)                                                                                        \
  SPREAD(NAME##_f32, P, float)                                                                                         \
  SPREAD(NAME##_f16, P, __half)                                                                                        \
  SPREAD(NAME##_bf16, P, __nv_bfloat16)
SPREADS(f64, double)
SPREADS(f32, float)
SPREADS(f16, __half)
SPREADS(bf16, __nv_bfloat16)
