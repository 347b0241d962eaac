// Rows whose channels also turn, slerp or bend, and the derivatives of those: a warp's share of the work.
#pragma once

#include "blend_angle.cuh"
#include "blend_pchip.cuh"
#include "blend_slerp.cuh"
#include "rows.cuh"

namespace robocache {

// The bracket of this lane's row among those of a warp; false past the last row.
template <class T>
__device__ bool brackets_of_warp(const Rows& p, i64 warp, bool spans, Bracket* mine) {
  const i64 first_row = warp / p.tiles * p.rows_per_share;
  if (first_row >= p.times.batch * p.times.targets) return false;
  *mine = find_brackets<T>(p.times, first_row, p.rows_per_share, threadIdx.x % WARP, spans);
  return true;
}

// As above, whatever the type of the times: kernels with much code of their own are not compiled once for each.
__device__ inline bool brackets_of_any(const Rows& p, i64 warp, bool spans, Bracket* mine) {
  if (p.time_type == F64_TIMES) return brackets_of_warp<double>(p, warp, spans, mine);
  if (p.time_type == F32_TIMES) return brackets_of_warp<float>(p, warp, spans, mine);
  return brackets_of_warp<i64>(p, warp, spans, mine);
}

// A quaternion of a row in f64, and back.
template <class V>
__device__ Quaternion<double> quaternion(const Channels& values, i64 offset) {
  Quaternion<double> q;
#pragma unroll
  for (int k = 0; k < 4; ++k)
    q.at[k] = static_cast<double>(Element<V>::widen(*element<V>(values.data, offset + k * values.channel_step)));
  return q;
}

template <class V>
__device__ void write(const Quaternion<double>& q, V* output) {
#pragma unroll
  for (int k = 0; k < 4; ++k) output[k] = narrow_from<V>(q.at[k]);
}

// A channel of the samples around a bracket, of which `offset` is the left one; samples that the curve does not reach
// are others of the row, and are not used.
template <class V>
__device__ Window<typename Element<V>::Compute> window(const Channels& values, i64 offset, const Bracket& bracket) {
  using E = Element<V>;
  const i64 before = bracket.before != 0.0 ? values.row_step : 0;
  const i64 right = offset + values.row_step;
  const i64 after = bracket.after != 0.0 ? values.row_step : 0;
  return {E::widen(*element<V>(values.data, offset - before)), E::widen(*element<V>(values.data, offset)),
          E::widen(*element<V>(values.data, right)), E::widen(*element<V>(values.data, right + after))};
}

template <class C>
__device__ Spans<C> spans_of(const Bracket& bracket) {
  return {static_cast<C>(bracket.before), static_cast<C>(bracket.after)};
}

// Where a unit of a source row lies: sample `left` of the values, and of the tangent where there is one.
struct Source {
  const Channels& values;
  const Channels& tangent;
  i64 left, tangent_left;
};

// One unit of the result, or (with TANGENT) of its derivative along the tangent.
template <class V, bool TANGENT>
__device__ void curved_unit(const Source& s, Mode mode, const Bracket& bracket, V* output) {
  using E = Element<V>;
  using Compute = typename E::Compute;
  const int width = mode == SLERP ? 4 : 1;
  const Compute weight = static_cast<Compute>(bracket.weight);
  if (bracket.fill != NONE) {
    for (int k = 0; k < width; ++k) output[k] = bracket.fill == ZERO || TANGENT ? V{} : E::nan();
    return;
  }
  const Channels& read = TANGENT ? s.tangent : s.values;
  const i64 left = TANGENT ? s.tangent_left : s.left;
  const bool blends = mode == LINEAR || mode >= ANGLE;
  if (!blends || weight == Compute(0)) {
    const i64 offset = left + (copied(bracket, mode) - bracket.left) * read.row_step;
    for (int k = 0; k < width; ++k) {
      const V v = *element<V>(read.data, offset + k * read.channel_step);
      output[k] = mode == ANGLE && !TANGENT ? E::narrow(wrap_angle(E::widen(v))) : v;
    }
    return;
  }
  if (mode == SLERP) {
    const Quaternion<double> a = quaternion<V>(s.values, s.left);
    const Quaternion<double> b = quaternion<V>(s.values, s.left + s.values.row_step);
    if constexpr (TANGENT) {
      const Quaternion<double> da = quaternion<V>(s.tangent, left);
      const Quaternion<double> db = quaternion<V>(s.tangent, left + s.tangent.row_step);
      write(slope_of(blend_slerp(dual(a, da), dual(b, db), bracket.weight)), output);
    } else {
      write(blend_slerp(a, b, bracket.weight), output);
    }
    return;
  }
  if (mode == PCHIP) {
    const Window<Compute> x = window<V>(s.values, s.left, bracket);
    const Spans<Compute> spans = spans_of<Compute>(bracket);
    if constexpr (TANGENT) *output = E::narrow(pchip_tangent(x, weight, spans, window<V>(s.tangent, left, bracket)));
    else *output = E::narrow(blend_pchip(x, weight, spans));
    return;
  }
  const Compute a = E::widen(*element<V>(read.data, left));
  const Compute b = E::widen(*element<V>(read.data, left + read.row_step));
  *output = E::narrow(mode == ANGLE && !TANGENT ? blend_angle(a, b, weight) : fused(weight, b - a, a));
}

// Threads: a warp handles `rows_per_share` rows of [B * T] and one tile of their units; lane l takes the units l, l +
// 32, ... of the rows laid end to end.
template <class V, bool TANGENT, class Groups>
__device__ void curved_rows(
    const Rows& p, const Channels& tangent, const Groups& groups, i64 warp, const Bracket& mine) {
  const int lane = threadIdx.x % WARP;
  const i64 first_row = warp / p.tiles * p.rows_per_share;
  const i64 all = p.times.batch * p.times.targets;
  const i64 tile_start = warp % p.tiles * p.tile;
  const i64 units = p.last - p.first - tile_start;
  const int across = static_cast<int>(units < p.tile ? units : p.tile);
  const int rows = static_cast<int>(all - first_row < p.rows_per_share ? all - first_row : p.rows_per_share);
  const int total = across * rows;
  for (int base = 0; base < total; base += WARP) {
    const int item = base + lane;
    const bool real = item < total;
    const int r = real ? item / across : 0;
    const Bracket bracket = bracket_of_lane(mine, r);
    if (!real) continue;
    const Unit unit = unit_of(groups, p.first + tile_start + (item - r * across));
    const i64 batch = (first_row + r) / p.times.targets;
    const auto left = [&](const Channels& c) {
      return batch * c.batch_step + bracket.left * c.row_step + unit.channel * c.channel_step;
    };
    const Source source = {p.values, tangent, left(p.values), TANGENT ? left(tangent) : 0};
    V* output = static_cast<V*>(p.output) + (first_row + r) * p.width + p.column + unit.channel;
    curved_unit<V, TANGENT>(source, unit.mode, bracket, output);
  }
}

}  // namespace robocache
