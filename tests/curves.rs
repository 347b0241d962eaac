//! `angle`, `slerp` and `pchip` on the CPU: known answers and edges. Random calls are in `resample.rs`.

use robocache::{Element, Place, Serial, View, ViewMut, resample};
use std::f64::consts::{FRAC_PI_8, PI, TAU};

/// One row of `channels` by one call.
fn rows<V: Element + Default, T: Element>(
    values: &[V],
    channels: usize,
    times: &[T],
    targets: &[T],
    mode: &str,
    outside: &str,
) -> Vec<V> {
    let mut output = vec![V::default(); targets.len() * channels];
    resample(
        View::new(values, &[times.len(), channels]).unwrap(),
        View::new(times, &[times.len()]).unwrap(),
        View::new(targets, &[targets.len()]).unwrap(),
        mode,
        outside,
        None,
        &mut ViewMut::new(&mut output, &[targets.len(), channels]).unwrap(),
        &Place::cpu(&Serial),
    )
    .unwrap();
    output
}

fn close(found: &[f64], wanted: &[f64]) {
    let same =
        found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 4e-16 * (1.0 + b.abs()) || a.is_nan() && b.is_nan());
    assert!(found.len() == wanted.len() && same, "{found:?}, expected {wanted:?}");
}

const TIMES: [f64; 3] = [0.0, 1.0, 2.0];
const NAN: f64 = f64::NAN;

#[test]
fn angles_by_hand() {
    let row = |values: [f64; 3], outside| rows(&values, 1, &TIMES, &[-1.0, 0.0, 0.5, 1.25, 2.0, 3.0], "angle", outside);
    close(&row([3.0, -3.0, -2.0], "hold"), &[3.0, 3.0, -PI, -2.75, -2.0, -2.0]);
    // Whole turns say nothing: neither between samples, nor at one, nor at a held end.
    close(&row([4.0 + TAU, 4.5, 5.0 - TAU], "hold"), &[4.0, 4.0, 4.25, 4.625, 5.0, 5.0].map(|angle| angle - TAU));
    close(&row([0.5, 0.7, 0.9], "nan"), &[NAN, 0.5, 0.6, 0.75, 0.9, NAN]);
    close(&row([PI, PI, -PI], "zero"), &[0.0, -PI, -PI, -PI, -PI, 0.0]);
    close(&row([f64::INFINITY, 1.0, NAN], "hold"), &[NAN, NAN, NAN, NAN, NAN, NAN]);
    close(&rows(&[1.0, NAN], 1, &[0.0, 1.0], &[0.0, -5.0], "angle", "hold"), &[1.0, 1.0]);
}

#[test]
fn half_turns_of_every_type_stay_in_range() {
    let single = rows(&[3.0f32, -3.0], 1, &[0.0, 1.0], &[0.5], "angle", "hold")[0];
    assert_eq!(single, -std::f32::consts::PI);
    let half = half::f16::from_f32;
    assert_eq!(rows(&[half(3.0), half(-3.0)], 1, &[0.0, 1.0], &[0.5], "angle", "hold"), [half(-std::f32::consts::PI)]);
    assert_eq!(rows(&[std::f32::consts::PI], 1, &[0.0], &[0.0], "angle", "hold"), [-std::f32::consts::PI]);
}

#[test]
fn quaternions_by_hand() {
    let [one, turned] = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]; // no turn, and half a turn about z
    let quarter = [(PI / 4.0).cos(), 0.0, 0.0, (PI / 4.0).sin()];
    let row = |a: [f64; 4], b: [f64; 4], at: f64| rows(&[a, b].concat(), 4, &[0.0, 1.0], &[at], "slerp", "hold");
    close(&row(one, quarter, 0.5), &[FRAC_PI_8.cos(), 0.0, 0.0, FRAC_PI_8.sin()]);
    close(&row(one, turned, 0.5), &quarter);
    // The shorter arc, on the side of the left one, whatever the norms.
    close(&row(one, quarter.map(|v| -3.0 * v), 0.5), &[FRAC_PI_8.cos(), 0.0, 0.0, FRAC_PI_8.sin()]);
    close(&row(one.map(|v| -0.5 * v), quarter, 0.5), &[-FRAC_PI_8.cos(), 0.0, 0.0, -FRAC_PI_8.sin()]);
    // Equal and opposite ones are the same rotation.
    for other in [quarter, quarter.map(|v| -v), quarter.map(|v| 2.0 * v)] {
        close(&row(quarter, other, 0.3), &quarter);
    }
    // A sample that is hit comes back as it is; one that is none gives none.
    close(&row([2.0, 0.0, 0.0, 0.0], turned, 0.0), &[2.0, 0.0, 0.0, 0.0]);
    close(&row([0.0; 4], turned, -1.0), &[0.0; 4]);
    for broken in [[0.0; 4], [NAN, 0.0, 0.0, 1.0], [f64::INFINITY, 0.0, 0.0, 1.0]] {
        close(&row(broken, turned, 0.5), &[NAN; 4]);
        close(&row(one, broken, 0.5), &[NAN; 4]);
        close(&row(one, broken, 0.0), &one);
    }
}

#[test]
fn single_precision_slerps_are_rounded_once() {
    let pair = [1.0f32, 0.0, 0.0, 0.0, 0.6, 0.0, 0.8, 0.0];
    let found = rows(&pair, 4, &[0.0, 1.0], &[0.25], "slerp", "hold");
    let wide = rows(&pair.map(f64::from), 4, &[0.0, 1.0], &[0.25], "slerp", "hold");
    assert_eq!(found, wide.iter().map(|&v| v as f32).collect::<Vec<_>>());
}

#[test]
fn curves_are_those_of_scipy() {
    let at = |values: &[f64], times: &[f64], targets: &[f64]| rows(values, 1, times, targets, "pchip", "hold");
    // scipy.interpolate.PchipInterpolator(times, values)(targets)
    let found = at(&[0.0, 1.0, 1.5, 4.0], &[0.0, 1.0, 3.0, 4.0], &[0.25, 0.5, 2.0, 3.5]);
    close(&found, &[0.31194196428571425, 0.6026785714285714, 1.2321428571428572, 2.40625]);
    close(&at(&[2.0, 5.0, 4.0], &[0.0, 1.0, 3.0], &[0.5, 2.0]), &[4.020833333333333, 4.875]);
    // Two samples are a line, one is a constant, and the ends hold.
    close(&at(&[2.0, 5.0], &[0.0, 1.0], &[0.25, 1.0, 7.0, -7.0]), &[2.75, 5.0, 5.0, 2.0]);
    close(&at(&[2.0], &[0.0], &[0.0, 3.0]), &[2.0, 2.0]);
}

#[test]
fn equal_times_end_a_curve_on_both_sides() {
    let (left, right) = ([0.0, 1.0, 4.0], [9.0, 2.0, 1.0]);
    let found =
        rows(&[left, right].concat(), 1, &[0.0, 1.0, 2.0, 2.0, 3.0, 5.0], &[0.5, 1.5, 2.0, 2.5, 4.0], "pchip", "hold");
    let first = rows(&left, 1, &[0.0, 1.0, 2.0], &[0.5, 1.5], "pchip", "hold");
    let second = rows(&right, 1, &[2.0, 3.0, 5.0], &[2.0, 2.5, 4.0], "pchip", "hold");
    assert_eq!(found, [first, second].concat());
}

#[test]
fn what_is_no_number_reaches_the_brackets_whose_curve_it_makes() {
    let times: Vec<f64> = (0..8).map(f64::from).collect();
    let targets: Vec<f64> = (0..7).map(|place| f64::from(place) + 0.5).collect();
    let mut values: Vec<f64> = times.iter().map(|time| time * time).collect();
    values[3] = NAN;
    let found = rows(&values, 1, &times, &targets, "pchip", "hold");
    let broken: Vec<bool> = found.iter().map(|value| value.is_nan()).collect();
    assert_eq!(broken, [false, true, true, true, true, false, false]);
    assert_eq!(rows(&values, 1, &times, &[2.0, 4.0], "pchip", "hold"), [4.0, 16.0]);
}
