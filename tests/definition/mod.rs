//! The definition of the operators and their derivatives, one element at a time in plain Rust: what the tests compare
//! with.
//!
//! It shares no code with `src/` and is slow on purpose: brackets by a linear scan, gradients by scattering, curves and
//! their derivatives in f64 by hyper-dual numbers.

#![allow(dead_code)] // each test uses a part

mod curves;
mod derivatives;
mod jet;
mod number;
mod wanted;

pub use number::{Instant, Number};
pub use wanted::Wanted;

use curves::{Arc, Piece};
use jet::Jet;
use number::{fused, minus, rounded};
use robocache::MaxGap;

/// How a channel is blended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Linear,
    Previous,
    Next,
    Nearest,
    Angle,
    Slerp,
    Pchip,
}

impl Mode {
    fn blends(self) -> bool {
        !matches!(self, Mode::Previous | Mode::Next | Mode::Nearest)
    }

    /// True where the derivative by the values depends on them.
    pub fn bends(self) -> bool {
        matches!(self, Mode::Slerp | Mode::Pchip)
    }
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
        Mode::Linear | Mode::Previous | Mode::Angle | Mode::Slerp | Mode::Pchip => false,
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

    /// `[B, T, D]`, for modes whose bits are defined.
    pub fn resample(&self) -> Vec<V> {
        self.wanted().into_iter().map(Wanted::bits).collect()
    }

    /// `[B, T, D]`.
    pub fn wanted(&self) -> Vec<Wanted<V>> {
        self.elements(|row, _, at, channel| {
            match at.fill {
                Some(Fill::Nan) => return Wanted::nan(),
                Some(Fill::Zero) => return Wanted::Bits(V::default()),
                None => {}
            }
            let mode = self.modes[channel];
            let weight = rounded::<V>(at.weight);
            if !mode.blends() || weight == 0.0 {
                let copy = self.value(row, copied(mode, at), channel);
                return if mode == Mode::Angle {
                    curves::angle::<V>(copy.wide(), 0.0, 0.0)
                } else {
                    Wanted::Bits(copy)
                };
            }
            let (a, b) = (self.value(row, at.left, channel).wide(), self.value(row, at.left + 1, channel).wide());
            match mode {
                Mode::Angle if weight.is_nan() => Wanted::nan(),
                Mode::Angle => curves::angle::<V>(a, b, weight),
                Mode::Slerp => self.slerp(row, at, channel),
                Mode::Pchip => self.piece(row, at, channel, |_, x| Jet::constant(x)).wanted(at.weight),
                _ => Wanted::Bits(V::narrow(fused::<V>(weight, minus::<V>(b, a), a))),
            }
        })
    }

    fn slerp(&self, row: usize, at: &Bracket, channel: usize) -> Wanted<V> {
        let first = self.quaternion_of(channel);
        let [a, b] = [0, 1].map(|side| self.quaternion(row, at.left + side, first));
        match curves::arc(a, b) {
            _ if !at.weight.is_finite() => Wanted::Any,
            Arc::Broken => Wanted::nan(),
            Arc::Vague => Wanted::Any,
            Arc::Sound => {
                let out = curves::slerp(&a.map(Jet::constant), &b.map(Jet::constant), at.weight);
                Wanted::Near { number: out[channel - first].value, error: 2e-15 }
            }
        }
    }

    /// The first channel of a channel's quaternion.
    fn quaternion_of(&self, channel: usize) -> usize {
        let start = self.modes[..channel].iter().rposition(|&mode| mode != Mode::Slerp).map_or(0, |place| place + 1);
        channel - (channel - start) % 4
    }

    fn quaternion(&self, row: usize, sample: usize, first: usize) -> [f64; 4] {
        std::array::from_fn(|k| self.value(row, sample, first + k).wide())
    }

    /// What a curve's bracket depends on: equal neighbouring times end it. `of` makes a number of a sample's.
    fn piece(&self, row: usize, at: &Bracket, channel: usize, of: impl Fn(usize, f64) -> Jet) -> Piece {
        let valid = &self.source_times[row * self.samples..][..self.lengths[row]];
        let before = at.left > 0 && valid[at.left - 1] < valid[at.left];
        let after = at.left + 2 < valid.len() && valid[at.left + 1] < valid[at.left + 2];
        let (first, last) = (at.left - usize::from(before), at.left + 1 + usize::from(after));
        let own = valid[at.left + 1].minus(valid[at.left]);
        Piece {
            spans: (first..last).map(|k| valid[k + 1].minus(valid[k]) / own).collect(),
            samples: (first..=last).map(|k| of(k, self.value(row, k, channel).wide())).collect(),
            left: at.left - first,
        }
    }

    /// `[B, T]`: which targets the samples answer for.
    pub fn mask(&self, gap: Option<MaxGap>) -> Vec<bool> {
        let mut all = Vec::new();
        for row in 0..self.lengths.len() {
            let valid = &self.source_times[row * self.samples..][..self.lengths[row]];
            for &target in &self.target_times[row * self.targets..][..self.targets] {
                let inside = valid[0] <= target && target <= valid[valid.len() - 1] && !target.is_infinite();
                let left = valid.iter().rposition(|&time| time <= target);
                all.push(
                    inside
                        && left.is_some_and(|left| {
                            valid[left] == target || gap.is_none_or(|gap| valid[left + 1].is_within(valid[left], gap))
                        }),
                );
            }
        }
        all
    }
}
