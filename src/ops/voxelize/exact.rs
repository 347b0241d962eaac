//! Sums without rounding: what makes `sum` and `mean` independent of the order of the points.
//!
//! A sum is first tried in f64: each addition gives its rounding error too (Knuth's two-sum), and where every error is
//! zero the sum is exact. Only where one is not, the numbers are added again into a fixed-point integer that spans
//! every exponent, in limbs of 32 bits that leave room for 2^31 additions. Either way the exact sum, or its exact
//! quotient by the number of points, is rounded once, so both ways give the same bits.

use crate::simd::Blend;
use half::{bf16, f16};

/// Bits of a limb.
const BITS: usize = 32;
const DIGIT: i64 = 0xffff_ffff;
/// Limbs that a quotient needs below the last limb of its sum for 64 bits and a rounding.
const QUOTIENT: usize = 3;

/// `a + b` rounded, and whether that was exact; an infinity or a NaN is not.
#[inline(always)]
pub fn add(a: f64, b: f64) -> (f64, bool) {
    let sum = a + b;
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    (sum, error == 0.0)
}

/// `sum / count` so that rounding it once more, to fewer bits, is as if rounded once: its last bit is odd unless exact.
#[inline(always)]
fn odd_quotient(sum: f64, count: f64) -> f64 {
    let quotient = sum / count;
    let rest = (-quotient).mul_add(count, sum);
    let bits = quotient.to_bits();
    // Towards zero first where the quotient was rounded away from it.
    let away = (rest < 0.0) != (sum < 0.0);
    let odd = bits.wrapping_sub(u64::from(away)) | 1;
    // A choice and no branch, so that a loop over channels is vectorised.
    f64::from_bits(if (rest == 0.0) | !quotient.is_finite() { bits } else { odd })
}

/// A type of features, and how wide a sum of them may be.
pub trait Feature: Blend {
    /// What adds such numbers without rounding.
    type Sum: Adder;
    /// The same number.
    fn to_f64(self) -> f64;
    /// An exact sum, or its quotient, rounded once.
    fn rounded(sum: f64, count: f64) -> Self;
    /// The sum of this number alone: a zero without its sign, a NaN without its payload.
    fn alone(self) -> Self;
    /// What the adder found, rounded once.
    fn finished(sum: Self::Sum, count: u64) -> Self;
}

/// [`Feature::alone`] in the type in which it is computed.
macro_rules! alone {
    () => {
        #[inline(always)]
        fn alone(self) -> Self {
            let sum = self.widen() + 0.0;
            if sum.is_nan() { Self::NAN } else { Self::narrow(sum) }
        }
    };
}

/// Adds without rounding.
pub trait Adder {
    /// Nothing added yet.
    const EMPTY: Self;
    /// Adds one number; at most 2^31 of them.
    fn add(&mut self, value: f64);
}

/// A fixed-point integer whose lowest bit stands 32 bits below that of an f64 with the biased exponent `FIRST`.
#[derive(Clone, Copy, Debug)]
pub struct Exact<const LIMBS: usize, const FIRST: usize> {
    limbs: [i64; LIMBS],
    low: usize,
    high: usize,
    infinities: [bool; 2],
    nan: bool,
}

/// Of f64: 2^-1074 to 2^1024, 31 bits for the number of them, and room for a quotient.
pub type Wide = Exact<70, 1>;
/// Of f32 and what is narrower: 2^-149 is 52 bits above the last bit of an f64 with exponent 874.
pub type Narrow = Exact<14, 874>;

/// A number as its leading 64 bits.
enum Found {
    Zero,
    Special(f64),
    /// `bits * 2^exponent`, the first bit set; `more` where there is something below.
    Number {
        negative: bool,
        bits: u64,
        exponent: i32,
        more: bool,
    },
}

impl<const LIMBS: usize, const FIRST: usize> Adder for Exact<LIMBS, FIRST> {
    const EMPTY: Self = Exact { limbs: [0; LIMBS], low: LIMBS, high: 0, infinities: [false; 2], nan: false };

    #[inline]
    fn add(&mut self, value: f64) {
        let bits = value.to_bits();
        let (negative, biased) = (bits >> 63 != 0, (bits >> 52) as usize & 0x7ff);
        let fraction = bits & ((1 << 52) - 1);
        if biased == 0x7ff {
            if fraction != 0 {
                self.nan = true;
            } else {
                self.infinities[usize::from(negative)] = true;
            }
            return;
        }
        let mantissa = if biased == 0 { fraction } else { fraction | 1 << 52 };
        if mantissa == 0 {
            return;
        }
        let place = biased.max(1) + BITS - FIRST;
        let (limb, shift) = (place / BITS, place % BITS);
        let wide = u128::from(mantissa) << shift;
        for (offset, part) in [wide as u32, (wide >> 32) as u32, (wide >> 64) as u32].into_iter().enumerate() {
            let part = i64::from(part);
            self.limbs[limb + offset] += if negative { -part } else { part };
        }
        self.low = self.low.min(limb);
        self.high = self.high.max(limb + 3);
    }
}

impl<const LIMBS: usize, const FIRST: usize> Exact<LIMBS, FIRST> {
    fn find(mut self, count: u64) -> Found {
        if self.nan || self.infinities == [true; 2] {
            return Found::Special(f64::NAN);
        }
        if self.infinities != [false; 2] {
            return Found::Special(if self.infinities[1] { f64::NEG_INFINITY } else { f64::INFINITY });
        }
        if self.high == 0 {
            return Found::Zero;
        }
        // Two more limbs hold what 2^31 additions carry.
        let top = (self.high + 2).min(LIMBS);
        let digits = &mut self.limbs[..top];
        let negative = carry(&mut digits[self.low..]) < 0;
        if negative {
            digits[self.low..].iter_mut().for_each(|digit| *digit = -*digit);
            carry(&mut digits[self.low..]);
        }
        let bottom = self.low.saturating_sub(QUOTIENT);
        let mut rest = 0u64;
        if count > 1 {
            for digit in digits[bottom..].iter_mut().rev() {
                let value = rest << BITS | *digit as u64;
                (*digit, rest) = ((value / count) as i64, value % count);
            }
        }
        let Some(first) = digits.iter().rposition(|&digit| digit != 0) else {
            // Less than the last bit that any type can hold: its sign and the rounding are all that is left.
            return if rest == 0 {
                Found::Zero
            } else {
                Found::Number { negative, bits: 1 << 63, exponent: -1200, more: true }
            };
        };
        let digit = |index: usize| if index < LIMBS { digits.get(index).map_or(0, |&digit| digit as u64) } else { 0 };
        let (a, b, c) = (digit(first), digit(first.wrapping_sub(1)), digit(first.wrapping_sub(2)));
        let space = (a as u32).leading_zeros();
        let bits = (a << BITS | b) << space | (c << space) >> BITS;
        let below = digits[..first.saturating_sub(2)].iter().any(|&digit| digit != 0);
        let more = below || rest != 0 || (c << space) & DIGIT as u64 != 0;
        let exponent = (BITS * first) as i32 - space as i32 + FIRST as i32 - 1075 - 2 * BITS as i32;
        Found::Number { negative, bits, exponent, more }
    }
}

/// Leaves a digit of 32 bits in each limb and returns what is carried out: 0, or -1 where the number is negative.
fn carry(limbs: &mut [i64]) -> i64 {
    let mut carried = 0;
    for limb in limbs {
        let value = *limb + carried;
        (*limb, carried) = (value & DIGIT, value >> BITS);
    }
    carried
}

/// The nearest f64, of two the even one.
fn nearest(found: Found) -> f64 {
    let (negative, bits, exponent, more) = match found {
        Found::Zero => return 0.0,
        Found::Special(value) => return value,
        Found::Number { negative, bits, exponent, more } => (negative, bits, exponent, more),
    };
    let leading = exponent + 63;
    let sign = u64::from(negative) << 63;
    if leading > 1023 {
        return f64::from_bits(sign | f64::INFINITY.to_bits());
    }
    // Below 2^-1022 fewer bits are left.
    let shift = 11 + (-1022 - leading).max(0);
    let (kept, cut, half) = match shift {
        ..64 => (bits >> shift, bits & ((1 << shift) - 1), 1u64 << (shift - 1)),
        64 => (0, bits, 1 << 63),
        _ => (0, 0, 1),
    };
    let up = cut > half || cut == half && (more || kept & 1 == 1);
    // The leading bit adds one to the exponent, and so does a carry out of the rounding.
    let base = if leading >= -1022 { ((leading + 1022) as u64) << 52 } else { 0 };
    f64::from_bits(sign | (base + kept + u64::from(up)))
}

/// An f64 whose last bit is odd unless it is exact; only for numbers that f32 can nearly hold.
fn odd(found: Found) -> f64 {
    match found {
        Found::Zero => 0.0,
        Found::Special(value) => value,
        Found::Number { negative, bits, exponent, more } => {
            let rest = more || bits & 0x7ff != 0;
            // Far below every f32 the exponent no longer matters.
            let biased = (exponent + 63 + 1022).max(1) as u64;
            let magnitude = ((biased << 52) + (bits >> 11)) | u64::from(rest);
            f64::from_bits(u64::from(negative) << 63 | magnitude)
        }
    }
}

macro_rules! narrow {
    ($($ty:ty),*) => {$(
        impl Feature for $ty {
            type Sum = Narrow;
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self.widen())
            }
            #[inline(always)]
            fn rounded(sum: f64, count: f64) -> Self {
                Self::narrow_from(if count == 1.0 { sum } else { odd_quotient(sum, count) })
            }
            alone!();
            fn finished(sum: Narrow, count: u64) -> Self {
                Self::narrow_from(odd(sum.find(count)))
            }
        }
    )*};
}
narrow!(f32, f16, bf16);

impl Feature for f64 {
    type Sum = Wide;
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn rounded(sum: f64, count: f64) -> Self {
        sum / count
    }
    alone!();
    fn finished(sum: Wide, count: u64) -> Self {
        nearest(sum.find(count))
    }
}

/// The sum of all numbers, divided by `count`, rounded once.
#[inline(always)]
pub fn quotient<F: Feature>(numbers: impl Iterator<Item = F> + Clone, count: u64) -> F {
    let (mut sum, mut exact) = (0.0, true);
    for number in numbers.clone() {
        let (next, whole) = add(sum, number.to_f64());
        (sum, exact) = (next, exact & whole);
    }
    if exact { F::rounded(sum, count as f64) } else { exactly(numbers, count) }
}

#[cold]
fn exactly<F: Feature>(numbers: impl Iterator<Item = F>, count: u64) -> F {
    let mut sum = F::Sum::EMPTY;
    numbers.for_each(|number| sum.add(number.to_f64()));
    F::finished(sum, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both<F: Feature>(numbers: &[F], count: u64) -> F {
        let slow = exactly(numbers.iter().copied(), count);
        let fast = quotient(numbers.iter().copied(), count);
        let (a, b) = (slow.to_f64(), fast.to_f64());
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{a:?} against {b:?}");
        for &number in numbers {
            let (a, b) = (exactly([number].into_iter(), 1).to_f64(), number.alone().to_f64());
            assert!(a.to_bits() == b.to_bits(), "{a:?} against {b:?} alone");
        }
        slow
    }

    #[test]
    fn cancellation_leaves_what_is_small() {
        assert_eq!(both(&[1e30f32, 1e-5, -1e30], 1), 1e-5);
        assert_eq!(both(&[f32::MAX, f32::MAX, -f32::MAX, 1e-45, -f32::MAX], 1), 1e-45);
        assert_eq!(both(&[1e300f64, 5e-324, -1e300], 1), 5e-324);
        assert_eq!(both(&[f64::MAX, f64::MAX, -f64::MAX], 1), f64::MAX);
        assert_eq!(both(&[f64::MAX, f64::MAX], 1), f64::INFINITY);
        assert_eq!(both(&[f64::MAX, f64::MAX], 2), f64::MAX);
        assert_eq!(both(&[-f32::MAX, -f32::MAX], 1), f32::NEG_INFINITY);
        assert_eq!(both(&[-f32::MAX, -f32::MAX], 2), -f32::MAX);
    }

    #[test]
    fn a_rounding_that_hangs_on_one_small_number_is_right() {
        let (one, half) = (1.0f64, f64::EPSILON / 2.0);
        assert_eq!(both(&[one, half], 1), 1.0);
        assert_eq!(both(&[one, half, 1e-300], 1), 1.0 + f64::EPSILON);
        assert_eq!(both(&[one, half, -1e-300], 1), 1.0);
        let (one, half) = (1.0f32, f32::EPSILON / 2.0);
        assert_eq!(both(&[one, half], 1), 1.0);
        assert_eq!(both(&[one, half, 1e-44], 1), 1.0 + f32::EPSILON);
        assert_eq!(both(&[-one, -half, -1e-44], 1), -1.0 - f32::EPSILON);
    }

    #[test]
    fn zeros_and_specials() {
        assert!(both(&[-0.0f32, -0.0], 2).to_bits() == 0);
        assert!(both(&[1.0f64, -1.0], 2).to_bits() == 0);
        assert!(both(&[f64::INFINITY, f64::NEG_INFINITY], 2).is_nan());
        assert!(both(&[f32::NAN, 1.0], 2).is_nan());
        assert_eq!(both(&[f32::INFINITY, -1.0], 2), f32::INFINITY);
        assert_eq!(both(&[f64::NEG_INFINITY, 1.0, f64::MAX], 3), f64::NEG_INFINITY);
    }

    #[test]
    fn means_of_denormals_are_rounded_once_and_keep_their_sign() {
        let least = f64::from_bits(1);
        assert_eq!(both(&[least, 0.0], 2).to_bits(), 0);
        assert_eq!(both(&[-least, 0.0], 2).to_bits(), 1 << 63);
        assert_eq!(both(&[least, least, 0.0], 3), least);
        assert_eq!(both(&[f64::from_bits(3), 0.0], 2), f64::from_bits(2));
        assert_eq!(both(&[f64::from_bits(5), 0.0], 2), f64::from_bits(2));
        let least = f32::from_bits(1);
        assert_eq!(both(&[least, 0.0], 2).to_bits(), 0);
        assert_eq!(both(&[-least, 0.0, 0.0, 0.0], 4).to_bits(), 1 << 31);
        assert_eq!(both(&[f32::from_bits(3), 0.0], 2), f32::from_bits(2));
        // 2^-1074 over 2^30: less than any limb.
        assert_eq!(exactly([f64::from_bits(1)].into_iter(), 1 << 30).to_bits(), 0);
        assert_eq!(exactly([-f32::from_bits(1)].into_iter(), 1 << 30).to_bits(), 1 << 31);
    }

    #[test]
    fn both_ways_agree_on_random_numbers() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 16
        };
        for _ in 0..20_000 {
            let count = 1 + next() as usize % 9;
            let near = 100 + next() as u32 % 100;
            let numbers: Vec<f32> = (0..count)
                .map(|_| f32::from_bits((next() as u32 & 0x807f_ffff) | (near + next() as u32 % 12) << 23))
                .collect();
            both(&numbers, count as u64);
            both(&numbers.iter().map(|&number| f16::from_f32(number)).collect::<Vec<_>>(), count as u64);
            both(&numbers.iter().map(|&number| f64::from(number)).collect::<Vec<_>>(), count as u64);
            both(&numbers.iter().map(|&number| bf16::from_f32(number)).collect::<Vec<_>>(), 1);
        }
    }
}
