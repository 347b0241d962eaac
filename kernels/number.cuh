// Numbers that carry a derivative along: the device half of src/number.rs.
#pragma once

#include "common.cuh"

namespace robocache {

template <class N>
struct Dual {
  N value, slope;
};

// What a formula needs to know of the numbers it is written over.
template <class N>
struct Number {
  using Real = N;
  static __device__ N constant(N value) { return value; }
  static __device__ N value(N number) { return number; }
};

template <class N>
struct Number<Dual<N>> {
  using Real = typename Number<N>::Real;
  static __device__ Dual<N> constant(Real value) { return {Number<N>::constant(value), Number<N>::constant(Real(0))}; }
  static __device__ Real value(Dual<N> number) { return Number<N>::value(number.value); }
};

template <class N>
__device__ Dual<N> operator+(Dual<N> a, Dual<N> b) {
  return {a.value + b.value, a.slope + b.slope};
}

template <class N>
__device__ Dual<N> operator-(Dual<N> a, Dual<N> b) {
  return {a.value - b.value, a.slope - b.slope};
}

template <class N>
__device__ Dual<N> operator-(Dual<N> a) {
  return {-a.value, -a.slope};
}

template <class N>
__device__ Dual<N> operator*(Dual<N> a, Dual<N> b) {
  return {a.value * b.value, fused(a.slope, b.value, a.value * b.slope)};
}

template <class N>
__device__ Dual<N> operator/(Dual<N> a, Dual<N> b) {
  const N quotient = a.value / b.value;
  return {quotient, (a.slope - quotient * b.slope) / b.value};
}

template <class N>
__device__ Dual<N> fused(Dual<N> a, Dual<N> b, Dual<N> c) {
  const N slope = fused(a.value, b.slope, c.slope);
  return {fused(a.value, b.value, c.value), fused(a.slope, b.value, slope)};
}

__device__ inline float root(float a) { return __fsqrt_rn(a); }
__device__ inline double root(double a) { return __dsqrt_rn(a); }

template <class N>
__device__ Dual<N> root(Dual<N> a) {
  const N value = root(a.value);
  return {value, a.slope / (value + value)};
}

// The polynomial of these coefficients, the constant first, by Horner's rule.
template <class N, int COUNT>
__device__ N polynomial(N x, const typename Number<N>::Real (&coefficients)[COUNT]) {
  N sum = Number<N>::constant(0);
#pragma unroll
  for (int k = COUNT - 1; k >= 0; --k) sum = fused(sum, x, Number<N>::constant(coefficients[k]));
  return sum;
}

}  // namespace robocache
