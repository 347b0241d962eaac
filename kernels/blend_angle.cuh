// Angles in radians: the device half of src/ops/blend/angle.rs.
#pragma once

#include "common.cuh"

namespace robocache {

// Half a turn, a whole one, what is missing in it, and turns in a radian, each to the nearest number.
template <class C>
struct Turn;

template <>
struct Turn<float> {
  static constexpr float HALF = 3.14159274f, WHOLE = 6.28318548f, REST = -1.7484555e-7f, TURNS = 0.159154937f;
  static __device__ float round(float x) { return rintf(x); }
  // Not inlined: rare, and a loop of its own.
  static __device__ __noinline__ float remainder(float x) { return fmodf(x, WHOLE); }
};

template <>
struct Turn<double> {
  static constexpr double HALF = 3.141592653589793, WHOLE = 6.283185307179586, REST = 2.4492935982947064e-16,
                          TURNS = 0.15915494309189535;
  static __device__ double round(double x) { return rint(x); }
  static __device__ __noinline__ double remainder(double x) { return fmod(x, WHOLE); }
};

// Moved by whole turns into [-pi, pi); an angle that lies there stays as it is.
template <class C>
__device__ C wrap_angle(C angle) {
  using T = Turn<C>;
  constexpr C FAR = 65536;
  if (-T::HALF <= angle && angle < T::HALF) return angle;
  const C near = -FAR < angle && angle < FAR ? angle : T::remainder(angle);
  const C turns = -T::round(near * T::TURNS);
  C wrapped = fused(turns, T::REST, fused(turns, T::WHOLE, near));
  if (wrapped >= T::HALF) wrapped = wrapped - T::WHOLE;
  else if (wrapped < -T::HALF) wrapped = wrapped + T::WHOLE;
  return wrapped >= T::HALF ? -T::HALF : wrapped;
}

// Part `weight` of the shorter arc from `left` to `right`.
template <class C>
__device__ C blend_angle(C left, C right, C weight) {
  left = wrap_angle(left);
  return wrap_angle(fused(weight, wrap_angle(wrap_angle(right) - left), left));
}

}  // namespace robocache
