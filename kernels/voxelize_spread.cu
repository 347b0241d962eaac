// The gradient of a sum or a mean on its way to the points, one by one: each reads that of its voxel, for a mean divided by
// how many share it.
//
// `spread` finds the voxels of points by their coordinates. Where they are known, as of a recorded mean, `gather` reads an
// element a thread. Where the channels of a voxel are apart, a point reads a sector for each: of many points a launch
// before works out what each point of a voxel gets, channels side by side (`share`), which is then read in vectors
// (`spread_known`; of one channel, `gather`).

#include "exact.cuh"
#include "grid.cuh"

using namespace robocache;

struct VoxelizeSpreadParams {
  Clouds clouds;
  const void* grad;        // [B, C, cells]
  const int* counts;       // [B, cells] or null
  const int* point_voxel;  // [B, N]: the cell of each point or -1, for the kernels that do not find it
  void* output;            // [B, N, C], or of shares [B, cells, C], rows `pitch` apart
  i64 cloud_stride, channel_stride, cell_stride, pitch;
  i64 channels;
  int loads, stores;  // elements of one access: 1, 2, 4 or 8
  int follows;        // another launch of the call
  int each;           // neighbouring points of a thread: four of one channel, or one
};
static_assert(sizeof(VoxelizeSpreadParams) == 240, "mirrors ops::voxelize::params::SpreadParams");

struct VoxelizeGatherParams {
  const void* grad;        // [B, C, cells]
  const int* counts;       // [B, cells] or null
  const int* point_voxel;  // [B, N]
  void* output;            // [B, N, C]
  i64 cloud_stride, channel_stride, cell_stride;
  i64 points, cells;
  unsigned channels;
  int tiles;    // blocks of a cloud
  int follows;  // as in VoxelizeSpreadParams
  int pad;
};
static_assert(sizeof(VoxelizeGatherParams) == 88, "mirrors ops::voxelize::params::GatherParams");

namespace {

constexpr int BLOCK = 256;

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

// The voxel of a point, -1 of none: found by its coordinates,
template <class P, class Index>
struct Found {
  static __device__ Index cell(const VoxelizeSpreadParams& p, i64 cloud, i64 point) {
    return point < count_of(p.clouds, cloud) ? cell_of<P, Index>(p.clouds, cloud, point) : -1;
  }
};

// or known, as one that found it has left it.
struct Known {
  // What the caller made up is no reason to read elsewhere.
  static __device__ int checked(const VoxelizeSpreadParams& p, int cell) { return cell < p.clouds.cells ? cell : -1; }

  static __device__ int cell(const VoxelizeSpreadParams& p, i64 cloud, i64 point) {
    const i64 all = p.clouds.points_count;
    return point < all ? checked(p, p.point_voxel[cloud * all + point]) : -1;
  }
};

// Threads: neighbours take the channels of a point, eight each: side by side, or apart where each is an access, so that a
// warp's fill sectors. Where it follows another launch of its call it reads points before it begins.
template <class From, class V>
__device__ void spread_in(const VoxelizeSpreadParams& p) {
  const Tile tile = tile_of(p.clouds.tiles);
  const i64 all = p.clouds.points_count, item = tile.index * BLOCK + threadIdx.x;
  const bool one = p.channels <= MOST_SENT, each = !one && p.loads == 1 && p.stores == 1;
  const i64 groups = one ? 1 : (p.channels + MOST_SENT - 1) / MOST_SENT, point = one ? item : quotient(item, groups);
  if (p.follows == 0) begin();
  const auto cell = From::cell(p, tile.cloud, point);
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
  else if (is_narrow(p.clouds)) spread_in<Found<P, int>, V>(p);
  else spread_in<Found<P, i64>, V>(p);
}

// The same where the voxels of all points are known, an element a thread, in little code: what a small cloud waits for is
// its instructions. Where it follows another launch of its call it reads the voxels before it begins.
template <class V>
__device__ void gather(const VoxelizeGatherParams& p) {
  const Tile tile = tile_of(p.tiles);
  const unsigned item = static_cast<unsigned>(tile.index) * BLOCK + threadIdx.x, channels = p.channels;
  const unsigned point = channels == 1 ? item : item / channels, channel = item - point * channels;
  if (p.follows == 0) begin();
  if (point >= p.points) return;
  const i64 row = tile.cloud * p.points + point;
  const int found = p.point_voxel[row];
  if (p.follows != 0) begin();
  // What the caller made up is no reason to read elsewhere.
  const bool inside = found >= 0 && found < p.cells;
  const i64 cell = inside ? found : 0;
  const int count = p.counts == nullptr ? 1 : p.counts[tile.cloud * p.cells + cell];
  V value = *element<V>(
      p.grad, tile.cloud * p.cloud_stride + channel * p.channel_stride + cell * p.cell_stride);
  if (!inside) value = narrow_from<V>(0.0);
  else if (count > 1) value = divided(value, count);
  static_cast<V*>(p.output)[row * channels + channel] = value;
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

#define SPREAD(NAME, P, V)                                                                                             \
  extern "C" __global__ void __launch_bounds__(BLOCK, sizeof(V) == 8 ? 4 : 5)                                         \
      voxelize_spread_##NAME(const __grid_constant__ VoxelizeSpreadParams p) {                                         \
    spread<P, V>(p);                                                                                                   \
  }
#define KNOWN(NAME, V)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(BLOCK, sizeof(V) == 8 ? 4 : 5)                                         \
      voxelize_spread_known_##NAME(const __grid_constant__ VoxelizeSpreadParams p) {                                   \
    spread_in<Known, V>(p);                                                                                            \
  }
#define GATHER(NAME, V)                                                                                                \
  extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
      voxelize_gather_##NAME(const __grid_constant__ VoxelizeGatherParams p) {                                         \
    gather<V>(p);                                                                                                      \
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
GATHER(f64, double)
GATHER(f32, float)
GATHER(f16, __half)
GATHER(bf16, __nv_bfloat16)
KNOWN(f64, double)
KNOWN(f32, float)
KNOWN(f16, __half)
KNOWN(bf16, __nv_bfloat16)
#define SPREADS(NAME, P)                                                                                               \
  SPREAD(NAME##_f64, P, double)                                                                                        \
  SPREAD(NAME##_f32, P, float)                                                                                         \
  SPREAD(NAME##_f16, P, __half)                                                                                        \
  SPREAD(NAME##_bf16, P, __nv_bfloat16)
SPREADS(f64, double)
SPREADS(f32, float)
SPREADS(f16, __half)
SPREADS(bf16, __nv_bfloat16)
