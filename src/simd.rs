//! Instruction sets chosen at run time, and the element conversions that every level shares bit for bit.
//!
//! Each level compiles the same Rust loop with other target features; the compiler vectorises it. The formula is
//! written once, with explicit fused multiply-adds, so every level gives the same bits. On aarch64 NEON and its fused
//! multiply-add are part of the base architecture: there the plain loop is the NEON loop.

use crate::number::Compute;
use half::{bf16, f16};

/// A loop that a level compiles for itself; implement `run` with `#[inline(always)]`.
pub trait Work {
    /// The loop.
    fn run(self);
}

/// AVX2 with fused multiply-add; a value is the proof that this machine has it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// The proof, where the machine can give it.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }

    /// Runs `work` compiled for this level.
    pub fn run<W: Work>(self, work: W) {
        #[target_feature(enable = "avx2,fma")]
        fn compiled<W: Work>(work: W) {
            work.run();
        }
        // SAFETY: `self` proves that the features are there.
        unsafe { compiled(work) }
    }
}

/// AVX-512 (F, BW, DQ, VL); a value is the proof that this machine has it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// The proof, where the machine can give it.
    pub fn detect() -> Option<Self> {
        (Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl"))
        .then_some(Avx512(()))
    }

    /// Runs `work` compiled for this level.
    pub fn run<W: Work>(self, work: W) {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn compiled<W: Work>(work: W) {
            work.run();
        }
        // SAFETY: `self` proves that the features are there.
        unsafe { compiled(work) }
    }
}

/// The instruction set that this process uses.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// What the target guarantees: NEON on aarch64, a correct but slow `fma` of the C library elsewhere.
    Base,
    /// See [`Avx2`].
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// See [`Avx512`].
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Level {
    /// Every level that this machine can run, the best last.
    pub fn available() -> Vec<Level> {
        #[cfg(target_arch = "x86_64")]
        return std::iter::once(Level::Base)
            .chain(Avx2::detect().map(Level::Avx2))
            .chain(Avx512::detect().map(Level::Avx512))
            .collect();
        #[cfg(not(target_arch = "x86_64"))]
        vec![Level::Base]
    }

    /// The best level of this machine, detected once.
    pub fn best() -> Level {
        static BEST: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Level::available().pop().unwrap_or(Level::Base))
    }

    /// The name for `build_info`.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2+fma",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512",
            Level::Base if cfg!(target_arch = "aarch64") => "neon",
            Level::Base => "scalar",
        }
    }

    /// Runs `work` compiled for this level.
    pub fn run<W: Work>(self, work: W) {
        match self {
            Level::Base => work.run(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(level) => level.run(work),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(level) => level.run(work),
        }
    }
}

/// Asks for memory that will soon be read, where the machine can be asked; any address will do.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it touches nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Bytes that memory gives at once.
const LINE: usize = 64;

/// The same of so many bytes from an address on.
#[inline(always)]
pub fn prefetch_all<T>(first: *const T, bytes: usize) {
    for line in (0..bytes).step_by(LINE) {
        prefetch(first.cast::<u8>().wrapping_add(line));
    }
}

/// A value type that can be blended: its compute type and the conversions, each rounding once to nearest even.
pub trait Blend: crate::tensor::Element {
    /// The type in which it is computed.
    type Compute: Compute;
    /// Exactly the same value.
    fn widen(self) -> Self::Compute;
    /// The nearest value.
    fn narrow(value: Self::Compute) -> Self;
    /// The nearest value of an f64, rounded once.
    fn narrow_from(value: f64) -> Self;
}

/// An f64 as an f32 whose last bit is odd unless it is exact: rounded again, to fewer bits, it is as if rounded once.
#[inline(always)]
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if value.is_nan() || f64::from(nearest) == value {
        return nearest;
    }
    let bits = nearest.to_bits();
    f32::from_bits(if f64::from(nearest).abs() > value.abs() { bits - 1 } else { bits } | 1)
}

macro_rules! blend_plain {
    ($($ty:ty),*) => {$(
        impl Blend for $ty {
            type Compute = $ty;
            #[inline(always)]
            fn widen(self) -> $ty {
                self
            }
            #[inline(always)]
            fn narrow(value: $ty) -> Self {
                value
            }
            #[inline(always)]
            fn narrow_from(value: f64) -> Self {
                value as $ty
            }
        }
    )*};
}
blend_plain!(f32, f64);

// The conversions of the `half` crate ask for CPU features at each call, which keeps a loop from being vectorised;
// these are branch-free integer forms with the same results.
impl Blend for bf16 {
    type Compute = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow_from(value: f64) -> Self {
        Self::narrow(round_to_odd(value))
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        bf16::from_bits((if value.is_nan() { quiet } else { rounded }) as u16)
    }
}

impl Blend for f16 {
    type Compute = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let shifted = (bits & 0x7fff) << 13;
        // 2^112 moves the exponent from the bias of f16 to that of f32, subnormals included.
        let finite = (f32::from_bits(shifted) * f32::from_bits(0x7780_0000)).to_bits();
        let special = shifted | 0x7f80_0000;
        let magnitude = if shifted >= 0x0f80_0000 { special } else { finite };
        f32::from_bits(magnitude | ((bits & 0x8000) << 16))
    }

    #[inline(always)]
    fn narrow_from(value: f64) -> Self {
        Self::narrow(round_to_odd(value))
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let magnitude = bits & 0x7fff_ffff;
        let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
        // Adding 0.5 aligns the last bit of an f16 subnormal with the last bit of the sum, which rounds it.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
        let rounded = if magnitude >= 0x4780_0000 {
            special
        } else if magnitude < 0x3880_0000 {
            subnormal
        } else {
            normal
        };
        f16::from_bits((rounded | ((bits >> 16) & 0x8000)) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_widen_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (a, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert!(a.widen().to_bits() == a.to_f32().to_bits() || a.is_nan() && a.widen().is_nan(), "{bits:#x}");
            assert!(b.widen().to_bits() == b.to_f32().to_bits() || b.is_nan() && b.widen().is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn halves_of_an_f64_are_rounded_once() {
        for bits in 0..0x7c00u16 {
            // Just beside the middle between two neighbours, where a second rounding would go the wrong way.
            let (low, high) = (f16::from_bits(bits).to_f64(), f16::from_bits(bits + 1).to_f64());
            let middle = (low + high) / 2.0;
            if high.is_finite() {
                assert_eq!(f16::narrow_from(middle * (1.0 - 1e-12)).to_bits(), bits);
                assert_eq!(f16::narrow_from(-middle * (1.0 + 1e-12)).to_bits(), (bits + 1) | 0x8000);
            }
        }
        assert_eq!((f16::narrow_from(1e300), bf16::narrow_from(-1e300)), (f16::INFINITY, bf16::NEG_INFINITY));
        assert!(f16::narrow_from(f64::NAN).is_nan() && bf16::narrow_from(f64::NAN).is_nan());
    }

    #[test]
    fn halves_narrow_as_the_half_crate_does() {
        // Every f32 whose low 7 bits are among the ones that decide a rounding.
        for high in 0..=(u32::MAX >> 7) {
            for low in [0, 1, 64, 127] {
                let value = f32::from_bits((high << 7) | low);
                let (a, b) = (f16::narrow(value), bf16::narrow(value));
                if value.is_nan() {
                    assert!(a.is_nan() && b.is_nan(), "{value:?}");
                } else {
                    assert_eq!(a.to_bits(), f16::from_f32_const(value).to_bits(), "{value:?}");
                    assert_eq!(b.to_bits(), bf16::from_f32_const(value).to_bits(), "{value:?}");
                }
            }
        }
    }
}
