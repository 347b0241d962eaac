// What the CUDA compiler builds in, for a host compiler: included before each kernels/*.cu by tests/emulator/build.py.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "engine.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include <math.h>
#include <string.h>

// A toolkit's own headers may have given these other meanings.
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))  // after the standard headers, which use this word
#ifdef EMULATOR_LISTING  // build.py looks for these words
#define __global__ EMULATOR_GLOBAL
#define __launch_bounds__(...) EMULATOR_BOUNDS(__VA_ARGS__)
#else
#define __global__
#define __launch_bounds__(...)
#endif
// Blocks run one after another, so one copy serves; build.py gathers these variables for the engine to poison.
#define __shared__ static

// Not const, as they are on a device: the host compiler would keep their values across a switch of threads.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// A built-in learns where it was called by these default arguments.
#define EMULATOR_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace emulator {

// Shuffles take what CUDA takes: numbers of 4 or 8 bytes (smaller integers widen) and the halves.
template <class T>
concept Number = std::is_arithmetic_v<T>;
template <class T>
concept Half = std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half2> ||
               std::is_same_v<T, __nv_bfloat162>;

template <class T>
T shuffle(const char* built_in, unsigned mask, T value, int source, const char* file, int line) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange({built_in, file, line}, mask, bits, source);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void check_width(int width) {
  if (width < 1 || width > 32 || !std::has_single_bit(static_cast<unsigned>(width))) {
    std::fprintf(stderr, "emulator: a shuffle's width must be a power of two of at most 32, got %d\n", width);
    std::abort();
  }
}

inline int first_of_segment(int width) {
  check_width(width);
  return lane() & ~(width - 1);
}
inline int source_at(int from, int width) {
  return first_of_segment(width) | (from & (width - 1));
}
inline int source_up(int delta, int width) {
  return lane() - delta < first_of_segment(width) ? lane() : lane() - delta;
}
inline int source_down(int delta, int width) {
  return lane() + delta >= first_of_segment(width) + width ? lane() : lane() + delta;
}
inline int source_xor(int bits, int width) {
  return (lane() ^ bits) >= first_of_segment(width) + width ? lane() : lane() ^ bits;
}

}  // namespace emulator

#define EMULATOR_SHUFFLE(NAME, SOURCE)                                                                   \
  template <emulator::Number T>                                                                          \
  auto NAME(unsigned mask, T value, int from, int width = 32, EMULATOR_CALLER) {                         \
    return emulator::shuffle(#NAME, mask, +value, emulator::SOURCE(from, width), file, line);            \
  }                                                                                                      \
  template <emulator::Half T>                                                                            \
  T NAME(unsigned mask, T value, int from, int width = 32, EMULATOR_CALLER) {                            \
    return emulator::shuffle(#NAME, mask, value, emulator::SOURCE(from, width), file, line);             \
  }
EMULATOR_SHUFFLE(__shfl_sync, source_at)
EMULATOR_SHUFFLE(__shfl_up_sync, source_up)
EMULATOR_SHUFFLE(__shfl_down_sync, source_down)
EMULATOR_SHUFFLE(__shfl_xor_sync, source_xor)

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
  return static_cast<unsigned>(
      emulator::exchange({"__ballot_sync", file, line}, mask, predicate != 0, emulator::BALLOT));
}
inline int __any_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
  return emulator::exchange({"__any_sync", file, line}, mask, predicate != 0, emulator::BALLOT) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
  return emulator::exchange({"__all_sync", file, line}, mask, predicate != 0, emulator::BALLOT) == mask;
}
inline void __syncwarp(unsigned mask = 0xffffffff, EMULATOR_CALLER) {
  emulator::exchange({"__syncwarp", file, line}, mask, 0, emulator::BALLOT);
}
inline void __syncthreads(EMULATOR_CALLER) {
  emulator::synchronize({"__syncthreads", file, line}, false);
}
inline int __syncthreads_count(int predicate, EMULATOR_CALLER) {
  return emulator::synchronize({"__syncthreads_count", file, line}, predicate != 0);
}
inline int __syncthreads_or(int predicate, EMULATOR_CALLER) {
  return emulator::synchronize({"__syncthreads_or", file, line}, predicate != 0) != 0;
}
inline int __syncthreads_and(int predicate, EMULATOR_CALLER) {
  return emulator::synchronize({"__syncthreads_and", file, line}, predicate == 0) == 0;
}

// Folds the lanes' values in the order of the lanes.
template <class T, class Fold>
auto emulator_reduce(const char* built_in, unsigned mask, T value, Fold fold, const char* file, int line) {
  const int first = std::countr_zero(mask);
  T total = emulator::shuffle(built_in, mask, value, first, file, line);
  for (unsigned lanes = mask & (mask - 1); lanes != 0; lanes &= lanes - 1) {
    total = fold(total, emulator::shuffle(built_in, mask, value, std::countr_zero(lanes), file, line));
  }
  return total;
}
#define EMULATOR_REDUCE(NAME, FOLD)                                                                      \
  template <std::integral T>                                                                             \
  T NAME(unsigned mask, T value, EMULATOR_CALLER) {                                                      \
    return emulator_reduce(#NAME, mask, value, [](T a, T b) -> T { return FOLD; }, file, line);          \
  }
EMULATOR_REDUCE(__reduce_add_sync, static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
EMULATOR_REDUCE(__reduce_min_sync, a < b ? a : b)
EMULATOR_REDUCE(__reduce_max_sync, a > b ? a : b)
EMULATOR_REDUCE(__reduce_and_sync, a & b)
EMULATOR_REDUCE(__reduce_or_sync, a | b)
EMULATOR_REDUCE(__reduce_xor_sync, a ^ b)

template <emulator::Number T>
unsigned __match_any_sync(unsigned mask, T value, EMULATOR_CALLER) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return static_cast<unsigned>(emulator::exchange({"__match_any_sync", file, line}, mask, bits, emulator::MATCH));
}

// Only one thread runs at a time, so a plain update is atomic.
#define EMULATOR_ATOMIC(NAME, UPDATE)                                                                    \
  template <class T>                                                                                     \
  T NAME(T* address, std::type_identity_t<T> value) {                                                    \
    emulator::reorder();                                                                                 \
    const T old = *address;                                                                              \
    *address = static_cast<T>(UPDATE);                                                                   \
    return old;                                                                                          \
  }
EMULATOR_ATOMIC(atomicAdd, old + value)
EMULATOR_ATOMIC(atomicSub, old - value)
EMULATOR_ATOMIC(atomicExch, value)
EMULATOR_ATOMIC(atomicMin, value < old ? value : old)
EMULATOR_ATOMIC(atomicMax, value > old ? value : old)
EMULATOR_ATOMIC(atomicAnd, old & value)
EMULATOR_ATOMIC(atomicOr, old | value)
EMULATOR_ATOMIC(atomicXor, old ^ value)
EMULATOR_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
EMULATOR_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  emulator::reorder();
  const T old = *address;
  if (old == expected) {
    *address = value;
  }
  return old;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
[[noreturn]] inline void __trap() {
  std::fprintf(stderr, "emulator: __trap in block (%u, %u, %u), thread (%u, %u, %u)\n", blockIdx.x, blockIdx.y,
               blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

// Loads and stores with a cache hint.
#define EMULATOR_LOAD(NAME) \
  template <class T>        \
  T NAME(const T* address) { return *address; }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldlu)
EMULATOR_LOAD(__ldcv)
#define EMULATOR_STORE(NAME) \
  template <class T>         \
  void NAME(T* address, std::type_identity_t<T> value) { *address = value; }
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stwt)

#include "arithmetic.h"
