// Sums without rounding: the device half of src/ops/voxelize/exact.rs, which says how they work.
#pragma once

#include "common.cuh"

namespace robocache {

// A sum in f64, and whether every addition so far was exact.
struct Sum {
  double value = 0;
  bool exact = true;

  __device__ void add(double number) {
    const double sum = value + number, part = sum - value;
    const double error = (value - (sum - part)) + (number - part);
    exact &= error == 0;
    value = sum;
  }
};

__device__ inline double to_f64(double v) { return v; }
__device__ inline double to_f64(float v) { return v; }
__device__ inline double to_f64(__half v) { return __half2float(v); }
__device__ inline double to_f64(__nv_bfloat16 v) { return __bfloat162float(v); }

__device__ inline u64 bits_of(double v) { return static_cast<u64>(__double_as_longlong(v)); }
__device__ inline double from_bits(u64 bits) { return __longlong_as_double(static_cast<i64>(bits)); }

// sum / count whose last bit is odd unless it is exact, so that rounding it to fewer bits rounds once.
__device__ inline __noinline__ double odd_quotient(double sum, double count) {
  const double quotient = __ddiv_rn(sum, count), rest = __fma_rn(-quotient, count, sum);
  if (rest == 0 || !(fabs(quotient) <= 1.7976931348623157e308)) return quotient;
  const u64 bits = bits_of(quotient);
  return from_bits(((rest < 0) != (sum < 0) ? bits - 1 : bits) | 1);
}

// An exact sum, or its quotient, rounded once.
template <class V>
__device__ V rounded(double sum, double count) {
  return narrow_from<V>(count == 1 ? sum : odd_quotient(sum, count));
}
template <>
__device__ inline double rounded<double>(double sum, double count) {
  return __ddiv_rn(sum, count);
}

// A value over a number of points, rounded once. With so few points that the exact quotient lies further from where an
// element's rounding changes than an f32 errs, the f32 quotient rounds to the same.
constexpr int FEW = 1024;
template <class V>
__device__ V divided(V value, int count) {
  if constexpr (sizeof(V) < 8) {
    if (count <= FEW) return Element<V>::narrow(__fdiv_rn(Element<V>::widen(value), static_cast<float>(count)));
  }
  return rounded<V>(to_f64(value), count);
}

// A number as its leading 64 bits: bits * 2^exponent, and whether there is something below.
struct Leading {
  u64 bits;
  int exponent;
  bool negative, more;
};

// A fixed-point integer in limbs of 32 bits; its lowest bit stands 32 bits below that of an f64 with biased exponent
// FIRST.
template <int LIMBS, int FIRST>
struct Exact {
  i64 limbs[LIMBS];
  int low = LIMBS, high = 0;
  unsigned special = 0;  // 1: +inf, 2: -inf, 4: NaN

  __device__ Exact() {
    for (int limb = 0; limb < LIMBS; ++limb) limbs[limb] = 0;
  }

  __device__ void add(double value) {
    const u64 bits = bits_of(value), fraction = bits & ((1ull << 52) - 1);
    const int biased = static_cast<int>(bits >> 52) & 0x7ff;
    const bool negative = bits >> 63 != 0;
    if (biased == 0x7ff) {
      special |= fraction != 0 ? 4 : negative ? 2 : 1;
      return;
    }
    const u64 mantissa = biased == 0 ? fraction : fraction | 1ull << 52;
    if (mantissa == 0) return;
    const int place = (biased > 1 ? biased : 1) + 32 - FIRST, limb = place / 32, shift = place % 32;
    const u64 below = mantissa << shift, above = shift == 0 ? 0 : mantissa >> (64 - shift);
    const i64 parts[3] = {
        static_cast<i64>(below & 0xffffffff), static_cast<i64>(below >> 32), static_cast<i64>(above)};
#pragma unroll
    for (int k = 0; k < 3; ++k) limbs[limb + k] += negative ? -parts[k] : parts[k];
    low = limb < low ? limb : low;
    high = limb + 3 > high ? limb + 3 : high;
  }

  // The sum of every lane's, in every lane.
  __device__ void add_lanes() {
    for (int step = WARP / 2; step > 0; step /= 2) {
      const int other_low = __shfl_xor_sync(ALL_LANES, low, step), other_high = __shfl_xor_sync(ALL_LANES, high, step);
      low = other_low < low ? other_low : low;
      high = other_high > high ? other_high : high;
      special |= __shfl_xor_sync(ALL_LANES, special, step);
    }
#pragma unroll 1
    for (int limb = low; limb < high; ++limb) {
      i64 sum = limbs[limb];
      for (int step = WARP / 2; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
      limbs[limb] = sum;
    }
  }

  // A digit of 32 bits in each limb; what is carried out is 0, or -1 where the number is negative.
  __device__ i64 carry(int top) {
    i64 carried = 0;
#pragma unroll 1
    for (int limb = low; limb < top; ++limb) {
      const i64 value = limbs[limb] + carried;
      limbs[limb] = value & 0xffffffff;
      carried = value >> 32;
    }
    return carried;
  }

  __device__ u64 digit(int limb) const { return limb < 0 ? 0 : static_cast<u64>(limbs[limb]); }

  // The sum divided by count, of a sum that is not special; bits are 0 for zero.
  __device__ Leading find(u64 count) {
    if (high == 0) return {0, 0, false, false};
    const int top = high + 2 < LIMBS ? high + 2 : LIMBS, bottom = low > 3 ? low - 3 : 0;
    const bool negative = carry(top) < 0;
    if (negative) {
      for (int limb = low; limb < top; ++limb) limbs[limb] = -limbs[limb];
      carry(top);
    }
    u64 rest = 0;
    if (count > 1) {
#pragma unroll 1
      for (int limb = top - 1; limb >= bottom; --limb) {
        const u64 value = rest << 32 | static_cast<u64>(limbs[limb]);
        limbs[limb] = static_cast<i64>(value / count);
        rest = value % count;
      }
    }
    int first = top - 1;
    while (first >= bottom && limbs[first] == 0) --first;
    if (first < bottom) {
      if (rest == 0) return {0, 0, false, false};
      return {1ull << 63, -1200, negative, true};
    }
    const u64 a = digit(first), b = digit(first - 1), c = digit(first - 2);
    const int space = __clz(static_cast<int>(a));
    bool more = rest != 0 || ((c << space) & 0xffffffff) != 0;
    for (int limb = bottom; limb < first - 2; ++limb) more |= limbs[limb] != 0;
    return {(a << 32 | b) << space | (c << space) >> 32, 32 * first - space + FIRST - 1075 - 64, negative, more};
  }
};

// The nearest f64, of two the even one.
__device__ inline double nearest(const Leading& found) {
  if (found.bits == 0) return 0;
  const int leading = found.exponent + 63;
  const u64 sign = found.negative ? 1ull << 63 : 0;
  if (leading > 1023) return from_bits(sign | 0x7ffull << 52);
  const int shift = 11 + (leading < -1022 ? -1022 - leading : 0);
  u64 kept = 0, cut = 0, half = 1;
  if (shift < 64) {
    kept = found.bits >> shift;
    cut = found.bits & ((1ull << shift) - 1);
    half = 1ull << (shift - 1);
  } else if (shift == 64) {
    cut = found.bits;
    half = 1ull << 63;
  }
  const bool up = cut > half || (cut == half && (found.more || (kept & 1) != 0));
  const u64 base = leading >= -1022 ? static_cast<u64>(leading + 1022) << 52 : 0;
  return from_bits(sign | (base + kept + (up ? 1 : 0)));
}

// An f64 whose last bit is odd unless it is exact; only for numbers that f32 can nearly hold.
__device__ inline double odd(const Leading& found) {
  if (found.bits == 0) return 0;
  const bool rest = found.more || (found.bits & 0x7ff) != 0;
  const int biased = found.exponent + 63 + 1022;
  const u64 magnitude = (static_cast<u64>(biased > 1 ? biased : 1) << 52) + (found.bits >> 11);
  return from_bits((found.negative ? 1ull << 63 : 0) | magnitude | (rest ? 1 : 0));
}

// What adds features of a type without rounding.
template <class V>
struct Adder : Exact<14, 874> {
  __device__ V finish(u64 count) {
    if (special != 0) return special_value();
    return narrow_from<V>(odd(find(count)));
  }
  __device__ V special_value() const {
    if ((special & 4) != 0 || special == 3) return Element<V>::nan();
    return narrow_from<V>(from_bits(special == 2 ? 0xfffull << 52 : 0x7ffull << 52));
  }
};

template <>
struct Adder<double> : Exact<70, 1> {
  __device__ double finish(u64 count) {
    if ((special & 4) != 0 || special == 3) return Element<double>::nan();
    if (special != 0) return from_bits(special == 2 ? 0xfffull << 52 : 0x7ffull << 52);
    return nearest(find(count));
  }
};

}  // namespace robocache
