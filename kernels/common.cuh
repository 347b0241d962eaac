// What every kernel shares: element types, their compute types, exact conversions, and vectors of elements.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace robocache {

using i64 = long long;
using u64 = unsigned long long;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// What every kernel begins with before it touches memory: it waits until all that the stream was given before is done
// and seen, and lets the next kernel come to that point meanwhile. Where launches overlap (src/cuda.rs) this hides what a
// launch costs, and what a block does before: its share, its shared memory. To begin again is nothing.
__device__ inline void begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline i64 warp_of_grid() {
  return static_cast<i64>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
}

// An integer or bool that is copied, never computed; its NaN is zero.
template <class Bits>
struct Raw {
  Bits bits;
};

// The compute type of an element and the two conversions; `narrow` rounds once, to nearest even.
template <class V>
struct Element;

template <>
struct Element<double> {
  using Compute = double;
  static __device__ double widen(double v) { return v; }
  static __device__ double narrow(double c) { return c; }
  static __device__ double nan() { return __longlong_as_double(0x7ff8000000000000ll); }
};

template <>
struct Element<float> {
  using Compute = float;
  static __device__ float widen(float v) { return v; }
  static __device__ float narrow(float c) { return c; }
  static __device__ float nan() { return __int_as_float(0x7fc00000); }
};

template <>
struct Element<__half> {
  using Compute = float;
  static __device__ float widen(__half v) { return __half2float(v); }
  static __device__ __half narrow(float c) { return __float2half_rn(c); }
  static __device__ __half nan() { return __ushort_as_half(0x7e00); }
};

template <>
struct Element<__nv_bfloat16> {
  using Compute = float;
  static __device__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
  static __device__ __nv_bfloat16 narrow(float c) { return __float2bfloat16_rn(c); }
  static __device__ __nv_bfloat16 nan() { return __ushort_as_bfloat16(0x7fc0); }
};

template <class Bits>
struct Element<Raw<Bits>> {
  using Compute = float;
  static __device__ Raw<Bits> nan() { return Raw<Bits>{0}; }
};

// `narrow` of an f64, rounded once: to a half by way of an f32 that is rounded to odd, which keeps what decides.
template <class V>
__device__ V narrow_from(double c) {
  return Element<V>::narrow(static_cast<typename Element<V>::Compute>(c));
}

__device__ inline float round_to_odd(double c) {
  const float nearest = static_cast<float>(c);
  if (!(static_cast<double>(nearest) != c)) return nearest;
  const unsigned bits = __float_as_uint(nearest);
  return __uint_as_float((fabs(static_cast<double>(nearest)) > fabs(c) ? bits - 1 : bits) | 1u);
}

template <>
__device__ inline __half narrow_from<__half>(double c) {
  return Element<__half>::narrow(c == c ? round_to_odd(c) : static_cast<float>(c));
}

template <>
__device__ inline __nv_bfloat16 narrow_from<__nv_bfloat16>(double c) {
  return Element<__nv_bfloat16>::narrow(c == c ? round_to_odd(c) : static_cast<float>(c));
}

template <class V>
constexpr bool IS_RAW = false;
template <class Bits>
constexpr bool IS_RAW<Raw<Bits>> = true;

__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

// N neighbouring elements, moved in one access.
template <class V, int N>
struct alignas(sizeof(V) * N) Vector {
  V at[N];
};

template <class V>
constexpr int WIDE = 16 / sizeof(V);

// A vector as it travels: 16 bytes stay four registers until they are used, however small the elements.
template <class Chunk, bool WHOLE = sizeof(Chunk) == 16>
struct Packed {
  Chunk chunk;
  __device__ void load(const void* from) { chunk = *static_cast<const Chunk*>(from); }
  __device__ void load_in(const void* from, int) { load(from); }
  __device__ void store(void* to) const { *static_cast<Chunk*>(to) = chunk; }
  __device__ void store_in(void* to, int) const { store(to); }
  __device__ Chunk unpack() const { return chunk; }
  __device__ void pack(const Chunk& from) { chunk = from; }
};

template <class Chunk>
struct Packed<Chunk, true> {
  uint4 words;
  __device__ void load(const void* from) { words = __ldg(static_cast<const uint4*>(from)); }
  // In loads of 16, 8 or 4 bytes, from where no more are aligned.
  __device__ void load_in(const void* from, int bytes) {
    if (bytes == 16) return load(from);
    const unsigned* in = static_cast<const unsigned*>(from);
    if (bytes == 8) {
      const uint2 low = __ldg(reinterpret_cast<const uint2*>(in)), high = __ldg(reinterpret_cast<const uint2*>(in + 2));
      words = uint4{low.x, low.y, high.x, high.y};
      return;
    }
    words = uint4{__ldg(in), __ldg(in + 1), __ldg(in + 2), __ldg(in + 3)};
  }
  __device__ void store(void* to) const { *static_cast<uint4*>(to) = words; }
  // In stores of 16, 8 or 4 bytes, to where no more are aligned.
  __device__ void store_in(void* to, int bytes) const {
    if (bytes == 16) return store(to);
    unsigned* out = static_cast<unsigned*>(to);
    if (bytes == 8) {
      *reinterpret_cast<uint2*>(out) = uint2{words.x, words.y};
      *reinterpret_cast<uint2*>(out + 2) = uint2{words.z, words.w};
      return;
    }
    out[0] = words.x;
    out[1] = words.y;
    out[2] = words.z;
    out[3] = words.w;
  }
  __device__ Chunk unpack() const {
    Chunk chunk;
    memcpy(&chunk, &words, sizeof(chunk));
    return chunk;
  }
  __device__ void pack(const Chunk& from) { memcpy(&words, &from, sizeof(words)); }
};

// A pointer into a strided tensor, strides in elements.
template <class V>
__device__ const V* element(const void* data, i64 offset) {
  return static_cast<const V*>(data) + offset;
}

}  // namespace robocache
