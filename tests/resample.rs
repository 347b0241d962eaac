//! `resample` and its derivatives on the CPU against the definition: known answers, edges and random calls.

mod definition;
mod random;

use half::{bf16, f16};
use random::array::{Array, Layout, same};
use random::run::{Host, Op, fault, run};
use random::{Case, FLOATING, INTEGERS, Random, Sizes, cases};
use robocache::{DType, Element, Error, Place, Serial, StdThreads, Threads, View, ViewMut, resample, resample_slope};
use std::num::NonZeroUsize;
use std::ops::Range;

/// One row of one channel by one call.
fn row<V: Element + Default, T: Element>(
    values: &[V],
    times: &[T],
    targets: &[T],
    mode: &str,
    outside: &str,
) -> Result<Vec<V>, Error> {
    let mut output = vec![V::default(); targets.len()];
    resample(
        View::new(values, &[values.len()])?,
        View::new(times, &[times.len()])?,
        View::new(targets, &[targets.len()])?,
        mode,
        outside,
        None,
        &mut ViewMut::new(&mut output, &[targets.len()])?,
        &Place::cpu(&Serial),
    )?;
    Ok(output)
}

fn linear<V: Element + Default, T: Element>(values: &[V], times: &[T], targets: &[T]) -> Vec<V> {
    row(values, times, targets, "linear", "hold").unwrap()
}

#[test]
fn modes_and_ends_by_hand() {
    let (times, values) = ([0.0, 1.0, 2.0, 4.0], [4.0, 10.0, 40.0, 20.0]);
    let targets = [-1.0, 0.25, 1.0, 1.5, 1.75, 3.0, 4.0, 5.0];
    let rows: [(&str, &str, [f64; 8]); 8] = [
        ("linear", "hold", [4.0, 5.5, 10.0, 25.0, 32.5, 30.0, 20.0, 20.0]),
        ("linear", "zero", [0.0, 5.5, 10.0, 25.0, 32.5, 30.0, 20.0, 0.0]),
        ("linear", "extrapolate", [-2.0, 5.5, 10.0, 25.0, 32.5, 30.0, 20.0, 10.0]),
        ("previous", "hold", [4.0, 4.0, 10.0, 10.0, 10.0, 40.0, 20.0, 20.0]),
        ("next", "hold", [4.0, 10.0, 10.0, 40.0, 40.0, 20.0, 20.0, 20.0]),
        ("nearest", "hold", [4.0, 4.0, 10.0, 10.0, 40.0, 40.0, 20.0, 20.0]),
        ("next", "zero", [0.0, 10.0, 10.0, 40.0, 40.0, 20.0, 20.0, 0.0]),
        ("previous:1", "zero", [0.0, 4.0, 10.0, 10.0, 10.0, 40.0, 20.0, 0.0]),
    ];
    for (mode, outside, expected) in rows {
        assert_eq!(row(&values, &times, &targets, mode, outside).unwrap(), expected, "{mode} {outside}");
    }
    let nan = row(&values, &times, &targets, "linear", "nan").unwrap();
    assert!(nan[0].is_nan() && nan[7].is_nan());
    assert_eq!(nan[1..7], [5.5, 10.0, 25.0, 32.5, 30.0, 20.0]);
}

#[test]
fn epoch_nanoseconds_are_exact() {
    let epoch = 1_700_000_000_000_000_000i64;
    let times = [epoch, epoch + 3, epoch + 10];
    assert_eq!(linear(&[0.0, 3.0, 10.0], &times, &[epoch + 1, epoch + 2, epoch + 4]), [1.0, 2.0, 4.0]);
}

#[test]
fn the_whole_range_of_int64_is_a_time() {
    let times = [i64::MIN, i64::MAX];
    assert_eq!(linear(&[0.0, 1.0], &times, &[i64::MIN, 0, i64::MAX]), [0.0, 0.5, 1.0]);
    let (times, targets) = ([-1, 0, 1], [i64::MIN, i64::MAX]);
    let ends = row(&[-1.0, 0.0, 1.0], &times, &targets, "linear", "extrapolate").unwrap();
    assert_eq!(ends, [i64::MIN as f64, i64::MAX as f64]);
}

#[test]
fn the_later_of_equal_times_wins() {
    let times = [0.0, 1.0, 1.0, 1.0, 2.0];
    let values = [0.0, 10.0, f64::NAN, 30.0, 40.0];
    for mode in ["linear", "previous", "next", "nearest", "pchip"] {
        assert_eq!(row(&values, &times, &[1.0], mode, "hold").unwrap(), [30.0], "{mode}");
    }
    assert_eq!(linear(&values, &times, &[0.5, 1.5]), [5.0, 35.0]);
    let ends = row(&[1.0, 2.0, 3.0], &[0.0, 5.0, 5.0], &[6.0, 5.0], "linear", "extrapolate").unwrap();
    assert_eq!(ends, [3.0, 3.0], "an end bracket of no length holds");
}

#[test]
fn a_single_sample_holds() {
    for outside in ["hold", "extrapolate"] {
        assert_eq!(row(&[7.0f32], &[1.0], &[0.0, 1.0, 2.0], "linear", outside).unwrap(), [7.0; 3], "{outside}");
    }
    assert_eq!(row(&[7.0f32], &[1.0], &[0.0, 1.0, 2.0], "linear", "zero").unwrap(), [0.0, 7.0, 0.0]);
}

#[test]
fn a_neighbour_that_is_not_a_number_does_not_leak() {
    let times = [0.0, 1.0, 2.0];
    for neighbour in [f32::NAN, f32::INFINITY] {
        assert_eq!(linear(&[1.0, neighbour, 3.0], &times, &[0.0, 2.0, 9.0, -9.0]), [1.0, 3.0, 3.0, 1.0]);
        assert_eq!(row(&[1.0, neighbour, 3.0], &times, &[0.5], "previous", "hold").unwrap(), [1.0]);
    }
    // A weight that f32 rounds to nothing is no weight.
    assert_eq!(linear(&[1.0f32, f32::NAN], &[0.0, 1.0], &[1e-60]), [1.0]);
}

#[test]
fn targets_that_are_no_instant() {
    let targets = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let (times, values) = ([0.0, 1.0], [5.0f64, 6.0]);
    let held = row(&values, &times, &targets, "linear", "hold").unwrap();
    assert!(held[0].is_nan());
    assert_eq!(held[1..], [6.0, 5.0]);
    let line = row(&values, &times, &targets, "linear", "extrapolate").unwrap();
    assert_eq!(line[1..], [f64::INFINITY, f64::NEG_INFINITY]);
    assert_eq!(row(&[5u8, 6], &times, &targets, "previous", "hold").unwrap(), [0, 6, 5]);
    assert_eq!(row(&[true, true], &times, &targets, "nearest", "zero").unwrap(), [false; 3]);
}

#[test]
fn times_closer_than_any_quotient() {
    let tiny = f64::from_bits(1);
    let times = [0.0, tiny, 2.0 * tiny, 4.0 * tiny];
    assert_eq!(linear(&[0.0, 1.0, 2.0, 4.0], &times, &[tiny, 3.0 * tiny]), [1.0, 3.0]);
    let subnormal = f32::from_bits(1);
    assert_eq!(linear(&[0.0, subnormal * 4.0], &[0.0f32, 1.0], &[0.5]), [subnormal * 2.0]);
}

#[test]
fn halves_are_computed_in_f32_and_rounded_once() {
    let (a, b) = (f16::from_f32(1.0), f16::from_f32(1.0 + 1.0 / 1024.0));
    assert_eq!(linear(&[a, b], &[0.0, 1.0], &[0.5, 0.501]), [a, b]);
    let largest = bf16::MAX;
    assert_eq!(linear(&[bf16::ZERO, largest], &[0.0, 1.0], &[0.5]), [bf16::from_f32(largest.to_f32() / 2.0)]);
}

#[test]
fn random_calls_equal_the_definition() {
    let (floating, integers) = (cases(8000), cases(8000) / 4);
    let kinds = [(floating, FLOATING.as_slice()), (integers, INTEGERS.as_slice())];
    for (count, dtypes) in kinds {
        for index in 0..count {
            let case = Case::random(index, dtypes);
            for op in Op::of(&case) {
                let found = run(&case, op, &Host::new(&Serial)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
                let fault = fault(&case, op, &found);
                assert!(fault.is_none(), "case {index} {op:?}: {}\n{case:?}", fault.unwrap());
            }
        }
    }
}

/// Cuts the work into pieces of any size, whatever their worth, and runs the last first.
struct Pieces(usize);

impl Threads for Pieces {
    fn run(&self, items: usize, _grain: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
        let starts: Vec<_> = (0..items).step_by(self.0).collect();
        starts.into_iter().rev().for_each(|start| body(start..items.min(start + self.0)));
    }
}

#[test]
fn any_cut_of_the_work_gives_the_same_bits() {
    for index in 0..cases(400) {
        let case = Case::random(index, &FLOATING);
        for op in Op::of(&case) {
            let whole = run(&case, op, &Host::new(&Serial)).unwrap();
            for piece in [1, 2, 7, 65] {
                let cut = run(&case, op, &Host::new(&Pieces(piece))).unwrap();
                assert!(same(op.dtype(&case), &cut, &whole), "case {index} {op:?} in pieces of {piece}: {case:?}");
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let sizes = Sizes { batch: 3, samples: 300, targets: 700, channels: 67 };
    for (index, dtype) in FLOATING.into_iter().enumerate() {
        let case = Case::new(&mut Random(index as u64), dtype, DType::F64, sizes);
        for op in Op::of(&case) {
            let serial = run(&case, op, &Host::new(&Serial)).unwrap();
            for count in 1..=5 {
                let threads = StdThreads::new(NonZeroUsize::new(count).unwrap());
                let found = run(&case, op, &Host::new(&threads)).unwrap();
                assert!(same(op.dtype(&case), &found, &serial), "{dtype:?} {op:?} on {count} threads");
            }
        }
    }
}

#[test]
fn memory_beside_the_elements_does_not_matter() {
    // Also with times in any order and lengths of any size, which the derivatives leave unchecked.
    for index in 0..cases(600) {
        let case = Case::random(index, &FLOATING);
        let garbage = index % 2 == 1;
        let case = if garbage { case.with_garbage(&mut Random(index)) } else { case };
        let ops = Op::of(&case).into_iter().filter(|op| !garbage || !op.checks_order());
        for op in ops {
            let results = [0x00, 0x3c, 0xff].map(|fill| {
                let island = |array: &Array| array.surrounded(fill, 40);
                let case = Case {
                    values: island(&case.values),
                    tangent: island(&case.tangent),
                    grad: island(&case.grad),
                    source_times: island(&case.source_times),
                    target_times: island(&case.target_times),
                    source_lengths: case.source_lengths.as_ref().map(island),
                    ..case.clone()
                };
                run(&case, op, &Host::new(&Serial)).unwrap()
            });
            assert!(
                results.iter().all(|result| same(op.dtype(&case), result, &results[0])),
                "{index} {op:?}: {case:?}"
            );
        }
    }
}

#[test]
fn every_layout_gives_the_bits_of_the_dense_one() {
    let values: Vec<f32> = (0..2 * 9 * 8).map(|number| (number as f32).sin()).collect();
    let times: Vec<f64> = (0..9).map(f64::from).collect();
    let targets: Vec<f64> = (0..13).map(|number| f64::from(number) * 0.7 - 0.3).collect();
    let run = |values: &Array, memory: &[u128]| {
        let mut output = vec![0f32; 2 * 13 * 8];
        resample(
            // SAFETY: `memory` is a copy of the array's bytes.
            unsafe { values.view(memory.as_ptr().cast()) },
            View::new(&times, &[9]).unwrap(),
            View::new(&targets, &[13]).unwrap(),
            "linear:3,previous:2,linear:*",
            "hold",
            None,
            &mut ViewMut::new(&mut output, &[2, 13, 8]).unwrap(),
            &Place::cpu(&Serial),
        )
        .unwrap();
        output
    };
    let copy = |array: &Array| {
        let mut memory = vec![0u128; array.bytes.len().div_ceil(16)];
        // SAFETY: room for the bytes was just made.
        unsafe { memory.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(array.bytes.as_ptr(), array.bytes.len()) };
        memory
    };
    let dense = Array::dense(&values, &[2, 9, 8]);
    let wanted = run(&dense, &copy(&dense));
    for layout in [Layout::Shifted, Layout::Padded, Layout::Transposed, Layout::Sliced, Layout::Reversed] {
        let laid = Array::new(&mut Random(1), DType::F32, &[2, 9, 8], layout, |_, at| values[at].to_bits().into());
        assert_eq!(laid.elements::<f32>(), values, "{layout:?}");
        assert_eq!(run(&laid, &copy(&laid)), wanted, "{layout:?}");
    }
}

#[test]
fn empty_batches_targets_and_channels_are_no_error() {
    let times = [0.0, 1.0];
    for (batch, targets, channels) in [(0, 4, 3), (2, 0, 3), (2, 4, 0), (0, 0, 0)] {
        let (values, targets_) = (vec![1f32; batch * 2 * channels], vec![0.5; targets]);
        let mut output = vec![0f32; batch * targets * channels];
        let shape = [batch, targets, channels];
        resample(
            View::new(&values, &[batch, 2, channels]).unwrap(),
            View::new(&times, &[2]).unwrap(),
            View::new(&targets_, &[targets]).unwrap(),
            "linear",
            "hold",
            None,
            &mut ViewMut::new(&mut output, &shape).unwrap(),
            &Place::cpu(&Serial),
        )
        .unwrap_or_else(|error| panic!("{shape:?}: {error}"));
    }
}

#[test]
fn the_slope_of_a_line_is_its_slope() {
    let (times, values) = ([0.0, 1.0, 3.0], [0.0, 2.0, 8.0]);
    let targets = [0.5, 1.0, 2.0, 3.0, 4.0, -1.0];
    for (outside, past) in [("hold", [0.0, 0.0, 0.0]), ("extrapolate", [0.0, 3.0, 2.0])] {
        let mut slope = [0f64; 6];
        resample_slope(
            View::new(&values, &[3]).unwrap(),
            View::new(&times, &[3]).unwrap(),
            View::new(&targets, &[6]).unwrap(),
            "linear",
            outside,
            None,
            &mut ViewMut::new(&mut slope, &[6]).unwrap(),
            &Place::cpu(&Serial),
        )
        .unwrap();
        assert_eq!(slope[..3], [2.0, 3.0, 3.0], "{outside}");
        assert_eq!(slope[3..], past, "{outside}");
    }
}

/// The error of three rows of 20,000 samples of which one descends at a sample, of the lengths given.
fn descent<T: Element + From<i32>>(row: usize, sample: usize, lengths: Option<[i64; 3]>) -> String {
    const SAMPLES: usize = 20_000;
    let mut times: Vec<T> = (0..3 * SAMPLES).map(|place| T::from((place % SAMPLES) as i32)).collect();
    times[row * SAMPLES + sample] = T::from(sample as i32 - 2);
    let (values, targets) = (vec![0.0f32; 3 * SAMPLES], [T::from(3)]);
    let mut output = [0.0f32; 3];
    let called = resample(
        View::new(&values, &[3, SAMPLES, 1]).unwrap(),
        View::new(&times, &[3, SAMPLES]).unwrap(),
        View::new(&targets, &[1]).unwrap(),
        "linear",
        "hold",
        lengths.as_ref().map(|lengths| View::new(lengths, &[3]).unwrap()),
        &mut ViewMut::new(&mut output, &[3, 1, 1]).unwrap(),
        &Place::cpu(&StdThreads::new(NonZeroUsize::new(3).unwrap())),
    );
    called.err().map_or_else(String::new, |error| error.to_string())
}

#[test]
fn long_rows_that_descend_are_told_by_the_first_sample() {
    // At the ends of what is checked together, and at the last sample.
    for sample in [1, 8191, 8192, 8193, 16_384, 19_999] {
        for row in 0..3 {
            let place = format!("in row {row} at sample {sample}");
            for found in [descent::<f64>(row, sample, None), descent::<f64>(row, sample, Some([20_000; 3]))] {
                assert!(
                    found.starts_with("resample: source_times must ascend along each row") && found.ends_with(&place)
                );
            }
            assert!(descent::<i64>(row, sample, None).ends_with(&place));
            let mut lengths = [20_000; 3];
            lengths[row] = sample as i64;
            assert_eq!(descent::<f64>(row, sample, Some(lengths)), "", "beyond the row's length");
        }
    }
}
