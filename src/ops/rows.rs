//! Rows in host memory: typed, strided channels to read, dense ones to write, and the targets that a thread handles.

use crate::ops::interpolate::Bracket;
use crate::ops::timeline::Timeline;
use crate::simd::prefetch_all;
use crate::tensor::{Element, View};
use half::{bf16, f16};
use std::ops::Range;

/// Brackets found before their rows are blended: a few kilobytes of stack, and the search stays out of the loop.
const CHUNK: usize = 64;
/// Targets between asking for the samples of one and reading them: as long as memory takes, and no longer than a first
/// cache remembers.
const AHEAD: usize = 2;
/// Bytes of a row that are asked for; what follows is read in order, which the machine foresees by itself.
const FETCHED: usize = 2048;
/// Elements below which another thread costs more than it saves.
pub const GRAIN: usize = 16 * 1024;

/// Rows of that many channels below which another thread costs more than it saves.
pub fn grain(width: usize) -> usize {
    GRAIN.div_ceil(width.max(1))
}

/// A value type that can be copied; integers have no NaN and get zero for it.
pub trait Value: Element {
    /// Zero.
    const ZERO: Self;
    /// Not a number, where there is one.
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
pub struct Row<V> {
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
    pub unsafe fn new(view: &View, batch: usize, index: usize, channels: &Range<usize>) -> Self {
        let stride = view.stride(2);
        let offset =
            batch as isize * view.stride(0) + index as isize * view.stride(1) + channels.start as isize * stride;
        // SAFETY: the caller's promise.
        Row { first: unsafe { view.at(offset) }, stride, channels: channels.len() }
    }

    /// The channels as a slice, where they are neighbours in memory.
    #[inline(always)]
    pub fn dense(&self) -> Option<&[V]> {
        // SAFETY: with stride 1 the channels are neighbours in memory that `new` promised.
        (self.stride == 1).then(|| unsafe { std::slice::from_raw_parts(self.first, self.channels) })
    }

    /// One channel.
    #[inline(always)]
    pub fn at(&self, channel: usize) -> V {
        debug_assert!(channel < self.channels);
        // SAFETY: a channel of the row that `new` promised.
        unsafe { *self.first.offset(channel as isize * self.stride) }
    }

    /// Copies every channel.
    #[inline(always)]
    pub fn copy_to(&self, out: &mut [V]) {
        match self.dense() {
            Some(source) => out.copy_from_slice(source),
            None => {
                for (channel, out) in out.iter_mut().enumerate() {
                    *out = self.at(channel);
                }
            }
        }
    }
}

/// Rows that lie `width` elements apart and that threads write disjointly.
#[derive(Clone, Copy)]
pub struct Output<V> {
    /// The first channel of the first row.
    pub first: *mut V,
    /// Elements between neighbouring rows.
    pub width: usize,
}

// SAFETY: each row is written by the one thread that runs it (`Threads` covers every row once).
unsafe impl<V> Send for Output<V> {}
// SAFETY: as above.
unsafe impl<V> Sync for Output<V> {}

impl<V> Output<V> {
    /// The same rows from another channel on.
    ///
    /// # Safety
    /// The channel is one of a row's, or one past its last.
    pub unsafe fn from(&self, channel: usize) -> Self {
        // SAFETY: the caller's promise.
        Output { first: unsafe { self.first.add(channel) }, width: self.width }
    }

    /// Some channels of a row.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub fn row(&self, row: usize, channels: &Range<usize>) -> &mut [V] {
        // SAFETY: a row of the output, which only this thread has.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.width + channels.start), channels.len()) }
    }
}

/// The rows of `[B * T]` that one call of a body handles, with their brackets found a chunk at a time.
pub struct Targets<'c> {
    timeline: &'c Timeline<'c>,
    rows: Range<usize>,
    guess: usize,
    brackets: [Bracket; CHUNK],
}

/// Asks for the samples of the target [`AHEAD`] of `index`, where its bracket is another than the one before.
#[inline(always)]
pub fn fetch_ahead<V: Element>(view: &View, batch: usize, brackets: &[Bracket], index: usize) {
    let Some([before, bracket]) = brackets.get(index + AHEAD - 1..=index + AHEAD) else { return };
    if view.stride(2) != 1 || before.left == bracket.left {
        return;
    }
    let bytes = (view.size(2) * size_of::<V>()).min(FETCHED);
    for sample in bracket.left as isize + isize::from(before.left + 1 == bracket.left)..=bracket.left as isize + 1 {
        let row = batch as isize * view.stride(0) + sample * view.stride(1);
        // An address only: past the last sample it is no row's.
        prefetch_all(view.data().cast::<V>().wrapping_offset(row), bytes);
    }
}

/// Neighbouring targets of one row of the batch.
pub struct Chunk<'t> {
    /// The row of the batch.
    pub batch: usize,
    /// The first target's row of `[B * T]`.
    pub row: usize,
    /// Their brackets.
    pub brackets: &'t [Bracket],
}

impl<'c> Targets<'c> {
    /// Those rows.
    pub fn new(timeline: &'c Timeline<'c>, rows: Range<usize>) -> Self {
        Targets { timeline, rows, guess: 0, brackets: [Bracket::EMPTY; CHUNK] }
    }

    /// The next ones, until there are none.
    ///
    /// # Safety
    /// The times are host memory and the rows are rows of the output.
    pub unsafe fn next(&mut self) -> Option<Chunk<'_>> {
        if self.rows.is_empty() {
            return None;
        }
        let (row, targets) = (self.rows.start, self.timeline.targets());
        let (batch, target) = (row / targets, row % targets);
        let count = CHUNK.min(targets - target).min(self.rows.len());
        self.rows.start += count;
        if target == 0 {
            self.guess = 0;
        }
        let brackets = &mut self.brackets[..count];
        // SAFETY: the caller's promise.
        unsafe { self.timeline.brackets(batch, target..target + count, &mut self.guess, brackets) };
        Some(Chunk { batch, row, brackets })
    }
}
