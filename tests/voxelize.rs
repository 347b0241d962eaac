//! `voxelize` and `voxelize_sparse` on the CPU: known answers, edges and random clouds against the definition.

mod definition;
#[path = "definition/voxelize.rs"]
mod definition_voxelize;
mod random;

#[path = "random/voxelize.rs"]
mod clouds;
#[path = "random/voxelize_run.rs"]
mod clouds_run;

use clouds::{CloudCase, REDUCTIONS, Sizes, Spread, Values};
use clouds_run::{assert_same, run_dense, run_sparse, wanted_dense, wanted_sparse};
use definition_voxelize::{Float, holder, sum};
use half::{bf16, f16};
use random::array::Array;
use random::run::Host;
use random::{FLOATING, Random, cases};
use robocache::{DType, Place, Serial, StdThreads, Threads, View, ViewMut, voxelize, voxelize_workspace};
use std::num::NonZeroUsize;
use std::ops::Range;

/// What memory is full of before a call.
fn fill_of(index: u64) -> u8 {
    [0x5a, 0xff, 0x00, 0x7f][index as usize % 4]
}

#[test]
fn random_grids_equal_the_definition() {
    for index in 0..cases(3000) {
        let case = CloudCase::random(index);
        let found = run_dense(&case, &Host::new(&Serial), fill_of(index));
        let found = found.unwrap_or_else(|error| panic!("{error}: {case:?}"));
        assert_same(&found, &wanted_dense(&case), &(index, &case));
    }
}

#[test]
fn random_rows_equal_the_definition() {
    for index in 0..cases(3000) {
        let case = CloudCase::random(index ^ 0x5a_0000);
        let found = run_sparse(&case, &Host::new(&Serial), fill_of(index));
        let found = found.unwrap_or_else(|error| panic!("{error}: {case:?}"));
        assert_same(&found, &wanted_sparse(&case), &(index, &case));
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
        let case = CloudCase::random(index);
        let run = |threads: &dyn Threads| {
            let host = Host::new(threads);
            (run_dense(&case, &host, 0xa5).unwrap(), run_sparse(&case, &host, 0xa5).unwrap())
        };
        let whole = run(&Serial);
        for piece in [1, 7, 65] {
            let cut = run(&Pieces(piece));
            assert_same(&cut.0, &whole.0, &(index, piece, &case));
            assert_same(&cut.1, &whole.1, &(index, piece, &case));
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let sizes = Sizes { batch: 2, count: 20_000, channels: 3 };
    for (index, reduce) in REDUCTIONS.into_iter().enumerate() {
        let dtypes = [FLOATING[index % 4], FLOATING[(index + 1) % 4]];
        for spread in [Spread::Even, Spread::Few] {
            let case = CloudCase::new(&mut Random(index as u64), dtypes, reduce, sizes, spread, Values::Cancelling);
            let run = |threads: &dyn Threads| {
                let host = Host::new(threads);
                (run_dense(&case, &host, 0xa5).unwrap(), run_sparse(&case, &host, 0xa5).unwrap())
            };
            let serial = run(&Serial);
            for count in 2..=5 {
                let threaded = run(&StdThreads::new(NonZeroUsize::new(count).unwrap()));
                assert_same(&threaded.0, &serial.0, &(count, &case));
                assert_same(&threaded.1, &serial.1, &(count, &case));
            }
        }
    }
}

#[test]
fn the_order_of_the_points_does_not_matter() {
    for index in 0..cases(600) {
        let case = CloudCase { lengths: None, ..CloudCase::random(index) };
        // Which of two NaN with other bits is picked depends on the order; that it is a NaN does not.
        let moved = case.shuffled(&mut Random(index));
        let host = || Host::new(&Serial);
        let dense = [&case, &moved].map(|case| run_dense(case, &host(), 0xa5).unwrap());
        assert_same(&dense[0][..1], &dense[1][..1], &(index, &case));
        let sparse = [&case, &moved].map(|case| run_sparse(case, &host(), 0xa5).unwrap());
        for (one, other) in sparse[0].iter().zip(&sparse[1]) {
            if matches!(one.name, "coords" | "counts" | "starts" | "num_voxels" | "values") {
                assert_same(std::slice::from_ref(one), std::slice::from_ref(other), &(index, &case));
            }
        }
    }
}

#[test]
fn memory_beside_the_elements_does_not_matter() {
    for index in 0..cases(300) {
        let case = CloudCase::random(index);
        let results = [0x00, 0x3c, 0xff].map(|fill| {
            let island = |array: &Array| array.surrounded(fill, 40);
            let case = CloudCase {
                points: island(&case.points),
                features: island(&case.features),
                tangent: island(&case.tangent),
                grad: island(&case.grad),
                lengths: case.lengths.as_ref().map(island),
                ..case.clone()
            };
            let mut all = run_dense(&case, &Host::new(&Serial), 0xa5).unwrap();
            all.extend(run_sparse(&case, &Host::new(&Serial), 0xa5).unwrap());
            all
        });
        results.iter().for_each(|result| assert_same(result, &results[0], &(index, &case)));
    }
}

/// `voxelize` of dense f32 memory on this thread.
fn reduced(points: &[f32], features: &[f32], channels: usize, size: &[i64; 3], reduce: &str) -> Vec<f32> {
    let count = points.len() / 3;
    let place = Place::cpu(&Serial);
    let mut workspace = vec![0u128; voxelize_workspace(1, count, size, reduce, false, &place).unwrap().div_ceil(16)];
    let bytes = workspace.len() * 16;
    // SAFETY: as many bytes as were just allocated.
    let workspace = &mut unsafe { ViewMut::from_raw(workspace.as_mut_ptr().cast(), DType::U8, &[bytes]) }.unwrap();
    let mut output = vec![f32::NAN; channels * size.iter().product::<i64>() as usize];
    let elements = output.len();
    voxelize(
        View::new(points, &[count, 3]).unwrap(),
        Some(View::new(features, &[count, channels]).unwrap()),
        &[0.0; 3],
        &[0.1],
        size,
        reduce,
        None,
        &mut ViewMut::new(&mut output, &[elements]).unwrap(),
        workspace,
        &place,
    )
    .unwrap();
    output
}

#[test]
fn voxels_by_hand() {
    // Two points in the first voxel of three along z, one in the last, one outside.
    let points = [0.05, 0.01, 0.0, 0.0, 0.09, 0.099, 0.0, 0.0, 0.25, 0.0, 0.0, -1e-9];
    let features = [1.0, -8.0, 2.0, 5.0, 4.0, 0.5, 100.0, 100.0];
    let run = |reduce| reduced(&points, &features, 2, &[1, 1, 3], reduce);
    assert_eq!(run("sum"), [3.0, 0.0, 4.0, -3.0, 0.0, 0.5]);
    assert_eq!(run("mean"), [1.5, 0.0, 4.0, -1.5, 0.0, 0.5]);
    assert_eq!(run("max"), [2.0, 0.0, 4.0, 5.0, 0.0, 0.5]);
    assert_eq!(run("min"), [1.0, 0.0, 4.0, -8.0, 0.0, 0.5]);
}

#[test]
fn a_sum_in_any_order_is_the_exact_one() {
    let points = [0.0; 12];
    for features in [[1e30, 1e-5, -1e30, 1e-6], [1e-6, 1e-5, 1e30, -1e30], [-1e30, 1e-6, 1e30, 1e-5]] {
        let exact = 1e-5f32 + 1e-6f32;
        assert_eq!(reduced(&points, &features, 1, &[1, 1, 1], "sum"), [exact]);
        assert_eq!(reduced(&points, &features, 1, &[1, 1, 1], "mean"), [exact / 4.0]);
    }
}

/// The definition by numbers that can be said by hand: it is what all else is compared with.
#[test]
fn the_definition_rounds_once() {
    let bits = |number: f64| number.to_bits();
    assert_eq!(sum(&[1e300, 5e-324, -1e300], 1), 5e-324);
    assert_eq!(sum(&[f64::MAX, f64::MAX], 1), f64::INFINITY);
    assert_eq!(sum(&[-f64::MAX, -f64::MAX], 2), -f64::MAX);
    assert_eq!(sum(&[1.0, f64::EPSILON / 2.0], 1), 1.0);
    assert_eq!(sum(&[1.0, f64::EPSILON / 2.0, 5e-324], 1), 1.0 + f64::EPSILON);
    assert_eq!(bits(sum(&[-0.0, -0.0], 2)), 0);
    assert_eq!(bits(sum(&[-5e-324, 0.0], 2)), 1 << 63);
    assert_eq!(sum(&[1.0f32, 1.0, 0.0], 3), 2.0 / 3.0);
    // The largest f16 is 65504; from 65520 on the nearest is infinity.
    let half = |numbers: &[f64]| sum(&numbers.iter().map(|&number| f16::from_f64(number)).collect::<Vec<_>>(), 1);
    assert_eq!(half(&[65504.0, 15.0]), f16::MAX);
    assert_eq!(half(&[65504.0, 16.0]), f16::INFINITY);
    // 257 is half way between the bf16 256 and 258.
    let numbers = [256.0, 1.0].map(bf16::from_f64);
    assert_eq!(sum(&numbers, 1), bf16::from_f64(256.0));
    assert_eq!(sum(&[numbers[0], numbers[1], bf16::from_bits(1)], 1), bf16::from_f64(258.0));
    assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY], 1).is_nan());
    assert_eq!(sum(&[f64::NEG_INFINITY, f64::MAX], 7), f64::NEG_INFINITY);
    for number in [0.1f32, 1e-45, f32::MAX, -3.0] {
        assert_eq!(sum(&[number], 1).to_bits(), number.to_bits());
        assert_eq!(f32::of(u64::from(number.to_bits())).wide(), f64::from(number));
    }
    let numbers = [-0.0, 0.0, 0.0, -0.0];
    assert_eq!((holder(&numbers, "max"), holder(&numbers, "min")), (1, 0));
    let numbers = [2.0, f64::INFINITY, f64::NAN, f64::NAN];
    assert_eq!((holder(&numbers, "max"), holder(&numbers[..2], "max"), holder(&numbers, "min")), (2, 1, 2));
}

#[test]
fn means_that_hang_on_the_last_bit_are_those_of_whole_numbers() {
    // Sums of multiples of 2^-20 below 2^6 are whole in f64; a quotient by few points then rounds to f32 as if once.
    let mut r = Random(3);
    for _ in 0..cases(2000) {
        let count = 1 + r.below(30);
        let features: Vec<f32> = (0..count).map(|_| (r.below(1 << 22) as f32 - 2e6) / 1_048_576.0).collect();
        let total: f64 = features.iter().map(|&feature| f64::from(feature)).sum();
        let found = reduced(&vec![0.05; 3 * count], &features, 1, &[1, 1, 1], "mean");
        assert_eq!(found, [(total / count as f64) as f32], "{features:?}");
        assert_eq!(found, [sum(&features, count)]);
    }
}

#[test]
fn clouds_without_points_channels_or_rows_are_no_error() {
    for (batch, count, channels) in [(0, 4, 2), (2, 0, 2), (2, 4, 0), (0, 0, 0), (1, 0, 0)] {
        for (index, reduce) in REDUCTIONS.into_iter().enumerate() {
            let sizes = Sizes { batch, count, channels };
            for capacity in [None, Some(0), Some(3)] {
                let dtypes = [DType::F32, FLOATING[index % 4]];
                let mut case = CloudCase::new(&mut Random(9), dtypes, reduce, sizes, Spread::Even, Values::Small);
                case.capacity = capacity;
                let host = Host::new(&Serial);
                assert_same(&run_dense(&case, &host, 0xa5).unwrap(), &wanted_dense(&case), &case);
                assert_same(&run_sparse(&case, &host, 0xa5).unwrap(), &wanted_sparse(&case), &case);
            }
        }
    }
}

#[test]
fn many_points_in_one_voxel() {
    for (index, values) in
        [Values::Small, Values::Cancelling, Values::Wide, Values::Ties, Values::Wild].into_iter().enumerate()
    {
        for dtype in FLOATING {
            for reduce in ["sum", "mean", "max", "min"] {
                let sizes = Sizes { batch: 2, count: 700, channels: 2 };
                let seed = &mut Random(index as u64);
                let case = CloudCase::new(seed, [DType::F32, dtype], reduce, sizes, Spread::Heavy, values);
                let host = Host::new(&Serial);
                assert_same(&run_dense(&case, &host, 0xa5).unwrap(), &wanted_dense(&case), &case);
                assert_same(&run_sparse(&case, &host, 0xa5).unwrap(), &wanted_sparse(&case), &case);
            }
        }
    }
}
