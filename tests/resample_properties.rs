//! What holds for `resample` whatever its arguments, on inputs that proptest makes and shrinks.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use robocache::{
    DType, Element, Place, Serial, View, ViewMut, resample, resample_backward, resample_backward_workspace,
    resample_slope, resample_time_grad,
};

const MODES: [&str; 4] = ["linear", "previous", "next", "nearest"];
const OUTSIDE: [&str; 3] = ["hold", "nan", "zero"];

/// `[B, S, D]` values with their times; every row as long as the others.
#[derive(Clone, Debug)]
struct Log<T> {
    batch: usize,
    channels: usize,
    values: Vec<f64>,
    /// `[B, S]`.
    times: Vec<T>,
    /// `[B, T]`.
    targets: Vec<T>,
}

impl<T: Element> Log<T> {
    fn samples(&self) -> usize {
        self.times.len() / self.batch
    }

    fn row_targets(&self) -> usize {
        self.targets.len() / self.batch
    }

    fn values(&self) -> View<'_> {
        View::new(&self.values, &[self.batch, self.samples(), self.channels]).unwrap()
    }

    fn times(&self) -> View<'_> {
        View::new(&self.times, &[self.batch, self.samples()]).unwrap()
    }

    fn targets(&self) -> View<'_> {
        View::new(&self.targets, &[self.batch, self.row_targets()]).unwrap()
    }

    /// `[B, T, D]`.
    fn resample(&self, mode: &str, outside: &str, lengths: Option<&[i64]>) -> Vec<f64> {
        let shape = [self.batch, self.row_targets(), self.channels];
        let mut output = vec![0.0; shape.iter().product()];
        resample(
            self.values(),
            self.times(),
            self.targets(),
            mode,
            outside,
            lengths.map(|lengths| View::new(lengths, &[self.batch]).unwrap()),
            &mut ViewMut::new(&mut output, &shape).unwrap(),
            &Place::cpu(&Serial),
        )
        .unwrap();
        output
    }

    /// One row of the batch with its first `length` samples.
    fn alone(&self, row: usize, length: usize) -> Log<T> {
        let (samples, targets) = (self.samples(), self.row_targets());
        Log {
            batch: 1,
            channels: self.channels,
            values: self.values[row * samples * self.channels..][..length * self.channels].to_vec(),
            times: self.times[row * samples..][..length].to_vec(),
            targets: self.targets[row * targets..][..targets].to_vec(),
        }
    }
}

/// A log whose times are `times`, in ascending order, and whose targets are sometimes samples.
fn logs<T: Element + PartialOrd + std::fmt::Debug>(
    times: impl Strategy<Value = T> + Clone + 'static,
    targets: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = Log<T>> {
    (1..4usize, 1..24usize, 0..24usize, 1..6usize).prop_flat_map(move |(batch, samples, count, channels)| {
        let values = vec(-1e3..1e3, batch * samples * channels);
        let wanted = (any::<Index>(), any::<bool>(), targets.clone());
        (values, vec(times.clone(), batch * samples), vec(wanted, batch * count)).prop_map(
            move |(values, mut times, wanted)| {
                for row in times.chunks_mut(samples) {
                    row.sort_by(|a, b| a.partial_cmp(b).unwrap());
                }
                let pick = |(at, (index, hit, free)): (usize, (Index, bool, T))| {
                    let row = at / count;
                    if hit { times[row * samples + index.index(samples)] } else { free }
                };
                let targets = wanted.into_iter().enumerate().map(pick).collect();
                Log { batch, channels, values, times, targets }
            },
        )
    })
}

/// Times on a coarse grid, so that some are equal.
fn seconds() -> impl Strategy<Value = f64> + Clone {
    (0..400i32).prop_map(|tick| f64::from(tick) * 0.05)
}

fn any_seconds() -> impl Strategy<Value = f64> + Clone {
    -5.0..25.0
}

fn bits(numbers: &[f64]) -> Vec<u64> {
    numbers.iter().map(|number| if number.is_nan() { f64::NAN } else { *number }.to_bits()).collect()
}

/// The adjoint of `resample`, or of its slope.
fn backward(log: &Log<f64>, grad: &[f64], mode: &str, outside: &str, slope: bool) -> Vec<f64> {
    let (batch, samples, targets) = (log.batch, log.samples(), log.row_targets());
    let bytes = resample_backward_workspace(batch, samples, targets).unwrap();
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
        let result = log.resample(mode, outside, None);
        let samples = log.samples();
        for (place, found) in result.chunks(log.channels).enumerate() {
            let row = &log.times[place / samples * samples..][..samples];
            let last = row.iter().rposition(|&time| time == log.targets[place]).unwrap();
            let wanted = &log.values[(place / samples * samples + last) * log.channels..][..log.channels];
            prop_assert_eq!(bits(found), bits(wanted));
        }
    }

    #[test]
    fn a_ragged_row_equals_the_row_alone(
        log in logs(seconds(), any_seconds()),
        cuts in vec(any::<Index>(), 3),
        mode in select(&MODES),
        outside in select(&OUTSIDE),
    ) {
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
        let count = log.row_targets();
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
    fn backward_is_the_adjoint(
        log in logs(seconds(), any_seconds()),
        mode in select(&MODES),
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
