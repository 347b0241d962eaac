//! Random calls of every operator: types, layouts, times and modes that a test runs anywhere.

#![allow(dead_code)] // each test uses a part

pub mod array;
pub mod fuse;
mod modes;
pub mod run;
mod times;

use crate::definition::Mode;
use array::{Array, Layout};
use half::{bf16, f16};
use modes::{Allowed, modes_of, random_groups, random_plain, text_of};
use robocache::{DType, MaxGap};
use times::{Clock, random_targets, random_times};

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
    /// `[B, S, D]`, or without the axes that say nothing.
    pub values: Array,
    /// Of the values' shape and type.
    pub tangent: Array,
    /// `[B, T, D]`, of the values' type.
    pub grad: Array,
    pub source_times: Array,
    pub target_times: Array,
    pub source_lengths: Option<Array>,
    pub mode: String,
    /// The mode of each channel: what `mode` says.
    pub modes: Vec<Mode>,
    pub outside: &'static str,
    /// Of the mask.
    pub max_gap: Option<MaxGap>,
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
        let allowed = Allowed::random(r, dtype.is_floating());
        let (mode, modes) = random_mode(r, channels, allowed);
        let outside = random_outside(r, dtype, &modes);

        let lengths = r.one_in(3).then(|| (0..batch).map(|_| 1 + r.below(samples)).collect::<Vec<_>>());
        let shared_source = r.one_in(4);
        let shared_targets = r.one_in(3);
        let clock = Clock::random(r);
        let source = random_rows(r, times, clock, samples, batch, shared_source, lengths.as_deref());
        let mut target = Vec::new();
        for row in 0..if shared_targets { 1 } else { batch } {
            let rows = source.len() / samples;
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
        let layout = Layout::random(r);
        let numbers = random_values(r, dtype, sizes);
        let values = Array::new(r, dtype, shape, layout, |_, at| numbers[at]);
        let layout = Layout::random(r);
        let tangent = Array::new(r, dtype, shape, layout, |r, _| element(r, dtype, false));
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
        let max_gap = random_gap(r, times, &source);
        let output_start = if r.one_in(4) { 1 + r.below(3) } else { 0 };
        Case {
            values,
            tangent,
            grad,
            source_times,
            target_times,
            source_lengths,
            mode,
            modes,
            outside,
            max_gap,
            batch,
            samples,
            targets,
            output_start,
        }
    }

    /// Rows of the mask: one where nothing says that the times are a batch's.
    pub fn batch_of_times(&self) -> usize {
        let shared = [&self.source_times, &self.target_times].iter().all(|times| times.sizes.len() == 1);
        if shared && self.source_lengths.is_none() { 1 } else { self.batch }
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

/// The number of an element's low bits.
pub fn decode(dtype: DType, bits: u64) -> f64 {
    match dtype {
        DType::F64 => f64::from_bits(bits),
        DType::F32 => f64::from(f32::from_bits(bits as u32)),
        DType::F16 => f16::from_bits(bits as u16).to_f64(),
        DType::BF16 => bf16::from_bits(bits as u16).to_f64(),
        _ => bits as i64 as f64,
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

/// Values of a case in order, for its modes: angles of several turns, samples that are equal, opposite or nearly so.
fn random_values(r: &mut Random, dtype: DType, sizes: Sizes) -> Vec<u64> {
    let Sizes { batch, samples, channels, .. } = sizes;
    let special = r.one_in(4);
    let mut all: Vec<u64> = (0..batch * samples * channels).map(|_| element(r, dtype, special)).collect();
    if !dtype.is_floating() || r.one_in(2) {
        return all;
    }
    let scale = r.pick(&[1.0, 1.0, 4.0, 1e3]);
    all.iter_mut().for_each(|bits| *bits = encode(dtype, decode(dtype, *bits) * scale));
    for at in (0..batch * samples).filter(|at| at % samples != 0) {
        if r.one_in(4) {
            let factor = r.pick(&[1.0, -1.0, 1.001, -1.001, 0.0]);
            for place in at * channels..(at + 1) * channels {
                all[place] = encode(dtype, decode(dtype, all[place - channels]) * factor);
            }
        }
    }
    all
}

/// `[B, S]` or, shared, `[S]`, of which each row has a length of its own.
fn random_rows(
    r: &mut Random,
    dtype: DType,
    clock: Clock,
    samples: usize,
    batch: usize,
    shared: bool,
    lengths: Option<&[usize]>,
) -> Vec<u64> {
    let longest = lengths.map_or(samples, |lengths| lengths.iter().copied().max().unwrap_or(1));
    let valid = |row: usize| lengths.map_or(samples, |lengths| if shared { longest } else { lengths[row] });
    let rows = if shared { 1 } else { batch };
    (0..rows).flat_map(|row| random_times(r, dtype, clock, samples, valid(row))).collect()
}

fn random_outside(r: &mut Random, dtype: DType, modes: &[Mode]) -> &'static str {
    let linear = modes.iter().all(|&mode| mode == Mode::Linear) && !modes.is_empty();
    match (dtype.is_floating(), linear) {
        (true, true) => r.pick(&["hold", "nan", "zero", "extrapolate", "extrapolate"]),
        (true, false) => r.pick(&["hold", "nan", "zero"]),
        (false, _) => r.pick(&["hold", "zero"]),
    }
}

/// None, one of the spans, or any number.
fn random_gap(r: &mut Random, dtype: DType, source: &[u64]) -> Option<MaxGap> {
    let place = r.below(source.len().max(2) - 1);
    let pair = source.get(place..place + 2).unwrap_or(&[0, 0]);
    let ticks = (pair[1] as i64).saturating_sub(pair[0] as i64).saturating_abs();
    let span = if dtype == DType::I64 { ticks as f64 } else { (decode(dtype, pair[1]) - decode(dtype, pair[0])).abs() };
    let number = [span, span * 0.999_999, span * 1.000_001, 0.0, 0.5, 2.5, f64::INFINITY, r.unit() * 100.0];
    let gaps = [MaxGap::Ticks(ticks), MaxGap::Ticks(r.below(12) as i64), MaxGap::Ticks(i64::MAX)];
    match r.below(6) {
        0 => None,
        1 => Some(r.pick(&gaps)),
        _ => Some(MaxGap::Number(r.pick(&number))).filter(|gap| gap.check().is_ok()),
    }
}

/// A mode text and the mode of each channel.
fn random_mode(r: &mut Random, channels: usize, allowed: Allowed) -> (String, Vec<Mode>) {
    if channels == 0 || r.one_in(2) {
        let name = random_plain(r, &[channels], allowed);
        return (name.to_owned(), modes_of(&[(name, channels)]));
    }
    let groups = random_groups(r, channels, allowed, usize::MAX);
    (text_of(r, &groups), modes_of(&groups))
}
