//! The Rust core on this CPU: `resample` and its backward, each checked against the definition before it is timed.
//!
//!     cargo bench --bench resample
//!
//! Throughput counts the bytes that a call must move: samples that a target uses, times and the result, each once.

#[path = "../tests/definition/mod.rs"]
mod definition;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use definition::{Mode, Number, Problem};
use half::bf16;
use robocache::{
    DType, Element, Place, Serial, StdThreads, Threads, View, ViewMut, resample, resample_backward,
    resample_backward_workspace,
};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hint::black_box;

/// The sizes of a call, and what it is like.
#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    samples: usize,
    targets: usize,
    channels: usize,
}

const POLICY: Shape = Shape { batch: 32, samples: 500, targets: 250, channels: 256 }; // camera features to a control clock
const SENSORS: Shape = Shape { batch: 64, samples: 4096, targets: 1024, channels: 32 }; // a 1 kHz log to 250 Hz
const CONTROL: Shape = Shape { batch: 8, samples: 250, targets: 128, channels: 128 }; // one step of a running robot

/// The arguments of a call: epoch seconds of a sensor with jitter, and an even clock.
struct Call<V> {
    shape: Shape,
    values: Vec<V>,
    source_times: Vec<f64>,
    target_times: Vec<f64>,
    lengths: Vec<usize>,
    modes: Vec<Mode>,
}

impl<V: Number + Element> Call<V> {
    fn new(shape: Shape) -> Self {
        let Shape { batch, samples, targets, channels } = shape;
        let wave = |place: usize| (place as f64 * 0.37).sin() * 3.0;
        let values = (0..batch * samples * channels).map(|place| V::narrow(f64::from(wave(place) as f32))).collect();
        let clock = |count: usize, jitter: f64| {
            let at = move |place: usize| {
                let even = (place % count) as f64 + 0.5;
                1.7e9 + (even + jitter * (place as f64 * 1.7).sin()) * 5.0 / count as f64
            };
            (0..batch * count).map(at).collect()
        };
        Call {
            shape,
            values,
            source_times: clock(samples, 0.3),
            target_times: clock(targets, 0.0),
            lengths: vec![samples; batch],
            modes: vec![Mode::Linear; channels],
        }
    }

    fn problem(&self) -> Problem<'_, V, f64> {
        Problem {
            values: &self.values,
            source_times: &self.source_times,
            target_times: &self.target_times,
            lengths: &self.lengths,
            modes: &self.modes,
            outside: "hold",
            samples: self.shape.samples,
            targets: self.shape.targets,
        }
    }

    fn times(&self) -> (View<'_>, View<'_>) {
        let Shape { batch, samples, targets, .. } = self.shape;
        let source = View::new(&self.source_times, &[batch, samples]).unwrap();
        (source, View::new(&self.target_times, &[batch, targets]).unwrap())
    }

    fn resample(&self, output: &mut [V], threads: &dyn Threads) {
        let Shape { batch, samples, targets, channels } = self.shape;
        let values = View::new(&self.values, &[batch, samples, channels]).unwrap();
        let output = &mut ViewMut::new(output, &[batch, targets, channels]).unwrap();
        let (source, target) = self.times();
        resample(values, source, target, "linear", "hold", None, output, &Place::cpu(threads)).unwrap();
    }

    fn backward(&self, grad: &[V], output: &mut [V], workspace: &mut [u128], threads: &dyn Threads) {
        let Shape { batch, samples, targets, channels } = self.shape;
        let grad = View::new(grad, &[batch, targets, channels]).unwrap();
        let output = &mut ViewMut::new(output, &[batch, samples, channels]).unwrap();
        // SAFETY: the memory of the slice, as bytes.
        let workspace =
            unsafe { ViewMut::from_raw(workspace.as_mut_ptr().cast(), DType::U8, &[size_of_val(workspace)]) };
        let (source, target) = self.times();
        let (workspace, place) = (&mut workspace.unwrap(), Place::cpu(threads));
        resample_backward(grad, source, target, "linear", "hold", None, false, None, output, workspace, &place)
            .unwrap();
    }

    /// Bytes of the times and of as many rows of channels.
    fn bytes(&self, rows: usize) -> u64 {
        let times = self.source_times.len() + self.target_times.len();
        (times * size_of::<f64>() + rows * self.shape.channels * size_of::<V>()) as u64
    }

    /// Samples that some target is made of.
    fn used_samples(&self) -> usize {
        let (problem, mut used) = (self.problem(), BTreeSet::new());
        for row in 0..self.shape.batch {
            for target in 0..self.shape.targets {
                let at = problem.bracket(row, target);
                used.insert((row, at.left));
                used.extend((at.weight != 0.0).then_some((row, at.left + 1)));
            }
        }
        used.len()
    }
}

fn forward<V: Number + Element + PartialEq + Debug>(group: &mut BenchmarkGroup<WallTime>, name: &str, shape: Shape) {
    let call = Call::<V>::new(shape);
    let mut output = vec![V::default(); shape.batch * shape.targets * shape.channels];
    call.resample(&mut output, &StdThreads::default());
    assert!(output == call.problem().resample(), "{name} differs from the definition");
    group.throughput(Throughput::Bytes(call.bytes(call.used_samples() + shape.batch * shape.targets)));
    for (how, threads) in [("serial", &Serial as &dyn Threads), ("threads", &StdThreads::default())] {
        group.bench_function(format!("{name}/{how}"), |bencher| {
            bencher.iter(|| call.resample(black_box(&mut output), threads));
        });
    }
}

fn backward<V: Number + Element + PartialEq + Debug>(group: &mut BenchmarkGroup<WallTime>, name: &str, shape: Shape) {
    let call = Call::<V>::new(shape);
    let grad = &call.values[..shape.batch * shape.targets * shape.channels];
    let mut output = vec![V::default(); call.values.len()];
    let bytes =
        resample_backward_workspace(shape.batch, shape.samples, shape.targets, "linear", &Place::cpu(&Serial)).unwrap();
    let mut workspace = vec![0u128; bytes.div_ceil(16)];
    call.backward(grad, &mut output, &mut workspace, &StdThreads::default());
    assert!(output == call.problem().backward(grad, false), "{name} differs from the definition");
    group.throughput(Throughput::Bytes(call.bytes(shape.batch * (shape.targets + shape.samples))));
    for (how, threads) in [("serial", &Serial as &dyn Threads), ("threads", &StdThreads::default())] {
        group.bench_function(format!("{name}/{how}"), |bencher| {
            bencher.iter(|| call.backward(grad, black_box(&mut output), &mut workspace, threads));
        });
    }
}

fn resample_on_the_cpu(criterion: &mut Criterion) {
    let group = &mut criterion.benchmark_group("resample");
    forward::<f32>(group, "32x500x256->250 f32", POLICY);
    forward::<bf16>(group, "32x500x256->250 bf16", POLICY);
    forward::<f32>(group, "64x4096x32->1024 f32", SENSORS);
    forward::<f32>(group, "8x250x128->128 f32", CONTROL);
    backward::<f32>(group, "backward 32x500x256->250 f32", POLICY);
}

criterion_group!(benches, resample_on_the_cpu);
criterion_main!(benches);
