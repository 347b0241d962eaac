// Resampling of rows of channels: forward, its derivatives, and the gathering backward.
//
// A row's bracket is found once. What its channels become is in rows_plain.cuh and rows_curved.cuh, how gradients come
// back in gather_*.cuh, and what curves do in blend_*.cuh.

#include "gather_curved.cuh"
#include "gather_few.cuh"
#include "gather_many.cuh"

using namespace robocache;

struct ResampleParams {
  Rows rows;
  Groups groups;
};
static_assert(sizeof(ResampleParams) == 544, "mirrors ops::resample::cuda::ForwardParams");

struct ResampleTangentParams {
  ResampleParams forward;
  Channels tangent;  // [B, S, D]
};
static_assert(sizeof(ResampleTangentParams) == 576, "mirrors ops::resample::cuda::TangentParams");

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
  int spans;          // the spans beside the brackets are asked for too
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

struct ResampleDisorderParams {
  Timeline times;
  int* disorder;  // for each ORDER_TILE targets of all distinct rows not 0 where some do not ascend
  i64 rows;       // distinct rows
};
static_assert(sizeof(ResampleDisorderParams) == 112, "mirrors ops::resample::cuda::DisorderParams");

namespace {

// Threads: a warp sums the linear channels of one row of [B * T]; lane l adds those of l, l + 32, ... in ascending
// order and the lanes are added pairwise, 16, 8, 4, 2, 1 apart.
template <class T, class V>
__device__ void time_gradient_rows(const ResampleTimeGradParams& p) {
  using E = Element<V>;
  using Compute = typename E::Compute;
  const int lane = threadIdx.x % WARP;
  const i64 row = warp_of_grid();
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

// Threads: one for each target of the distinct rows.
template <class T>
__device__ void bracket_rows(const ResampleBracketParams& p) {
  const i64 place = i64{blockIdx.x} * blockDim.x + threadIdx.x;
  if (place >= p.rows * p.times.targets) return;
  const i64 row = quotient(place, p.times.targets);
  const T target = target_of<T>(p.times, row, place - row * p.times.targets);
  const Samples<T> samples = samples_of<T>(p.times, row);
  p.brackets[place] = bracket_at(samples, target, bound<UP_TO>(samples, target), p.times.outside, p.spans != 0);
}

// Threads: one for each target of the distinct rows.
template <class T>
__device__ void disorder_rows(const ResampleDisorderParams& p) {
  const i64 place = i64{blockIdx.x} * ORDER_TILE + threadIdx.x;
  bool found = false;
  if (place < p.rows * p.times.targets) {
    const i64 row = quotient(place, p.times.targets);
    found = descends(targets_of<T>(p.times, row), place - row * p.times.targets);
  }
  const int disorder = __syncthreads_or(found);
  if (threadIdx.x == 0) p.disorder[blockIdx.x] = disorder;
}

// The whole of a forward launch: plain, curved, or the derivative along a tangent.
template <class T, class V, bool LONG>
__device__ void resample_plain(const ResampleParams& p) {
  plain_rows<T, V, LONG>(p.rows, p.groups, blockIdx.x);
}

// Of any type of times: copies of integers and slopes are not compiled once for each.
template <class V, bool SLOPE>
__device__ void resample_plain_any(const ResampleParams& p) {
  plain_rows_of_any<V, SLOPE>(p.rows, p.groups, blockIdx.x);
}

template <class V>
__device__ void resample_curved(const ResampleParams& p) {
  const i64 warp = warp_of_grid();
  Bracket mine;
  if (brackets_of_any(p.rows, warp, true, &mine)) curved_rows<V, false>(p.rows, p.rows.values, p.groups, warp, mine);
}

template <class V>
__device__ void resample_tangent(const ResampleTangentParams& p) {
  const i64 warp = warp_of_grid();
  const Rows& rows = p.forward.rows;
  Bracket mine;
  if (brackets_of_any(rows, warp, true, &mine)) curved_rows<V, true>(rows, p.tangent, p.forward.groups, warp, mine);
}

}  // namespace

// Threads: one block for each distinct row. Ascending brackets need no sorting; others are merged, run by run, by
// counting for each target how many of the neighbouring run come before it, which keeps equal brackets in target order.
extern "C" __global__ void __launch_bounds__(256) resample_order(const __grid_constant__ ResampleOrderParams p) {
  begin();
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
  extern "C" __global__ void __launch_bounds__(BLOCK) NAME(const __grid_constant__ PARAMS p) { \
    begin();                                                                                                   \
    __VA_ARGS__(p);                                                                                            \
  }
// Rows of 64-bit values need more registers than 4 blocks a multiprocessor leave. Blocks begin when they know their
// share.
#define PLAIN_KERNEL(NAME, V, ...)                                                         \
  extern "C" __global__ void __launch_bounds__(PLAIN_BLOCK, sizeof(V) == 8 ? 3 : 4)        \
      NAME(const __grid_constant__ ResampleParams p) {                                     \
    __VA_ARGS__(p);                                                                        \
  }

#define FORWARD(TIME, T, VALUE, V)                                        \
  PLAIN_KERNEL(resample_##TIME##_##VALUE, V, resample_plain<T, V, false>) \
  PLAIN_KERNEL(resample_long_##TIME##_##VALUE, V, resample_plain<T, V, true>)
#define FORWARD_ALL(TIME, T)    \
  FORWARD(TIME, T, f64, double) \
  FORWARD(TIME, T, f32, float)  \
  FORWARD(TIME, T, f16, __half) \
  FORWARD(TIME, T, bf16, __nv_bfloat16)
FORWARD_ALL(f64, double)
FORWARD_ALL(f32, float)
FORWARD_ALL(i64, long long)

#define COPIES(VALUE, V) PLAIN_KERNEL(resample_##VALUE, V, resample_plain_any<V, false>)
COPIES(b64, Raw<unsigned long long>)
COPIES(b32, Raw<unsigned>)
COPIES(b16, Raw<unsigned short>)
COPIES(b8, Raw<unsigned char>)

#define CURVED(VALUE, V)                                                                     \
  PLAIN_KERNEL(resample_slope_##VALUE, V, resample_plain_any<V, true>)                      \
  KERNEL(resample_curved_##VALUE, ResampleParams, 128, resample_curved<V>)                   \
  KERNEL(resample_tangent_##VALUE, ResampleTangentParams, 128, resample_tangent<V>)
CURVED(f64, double)
CURVED(f32, float)
CURVED(f16, __half)
CURVED(bf16, __nv_bfloat16)

#define TIME_GRAD(TIME, T, VALUE, V)                                                              \
  KERNEL(resample_time_grad_##TIME##_##VALUE, ResampleTimeGradParams, 128, time_gradient_rows<T, V>)
#define TIME_GRAD_ALL(TIME, T)        \
  TIME_GRAD(TIME, T, f64, double)     \
  TIME_GRAD(TIME, T, f32, float)      \
  TIME_GRAD(TIME, T, f16, __half)     \
  TIME_GRAD(TIME, T, bf16, __nv_bfloat16)
TIME_GRAD_ALL(f64, double)
TIME_GRAD_ALL(f32, float)

KERNEL(resample_bracket_f64, ResampleBracketParams, 256, bracket_rows<double>)
KERNEL(resample_bracket_f32, ResampleBracketParams, 256, bracket_rows<float>)
KERNEL(resample_bracket_i64, ResampleBracketParams, 256, bracket_rows<long long>)
KERNEL(resample_disorder_f64, ResampleDisorderParams, ORDER_TILE, disorder_rows<double>)
KERNEL(resample_disorder_f32, ResampleDisorderParams, ORDER_TILE, disorder_rows<float>)
KERNEL(resample_disorder_i64, ResampleDisorderParams, ORDER_TILE, disorder_rows<long long>)

#define BACKWARD_OF(NAME, T, V, BLOCKS, ROWS)                                            \
  extern "C" __global__ void __launch_bounds__(PLAIN_BLOCK, sizeof(V) == 8 ? 2 : BLOCKS) \
      NAME(const __grid_constant__ ResampleBackwardParams p) {                           \
    ROWS<T, V>(p);                                                                       \
  }
// Where targets are many, what a thread loads before it adds takes the registers that a fourth block would have.
#define BACKWARD(TIME, T, VALUE, V)                                                        \
  BACKWARD_OF(resample_backward_##TIME##_##VALUE, T, V, 4, backward_rows)                  \
  BACKWARD_OF(resample_backward_many_##TIME##_##VALUE, T, V, 3, backward_rows_of_many)     \
  BACKWARD_OF(resample_backward_few_##TIME##_##VALUE, T, V, 4, backward_rows_of_few)
#define BACKWARD_ALL(TIME, T)    \
  BACKWARD(TIME, T, f64, double) \
  BACKWARD(TIME, T, f32, float)  \
  BACKWARD(TIME, T, f16, __half) \
  BACKWARD(TIME, T, bf16, __nv_bfloat16)
BACKWARD_ALL(f64, double)
BACKWARD_ALL(f32, float)
BACKWARD_ALL(i64, long long)

#define BACKWARD_CURVED(VALUE, V)                                                                       \
  KERNEL(resample_backward_curved_##VALUE, ResampleBackwardParams, 128, curved_backward_rows<V, false>) \
  KERNEL(resample_curvature_##VALUE, ResampleBackwardParams, 128, curved_backward_rows<V, true>)
BACKWARD_CURVED(f64, double)
BACKWARD_CURVED(f32, float)
BACKWARD_CURVED(f16, __half)
BACKWARD_CURVED(bf16, __nv_bfloat16)
