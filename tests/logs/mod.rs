//! Logs that proptest makes and shrinks: values with their times, and targets.

#![allow(dead_code)] // each test uses a part

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use robocache::{Element, Place, Serial, View, ViewMut, resample};

pub const MODES: [&str; 7] = ["linear", "previous", "next", "nearest", "angle", "slerp", "pchip"];
pub const OUTSIDE: [&str; 3] = ["hold", "nan", "zero"];

/// `[B, S, D]` values with their times; every row as long as the others.
#[derive(Clone, Debug)]
pub struct Log<T> {
    pub batch: usize,
    pub channels: usize,
    pub values: Vec<f64>,
    /// `[B, S]`.
    pub times: Vec<T>,
    /// `[B, T]`.
    pub targets: Vec<T>,
}

impl<T: Element> Log<T> {
    pub fn samples(&self) -> usize {
        self.times.len() / self.batch
    }

    pub fn row_targets(&self) -> usize {
        self.targets.len() / self.batch
    }

    pub fn values(&self) -> View<'_> {
        View::new(&self.values, &[self.batch, self.samples(), self.channels]).unwrap()
    }

    pub fn times(&self) -> View<'_> {
        View::new(&self.times, &[self.batch, self.samples()]).unwrap()
    }

    pub fn targets(&self) -> View<'_> {
        View::new(&self.targets, &[self.batch, self.row_targets()]).unwrap()
    }

    /// The mode, or another where the channels are no quaternions.
    pub fn fitting<'m>(&self, mode: &'m str) -> &'m str {
        if mode == "slerp" && !self.channels.is_multiple_of(4) { "pchip" } else { mode }
    }

    /// `[B, T, D]`.
    pub fn resample(&self, mode: &str, outside: &str, lengths: Option<&[i64]>) -> Vec<f64> {
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
    pub fn alone(&self, row: usize, length: usize) -> Log<T> {
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
pub fn logs<T: Element + PartialOrd + std::fmt::Debug>(
    times: impl Strategy<Value = T> + Clone + 'static,
    targets: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = Log<T>> {
    (1..4usize, 1..24usize, 0..24usize, select(vec![1, 2, 3, 4, 4, 5, 8])).prop_flat_map(
        move |(batch, samples, count, channels)| {
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
        },
    )
}

/// Times on a coarse grid, so that some are equal.
pub fn seconds() -> impl Strategy<Value = f64> + Clone {
    (0..400i32).prop_map(|tick| f64::from(tick) * 0.05)
}

pub fn any_seconds() -> impl Strategy<Value = f64> + Clone {
    -5.0..25.0
}

pub fn bits(numbers: &[f64]) -> Vec<u64> {
    numbers.iter().map(|number| if number.is_nan() { f64::NAN } else { *number }.to_bits()).collect()
}
