// Resampling of rows of channels: forward, slope, time gradient and the gathering backward.
//
// A mode that blends computes fma(w, v[i+1] - v[i], v[i]); the others copy a sample. A row's bracket is found once.

#include "interpolate.cuh"

using namespace robocache;

// Source values and where the channels of a launch lie.
struct Channels {
  const void* data;  // [B, S, D] or [B, T, D]
  i64 batch_step, row_step, channel_step;
};

struct ResampleParams {
  Timeline times;
  Groups groups;
  Channels values;  // [B, S, D]
  void* output;     // [B, T, D]
  i64 width;        // D
  i64 first, last;  // the channels of this launch
  i64 tile;         // vectors of a row that one warp handles
  i64 tiles;        // tiles of a row
  int rows_per_warp;
  int pad;
};
static_assert(sizeof(ResampleParams) == 384, "mirrors ops::resample::cuda::ForwardParams");

// A lane's sum runs over all channels, so all of them are one launch; its parameters have 4096 bytes for their runs.
constexpr int MAX_RUNS = 224;

struct ResampleTimeGradParams {
  Timeline times;
  Channels values;                      // [B, S, D]
  Channels grad;                        // [B, T, D]
  void* output;                         // [B, T]
  i64 runs;
  i64 first[MAX_RUNS], last[MAX_RUNS];  // runs of linear channels, ascending
};
static_assert(sizeof(ResampleTimeGradParams) == 3760, "mirrors ops::resample::cuda::TimeGradParams");

struct ResampleBracketParams {
  Timeline times;
  Bracket* brackets;  // [rows, T]
  i64 rows;           // distinct rows
  int rows_per_warp;
  int pad;
};
static_assert(sizeof(ResampleBracketParams) == 120, "mirrors ops::resample::cuda::BracketParams");

struct ResampleOrderParams {
  const Bracket* brackets;  // [rows, T]
  i64* order;               // [rows, T]: targets in ascending (bracket, target) order
  i64* scratch;             // [rows, T]
  i64* starts;              // [rows, S + 1]: places whose bracket begins before a sample
  i64 targets, samples;
};
static_assert(sizeof(ResampleOrderParams) == 48, "mirrors ops::resample::cuda::OrderParams");

struct ResampleBackwardParams {
  Groups groups;
  Channels grad;  // [B, T, D]
  const Bracket* brackets;
  const i64* order;
  const i64* starts;
  void* output;  // [B, S, D]
  i64 batch, samples, targets;
  i64 width, first, last;
  i64 rows;  // distinct rows of brackets: 1 or B
  int slope;
  int pad;
};
static_assert(sizeof(ResampleBackwardParams) == 328, "mirrors ops::resample::cuda::BackwardParams");

namespace {

// One element of the result from its two samples; `weight` is the bracket's, in the compute type.
template <class V, bool SLOPE>
__device__ V blend(V a, V b, typename Element<V>::Compute weight) {
  using E = Element<V>;
  const auto left = E::widen(a), right = E::widen(b);
  return E::narrow(SLOPE ? (right - left) * weight : fused(weight, right - left, left));
}

// What a lane keeps of its row for all the warp: where its bracket's first sample lies and how its channels are made.
template <class Compute>
struct RowWork {
  i64 source;  // offset of channel 0 of sample `left`
  Compute weight;
  unsigned flags;
};

enum Flags : unsigned {
  IS_ZERO = 1,
  IS_NAN = 2,
  BLENDS = 4,           // linear channels take both samples
  NEXT_IS_RIGHT = 8,    // `next` copies `left + 1`
  NEAREST_IS_RIGHT = 16
};

template <class V, bool SLOPE>
__device__ RowWork<typename Element<V>::Compute> work_of(const ResampleParams& p, const Bracket& bracket, i64 row) {
  using Compute = typename Element<V>::Compute;
  const i64 batch = row / p.times.targets;
  const i64 source = batch * p.values.batch_step + bracket.left * p.values.row_step;
  const Compute weight = static_cast<Compute>(SLOPE ? bracket.rate : bracket.weight);
  if (SLOPE) return {source, weight, bracket.rate != 0.0 ? BLENDS : 0u};
  unsigned flags = bracket.fill == ZERO ? IS_ZERO : (bracket.fill == NOT_A_NUMBER ? IS_NAN : 0u);
  if (weight != Compute(0) && flags == 0) flags |= BLENDS;
  if (copied(bracket, NEXT) != bracket.left) flags |= NEXT_IS_RIGHT;
  if (copied(bracket, NEAREST) != bracket.left) flags |= NEAREST_IS_RIGHT;
  return {source, weight, flags};
}

// Which samples an element is made of.
struct Pick {
  bool shifted;  // the first sample read is `left + 1`
  bool both;     // the sample after it is blended in
  bool zero, nan;
};

template <class V, bool SLOPE>
__device__ Pick pick(unsigned flags, Mode mode) {
  const bool both = !IS_RAW<V> && mode == LINEAR && (flags & BLENDS) != 0;
  if (SLOPE) return {false, both, !both, false};
  const unsigned right = mode == NEXT ? NEXT_IS_RIGHT : (mode == NEAREST ? NEAREST_IS_RIGHT : 0u);
  const bool shifted = (flags & right) != 0;
  return {shifted, both, (flags & IS_ZERO) != 0, (flags & IS_NAN) != 0};
}

// Vectors in flight for each lane before the first is used.
constexpr int FLIGHT = 4;

// Threads: a warp handles `rows_per_warp` rows of [B * T] and one tile of their vectors of N channels; lane l takes
// the vectors l, l + 32, ... of the rows laid end to end.
template <class T, class V, int N, bool SLOPE>
__device__ void resample_rows(const ResampleParams& p) {
  using Compute = typename Element<V>::Compute;
  using Chunk = Vector<V, N>;
  const int lane = threadIdx.x % WARP;
  const i64 warp = static_cast<i64>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
  const i64 first_row = warp / p.tiles * p.rows_per_warp;
  const i64 all = p.times.batch * p.times.targets;
  if (first_row >= all) return;
  const Bracket bracket = find_brackets<T>(p.times, first_row, p.rows_per_warp, lane);
  const i64 own_row = first_row + lane < all ? first_row + lane : first_row;
  const RowWork<Compute> mine = work_of<V, SLOPE>(p, bracket, own_row);

  const i64 tile_start = warp % p.tiles * p.tile;
  const i64 vectors = (p.last - p.first) / N - tile_start;
  const int across = static_cast<int>(vectors < p.tile ? vectors : p.tile);
  const int rows = static_cast<int>(all - first_row < p.rows_per_warp ? all - first_row : p.rows_per_warp);
  const int total = across * rows;
  for (int base = 0; base < total; base += WARP * FLIGHT) {
    Packed<Chunk> a[FLIGHT], b[FLIGHT];
    Compute weight[FLIGHT];
    Pick picks[FLIGHT];
    i64 place[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const int item = base + k * WARP + lane;
      const bool real = item < total;
      const int r = real ? item / across : 0;
      const i64 source = __shfl_sync(ALL_LANES, mine.source, r);
      const unsigned flags = __shfl_sync(ALL_LANES, mine.flags, r);
      weight[k] = __shfl_sync(ALL_LANES, mine.weight, r);
      const i64 channel = p.first + (tile_start + (item - r * across)) * N;
      place[k] = real ? (first_row + r) * p.width + channel : -1;
      picks[k] = pick<V, SLOPE>(flags, real ? mode_of(p.groups, channel) : PREVIOUS);
      if (real && !picks[k].zero && !picks[k].nan) {
        const i64 offset = source + (picks[k].shifted ? p.values.row_step : 0) + channel * p.values.channel_step;
        a[k].load(element<V>(p.values.data, offset));
        if (picks[k].both) b[k].load(element<V>(p.values.data, offset + p.values.row_step));
      }
    }
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      if (place[k] < 0) continue;
      const Chunk left = a[k].unpack(), right = b[k].unpack();
      Chunk out;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        V v = left.at[n];
        if constexpr (!IS_RAW<V>) v = picks[k].both ? blend<V, SLOPE>(v, right.at[n], weight[k]) : v;
        out.at[n] = picks[k].nan ? Element<V>::nan() : (picks[k].zero ? V{} : v);
      }
      Packed<Chunk> packed;
      packed.pack(out);
      packed.store(static_cast<V*>(p.output) + place[k]);
    }
  }
}

// Threads: a warp sums the linear channels of one row of [B * T]; lane l adds those of l, l + 32, ... in ascending
// order and the lanes are added pairwise, 16, 8, 4, 2, 1 apart.
template <class T, class V>
__device__ void time_gradient_rows(const ResampleTimeGradParams& p) {
  using E = Element<V>;
  using Compute = typename E::Compute;
  const int lane = threadIdx.x % WARP;
  const i64 row = static_cast<i64>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (row >= p.times.batch * p.times.targets) return;
  const Bracket bracket = bracket_of_lane(find_brackets<T>(p.times, row, 1, lane), 0);
  const i64 batch = row / p.times.targets, column = row % p.times.targets;
  Compute sum = 0;
  if (bracket.rate != 0.0) {
    const Compute rate = static_cast<Compute>(bracket.rate);
    const i64 left = batch * p.values.batch_step + bracket.left * p.values.row_step;
    const i64 top = batch * p.grad.batch_step + column * p.grad.row_step;
    for (i64 run = 0; run < p.runs; ++run) {
      const i64 start = p.first[run] / WARP * WARP + lane;
      for (i64 channel = start < p.first[run] ? start + WARP : start; channel < p.last[run]; channel += WARP) {
        const i64 offset = left + channel * p.values.channel_step;
        const Compute a = E::widen(*element<V>(p.values.data, offset));
        const Compute b = E::widen(*element<V>(p.values.data, offset + p.values.row_step));
        const Compute g = E::widen(*element<V>(p.grad.data, top + channel * p.grad.channel_step));
        sum = fused(g, (b - a) * rate, sum);
      }
    }
  }
  for (int apart = WARP / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, apart);
  if (lane == 0) static_cast<T*>(p.output)[row] = static_cast<T>(sum);
}

// Threads: a warp finds the brackets of `rows_per_warp` targets and lane r keeps that of row r.
template <class T>
__device__ void bracket_rows(const ResampleBracketParams& p) {
  const int lane = threadIdx.x % WARP;
  const i64 warp = static_cast<i64>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
  const i64 first_row = warp * p.rows_per_warp;
  const i64 all = p.rows * p.times.targets;
  if (first_row >= all) return;
  const Bracket bracket = find_brackets<T>(p.times, first_row, p.rows_per_warp, lane);
  if (lane < p.rows_per_warp && first_row + lane < all) p.brackets[first_row + lane] = bracket;
}

// How much of a target's gradient goes to one side of its bracket; false where the sample had no part in the result.
template <class Compute>
__device__ bool share(const Bracket& bracket, Mode mode, bool slope, bool right, Compute* part) {
  if (bracket.fill != NONE) return false;
  if (slope) {
    const Compute rate = static_cast<Compute>(bracket.rate);
    *part = right ? rate : -rate;
    return mode == LINEAR && bracket.rate != 0.0;
  }
  const Compute weight = static_cast<Compute>(bracket.weight);
  if (mode == LINEAR && weight != Compute(0)) {
    *part = right ? weight : Compute(1) - weight;
    return true;
  }
  *part = 1;
  return copied(bracket, mode) == bracket.left + (right ? 1 : 0);
}

// Threads: one for each vector of N channels of each source row. It gathers what brackets that end at its row give,
// then what brackets that begin there give, in ascending target order: one fixed order, no atomics.
template <class V, int N>
__device__ void backward_rows(const ResampleBackwardParams& p) {
  using E = Element<V>;
  using Compute = typename E::Compute;
  using Chunk = Vector<V, N>;
  const i64 vectors = (p.last - p.first) / N;
  const i64 item = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  const i64 row = item / vectors;
  if (row >= p.batch * p.samples) return;
  const i64 channel = p.first + item % vectors * N;
  const i64 batch = row / p.samples, sample = row % p.samples;
  const i64 distinct = p.rows == 1 ? 0 : batch;
  const Mode mode = mode_of(p.groups, channel);
  const i64* starts = p.starts + distinct * (p.samples + 1) + sample;
  const i64* order = p.order + distinct * p.targets;
  const Bracket* brackets = p.brackets + distinct * p.targets;
  const i64 ends[3] = {sample > 0 ? starts[-1] : starts[0], starts[0], starts[1]};
  Compute sums[N] = {};
  for (int side = 0; side < 2; ++side) {
    for (i64 place = ends[side]; place < ends[side + 1]; ++place) {
      const i64 target = order[place];
      Compute part;
      if (!share(brackets[target], mode, p.slope != 0, side == 0, &part)) continue;
      const i64 offset = batch * p.grad.batch_step + target * p.grad.row_step + channel * p.grad.channel_step;
      Packed<Chunk> packed;
      packed.load(element<V>(p.grad.data, offset));
      const Chunk grad = packed.unpack();
#pragma unroll
      for (int n = 0; n < N; ++n) sums[n] = fused(part, E::widen(grad.at[n]), sums[n]);
    }
  }
  Chunk out;
#pragma unroll
  for (int n = 0; n < N; ++n) out.at[n] = E::narrow(sums[n]);
  Packed<Chunk> packed;
  packed.pack(out);
  packed.store(static_cast<V*>(p.output) + row * p.width + channel);
}

}  // namespace

// Threads: one block for each distinct row. Ascending targets need no sorting; others are merged, run by run, by
// counting for each target how many of the neighbouring run come before it, which keeps equal brackets in target order.
extern "C" __global__ void __launch_bounds__(256) resample_order(const __grid_constant__ ResampleOrderParams p) {
  const i64 row = blockIdx.x;
  const Bracket* brackets = p.brackets + row * p.targets;
  i64* from = p.order + row * p.targets;
  i64* to = p.scratch + row * p.targets;
  int descends = 0;
  for (i64 t = threadIdx.x; t < p.targets; t += blockDim.x) {
    from[t] = t;
    descends |= t > 0 && brackets[t - 1].left > brackets[t].left;
  }
  if (__syncthreads_or(descends)) {
    for (i64 width = 1; width < p.targets; width *= 2) {
      for (i64 place = threadIdx.x; place < p.targets; place += blockDim.x) {
        const i64 run = place / width;
        const i64 pair = run / 2 * 2 * width;
        const bool second = run % 2 != 0;
        const i64 start = second ? pair : (pair + width < p.targets ? pair + width : p.targets);
        const i64 end = second ? pair + width : (start + width < p.targets ? start + width : p.targets);
        const i64 key = brackets[from[place]].left;
        i64 low = start, high = end;
        while (low < high) {
          const i64 middle = (low + high) / 2;
          const i64 other = brackets[from[middle]].left;
          if (second ? other <= key : other < key) low = middle + 1;
          else high = middle;
        }
        to[pair + (place - run * width) + (low - start)] = from[place];
      }
      __syncthreads();
      i64* swapped = from;
      from = to;
      to = swapped;
    }
    if (from != p.order + row * p.targets)
      for (i64 place = threadIdx.x; place < p.targets; place += blockDim.x) to[place] = from[place];
    __syncthreads();
  }
  const i64* order = p.order + row * p.targets;
  for (i64 sample = threadIdx.x; sample <= p.samples; sample += blockDim.x) {
    i64 low = 0, high = p.targets;
    while (low < high) {
      const i64 middle = (low + high) / 2;
      if (brackets[order[middle]].left < sample) low = middle + 1;
      else high = middle;
    }
    p.starts[row * (p.samples + 1) + sample] = low;
  }
}

#define KERNEL(NAME, PARAMS, BLOCK, ...)                                                                       \
  extern "C" __global__ void __launch_bounds__(BLOCK) NAME(const __grid_constant__ PARAMS p) { __VA_ARGS__(p); }

#define FORWARD(TIME, T, VALUE, V)                                                                     \
  KERNEL(resample_##TIME##_##VALUE, ResampleParams, 128, resample_rows<T, V, 1, false>)                \
  KERNEL(resample_##TIME##_##VALUE##_wide, ResampleParams, 128, resample_rows<T, V, WIDE<V>, false>)
#define FORWARD_ALL(TIME, T)                   \
  FORWARD(TIME, T, f64, double)                \
  FORWARD(TIME, T, f32, float)                 \
  FORWARD(TIME, T, f16, __half)                \
  FORWARD(TIME, T, bf16, __nv_bfloat16)        \
  FORWARD(TIME, T, b64, Raw<unsigned long long>) \
  FORWARD(TIME, T, b32, Raw<unsigned>)         \
  FORWARD(TIME, T, b16, Raw<unsigned short>)   \
  FORWARD(TIME, T, b8, Raw<unsigned char>)
FORWARD_ALL(f64, double)
FORWARD_ALL(f32, float)
FORWARD_ALL(i64, long long)

#define GRADIENTS(TIME, T, VALUE, V)                                                              \
  KERNEL(resample_slope_##TIME##_##VALUE, ResampleParams, 128, resample_rows<T, V, 1, true>)      \
  KERNEL(resample_time_grad_##TIME##_##VALUE, ResampleTimeGradParams, 128, time_gradient_rows<T, V>)
#define GRADIENTS_ALL(TIME, T)        \
  GRADIENTS(TIME, T, f64, double)     \
  GRADIENTS(TIME, T, f32, float)      \
  GRADIENTS(TIME, T, f16, __half)     \
  GRADIENTS(TIME, T, bf16, __nv_bfloat16)
GRADIENTS_ALL(f64, double)
GRADIENTS_ALL(f32, float)

KERNEL(resample_bracket_f64, ResampleBracketParams, 128, bracket_rows<double>)
KERNEL(resample_bracket_f32, ResampleBracketParams, 128, bracket_rows<float>)
KERNEL(resample_bracket_i64, ResampleBracketParams, 128, bracket_rows<long long>)

#define BACKWARD(VALUE, V)                                                                            \
  KERNEL(resample_backward_##VALUE, ResampleBackwardParams, 256, backward_rows<V, 1>)                 \
  KERNEL(resample_backward_##VALUE##_wide, ResampleBackwardParams, 256, backward_rows<V, WIDE<V>>)
BACKWARD(f64, double)
BACKWARD(f32, float)
BACKWARD(f16, __half)
BACKWARD(bf16, __nv_bfloat16)
