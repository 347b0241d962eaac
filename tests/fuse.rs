//! `fuse` and `resample_mask` on the CPU: known answers, edges and random calls against the definition.

mod definition;
mod random;

use random::array::{difference, same};
use random::fuse::{FuseCase, fuse_fault, run_apart, run_fuse};
use random::run::{Host, Op, fault, run};
use random::{Case, FLOATING, INTEGERS, Random, Sizes, cases};
use robocache::{DType, Element, MaxGap, Place, Serial, StdThreads, Threads, View, ViewMut, fuse, resample_mask};
use std::num::NonZeroUsize;
use std::ops::Range;

#[test]
fn random_streams_are_those_of_resample_side_by_side() {
    for (count, dtypes) in [(cases(2000), FLOATING.as_slice()), (cases(2000) / 4, INTEGERS.as_slice())] {
        for index in 0..count {
            let case = FuseCase::random(index, dtypes);
            let found = run_fuse(&case, &Host::new(&Serial)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
            let apart = run_apart(&case, &Host::new(&Serial)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
            let dtype = case.dtype();
            assert!(same(dtype, &found, &apart), "case {index}: {}\n{case:?}", difference(dtype, &found, &apart));
            let fault = fuse_fault(&case, &found);
            assert!(fault.is_none(), "case {index}: {}\n{case:?}", fault.unwrap());
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
    for index in 0..cases(300) {
        let case = FuseCase::random(index, &FLOATING);
        let whole = run_fuse(&case, &Host::new(&Serial)).unwrap();
        for piece in [1, 7, 65] {
            let cut = run_fuse(&case, &Host::new(&Pieces(piece))).unwrap();
            assert!(same(case.dtype(), &cut, &whole), "case {index} in pieces of {piece}: {case:?}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for index in 0..8 {
        let mut r = Random(index);
        let fused = FuseCase::new(&mut r, FLOATING[index as usize % 4], DType::F64, &[160, 8, 32, 4]);
        let sizes = Sizes { batch: 3, samples: 300, targets: 3000, channels: 1 };
        let masked = Case::new(&mut r, DType::F32, DType::F64, sizes);
        let host = || Host::new(&Serial);
        let serial = (run_fuse(&fused, &host()).unwrap(), run(&masked, Op::Mask, &host()).unwrap());
        for count in 1..=5 {
            let threads = StdThreads::new(NonZeroUsize::new(count).unwrap());
            let host = || Host::new(&threads);
            assert!(same(fused.dtype(), &run_fuse(&fused, &host()).unwrap(), &serial.0), "{count} threads: {fused:?}");
            assert_eq!(run(&masked, Op::Mask, &host()).unwrap(), serial.1, "{count} threads: {masked:?}");
        }
    }
}

#[test]
fn memory_beside_the_elements_does_not_matter() {
    for index in 0..cases(300) {
        let case = FuseCase::random(index, &FLOATING);
        let results = [0x00, 0x3c, 0xff].map(|fill| {
            let island = |array: &random::array::Array| array.surrounded(fill, 40);
            let mut case = case.clone();
            for stream in &mut case.streams {
                stream.values = island(&stream.values);
                stream.source_times = island(&stream.source_times);
                stream.target_times = island(&stream.target_times);
            }
            case.source_lengths = case.source_lengths.as_ref().map(island);
            run_fuse(&case, &Host::new(&Serial)).unwrap()
        });
        assert!(results.iter().all(|result| same(case.dtype(), result, &results[0])), "{index}: {case:?}");
    }
}

#[test]
fn many_streams_and_many_groups() {
    for widths in [vec![3; 40], vec![200; 3], vec![1; 100]] {
        let case = FuseCase::new(&mut Random(5), DType::F32, DType::I64, &widths);
        let found = run_fuse(&case, &Host::new(&Serial)).unwrap();
        assert_eq!(fuse_fault(&case, &found), None, "{case:?}");
    }
}

/// Three streams on one clock: an arm, a camera's pose that turns by half, and a gripper that holds.
#[test]
fn streams_by_hand() {
    let (arm, turn, grip) = ([0.0f64, 10.0, 20.0, 30.0, 40.0, 50.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0], [7.0]);
    let (fast, slow, once) = ([0i64, 10, 20], [0i64, 20], [15i64]);
    let mut fused = [0.0f64; 2 * 7];
    fuse(
        &[view(&arm, &[3, 2]), view(&turn, &[2, 4]), view(&grip, &[1, 1])],
        &[view(&fast, &[3]), view(&slow, &[2]), view(&once, &[1])],
        view(&[5i64, 10], &[2]),
        "linear:2,slerp:4,previous:1",
        "zero",
        None,
        &mut ViewMut::new(&mut fused, &[2, 7]).unwrap(),
        &Place::cpu(&Serial),
    )
    .unwrap();
    let (eighth, half) = (std::f64::consts::FRAC_PI_8, 0.5f64.sqrt());
    let wanted = [10.0, 20.0, eighth.cos(), 0.0, 0.0, eighth.sin(), 0.0, 20.0, 30.0, half, 0.0, 0.0, half, 0.0];
    let close = fused.iter().zip(&wanted).all(|(found, wanted): (&f64, &f64)| (found - wanted).abs() < 1e-15);
    assert!(close, "{fused:?}");
}

#[test]
fn streams_without_rows_or_channels_are_no_error() {
    for (batch, targets, widths) in [(0, 4, [3, 2]), (2, 0, [3, 2]), (2, 4, [0, 2]), (2, 4, [0, 0])] {
        let values = widths.map(|width| vec![1f32; batch * 2 * width]);
        let (times, aims) = ([0.0, 1.0], vec![0.5; targets]);
        let width = widths.iter().sum::<usize>();
        let mut output = vec![9f32; batch * targets * width];
        fuse(
            &[0, 1].map(|stream| view(&values[stream], &[batch, 2, widths[stream]])),
            &[view(&times, &[2]); 2],
            view(&aims, &[targets]),
            "linear",
            "hold",
            None,
            &mut ViewMut::new(&mut output, &[batch, targets, width]).unwrap(),
            &Place::cpu(&Serial),
        )
        .unwrap_or_else(|error| panic!("{batch} {targets} {widths:?}: {error}"));
        assert!(output.iter().all(|&found| found == 1.0));
    }
}

fn view<'a, T: Element>(data: &'a [T], sizes: &[usize]) -> View<'a> {
    View::new(data, sizes).unwrap()
}

/// One row.
fn mask<T: Element>(times: &[T], targets: &[T], gap: Option<MaxGap>) -> Vec<bool> {
    let mut output = vec![false; targets.len()];
    let out = &mut ViewMut::new(&mut output, &[targets.len()]).unwrap();
    let (times, targets) = (view(times, &[times.len()]), view(targets, &[targets.len()]));
    resample_mask(times, targets, gap, None, out, &Place::cpu(&Serial)).unwrap();
    output
}

#[test]
fn masks_by_hand() {
    let (times, targets) = ([0i64, 10, 10, 40], [-1i64, 0, 5, 10, 11, 40, 41]);
    assert_eq!(mask(&times, &targets, None), [false, true, true, true, true, true, false]);
    for gap in [MaxGap::Ticks(10), MaxGap::Number(10.0), MaxGap::Number(29.999)] {
        assert_eq!(mask(&times, &targets, Some(gap)), [false, true, true, true, false, true, false], "{gap:?}");
    }
    let none = [false, true, false, true, false, true, false];
    assert_eq!(mask(&times, &targets, Some(MaxGap::Number(0.0))), none);
    assert_eq!(mask(&times, &targets, Some(MaxGap::Number(f64::INFINITY))), mask(&times, &targets, None));
    let other = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0];
    assert_eq!(mask(&[f64::NEG_INFINITY, 1.0, f64::INFINITY], &other, None), [false, false, false, true]);
    assert_eq!(mask(&[5.0f32], &[4.0, 5.0, 6.0], None), [false, true, false]);
}

#[test]
fn a_gap_is_rounded_to_the_times_type() {
    // 0.1f32 is above 0.1: the bracket is as long as the gap, once the gap is an f32 too.
    assert_eq!(mask(&[0.0f32, 0.1], &[0.05], Some(MaxGap::Number(0.1))), [true]);
    assert_eq!(mask(&[0.0f64, f64::from(0.1f32)], &[0.05], Some(MaxGap::Number(0.1))), [false]);
    // Beyond 2^53 an f64 no longer tells whole numbers apart; ticks are exact.
    let far = (1i64 << 60) + 1;
    assert_eq!(mask(&[0, far], &[5], Some(MaxGap::Ticks(far))), [true]);
    assert_eq!(mask(&[0, far], &[5], Some(MaxGap::Ticks(far - 1))), [false]);
    let span = [i64::MIN, i64::MAX];
    assert_eq!(mask(&span, &[0], Some(MaxGap::Ticks(i64::MAX))), [false]);
    assert_eq!(mask(&span, &[0], Some(MaxGap::Number(1.9e19))), [true]);
}

#[test]
fn random_masks_equal_the_definition() {
    for index in 0..cases(4000) {
        let mut r = Random(index);
        let sizes = Sizes { batch: r.below(4), samples: 1 + r.below(30), targets: r.below(60), channels: 1 };
        let times = [DType::F64, DType::F32, DType::I64][index as usize % 3];
        let case = Case::new(&mut r, DType::U8, times, sizes);
        let found = run(&case, Op::Mask, &Host::new(&Serial)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
        let fault = fault(&case, Op::Mask, &found);
        assert!(fault.is_none(), "case {index}: {}\n{case:?}", fault.unwrap());
    }
}
