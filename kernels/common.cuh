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
// launch costs, and what a block does before: its share, its shared memory. A kernel that always follows another of the
// same call may also read what the caller gave: that kernel's blocks let it start only after they began themselves, so
// what was before the call is done. To begin again is nothing.
__device__ inline void begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Asks the second-level cache for a part of some memory, by one thread: of `bytes` the part'th `each`, which is a multiple
// of 16; for nothing where that is 0. What a launch before still writes is written there, so this need not wait for it.
__device__ inline void ask_for_part(const void* first, i64 bytes, int each, unsigned part) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  const i64 begin = i64{part} * each, left = bytes - begin;
  if (each <= 0 || left <= 0) return;
  const char* from = static_cast<const char*>(first) + begin;
  const unsigned size = static_cast<unsigned>(left < each ? left : each);
#if defined(__CUDA_ARCH__)
  const u64 unit = reinterpret_cast<u64>(from) & ~u64{15};
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(unit), "r"((size + 15u) & ~15u));
#else
  // Where kernels are emulated, this shows that the memory is there.
  static_cast<void>(static_cast<const volatile char*>(from)[0]);
  static_cast<void>(static_cast<const volatile char*>(from)[size - 1]);
#endif
#endif
}

__device__ inline i64 quotient(i64 a, i64 b) {
  // A division of 64 bits takes a hundred instructions; numbers below 2^32 are common.
  return ((a | b) >> 32) == 0 ? static_cast<unsigned>(a) / static_cast<unsigned>(b) : a / b;
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

// Two neighbours widened.
template <class V>
__device__ void widen_two(const V* from, typename Element<V>::Compute* to) {
  to[0] = Element<V>::widen(from[0]);
  to[1] = Element<V>::widen(from[1]);
}
template <>
__device__ inline void widen_two(const __nv_bfloat16* from, float* to) {
  unsigned both;
  memcpy(&both, from, sizeof(both));
  to[0] = __uint_as_float(both << 16);
  to[1] = __uint_as_float(both & 0xffff0000u);
}

// Two neighbours narrowed, in one instruction where there is one.
template <class V>
__device__ void narrow_two(typename Element<V>::Compute a, typename Element<V>::Compute b, V* to) {
  to[0] = Element<V>::narrow(a);
  to[1] = Element<V>::narrow(b);
}
template <>
__device__ inline void narrow_two(float a, float b, __half* to) {
  const __half2 two = __floats2half2_rn(a, b);
  to[0] = __low2half(two);
  to[1] = __high2half(two);
}
template <>
__device__ inline void narrow_two(float a, float b, __nv_bfloat16* to) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
  to[0] = __low2bfloat16(two);
  to[1] = __high2bfloat16(two);
}

template <class V, int N>
__device__ void widen_all(const Vector<V, N>& from, typename Element<V>::Compute (&to)[N]) {
  if constexpr (N % 2 == 0) {
#pragma unroll
    for (int n = 0; n < N; n += 2) widen_two(from.at + n, to + n);
  } else {
    static_assert(N == 1);
    to[0] = Element<V>::widen(from.at[0]);
  }
}

template <class V, int N>
__device__ Vector<V, N> narrowed(const typename Element<V>::Compute (&from)[N]) {
  Vector<V, N> to;
  if constexpr (N % 2 == 0) {
#pragma unroll
    for (int n = 0; n < N; n += 2) narrow_two(from[n], from[n + 1], to.at + n);
  } else {
    to.at[0] = Element<V>::narrow(from[0]);
  }
  return to;
}

// Elements of 16 bytes.
template <class V>
constexpr int WIDE = 16 / sizeof(V);

// Channels of a voxel or a point that a thread takes at a time, one access where the layout allows it. Not 8 of halves: a
// channel of these costs what one of float32 does, and so half of the threads would do all of it.
constexpr int MOST_TAKEN = 4;
template <class V>
constexpr int TAKEN = WIDE<V> < MOST_TAKEN ? WIDE<V> : MOST_TAKEN;

// The word of so many bytes that one access moves.
template <int BYTES>
struct WordOf;
template <>
struct WordOf<16> {
  using Type = uint4;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<4> {
  using Type = unsigned;
};
template <>
struct WordOf<2> {
  using Type = unsigned short;
};
template <>
struct WordOf<1> {
  using Type = unsigned char;
};

// A store of one access, which is not told to be seen in any order (as `__stwb` and its like are).
template <class Word>
__device__ void store_word(Word* to, const Word& word) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(Word) == 16)
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word.x), "r"(word.y), "r"(word.z),
                 "r"(word.w)
                 : "memory");
  else if constexpr (sizeof(Word) == 8)
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(word.x), "r"(word.y) : "memory");
  else
    *to = word;
#else
  *to = word;
#endif
}

// A vector as it travels: one word from its load to its use and from there to its store, however small the elements.
// The accesses are spelled out: left to the compiler, a store of a vector becomes one for each element, or for each
// four bytes, where its elements are made by branches.
template <class Chunk>
struct Packed {
  using Word = typename WordOf<sizeof(Chunk)>::Type;
  Word word;
  __device__ void load(const void* from) { word = __ldg(static_cast<const Word*>(from)); }
  __device__ void store(void* to) const { store_word(static_cast<Word*>(to), word); }
  // In loads of 16, 8 or 4 bytes, from where no more are aligned.
  __device__ void load_in(const void* from, int bytes) {
    if constexpr (sizeof(Chunk) == 16) {
      if (bytes == 16) return load(from);
      const unsigned* in = static_cast<const unsigned*>(from);
      if (bytes == 8) {
        const uint2 low = __ldg(reinterpret_cast<const uint2*>(in));
        const uint2 high = __ldg(reinterpret_cast<const uint2*>(in + 2));
        word = uint4{low.x, low.y, high.x, high.y};
        return;
      }
      word = uint4{__ldg(in), __ldg(in + 1), __ldg(in + 2), __ldg(in + 3)};
    } else {
      load(from);
    }
  }
  // In stores of 16, 8 or 4 bytes, to where no more are aligned.
  __device__ void store_in(void* to, int bytes) const {
    if constexpr (sizeof(Chunk) == 16) {
      if (bytes == 16) return store(to);
      unsigned* out = static_cast<unsigned*>(to);
      if (bytes == 8) {
        store_word(reinterpret_cast<uint2*>(out), uint2{word.x, word.y});
        store_word(reinterpret_cast<uint2*>(out + 2), uint2{word.z, word.w});
        return;
      }
      out[0] = word.x;
      out[1] = word.y;
      out[2] = word.z;
      out[3] = word.w;
    } else {
      store(to);
    }
  }
  __device__ Chunk unpack() const {
    Chunk chunk;
    memcpy(&chunk, &word, sizeof(chunk));
    return chunk;
  }
  __device__ void pack(const Chunk& from) { memcpy(&word, &from, sizeof(word)); }
};

// What is computed from the value is computed after this; the compiler would do it as soon as it can.
__device__ inline void not_before(double& value) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+d"(value)::"memory");
#endif
}

// A pointer into a strided tensor, strides in elements.
template <class V>
__device__ const V* element(const void* data, i64 offset) {
  return static_cast<const V*>(data) + offset;
}

}  // namespace robocache
