//! `resample` on the CPU: rows in parallel, brackets a chunk at a time, channels vectorised.

use super::Forward;
use crate::ops::interpolate::{Bracket, Fill};
use crate::ops::modes::{Group, Mode};
use crate::ops::timeline::Timeline;
use crate::simd::{Blend, Compute, Level, Work};
use crate::tensor::{DType, Element, View};
use crate::threads::Threads;
use half::{bf16, f16};
use std::ops::Range;

/// Brackets found before their rows are blended: one kilobyte or two of stack, and the search stays out of the loop.
const CHUNK: usize = 64;
/// Elements below which another thread costs more than it saves.
pub(super) const GRAIN: usize = 16 * 1024;

/// A value type that can be copied; integers have no NaN and get zero for it.
pub(super) trait Value: Element {
    const ZERO: Self;
    const NAN: Self;
}

macro_rules! values {
    ($($ty:ty: $zero:expr, $nan:expr);* $(;)?) => {
        $(impl Value for $ty { const ZERO: Self = $zero; const NAN: Self = $nan; })*
    };
}
values! {
    f64: 0.0, f64::NAN; f32: 0.0, f32::NAN; f16: f16::ZERO, f16::NAN; bf16: bf16::ZERO, bf16::NAN;
    u64: 0, 0; u32: 0, 0; u16: 0, 0; u8: 0, 0;
}

/// Some channels of one sample.
#[derive(Clone, Copy)]
pub(super) struct Row<V> {
    first: *const V,
    stride: isize,
    channels: usize,
}

impl<V: Element> Row<V> {
    /// Channels `channels` of `view[batch, index]`.
    ///
    /// # Safety
    /// The view is host memory of type `V` (or of its size), and the indices lie within its shape.
    #[inline(always)]
    pub(super) unsafe fn new(view: &View, batch: usize, index: usize, channels: &Range<usize>) -> Self {
        let stride = view.stride(2);
        let offset =
            batch as isize * view.stride(0) + index as isize * view.stride(1) + channels.start as isize * stride;
        // SAFETY: the caller's promise.
        Row { first: unsafe { view.at(offset) }, stride, channels: channels.len() }
    }

    #[inline(always)]
    pub(super) fn dense(&self) -> Option<&[V]> {
        // SAFETY: with stride 1 the channels are neighbours in memory that `new` promised.
        (self.stride == 1).then(|| unsafe { std::slice::from_raw_parts(self.first, self.channels) })
    }

    #[inline(always)]
    pub(super) fn at(&self, channel: usize) -> V {
        debug_assert!(channel < self.channels);
        // SAFETY: a channel of the row that `new` promised.
        unsafe { *self.first.offset(channel as isize * self.stride) }
    }
}

/// One element of the result from the two samples of a bracket.
///
/// A trait and not a closure: a closure is compiled for the base instruction set unless the compiler happens to inline
/// it, and there a fused multiply-add is a call of the C library.
trait Pair<V> {
    fn of(&self, left: V, right: V) -> V;
}

/// `fma(weight, right - left, left)`.
struct Lerp<C>(C);

impl<V: Blend> Pair<V> for Lerp<V::Compute> {
    #[inline(always)]
    fn of(&self, left: V, right: V) -> V {
        let (left, right) = (left.widen(), right.widen());
        V::narrow(self.0.fma(right - left, left))
    }
}

/// `(right - left) * rate`.
struct Rate<C>(C);

impl<V: Blend> Pair<V> for Rate<V::Compute> {
    #[inline(always)]
    fn of(&self, left: V, right: V) -> V {
        V::narrow((right.widen() - left.widen()).times(self.0))
    }
}

/// Every channel from its two samples, over slices where the memory allows it.
#[inline(always)]
fn pairwise<V: Element>(out: &mut [V], left: Row<V>, right: Row<V>, pair: impl Pair<V>) {
    if let (Some(left), Some(right)) = (left.dense(), right.dense()) {
        for ((out, &left), &right) in out.iter_mut().zip(left).zip(right) {
            *out = pair.of(left, right);
        }
    } else {
        for (channel, out) in out.iter_mut().enumerate() {
            *out = pair.of(left.at(channel), right.at(channel));
        }
    }
}

/// The rows of `[B * T]` that one call of a body handles, with their brackets found a chunk at a time.
pub(super) struct Targets<'c> {
    timeline: &'c Timeline<'c>,
    rows: Range<usize>,
    brackets: [Bracket; CHUNK],
}

/// Neighbouring targets of one row of the batch.
pub(super) struct Chunk<'t> {
    pub(super) batch: usize,
    /// The first target's row of `[B * T]`.
    pub(super) row: usize,
    pub(super) brackets: &'t [Bracket],
}

impl<'c> Targets<'c> {
    pub(super) fn new(timeline: &'c Timeline<'c>, rows: Range<usize>) -> Self {
        Targets { timeline, rows, brackets: [Bracket::EMPTY; CHUNK] }
    }

    /// # Safety
    /// The times are host memory and the rows are rows of the output.
    pub(super) unsafe fn next(&mut self) -> Option<Chunk<'_>> {
        if self.rows.is_empty() {
            return None;
        }
        let (row, targets) = (self.rows.start, self.timeline.targets());
        let (batch, target) = (row / targets, row % targets);
        let count = CHUNK.min(targets - target).min(self.rows.len());
        self.rows.start += count;
        let brackets = &mut self.brackets[..count];
        // SAFETY: the caller's promise.
        unsafe { self.timeline.brackets(batch, target..target + count, brackets) };
        Some(Chunk { batch, row, brackets })
    }
}

#[inline(always)]
fn copy_row<V: Value>(out: &mut [V], row: Row<V>) {
    match row.dense() {
        Some(source) => out.copy_from_slice(source),
        None => {
            for (channel, out) in out.iter_mut().enumerate() {
                *out = row.at(channel);
            }
        }
    }
}

/// Copies or fills what needs no arithmetic; false where the group must be blended.
///
/// # Safety
/// As for [`Row::new`].
#[inline(always)]
unsafe fn copied<V: Value>(out: &mut [V], call: &Forward, batch: usize, bracket: &Bracket, group: &Group) -> bool {
    match bracket.fill {
        Fill::Zero => out.fill(V::ZERO),
        Fill::Nan => out.fill(V::NAN),
        Fill::None if group.mode.blends() && bracket.weight != 0.0 => return false,
        Fill::None => {
            let sample = bracket.copied(group.mode);
            // SAFETY: the bracket's samples are samples of the row.
            copy_row(out, unsafe { Row::new(&call.values, batch, sample, &group.channels) });
        }
    }
    true
}

/// A part of the result's rows, for one thread.
struct Part<'c, V> {
    call: &'c Forward<'c>,
    output: Output<V>,
    rows: Range<usize>,
}

struct Blended<'c, V>(Part<'c, V>);

impl<V: Blend + Value> Work for Blended<'_, V> {
    #[inline(always)]
    fn run(self) {
        let Part { call, output, rows } = self.0;
        let mut targets = Targets::new(&call.timeline, rows);
        // SAFETY: host memory, rows of the batch, samples of the brackets (`Forward`'s contract).
        while let Some(chunk) = unsafe { targets.next() } {
            for (row, bracket) in (chunk.row..).zip(chunk.brackets) {
                let weight = V::Compute::from_f64(bracket.weight);
                let left = bracket.left as usize;
                for group in call.modes.groups() {
                    let out = output.row(row, &group.channels);
                    // SAFETY: as above; a bracket with a weight has two samples.
                    unsafe {
                        if copied(out, call, chunk.batch, bracket, group) {
                            continue;
                        }
                        let a = Row::new(&call.values, chunk.batch, left, &group.channels);
                        if weight == V::Compute::ZERO {
                            copy_row(out, a);
                            continue;
                        }
                        let b = Row::new(&call.values, chunk.batch, left + 1, &group.channels);
                        pairwise(out, a, b, Lerp(weight));
                    }
                }
            }
        }
    }
}

struct Slope<'c, V>(Part<'c, V>);

impl<V: Blend + Value> Work for Slope<'_, V> {
    #[inline(always)]
    fn run(self) {
        let Part { call, output, rows } = self.0;
        let mut targets = Targets::new(&call.timeline, rows);
        // SAFETY: host memory, rows of the batch, samples of the brackets (`Forward`'s contract).
        while let Some(chunk) = unsafe { targets.next() } {
            for (row, bracket) in (chunk.row..).zip(chunk.brackets) {
                let left = bracket.left as usize;
                for group in call.modes.groups() {
                    let out = output.row(row, &group.channels);
                    if bracket.rate == 0.0 || group.mode != Mode::Linear {
                        out.fill(V::ZERO);
                        continue;
                    }
                    // SAFETY: as above; a bracket with a rate has two samples.
                    let (a, b) = unsafe {
                        (
                            Row::new(&call.values, chunk.batch, left, &group.channels),
                            Row::new(&call.values, chunk.batch, left + 1, &group.channels),
                        )
                    };
                    pairwise(out, a, b, Rate(V::Compute::from_f64(bracket.rate)));
                }
            }
        }
    }
}

struct Copied<'c, V>(Part<'c, V>);

impl<V: Value> Copied<'_, V> {
    fn run(self) {
        let Part { call, output, rows } = self.0;
        let mut targets = Targets::new(&call.timeline, rows);
        // SAFETY: host memory, rows of the batch, samples of the brackets (`Forward`'s contract).
        while let Some(chunk) = unsafe { targets.next() } {
            for (row, bracket) in (chunk.row..).zip(chunk.brackets) {
                for group in call.modes.groups() {
                    // SAFETY: as above.
                    unsafe { copied(output.row(row, &group.channels), call, chunk.batch, bracket, group) };
                }
            }
        }
    }
}

/// The output as rows of `width` that threads write disjointly.
#[derive(Clone, Copy)]
pub(super) struct Output<V> {
    pub(super) first: *mut V,
    pub(super) width: usize,
}

// SAFETY: each row is written by the one thread that runs it (`Threads` covers every row once).
unsafe impl<V> Send for Output<V> {}
// SAFETY: as above.
unsafe impl<V> Sync for Output<V> {}

impl<V> Output<V> {
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(super) fn row(&self, row: usize, channels: &Range<usize>) -> &mut [V] {
        // SAFETY: a row of the output, which only this thread has.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.width + channels.start), channels.len()) }
    }
}

/// `resample` (or its slope) of host memory.
pub(super) fn forward(call: &Forward, slope: bool, output: *mut u8, threads: &dyn Threads, level: Level) {
    match call.values.dtype() {
        DType::F64 => blended::<f64>(call, slope, output, threads, level),
        DType::F32 => blended::<f32>(call, slope, output, threads, level),
        DType::F16 => blended::<f16>(call, slope, output, threads, level),
        DType::BF16 => blended::<bf16>(call, slope, output, threads, level),
        integer => match integer.size() {
            8 => copied_only::<u64>(call, output, threads),
            4 => copied_only::<u32>(call, output, threads),
            2 => copied_only::<u16>(call, output, threads),
            _ => copied_only::<u8>(call, output, threads),
        },
    }
}

pub(super) fn grain(width: usize) -> usize {
    GRAIN.div_ceil(width.max(1))
}

fn blended<V: Blend + Value>(call: &Forward, slope: bool, output: *mut u8, threads: &dyn Threads, level: Level) {
    let (rows, width) = (call.timeline.batch() * call.timeline.targets(), call.channels());
    let output = Output::<V> { first: output.cast(), width };
    threads.run(rows, grain(width), &|rows| match slope {
        false => level.run(Blended(Part { call, output, rows })),
        true => level.run(Slope(Part { call, output, rows })),
    });
}

fn copied_only<V: Value>(call: &Forward, output: *mut u8, threads: &dyn Threads) {
    let (rows, width) = (call.timeline.batch() * call.timeline.targets(), call.channels());
    let output = Output::<V> { first: output.cast(), width };
    threads.run(rows, grain(width), &|rows| Copied(Part { call, output, rows }).run());
}
