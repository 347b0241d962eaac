//! The definition of `resample` and its derivatives, one element at a time in plain Rust: what the tests compare with.
//!
//! It shares no code with `src/` and is slow on purpose: brackets by a linear scan, gradients by scattering.

#![allow(dead_code)] // each test uses a part

use half::{bf16, f16};

/// A type that times can have.
pub trait Instant: Copy + PartialOrd {
    /// `self - earlier` in this type (integers exactly), then as f64.
    fn minus(self, earlier: Self) -> f64;
    fn is_nan(self) -> bool;
    fn is_infinite(self) -> bool;
    /// The nearest time to a number.
    fn nearest(number: f64) -> Self;
}

impl Instant for i64 {
    fn minus(self, earlier: Self) -> f64 {
        (i128::from(self) - i128::from(earlier)) as f64
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

impl Number for u8 {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}

macro_rules! float_numbers {
    ($($ty:ty: $single:expr, $nan:expr, $wide:expr, $narrow:expr);* $(;)?) => {$(
        impl Number for $ty {
            const SINGLE: bool = $single;
            fn nan() -> Self {
                $nan
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
    f64: false, f64::NAN, |v| v, |n| n;
    f32: true, f32::NAN, f64::from, |n| n as f32;
    f16: true, f16::NAN, f16::to_f64, |n| f16::from_f32(n as f32);
    bf16: true, bf16::NAN, bf16::to_f64, |n| bf16::from_f32(n as f32);
}

// Arithmetic in the compute type, whose numbers f64 holds exactly.
fn rounded<V: Number>(a: f64) -> f64 {
    if V::SINGLE { f64::from(a as f32) } else { a }
}
fn minus<V: Number>(a: f64, b: f64) -> f64 {
    if V::SINGLE { f64::from(a as f32 - b as f32) } else { a - b }
}
fn plus<V: Number>(a: f64, b: f64) -> f64 {
    if V::SINGLE { f64::from(a as f32 + b as f32) } else { a + b }
}
fn times<V: Number>(a: f64, b: f64) -> f64 {
    if V::SINGLE { f64::from(a as f32 * b as f32) } else { a * b }
}
fn fused<V: Number>(a: f64, b: f64, c: f64) -> f64 {
    if V::SINGLE { f64::from((a as f32).mul_add(b as f32, c as f32)) } else { a.mul_add(b, c) }
}

/// How a channel is blended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Linear,
    Previous,
    Next,
    Nearest,
}

/// What a target without samples gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Nan,
    Zero,
}

/// Where a target falls: on sample `left` where `weight` is 0, else between it and the next.
#[derive(Clone, Copy, Debug)]
pub struct Bracket {
    pub left: usize,
    pub weight: f64,
    pub rate: f64,
    pub fill: Option<Fill>,
}

/// The bracket of a target among the valid times of a row.
pub fn bracket<T: Instant>(valid: &[T], target: T, outside: &str) -> Bracket {
    let last = valid.len() - 1;
    let on = |left| Bracket { left, weight: 0.0, rate: 0.0, fill: None };
    let between = |left: usize| {
        let span = valid[left + 1].minus(valid[left]);
        let rate = 1.0 / span;
        let usable = rate > 0.0 && rate.is_finite();
        Bracket { rate: if usable { rate } else { 0.0 }, weight: target.minus(valid[left]) / span, ..on(left) }
    };
    if target.is_nan() {
        return Bracket { fill: Some(Fill::Nan), ..on(0) };
    }
    if !target.is_infinite() {
        if target == valid[last] {
            return on(last);
        }
        let before = valid.iter().rposition(|&time| time <= target);
        if let Some(left) = before.filter(|&left| left < last) {
            return between(left);
        }
    }
    let first = valid.iter().all(|&time| time > target) || target < T::nearest(0.0) && target.is_infinite();
    let (end, left) = if first { (0, 0) } else { (last, last.saturating_sub(1)) };
    match outside {
        "nan" => Bracket { fill: Some(Fill::Nan), ..on(end) },
        "zero" => Bracket { fill: Some(Fill::Zero), ..on(end) },
        "extrapolate" if last > 0 && valid[left] != valid[left + 1] => between(left),
        _ => on(end),
    }
}

/// The sample that a mode which does not blend copies.
fn copied(mode: Mode, at: &Bracket) -> usize {
    let right = match mode {
        Mode::Linear | Mode::Previous => false,
        Mode::Next => at.weight != 0.0,
        Mode::Nearest => at.weight > 0.5 || at.weight.is_nan(),
    };
    at.left + usize::from(right)
}

/// Dense arguments; times that the batch shares are repeated for each row.
pub struct Problem<'a, V, T> {
    /// `[B, S, D]`.
    pub values: &'a [V],
    /// `[B, S]`.
    pub source_times: &'a [T],
    /// `[B, T]`.
    pub target_times: &'a [T],
    /// `[B]`.
    pub lengths: &'a [usize],
    /// One of each channel.
    pub modes: &'a [Mode],
    pub outside: &'a str,
    pub samples: usize,
    pub targets: usize,
}

impl<V: Number, T: Instant> Problem<'_, V, T> {
    pub fn bracket(&self, row: usize, target: usize) -> Bracket {
        let start = row * self.samples;
        let valid = &self.source_times[start..start + self.lengths[row]];
        bracket(valid, self.target_times[row * self.targets + target], self.outside)
    }

    fn value(&self, row: usize, sample: usize, channel: usize) -> V {
        self.values[(row * self.samples + sample) * self.modes.len() + channel]
    }

    /// `(row, target, channel)` of each element of the result, in order.
    fn elements<R>(&self, of: impl Fn(usize, usize, &Bracket, usize) -> R) -> Vec<R> {
        let mut all = Vec::new();
        for row in 0..self.lengths.len() {
            for target in 0..self.targets {
                let at = self.bracket(row, target);
                all.extend((0..self.modes.len()).map(|channel| of(row, target, &at, channel)));
            }
        }
        all
    }

    /// `[B, T, D]`.
    pub fn resample(&self) -> Vec<V> {
        self.elements(|row, _, at, channel| {
            match at.fill {
                Some(Fill::Nan) => return V::nan(),
                Some(Fill::Zero) => return V::default(),
                None => {}
            }
            let mode = self.modes[channel];
            let weight = rounded::<V>(at.weight);
            if mode != Mode::Linear || weight == 0.0 {
                return self.value(row, copied(mode, at), channel);
            }
            let (a, b) = (self.value(row, at.left, channel).wide(), self.value(row, at.left + 1, channel).wide());
            V::narrow(fused::<V>(weight, minus::<V>(b, a), a))
        })
    }

    /// The slope of a channel in its bracket, in the compute type; none where the result does not move.
    fn slope_at(&self, row: usize, at: &Bracket, channel: usize) -> Option<f64> {
        if at.rate == 0.0 || self.modes[channel] != Mode::Linear {
            return None;
        }
        let (a, b) = (self.value(row, at.left, channel).wide(), self.value(row, at.left + 1, channel).wide());
        Some(times::<V>(minus::<V>(b, a), rounded::<V>(at.rate)))
    }

    /// `[B, T, D]`.
    pub fn slope(&self) -> Vec<V> {
        self.elements(|row, _, at, channel| self.slope_at(row, at, channel).map_or(V::default(), V::narrow))
    }

    /// `[B, S, D]` from `grad` `[B, T, D]`; `values` are not looked at.
    pub fn backward(&self, grad: &[V], slope: bool) -> Vec<V> {
        let (samples, width) = (self.samples, self.modes.len());
        let mut sums = vec![0.0; self.lengths.len() * samples * width];
        for row in 0..self.lengths.len() {
            let mut order: Vec<_> = (0..self.targets).map(|target| (self.bracket(row, target), target)).collect();
            order.sort_by_key(|(at, target)| (at.left, *target));
            for (at, target) in order.iter().filter(|(at, _)| at.fill.is_none()) {
                for (channel, &mode) in self.modes.iter().enumerate() {
                    let given = grad[(row * self.targets + target) * width + channel];
                    let mut give = |sample: usize, share: f64| {
                        let sum = &mut sums[(row * samples + sample) * width + channel];
                        *sum = fused::<V>(share, given.wide(), *sum);
                    };
                    let (weight, rate) = (rounded::<V>(at.weight), rounded::<V>(at.rate));
                    if slope {
                        if mode == Mode::Linear && at.rate != 0.0 {
                            give(at.left, -rate);
                            give(at.left + 1, rate);
                        }
                    } else if mode == Mode::Linear && weight != 0.0 {
                        give(at.left, minus::<V>(1.0, weight));
                        give(at.left + 1, weight);
                    } else {
                        give(copied(mode, at), 1.0);
                    }
                }
            }
        }
        sums.into_iter().map(V::narrow).collect()
    }

    /// `[B, T]` from `grad` `[B, T, D]`.
    pub fn time_grad(&self, grad: &[V]) -> Vec<T> {
        let mut sums = vec![[0.0; 32]; self.lengths.len() * self.targets];
        let width = self.modes.len();
        self.elements(|row, target, at, channel| {
            (row * self.targets + target, self.slope_at(row, at, channel), channel)
        })
        .into_iter()
        .for_each(|(place, slope, channel)| {
            if let Some(slope) = slope {
                let sum = &mut sums[place][channel % 32];
                *sum = fused::<V>(grad[place * width + channel].wide(), slope, *sum);
            }
        });
        let pairwise = |mut lanes: [f64; 32]| {
            for apart in [16, 8, 4, 2, 1] {
                for lane in 0..apart {
                    lanes[lane] = plus::<V>(lanes[lane], lanes[lane + apart]);
                }
            }
            T::nearest(lanes[0])
        };
        sums.into_iter().map(pairwise).collect()
    }
}
