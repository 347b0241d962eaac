//! Spherical linear interpolation of unit quaternions along the shorter arc (Shoemake, 1985), in f64 for every type.
//!
//! With `theta` the angle between the quaternions, at most a quarter turn once one of them has changed its sign:
//! `sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b`. Both sines are taken as `x sinc(x)`, and both
//! `sinc` and `theta^2` are analytic in what is known of the angle, so nothing divides by a small sine: equal and
//! nearly equal quaternions need no case of their own, and have derivatives.

use crate::number::{Compute, Dual, Number, polynomial};

/// The four components, in any order.
pub type Quaternion<N> = [N; 4];

/// A number in f64 that has the square of an angle.
pub trait Scalar: Number<Real = f64> {
    /// `theta^2` of `sin^2(theta / 2)`, for angles up to a quarter turn.
    fn squared_angle(self) -> Self;
}

/// `sin(x) / x` in powers of `x^2`, up to a quarter turn: interpolated at Chebyshev's points, relative error 4e-17.
const SINC: [f64; 11] = [
    1.0,
    -0.16666666666666666,
    0.008333333333333333,
    -0.0001984126984126984,
    2.755731922398577e-06,
    -2.5052108385418758e-08,
    1.6059043834113166e-10,
    -7.647163526594364e-13,
    2.811447261102038e-15,
    -8.217611179007604e-18,
    1.9054693395452076e-20,
];

/// `theta^2 / z` in powers of `z = sin^2(theta / 2)`, up to a quarter turn: as above, relative error 8e-18.
const SQUARED_ANGLE: [f64; 21] = [
    4.0,
    1.333333333333327,
    0.7111111111129729,
    0.4571428569269648,
    0.3250793783069096,
    0.2462717513902139,
    0.19486508977196593,
    0.15891371623354522,
    0.13589879314602948,
    0.08681131507311188,
    0.29519828390044445,
    -1.0392555582266518,
    5.093982382330445,
    -17.41380389103478,
    47.490599617101616,
    -99.15019061755167,
    157.09859196411315,
    -182.23111603355858,
    146.78448645385856,
    -73.53846595730862,
    17.53058494573774,
];

impl Scalar for f64 {
    #[inline(always)]
    fn squared_angle(self) -> Self {
        self * polynomial(self, &SQUARED_ANGLE)
    }
}

impl<N: Scalar> Scalar for Dual<N> {
    #[inline(always)]
    fn squared_angle(self) -> Self {
        let value = self.value.squared_angle();
        // d(theta^2) / dz = 4 theta / sin(theta)
        Dual { value, slope: self.slope * (N::constant(4.0) / sinc(value)) }
    }
}

#[inline(always)]
fn sinc<N: Scalar>(squared: N) -> N {
    polynomial(squared, &SINC)
}

#[inline(always)]
fn dot<N: Number>(a: &Quaternion<N>, b: &Quaternion<N>) -> N {
    a[0].fma(b[0], a[1].fma(b[1], a[2].fma(b[2], a[3] * b[3])))
}

/// Two quaternions of norm 1 on one side of the sphere, and what they were multiplied by to be so.
struct Arc<N> {
    a: Quaternion<N>,
    b: Quaternion<N>,
    factors: [N; 2],
    flipped: bool,
    /// `sin^2(theta / 2)`.
    z: N,
}

impl<N: Scalar> Arc<N> {
    #[inline(always)]
    fn new(a: &Quaternion<N>, b: &Quaternion<N>) -> Self {
        let flipped = opposite(a, b);
        let (a, a_factor) = unit(a);
        let (mut b, b_factor) = unit(b);
        if flipped {
            b = negated(&b);
        }
        let difference = minus(&b, &a);
        Arc { a, b, factors: [a_factor, b_factor], flipped, z: N::constant(0.25) * dot(&difference, &difference) }
    }
}

/// True where the arc is shorter to the other one with its sign turned. In pairs and without fma: rotations of exactly
/// half a turn about an axis cancel exactly, and keep the sign that they were written with.
#[inline(always)]
fn opposite<N: Scalar>(a: &Quaternion<N>, b: &Quaternion<N>) -> bool {
    let product = |k: usize| a[k].value() * b[k].value();
    (product(0) + product(1)) + (product(2) + product(3)) < 0.0
}

/// A power of two that keeps the squares of all components within range.
#[inline(always)]
fn scale<N: Scalar>(q: &Quaternion<N>) -> f64 {
    const LARGE: f64 = 1e150;
    const SHIFT: f64 = 6.223015277861142e-61; // 2^-200
    let size = |k: usize| q[k].value().abs();
    if size(0) > LARGE || size(1) > LARGE || size(2) > LARGE || size(3) > LARGE {
        SHIFT * SHIFT * SHIFT
    } else if size(0) + size(1) + size(2) + size(3) < 1.0 / LARGE {
        1.0 / SHIFT / SHIFT / SHIFT
    } else {
        1.0
    }
}

#[inline(always)]
fn unit<N: Scalar>(q: &Quaternion<N>) -> (Quaternion<N>, N) {
    let scale = N::constant(scale(q));
    let scaled = times(q, scale);
    let factor = N::constant(f64::ONE) / dot(&scaled, &scaled).sqrt();
    (times(&scaled, factor), factor * scale)
}

#[inline(always)]
fn times<N: Number>(q: &Quaternion<N>, factor: N) -> Quaternion<N> {
    [q[0] * factor, q[1] * factor, q[2] * factor, q[3] * factor]
}

#[inline(always)]
fn negated<N: Number>(q: &Quaternion<N>) -> Quaternion<N> {
    [-q[0], -q[1], -q[2], -q[3]]
}

#[inline(always)]
fn minus<N: Number>(a: &Quaternion<N>, b: &Quaternion<N>) -> Quaternion<N> {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]]
}

/// The factors of both quaternions as functions of `sin^2(theta / 2)`.
#[inline(always)]
fn factors<N: Scalar>(z: N, weight: f64) -> [N; 2] {
    let squared = z.squared_angle();
    let factor = N::constant(f64::ONE) / sinc(squared);
    let part = |weight: f64| N::constant(weight) * sinc(squared * N::constant(weight * weight)) * factor;
    [part(1.0 - weight), part(weight)]
}

/// The quaternion at part `weight` of the shorter arc from `a` to `b`, which need not be of norm 1.
#[inline(always)]
pub fn blend<N: Scalar>(a: &Quaternion<N>, b: &Quaternion<N>, weight: f64) -> Quaternion<N> {
    let arc = Arc::new(a, b);
    let [left, right] = factors(arc.z, weight);
    let mut out = arc.a;
    for (k, out) in out.iter_mut().enumerate() {
        *out = left.fma(arc.a[k], right * arc.b[k]);
    }
    out
}

/// The gradients by `a` and `b` of the sum of `grad` times [`blend`].
#[inline(always)]
pub fn gradient<N: Scalar>(
    a: &Quaternion<N>,
    b: &Quaternion<N>,
    weight: f64,
    grad: &Quaternion<N>,
) -> [Quaternion<N>; 2] {
    let arc = Arc::new(a, b);
    let z = Dual { value: arc.z, slope: N::constant(f64::ONE) };
    let [left, right] = factors(z, weight);
    // dz/da = (a - b) / 2 and dz/db = (b - a) / 2.
    let through_z = dot(grad, &arc.a).fma(left.slope, dot(grad, &arc.b) * right.slope);
    let half = N::constant(0.5) * through_z;
    let between = minus(&arc.b, &arc.a);
    let mut of_a = arc.a;
    let mut of_b = arc.b;
    for k in 0..4 {
        of_a[k] = left.value.fma(grad[k], -(half * between[k]));
        of_b[k] = right.value.fma(grad[k], half * between[k]);
    }
    let of_b = of_raw(&of_b, &arc.b, arc.factors[1]);
    [of_raw(&of_a, &arc.a, arc.factors[0]), if arc.flipped { negated(&of_b) } else { of_b }]
}

/// The gradient by a quaternion from that by the unit one: what points along it has no effect.
#[inline(always)]
fn of_raw<N: Scalar>(grad: &Quaternion<N>, unit: &Quaternion<N>, factor: N) -> Quaternion<N> {
    let along = dot(grad, unit);
    let mut out = *grad;
    for (k, out) in out.iter_mut().enumerate() {
        *out = (grad[k] - along * unit[k]) * factor;
    }
    out
}

#[inline(always)]
fn dual(q: &Quaternion<f64>, slope: &Quaternion<f64>) -> Quaternion<Dual<f64>> {
    let mut out = [Dual { value: 0.0, slope: 0.0 }; 4];
    for (k, out) in out.iter_mut().enumerate() {
        *out = Dual { value: q[k], slope: slope[k] };
    }
    out
}

#[inline(always)]
fn slope(q: &Quaternion<Dual<f64>>) -> Quaternion<f64> {
    [q[0].slope, q[1].slope, q[2].slope, q[3].slope]
}

/// The derivative of [`blend`] along `tangent`, a direction for each quaternion.
#[inline(always)]
pub fn tangent(pair: [&Quaternion<f64>; 2], weight: f64, tangent: [&Quaternion<f64>; 2]) -> Quaternion<f64> {
    slope(&blend(&dual(pair[0], tangent[0]), &dual(pair[1], tangent[1]), weight))
}

/// The derivative of [`gradient`] along `tangent`: the product with the second derivatives.
#[inline(always)]
pub fn curvature(
    pair: [&Quaternion<f64>; 2],
    weight: f64,
    grad: &Quaternion<f64>,
    tangent: [&Quaternion<f64>; 2],
) -> [Quaternion<f64>; 2] {
    let fixed = dual(grad, &[0.0; 4]);
    let [a, b] = gradient(&dual(pair[0], tangent[0]), &dual(pair[1], tangent[1]), weight, &fixed);
    [slope(&a), slope(&b)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(a: &Quaternion<f64>, b: &Quaternion<f64>, weight: f64) -> Quaternion<f64> {
        let length = |q: &Quaternion<f64>| q.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (a, b) = (a.map(|v| v / length(a)), b.map(|v| v / length(b)));
        let cosine: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        let b = if cosine < 0.0 { b.map(|v| -v) } else { b };
        let apart = length(&std::array::from_fn(|k| b[k] - a[k]));
        let together = length(&std::array::from_fn(|k| b[k] + a[k]));
        let theta = 2.0 * apart.atan2(together);
        if theta == 0.0 {
            return a;
        }
        std::array::from_fn(|k| (((1.0 - weight) * theta).sin() * a[k] + (weight * theta).sin() * b[k]) / theta.sin())
    }

    fn quaternions() -> impl Iterator<Item = (Quaternion<f64>, Quaternion<f64>, f64)> {
        (0..4000).map(|case| {
            let number = |place: usize| ((case * 8 + place) as f64 * 0.7391).sin();
            let a: Quaternion<f64> = std::array::from_fn(number);
            let scale = [1.0, 1e-3, 1e-9, 0.0][case % 4];
            let sign = if case % 3 == 0 { -1.0 } else { 1.0 };
            let b =
                std::array::from_fn(
                    |k| if case % 4 == 0 { number(k + 4) } else { sign * (a[k] + scale * number(k + 4)) },
                );
            (a, b, (case % 101) as f64 / 101.0)
        })
    }

    #[test]
    fn it_is_the_definition_to_a_few_units_in_the_last_place() {
        for (a, b, weight) in quaternions() {
            let (found, wanted) = (blend(&a, &b, weight), definition(&a, &b, weight));
            for k in 0..4 {
                assert!((found[k] - wanted[k]).abs() < 1e-15, "{a:?} {b:?} {weight}: {found:?}, expected {wanted:?}");
            }
            assert!((found.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-15);
        }
    }

    #[test]
    fn derivatives_are_those_of_differences() {
        const STEP: f64 = 1e-5;
        for (case, (a, b, weight)) in quaternions().enumerate().filter(|(case, _)| case % 7 == 0) {
            let number = |place: usize| ((case * 16 + place) as f64 * 1.3).cos();
            let (da, db): (Quaternion<f64>, Quaternion<f64>) =
                (std::array::from_fn(number), std::array::from_fn(|k| number(k + 4)));
            let grad: Quaternion<f64> = std::array::from_fn(|k| number(k + 8));
            let moved = |q: &Quaternion<f64>, d: &Quaternion<f64>, by: f64| std::array::from_fn(|k| q[k] + by * d[k]);
            let at = |by: f64| (moved(&a, &da, by), moved(&b, &db, by));
            let ((a0, b0), (a1, b1)) = (at(-STEP), at(STEP));
            if definition(&a0, &b0, 1.0).iter().zip(definition(&a1, &b1, 1.0)).any(|(x, y)| (x - y).abs() > 0.1) {
                continue; // the arc changes sides between the two
            }
            let (low, high) = (blend(&a0, &b0, weight), blend(&a1, &b1, weight));
            let along = tangent([&a, &b], weight, [&da, &db]);
            let scale = 1.0 / a.iter().map(|v| v * v).sum::<f64>();
            for k in 0..4 {
                let wanted = (high[k] - low[k]) / (2.0 * STEP);
                assert!((along[k] - wanted).abs() < 1e-7 * (1.0 + scale * scale), "{case}: {along:?}[{k}], {wanted}");
            }
            let [ga, gb] = gradient(&a, &b, weight, &grad);
            let left: f64 = (0..4).map(|k| ga[k] * da[k] + gb[k] * db[k]).sum();
            let right: f64 = (0..4).map(|k| grad[k] * along[k]).sum();
            assert!((left - right).abs() < 1e-13 * (1.0 + scale), "{case}: adjoint {left}, {right}");
            let (low, high) = (gradient(&a0, &b0, weight, &grad), gradient(&a1, &b1, weight, &grad));
            let second = curvature([&a, &b], weight, &grad, [&da, &db]);
            for side in 0..2 {
                for k in 0..4 {
                    let wanted = (high[side][k] - low[side][k]) / (2.0 * STEP);
                    let error = (second[side][k] - wanted).abs();
                    assert!(error < 1e-6 * (1.0 + scale * scale), "{case}: {second:?}[{side}][{k}], {wanted}");
                }
            }
        }
    }

    #[test]
    fn half_a_turn_apart_the_sign_counts_and_any_norm_is_taken_out() {
        for case in 0..500 {
            let (x, y) = ((case as f64 * 0.37).sin(), (case as f64 * 0.91).cos());
            let (a, b) = ([x, y, 0.0, 0.0], [-y, x, 0.0, 0.0]);
            let wanted = blend(&a, &b, 0.5);
            assert!((wanted[0] * b[0] + wanted[1] * b[1]) > 0.0, "{a:?} {b:?}: {wanted:?}");
            for norm in [1e-300, 1e-170, 1e170, 1e300] {
                let found = blend(&a.map(|v| v * norm), &b.map(|v| v * norm), 0.5);
                assert!((0..4).all(|k| (found[k] - wanted[k]).abs() < 1e-15), "{norm}: {found:?}, {wanted:?}");
            }
        }
    }

    #[test]
    fn equal_and_opposite_quaternions_have_finite_derivatives() {
        let q = [0.5, 0.5, -0.5, 0.5];
        for b in [q, q.map(|v| -v), q.map(|v| v * 1.0000001)] {
            assert!(blend(&q, &b, 0.3).iter().zip(q).all(|(found, q)| (found - q).abs() < 1e-16));
            let ones = [1.0; 4];
            let [ga, gb] = gradient(&q, &b, 0.3, &ones);
            let [ha, hb] = curvature([&q, &b], 0.3, &ones, [&ones, &ones]);
            assert!([ga, gb, ha, hb].iter().flatten().all(|v| v.is_finite()));
        }
    }
}
