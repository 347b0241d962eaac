//! The derivatives of `resample`, by the definition.

use super::curves::{self, Arc};
use super::jet::Jet;
use super::number::{Instant, Number, fused, minus, plus, precision, rounded, times};
use super::wanted::Wanted;
use super::{Bracket, Mode, Problem, copied};

/// How far quaternions' norms may be from 1 for their derivatives to be checked.
const NORMS: std::ops::Range<f64> = 1e-2..1e3;

/// The sum of what a sample receives.
#[derive(Clone, Copy, Default)]
struct Sum {
    /// In the compute type, where the order is defined.
    bits: f64,
    number: f64,
    error: f64,
    magnitude: f64,
}

/// What a bracket's samples receive of a target, and how far off it may be: `(sample, channel, part)`.
type Parts = (Vec<(usize, usize, f64)>, f64);

/// Which derivative is gathered.
#[derive(Clone, Copy)]
enum Gathered<'a, V> {
    Value,
    Slope,
    /// Along a direction.
    Curvature(&'a [V]),
}

impl<V: Number, T: Instant> Problem<'_, V, T> {
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

    /// `[B, T, D]` along `tangent` `[B, S, D]`.
    pub fn tangent(&self, tangent: &[V]) -> Vec<Wanted<V>> {
        let direction = |row: usize, sample: usize, channel: usize| tangent[self.place(row, sample, channel)];
        self.elements(|row, _, at, channel| {
            let (mode, weight) = (self.modes[channel], rounded::<V>(at.weight));
            if at.fill.is_some() {
                return Wanted::Bits(V::default());
            }
            if !mode.blends() || weight == 0.0 {
                return Wanted::Bits(direction(row, copied(mode, at), channel));
            }
            let [a, b] = [0, 1].map(|side| direction(row, at.left + side, channel).wide());
            if !mode.bends() {
                return Wanted::Bits(V::narrow(fused::<V>(weight, minus::<V>(b, a), a)));
            }
            let along = |sample: usize, channel: usize| [direction(row, sample, channel).wide(), 0.0];
            if mode == Mode::Slerp {
                let first = self.quaternion_of(channel);
                let Some((out, error)) = self.slerp_of(row, at, first, along) else { return Wanted::Any };
                return Wanted::Near { number: out[channel - first].first[0], error };
            }
            let piece = self.piece(row, at, channel, |sample, x| Jet::new(x, along(sample, channel)));
            let Some([error, _]) = piece.errors::<V>().filter(|_| weight.is_finite()) else { return Wanted::Any };
            let size: f64 = piece.samples.iter().map(|x| x.first[0].abs()).sum();
            Wanted::Near { number: piece.at(at.weight).first[0], error: error * size }
        })
    }

    /// The quaternion at a target with its derivatives, and how far these may be off; none where they are not defined.
    fn slerp_of(
        &self,
        row: usize,
        at: &Bracket,
        first: usize,
        along: impl Fn(usize, usize) -> [f64; 2],
    ) -> Option<([Jet; 4], f64)> {
        let values = [0, 1].map(|side| self.quaternion(row, at.left + side, first));
        let norms = values.map(|q| q.iter().map(|v| v * v).sum::<f64>().sqrt());
        let sound = matches!(curves::arc(values[0], values[1]), Arc::Sound) && at.weight.is_finite();
        if !sound || !norms.iter().all(|norm| NORMS.contains(norm)) {
            return None;
        }
        let [a, b] =
            [0, 1].map(|side| std::array::from_fn(|k| Jet::new(values[side][k], along(at.left + side, first + k))));
        let size: f64 = [a, b].iter().flatten().map(|v: &Jet| v.first[0].abs().max(v.first[1].abs())).sum();
        let small = norms[0].min(norms[1]).min(1.0);
        Some((curves::slerp(&a, &b, at.weight), 1e-13 * (1.0 + size) * (1.0 + size) / small.powi(3)))
    }

    fn place(&self, row: usize, sample: usize, channel: usize) -> usize {
        (row * self.samples + sample) * self.modes.len() + channel
    }

    /// `[B, S, D]` from `grad` `[B, T, D]`, for modes whose bits are defined.
    pub fn backward(&self, grad: &[V], slope: bool) -> Vec<V> {
        self.wanted_backward(grad, slope).into_iter().map(Wanted::bits).collect()
    }

    /// `[B, S, D]` from `grad` `[B, T, D]`.
    pub fn wanted_backward(&self, grad: &[V], slope: bool) -> Vec<Wanted<V>> {
        self.gather(grad, if slope { Gathered::Slope } else { Gathered::Value })
    }

    /// `[B, S, D]` from `grad` `[B, T, D]` along `tangent` `[B, S, D]`.
    pub fn curvature(&self, grad: &[V], tangent: &[V]) -> Vec<Wanted<V>> {
        self.gather(grad, Gathered::Curvature(tangent))
    }

    fn gather(&self, grad: &[V], what: Gathered<V>) -> Vec<Wanted<V>> {
        let (samples, width) = (self.samples, self.modes.len());
        let mut sums = vec![Sum::default(); self.lengths.len() * samples * width];
        for row in 0..self.lengths.len() {
            let mut order: Vec<_> = (0..self.targets).map(|target| (self.bracket(row, target), target)).collect();
            order.sort_by_key(|(at, target)| (at.left, *target));
            for (at, target) in order.iter().filter(|(at, _)| at.fill.is_none()) {
                for channel in 0..width {
                    let given = |channel: usize| grad[(row * self.targets + target) * width + channel].wide();
                    for (sample, share) in self.shares(at, self.modes[channel], what) {
                        let sum = &mut sums[self.place(row, sample, channel)];
                        sum.bits = fused::<V>(share, given(channel), sum.bits);
                        sum.number += share * given(channel);
                        sum.magnitude += (share * given(channel)).abs();
                    }
                    let (parts, error) = self.parts(row, at, channel, what, &given);
                    for (sample, channel, part) in parts {
                        let sum = &mut sums[self.place(row, sample, channel)];
                        sum.number += part;
                        sum.magnitude += part.abs();
                        sum.error += error;
                    }
                }
            }
        }
        let finished = |(place, sum): (usize, Sum)| {
            if matches!(what, Gathered::Slope) || !self.modes[place % width].bends() {
                return Wanted::Bits(V::narrow(sum.bits));
            }
            let error = sum.error + 200.0 * precision::<V>() * sum.magnitude;
            if error.is_finite() { Wanted::Near { number: sum.number, error } } else { Wanted::Any }
        };
        sums.into_iter().enumerate().map(finished).collect()
    }

    /// The parts of a gradient that do not depend on the values, by sample.
    fn shares(&self, at: &Bracket, mode: Mode, what: Gathered<V>) -> Vec<(usize, f64)> {
        let (weight, rate) = (rounded::<V>(at.weight), rounded::<V>(at.rate));
        match what {
            Gathered::Curvature(_) => vec![],
            Gathered::Slope if mode == Mode::Linear && at.rate != 0.0 => vec![(at.left, -rate), (at.left + 1, rate)],
            Gathered::Slope => vec![],
            Gathered::Value if !mode.blends() || weight == 0.0 => vec![(copied(mode, at), 1.0)],
            Gathered::Value if mode.bends() => vec![],
            Gathered::Value => vec![(at.left, minus::<V>(1.0, weight)), (at.left + 1, weight)],
        }
    }

    /// The parts that do, for a channel or, at its first, for a quaternion.
    fn parts(
        &self,
        row: usize,
        at: &Bracket,
        channel: usize,
        what: Gathered<V>,
        given: &impl Fn(usize) -> f64,
    ) -> Parts {
        let mode = self.modes[channel];
        let tangent = match what {
            Gathered::Value => None,
            Gathered::Slope => return (vec![], 0.0),
            Gathered::Curvature(tangent) => Some(tangent),
        };
        if !mode.bends() || rounded::<V>(at.weight) == 0.0 {
            return (vec![], 0.0);
        }
        let along = |sample: usize, channel: usize| {
            tangent.map_or(0.0, |tangent| tangent[self.place(row, sample, channel)].wide())
        };
        // One sample and channel after the other is moved, and along the tangent all of them.
        let moved = |sample: usize, channel: usize| {
            move |s: usize, c: usize| [f64::from(u8::from((s, c) == (sample, channel))), along(s, c)]
        };
        let derivative = |jet: Jet| if tangent.is_some() { jet.mixed } else { jet.first[0] };
        let mut parts = Vec::new();
        if mode == Mode::Slerp {
            if self.quaternion_of(channel) != channel {
                return (vec![], 0.0);
            }
            let mut most = 0.0;
            for (sample, k) in [at.left, at.left + 1].into_iter().flat_map(|sample| (0..4).map(move |k| (sample, k))) {
                let found = self.slerp_of(row, at, channel, moved(sample, channel + k));
                let (out, error) = found.unwrap_or(([Jet::constant(0.0); 4], f64::INFINITY));
                let part = (0..4).map(|k| given(channel + k) * derivative(out[k])).sum();
                most = error.max(most);
                parts.push((sample, channel + k, part));
            }
            return (parts, most * 10.0);
        }
        let start = self.piece(row, at, channel, |sample, _| Jet::constant(sample as f64)).samples;
        let mut most = 0.0;
        for sample in start.iter().map(|sample| sample.value as usize) {
            let of = moved(sample, channel);
            let piece = self.piece(row, at, channel, |s, x| Jet::new(x, of(s, channel)));
            let size: f64 = piece.samples.iter().map(|x| x.first[1].abs()).sum();
            let errors = piece.errors::<V>().filter(|_| at.weight.is_finite());
            let error = errors.map_or(f64::INFINITY, |[step, bend]| if tangent.is_some() { bend * size } else { step });
            most = (error * given(channel).abs()).max(most);
            parts.push((sample, channel, given(channel) * derivative(piece.at(at.weight))));
        }
        (parts, most)
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
