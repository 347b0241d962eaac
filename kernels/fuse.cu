// Streams of different rates side by side, in one launch: each warp takes a share of one stream's rows, and works on
// them as a warp of `resample` does (rows.cuh).

#include "rows.cuh"

using namespace robocache;

constexpr int MAX_STREAMS = 16;
constexpr int MAX_STREAM_GROUPS = 64;

// How a stream's channels are moved: in vectors of so many bytes, by element, or unit by unit.
enum Access : int { BY_ELEMENT, BY_8_BYTES, BY_16_BYTES, CURVED };

struct FuseStream {
  const void* source_times;    // [B, S]
  const void* source_lengths;  // [B] or null
  i64 source_row, source_step;
  i64 samples;
  Channels values;    // [B, S, D]
  i64 column;         // the channel of the result that takes channel 0
  i64 across;         // channels, or units of a curved stream
  i64 first_warp;     // warps before those of this stream
  i64 tile, tiles;    // as in Rows
  int rows_per_warp;
  int access;
  int first_group, groups;  // which of the groups below are this stream's
};
static_assert(sizeof(FuseStream) == 128, "mirrors ops::fuse::cuda::Stream");

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
static_assert(sizeof(FuseParams) == 3408, "mirrors ops::fuse::cuda::Params");

namespace {

// The groups of one stream.
struct StreamGroups {
  const FuseParams& p;
  int first;
  int count;

  __device__ i64 end(int group) const { return p.ends[first + group]; }
  __device__ i64 start(int group) const { return p.starts[first + group]; }
  __device__ Mode mode(int group) const { return static_cast<Mode>(p.modes[first + group]); }
};

template <class V, bool HAS_CURVES>
__device__ void fuse_rows(const FuseParams& p) {
  const i64 warp = warp_of_grid();
  int index = 0;
  while (index + 1 < p.streams && warp >= p.stream[index + 1].first_warp) ++index;
  const FuseStream& s = p.stream[index];
  const Rows rows = {{s.source_times, p.target_times, s.source_lengths, s.source_row, s.source_step, p.target_row,
                      p.target_step, p.lengths_step, p.batch, s.samples, p.targets, p.lengths_bytes, p.outside},
                     s.values, p.output, p.width, s.column, 0, s.across, s.tile, s.tiles, s.rows_per_warp, p.time_type};
  const StreamGroups groups = {p, s.first_group, s.groups};
  const i64 own = warp - s.first_warp;
  Bracket mine;
  if (!brackets_of_any(rows, own, HAS_CURVES, &mine)) return;
  if constexpr (HAS_CURVES) {
    if (s.access == CURVED) return curved_rows<V, false>(rows, rows.values, groups, own, mine);
  }
  if (s.access == BY_16_BYTES) return plain_rows<V, WIDE<V>, false>(rows, groups, own, mine);
  if constexpr (sizeof(V) < 8) {
    if (s.access == BY_8_BYTES) return plain_rows<V, WIDE<V> / 2, false>(rows, groups, own, mine);
  }
  plain_rows<V, 1, false>(rows, groups, own, mine);
}

}  // namespace

#define KERNEL(NAME, ...)                                                                      \
  extern "C" __global__ void __launch_bounds__(128) NAME(const __grid_constant__ FuseParams p) { __VA_ARGS__(p); }

#define FUSE(VALUE, V) KERNEL(fuse_##VALUE, fuse_rows<V, false>)
#define FUSE_CURVED(VALUE, V) \
  FUSE(VALUE, V)              \
  KERNEL(fuse_curved_##VALUE, fuse_rows<V, true>)
FUSE_CURVED(f64, double)
FUSE_CURVED(f32, float)
FUSE_CURVED(f16, __half)
FUSE_CURVED(bf16, __nv_bfloat16)
FUSE(b64, Raw<unsigned long long>)
FUSE(b32, Raw<unsigned>)
FUSE(b16, Raw<unsigned short>)
FUSE(b8, Raw<unsigned char>)
