//! The numbers that formulas are written in: plain ones, and ones that carry a derivative along.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// What a formula may do with a number, each operation rounded once.
pub trait Number:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// The plain number underneath.
    type Real: Compute;
    /// A number that depends on nothing.
    fn constant(value: Self::Real) -> Self;
    /// The plain number, for comparisons.
    fn value(self) -> Self::Real;
    /// `self * b + c`, a plain one rounded once.
    fn fma(self, b: Self, c: Self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
}

/// A type that values are computed in.
pub trait Compute: Number<Real = Self> + PartialOrd {
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// The nearest number to half a turn.
    const PI: Self;
    /// The nearest number to a whole turn.
    const TURN: Self;
    /// What is missing in [`Compute::TURN`].
    const TURN_REST: Self;
    /// Turns in a radian.
    const TURNS: Self;
    /// The nearest value to an f64.
    fn from_f64(value: f64) -> Self;
    /// The same value as f64.
    fn to_f64(self) -> f64;
    /// The nearest whole number, of two the even one.
    fn round(self) -> Self;
    /// What is left of a division with a whole quotient rounded towards zero, exactly.
    fn remainder(self, divisor: Self) -> Self;
}

macro_rules! plain {
    ($ty:ident: $turn_rest:expr, $turns:expr) => {
        impl Number for $ty {
            type Real = $ty;
            #[inline(always)]
            fn constant(value: $ty) -> Self {
                value
            }
            #[inline(always)]
            fn value(self) -> $ty {
                self
            }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                self.mul_add(b, c)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $ty::sqrt(self)
            }
        }

        impl Compute for $ty {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const PI: Self = std::$ty::consts::PI;
            const TURN: Self = std::$ty::consts::TAU;
            const TURN_REST: Self = $turn_rest;
            const TURNS: Self = $turns;
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $ty
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn round(self) -> Self {
                self.round_ties_even()
            }
            #[inline(always)]
            fn remainder(self, divisor: Self) -> Self {
                self % divisor
            }
        }
    };
}
plain!(f32: -1.748_455_5e-7, 0.159_154_94);
plain!(f64: 2.449_293_598_294_706_4e-16, 0.159_154_943_091_895_35);

/// A number and its derivative along one direction: what a formula computes of duals is its derivative too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dual<N> {
    /// The number.
    pub value: N,
    /// Its derivative.
    pub slope: N,
}

impl<N: Number> Add for Dual<N> {
    type Output = Self;
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Dual { value: self.value + b.value, slope: self.slope + b.slope }
    }
}

impl<N: Number> Sub for Dual<N> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Dual { value: self.value - b.value, slope: self.slope - b.slope }
    }
}

impl<N: Number> Mul for Dual<N> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Dual { value: self.value * b.value, slope: self.slope.fma(b.value, self.value * b.slope) }
    }
}

impl<N: Number> Div for Dual<N> {
    type Output = Self;
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        let quotient = self.value / b.value;
        Dual { value: quotient, slope: (self.slope - quotient * b.slope) / b.value }
    }
}

impl<N: Number> Neg for Dual<N> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Dual { value: -self.value, slope: -self.slope }
    }
}

impl<N: Number> Number for Dual<N> {
    type Real = N::Real;
    #[inline(always)]
    fn constant(value: N::Real) -> Self {
        Dual { value: N::constant(value), slope: N::constant(N::Real::ZERO) }
    }
    #[inline(always)]
    fn value(self) -> N::Real {
        self.value.value()
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        let slope = self.value.fma(b.slope, c.slope);
        Dual { value: self.value.fma(b.value, c.value), slope: self.slope.fma(b.value, slope) }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        let root = self.value.sqrt();
        Dual { value: root, slope: self.slope / (root + root) }
    }
}

/// The polynomial of these coefficients, the constant first, by Horner's rule.
#[inline(always)]
pub fn polynomial<N: Number>(x: N, coefficients: &[N::Real]) -> N {
    let mut sum = N::constant(N::Real::ZERO);
    for &coefficient in coefficients.iter().rev() {
        sum = sum.fma(x, N::constant(coefficient));
    }
    sum
}
