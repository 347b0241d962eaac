// Resampling of rows of channels: forward, its derivatives, and the gathering backward.
//
// A row's bracket is found once. What its channels become is in rows.cuh, and what curves do in blend_*.cuh.

#include "rows.cuh"

using namespace robocache;

struct ResampleParams {
  Rows rows;
  Groups groups;
};
static_assert(sizeof(ResampleParams) == 520, "mirrors ops::resample::cuda::ForwardParams");

struct ResampleTangentParams {
  ResampleParams forward;
  Channels tangent;  // [B, S, D]
};
static_assert(sizeof(ResampleTangentParams) == 552, "mirrors ops::resample::cuda::TangentParams");

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
  int spans;          // the spans beside the brackets are asked for too
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
  Channels grad;     // [B, T, D]
  Channels values;   // [B, S, D]; null where no derivative depends on them
  Channels tangent;  // [B, S, D]; null but for the curvature
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
static_assert(sizeof(ResampleBackwardParams) == 520, "mirrors ops::resample::cuda::BackwardParams");

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

// Threads: a warp finds the brackets of `rows_per_warp` targets and lane r keeps that of row r.
template <class T>
__device__ void bracket_rows(const ResampleBracketParams& p) {
  const int lane = threadIdx.x % WARP;
  const i64 first_row = warp_of_grid() * p.rows_per_warp;
  const i64 all = p.rows * p.times.targets;
  if (first_row >= all) return;
  const Bracket bracket = find_brackets<T>(p.times, first_row, p.rows_per_warp, lane, p.spans != 0);
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
  if ((mode == LINEAR || mode == ANGLE) && weight != Compute(0)) {
    *part = right ? weight : Compute(1) - weight;
    return true;
  }
  *part = 1;
  return copied(bracket, mode) == bracket.left + (right ? 1 : 0);
}

// The source row of a thread of a gather, and the places of the order whose brackets begin at each sample of that row.
struct Gathered {
  i64 batch, sample, row;
  i64 item;  // which vector or unit of the row
  const i64* starts;
  const i64* order;
  const Bracket* brackets;
  i64 samples;
  bool real;

  __device__ Gathered(const ResampleBackwardParams& p, i64 across) {
    const i64 thread = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    row = thread / across;
    item = thread % across;
    samples = p.samples;
    batch = row / p.samples;
    sample = row % p.samples;
    real = row < p.batch * p.samples;
    const i64 distinct = p.rows == 1 ? 0 : batch;
    starts = p.starts + distinct * (p.samples + 1);
    order = p.order + distinct * p.targets;
    brackets = p.brackets + distinct * p.targets;
  }

  // Whether brackets can begin at a sample: one of the row.
  __device__ bool has(i64 other) const { return 0 <= other && other < samples; }
};

// Threads: one for each vector of N channels of each source row. It gathers what brackets that end at its row give,
// then what brackets that begin there give, in ascending target order: one fixed order, no atomics.
template <class V, int N>
__device__ void backward_rows(const ResampleBackwardParams& p) {
  using E = Element<V>;
  using Compute = typename E::Compute;
  using Chunk = Vector<V, N>;
  const Gathered at(p, (p.last - p.first) / N);
  if (!at.real) return;
  const i64 channel = p.first + at.item * N;
  const Mode mode = mode_of(p.groups, channel);
  Compute sums[N] = {};
  for (int side = 0; side < 2; ++side) {
    const i64 left = at.sample - 1 + side;
    if (!at.has(left)) continue;
    for (i64 place = at.starts[left]; place < at.starts[left + 1]; ++place) {
      const i64 target = at.order[place];
      Compute part;
      if (!share(at.brackets[target], mode, p.slope != 0, side == 0, &part)) continue;
      const i64 offset = at.batch * p.grad.batch_step + target * p.grad.row_step + channel * p.grad.channel_step;
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
  packed.store(static_cast<V*>(p.output) + at.row * p.width + channel);
}

// What a target gives one of its bracket's quaternions: the gradient, or its derivative along the tangent.
template <class V, bool CURVATURE>
__device__ Quaternion<double> slerp_part(
    const ResampleBackwardParams& p, i64 values, i64 tangent, const Bracket& bracket, const Quaternion<double>& grad,
    bool right) {
  const Quaternion<double> a = quaternion<V>(p.values, values), b = quaternion<V>(p.values, values + p.values.row_step);
  if constexpr (CURVATURE) {
    const Quaternion<double> da = quaternion<V>(p.tangent, tangent);
    const Quaternion<double> db = quaternion<V>(p.tangent, tangent + p.tangent.row_step);
    Quaternion<Dual<double>> by_a, by_b;
    slerp_gradient(dual(a, da), dual(b, db), bracket.weight, dual(grad, Quaternion<double>{}), &by_a, &by_b);
    return slope_of(right ? by_b : by_a);
  } else {
    Quaternion<double> by_a, by_b;
    slerp_gradient(a, b, bracket.weight, grad, &by_a, &by_b);
    return right ? by_b : by_a;
  }
}

// As `slerp_part`, for one of the four samples around a bracket.
template <class V, bool CURVATURE>
__device__ typename Element<V>::Compute pchip_part(
    const ResampleBackwardParams& p, i64 values, i64 tangent, const Bracket& bracket, int sample) {
  using Compute = typename Element<V>::Compute;
  const Window<Compute> x = window<V>(p.values, values, bracket);
  const Compute weight = static_cast<Compute>(bracket.weight);
  const Spans<Compute> spans = spans_of<Compute>(bracket);
  if constexpr (CURVATURE) {
    const Window<Dual<Compute>> by = pchip_gradient(dual(x, window<V>(p.tangent, tangent, bracket)), weight, spans);
    return sample < 2 ? (sample == 0 ? by.at[0] : by.at[1]).slope : (sample == 2 ? by.at[2] : by.at[3]).slope;
  } else {
    const Window<Compute> by = pchip_gradient(x, weight, spans);
    return sample < 2 ? (sample == 0 ? by.at[0] : by.at[1]) : (sample == 2 ? by.at[2] : by.at[3]);
  }
}

// Threads: one for each unit of each source row, as above; a curve also gathers from the brackets beside those two.
template <class V, bool CURVATURE>
__device__ void curved_backward_rows(const ResampleBackwardParams& p) {
  using E = Element<V>;
  using Compute = typename E::Compute;
  const Gathered at(p, p.last - p.first);
  if (!at.real) return;
  const Unit unit = unit_of(p.groups, p.first + at.item);
  const int width = unit.mode == SLERP ? 4 : 1;
  Compute sums[4] = {};
  // `sample` says which of left - 1 to left + 2 this thread's sample is, so that brackets ascend.
  for (int sample = unit.mode == PCHIP ? 3 : 2; sample >= (unit.mode == PCHIP ? 0 : 1); --sample) {
    const i64 left = at.sample + 1 - sample;
    if (!at.has(left)) continue;
    const auto first = [&](const Channels& c) {
      return at.batch * c.batch_step + left * c.row_step + unit.channel * c.channel_step;
    };
    for (i64 place = at.starts[left]; place < at.starts[left + 1]; ++place) {
      const i64 target = at.order[place];
      const Bracket bracket = at.brackets[target];
      const i64 offset = at.batch * p.grad.batch_step + target * p.grad.row_step + unit.channel * p.grad.channel_step;
      const bool live = bracket.fill == NONE && static_cast<Compute>(bracket.weight) != Compute(0) && p.slope == 0;
      if (live && unit.mode == SLERP) {
        const Quaternion<double> part =
            slerp_part<V, CURVATURE>(p, first(p.values), first(p.tangent), bracket, quaternion<V>(p.grad, offset), sample == 2);
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[k] = sums[k] + static_cast<Compute>(part.at[k]);
      } else if (live && unit.mode == PCHIP) {
        if ((sample == 0 && bracket.before == 0.0) || (sample == 3 && bracket.after == 0.0)) continue;
        const Compute part = pchip_part<V, CURVATURE>(p, first(p.values), first(p.tangent), bracket, sample);
        sums[0] = fused(part, E::widen(*element<V>(p.grad.data, offset)), sums[0]);
      } else {
        Compute part;
        if (CURVATURE || sample == 0 || sample == 3) continue;
        if (!share(bracket, unit.mode, p.slope != 0, sample == 2, &part)) continue;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (k < width) sums[k] = fused(part, E::widen(*element<V>(p.grad.data, offset + k * p.grad.channel_step)), sums[k]);
        }
      }
    }
  }
  V* output = static_cast<V*>(p.output) + at.row * p.width + unit.channel;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (k < width) output[k] = E::narrow(sums[k]);
  }
}

// The whole of a forward launch: plain, curved, or the derivative along a tangent.
template <class T, class V, int N>
__device__ void resample_plain(const ResampleParams& p) {
  const i64 warp = warp_of_grid();
  Bracket mine;
  if (brackets_of_warp<T>(p.rows, warp, false, &mine)) plain_rows<V, N, false>(p.rows, p.groups, warp, mine);
}

// Of any type of times: copies of integers and slopes are not compiled once for each.
template <class V, int N, bool SLOPE>
__device__ void resample_plain_any(const ResampleParams& p) {
  const i64 warp = warp_of_grid();
  Bracket mine;
  if (brackets_of_any(p.rows, warp, false, &mine)) plain_rows<V, N, SLOPE>(p.rows, p.groups, warp, mine);
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

#define FORWARD(TIME, T, VALUE, V)                                                                      \
  KERNEL(resample_##TIME##_##VALUE, ResampleParams, 128, resample_plain<T, V, 1>)                \
  KERNEL(resample_##TIME##_##VALUE##_wide, ResampleParams, 128, resample_plain<T, V, WIDE<V>>)
#define CURVED(VALUE, V)                                                                    \
  KERNEL(resample_slope_##VALUE, ResampleParams, 128, resample_plain_any<V, 1, true>)       \
  KERNEL(resample_curved_##VALUE, ResampleParams, 128, resample_curved<V>)                  \
  KERNEL(resample_tangent_##VALUE, ResampleTangentParams, 128, resample_tangent<V>)
CURVED(f64, double)
CURVED(f32, float)
CURVED(f16, __half)
CURVED(bf16, __nv_bfloat16)

#define FORWARD_ALL(TIME, T)                     \
  FORWARD(TIME, T, f64, double)                  \
  FORWARD(TIME, T, f32, float)                   \
  FORWARD(TIME, T, f16, __half)                  \
  FORWARD(TIME, T, bf16, __nv_bfloat16)
FORWARD_ALL(f64, double)
FORWARD_ALL(f32, float)
FORWARD_ALL(i64, long long)

#define COPIES(VALUE, V)                                                                       \
  KERNEL(resample_##VALUE, ResampleParams, 128, resample_plain_any<V, 1, false>)               \
  KERNEL(resample_##VALUE##_wide, ResampleParams, 128, resample_plain_any<V, WIDE<V>, false>)
COPIES(b64, Raw<unsigned long long>)
COPIES(b32, Raw<unsigned>)
COPIES(b16, Raw<unsigned short>)
COPIES(b8, Raw<unsigned char>)

#define TIME_GRAD(TIME, T, VALUE, V)                                                              \
  KERNEL(resample_time_grad_##TIME##_##VALUE, ResampleTimeGradParams, 128, time_gradient_rows<T, V>)
#define TIME_GRAD_ALL(TIME, T)        \
  TIME_GRAD(TIME, T, f64, double)     \
  TIME_GRAD(TIME, T, f32, float)      \
  TIME_GRAD(TIME, T, f16, __half)     \
  TIME_GRAD(TIME, T, bf16, __nv_bfloat16)
TIME_GRAD_ALL(f64, double)
TIME_GRAD_ALL(f32, float)

KERNEL(resample_bracket_f64, ResampleBracketParams, 128, bracket_rows<double>)
KERNEL(resample_bracket_f32, ResampleBracketParams, 128, bracket_rows<float>)
KERNEL(resample_bracket_i64, ResampleBracketParams, 128, bracket_rows<long long>)

#define BACKWARD(VALUE, V)                                                                                  \
  KERNEL(resample_backward_##VALUE, ResampleBackwardParams, 256, backward_rows<V, 1>)                       \
  KERNEL(resample_backward_##VALUE##_wide, ResampleBackwardParams, 256, backward_rows<V, WIDE<V>>)          \
  KERNEL(resample_backward_curved_##VALUE, ResampleBackwardParams, 128, curved_backward_rows<V, false>)     \
  KERNEL(resample_curvature_##VALUE, ResampleBackwardParams, 128, curved_backward_rows<V, true>)
BACKWARD(f64, double)
BACKWARD(f32, float)
BACKWARD(f16, __half)
BACKWARD(bf16, __nv_bfloat16)
