//! The modes that are more than a line between two numbers, in plain f64 mathematics.

use super::jet::Jet;
use super::number::{Number, precision};
use super::wanted::{Wanted, half_turn};
use std::f64::consts::TAU;

/// How far derivatives of curves are checked: beyond, rounding (and not the formula) decides.
const STEEPEST: f64 = 100.0;
const SMALLEST: f64 = 1e-3;

/// Moved by whole turns into half a turn around zero; none where too far for its last bits to be an angle.
fn wrapped<V: Number>(angle: f64) -> Option<f64> {
    const TURN_REST: f64 = 2.449_293_598_294_706_4e-16;
    let half = half_turn::<V>();
    if -half <= angle && angle < half {
        return Some(angle);
    }
    let turns = (angle / TAU).round();
    (angle.abs() < 65_536.0).then(|| (-turns).mul_add(TURN_REST, (-turns).mul_add(TAU, angle)))
}

/// The angle at part `weight` of the shorter arc.
pub fn angle<V: Number>(a: f64, b: f64, weight: f64) -> Wanted<V> {
    let half = half_turn::<V>();
    let (last, near) = (if weight == 0.0 { a } else { b }, 20.0 * precision::<V>());
    if !a.is_finite() || !last.is_finite() {
        return Wanted::nan();
    }
    let (Some(from), Some(to)) = (wrapped::<V>(a), wrapped::<V>(last)) else {
        return Wanted::Within { low: -half, high: half };
    };
    if weight == 0.0 {
        let inside = -half <= a && a < half;
        return if inside { Wanted::Bits(V::narrow(a)) } else { Wanted::Turned { angles: [from; 2], error: near } };
    }
    let arc = (to - from) - TAU * ((to - from) / TAU).round();
    // Opposite angles are joined on either side.
    let other = if half - arc.abs() < near { arc - TAU.copysign(arc) } else { arc };
    Wanted::Turned { angles: [arc, other].map(|arc| weight.mul_add(arc, from)), error: near }
}

/// `sin(sqrt(x)) / sqrt(x)`, which has derivatives at 0 too.
fn sinc(x: Jet) -> Jet {
    if x.value > 0.1 {
        let root = x.sqrt();
        return root.sin() / root;
    }
    // 1 - x / 3! (1 - x / (4 * 5) ...)
    (1..10)
        .rev()
        .fold(Jet::constant(1.0), |sum, k| Jet::constant(1.0) - x.scaled(1.0 / f64::from(2 * k * (2 * k + 1))) * sum)
}

/// The square of the angle whose half has a sine of square `z`.
fn squared_angle(z: Jet) -> Jet {
    if z.value > 0.03 {
        let half = z.sqrt().asin();
        return (half * half).scaled(4.0);
    }
    // 2 asin(y)^2 = the sum of (4 y^2)^n / (n^2 binomial(2n, n)).
    let mut factors = Vec::new();
    let mut binomial = 1.0;
    for n in 1..16 {
        let n = f64::from(n);
        binomial *= (2.0 * n) * (2.0 * n - 1.0) / (n * n);
        factors.push(2.0 * 4f64.powf(n) / (n * n * binomial));
    }
    factors.into_iter().rev().fold(Jet::constant(0.0), |sum, factor| z * (Jet::constant(factor) + sum))
}

fn dot(a: &[Jet; 4], b: &[Jet; 4]) -> Jet {
    (0..4).fold(Jet::constant(0.0), |sum, k| sum + a[k] * b[k])
}

/// What the mathematics say of two quaternions.
pub enum Arc {
    /// Both have a direction.
    Sound,
    /// One has none.
    Broken,
    /// Too small or large for f64, or a quarter turn apart: rounding decides.
    Vague,
}

pub fn arc(a: [f64; 4], b: [f64; 4]) -> Arc {
    let both = [a, b];
    let largest = both.map(|q| q.iter().fold(0.0, |most: f64, v| most.max(v.abs())));
    if both.iter().flatten().any(|v| !v.is_finite()) || largest.contains(&0.0) {
        return Arc::Broken;
    }
    if largest.iter().any(|most| !(1e-140..1e140).contains(most)) {
        return Arc::Vague;
    }
    let unit = |q: [f64; 4], most: f64| {
        let norm = q.iter().map(|v| (v / most) * (v / most)).sum::<f64>().sqrt();
        q.map(|v| v / most / norm)
    };
    let (a, b) = (unit(a, largest[0]), unit(b, largest[1]));
    let cosine: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    if cosine.abs() < 1e-12 { Arc::Vague } else { Arc::Sound }
}

/// Shoemake's slerp along the shorter arc.
pub fn slerp(a: &[Jet; 4], b: &[Jet; 4], weight: f64) -> [Jet; 4] {
    let unit = |q: &[Jet; 4]| {
        let norm = dot(q, q).sqrt();
        q.map(|v| v / norm)
    };
    let (a, b) = (unit(a), unit(b));
    let b = if dot(&a, &b).value < 0.0 { b.map(|v| -v) } else { b };
    let chord: [Jet; 4] = std::array::from_fn(|k| b[k] - a[k]);
    let squared = squared_angle(dot(&chord, &chord).scaled(0.25));
    let part = |weight: f64| sinc(squared.scaled(weight * weight)).scaled(weight) / sinc(squared);
    let (left, right) = (part(1.0 - weight), part(weight));
    std::array::from_fn(|k| left * a[k] + right * b[k])
}

/// A piece of a row: times that ascend without a stop, and one channel's samples.
pub struct Piece {
    /// The spans between the times.
    pub spans: Vec<f64>,
    pub samples: Vec<Jet>,
    /// The bracket that is asked for.
    pub left: usize,
}

impl Piece {
    fn chord(&self, k: usize) -> Jet {
        (self.samples[k + 1] - self.samples[k]).scaled(1.0 / self.spans[k])
    }

    /// SciPy's slope at a sample: `PchipInterpolator._find_derivatives`.
    fn slope(&self, k: usize) -> Jet {
        let last = self.spans.len();
        if last == 1 {
            return self.chord(0);
        }
        if k == 0 || k == last {
            let (near, far) = if k == 0 { (0, 1) } else { (last - 1, last - 2) };
            return end_slope(self.spans[near], self.spans[far], self.chord(near), self.chord(far));
        }
        let (before, after) = (self.chord(k - 1), self.chord(k));
        if before.value.signum() != after.value.signum() || before.value == 0.0 || after.value == 0.0 {
            return Jet::constant(0.0);
        }
        let (first, second) = (2.0 * self.spans[k] + self.spans[k - 1], self.spans[k] + 2.0 * self.spans[k - 1]);
        Jet::constant(first + second) / (Jet::constant(first) / before + Jet::constant(second) / after)
    }

    /// Hermite's cubic with these slopes.
    pub fn at(&self, weight: f64) -> Jet {
        let (k, w) = (self.left, weight);
        let span = self.spans[k];
        let (left, right) = (self.slope(k).scaled(span), self.slope(k + 1).scaled(span));
        let rest = 1.0 - w;
        self.samples[k].scaled((1.0 + 2.0 * w) * rest * rest)
            + self.samples[k + 1].scaled(w * w * (3.0 - 2.0 * w))
            + left.scaled(w * rest * rest)
            - right.scaled(w * w * rest)
    }

    /// The samples around the bracket, as many as its curve has.
    fn window(&self) -> std::ops::Range<usize> {
        self.left.saturating_sub(1)..(self.left + 3).min(self.samples.len())
    }

    /// The curve's value.
    pub fn wanted<V: Number>(&self, weight: f64) -> Wanted<V> {
        let window = &self.samples[self.window()];
        if window.iter().any(|x| x.value.is_nan()) {
            return Wanted::nan();
        }
        let (a, b) = (self.samples[self.left].value, self.samples[self.left + 1].value);
        let largest = if V::SINGLE { 1e36 } else { 1e300 };
        if window.iter().any(|x| x.value.abs() > largest) || !weight.is_finite() {
            return Wanted::Any;
        }
        let spans = &self.spans[self.left.saturating_sub(1)..(self.left + 2).min(self.spans.len())];
        if spans.iter().any(|span| !(1e-15..1e15).contains(&(span / self.spans[self.left]))) {
            let steep = V::SINGLE && window.iter().any(|x| x.value.abs() > 1e6);
            return if steep { Wanted::Any } else { Wanted::Within { low: a.min(b), high: a.max(b) } };
        }
        let tiny = if V::SINGLE { 1e-36 } else { 1e-300 };
        Wanted::Near { number: self.at(weight).value, error: 40.0 * precision::<V>() * a.abs().max(b.abs()) + tiny }
    }

    /// How far the derivatives may be off, for a direction or a gradient of 1; none where rounding decides them.
    pub fn errors<V: Number>(&self) -> Option<[f64; 2]> {
        let window = self.window();
        let own = self.spans[self.left];
        let spans = &self.spans[window.start..window.end - 1];
        let sound = |x: &Jet| x.value.abs() < STEEPEST * STEEPEST;
        if !self.samples[window.clone()].iter().all(sound) {
            return None;
        }
        let ratio = spans.iter().fold(1.0f64, |most, span| most.max(span / own).max(own / span));
        let chords: Vec<f64> = (window.start..window.end - 1).map(|k| self.chord(k).value * own).collect();
        let small = chords.iter().filter(|chord| **chord != 0.0).fold(1.0f64, |least, chord| least.min(chord.abs()));
        let steep = chords.iter().fold(1.0f64, |most, chord| most.max(chord.abs()));
        let usable = ratio < STEEPEST && small > SMALLEST && steep < STEEPEST && !self.near_a_kink();
        let (step, bend) = (1e4 * precision::<V>() * ratio, steep / small);
        usable.then(|| [step, 10.0 * step * ratio * bend / small])
    }

    /// True where an end of the piece is close to where its slope is limited.
    fn near_a_kink(&self) -> bool {
        let last = self.spans.len();
        let end = |near: usize, far: usize| {
            let (near, far) = ([self.spans[near], self.chord(near).value], [self.spans[far], self.chord(far).value]);
            let slope = ((2.0 * near[0] + far[0]) * near[1] - near[0] * far[1]) / (near[0] + far[0]);
            let close = |limit: f64| near[1] != 0.0 && (slope - limit).abs() < 1e-3 * near[1].abs();
            close(0.0) || close(3.0 * near[1])
        };
        last > 1 && (self.left == 0 && end(0, 1) || self.left + 1 == last && end(last - 1, last - 2))
    }
}

/// SciPy's three-point slope of an end, limited: `PchipInterpolator._edge_case`.
fn end_slope(near_span: f64, far_span: f64, near: Jet, far: Jet) -> Jet {
    let all = near_span + far_span;
    let slope = (near.scaled(2.0 * near_span + far_span) - far.scaled(near_span)).scaled(1.0 / all);
    if slope.value.signum() != near.value.signum() || near.value == 0.0 {
        return Jet::constant(0.0);
    }
    let limited = near.value.signum() != far.value.signum() || far.value == 0.0;
    if limited && slope.value.abs() > 3.0 * near.value.abs() { near.scaled(3.0) } else { slope }
}
