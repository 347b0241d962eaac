// Spherical linear interpolation in f64: the device half of src/ops/blend/slerp.rs, which says where the formulas come
// from.
#pragma once

#include "number.cuh"

namespace robocache {

template <class N>
struct Quaternion {
  N at[4];
};

// sin(x) / x in powers of x^2, up to a quarter turn.
template <class N>
__device__ N sinc(N squared) {
  constexpr double COEFFICIENTS[] = {
      1.0, -0.16666666666666666, 0.008333333333333333, -0.0001984126984126984, 2.755731922398577e-06,
      -2.5052108385418758e-08, 1.6059043834113166e-10, -7.647163526594364e-13, 2.811447261102038e-15,
      -8.217611179007604e-18, 1.9054693395452076e-20};
  return polynomial(squared, COEFFICIENTS);
}

// theta^2 of z = sin^2(theta / 2), up to a quarter turn.
__device__ inline double squared_angle(double z) {
  constexpr double COEFFICIENTS[] = {
      4.0, 1.333333333333327, 0.7111111111129729, 0.4571428569269648, 0.3250793783069096,
      0.2462717513902139, 0.19486508977196593, 0.15891371623354522, 0.13589879314602948,
      0.08681131507311188, 0.29519828390044445, -1.0392555582266518, 5.093982382330445,
      -17.41380389103478, 47.490599617101616, -99.15019061755167, 157.09859196411315,
      -182.23111603355858, 146.78448645385856, -73.53846595730862, 17.53058494573774};
  return z * polynomial(z, COEFFICIENTS);
}

template <class N>
__device__ Dual<N> squared_angle(Dual<N> z) {
  const N value = squared_angle(z.value);
  // d(theta^2) / dz = 4 theta / sin(theta)
  return {value, z.slope * (Number<N>::constant(4.0) / sinc(value))};
}

template <class N>
__device__ N dot(const Quaternion<N>& a, const Quaternion<N>& b) {
  return fused(a.at[0], b.at[0], fused(a.at[1], b.at[1], fused(a.at[2], b.at[2], a.at[3] * b.at[3])));
}

template <class N>
__device__ Quaternion<N> operator-(const Quaternion<N>& q) {
  return {-q.at[0], -q.at[1], -q.at[2], -q.at[3]};
}

template <class N>
__device__ Quaternion<N> operator-(const Quaternion<N>& a, const Quaternion<N>& b) {
  return {a.at[0] - b.at[0], a.at[1] - b.at[1], a.at[2] - b.at[2], a.at[3] - b.at[3]};
}

template <class N>
__device__ Quaternion<N> operator*(const Quaternion<N>& q, N factor) {
  return {q.at[0] * factor, q.at[1] * factor, q.at[2] * factor, q.at[3] * factor};
}

// True where the arc is shorter to the other one with its sign turned; in pairs and without fma.
template <class N>
__device__ bool opposite(const Quaternion<N>& a, const Quaternion<N>& b) {
  double product[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) product[k] = Number<N>::value(a.at[k]) * Number<N>::value(b.at[k]);
  return (product[0] + product[1]) + (product[2] + product[3]) < 0.0;
}

// A power of two that keeps the squares of all components within range.
template <class N>
__device__ double scale_of(const Quaternion<N>& q) {
  constexpr double LARGE = 1e150, SHIFT = 6.223015277861142e-61;  // 2^-200
  double size[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) size[k] = fabs(Number<N>::value(q.at[k]));
  if (size[0] > LARGE || size[1] > LARGE || size[2] > LARGE || size[3] > LARGE) return SHIFT * SHIFT * SHIFT;
  return size[0] + size[1] + size[2] + size[3] < 1.0 / LARGE ? 1.0 / SHIFT / SHIFT / SHIFT : 1.0;
}

// Made of norm 1; `factor` is what it was multiplied by.
template <class N>
__device__ Quaternion<N> unit(const Quaternion<N>& q, N* factor) {
  const N scale = Number<N>::constant(scale_of(q));
  const Quaternion<N> scaled = q * scale;
  const N own = Number<N>::constant(1.0) / root(dot(scaled, scaled));
  *factor = own * scale;
  return scaled * own;
}

// Two quaternions of norm 1 on one side of the sphere, and what they were multiplied by to be so.
template <class N>
struct Arc {
  Quaternion<N> a, b;
  N a_factor, b_factor;
  bool flipped;
  N z;  // sin^2(theta / 2)
};

template <class N>
__device__ Arc<N> arc_of(const Quaternion<N>& a, const Quaternion<N>& b) {
  Arc<N> arc;
  arc.flipped = opposite(a, b);
  arc.a = unit(a, &arc.a_factor);
  arc.b = unit(b, &arc.b_factor);
  if (arc.flipped) arc.b = -arc.b;
  const Quaternion<N> difference = arc.b - arc.a;
  arc.z = Number<N>::constant(0.25) * dot(difference, difference);
  return arc;
}

// The factors of both quaternions as functions of sin^2(theta / 2).
template <class N>
__device__ void slerp_factors(N z, double weight, N* left, N* right) {
  const N squared = squared_angle(z);
  const N factor = Number<N>::constant(1.0) / sinc(squared);
  const double rest = 1.0 - weight;
  *left = Number<N>::constant(rest) * sinc(squared * Number<N>::constant(rest * rest)) * factor;
  *right = Number<N>::constant(weight) * sinc(squared * Number<N>::constant(weight * weight)) * factor;
}

template <class N>
__device__ Quaternion<N> blend_slerp(const Quaternion<N>& a, const Quaternion<N>& b, double weight) {
  const Arc<N> arc = arc_of(a, b);
  N left, right;
  slerp_factors(arc.z, weight, &left, &right);
  Quaternion<N> out;
#pragma unroll
  for (int k = 0; k < 4; ++k) out.at[k] = fused(left, arc.a.at[k], right * arc.b.at[k]);
  return out;
}

// The gradient by a quaternion from that by the unit one: what points along it has no effect.
template <class N>
__device__ Quaternion<N> of_raw(const Quaternion<N>& grad, const Quaternion<N>& unit, N factor) {
  const N along = dot(grad, unit);
  Quaternion<N> out;
#pragma unroll
  for (int k = 0; k < 4; ++k) out.at[k] = (grad.at[k] - along * unit.at[k]) * factor;
  return out;
}

// The gradients by `a` and `b` of the sum of `grad` times the blend.
template <class N>
__device__ void slerp_gradient(
    const Quaternion<N>& a, const Quaternion<N>& b, double weight, const Quaternion<N>& grad, Quaternion<N>* by_a,
    Quaternion<N>* by_b) {
  const Arc<N> arc = arc_of(a, b);
  const Dual<N> z = {arc.z, Number<N>::constant(1.0)};
  Dual<N> left, right;
  slerp_factors(z, weight, &left, &right);
  // dz/da = (a - b) / 2 and dz/db = (b - a) / 2.
  const N through_z = fused(dot(grad, arc.a), left.slope, dot(grad, arc.b) * right.slope);
  const N half = Number<N>::constant(0.5) * through_z;
  const Quaternion<N> between = arc.b - arc.a;
  Quaternion<N> of_a, of_b;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    of_a.at[k] = fused(left.value, grad.at[k], -(half * between.at[k]));
    of_b.at[k] = fused(right.value, grad.at[k], half * between.at[k]);
  }
  *by_a = of_raw(of_a, arc.a, arc.a_factor);
  *by_b = of_raw(of_b, arc.b, arc.b_factor);
  if (arc.flipped) *by_b = -*by_b;
}

__device__ inline Quaternion<Dual<double>> dual(const Quaternion<double>& q, const Quaternion<double>& slope) {
  Quaternion<Dual<double>> out;
#pragma unroll
  for (int k = 0; k < 4; ++k) out.at[k] = {q.at[k], slope.at[k]};
  return out;
}

__device__ inline Quaternion<double> slope_of(const Quaternion<Dual<double>>& q) {
  return {q.at[0].slope, q.at[1].slope, q.at[2].slope, q.at[3].slope};
}

}  // namespace robocache
