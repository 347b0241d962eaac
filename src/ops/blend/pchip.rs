//! The monotone cubic through samples, as SciPy's `PchipInterpolator`: Hermite's cubic with slopes that never
//! overshoot.
//!
//! Within a piece a sample's slope is the weighted harmonic mean of the chords on both sides, or 0 where they differ in
//! sign (Fritsch and Butland, 1984); at an end it is the one-sided three-point slope, limited as Fritsch and Carlson
//! (1980) ask. Lengths are counted in the bracket's own span, so that only ratios of spans of time matter.

use crate::number::{Compute, Number};

/// How long the neighbours' spans are, in spans of the bracket; 0 where the curve ends at that side of the bracket.
#[derive(Clone, Copy, Debug)]
pub struct Spans<C> {
    /// From the sample before the bracket to its left sample.
    pub before: C,
    /// From its right sample to the one after the bracket.
    pub after: C,
}

/// The slopes of the bracket and its neighbours, each in rises over the bracket's own span.
struct Chords<N> {
    before: N,
    own: N,
    after: N,
}

impl<N: Number> Chords<N> {
    #[inline(always)]
    fn new(x: &[N; 4], spans: Spans<N::Real>) -> Self {
        let over = |rise: N, span: N::Real| if span == N::Real::ZERO { rise } else { rise / N::constant(span) };
        Chords { before: over(x[1] - x[0], spans.before), own: x[2] - x[1], after: over(x[3] - x[2], spans.after) }
    }
}

/// A slope of the curve and its derivatives by the three chords that it may depend on.
struct Slope<N> {
    value: N,
    by_own: N,
    by_near: N,
    by_far: N,
}

/// True where one rises and the other does not, or one falls and the other does not; false for NaN, which shall spread.
#[inline(always)]
fn apart<C: Compute>(a: C, b: C) -> bool {
    (a >= C::ZERO && b <= C::ZERO) || (a <= C::ZERO && b >= C::ZERO)
}

/// The slope at one side of the bracket: `near` is the chord beyond that side, `far` the one beyond the other.
#[inline(always)]
fn slope<N: Number>(own: N, near: N, far: N, near_span: N::Real, far_span: N::Real) -> Slope<N> {
    let (zero, one) = (N::constant(N::Real::ZERO), N::constant(N::Real::ONE));
    let two = N::Real::ONE + N::Real::ONE;
    if near_span != N::Real::ZERO {
        if apart(own.value(), near.value()) {
            return Slope { value: zero, by_own: zero, by_near: zero, by_far: zero };
        }
        let (near_part, own_part) = (N::constant(two + near_span), N::constant(two.fma(near_span, N::Real::ONE)));
        let all = near_part + own_part;
        let value = all / (near_part / near + own_part / own);
        let (to_near, to_own) = (value / near, value / own);
        return Slope {
            value,
            by_own: to_own * to_own * (own_part / all),
            by_near: to_near * to_near * (near_part / all),
            by_far: zero,
        };
    }
    if far_span == N::Real::ZERO {
        return Slope { value: own, by_own: one, by_near: zero, by_far: zero };
    }
    let all = N::constant(N::Real::ONE + far_span);
    let twice = N::constant(two + far_span);
    let value = (twice * own - far) / all;
    let (rise, limit) = (own.value(), two + N::Real::ONE);
    let steep = limit * rise;
    if apart(value.value(), rise) {
        return Slope { value: zero, by_own: zero, by_near: zero, by_far: zero };
    }
    let past = if rise > N::Real::ZERO { value.value() > steep } else { value.value() < steep };
    if apart(rise, far.value()) && past {
        let limit = N::constant(limit);
        return Slope { value: limit * own, by_own: limit, by_near: zero, by_far: zero };
    }
    Slope { value, by_own: twice / all, by_near: zero, by_far: -(one / all) }
}

/// The curve at part `weight` of the bracket `x[1], x[2]`; `x[0]` and `x[3]` are the samples beside it.
#[inline(always)]
pub fn blend<C: Compute>(x: &[C; 4], weight: C, spans: Spans<C>) -> C {
    let chords = Chords::new(x, spans);
    let left = slope(chords.own, chords.before, chords.after, spans.before, spans.after).value;
    let right = slope(chords.own, chords.after, chords.before, spans.after, spans.before).value;
    let cubic = (left + right) - (chords.own + chords.own);
    let square = (chords.own - left) - cubic;
    let point = weight.fma(weight.fma(weight.fma(cubic, square), left), x[1]);
    // Rounding alone could leave the bracket.
    let (low, high) = if x[1] <= x[2] { (x[1], x[2]) } else { (x[2], x[1]) };
    if point < low {
        low
    } else if point > high {
        high
    } else {
        point
    }
}

/// The derivatives of [`blend`] by the four samples; 0 by one beside the bracket where the curve ends before it.
#[inline(always)]
pub fn gradient<N: Number>(x: &[N; 4], weight: N::Real, spans: Spans<N::Real>) -> [N; 4] {
    let chords = Chords::new(x, spans);
    let left = slope(chords.own, chords.before, chords.after, spans.before, spans.after);
    let right = slope(chords.own, chords.after, chords.before, spans.after, spans.before);
    let one = N::Real::ONE;
    let rest = one - weight;
    // The cubic is x[1] + of_left * left + of_right * right + of_own * own.
    let of_left = N::constant(weight * rest * rest);
    let of_right = N::constant(-(weight * weight * rest));
    let of_own = N::constant(weight * weight * (rest + rest + one));
    let own = of_left.fma(left.by_own, of_right.fma(right.by_own, of_own));
    let share = |span: N::Real, near: N, far: N| {
        if span == N::Real::ZERO { N::constant(N::Real::ZERO) } else { (near + far) / N::constant(span) }
    };
    let before = share(spans.before, of_left * left.by_near, of_right * right.by_far);
    let after = share(spans.after, of_right * right.by_near, of_left * left.by_far);
    [-before, (N::constant(one) - own) + before, own - after, after]
}

/// The derivative of [`blend`] along a direction.
#[inline(always)]
pub fn tangent<C: Compute>(x: &[C; 4], weight: C, spans: Spans<C>, tangent: &[C; 4]) -> C {
    let by = gradient(x, weight, spans);
    by[0].fma(tangent[0], by[1].fma(tangent[1], by[2].fma(tangent[2], by[3] * tangent[3])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Dual;

    /// SciPy's formulas for the slopes of the whole curve, then Hermite's cubic.
    fn definition(t: &[f64], x: &[f64], i: usize, weight: f64) -> f64 {
        let n = t.len();
        let h: Vec<f64> = t.windows(2).map(|t| t[1] - t[0]).collect();
        let m: Vec<f64> = (0..n - 1).map(|k| (x[k + 1] - x[k]) / h[k]).collect();
        let end = |h0: f64, h1: f64, m0: f64, m1: f64| {
            let d = ((2.0 * h0 + h1) * m0 - h0 * m1) / (h0 + h1);
            if d * m0 <= 0.0 {
                0.0
            } else if m0 * m1 <= 0.0 && d.abs() > 3.0 * m0.abs() {
                3.0 * m0
            } else {
                d
            }
        };
        let slope = |k: usize| {
            if n == 2 {
                return m[0];
            }
            if k == 0 {
                return end(h[0], h[1], m[0], m[1]);
            }
            if k == n - 1 {
                return end(h[n - 2], h[n - 3], m[n - 2], m[n - 3]);
            }
            if m[k - 1] * m[k] <= 0.0 {
                return 0.0;
            }
            let (w1, w2) = (2.0 * h[k] + h[k - 1], h[k] + 2.0 * h[k - 1]);
            (w1 + w2) / (w1 / m[k - 1] + w2 / m[k])
        };
        let (d0, d1, w) = (slope(i) * h[i], slope(i + 1) * h[i], weight);
        let (a, b) = ((1.0 + 2.0 * w) * (1.0 - w).powi(2), w * w * (3.0 - 2.0 * w));
        a * x[i] + b * x[i + 1] + w * (1.0 - w).powi(2) * d0 - w * w * (1.0 - w) * d1
    }

    fn number(place: usize) -> f64 {
        (place as f64 * 0.7391).sin() + 0.3 * (place as f64 * 0.11).cos()
    }

    /// The window of a bracket, as the operators read it.
    fn window(t: &[f64], x: &[f64], i: usize) -> ([f64; 4], Spans<f64>) {
        let own = t[i + 1] - t[i];
        let before = if i > 0 { (t[i] - t[i - 1]) / own } else { 0.0 };
        let after = if i + 2 < t.len() { (t[i + 2] - t[i + 1]) / own } else { 0.0 };
        let at = |k: usize| x[(i + k).saturating_sub(1).min(x.len() - 1)];
        ([at(0), at(1), at(2), at(3)], Spans { before, after })
    }

    #[test]
    fn it_is_the_definition_and_stays_within_the_bracket() {
        for case in 0..3000 {
            let n = 2 + case % 5;
            let mut t = vec![0.0];
            (1..n).for_each(|k| t.push(t[k - 1] + 0.05 + number(case * 9 + k).abs() * [1.0, 50.0][case % 2]));
            let x: Vec<f64> = (0..n)
                .map(|k| if case % 3 == 0 { number(case * 9 + k).round() } else { number(case * 9 + k) })
                .collect();
            for i in 0..n - 1 {
                let (x4, spans) = window(&t, &x, i);
                for step in 0..=8 {
                    let weight = f64::from(step) / 8.0;
                    let found = blend(&x4, weight, spans);
                    let wanted = definition(&t, &x, i, weight);
                    assert!((found - wanted).abs() < 1e-14, "{t:?} {x:?} {i} {weight}: {found}, expected {wanted}");
                    assert!(found >= x[i].min(x[i + 1]) && found <= x[i].max(x[i + 1]));
                }
            }
        }
    }

    #[test]
    fn derivatives_are_those_of_differences() {
        const STEP: f64 = 1e-6;
        for case in 0..2000 {
            let x: [f64; 4] = std::array::from_fn(|k| number(case * 11 + k) * 2.0);
            let a: [f64; 4] = std::array::from_fn(|k| number(case * 13 + k + 5));
            let span = |on: bool, place: usize| if on { 0.2 + number(place).abs() * 3.0 } else { 0.0 };
            let spans = Spans { before: span(case % 3 != 0, case), after: span(case % 4 != 0, case + 1) };
            let weight = (case % 17) as f64 / 17.0 + 0.02;
            let moved = |by: f64| std::array::from_fn(|k| x[k] + by * a[k]);
            let (low, high) = (moved(-STEP), moved(STEP));
            let wanted = (blend(&high, weight, spans) - blend(&low, weight, spans)) / (2.0 * STEP);
            let found = tangent(&x, weight, spans, &a);
            assert!((found - wanted).abs() < 1e-7, "{case}: {found}, expected {wanted}");
            let duals: [Dual<f64>; 4] = std::array::from_fn(|k| Dual { value: x[k], slope: a[k] });
            let second = gradient(&duals, weight, spans).map(|g| g.slope);
            let (low, high) = (gradient(&low, weight, spans), gradient(&high, weight, spans));
            for k in 0..4 {
                let wanted = (high[k] - low[k]) / (2.0 * STEP);
                assert!((second[k] - wanted).abs() < 1e-4 * (1.0 + wanted.abs()), "{case}: {} {wanted}", second[k]);
            }
        }
    }

    #[test]
    fn a_number_that_is_none_spreads_over_the_brackets_that_its_curve_reaches() {
        let spans = Spans { before: 1.0, after: 1.0 };
        for place in 0..4 {
            let mut x = [1.0, 2.0, 4.0, 5.0];
            x[place] = f64::NAN;
            assert!(blend(&x, 0.5, spans).is_nan(), "{place}");
        }
    }
}
