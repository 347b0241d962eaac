//! The types of times and values, and arithmetic in the type that values are computed in.

use half::{bf16, f16};
use robocache::MaxGap;

/// A type that times can have.
pub trait Instant: Copy + PartialOrd {
    /// `self - earlier` in this type (integers exactly), then as f64.
    fn minus(self, earlier: Self) -> f64;
    /// True where `self - earlier` is no longer than the gap, which is first rounded to this type.
    fn is_within(self, earlier: Self, gap: MaxGap) -> bool;
    fn is_nan(self) -> bool;
    fn is_infinite(self) -> bool;
    /// The nearest time to a number.
    fn nearest(number: f64) -> Self;
}

impl Instant for i64 {
    fn minus(self, earlier: Self) -> f64 {
        (i128::from(self) - i128::from(earlier)) as f64
    }
    fn is_within(self, earlier: Self, gap: MaxGap) -> bool {
        let span = i128::from(self) - i128::from(earlier);
        match gap {
            MaxGap::Ticks(ticks) => span <= i128::from(ticks),
            MaxGap::Number(number) => number >= 1e20 || span <= number.floor() as i128,
        }
    }
    fn is_nan(self) -> bool {
        false
    }
    fn is_infinite(self) -> bool {
        false
    }
    fn nearest(number: f64) -> Self {
        number as i64
    }
}

macro_rules! float_instants {
    ($($ty:ty),*) => {$(
        impl Instant for $ty {
            fn minus(self, earlier: Self) -> f64 {
                f64::from(self - earlier)
            }
            fn is_within(self, earlier: Self, gap: MaxGap) -> bool {
                let gap = match gap {
                    MaxGap::Ticks(ticks) => ticks as f64 as $ty,
                    MaxGap::Number(number) => number as $ty,
                };
                self - earlier <= gap
            }
            fn is_nan(self) -> bool {
                self.is_nan()
            }
            fn is_infinite(self) -> bool {
                self.is_infinite()
            }
            fn nearest(number: f64) -> Self {
                number as $ty
            }
        }
    )*};
}
float_instants!(f32, f64);

/// A type that values can have; `wide` and `narrow` are only asked of those that are blended.
pub trait Number: Copy + Default {
    /// Computed in f32, and not in f64.
    const SINGLE: bool = true;
    /// How far a rounded number is off: a part of it, and a number near zero.
    const ROUNDING: [f64; 2] = [0.0, 0.0];
    /// The same bits, or both not a number.
    fn same(self, other: Self) -> bool;
    /// Not a number, or zero where there is none.
    fn nan() -> Self {
        Self::default()
    }
    /// The same number.
    fn wide(self) -> f64 {
        unreachable!("integers are not blended")
    }
    /// The nearest value to a number of the compute type.
    fn narrow(_: f64) -> Self {
        unreachable!("integers are not blended")
    }
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            fn same(self, other: Self) -> bool {
                self == other
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, bool);

macro_rules! float_numbers {
    ($($ty:ty: $single:expr, $half:expr, $least:expr, $wide:expr, $narrow:expr);* $(;)?) => {$(
        impl Number for $ty {
            const SINGLE: bool = $single;
            const ROUNDING: [f64; 2] = [$half, $least];
            fn same(self, other: Self) -> bool {
                self.to_bits() == other.to_bits() || self.is_nan() && other.is_nan()
            }
            fn nan() -> Self {
                <$ty>::NAN
            }
            fn wide(self) -> f64 {
                $wide(self)
            }
            fn narrow(number: f64) -> Self {
                $narrow(number)
            }
        }
    )*};
}
float_numbers! {
    f64: false, f64::EPSILON / 2.0, f64::from_bits(1), |v| v, |n| n;
    f32: true, 6e-8, 1e-45, f64::from, |n| n as f32;
    f16: true, 4.9e-4, 3e-8, f16::to_f64, |n| f16::from_f32(n as f32);
    bf16: true, 3.92e-3, 1e-40, bf16::to_f64, |n| bf16::from_f32(n as f32);
}

// Arithmetic in the compute type, whose numbers f64 holds exactly.
pub fn rounded<V: Number>(a: f64) -> f64 {
    if V::SINGLE { f64::from(a as f32) } else { a }
}
pub fn minus<V: Number>(a: f64, b: f64) -> f64 {
    if V::SINGLE { f64::from(a as f32 - b as f32) } else { a - b }
}
pub fn plus<V: Number>(a: f64, b: f64) -> f64 {
    if V::SINGLE { f64::from(a as f32 + b as f32) } else { a + b }
}
pub fn times<V: Number>(a: f64, b: f64) -> f64 {
    if V::SINGLE { f64::from(a as f32 * b as f32) } else { a * b }
}
pub fn fused<V: Number>(a: f64, b: f64, c: f64) -> f64 {
    if V::SINGLE { f64::from((a as f32).mul_add(b as f32, c as f32)) } else { a.mul_add(b, c) }
}

/// How far one operation of the compute type is off, as a part of its result.
pub fn precision<V: Number>() -> f64 {
    if V::SINGLE { 6e-8 } else { f64::EPSILON / 2.0 }
}
