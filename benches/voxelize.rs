//! The Rust core on this CPU: `voxelize`, its backward and `voxelize_sparse`, checked by plain loops before they are timed.
//!
//!     cargo bench --bench voxelize
//!
//! Throughput counts the bytes of the points, the features and the result, each once.

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use robocache::{
    DType, Element, Place, Serial, StdThreads, Threads, View, ViewMut, voxelize, voxelize_backward,
    voxelize_sparse_fill, voxelize_sparse_rows, voxelize_sparse_values, voxelize_sparse_workspace, voxelize_workspace,
};
use std::collections::BTreeMap;
use std::hint::black_box;

const POINTS: usize = 500_000; // two seconds of a spinning lidar
const CHANNELS: usize = 8;
const SIZE: [i64; 3] = [128; 3];
const CELLS: usize = 128 * 128 * 128;
const EDGE: f64 = 1.0 / 128.0;

/// Points in the unit cube, and features that are multiples of 2^-10: their sums are exact in f64, and a quotient by a few
/// points rounds to f32 as if once.
struct Cloud {
    points: Vec<f32>,
    features: Vec<f32>,
}

impl Cloud {
    fn new() -> Cloud {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 40
        };
        let points = (0..3 * POINTS).map(|_| next() as f32 / (1 << 24) as f32).collect();
        let features = (0..CHANNELS * POINTS).map(|_| (next() % 8192) as f32 / 1024.0 - 4.0).collect();
        Cloud { points, features }
    }

    fn points(&self) -> View<'_> {
        View::new(&self.points, &[1, POINTS, 3]).unwrap()
    }

    fn features(&self) -> View<'_> {
        View::new(&self.features, &[1, POINTS, CHANNELS]).unwrap()
    }

    /// The points of each voxel.
    fn voxels(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut voxels: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, point) in self.points.chunks(3).enumerate() {
            let cell = point.iter().fold(0, |cell, p| cell * 128 + (p / EDGE as f32).floor() as usize);
            voxels.entry(cell).or_default().push(index);
        }
        voxels
    }

    fn mean(&self, points: &[usize], channel: usize) -> f32 {
        let sum: f64 = points.iter().map(|point| f64::from(self.features[point * CHANNELS + channel])).sum();
        (sum / points.len() as f64) as f32
    }
}

/// Memory that is aligned to 16.
fn borrow(words: &mut [u128]) -> ViewMut<'_> {
    let bytes = words.len() * 16;
    // SAFETY: the bytes of these words, which nothing else uses.
    unsafe { ViewMut::from_raw(words.as_mut_ptr().cast(), DType::U8, &[bytes]) }.unwrap()
}

fn words(bytes: usize) -> Vec<u128> {
    vec![0; bytes.div_ceil(16)]
}

fn workspace(reduce: &str, backward: bool) -> Vec<u128> {
    words(voxelize_workspace(1, POINTS, &SIZE, reduce, backward, &Place::cpu(&Serial)).unwrap())
}

fn grid<T: Element>(cloud: &Cloud, reduce: &str, output: &mut [T], work: &mut [u128], threads: &dyn Threads) {
    let elements = output.len();
    let output = &mut ViewMut::new(output, &[elements]).unwrap();
    let (points, features, place) = (cloud.points(), Some(cloud.features()), Place::cpu(threads));
    voxelize(points, features, &[0.0; 3], &[EDGE], &SIZE, reduce, None, output, &mut borrow(work), &place).unwrap();
}

fn backward(cloud: &Cloud, grad: &[f32], output: &mut [f32], work: &mut [u128], threads: &dyn Threads) {
    let output = &mut ViewMut::new(output, &[1, POINTS, CHANNELS]).unwrap();
    let grad = View::new(grad, &[1, CHANNELS, CELLS]).unwrap();
    let (work, place) = (&mut borrow(work), Place::cpu(threads));
    voxelize_backward(grad, cloud.points(), None, &[0.0; 3], &[EDGE], &SIZE, "mean", None, None, output, work, &place)
        .unwrap();
}

/// The results of a sparse call with a row for each point.
struct Rows {
    order: Vec<i32>,
    number: [i64; 1],
    coords: Vec<i32>,
    counts: Vec<i32>,
    starts: Vec<i32>,
    point_voxel: Vec<i64>,
    values: Vec<f32>,
}

impl Rows {
    fn new() -> Rows {
        Rows {
            order: vec![0; POINTS],
            number: [0],
            coords: vec![0; POINTS * 4],
            counts: vec![0; POINTS],
            starts: vec![0; POINTS],
            point_voxel: vec![0; POINTS],
            values: vec![0.0; POINTS * CHANNELS],
        }
    }

    fn fill(&mut self, cloud: &Cloud, work: &mut [u128], threads: &dyn Threads) {
        let (points, work, place) = (cloud.points(), &mut borrow(work), &Place::cpu(threads));
        let order = &mut ViewMut::new(&mut self.order, &[1, POINTS]).unwrap();
        let number = &mut ViewMut::new(&mut self.number, &[1]).unwrap();
        voxelize_sparse_rows(points, &[0.0; 3], &[EDGE], &SIZE, None, order, number, work, place).unwrap();
        let order = View::new(&self.order, &[1, POINTS]).unwrap();
        voxelize_sparse_fill(
            points,
            &SIZE,
            order,
            View::new(&self.number, &[1]).unwrap(),
            &mut ViewMut::new(&mut self.coords, &[POINTS, 4]).unwrap(),
            &mut ViewMut::new(&mut self.counts, &[POINTS]).unwrap(),
            &mut ViewMut::new(&mut self.starts, &[POINTS]).unwrap(),
            &mut ViewMut::new(&mut self.point_voxel, &[1, POINTS]).unwrap(),
            work,
            place,
        )
        .unwrap();
        let row = |row| View::new(row, &[POINTS]).unwrap();
        let coords = View::new(&self.coords, &[POINTS, 4]).unwrap();
        let output = &mut ViewMut::new(&mut self.values, &[POINTS, CHANNELS]).unwrap();
        let (counts, starts) = (row(&self.counts), row(&self.starts));
        voxelize_sparse_values(cloud.features(), coords, counts, order, starts, "mean", None, output, place).unwrap();
    }
}

/// Times `call` on this thread and on all; `bytes` is what it must move.
fn time(group: &mut BenchmarkGroup<WallTime>, name: &str, bytes: usize, mut call: impl FnMut(&dyn Threads)) {
    group.throughput(Throughput::Bytes(bytes as u64));
    for (how, threads) in [("serial", &Serial as &dyn Threads), ("threads", &StdThreads::default())] {
        group.bench_function(format!("{name}/{how}"), |bencher| bencher.iter(|| call(black_box(threads))));
    }
}

fn voxelize_on_the_cpu(criterion: &mut Criterion) {
    let group = &mut criterion.benchmark_group("voxelize");
    let cloud = Cloud::new();
    let (voxels, all) = (cloud.voxels(), &StdThreads::default());
    let (read, features) = (POINTS * 3 * 4, POINTS * CHANNELS * 4);

    let (mut marks, work) = (vec![7u8; CELLS], &mut workspace("occupancy", false));
    // SAFETY: the same bytes as bool, whose values the call writes before any is read.
    let bools = unsafe { &mut *(std::ptr::from_mut(marks.as_mut_slice()) as *mut [bool]) };
    grid(&cloud, "occupancy", bools, work, all);
    assert!(bools.iter().enumerate().all(|(cell, &mark)| mark == voxels.contains_key(&cell)), "occupancy is wrong");
    time(group, "occupancy 500k->128^3", read + CELLS, |threads| grid(&cloud, "occupancy", bools, work, threads));

    let (mut means, work) = (vec![f32::NAN; CHANNELS * CELLS], &mut workspace("mean", false));
    grid(&cloud, "mean", &mut means, work, all);
    let mut expected = vec![0.0; CHANNELS * CELLS];
    for (&cell, points) in &voxels {
        (0..CHANNELS).for_each(|channel| expected[channel * CELLS + cell] = cloud.mean(points, channel));
    }
    assert!(means == expected, "mean differs from plain loops");
    let bytes = read + features + means.len() * 4;
    time(group, "mean 500k x 8->128^3 f32", bytes, |threads| grid(&cloud, "mean", &mut means, work, threads));

    let (mut sent, work) = (vec![f32::NAN; POINTS * CHANNELS], &mut workspace("mean", true));
    backward(&cloud, &expected, &mut sent, work, all);
    for (&cell, points) in &voxels {
        for (channel, point) in (0..CHANNELS).flat_map(|channel| points.iter().map(move |point| (channel, point))) {
            let share = (f64::from(expected[channel * CELLS + cell]) / points.len() as f64) as f32;
            assert!(sent[point * CHANNELS + channel] == share, "the gradient of mean differs from plain loops");
        }
    }
    let bytes = read + features * 2;
    time(group, "mean backward", bytes, |threads| backward(&cloud, &expected, &mut sent, work, threads));

    let place = Place::cpu(&Serial);
    let (mut rows, work) = (Rows::new(), &mut words(voxelize_sparse_workspace(1, POINTS, &SIZE, &place).unwrap()));
    rows.fill(&cloud, work, all);
    assert_eq!(rows.number, [voxels.len() as i64]);
    for (row, points) in voxels.values().enumerate() {
        assert_eq!(rows.counts[row] as usize, points.len());
        for channel in 0..CHANNELS {
            assert_eq!(rows.values[row * CHANNELS + channel], cloud.mean(points, channel));
        }
    }
    let bytes = read + features * 2 + POINTS * 32;
    time(group, "sparse mean 500k x 8 in 128^3", bytes, |threads| rows.fill(&cloud, work, threads));
}

criterion_group!(benches, voxelize_on_the_cpu);
criterion_main!(benches);
