// Streams of different rates side by side, in one launch: each block takes a share of one stream's rows, and works on
// them as a block of `resample` does (rows_plain.cuh, rows_curved.cuh).

#include "rows_curved.cuh"
#include "rows_plain.cuh"

using namespace robocache;

constexpr int MAX_STREAMS = 16;
constexpr int MAX_STREAM_GROUPS = 64;

struct FuseStream {
  const void* source_times;    // [B, S]
  const void* source_lengths;  // [B] or null
  i64 source_row, source_step;
  i64 samples;
  Channels values;    // [B, S, D]
  i64 column;         // the channel of the result that takes channel 0
  i64 across;         // channels, or units of a curved stream
  i64 first_block;    // blocks before those of this stream
  i64 tile, tiles;    // as in Rows
  int rows_per_share;
  int chunks;
  int access;
  int first_group, groups;  // which of the groups below are this stream's
  int mode;                 // as in Rows
  int store_bytes;
  int pad;
  Ahead ahead;  // as in Rows
};
static_assert(sizeof(FuseStream) == 152, "mirrors ops::fuse::cuda::Stream");

struct FuseParams {
  const void* target_times;  // [B, T]
  i64 target_row, target_step;
  i64 lengths_step;
  i64 batch, targets;
  void* output;  // [B, T, width]
  i64 width;
  int lengths_bytes;
  int outside;
  int streams;
  int time_type;  // a TimeType
  FuseStream stream[MAX_STREAMS];
  i64 ends[MAX_STREAM_GROUPS];    // as in Groups, of each stream by itself
  i64 starts[MAX_STREAM_GROUPS];
  int modes[MAX_STREAM_GROUPS];
};
static_assert(sizeof(FuseParams) == 3792, "mirrors ops::fuse::cuda::Params");

namespace {

template <class T>
constexpr bool IS_ANY = false;
template <>
constexpr bool IS_ANY<void> = true;

// The groups of one stream.
struct StreamGroups {
  const FuseParams& p;
  int first;
  int count;

  __device__ i64 end(int group) const { return p.ends[first + group]; }
  __device__ i64 start(int group) const { return p.starts[first + group]; }
  __device__ Mode mode(int group) const { return static_cast<Mode>(p.modes[first + group]); }
};

// `T` is the type of the times, or void where the parameters say which.
template <class T, class V, bool HAS_CURVES>
__device__ void fuse_rows(const FuseParams& p) {
  int index = 0;
  while (index + 1 < p.streams && blockIdx.x >= p.stream[index + 1].first_block) ++index;
  const FuseStream& s = p.stream[index];
  const Rows rows = {{s.source_times, p.target_times, s.source_lengths, s.source_row, s.source_step, p.target_row,
                      p.target_step, p.lengths_step, p.batch, s.samples, p.targets, p.lengths_bytes, p.outside},
                     s.values, p.output, p.width, s.column, 0, s.across, s.tile, s.tiles, s.rows_per_share, s.chunks,
                     p.time_type, s.access, s.mode, s.store_bytes, s.ahead};
  const StreamGroups groups = {p, s.first_group, s.groups};
  const unsigned block = blockIdx.x - static_cast<unsigned>(s.first_block);
  if constexpr (HAS_CURVES) {
    if (s.access == CURVED) {
      const i64 warp = i64{block} * (PLAIN_BLOCK / WARP) + threadIdx.x / WARP;
      Bracket mine;
      begin();
      if (brackets_of_any(rows, warp, true, &mine)) curved_rows<V, false>(rows, rows.values, groups, warp, mine);
      return;
    }
  }
  if constexpr (IS_ANY<T>) plain_rows_of_any<V, false>(rows, groups, block);
  else plain_rows<T, V>(rows, groups, block);
}

}  // namespace

#define KERNEL(NAME, ...)                                                                                     \
  extern "C" __global__ void __launch_bounds__(PLAIN_BLOCK) NAME(const __grid_constant__ FuseParams p) {     \
    __VA_ARGS__(p);                                                                                           \
  }
#define PLAIN_KERNEL(NAME, ...)                                                                               \
  extern "C" __global__ void __launch_bounds__(PLAIN_BLOCK, 3) NAME(const __grid_constant__ FuseParams p) {  \
    __VA_ARGS__(p);                                                                                           \
  }

// Of each type of times where numbers are blended: a block waits for its instructions, which are fewer so.
#define FUSE(VALUE, V)                                                \
  PLAIN_KERNEL(fuse_f64_##VALUE, fuse_rows<double, V, false>)         \
  PLAIN_KERNEL(fuse_f32_##VALUE, fuse_rows<float, V, false>)          \
  PLAIN_KERNEL(fuse_i64_##VALUE, fuse_rows<long long, V, false>)      \
  KERNEL(fuse_curved_##VALUE, fuse_rows<void, V, true>)
FUSE(f64, double)
FUSE(f32, float)
FUSE(f16, __half)
FUSE(bf16, __nv_bfloat16)
#define COPIES(VALUE, V) PLAIN_KERNEL(fuse_##VALUE, fuse_rows<void, V, false>)
COPIES(b64, Raw<unsigned long long>)
COPIES(b32, Raw<unsigned>)
COPIES(b16, Raw<unsigned short>)
COPIES(b8, Raw<unsigned char>)
