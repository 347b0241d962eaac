//! One call or several of the Rust core on one thread, for `benches/callgrind.py` to count the instructions of:
//!
//!     callgrind CASE CALLS
//!
//! Without arguments it prints the cases, one a line: name, operator, sizes, type, elements, what an element is, and the
//! instruction set.

use half::bf16;
use robocache::{
    DType, Element, Level, Place, Serial, View, ViewMut, resample, voxelize, voxelize_sparse_fill,
    voxelize_sparse_rows, voxelize_sparse_values, voxelize_sparse_workspace, voxelize_workspace,
};
use std::hint::black_box;

const POINTS: usize = 50_000;
const CHANNELS: usize = 8;
const SIZE: [i64; 3] = [64; 3];
const EDGE: f64 = 1.0 / 64.0;
/// Rows, samples, targets and channels: 4 rows of the batch of `benches/resample.rs`.
const RESAMPLE: [usize; 4] = [4, 500, 250, 256];

const CASES: [(&str, &str, &str, &str, usize, &str); 5] = [
    ("resample_f32", "resample", "4x500x256->250", "float32", 4 * 250 * 256, "output value"),
    ("resample_bf16", "resample", "4x500x256->250", "bfloat16", 4 * 250 * 256, "output value"),
    ("occupancy", "voxelize", "occupancy 50000->64^3", "float32", POINTS, "point"),
    ("mean", "voxelize", "mean 50000x8->64^3", "float32", POINTS, "point"),
    ("sparse", "voxelize_sparse", "mean 50000x8->50000 rows", "float32", POINTS, "point"),
];

/// Numbers in [0, 1) that look random.
fn uniform(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| next()).collect()
}

fn resampled<V: Element + Default>(of: impl Fn(f32) -> V, calls: usize) {
    let [batch, samples, targets, channels] = RESAMPLE;
    let values: Vec<V> = uniform(batch * samples * channels).into_iter().map(of).collect();
    let clock = |count: usize, jitter: f64| -> Vec<f64> {
        let at = |place: usize| (place % count) as f64 + jitter * (place as f64 * 1.7).sin();
        (0..batch * count).map(|place| at(place) / count as f64).collect()
    };
    let (source, target) = (clock(samples, 0.3), clock(targets, 0.0));
    let mut output = vec![V::default(); batch * targets * channels];
    for _ in 0..calls {
        resample(
            View::new(&values, &[batch, samples, channels]).unwrap(),
            View::new(&source, &[batch, samples]).unwrap(),
            View::new(&target, &[batch, targets]).unwrap(),
            "linear",
            "hold",
            None,
            &mut ViewMut::new(black_box(&mut output), &[batch, targets, channels]).unwrap(),
            &Place::cpu(&Serial),
        )
        .unwrap();
    }
}

/// Memory that is aligned to 16.
fn borrow(words: &mut [u128]) -> ViewMut<'_> {
    let bytes = size_of_val(words);
    // SAFETY: the bytes of these words, which nothing else uses.
    unsafe { ViewMut::from_raw(words.as_mut_ptr().cast(), DType::U8, &[bytes]) }.unwrap()
}

fn gridded<T: Element>(reduce: &str, empty: T, channels: usize, calls: usize) {
    let (points, features) = (uniform(3 * POINTS), uniform(CHANNELS * POINTS));
    let place = Place::cpu(&Serial);
    let bytes = voxelize_workspace(1, POINTS, &SIZE, reduce, false, &place).unwrap();
    let mut words = vec![0u128; bytes.div_ceil(16)];
    let mut output = vec![empty; 64 * 64 * 64 * channels];
    for _ in 0..calls {
        voxelize(
            View::new(&points, &[1, POINTS, 3]).unwrap(),
            Some(View::new(&features, &[1, POINTS, CHANNELS]).unwrap()),
            &[0.0; 3],
            &[EDGE],
            &SIZE,
            reduce,
            None,
            &mut ViewMut::new(black_box(&mut output), &[64 * 64 * 64 * channels]).unwrap(),
            &mut borrow(&mut words),
            &place,
        )
        .unwrap();
    }
}

fn sparse(calls: usize) {
    let (points, features) = (uniform(3 * POINTS), uniform(CHANNELS * POINTS));
    let points = View::new(&points, &[1, POINTS, 3]).unwrap();
    let features = View::new(&features, &[1, POINTS, CHANNELS]).unwrap();
    let place = &Place::cpu(&Serial);
    let mut words = vec![0u128; voxelize_sparse_workspace(1, POINTS, &SIZE, place).unwrap().div_ceil(16)];
    let [mut order, mut counts, mut starts] = [(); 3].map(|()| vec![0i32; POINTS]);
    let (mut coords, mut number) = (vec![0i32; 4 * POINTS], [0i64]);
    let (mut point_voxel, mut values) = (vec![0i64; POINTS], vec![0f32; CHANNELS * POINTS]);
    for _ in 0..calls {
        let output = &mut ViewMut::new(&mut order, &[1, POINTS]).unwrap();
        let found = &mut ViewMut::new(&mut number, &[1]).unwrap();
        let work = &mut borrow(&mut words);
        voxelize_sparse_rows(points, &[0.0; 3], &[EDGE], &SIZE, None, output, found, work, place).unwrap();
        let order = View::new(&order, &[1, POINTS]).unwrap();
        voxelize_sparse_fill(
            points,
            &SIZE,
            order,
            View::new(&number, &[1]).unwrap(),
            &mut ViewMut::new(&mut coords, &[POINTS, 4]).unwrap(),
            &mut ViewMut::new(&mut counts, &[POINTS]).unwrap(),
            &mut ViewMut::new(&mut starts, &[POINTS]).unwrap(),
            &mut ViewMut::new(&mut point_voxel, &[1, POINTS]).unwrap(),
            work,
            place,
        )
        .unwrap();
        let row = |row| View::new(row, &[POINTS]).unwrap();
        let places = View::new(&coords, &[POINTS, 4]).unwrap();
        let output = &mut ViewMut::new(black_box(&mut values), &[POINTS, CHANNELS]).unwrap();
        voxelize_sparse_values(features, places, row(&counts), order, row(&starts), "mean", None, output, place)
            .unwrap();
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [case, calls] = arguments.as_slice() else {
        for (name, op, sizes, dtype, elements, element) in CASES {
            println!("{name}\t{op}\t{sizes}\t{dtype}\t{elements}\t{element}\t{}", Level::best().name());
        }
        return;
    };
    let calls = calls.parse().expect("CALLS must be a number");
    match case.as_str() {
        "resample_f32" => resampled(|value| value, calls),
        "resample_bf16" => resampled(bf16::from_f32, calls),
        "occupancy" => gridded("occupancy", false, 1, calls),
        "mean" => gridded("mean", 0f32, CHANNELS, calls),
        "sparse" => sparse(calls),
        other => panic!("CASE must be one of the cases, got {other}"),
    }
}
