// Gradients gathered by source row: what each target gives the samples of its bracket, added in one fixed order, without
// atomics.
#pragma once

#include "rows.cuh"

namespace robocache {

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
        const Quaternion<double> grad = quaternion<V>(p.grad, offset);
        const Quaternion<double> part =
            slerp_part<V, CURVATURE>(p, first(p.values), first(p.tangent), bracket, grad, sample == 2);
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
          if (k >= width) continue;
          const V grad = *element<V>(p.grad.data, offset + k * p.grad.channel_step);
          sums[k] = fused(part, E::widen(grad), sums[k]);
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

}  // namespace robocache
