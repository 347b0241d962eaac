// Gradients of rows that also turn, slerp or bend, gathered unit by unit.
//
// Two launches prepare it: `resample_bracket` finds the bracket of every target, `resample_order` puts the targets of a
// row in ascending (bracket, target) order.
#pragma once

#include "gather.cuh"
#include "rows_curved.cuh"

namespace robocache {

// The source row of a thread, and the places of the order whose brackets begin at each sample of its row of the batch.
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
    samples = p.times.samples;
    batch = row / samples;
    sample = row % samples;
    real = row < p.times.batch * samples;
    const i64 distinct = p.rows == 1 ? 0 : batch;
    starts = p.starts + distinct * (samples + 1);
    order = p.order + distinct * p.times.targets;
    brackets = p.brackets + distinct * p.times.targets;
  }

  // Whether brackets can begin at a sample: one of the row.
  __device__ bool has(i64 other) const { return 0 <= other && other < samples; }
};

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

// Threads: one for each unit of each source row. It gathers what brackets that end at its row give, then what brackets
// that begin there give, in ascending target order; a curve also gathers from the brackets beside those two.
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
        const bool slope = p.slope != 0;
        const Compute weight = static_cast<Compute>(slope ? bracket.rate : bracket.weight);
        const unsigned flags = slope ? flags_of<Compute, true>(bracket) : flags_of<Compute, false>(bracket);
        if (!part_of(weight, flags, unit.mode, slope, sample == 2, &part)) continue;
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
