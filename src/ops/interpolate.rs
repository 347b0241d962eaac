//! Where a target time falls among source times: the bracket that every temporal operator blends in.

use crate::ops::modes::{Mode, Outside};
use crate::simd::{Level, Work};
use crate::tensor::{Element, View};
use std::cmp::Ordering;
use std::ops::Range;

/// What a target gets that no sample answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fill {
    /// It has a bracket.
    None = 0,
    /// Zero.
    Zero = 1,
    /// Not a number, or zero where the type has none.
    Nan = 2,
}

/// Where a target falls: between samples `left` and `left + 1`, or on `left` alone where `weight` is 0.
///
/// The layout is the kernels' too (`kernels/interpolate.cuh`).
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(16))]
pub struct Bracket {
    /// The last sample at or before the target, or the sample that stands for it; always a sample of the row.
    pub left: i64,
    /// `(t - time[left]) / (time[left + 1] - time[left])`; outside `[0, 1)` only where a line is extended.
    pub weight: f64,
    /// `1 / (time[left + 1] - time[left])`; 0 where the result does not move with the times.
    pub rate: f64,
    /// What the target gets instead of samples.
    pub fill: Fill,
    /// Zero; the kernels' struct has no padding.
    pub pad: u32,
    /// How long the span before the bracket is, in spans of the bracket; 0 where a curve ends there, or none is asked.
    pub before: f64,
    /// As `before`, for the span after the bracket.
    pub after: f64,
}

const _: () = assert!(size_of::<Bracket>() == 48);

/// Samples after the one that a target is guessed to follow that are looked at together.
const NEAR: usize = 8;

/// Ratios of spans stay numbers that an f32 holds: beyond, the longer span does not bend the curve any more.
const RATIOS: [f64; 2] =
    [1.0 / 1_267_650_600_228_229_401_496_703_205_376.0, 1_267_650_600_228_229_401_496_703_205_376.0]; // 2^-100, 2^100

impl Bracket {
    /// A place for a bracket.
    pub const EMPTY: Bracket = Bracket { fill: Fill::Zero, ..Bracket::between(0, 0.0, 0.0) };

    fn on(left: usize) -> Self {
        Bracket::between(left, 0.0, 0.0)
    }

    const fn between(left: usize, weight: f64, rate: f64) -> Self {
        // Only garbage times (unsorted, infinite) give other rates; they move nothing.
        let rate = if rate > 0.0 && rate < f64::INFINITY { rate } else { 0.0 };
        Bracket { left: left as i64, weight, rate, fill: Fill::None, pad: 0, before: 0.0, after: 0.0 }
    }

    fn filled(left: usize, fill: Fill) -> Self {
        Bracket { fill, ..Bracket::on(left) }
    }

    /// The sample that a mode which does not blend copies.
    #[inline(always)]
    pub fn copied(&self, mode: Mode) -> usize {
        let right = match mode {
            Mode::Linear | Mode::Previous | Mode::Angle | Mode::Slerp | Mode::Pchip => false,
            Mode::Next => self.weight != 0.0,
            // Not `> 0.5`: a weight that is no number, of infinite times, is not at most half.
            Mode::Nearest => !matches!(self.weight.partial_cmp(&0.5), Some(Ordering::Less | Ordering::Equal)),
        };
        self.left as usize + usize::from(right)
    }
}

/// The longest bracket that a mask lets through, ready to be compared with spans of any type.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Limit {
    /// For int64 times.
    pub ticks: u64,
    /// For floating times, a number of their type.
    pub number: f64,
}

/// A type that times can have.
pub trait Time: Element + PartialOrd {
    /// `later - earlier` in this type, exactly for integers, then as f64; of times that do not descend.
    fn since(self, earlier: Self) -> f64;
    /// Not a number.
    fn is_nan(self) -> bool;
    /// An infinity: its sign, else 0.
    fn infinite(self) -> i32;
    /// True where `self - earlier` is no longer than the limit.
    fn is_within(self, earlier: Self, limit: &Limit) -> bool;
}

impl Time for i64 {
    #[inline(always)]
    fn since(self, earlier: Self) -> f64 {
        // Unsigned, so that a span of more than 2^63 ticks is right too.
        self.wrapping_sub(earlier) as u64 as f64
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        false
    }
    #[inline(always)]
    fn infinite(self) -> i32 {
        0
    }
    #[inline(always)]
    fn is_within(self, earlier: Self, limit: &Limit) -> bool {
        self.wrapping_sub(earlier) as u64 <= limit.ticks
    }
}

macro_rules! float_time {
    ($($ty:ty),*) => {$(
        impl Time for $ty {
            #[inline(always)]
            fn since(self, earlier: Self) -> f64 {
                (self - earlier) as f64
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                self.is_nan()
            }
            #[inline(always)]
            fn infinite(self) -> i32 {
                i32::from(self == <$ty>::INFINITY) - i32::from(self == <$ty>::NEG_INFINITY)
            }
            #[inline(always)]
            fn is_within(self, earlier: Self, limit: &Limit) -> bool {
                self.since(earlier) <= limit.number
            }
        }
    )*};
}
float_time!(f32, f64);

/// The valid source times of one row.
#[derive(Clone, Copy)]
pub struct Samples<T> {
    first: *const T,
    stride: isize,
    count: usize,
}

impl<T: Time> Samples<T> {
    /// The row `row` of `times` `[B, S]`, of which `count` samples are valid.
    ///
    /// # Safety
    /// `times` is host memory of type `T`, `row` is one of its rows, and `1 <= count <= S`.
    pub unsafe fn new(times: &View, row: usize, count: usize) -> Self {
        // SAFETY: the caller's promise.
        let first = unsafe { times.at::<T>(row as isize * times.stride(0)) };
        Samples { first, stride: times.stride(1), count }
    }

    #[inline(always)]
    fn at(&self, sample: usize) -> T {
        debug_assert!(sample < self.count);
        // SAFETY: `new` promises `count` samples, and every caller stays below it.
        unsafe { *self.first.offset(sample as isize * self.stride) }
    }

    /// How many samples are at or before `target`, for ascending times; some number up to `count` for any times.
    ///
    /// `guess` is the answer for the target before: targets mostly ascend in small steps, so the search starts there.
    #[inline(always)]
    fn upper_bound(&self, target: T, guess: usize) -> usize {
        let (mut low, mut high) = (guess, self.count);
        if guess > 0 && !self.is_at_or_before(guess - 1, target) {
            (low, high) = (0, guess - 1);
        } else {
            let mut step = 1;
            if NEAR <= high - low {
                if !self.is_at_or_before(low, target) {
                    return low;
                }
                // Mostly it is near, and a count takes no branch that depends on the times.
                let passed: usize =
                    (low..low + NEAR).map(|sample| usize::from(self.is_at_or_before(sample, target))).sum();
                if passed < NEAR {
                    return low + passed;
                }
                // Not by `passed`: what is read next need not wait for what was counted.
                low += NEAR;
                step = NEAR;
            }
            while step <= high - low {
                if !self.is_at_or_before(low + step - 1, target) {
                    high = low + step - 1;
                    break;
                }
                low += step;
                step *= 2;
            }
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if self.is_at_or_before(middle, target) { low = middle + 1 } else { high = middle }
        }
        low
    }

    #[inline(always)]
    fn is_at_or_before(&self, sample: usize, target: T) -> bool {
        self.at(sample) <= target
    }

    /// The bracket of a target; `guess` carries what one target tells about the next (0 at first). `spans` also asks
    /// for the spans beside it.
    #[inline(always)]
    pub fn bracket(&self, target: T, outside: Outside, spans: bool, guess: &mut usize) -> Bracket {
        let last = self.count - 1;
        if target.is_nan() {
            return Bracket::filled(last, Fill::Nan);
        }
        let count = match target.infinite() {
            0 => self.upper_bound(target, *guess),
            sign => {
                if sign > 0 {
                    self.count
                } else {
                    0
                }
            }
        };
        *guess = count;
        if 0 < count && count <= last {
            let left = count - 1;
            let (from, to) = (self.at(left), self.at(count));
            let span = to.since(from);
            let bracket = Bracket::between(left, target.since(from) / span, 1.0 / span);
            if !spans {
                return bracket;
            }
            let before = if left > 0 { ratio(self.at(left - 1), from, span) } else { 0.0 };
            let after = if count < last { ratio(to, self.at(count + 1), span) } else { 0.0 };
            return Bracket { before, after, ..bracket };
        }
        let end = if count == 0 { 0 } else { last };
        if target == self.at(end) && target.infinite() == 0 {
            return Bracket::on(end);
        }
        match outside {
            Outside::Hold => Bracket::on(end),
            Outside::Nan => Bracket::filled(end, Fill::Nan),
            Outside::Zero => Bracket::filled(end, Fill::Zero),
            Outside::Extrapolate => self.extended(target, end),
        }
    }

    /// True where the target lies between the first and the last sample, and on a sample or in a bracket within
    /// `limit`.
    #[inline(always)]
    pub fn covers(&self, target: T, limit: Option<&Limit>, guess: &mut usize) -> bool {
        if target.is_nan() || target.infinite() != 0 {
            return false;
        }
        let count = self.upper_bound(target, *guess);
        *guess = count;
        if count == 0 {
            return false;
        }
        let from = self.at(count - 1);
        from == target || (count < self.count && limit.is_none_or(|limit| self.at(count).is_within(from, limit)))
    }

    /// The end bracket's line; an end bracket of no length, or a single sample, holds.
    fn extended(&self, target: T, end: usize) -> Bracket {
        let left = end.saturating_sub(1);
        if self.count < 2 || self.at(left) == self.at(left + 1) {
            return Bracket::on(end);
        }
        let (from, to) = (self.at(left), self.at(left + 1));
        let span = to.since(from);
        let distance = if end == 0 { -from.since(target) } else { target.since(from) };
        Bracket::between(left, distance / span, 1.0 / span)
    }
}

/// The span of neighbouring samples in spans of the bracket; equal times split a curve, so there it ends.
#[inline(always)]
fn ratio<T: Time>(from: T, to: T, span: f64) -> f64 {
    if from < to {
        let ratio = to.since(from) / span;
        if ratio < RATIOS[0] {
            return RATIOS[0];
        }
        return if ratio > RATIOS[1] { RATIOS[1] } else { ratio };
    }
    0.0
}

/// Whether a time does not come at or after the one before it: `!(a <= b)` and not `a > b`, for a NaN does not either.
#[allow(clippy::neg_cmp_op_on_partial_ord)]
#[inline(always)]
fn descends<T: Time>(before: T, time: T) -> bool {
    !(before <= time)
}

/// Looks for a descent among times that lie side by side, without a branch for each.
struct Descent<'a, T> {
    times: &'a [T],
    found: &'a mut bool,
}

impl<T: Time> Work for Descent<'_, T> {
    #[inline(always)]
    fn run(self) {
        let pairs = self.times.iter().zip(self.times.iter().skip(1));
        *self.found = pairs.fold(false, |any, (&before, &time)| any | descends(before, time));
    }
}

/// Whether some of these samples of a row, of which `count` are valid, descends.
///
/// # Safety
/// As for [`Samples::new`].
pub unsafe fn has_descent<T: Time>(times: &View, row: usize, count: usize, samples: Range<usize>) -> bool {
    let (start, end) = (samples.start.max(1), samples.end.min(count));
    if start >= end {
        return false;
    }
    // SAFETY: the caller's promise.
    let all = unsafe { Samples::<T>::new(times, row, count) };
    if all.stride != 1 {
        return (start..end).any(|sample| descends(all.at(sample - 1), all.at(sample)));
    }
    // SAFETY: `new` promises `count` samples, which lie side by side.
    let times = unsafe { std::slice::from_raw_parts(all.first.add(start - 1), end - start + 1) };
    let mut found = false;
    Level::best().run(Descent { times, found: &mut found });
    found
}

/// The first place of a row where times do not ascend: the sample, the time before it and its own.
///
/// # Safety
/// As for [`Samples::new`].
pub unsafe fn first_descent<T: Time>(times: &View, row: usize, count: usize) -> Option<(usize, T, T)> {
    // SAFETY: the caller's promise.
    let samples = unsafe { Samples::<T>::new(times, row, count) };
    let sample = (1..count).find(|&sample| descends(samples.at(sample - 1), samples.at(sample)))?;
    Some((sample, samples.at(sample - 1), samples.at(sample)))
}
