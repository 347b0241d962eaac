// CUDA's arithmetic built-ins for a host compiler: one operation, rounded to nearest even, as on a device.
#pragma once

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __popcll(unsigned long long bits) { return std::popcount(bits); }
inline int __clz(int bits) { return std::countl_zero(static_cast<unsigned>(bits)); }
inline int __clzll(long long bits) { return std::countl_zero(static_cast<unsigned long long>(bits)); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((std::uint64_t{a} * b) >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>((std::int64_t{a} * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline long long __mul64hi(long long a, long long b) {
  return static_cast<long long>((static_cast<__int128>(a) * b) >> 64);
}
inline unsigned __brev(unsigned bits) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; i++) {
    reversed |= (bits >> i & 1) << (31 - i);
  }
  return reversed;
}

inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __drcp_rn(double a) { return 1 / a; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }

inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline int __double2hiint(double value) { return static_cast<int>(std::bit_cast<unsigned long long>(value) >> 32); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }

inline float __double2float_rn(double value) { return static_cast<float>(value); }
inline float __int2float_rn(int value) { return static_cast<float>(value); }
inline float __uint2float_rn(unsigned value) { return static_cast<float>(value); }
inline float __ll2float_rn(long long value) { return static_cast<float>(value); }
inline float __ull2float_rn(unsigned long long value) { return static_cast<float>(value); }
inline double __int2double_rn(int value) { return value; }
inline double __uint2double_rn(unsigned value) { return value; }
inline double __ll2double_rn(long long value) { return static_cast<double>(value); }
inline double __ull2double_rn(unsigned long long value) { return static_cast<double>(value); }

namespace emulator {

// A device saturates; NaN gives 0, or the top bit for integers of 64 bits.
template <class Integer, class Float>
Integer to_integer(Float value) {
  constexpr Integer least = std::numeric_limits<Integer>::min(), most = std::numeric_limits<Integer>::max();
  if (value != value) {
    return sizeof(Integer) == 8 ? static_cast<Integer>(1ull << 63) : Integer{0};
  }
  if (value <= static_cast<Float>(least)) {
    return least;
  }
  // The type's largest value may round up to a power of two that no longer fits.
  return value >= static_cast<Float>(most) ? most : static_cast<Integer>(value);
}

}  // namespace emulator

#define EMULATOR_TO_INTEGER(FLOAT, NAME, INTEGER)                                                                  \
  inline INTEGER NAME##_rn(FLOAT value) { return emulator::to_integer<INTEGER>(std::nearbyint(value)); }           \
  inline INTEGER NAME##_rz(FLOAT value) { return emulator::to_integer<INTEGER>(std::trunc(value)); }               \
  inline INTEGER NAME##_rd(FLOAT value) { return emulator::to_integer<INTEGER>(std::floor(value)); }               \
  inline INTEGER NAME##_ru(FLOAT value) { return emulator::to_integer<INTEGER>(std::ceil(value)); }
EMULATOR_TO_INTEGER(float, __float2int, int)
EMULATOR_TO_INTEGER(float, __float2uint, unsigned)
EMULATOR_TO_INTEGER(float, __float2ll, long long)
EMULATOR_TO_INTEGER(float, __float2ull, unsigned long long)
EMULATOR_TO_INTEGER(double, __double2int, int)
EMULATOR_TO_INTEGER(double, __double2uint, unsigned)
EMULATOR_TO_INTEGER(double, __double2ll, long long)
EMULATOR_TO_INTEGER(double, __double2ull, unsigned long long)

// CUDA's min and max: numbers of two types meet in their common type, and a NaN gives way to a number.
template <emulator::Number A, emulator::Number B>
auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(std::fmin(static_cast<T>(a), static_cast<T>(b)));
  } else {
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
  }
}
template <emulator::Number A, emulator::Number B>
auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(std::fmax(static_cast<T>(a), static_cast<T>(b)));
  } else {
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
  }
}
