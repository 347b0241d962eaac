// Gradients gathered by source row: what each target gives the samples of its bracket, added in one fixed order, without
// atomics.
#pragma once

#include "rows_curved.cuh"

namespace robocache {

struct ResampleBackwardParams {
  Timeline times;
  Channels grad;     // [B, T, D]
  Channels values;   // [B, S, D]; null where no derivative depends on them
  Channels tangent;  // [B, S, D]; null but for the curvature
  const Bracket* brackets;
  const i64* order;
  const i64* starts;
  const int* disorder;  // as in ResampleBracketParams
  void* output;  // [B, S, D]
  i64 width, first, last;
  i64 rows;  // distinct rows of brackets: 1 or B
  i64 tile, tiles;  // as in Rows, and the next two; not of a launch by units
  int rows_per_share;
  int chunks;
  int slope;
  int time_type;  // a TimeType
  Groups groups;
};
static_assert(sizeof(ResampleBackwardParams) == 624, "mirrors ops::resample::cuda::BackwardParams");

// Targets whose disorder one number tells.
constexpr int ORDER_TILE = 256;

// Whether targets of a row of brackets ascend so that `first_from` says where each sample's brackets begin; else
// `order` and `starts` do. By all threads of a block for one row, or by a thread for its own.
template <bool TOGETHER>
__device__ bool ascends(const int* disorder, i64 row, i64 targets) {
  const i64 first = row * targets / ORDER_TILE, last = (row * targets + targets - 1) / ORDER_TILE;
  int found = 0;
  if (targets > 0) {
    for (i64 tile = first + (TOGETHER ? threadIdx.x : 0); tile <= last; tile += TOGETHER ? blockDim.x : 1)
      found |= disorder[tile];
  }
  return TOGETHER ? __syncthreads_or(found) == 0 : found == 0;
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

// The source row of a thread of a curved gather, and the places of the order whose brackets begin at each sample of that row.
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

// What a block of gathered rows keeps in shared memory: places of the order where brackets begin at the sample before
// each row, at it, and after it.
struct GatherShared {
  u64 pivots[PIVOTS];
  i64 before[MAX_ROWS], at[MAX_ROWS], after[MAX_ROWS];
  bool sorted[MAX_ROWS];  // places are targets; else the order tells which
};

// Targets of ascending ones that come before those whose bracket begins at `sample`.
template <class Times, class T>
__device__ i64 first_from(const Times& targets, const Samples<T>& samples, i64 sample) {
  if (sample <= 0) return 0;
  return sample >= samples.count ? targets.count : bound<BEFORE>(targets, samples.at(sample));
}

template <class T>
__device__ void find_places(const ResampleBackwardParams& p, const BlockShare& share, GatherShared& shared) {
  const int mine = static_cast<int>(threadIdx.x);
  const bool real = mine < share.rows;
  const i64 row = share.first + (real ? mine : 0);
  const i64 batch = share.alike ? share.batch : quotient(row, p.times.samples);
  const i64 sample = row - batch * p.times.samples, distinct = p.rows == 1 ? 0 : batch;
  const Samples<T> samples = samples_of<T>(p.times, batch);
  const Samples<T> targets = {
      element<T>(p.times.target_times, batch * p.times.target_row), p.times.target_step, p.times.targets};
  const auto keep = [&](bool sorted, i64 before, i64 at, i64 after) {
    if (!real) return;
    shared.sorted[mine] = sorted;
    shared.before[mine] = before;
    shared.at[mine] = at;
    shared.after[mine] = after;
  };
  const auto search = [&](const auto& times) {
    keep(true, first_from(times, samples, sample - 1), first_from(times, samples, sample),
         first_from(times, samples, sample + 1));
  };
  const auto look_up = [&] {
    const i64* starts = p.starts + distinct * (p.times.samples + 1) + sample;
    keep(false, sample == 0 ? starts[0] : starts[-1], starts[0], starts[1]);
  };
  if (share.alike) {
    const Staged<T> staged = stage(targets, reinterpret_cast<T*>(shared.pivots));
    if (ascends<true>(p.disorder, distinct, p.times.targets)) search(staged);
    else look_up();
  } else {
    if (ascends<false>(p.disorder, distinct, p.times.targets)) search(targets);
    else look_up();
  }
  __syncthreads();
}

// Adds what up to COUNT targets give a vector, in order, after the loads of all.
template <class V, int N, int COUNT>
__device__ void add_targets(
    const ResampleBackwardParams& p, const V* grad, const Bracket* brackets, const i64* order, Mode mode, i64 place,
    i64 at, i64 end, typename Element<V>::Compute (&sums)[N]) {
  using E = Element<V>;
  using Compute = typename E::Compute;
  using Chunk = Vector<V, N>;
  Packed<Chunk> packed[COUNT];
  Bracket found[COUNT];
  // What is loaded decides nothing here: a branch on it would wait for each load in turn.
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
    if (place + k >= end) continue;
    const i64 target = order == nullptr ? place + k : order[place + k];
    found[k] = brackets[target];
    packed[k].load(grad + target * p.grad.row_step);
  }
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
    Compute part;
    if (place + k >= end || !share(found[k], mode, p.slope != 0, place + k < at, &part)) continue;
    const Chunk chunk = packed[k].unpack();
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n] = fused(part, E::widen(chunk.at[n]), sums[n]);
  }
}

// Threads: thread t takes the vectors t, t + 256, ... of N channels of the block's source rows laid end to end. It
// gathers what brackets that end at its row give, then what brackets that begin there give, in ascending target order:
// one fixed order, no atomics. The loads of DEPTH targets are in flight together.
template <class V, int N, int DEPTH>
__device__ void backward_rows(const ResampleBackwardParams& p) {
  using E = Element<V>;
  using Compute = typename E::Compute;
  using Chunk = Vector<V, N>;
  alignas(16) __shared__ GatherShared shared;
  const BlockShare share = block_share(p, p.times.samples, blockIdx.x);
  if (p.time_type == F64_TIMES) find_places<double>(p, share, shared);
  else if (p.time_type == F32_TIMES) find_places<float>(p, share, shared);
  else find_places<i64>(p, share, shared);
  const i64 first_vector = share.tile * p.tile, vectors = (p.last - p.first) / N - first_vector;
  const unsigned across = static_cast<unsigned>(vectors < p.tile ? vectors : p.tile);
  const unsigned total = across * static_cast<unsigned>(share.rows);
  const unsigned inverse = 0xffffffffu / across + 1;
  for (unsigned item = threadIdx.x; item < total; item += PLAIN_BLOCK) {
    const unsigned row = across == 1 ? item : __umulhi(item, inverse);
    const i64 channel = p.first + (first_vector + (item - row * across)) * N;
    const i64 batch = share.alike ? share.batch : quotient(share.first + row, p.times.samples);
    const i64 distinct = p.rows == 1 ? 0 : batch;
    const V* grad = element<V>(p.grad.data, batch * p.grad.batch_step + channel * p.grad.channel_step);
    const Bracket* brackets = p.brackets + distinct * p.times.targets;
    const i64* order = shared.sorted[row] ? nullptr : p.order + distinct * p.times.targets;
    const Mode mode = mode_of(p.groups, channel);
    Compute sums[N] = {};
    const i64 at = shared.at[row], end = shared.after[row];
    for (i64 place = shared.before[row]; place < end; place += DEPTH)
      add_targets<V, N, DEPTH>(p, grad, brackets, order, mode, place, at, end, sums);
    Chunk out;
#pragma unroll
    for (int n = 0; n < N; ++n) out.at[n] = E::narrow(sums[n]);
    Packed<Chunk> packed;
    packed.pack(out);
    packed.store(static_cast<V*>(p.output) + (share.first + row) * p.width + channel);
  }
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
