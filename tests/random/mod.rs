//! Random calls of every operator of `resample`: types, layouts, times and modes that a test runs anywhere.

#![allow(dead_code)] // each test uses a part

pub mod array;
pub mod run;

use crate::definition::Mode;
use array::{Array, Layout};
use half::{bf16, f16};
use robocache::DType;

/// How many cases a test runs: `ROBOCACHE_CASES`, else as many as it thinks right.
pub fn cases(standard: u64) -> u64 {
    match std::env::var("ROBOCACHE_CASES") {
        Ok(text) => text.parse().expect("ROBOCACHE_CASES must be a number"),
        Err(_) => standard,
    }
}

/// Numbers that are the same in every run: Steele and Vigna's splitmix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// In `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In `[-3, 3)`, or one of the numbers that break arithmetic.
    fn number(&mut self, special: bool) -> f64 {
        const SPECIAL: [f64; 10] =
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 5e-324, 1e-40, 6e-8, 6.5e4, 3.4e38];
        if special && self.one_in(8) { self.pick(&SPECIAL) } else { self.unit() * 6.0 - 3.0 }
    }
}

pub const FLOATING: [DType; 4] = [DType::F32, DType::BF16, DType::F16, DType::F64];
pub const INTEGERS: [DType; 9] =
    [DType::I64, DType::I32, DType::I16, DType::I8, DType::U64, DType::U32, DType::U16, DType::U8, DType::Bool];
const TIMES: [DType; 3] = [DType::F64, DType::F32, DType::I64];

/// The arguments of a call.
#[derive(Clone, Debug)]
pub struct Case {
    pub values: Array,
    /// `[B, T, D]`, of the values' type.
    pub grad: Array,
    pub source_times: Array,
    pub target_times: Array,
    pub source_lengths: Option<Array>,
    pub mode: String,
    /// The mode of each channel: what `mode` says.
    pub modes: Vec<Mode>,
    pub outside: &'static str,
    pub batch: usize,
    pub samples: usize,
    pub targets: usize,
    /// Elements between the start of the result's memory and the result.
    pub output_start: usize,
}

/// The sizes of a case.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub batch: usize,
    pub samples: usize,
    pub targets: usize,
    pub channels: usize,
}

impl Sizes {
    fn random(r: &mut Random) -> Sizes {
        let samples = [1, 2, 3, 7, 1 + r.below(40), 1 + r.below(300)];
        let targets = [0, 1, 1 + r.below(8), 1 + r.below(40), 1 + r.below(40), 1 + r.below(200)];
        let channels =
            [0, 1, 1 + r.below(5), 8, 16 * (1 + r.below(4)), 1 + r.below(70), 1 + r.below(70), 250 + r.below(80)];
        let (samples, targets) = (r.pick(&samples), r.pick(&targets));
        let batch = r.pick(&[0, 1, 1, 2, 2, 3, 4]);
        // Large in one way at a time, so that thousands of cases take seconds.
        let room = 6_000 / (samples.max(targets) * batch.max(1)) + 1;
        Sizes { batch, samples, targets, channels: r.pick(&channels).min(room) }
    }
}

impl Case {
    /// Case number `index`: types in turn, the rest at random.
    pub fn random(index: u64, values: &[DType]) -> Case {
        let mut r = Random(index);
        let sizes = Sizes::random(&mut r);
        let dtype = values[index as usize % values.len()];
        let times = TIMES[index as usize / values.len() % TIMES.len()];
        Case::new(&mut r, dtype, times, sizes)
    }

    pub fn new(r: &mut Random, dtype: DType, times: DType, sizes: Sizes) -> Case {
        let Sizes { batch, samples, targets, channels } = sizes;
        let (mode, modes) = random_mode(r, channels, dtype.is_floating());
        let linear = mode.split(',').all(|group| group.starts_with("linear"));
        let outside = match (dtype.is_floating(), linear) {
            (true, true) => r.pick(&["hold", "nan", "zero", "extrapolate", "extrapolate"]),
            (true, false) => r.pick(&["hold", "nan", "zero"]),
            (false, _) => r.pick(&["hold", "zero"]),
        };

        let lengths = r.one_in(3).then(|| (0..batch).map(|_| 1 + r.below(samples)).collect::<Vec<_>>());
        let shared_source = lengths.is_none() && r.one_in(3);
        let shared_targets = r.one_in(3);
        let rows = if shared_source { 1 } else { batch };
        let mut source = Vec::new();
        for row in 0..rows {
            let valid = lengths.as_ref().map_or(samples, |lengths| lengths[row]);
            source.extend(random_times(r, times, samples, valid));
        }
        let mut target = Vec::new();
        for row in 0..if shared_targets { 1 } else { batch } {
            let row = source.chunks(samples).nth(row % rows.max(1)).unwrap_or(&[0]);
            target.extend(random_targets(r, times, row, targets));
        }

        // Values lose the axes that say nothing: [S, D] and [S] unbatched, [B, S] without channels.
        let plain_shared = shared_source && shared_targets && batch == 1;
        let shape: &[usize] = match (plain_shared, channels) {
            (true, 1) if r.one_in(2) => &[samples],
            (true, _) if r.one_in(2) => &[samples, channels],
            (false, 1) if !(shared_source && shared_targets) && r.one_in(2) => &[batch, samples],
            _ => &[batch, samples, channels],
        };
        let special = r.one_in(3);
        let layout = Layout::random(r);
        let values = Array::new(r, dtype, shape, layout, |r, _| element(r, dtype, special));
        let layout = Layout::random(r);
        let grad = Array::new(r, dtype, &[batch, targets, channels], layout, |r, _| element(r, dtype, false));

        let shape = |shared: bool, count: usize| if shared { vec![count] } else { vec![batch, count] };
        let layout = Layout::of_times(r);
        let source_times = Array::new(r, times, &shape(shared_source, samples), layout, |_, at| source[at]);
        let layout = Layout::of_times(r);
        let target_times = Array::new(r, times, &shape(shared_targets, targets), layout, |_, at| target[at]);
        let source_lengths = lengths.map(|lengths| {
            let (dtype, layout) = (r.pick(&[DType::I32, DType::I64]), Layout::of_times(r));
            Array::new(r, dtype, &[batch], layout, |_, at| lengths[at] as u64)
        });
        let output_start = if r.one_in(4) { 1 + r.below(3) } else { 0 };
        Case {
            values,
            grad,
            source_times,
            target_times,
            source_lengths,
            mode,
            modes,
            outside,
            batch,
            samples,
            targets,
            output_start,
        }
    }

    /// True where times and values have derivatives.
    pub fn has_slope(&self) -> bool {
        self.values.dtype.is_floating() && self.source_times.dtype != DType::I64
    }

    /// Times in any order and lengths of any size: what CUDA does not check and must survive.
    pub fn with_garbage(mut self, r: &mut Random) -> Case {
        let (dtype, shape) = (self.source_times.dtype, self.source_times.sizes.clone());
        let layout = Layout::of_times(r);
        self.source_times = Array::new(r, dtype, &shape, layout, |r, _| match r.below(4) {
            0 => r.bits(),
            1 => encode(dtype, f64::NAN),
            _ => encode(dtype, r.below(20) as f64),
        });
        if r.one_in(2) {
            let (dtype, layout) = (r.pick(&[DType::I32, DType::I64]), Layout::of_times(r));
            self.source_lengths = Some(Array::new(r, dtype, &[self.batch], layout, |r, _| match r.below(3) {
                0 => r.bits(),
                1 => 0,
                _ => r.below(400) as u64,
            }));
        }
        self
    }
}

/// The low bits are the element of that type nearest to a number.
pub fn encode(dtype: DType, number: f64) -> u64 {
    match dtype {
        DType::F64 => number.to_bits(),
        DType::F32 => u64::from((number as f32).to_bits()),
        DType::F16 => u64::from(f16::from_f64(number).to_bits()),
        DType::BF16 => u64::from(bf16::from_f64(number).to_bits()),
        DType::Bool => u64::from(number != 0.0),
        _ => number as i64 as u64,
    }
}

fn element(r: &mut Random, dtype: DType, special: bool) -> u64 {
    if dtype == DType::Bool {
        return r.bits() & 1;
    }
    if !dtype.is_floating() || special && r.one_in(8) {
        return r.bits();
    }
    let number = r.number(special);
    encode(dtype, number)
}

/// A mode text and the mode of each channel; sometimes more groups than one launch holds.
fn random_mode(r: &mut Random, channels: usize, blends: bool) -> (String, Vec<Mode>) {
    const NAMES: [(&str, Mode); 4] =
        [("previous", Mode::Previous), ("next", Mode::Next), ("nearest", Mode::Nearest), ("linear", Mode::Linear)];
    let names = &NAMES[..if blends { 4 } else { 3 }];
    if channels == 0 || r.one_in(2) {
        let (name, mode) = if blends && r.one_in(2) { NAMES[3] } else { r.pick(names) };
        return (name.to_owned(), vec![mode; channels]);
    }
    let (mut text, mut modes) = (Vec::new(), Vec::new());
    let widest = r.pick(&[1, 2, 9, 64]);
    while modes.len() < channels {
        let (name, mode) = r.pick(names);
        let width = 1 + r.below(widest.min(channels - modes.len()));
        modes.resize(modes.len() + width, mode);
        let star = modes.len() == channels && r.one_in(2);
        text.push(if star { format!("{name}:*") } else { format!("{name}:{width}") });
    }
    (text.join(","), modes)
}

/// `valid` ascending times of every scale, then garbage that nothing may look at.
fn random_times(r: &mut Random, dtype: DType, samples: usize, valid: usize) -> Vec<u64> {
    let mut row: Vec<u64> = if dtype == DType::I64 {
        let mut time = r.pick(&[0, -5, 1_700_000_000_000_000_000, i64::MIN, i64::MAX - 400]);
        let steps = [1, 1 + r.below(9) as i64, 10_000_000, 1 << 55, 1 << 62];
        let step = r.pick(&steps);
        let next = |time: &mut i64, r: &mut Random| {
            let now = *time;
            *time = time.saturating_add(r.pick(&[0, 1, step, step, step]));
            Some(now as u64)
        };
        (0..valid).map_while(|_| next(&mut time, r)).collect()
    } else {
        let mut time = r.pick(&[0.0, -3.25, 1.7e9, -1e-310, 1e300]);
        let step = r.pick(&[1.0, 0.01, 0.1, 1e6, 5e-324, 1e-39, 1e290]);
        let mut numbers: Vec<f64> = (0..valid)
            .map(|_| {
                let now = time;
                time += if r.one_in(5) { 0.0 } else { step * (0.5 + r.unit()) };
                now
            })
            .collect();
        if r.one_in(16) {
            numbers[0] = f64::NEG_INFINITY;
        }
        if r.one_in(16) {
            numbers[valid - 1] = f64::INFINITY;
        }
        numbers.into_iter().map(|number| encode(dtype, number)).collect()
    };
    row.resize_with(samples, || if r.one_in(2) { encode(dtype, f64::NAN) } else { r.bits() });
    row
}

/// Targets at samples, between them, outside and at the ends of the type; in ascending order or in any.
fn random_targets(r: &mut Random, dtype: DType, source: &[u64], count: usize) -> Vec<u64> {
    let mut row: Vec<u64> = (0..count)
        .map(|_| {
            let (a, b) = (r.pick(source), r.pick(source));
            if dtype == DType::I64 {
                let middle = (i128::from(a as i64) + i128::from(b as i64)).div_euclid(2) as i64;
                let near = r.below(7) as i64 - 3;
                return match r.below(10) {
                    0 => i64::MIN as u64,
                    1 => i64::MAX as u64,
                    2..6 => a,
                    6..8 => middle as u64,
                    _ => middle.saturating_add(near) as u64,
                };
            }
            let (a, b) = (decode(dtype, a), decode(dtype, b));
            let number = match r.below(16) {
                0 => r.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
                1 => r.number(true),
                2 => a + r.pick(&[-1.0, 1.0, -1e-9, 1e20]),
                3..8 => a,
                _ => a + (b - a) * r.unit(),
            };
            encode(dtype, number)
        })
        .collect();
    if r.one_in(2) {
        match dtype {
            DType::I64 => row.sort_by_key(|&bits| bits as i64),
            _ => row.sort_by(|&a, &b| decode(dtype, a).total_cmp(&decode(dtype, b))),
        }
    }
    row
}

fn decode(dtype: DType, bits: u64) -> f64 {
    if dtype == DType::F32 { f64::from(f32::from_bits(bits as u32)) } else { f64::from_bits(bits) }
}
