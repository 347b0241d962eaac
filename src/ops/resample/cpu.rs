//! `resample` on the CPU: rows in parallel, brackets a chunk at a time, channels vectorised.

use super::Forward;
use crate::ops::interpolate::{Bracket, Fill, Group, Mode};
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

/// `out[c] = f(a[c], b[c])`, over slices where the memory allows it.
#[inline(always)]
fn map2<V: Element, O: Copy>(out: &mut [O], a: Row<V>, b: Row<V>, f: impl Fn(O, V, V) -> O) {
    if let (Some(a), Some(b)) = (a.dense(), b.dense()) {
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = f(*out, a, b);
        }
    } else {
        for (channel, out) in out.iter_mut().enumerate() {
            *out = f(*out, a.at(channel), b.at(channel));
        }
    }
}

/// The rows `rows` of the output `[B * T, D]`, with their brackets.
///
/// # Safety
/// `call` holds host memory.
#[inline(always)]
pub(super) unsafe fn for_each_target(call: &Forward, rows: Range<usize>, mut body: impl FnMut(usize, usize, &Bracket)) {
    let targets = call.timeline.targets();
    let mut brackets = [Bracket::EMPTY; CHUNK];
    let mut row = rows.start;
    while row < rows.end {
        let (batch, target) = (row / targets, row % targets);
        let count = CHUNK.min(targets - target).min(rows.end - row);
        // SAFETY: the caller's promise; the rows are rows of the output.
        unsafe { call.timeline.brackets(batch, target..target + count, &mut brackets[..count]) };
        for (step, bracket) in brackets[..count].iter().enumerate() {
            body(batch, row + step, bracket);
        }
        row += count;
    }
}

#[inline(always)]
fn copy_row<V: Value>(out: &mut [V], row: Row<V>) {
    match row.dense() {
        Some(source) => out.copy_from_slice(source),
        None => out.iter_mut().enumerate().for_each(|(channel, out)| *out = row.at(channel)),
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

struct Blended<'c, V> {
    call: &'c Forward<'c>,
    output: Output<V>,
    rows: Range<usize>,
}

impl<V: Blend + Value> Work for Blended<'_, V> {
    #[inline(always)]
    fn run(self) {
        let call = self.call;
        let body = |batch: usize, row: usize, bracket: &Bracket| {
            let weight = V::Compute::from_f64(bracket.weight);
            for group in call.modes.groups() {
                let out = self.output.row(row, &group.channels);
                // SAFETY: host memory, a row of the batch, samples of the bracket (`Forward`'s contract).
                unsafe {
                    if copied(out, call, batch, bracket, group) {
                        continue;
                    }
                    let left = bracket.left as usize;
                    let a = Row::new(&call.values, batch, left, &group.channels);
                    if weight == V::Compute::ZERO {
                        copy_row(out, a);
                        continue;
                    }
                    let b = Row::new(&call.values, batch, left + 1, &group.channels);
                    map2(out, a, b, |_, a: V, b: V| {
                        let (a, b) = (a.widen(), b.widen());
                        V::narrow(weight.fma(b - a, a))
                    });
                }
            }
        };
        // SAFETY: `Forward`'s contract.
        unsafe { for_each_target(call, self.rows.clone(), body) };
    }
}

struct Slope<'c, V> {
    call: &'c Forward<'c>,
    output: Output<V>,
    rows: Range<usize>,
}

impl<V: Blend + Value> Work for Slope<'_, V> {
    #[inline(always)]
    fn run(self) {
        let call = self.call;
        let body = |batch: usize, row: usize, bracket: &Bracket| {
            let rate = V::Compute::from_f64(bracket.rate);
            for group in call.modes.groups() {
                let out = self.output.row(row, &group.channels);
                if bracket.rate == 0.0 || group.mode != Mode::Linear {
                    out.fill(V::ZERO);
                    continue;
                }
                let left = bracket.left as usize;
                // SAFETY: a bracket with a rate has two samples (`Forward`'s contract for the rest).
                let (a, b) = unsafe {
                    (
                        Row::new(&call.values, batch, left, &group.channels),
                        Row::new(&call.values, batch, left + 1, &group.channels),
                    )
                };
                map2(out, a, b, |_, a: V, b: V| V::narrow((b.widen() - a.widen()).times(rate)));
            }
        };
        // SAFETY: `Forward`'s contract.
        unsafe { for_each_target(call, self.rows.clone(), body) };
    }
}

struct Copied<'c, V> {
    call: &'c Forward<'c>,
    output: Output<V>,
    rows: Range<usize>,
}

impl<V: Value> Copied<'_, V> {
    fn run(self) {
        let body = |batch: usize, row: usize, bracket: &Bracket| {
            for group in self.call.modes.groups() {
                // SAFETY: host memory, a row of the batch, samples of the bracket (`Forward`'s contract).
                unsafe { copied(self.output.row(row, &group.channels), self.call, batch, bracket, group) };
            }
        };
        // SAFETY: `Forward`'s contract.
        unsafe { for_each_target(self.call, self.rows.clone(), body) };
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
pub(super) fn forward(call: &Forward, slope: bool, output: *mut u8, threads: &dyn Threads) {
    match call.values.dtype() {
        DType::F64 => blended::<f64>(call, slope, output, threads),
        DType::F32 => blended::<f32>(call, slope, output, threads),
        DType::F16 => blended::<f16>(call, slope, output, threads),
        DType::BF16 => blended::<bf16>(call, slope, output, threads),
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

fn blended<V: Blend + Value>(call: &Forward, slope: bool, output: *mut u8, threads: &dyn Threads) {
    let (rows, width) = (call.timeline.batch() * call.timeline.targets(), call.channels());
    let output = Output::<V> { first: output.cast(), width };
    let level = Level::best();
    threads.run(rows, grain(width), &|rows| match slope {
        false => level.run(Blended { call, output, rows }),
        true => level.run(Slope { call, output, rows }),
    });
}

fn copied_only<V: Value>(call: &Forward, output: *mut u8, threads: &dyn Threads) {
    let (rows, width) = (call.timeline.batch() * call.timeline.targets(), call.channels());
    let output = Output::<V> { first: output.cast(), width };
    threads.run(rows, grain(width), &|rows| Copied { call, output, rows }.run());
}
