//! The definition of `voxelize` and `voxelize_sparse` by plain loops: points go to voxels one by one, sums are whole
//! numbers of 2176 bits, and a result is rounded by a search for the nearest number of its type.
//!
//! It shares no code with `src/` and is slow on purpose.

#![allow(dead_code)] // each test uses a part

use half::{bf16, f16};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A type of features, by its bits: those of numbers that are not negative ascend with the numbers.
pub trait Float: Copy + Default {
    const INFINITY: u64;
    /// Of two, where infinity would stand if it were the number after the largest.
    const EDGE: i32;
    const SIGN: u64;
    fn of(bits: u64) -> Self;
    fn wide(self) -> f64;
}

macro_rules! floats {
    ($($ty:ty: $bits:ty, $infinity:expr, $edge:expr, $wide:expr);* $(;)?) => {$(
        impl Float for $ty {
            const INFINITY: u64 = $infinity;
            const EDGE: i32 = $edge;
            const SIGN: u64 = 1 << (8 * size_of::<$ty>() - 1);
            fn of(bits: u64) -> Self {
                <$ty>::from_bits(bits as $bits)
            }
            fn wide(self) -> f64 {
                $wide(self)
            }
        }
    )*};
}
floats! {
    f64: u64, 0x7ff << 52, 1024, |v| v;
    f32: u32, 0xff << 23, 128, f64::from;
    f16: u16, 0x1f << 10, 16, f16::to_f64;
    bf16: u16, 0xff << 7, 128, bf16::to_f64;
}

const WORDS: usize = 34;

/// A whole multiple of 2^-1074, in two's complement: 2^32 numbers of f64 fit, doubled.
#[derive(Clone, PartialEq, Eq)]
struct Whole([u64; WORDS]);

impl Whole {
    /// `number * 2^power`.
    fn new(number: u64, power: i32) -> Whole {
        let place = usize::try_from(power + 1074).expect("a multiple of the unit");
        let wide = u128::from(number) << (place % 64);
        let mut words = [0; WORDS];
        (words[place / 64], words[place / 64 + 1]) = (wide as u64, (wide >> 64) as u64);
        Whole(words)
    }

    fn of(number: f64) -> Whole {
        assert!(number.is_finite());
        let (biased, fraction) = ((number.abs().to_bits() >> 52) as i32, number.to_bits() & ((1 << 52) - 1));
        let whole =
            if biased == 0 { Whole::new(fraction, -1074) } else { Whole::new(fraction | 1 << 52, biased - 1075) };
        if number < 0.0 { whole.negated() } else { whole }
    }

    fn plus(&self, other: &Whole) -> Whole {
        let mut carried = false;
        Whole(std::array::from_fn(|word| {
            let (sum, first) = self.0[word].overflowing_add(other.0[word]);
            let (sum, second) = sum.overflowing_add(u64::from(carried));
            carried = first || second;
            sum
        }))
    }

    fn negated(&self) -> Whole {
        Whole(self.0.map(|word| !word)).plus(&Whole::new(1, -1074))
    }

    fn is_negative(&self) -> bool {
        self.0[WORDS - 1] >> 63 == 1
    }

    /// Of a number that is not negative.
    fn times(&self, factor: u64) -> Whole {
        let mut carried = 0u128;
        Whole(self.0.map(|word| {
            carried += u128::from(word) * u128::from(factor);
            let low = carried as u64;
            carried >>= 64;
            low
        }))
    }

    /// Of numbers that are not negative.
    fn compare(&self, other: &Whole) -> Ordering {
        self.0.iter().rev().cmp(other.0.iter().rev())
    }
}

/// The number nearest to `sum / count`, of two the one whose last bit is 0; it keeps the sign of a sum that is not zero.
fn nearest<F: Float>(sum: &Whole, count: usize) -> F {
    let (sign, sum) = if sum.is_negative() { (F::SIGN, sum.negated()) } else { (0, sum.clone()) };
    let at = |bits| if bits == F::INFINITY { Whole::new(1, F::EDGE) } else { Whole::of(F::of(bits).wide()) };
    let (mut below, mut above) = (0, F::INFINITY + 1);
    while above - below > 1 {
        let middle = below.midpoint(above);
        match at(middle).times(count as u64).compare(&sum) {
            Ordering::Greater => above = middle,
            _ => below = middle,
        }
    }
    let up = below < F::INFINITY
        && match at(below).plus(&at(below + 1)).times(count as u64).compare(&sum.times(2)) {
            Ordering::Less => true,
            Ordering::Equal => below & 1 == 1,
            Ordering::Greater => false,
        };
    F::of(sign | (below + u64::from(up)))
}

fn nan<F: Float>() -> F {
    F::of(F::INFINITY | 1)
}

/// The exact sum of all numbers over `count`, rounded once.
pub fn sum<F: Float>(numbers: &[F], count: usize) -> F {
    let has = |wanted: f64| numbers.iter().any(|number| number.wide() == wanted);
    match (has(f64::INFINITY), has(f64::NEG_INFINITY)) {
        _ if numbers.iter().any(|number| number.wide().is_nan()) => nan(),
        (true, true) => nan(),
        (true, false) => F::of(F::INFINITY),
        (false, true) => F::of(F::SIGN | F::INFINITY),
        _ => {
            let zero = Whole([0; WORDS]);
            nearest(&numbers.iter().fold(zero, |sum, number| sum.plus(&Whole::of(number.wide()))), count)
        }
    }
}

/// A gradient over the points of its voxel.
fn share<F: Float>(grad: F, count: usize) -> F {
    let number = grad.wide();
    if number == 0.0 || !number.is_finite() { grad } else { nearest(&Whole::of(number), count) }
}

/// The place of the first extremum: NaN before all, and -0.0 below 0.0.
pub fn holder<F: Float>(numbers: &[F], reduce: &str) -> usize {
    let better = |new: f64, old: f64| {
        // Equal numbers of two signs are zeros.
        let above = |a: f64, b: f64| a > b || a == b && a.is_sign_positive() && b.is_sign_negative();
        !old.is_nan() && (new.is_nan() || if reduce == "max" { above(new, old) } else { above(old, new) })
    };
    let mut best = 0;
    for (place, number) in numbers.iter().enumerate() {
        if better(number.wide(), numbers[best].wide()) {
            best = place;
        }
    }
    best
}

/// Clouds `[B, N]` of points in a grid.
pub struct Clouds {
    pub points: Vec<[f64; 3]>,
    /// Points of each cloud, those past its length too.
    pub count: usize,
    pub lengths: Vec<usize>,
    /// Voxels are found in f32 and not in f64.
    pub single: bool,
    pub origin: [f64; 3],
    pub voxel_size: [f64; 3],
    pub size: [i64; 3],
}

/// A voxel and its points in ascending order.
pub struct Voxel {
    pub cloud: usize,
    pub place: [i64; 3],
    pub points: Vec<usize>,
}

/// The rows of a sparse grid.
pub struct Rows {
    pub coords: Vec<i32>,
    pub counts: Vec<i32>,
    pub starts: Vec<i32>,
    pub point_voxel: Vec<i64>,
    pub order: Vec<i32>,
    pub num_voxels: i64,
}

impl Clouds {
    fn place(&self, point: [f64; 3]) -> Option<[i64; 3]> {
        let mut place = [0; 3];
        for axis in 0..3 {
            let (p, origin, size) = (point[axis], self.origin[axis], self.voxel_size[axis]);
            let quotient = if self.single {
                f64::from(((p as f32 - origin as f32) / size as f32).floor())
            } else {
                ((p - origin) / size).floor()
            };
            if !(quotient >= 0.0 && quotient < self.size[axis] as f64) {
                return None;
            }
            place[axis] = quotient as i64;
        }
        Some(place)
    }

    /// Those with points, by cloud, x, y and z.
    pub fn voxels(&self) -> Vec<Voxel> {
        let mut all: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (cloud, &length) in self.lengths.iter().enumerate() {
            for point in 0..length {
                if let Some(place) = self.place(self.points[cloud * self.count + point]) {
                    all.entry((cloud, place)).or_default().push(point);
                }
            }
        }
        all.into_iter().map(|((cloud, place), points)| Voxel { cloud, place, points }).collect()
    }

    pub fn cells(&self) -> usize {
        self.size.iter().product::<i64>() as usize
    }

    /// In row-major order.
    pub fn cell(&self, voxel: &Voxel) -> usize {
        let [_, y, z] = self.size;
        ((voxel.place[0] * y + voxel.place[1]) * z + voxel.place[2]) as usize
    }

    /// `[B, cells]`.
    pub fn counts(&self) -> Vec<i32> {
        let mut counts = vec![0; self.lengths.len() * self.cells()];
        for voxel in self.voxels() {
            counts[voxel.cloud * self.cells() + self.cell(&voxel)] = voxel.points.len() as i32;
        }
        counts
    }

    /// `[B, N]`: the cell of each point, or -1.
    pub fn point_voxel(&self) -> Vec<i32> {
        let mut cells = vec![-1; self.lengths.len() * self.count];
        for voxel in self.voxels() {
            voxel.points.iter().for_each(|point| cells[voxel.cloud * self.count + point] = self.cell(&voxel) as i32);
        }
        cells
    }

    /// The numbers of `[B, N, C]` that a voxel has in a channel.
    fn numbers<F: Float>(&self, voxel: &Voxel, of: &[F], channels: usize, channel: usize) -> Vec<F> {
        let at = |&point: &usize| of[(voxel.cloud * self.count + point) * channels + channel];
        voxel.points.iter().map(at).collect()
    }

    /// The derivative along `tangent`, or the features reduced; zeros but at `at(row, voxel, channel)`.
    fn reduced<F: Float>(
        &self,
        [features, tangent]: [&[F]; 2],
        channels: usize,
        reduce: &str,
        mut output: Vec<F>,
        at: impl Fn(usize, &Voxel, usize) -> usize,
    ) -> Vec<F> {
        for (row, voxel) in self.voxels().iter().enumerate() {
            for channel in 0..channels {
                let numbers = self.numbers(voxel, tangent, channels, channel);
                let found = match reduce {
                    "sum" => sum(&numbers, 1),
                    "mean" => sum(&numbers, numbers.len()),
                    _ => numbers[holder(&self.numbers(voxel, features, channels, channel), reduce)],
                };
                // Rows past the capacity have no place.
                if let Some(place) = output.get_mut(at(row, voxel, channel)) {
                    *place = found;
                }
            }
        }
        output
    }

    /// The gradient `[B, N, C]` of that.
    fn sent<F: Float>(
        &self,
        grad: &[F],
        features: &[F],
        channels: usize,
        reduce: &str,
        at: impl Fn(usize, &Voxel, usize) -> usize,
    ) -> Vec<F> {
        let mut output = vec![F::default(); self.points.len() * channels];
        for (row, voxel) in self.voxels().iter().enumerate() {
            for channel in 0..channels {
                let Some(&grad) = grad.get(at(row, voxel, channel)) else { continue };
                let mut send = |point: usize, number: F| {
                    output[(voxel.cloud * self.count + point) * channels + channel] = number;
                };
                match reduce {
                    "sum" => voxel.points.iter().for_each(|&point| send(point, grad)),
                    "mean" => {
                        let part = share(grad, voxel.points.len());
                        voxel.points.iter().for_each(|&point| send(point, part));
                    }
                    _ => {
                        let numbers = self.numbers(voxel, features, channels, channel);
                        send(voxel.points[holder(&numbers, reduce)], grad);
                    }
                }
            }
        }
        output
    }

    /// `[B, C, cells]` of the features, or the derivative along a tangent.
    pub fn grid<F: Float>(&self, features: &[F], tangent: Option<&[F]>, channels: usize, reduce: &str) -> Vec<F> {
        let output = vec![F::default(); self.lengths.len() * channels * self.cells()];
        let at = |_, voxel: &Voxel, channel| (voxel.cloud * channels + channel) * self.cells() + self.cell(voxel);
        self.reduced([features, tangent.unwrap_or(features)], channels, reduce, output, at)
    }

    /// `[B, N, C]`.
    pub fn grid_backward<F: Float>(&self, grad: &[F], features: &[F], channels: usize, reduce: &str) -> Vec<F> {
        let at = |_, voxel: &Voxel, channel| (voxel.cloud * channels + channel) * self.cells() + self.cell(voxel);
        self.sent(grad, features, channels, reduce, at)
    }

    /// `[M, C]`.
    pub fn values<F: Float>(
        &self,
        rows: usize,
        features: &[F],
        tangent: Option<&[F]>,
        channels: usize,
        reduce: &str,
    ) -> Vec<F> {
        let output = vec![F::default(); rows * channels];
        let at = |row, _: &Voxel, channel| row * channels + channel;
        self.reduced([features, tangent.unwrap_or(features)], channels, reduce, output, at)
    }

    /// `[B, N, C]`, of a gradient `[M, C]`.
    pub fn values_backward<F: Float>(&self, grad: &[F], features: &[F], channels: usize, reduce: &str) -> Vec<F> {
        self.sent(grad, features, channels, reduce, |row, _, channel| row * channels + channel)
    }

    /// As many rows as there are voxels, or a fixed number of them.
    pub fn rows(&self, capacity: Option<usize>) -> Rows {
        let voxels = self.voxels();
        let kept = capacity.unwrap_or(voxels.len());
        let mut rows = Rows {
            coords: vec![-1; kept * 4],
            counts: vec![0; kept],
            starts: vec![0; kept],
            point_voxel: vec![-1; self.points.len()],
            order: Vec::new(),
            num_voxels: voxels.len() as i64,
        };
        for cloud in 0..self.lengths.len() {
            let mut order = Vec::new();
            for (row, voxel) in voxels.iter().enumerate().filter(|(_, voxel)| voxel.cloud == cloud) {
                if row < kept {
                    let [x, y, z] = voxel.place.map(|place| place as i32);
                    rows.coords[row * 4..][..4].copy_from_slice(&[cloud as i32, x, y, z]);
                    (rows.counts[row], rows.starts[row]) = (voxel.points.len() as i32, order.len() as i32);
                    voxel.points.iter().for_each(|&point| rows.point_voxel[cloud * self.count + point] = row as i64);
                }
                order.extend(voxel.points.iter().map(|&point| point as i32));
            }
            let dropped: Vec<_> = (0..self.count as i32).filter(|point| !order.contains(point)).collect();
            rows.order.extend(order.into_iter().chain(dropped));
        }
        rows
    }
}
