//! What holds for `resample` whatever its arguments, on inputs that proptest makes and shrinks.

mod logs;

use logs::{Log, MODES, OUTSIDE, any_seconds, bits, logs, seconds};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use robocache::{
    DType, Place, Serial, View, ViewMut, resample_backward, resample_backward_workspace, resample_slope,
    resample_tangent, resample_time_grad,
};

/// Half a turn.
const HALF: f64 = std::f64::consts::PI;

/// The adjoint of `resample`, or of its slope.
fn backward(log: &Log<f64>, grad: &[f64], mode: &str, outside: &str, slope: bool) -> Vec<f64> {
    let (batch, samples, targets) = (log.batch, log.samples(), log.row_targets());
    let bytes = resample_backward_workspace(batch, samples, targets, mode, &Place::cpu(&Serial)).unwrap();
    let (mut output, mut workspace) = (vec![0.0; log.values.len()], vec![0u128; bytes.div_ceil(16)]);
    // SAFETY: the workspace has that many bytes, which nothing else touches.
    let workspace = &mut unsafe { ViewMut::from_raw(workspace.as_mut_ptr().cast(), DType::U8, &[bytes]) }.unwrap();
    resample_backward(
        View::new(grad, &[batch, targets, log.channels]).unwrap(),
        log.times(),
        log.targets(),
        mode,
        outside,
        None,
        slope,
        Some(log.values()),
        &mut ViewMut::new(&mut output, &[batch, samples, log.channels]).unwrap(),
        workspace,
        &Place::cpu(&Serial),
    )
    .unwrap();
    output
}

fn slope(log: &Log<f64>, mode: &str, outside: &str) -> Vec<f64> {
    let shape = [log.batch, log.row_targets(), log.channels];
    let mut output = vec![0.0; shape.iter().product()];
    let view = &mut ViewMut::new(&mut output, &shape).unwrap();
    resample_slope(log.values(), log.times(), log.targets(), mode, outside, None, view, &Place::cpu(&Serial)).unwrap();
    output
}

/// Numbers to dot with, as many as the result has.
fn weights(log: &Log<f64>) -> Vec<f64> {
    (0..log.targets.len() * log.channels).map(|place| (place as f64 * 0.7 + 1.0).sin()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Equal up to the rounding of sums whose terms have these magnitudes.
fn assert_close(a: f64, b: f64, terms: &[f64]) -> Result<(), TestCaseError> {
    let scale: f64 = terms.iter().map(|term| term.abs()).sum();
    prop_assert!((a - b).abs() <= 1e-12 * scale + 1e-9, "{a} and {b}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn exact_at_samples(log in logs(seconds(), any_seconds()), mode in select(&MODES), outside in select(&OUTSIDE)) {
        let log = Log { targets: log.times.clone(), ..log };
        let mode = log.fitting(mode);
        let result = log.resample(mode, outside, None);
        let samples = log.samples();
        for (place, found) in result.chunks(log.channels).enumerate() {
            let row = &log.times[place / samples * samples..][..samples];
            let last = row.iter().rposition(|&time| time == log.targets[place]).unwrap();
            let wanted = &log.values[(place / samples * samples + last) * log.channels..][..log.channels];
            let wrap = |angle: f64| if (-HALF..HALF).contains(&angle) { angle } else { f64::NAN };
            if mode != "angle" {
                prop_assert_eq!(bits(found), bits(wanted));
            }
            for (&found, &wanted) in found.iter().zip(wanted).filter(|_| mode == "angle") {
                // Within half a turn bit for bit, else moved by whole turns.
                let turns = (found - wanted) / (2.0 * HALF);
                prop_assert!(found == wrap(wanted) || (-HALF..HALF).contains(&found) && wrap(wanted).is_nan());
                prop_assert!((turns - turns.round()).abs() < 1e-12, "{found} for {wanted}");
            }
        }
    }

    #[test]
    fn a_ragged_row_equals_the_row_alone(
        log in logs(seconds(), any_seconds()),
        cuts in vec(any::<Index>(), 3),
        mode in select(&MODES),
        outside in select(&OUTSIDE),
    ) {
        let mode = log.fitting(mode);
        let lengths: Vec<i64> = (0..log.batch).map(|row| 1 + cuts[row].index(log.samples()) as i64).collect();
        let mut ragged = log.clone();
        for (row, &length) in lengths.iter().enumerate() {
            let padding = row * log.samples() + length as usize..(row + 1) * log.samples();
            ragged.times[padding].fill(f64::NAN);
        }
        let together = ragged.resample(mode, outside, Some(&lengths));
        let apart: Vec<f64> = (0..log.batch)
            .flat_map(|row| log.alone(row, lengths[row] as usize).resample(mode, outside, None))
            .collect();
        prop_assert_eq!(bits(&together), bits(&apart));
    }

    #[test]
    fn permuted_targets_permute_the_result(
        log in logs(seconds(), any_seconds()),
        keys in vec(any::<u32>(), 24),
        mode in select(&MODES),
        outside in select(&OUTSIDE),
    ) {
        let (mode, count) = (log.fitting(mode), log.row_targets());
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&target| keys[target]);
        let permute = |row: &[f64], width: usize| -> Vec<f64> {
            order.iter().flat_map(|&target| row[target * width..][..width].to_vec()).collect()
        };
        let rows = |all: &[f64], width: usize| -> Vec<f64> {
            all.chunks((count * width).max(1)).flat_map(|row| permute(row, width)).collect()
        };
        let permuted = Log { targets: rows(&log.targets, 1), ..log.clone() };
        let wanted = rows(&log.resample(mode, outside, None), log.channels);
        prop_assert_eq!(bits(&permuted.resample(mode, outside, None)), bits(&wanted));
    }

    #[test]
    fn a_shift_of_int64_times_changes_nothing(
        log in logs(-1_000_000..1_000_000i64, -2_000_000..2_000_000i64),
        shift in i64::MIN + 2_000_000..i64::MAX - 2_000_000,
        mode in select(&MODES),
        outside in select(&OUTSIDE),
    ) {
        let mode = log.fitting(mode);
        let move_by = |times: &[i64]| times.iter().map(|time| time + shift).collect();
        let moved = Log { times: move_by(&log.times), targets: move_by(&log.targets), ..log.clone() };
        prop_assert_eq!(bits(&moved.resample(mode, outside, None)), bits(&log.resample(mode, outside, None)));
        let line = moved.resample("linear", "extrapolate", None);
        prop_assert_eq!(bits(&line), bits(&log.resample("linear", "extrapolate", None)));
    }

    #[test]
    fn a_linear_result_lies_between_its_neighbours(log in logs(seconds(), any_seconds())) {
        let between = log.resample("linear", "hold", None);
        let (before, after) = (log.resample("previous", "hold", None), log.resample("next", "hold", None));
        for ((&found, &a), &b) in between.iter().zip(&before).zip(&after) {
            // `b - a` is rounded before it is weighed.
            let slack = f64::EPSILON * a.abs().max(b.abs());
            prop_assert!(a.min(b) - slack <= found && found <= a.max(b) + slack, "{found} between {a} and {b}");
        }
    }

    #[test]
    fn a_curve_stays_within_its_bracket_and_is_monotone_there(log in logs(seconds(), any_seconds())) {
        let mut log = log;
        let count = log.row_targets();
        log.targets.chunks_mut(count.max(1)).for_each(|row| row.sort_by(f64::total_cmp));
        let curve = log.resample("pchip", "hold", None);
        let (before, after) = (log.resample("previous", "hold", None), log.resample("next", "hold", None));
        for place in 0..curve.len() {
            let (found, a, b) = (curve[place], before[place], after[place]);
            prop_assert!(a.min(b) <= found && found <= a.max(b), "{found} between {a} and {b}");
            // The target before, where it lies in the same bracket.
            let Some(last) = place.checked_sub(log.channels) else { continue };
            if (before[last], after[last]) == (a, b) && place / log.channels % count != 0 {
                let slack = 4.0 * f64::EPSILON * a.abs().max(b.abs());
                prop_assert!((found - curve[last]) * (b - a).signum() >= -slack, "{} then {found}", curve[last]);
            }
        }
    }

    #[test]
    fn an_angle_moves_along_the_shorter_arc(log in logs(seconds(), any_seconds())) {
        let (found, line) = (log.resample("angle", "hold", None), log.resample("linear", "hold", None));
        let (before, after) = (log.resample("previous", "hold", None), log.resample("next", "hold", None));
        let wrap = |angle: f64| angle - 2.0 * HALF * (angle / (2.0 * HALF)).round();
        for ((&found, &line), (&a, &b)) in found.iter().zip(&line).zip(before.iter().zip(&after)) {
            prop_assert!((-HALF..HALF).contains(&found));
            let (arc, part) = (wrap(b - a).abs(), wrap(found - a).abs());
            prop_assert!(part <= arc + 1e-12, "{found} from {a} to {b}");
            if (b - a).abs() < HALF - 1e-9 {
                prop_assert!(wrap(found - line).abs() < 1e-12, "{found}, on the line {line}");
            }
        }
    }

    #[test]
    fn a_slerp_is_a_rotation_that_turns_evenly(log in logs(seconds(), any_seconds())) {
        prop_assume!(log.channels.is_multiple_of(4));
        let samples = [("slerp", 0), ("previous", 1), ("next", 2)].map(|(mode, _)| log.resample(mode, "hold", None));
        let unit = |q: &[f64]| {
            let norm = dot(q, q).sqrt();
            q.iter().map(|v| v / norm).collect::<Vec<_>>()
        };
        for place in (0..samples[0].len()).step_by(4) {
            let [found, a, b] = [0, 1, 2].map(|which| &samples[which][place..place + 4]);
            if found == a || found == b {
                continue;
            }
            prop_assert!((dot(found, found) - 1.0).abs() < 1e-14);
            // Its angles to both samples add up to the angle between them, on the side of the left one.
            let (a, b) = (unit(a), unit(b));
            let angle = |x: &[f64], y: &[f64]| dot(x, y).abs().min(1.0).acos();
            let whole = angle(&a, &b);
            prop_assert!((angle(&a, found) + angle(&b, found) - whole).abs() < 1e-6 && dot(&a, found) > 0.0);
        }
    }

    #[test]
    fn backward_is_the_adjoint(
        log in logs(seconds(), any_seconds()),
        mode in select(&MODES[..4]),
        outside in select(vec!["hold", "zero", "extrapolate"]),
    ) {
        let outside = if mode == "linear" || outside != "extrapolate" { outside } else { "hold" };
        let grad = weights(&log);
        let forward = log.resample(mode, outside, None);
        let adjoint = backward(&log, &grad, mode, outside, false);
        assert_close(dot(&grad, &forward), dot(&adjoint, &log.values), &forward)?;

        let slopes = slope(&log, mode, outside);
        let adjoint = backward(&log, &grad, mode, outside, true);
        assert_close(dot(&grad, &slopes), dot(&adjoint, &log.values), &[1e7])?;
    }

    #[test]
    fn backward_is_the_adjoint_of_the_tangent(
        log in logs(seconds(), any_seconds()),
        mode in select(&MODES),
        outside in select(&OUTSIDE),
    ) {
        let mode = log.fitting(mode);
        let shape = [log.batch, log.row_targets(), log.channels];
        let direction: Vec<f64> = (0..log.values.len()).map(|place| (place as f64 * 0.3).cos()).collect();
        let along = Log { values: direction.clone(), ..log.clone() };
        let mut tangent = vec![0.0; shape.iter().product()];
        let out = &mut ViewMut::new(&mut tangent, &shape).unwrap();
        let (source, target, place) = (log.times(), log.targets(), &Place::cpu(&Serial));
        resample_tangent(along.values(), log.values(), source, target, mode, outside, None, out, place).unwrap();
        let grad = weights(&log);
        let adjoint = backward(&log, &grad, mode, outside, false);
        assert_close(dot(&grad, &tangent), dot(&adjoint, &direction), &tangent)?;
    }

    #[test]
    fn the_time_gradient_sums_the_slopes(
        log in logs(seconds(), any_seconds()),
        outside in select(vec!["hold", "zero", "extrapolate"]),
    ) {
        let grad = weights(&log);
        let shape = [log.batch, log.row_targets(), log.channels];
        let mut output = vec![0.0; log.targets.len()];
        resample_time_grad(
            View::new(&grad, &shape).unwrap(),
            log.values(),
            log.times(),
            log.targets(),
            "linear",
            outside,
            None,
            &mut ViewMut::new(&mut output, &shape[..2]).unwrap(),
            &Place::cpu(&Serial),
        )
        .unwrap();
        let slopes = slope(&log, "linear", outside);
        for ((&found, grad), slopes) in output.iter().zip(grad.chunks(log.channels)).zip(slopes.chunks(log.channels)) {
            assert_close(found, dot(grad, slopes), slopes)?;
        }
    }

    #[test]
    fn the_slope_is_the_derivative(log in logs(seconds(), any_seconds())) {
        // A step that stays within a bracket of the grid of 0.05 s.
        let step = 1e-4;
        let inside = |time: f64| (time / 0.05 - (time / 0.05).round()).abs() > 0.01;
        let later = Log { targets: log.targets.iter().map(|time| time + step).collect(), ..log.clone() };
        let (now, then) = (log.resample("linear", "extrapolate", None), later.resample("linear", "extrapolate", None));
        for (place, &slope) in slope(&log, "linear", "extrapolate").iter().enumerate() {
            if inside(log.targets[place / log.channels]) {
                let measured = (then[place] - now[place]) / step;
                prop_assert!((measured - slope).abs() <= 1e-6 * slope.abs() + 1e-4, "{measured} and {slope}");
            }
        }
    }
}
