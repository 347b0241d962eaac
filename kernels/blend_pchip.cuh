// The monotone cubic: the device half of src/ops/blend/pchip.rs, which says where the formulas come from.
#pragma once

#include "number.cuh"

namespace robocache {

// How long the neighbours' spans are, in spans of the bracket; 0 where the curve ends at that side of the bracket.
template <class C>
struct Spans {
  C before, after;
};

// Some channel of the samples left - 1 to left + 2.
template <class N>
struct Window {
  N at[4];
};

template <class N>
struct Chords {
  N before, own, after;
};

template <class N, class C>
__device__ Chords<N> chords_of(const Window<N>& x, const Spans<C>& spans) {
  const N before = x.at[1] - x.at[0], after = x.at[3] - x.at[2];
  return {spans.before == C(0) ? before : before / Number<N>::constant(spans.before), x.at[2] - x.at[1],
          spans.after == C(0) ? after : after / Number<N>::constant(spans.after)};
}

// A slope of the curve and its derivatives by the three chords that it may depend on.
template <class N>
struct Slope {
  N value, by_own, by_near, by_far;
};

// True where one rises and the other does not, or one falls and the other does not; false for NaN, which shall spread.
template <class C>
__device__ bool apart(C a, C b) {
  return (a >= C(0) && b <= C(0)) || (a <= C(0) && b >= C(0));
}

// The slope at one side of the bracket: `near` is the chord beyond that side, `far` the one beyond the other.
template <class N, class C>
__device__ Slope<N> pchip_slope(N own, N near, N far, C near_span, C far_span) {
  using X = Number<N>;
  const N zero = X::constant(0), one = X::constant(1);
  if (near_span != C(0)) {
    if (apart(X::value(own), X::value(near))) return {zero, zero, zero, zero};
    const N near_part = X::constant(C(2) + near_span), own_part = X::constant(fused(C(2), near_span, C(1)));
    const N all = near_part + own_part;
    const N value = all / (near_part / near + own_part / own);
    const N to_near = value / near, to_own = value / own;
    return {value, to_own * to_own * (own_part / all), to_near * to_near * (near_part / all), zero};
  }
  if (far_span == C(0)) return {own, one, zero, zero};
  const N all = X::constant(C(1) + far_span), twice = X::constant(C(2) + far_span);
  const N value = (twice * own - far) / all;
  const C rise = X::value(own);
  const C steep = C(3) * rise;
  if (apart(X::value(value), rise)) return {zero, zero, zero, zero};
  const bool past = rise > C(0) ? X::value(value) > steep : X::value(value) < steep;
  if (apart(rise, X::value(far)) && past) return {X::constant(3) * own, X::constant(3), zero, zero};
  return {value, twice / all, zero, -(one / all)};
}

// The curve at part `weight` of the bracket.
template <class C>
__device__ C blend_pchip(const Window<C>& x, C weight, const Spans<C>& spans) {
  const Chords<C> chords = chords_of(x, spans);
  const C left = pchip_slope(chords.own, chords.before, chords.after, spans.before, spans.after).value;
  const C right = pchip_slope(chords.own, chords.after, chords.before, spans.after, spans.before).value;
  const C cubic = (left + right) - (chords.own + chords.own);
  const C square = (chords.own - left) - cubic;
  const C point = fused(weight, fused(weight, fused(weight, cubic, square), left), x.at[1]);
  // Rounding alone could leave the bracket.
  const bool rises = x.at[1] <= x.at[2];
  const C low = rises ? x.at[1] : x.at[2], high = rises ? x.at[2] : x.at[1];
  return point < low ? low : (point > high ? high : point);
}

// The derivatives of the blend by the four samples; 0 by one beside the bracket where the curve ends before it.
template <class N, class C>
__device__ Window<N> pchip_gradient(const Window<N>& x, C weight, const Spans<C>& spans) {
  using X = Number<N>;
  const Chords<N> chords = chords_of(x, spans);
  const Slope<N> left = pchip_slope(chords.own, chords.before, chords.after, spans.before, spans.after);
  const Slope<N> right = pchip_slope(chords.own, chords.after, chords.before, spans.after, spans.before);
  const C rest = C(1) - weight;
  // The cubic is x[1] + of_left * left + of_right * right + of_own * own.
  const N of_left = X::constant(weight * rest * rest);
  const N of_right = X::constant(-(weight * weight * rest));
  const N of_own = X::constant(weight * weight * (rest + rest + C(1)));
  const N own = fused(of_left, left.by_own, fused(of_right, right.by_own, of_own));
  const N zero = X::constant(0);
  const auto share = [&](C span, N near, N far) { return span == C(0) ? zero : (near + far) / X::constant(span); };
  const N before = share(spans.before, of_left * left.by_near, of_right * right.by_far);
  const N after = share(spans.after, of_right * right.by_near, of_left * left.by_far);
  return {-before, (X::constant(1) - own) + before, own - after, after};
}

// The derivative of the blend along a direction.
template <class C>
__device__ C pchip_tangent(const Window<C>& x, C weight, const Spans<C>& spans, const Window<C>& a) {
  const Window<C> by = pchip_gradient(x, weight, spans);
  return fused(by.at[0], a.at[0], fused(by.at[1], a.at[1], fused(by.at[2], a.at[2], by.at[3] * a.at[3])));
}

template <class C>
__device__ Window<Dual<C>> dual(const Window<C>& x, const Window<C>& slope) {
  Window<Dual<C>> out;
#pragma unroll
  for (int k = 0; k < 4; ++k) out.at[k] = {x.at[k], slope.at[k]};
  return out;
}

}  // namespace robocache
