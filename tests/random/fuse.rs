//! Random calls of `fuse`: streams of their own rates, lengths, widths, layouts and modes on one clock.

use super::array::{Array, Layout};
use super::modes::{Allowed, Group, modes_of, random_groups, random_plain, text_of};
use super::run::{Guarded, Memory, Op, first_fault, run, wanted};
use super::times::{Clock, random_targets};
use super::{Case, Random, Sizes, TIMES, element, random_outside, random_rows, random_values};
use crate::definition::Number;
use half::{bf16, f16};
use robocache::{DType, Result, View, fuse};
use std::fmt::Debug;

/// The most groups of a stream that a launch takes.
const MOST_GROUPS: usize = 64;

/// The arguments of a call: each stream as a call of `resample`, and what is said of all of them.
#[derive(Clone, Debug)]
pub struct FuseCase {
    pub streams: Vec<Case>,
    pub mode: String,
    /// `[B, K]`.
    pub source_lengths: Option<Array>,
    pub output_start: usize,
}

impl FuseCase {
    /// Case number `index`: types in turn, the rest at random.
    pub fn random(index: u64, values: &[DType]) -> FuseCase {
        let mut r = Random(index ^ 0xf05e);
        let dtype = values[index as usize % values.len()];
        let times = TIMES[index as usize / values.len() % TIMES.len()];
        let count = r.pick(&[1, 2, 3, 1 + index as usize % 20]);
        let channels = |r: &mut Random| {
            let widths = [0, 1, 3, 4, 6, 8, 16, 1 + r.below(40), 4 * (1 + r.below(20)), 1 + r.below(200)];
            r.pick(&widths)
        };
        let widths: Vec<usize> = (0..count).map(|_| channels(&mut r)).collect();
        FuseCase::new(&mut r, dtype, times, &widths)
    }

    pub fn new(r: &mut Random, dtype: DType, times: DType, widths: &[usize]) -> FuseCase {
        // No axis of a batch: [S, D] and times of one axis.
        let single = r.one_in(4);
        let batch = if single { 1 } else { r.pick(&[0, 1, 2, 2, 3]) };
        let targets = [0, 1, 1 + r.below(40), 1 + r.below(40), 1 + r.below(70)];
        let targets = r.pick(&targets);
        let (modes, mode) = random_modes(r, widths, dtype);
        let all: Vec<_> = modes.iter().flat_map(|groups| modes_of(groups)).collect();
        let outside = random_outside(r, dtype, &all);
        let shared_targets = single || r.one_in(3);
        let (clock, ragged) = (Clock::random(r), r.one_in(2));
        let mut sources = Vec::new();
        for _ in widths {
            let samples = [1, 2, 3, 1 + r.below(40), 1 + r.below(100)];
            let samples = r.pick(&samples);
            let lengths = ragged.then(|| (0..batch).map(|_| 1 + r.below(samples)).collect::<Vec<_>>());
            let shared = single || r.one_in(4);
            let clock = clock.slower(r);
            let rows = random_rows(r, times, clock, samples, batch, shared, lengths.as_deref());
            sources.push((samples, shared, rows, lengths));
        }
        let rows = if shared_targets { 1 } else { batch };
        let seen: Vec<u64> = sources.iter().flat_map(|(.., rows, _)| rows.iter().copied().take(40)).collect();
        let seen = if seen.is_empty() { vec![0] } else { seen };
        let aims: Vec<u64> = (0..rows).flat_map(|_| random_targets(r, times, &seen, targets)).collect();
        let shape = |shared: bool, count: usize| if shared { vec![count] } else { vec![batch, count] };
        let layout = Layout::of_times(r);
        let target_times = Array::new(r, times, &shape(shared_targets, targets), layout, |_, at| aims[at]);

        let lengths_dtype = r.pick(&[DType::I32, DType::I64]);
        let (layout, count) = (Layout::of_times(r), widths.len());
        let source_lengths = ragged.then(|| {
            Array::new(r, lengths_dtype, &[batch, count], layout, |_, at| {
                sources[at % count].3.as_ref().map_or(0, |lengths| lengths[at / count] as u64)
            })
        });
        let mut streams = Vec::new();
        for ((samples, shared, rows, lengths), (groups, &channels)) in sources.into_iter().zip(modes.iter().zip(widths))
        {
            let numbers = random_values(r, dtype, Sizes { batch, samples, targets, channels });
            let shape_of_values: &[usize] = if single { &[samples, channels] } else { &[batch, samples, channels] };
            let layout = Layout::random(r);
            let values = Array::new(r, dtype, shape_of_values, layout, |_, at| numbers[at]);
            let grad =
                Array::new(r, dtype, &[batch, targets, channels], Layout::Dense, |r, _| element(r, dtype, false));
            let layout = Layout::of_times(r);
            let source_times = Array::new(r, times, &shape(shared, samples), layout, |_, at| rows[at]);
            let source_lengths = lengths.map(|lengths| {
                Array::dense(&lengths.into_iter().map(|length| length as i64).collect::<Vec<_>>(), &[batch])
            });
            streams.push(Case {
                tangent: values.clone(),
                values,
                grad,
                source_times,
                target_times: target_times.clone(),
                source_lengths,
                mode: if channels == 0 { "linear".to_owned() } else { text_of(r, groups) },
                modes: modes_of(groups),
                outside,
                max_gap: None,
                batch,
                samples,
                targets,
                output_start: 0,
            });
        }
        if !dtype.is_floating() {
            streams
                .iter_mut()
                .filter(|stream| stream.modes.is_empty())
                .for_each(|stream| stream.mode = "next".to_owned());
        }
        FuseCase { streams, mode, source_lengths, output_start: if r.one_in(4) { 1 + r.below(3) } else { 0 } }
    }

    pub fn dtype(&self) -> DType {
        self.streams[0].values.dtype
    }

    pub fn width(&self) -> usize {
        self.streams.iter().map(|stream| stream.modes.len()).sum()
    }

    /// As `Case::with_garbage`, for every stream.
    pub fn with_garbage(mut self, r: &mut Random) -> FuseCase {
        let (batch, count) = (self.streams[0].batch, self.streams.len());
        self.streams = self.streams.into_iter().map(|stream| stream.with_garbage(r)).collect();
        if r.one_in(2) {
            let (dtype, layout) = (r.pick(&[DType::I32, DType::I64]), Layout::of_times(r));
            self.source_lengths = Some(Array::new(r, dtype, &[batch, count], layout, |r, _| match r.below(3) {
                0 => r.bits(),
                1 => 0,
                _ => r.below(400) as u64,
            }));
        }
        self
    }
}

/// The groups of each stream, and one text for all of them.
fn random_modes(r: &mut Random, widths: &[usize], dtype: DType) -> (Vec<Vec<Group>>, String) {
    let allowed = Allowed::random(r, dtype.is_floating());
    if r.one_in(3) || widths.iter().all(|&width| width == 0) {
        let name = random_plain(r, widths, allowed);
        return (widths.iter().map(|&width| vec![(name, width)]).collect(), name.to_owned());
    }
    let modes: Vec<_> = widths.iter().map(|&width| random_groups(r, width, allowed, MOST_GROUPS)).collect();
    // A group may reach over several streams, except for quaternions.
    let mut text: Vec<Group> = Vec::new();
    for &(name, width) in modes.iter().flatten() {
        match text.last_mut() {
            Some(last) if last.0 == name && name != "slerp" && r.one_in(2) => last.1 += width,
            _ => text.push((name, width)),
        }
    }
    (modes, text_of(r, &text))
}

/// The bytes of the result; panics where the call wrote outside it.
pub fn run_fuse(case: &FuseCase, memory: &impl Memory) -> Result<Vec<u8>> {
    // SAFETY: uploads are copies that live as long as `memory`.
    let view = |array: &Array| -> View { unsafe { array.view(memory.upload(&array.bytes)) } };
    let values: Vec<_> = case.streams.iter().map(|stream| view(&stream.values)).collect();
    let source: Vec<_> = case.streams.iter().map(|stream| view(&stream.source_times)).collect();
    let first = &case.streams[0];
    let (target, lengths) = (view(&first.target_times), case.source_lengths.as_ref().map(view));
    let (dtype, sizes) = (case.dtype(), [first.batch, first.targets, case.width()]);
    let output = Guarded::new(memory, sizes.iter().product::<usize>() * dtype.size(), case.output_start * dtype.size());
    let out = &mut output.view(dtype, &sizes);
    fuse(&values, &source, target, &case.mode, first.outside, lengths, out, &memory.place())?;
    Ok(output.finish(case))
}

/// Each stream by `resample`, put side by side.
pub fn run_apart(case: &FuseCase, memory: &impl Memory) -> Result<Vec<u8>> {
    let parts: Result<Vec<_>> = case.streams.iter().map(|stream| run(stream, Op::Resample, memory)).collect();
    Ok(side_by_side(case, &parts?, case.dtype().size()))
}

fn side_by_side<E: Copy>(case: &FuseCase, parts: &[Vec<E>], each: usize) -> Vec<E> {
    let rows = case.streams[0].batch * case.streams[0].targets;
    let widths: Vec<_> = case.streams.iter().map(|stream| stream.modes.len() * each).collect();
    let row = |row: usize| {
        let part = move |(part, &width): (&Vec<E>, &usize)| part[row * width..(row + 1) * width].to_vec();
        parts.iter().zip(&widths).flat_map(part).collect::<Vec<_>>()
    };
    (0..rows).flat_map(row).collect()
}

/// What is wrong with a result, by the definition.
pub fn fuse_fault(case: &FuseCase, found: &[u8]) -> Option<String> {
    match case.dtype() {
        DType::F64 => fault_of::<f64>(case, found),
        DType::F32 => fault_of::<f32>(case, found),
        DType::F16 => fault_of::<f16>(case, found),
        DType::BF16 => fault_of::<bf16>(case, found),
        integer => match integer.size() {
            8 => fault_of::<u64>(case, found),
            4 => fault_of::<u32>(case, found),
            2 => fault_of::<u16>(case, found),
            _ => fault_of::<u8>(case, found),
        },
    }
}

fn fault_of<V: Number + Debug>(case: &FuseCase, found: &[u8]) -> Option<String> {
    let parts: Vec<_> = case.streams.iter().map(wanted::<V>).collect();
    first_fault(found, &side_by_side(case, &parts, 1))
}
