//! The Rust core on this CPU: `fuse`, and the modes that curve, checked against `resample` before they are timed.
//!
//!     cargo bench --bench fuse
//!
//! Throughput counts the bytes of all samples, the times and the result, each once.

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use robocache::{Place, Serial, StdThreads, Threads, View, ViewMut, fuse, resample};
use std::hint::black_box;

const BATCH: usize = 32;
const TARGETS: usize = 250;

/// One stream: its samples, its channels and how they are blended.
struct Stream {
    samples: usize,
    channels: usize,
    mode: &'static str,
    values: Vec<f32>,
    times: Vec<f64>,
}

impl Stream {
    fn new(samples: usize, channels: usize, mode: &'static str) -> Self {
        let values = (0..BATCH * samples * channels).map(|place| (place as f32 * 0.37).sin()).collect();
        Stream { samples, channels, mode, values, times: clock(samples, 0.3) }
    }

    fn values(&self) -> View<'_> {
        View::new(&self.values, &[BATCH, self.samples, self.channels]).unwrap()
    }

    fn times(&self) -> View<'_> {
        View::new(&self.times, &[BATCH, self.samples]).unwrap()
    }
}

/// Five epoch seconds of a sensor with jitter.
fn clock(count: usize, jitter: f64) -> Vec<f64> {
    let at = |place: usize| {
        let even = (place % count) as f64 + 0.5;
        1.7e9 + (even + jitter * (place as f64 * 1.7).sin()) * 5.0 / count as f64
    };
    (0..BATCH * count).map(at).collect()
}

fn fused(streams: &[Stream], mode: &str, target: &[f64], output: &mut [f32], threads: &dyn Threads) {
    let values: Vec<_> = streams.iter().map(Stream::values).collect();
    let times: Vec<_> = streams.iter().map(Stream::times).collect();
    let width = streams.iter().map(|stream| stream.channels).sum();
    let output = &mut ViewMut::new(output, &[BATCH, TARGETS, width]).unwrap();
    let target = View::new(target, &[BATCH, TARGETS]).unwrap();
    fuse(&values, &times, target, mode, "hold", None, output, &Place::cpu(threads)).unwrap();
}

/// Each stream resampled by itself and put in its place.
fn side_by_side(streams: &[Stream], target: &[f64]) -> Vec<f32> {
    let width: usize = streams.iter().map(|stream| stream.channels).sum();
    let mut all = vec![0.0; BATCH * TARGETS * width];
    let mut column = 0;
    for stream in streams {
        let mut part = vec![0.0f32; BATCH * TARGETS * stream.channels];
        let output = &mut ViewMut::new(&mut part, &[BATCH, TARGETS, stream.channels]).unwrap();
        let target = View::new(target, &[BATCH, TARGETS]).unwrap();
        let place = Place::cpu(&Serial);
        resample(stream.values(), stream.times(), target, stream.mode, "hold", None, output, &place).unwrap();
        for (row, part) in part.chunks(stream.channels).enumerate() {
            all[row * width + column..][..stream.channels].copy_from_slice(part);
        }
        column += stream.channels;
    }
    all
}

fn bench(group: &mut BenchmarkGroup<WallTime>, name: &str, streams: &[Stream]) {
    let target = clock(TARGETS, 0.0);
    let modes: Vec<_> = streams.iter().map(|stream| format!("{}:{}", stream.mode, stream.channels)).collect();
    let mode = modes.join(",");
    let expected = side_by_side(streams, &target);
    let mut output = vec![0.0; expected.len()];
    fused(streams, &mode, &target, &mut output, &StdThreads::default());
    assert!(output == expected, "{name} differs from resample of each stream");
    let read: usize = streams.iter().map(|stream| stream.values.len() * 4 + stream.times.len() * 8).sum();
    group.throughput(Throughput::Bytes((read + output.len() * 4 + target.len() * 8) as u64));
    for (how, threads) in [("serial", &Serial as &dyn Threads), ("threads", &StdThreads::default())] {
        group.bench_function(format!("{name}/{how}"), |bencher| {
            bencher.iter(|| fused(streams, &mode, &target, black_box(&mut output), threads));
        });
    }
}

fn fuse_on_the_cpu(criterion: &mut Criterion) {
    let group = &mut criterion.benchmark_group("fuse");
    let policy = [Stream::new(150, 512, "linear"), Stream::new(500, 14, "linear"), Stream::new(500, 6, "linear")];
    bench(group, "32x(150x512+500x14+500x6)->250 f32", &policy);
    let state = [Stream::new(500, 8, "slerp"), Stream::new(500, 14, "angle"), Stream::new(500, 64, "pchip")];
    bench(group, "32x(500x8 slerp+500x14 angle+500x64 pchip)->250 f32", &state);
}

criterion_group!(benches, fuse_on_the_cpu);
criterion_main!(benches);
