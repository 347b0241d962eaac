//! Signals on the CPU: rows in parallel, brackets a chunk at a time, channels vectorised.

use crate::number::{Compute, Number};
use crate::ops::blend::slerp::Quaternion;
use crate::ops::blend::{angle, pchip, slerp};
use crate::ops::interpolate::{Bracket, Fill};
use crate::ops::modes::{Group, Mode, QUATERNION};
use crate::ops::rows::{Output, Row, Targets, Value, fetch_ahead, grain};
use crate::ops::signal::Signal;
use crate::simd::{Blend, Level, Work};
use crate::tensor::{DType, Element, View};
use crate::threads::{Threads, huge_pages};
use half::{bf16, f16};
use std::ops::Range;

/// What is computed of each row.
#[derive(Clone, Copy)]
pub enum Read<'a> {
    /// The result.
    Value,
    /// Its derivative by the target's time.
    Slope,
    /// Its derivative along a direction, `[B, S, D]` as the values.
    Tangent(&'a View<'a>),
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
        V::narrow((right.widen() - left.widen()) * self.0)
    }
}

/// Along the shorter arc.
struct Turn<C>(C);

impl<V: Blend> Pair<V> for Turn<V::Compute> {
    #[inline(always)]
    fn of(&self, left: V, right: V) -> V {
        V::narrow(angle::blend(left.widen(), right.widen(), self.0))
    }
}

/// Every channel from its two samples, over slices where the memory allows it.
#[inline(always)]
fn pairwise<V: Element>(out: &mut [V], left: Row<V>, right: Row<V>, pair: impl Pair<V>) {
    if let [out] = out {
        *out = pair.of(left.at(0), right.at(0));
    } else if let (Some(left), Some(right)) = (left.dense(), right.dense()) {
        for ((out, &left), &right) in out.iter_mut().zip(left).zip(right) {
            *out = pair.of(left, right);
        }
    } else {
        for (channel, out) in out.iter_mut().enumerate() {
            *out = pair.of(left.at(channel), right.at(channel));
        }
    }
}

/// A quaternion of a row, in f64.
#[inline(always)]
pub fn quaternion<V: Blend>(row: &Row<V>, first: usize) -> Quaternion<f64> {
    let mut q = [0.0; QUATERNION];
    for (k, q) in q.iter_mut().enumerate() {
        *q = row.at(first + k).widen().to_f64();
    }
    q
}

#[inline(always)]
fn write<V: Blend>(out: &mut [V], q: &Quaternion<f64>) {
    for (out, &v) in out.iter_mut().zip(q) {
        *out = V::narrow_from(v);
    }
}

/// Some channels of the samples around a bracket, `left - 1` to `left + 2`, for `pchip`; samples that the curve does
/// not reach are others of the row, and are not used.
pub struct Window<V: Blend> {
    rows: [Row<V>; 4],
    /// The bracket's own, in the compute type.
    pub spans: pchip::Spans<V::Compute>,
}

impl<V: Blend> Window<V> {
    /// # Safety
    /// As for [`Row::new`]; the bracket is one of the row's, with two samples.
    #[inline(always)]
    pub unsafe fn new(view: &View, batch: usize, bracket: &Bracket, channels: &Range<usize>) -> Self {
        let left = bracket.left as usize;
        let before = left - usize::from(bracket.before != 0.0);
        let after = left + 1 + usize::from(bracket.after != 0.0);
        // SAFETY: the caller's promise; a span beside the bracket has a sample at its other end.
        let rows = unsafe {
            [
                Row::new(view, batch, before, channels),
                Row::new(view, batch, left, channels),
                Row::new(view, batch, left + 1, channels),
                Row::new(view, batch, after, channels),
            ]
        };
        let spans =
            pchip::Spans { before: V::Compute::from_f64(bracket.before), after: V::Compute::from_f64(bracket.after) };
        Window { rows, spans }
    }

    /// The four samples of a channel.
    #[inline(always)]
    pub fn at(&self, channel: usize) -> [V::Compute; 4] {
        let [a, b, c, d] = &self.rows;
        [a.at(channel).widen(), b.at(channel).widen(), c.at(channel).widen(), d.at(channel).widen()]
    }

    /// The rows as slices, where all of them are neighbours in memory.
    #[inline(always)]
    fn dense(&self) -> Option<[&[V]; 4]> {
        let [a, b, c, d] = &self.rows;
        Some([a.dense()?, b.dense()?, c.dense()?, d.dense()?])
    }

    #[inline(always)]
    fn blend_to(&self, out: &mut [V], weight: V::Compute) {
        if let Some([a, b, c, d]) = self.dense() {
            let samples = a.iter().zip(b).zip(c.iter().zip(d));
            for (out, ((a, b), (c, d))) in out.iter_mut().zip(samples) {
                *out = V::narrow(pchip::blend(&[a.widen(), b.widen(), c.widen(), d.widen()], weight, self.spans));
            }
        } else {
            for (channel, out) in out.iter_mut().enumerate() {
                *out = V::narrow(pchip::blend(&self.at(channel), weight, self.spans));
            }
        }
    }
}

#[inline(always)]
fn wrap_all<V: Blend>(out: &mut [V]) {
    for out in out {
        *out = V::narrow(angle::wrap(out.widen()));
    }
}

/// A part of the result's rows, for one thread.
struct Part<'c, V> {
    signal: &'c Signal<'c>,
    output: Output<V>,
    rows: Range<usize>,
}

impl<V> Part<'_, V> {
    /// # Safety
    /// As for [`Row::new`].
    #[inline(always)]
    unsafe fn row(&self, batch: usize, sample: usize, group: &Group) -> Row<V>
    where
        V: Element,
    {
        // SAFETY: the caller's promise.
        unsafe { Row::new(&self.signal.values, batch, sample, &group.channels) }
    }
}

struct Blended<'c, V>(Part<'c, V>);

impl<V: Blend + Value> Blended<'_, V> {
    /// The channels of a group at a target that has a bracket.
    ///
    /// # Safety
    /// Host memory of type `V`; the bracket is one of the row's.
    #[inline(always)]
    unsafe fn group(&self, out: &mut [V], batch: usize, bracket: &Bracket, group: &Group) {
        let (left, weight) = (bracket.left as usize, V::Compute::from_f64(bracket.weight));
        // SAFETY: the bracket's samples are samples of the row; one with a weight has two.
        unsafe {
            if !group.mode.blends() || weight == V::Compute::ZERO {
                self.0.row(batch, bracket.copied(group.mode), group).copy_to(out);
                if group.mode == Mode::Angle {
                    wrap_all(out);
                }
                return;
            }
            if group.mode == Mode::Pchip {
                return Window::new(&self.0.signal.values, batch, bracket, &group.channels).blend_to(out, weight);
            }
            let (a, b) = (self.0.row(batch, left, group), self.0.row(batch, left + 1, group));
            match group.mode {
                Mode::Angle => pairwise(out, a, b, Turn(weight)),
                Mode::Slerp => {
                    for first in (0..out.len()).step_by(QUATERNION) {
                        let q = slerp::blend(&quaternion(&a, first), &quaternion(&b, first), bracket.weight);
                        write(&mut out[first..first + QUATERNION], &q);
                    }
                }
                _ => pairwise(out, a, b, Lerp(weight)),
            }
        }
    }
}

impl<V: Blend + Value> Work for Blended<'_, V> {
    #[inline(always)]
    fn run(self) {
        let Part { signal, output, ref rows } = self.0;
        let mut targets = Targets::new(&signal.timeline, rows.clone());
        // SAFETY: host memory, rows of the batch, samples of the brackets (`Signal`'s contract).
        while let Some(chunk) = unsafe { targets.next() } {
            for (index, bracket) in chunk.brackets.iter().enumerate() {
                let row = chunk.row + index;
                fetch_ahead::<V>(&signal.values, chunk.batch, chunk.brackets, index);
                for group in signal.modes.groups() {
                    let out = output.row(row, &group.channels);
                    match bracket.fill {
                        Fill::Zero => out.fill(V::ZERO),
                        Fill::Nan => out.fill(V::NAN),
                        // SAFETY: as above.
                        Fill::None => unsafe { self.group(out, chunk.batch, bracket, group) },
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
        let Part { signal, output, ref rows } = self.0;
        let mut targets = Targets::new(&signal.timeline, rows.clone());
        // SAFETY: host memory, rows of the batch, samples of the brackets (`Signal`'s contract).
        while let Some(chunk) = unsafe { targets.next() } {
            for (row, bracket) in (chunk.row..).zip(chunk.brackets) {
                let left = bracket.left as usize;
                for group in signal.modes.groups() {
                    let out = output.row(row, &group.channels);
                    if bracket.rate == 0.0 || group.mode != Mode::Linear {
                        out.fill(V::ZERO);
                        continue;
                    }
                    // SAFETY: as above; a bracket with a rate has two samples.
                    let (a, b) =
                        unsafe { (self.0.row(chunk.batch, left, group), self.0.row(chunk.batch, left + 1, group)) };
                    pairwise(out, a, b, Rate(V::Compute::from_f64(bracket.rate)));
                }
            }
        }
    }
}

struct Tangent<'c, V> {
    part: Part<'c, V>,
    tangent: &'c View<'c>,
}

impl<V: Blend + Value> Tangent<'_, V> {
    /// # Safety
    /// As for [`Blended::group`].
    #[inline(always)]
    unsafe fn group(&self, out: &mut [V], batch: usize, bracket: &Bracket, group: &Group) {
        let (left, weight) = (bracket.left as usize, V::Compute::from_f64(bracket.weight));
        let channels = &group.channels;
        // SAFETY: as for the value; the tangent has the values' shape.
        unsafe {
            if !group.mode.blends() || weight == V::Compute::ZERO {
                return Row::new(self.tangent, batch, bracket.copied(group.mode), channels).copy_to(out);
            }
            if group.mode == Mode::Pchip {
                let values = Window::<V>::new(&self.part.signal.values, batch, bracket, channels);
                let tangents = Window::<V>::new(self.tangent, batch, bracket, channels);
                for (channel, out) in out.iter_mut().enumerate() {
                    let (x, a) = (values.at(channel), tangents.at(channel));
                    *out = V::narrow(pchip::tangent(&x, weight, values.spans, &a));
                }
                return;
            }
            let (da, db) =
                (Row::new(self.tangent, batch, left, channels), Row::new(self.tangent, batch, left + 1, channels));
            if group.mode != Mode::Slerp {
                return pairwise(out, da, db, Lerp(weight));
            }
            let (a, b) = (self.part.row(batch, left, group), self.part.row(batch, left + 1, group));
            for first in (0..out.len()).step_by(QUATERNION) {
                let (qa, qb) = (quaternion(&a, first), quaternion(&b, first));
                let (ta, tb) = (quaternion(&da, first), quaternion(&db, first));
                let q = slerp::tangent([&qa, &qb], bracket.weight, [&ta, &tb]);
                write(&mut out[first..first + QUATERNION], &q);
            }
        }
    }
}

impl<V: Blend + Value> Work for Tangent<'_, V> {
    #[inline(always)]
    fn run(self) {
        let Part { signal, output, ref rows } = self.part;
        let mut targets = Targets::new(&signal.timeline, rows.clone());
        // SAFETY: host memory, rows of the batch, samples of the brackets (`Signal`'s contract).
        while let Some(chunk) = unsafe { targets.next() } {
            for (row, bracket) in (chunk.row..).zip(chunk.brackets) {
                for group in signal.modes.groups() {
                    let out = output.row(row, &group.channels);
                    match bracket.fill {
                        // SAFETY: as above.
                        Fill::None => unsafe { self.group(out, chunk.batch, bracket, group) },
                        _ => out.fill(V::ZERO),
                    }
                }
            }
        }
    }
}

struct Copied<'c, V>(Part<'c, V>);

impl<V: Value> Copied<'_, V> {
    fn run(self) {
        let Part { signal, output, ref rows } = self.0;
        let mut targets = Targets::new(&signal.timeline, rows.clone());
        // SAFETY: host memory, rows of the batch, samples of the brackets (`Signal`'s contract).
        while let Some(chunk) = unsafe { targets.next() } {
            for (row, bracket) in (chunk.row..).zip(chunk.brackets) {
                for group in signal.modes.groups() {
                    let out = output.row(row, &group.channels);
                    if bracket.fill != Fill::None {
                        out.fill(V::ZERO);
                        continue;
                    }
                    // SAFETY: as above; the bracket's samples are samples of the row.
                    unsafe { self.0.row(chunk.batch, bracket.copied(group.mode), group).copy_to(out) };
                }
            }
        }
    }
}

/// The rows of host memory, the channels of the signals side by side.
pub fn forward(signals: &[Signal], read: Read, output: *mut u8, threads: &dyn Threads, level: Level) {
    let Some(dtype) = signals.first().map(|signal| signal.values.dtype()) else { return };
    match dtype {
        DType::F64 => blended::<f64>(signals, read, output, threads, level),
        DType::F32 => blended::<f32>(signals, read, output, threads, level),
        DType::F16 => blended::<f16>(signals, read, output, threads, level),
        DType::BF16 => blended::<bf16>(signals, read, output, threads, level),
        integer => match integer.size() {
            8 => copied::<u64>(signals, output, threads),
            4 => copied::<u32>(signals, output, threads),
            2 => copied::<u16>(signals, output, threads),
            _ => copied::<u8>(signals, output, threads),
        },
    }
}

fn blended<V: Blend + Value>(signals: &[Signal], read: Read, output: *mut u8, threads: &dyn Threads, level: Level) {
    each_part::<V>(signals, output, threads, &|part| match read {
        Read::Value => level.run(Blended(part)),
        Read::Slope => level.run(Slope(part)),
        Read::Tangent(tangent) => level.run(Tangent { part, tangent }),
    });
}

fn copied<V: Value>(signals: &[Signal], output: *mut u8, threads: &dyn Threads) {
    each_part::<V>(signals, output, threads, &|part| Copied(part).run());
}

/// Every signal over every range of rows, so that a row's parts are written while it is in the cache.
fn each_part<V: Copy>(signals: &[Signal], output: *mut u8, threads: &dyn Threads, body: &(dyn Fn(Part<V>) + Sync)) {
    let width = signals.iter().map(Signal::channels).sum();
    huge_pages(output, signals[0].rows() * width * size_of::<V>());
    let output = Output::<V> { first: output.cast(), width };
    threads.run(signals[0].rows(), grain(width), &|rows| {
        let mut start = 0;
        for signal in signals {
            // SAFETY: the channels of a signal start within the output's first row.
            let output = unsafe { output.from(start) };
            body(Part { signal, output, rows: rows.clone() });
            start += signal.channels();
        }
    });
}
