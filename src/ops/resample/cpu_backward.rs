//! The gradients of `resample` on the CPU: gathered by source row in one order, never scattered.

use super::derivatives::{Adjoint, Backward, TimeGradient};
use super::plan::Workspace;
use crate::number::{Compute, Dual, Number};
use crate::ops::blend::{pchip, slerp};
use crate::ops::interpolate::{Bracket, Fill};
use crate::ops::modes::{Mode, QUATERNION};
use crate::ops::rows::{GRAIN, Output, Row, Targets, Value, grain};
use crate::ops::signal_cpu::{Window, quaternion};
use crate::simd::{Blend, Level, Work};
use crate::tensor::DType;
use crate::threads::Threads;
use half::{bf16, f16};
use std::ops::Range;

/// Channels accumulated at a time: two kilobytes of accumulators stay in the first-level cache.
const BLOCK: usize = 256;
/// Partial sums of the time gradient; a warp of the kernel holds one a lane.
const LANES: usize = 32;

/// The brackets of the distinct rows and, for each row, its targets in ascending (bracket, target) order.
struct Sorted<'w> {
    brackets: &'w [Bracket],
    order: &'w [i64],
    starts: &'w [i64],
    targets: usize,
    samples: usize,
}

impl<'w> Sorted<'w> {
    /// The entries of a row by place: the target and its bracket.
    fn row(&self, row: usize) -> impl Fn(usize) -> (usize, &'w Bracket) + use<'w> {
        let (start, order, brackets) = (row * self.targets, self.order, self.brackets);
        move |place| {
            let target = order[start + place] as usize;
            (target, &brackets[start + target])
        }
    }

    /// The places whose bracket begins at a sample of a row; none where there is no such sample.
    fn beginning(&self, row: usize, sample: Option<usize>) -> Range<usize> {
        let Some(sample) = sample.filter(|&sample| sample < self.samples) else { return 0..0 };
        let at = row * (self.samples + 1) + sample;
        self.starts[at] as usize..self.starts[at + 1] as usize
    }
}

/// Fills the workspace: the brackets, the order of each row, and where each sample's places start.
fn sort<'w>(call: &Backward, workspace: &'w mut [u8], plan: &Workspace, threads: &dyn Threads) -> Sorted<'w> {
    let (rows, targets, samples) = (plan.rows, call.timeline.targets(), call.timeline.samples());
    let base = workspace.as_mut_ptr();
    let brackets = Output::<Bracket> { first: base.cast(), width: targets };
    let order = Output::<i64> { first: base.wrapping_add(plan.order_at).cast(), width: targets };
    let starts = Output::<i64> { first: base.wrapping_add(plan.starts_at).cast(), width: samples + 1 };
    threads.run(rows, GRAIN.div_ceil(targets + samples), &|range| {
        for row in range {
            let (brackets, order) = (brackets.row(row, &(0..targets)), order.row(row, &(0..targets)));
            // SAFETY: host memory (`Backward`'s contract), a row of the batch, a place for each target.
            unsafe { call.timeline.brackets(row, 0..targets, &mut 0, brackets) };
            order.iter_mut().zip(0..).for_each(|(place, target)| *place = target);
            if !brackets.is_sorted_by_key(|bracket| bracket.left) {
                // The target's index breaks ties, so that an unstable sort gives the one stable order.
                order.sort_unstable_by_key(|&target| (brackets[target as usize].left, target));
            }
            let mut place = 0;
            for (sample, start) in starts.row(row, &(0..samples + 1)).iter_mut().enumerate() {
                while place < targets && brackets[order[place] as usize].left < sample as i64 {
                    place += 1;
                }
                *start = place as i64;
            }
        }
    });
    // SAFETY: the plan's workspace holds the three arrays, aligned to 16, and the loop above wrote every element.
    unsafe {
        Sorted {
            brackets: std::slice::from_raw_parts(brackets.first, rows * targets),
            order: std::slice::from_raw_parts(order.first, rows * targets),
            starts: std::slice::from_raw_parts(starts.first, rows * (samples + 1)),
            targets,
            samples,
        }
    }
}

/// How much of a target's gradient goes to one side of its bracket; none where the sample had no part in the result.
#[inline(always)]
fn share<C: Compute>(bracket: &Bracket, mode: Mode, slope: bool, right: bool) -> Option<C> {
    if bracket.fill != Fill::None {
        return None;
    }
    if slope {
        let rate = C::from_f64(bracket.rate);
        return (mode == Mode::Linear && bracket.rate != 0.0).then_some(if right { rate } else { -rate });
    }
    let weight = C::from_f64(bracket.weight);
    if matches!(mode, Mode::Linear | Mode::Angle) && weight != C::ZERO {
        return Some(if right { weight } else { C::ONE - weight });
    }
    (bracket.copied(mode) == bracket.left as usize + usize::from(right)).then_some(C::ONE)
}

struct Gather<'c, V> {
    call: &'c Backward<'c>,
    sorted: &'c Sorted<'c>,
    output: Output<V>,
    rows: Range<usize>,
}

/// What a row of the batch, a target, its bracket and some channels contribute to one sample.
#[derive(Clone, Copy)]
struct Entry<'e> {
    batch: usize,
    target: usize,
    bracket: &'e Bracket,
    channels: &'e Range<usize>,
    /// Which of the samples `left - 1` to `left + 2` it is.
    place: usize,
}

impl<V: Blend> Gather<'_, V> {
    /// One source row: what brackets that end here give, then what brackets that begin here give; and for a curve what
    /// the brackets before and after those give, in ascending order too.
    #[inline(always)]
    fn row(&self, row: usize) {
        let (batch, sample) = (row / self.sorted.samples, row % self.sorted.samples);
        let distinct = if self.call.timeline.distinct_rows() == 1 { 0 } else { batch };
        let entry = self.sorted.row(distinct);
        for group in self.call.modes.groups() {
            let places = if group.mode == Mode::Pchip { 0..4 } else { 1..3 };
            for start in group.channels.clone().step_by(BLOCK) {
                let channels = &(start..group.channels.end.min(start + BLOCK));
                let sums = &mut [V::Compute::ZERO; BLOCK][..channels.len()];
                for place in places.clone().rev() {
                    for at in self.sorted.beginning(distinct, (sample + 1).checked_sub(place)) {
                        let (target, bracket) = entry(at);
                        // SAFETY: host memory (`Backward`'s contract), a row of the batch and one of its targets.
                        unsafe { self.add(sums, group.mode, Entry { batch, target, bracket, channels, place }) };
                    }
                }
                let out = self.output.row(row, channels);
                for (out, &sum) in out.iter_mut().zip(&*sums) {
                    *out = V::narrow(sum);
                }
            }
        }
    }

    /// # Safety
    /// Host memory, and indices within it.
    #[inline(always)]
    unsafe fn add(&self, sums: &mut [V::Compute], mode: Mode, entry: Entry) {
        let Entry { batch, target, bracket, channels, place } = entry;
        // SAFETY: the caller's promise.
        let grad = unsafe { Row::<V>::new(&self.call.grad, batch, target, channels) };
        let live = bracket.fill == Fill::None && V::Compute::from_f64(bracket.weight) != V::Compute::ZERO;
        let slope = match self.call.adjoint {
            Adjoint::Slope => true,
            // SAFETY: as above; a bracket with a weight has two samples.
            _ if live && mode == Mode::Slerp => return unsafe { self.add_slerp(sums, grad, entry) },
            // SAFETY: as above.
            _ if live && mode == Mode::Pchip => return unsafe { self.add_pchip(sums, grad, entry) },
            Adjoint::Curvature { .. } => return,
            Adjoint::Value(_) => false,
        };
        if !(1..3).contains(&place) {
            return;
        }
        let Some(share) = share::<V::Compute>(bracket, mode, slope, place == 2) else { return };
        if let Some(grad) = grad.dense() {
            for (sum, g) in sums.iter_mut().zip(grad) {
                *sum = share.fma(g.widen(), *sum);
            }
        } else {
            for (channel, sum) in sums.iter_mut().enumerate() {
                *sum = share.fma(grad.at(channel).widen(), *sum);
            }
        }
    }

    /// # Safety
    /// As for [`Gather::add`].
    #[inline(always)]
    unsafe fn add_slerp(&self, sums: &mut [V::Compute], grad: Row<V>, entry: Entry) {
        let Entry { batch, bracket, channels, place, .. } = entry;
        let left = bracket.left as usize;
        // SAFETY: the caller's promise.
        let pair =
            |view| unsafe { [Row::<V>::new(view, batch, left, channels), Row::new(view, batch, left + 1, channels)] };
        let Some(values) = self.call.adjoint.values() else { return };
        let [a, b] = pair(values);
        for (first, sums) in (0..).step_by(QUATERNION).zip(sums.chunks_exact_mut(QUATERNION)) {
            let (qa, qb, g) = (quaternion(&a, first), quaternion(&b, first), quaternion(&grad, first));
            let parts = match &self.call.adjoint {
                Adjoint::Curvature { tangent, .. } => {
                    let [da, db] = pair(tangent);
                    let (da, db) = (quaternion(&da, first), quaternion(&db, first));
                    slerp::curvature([&qa, &qb], bracket.weight, &g, [&da, &db])
                }
                _ => slerp::gradient(&qa, &qb, bracket.weight, &g),
            };
            for (sum, part) in sums.iter_mut().zip(parts[place - 1]) {
                *sum = *sum + V::Compute::from_f64(part);
            }
        }
    }

    /// # Safety
    /// As for [`Gather::add`].
    #[inline(always)]
    unsafe fn add_pchip(&self, sums: &mut [V::Compute], grad: Row<V>, entry: Entry) {
        let Entry { batch, bracket, channels, place, .. } = entry;
        if (place == 0 && bracket.before == 0.0) || (place == 3 && bracket.after == 0.0) {
            return; // the curve ends before this sample
        }
        let weight = V::Compute::from_f64(bracket.weight);
        // SAFETY: the caller's promise.
        let window = |view| unsafe { Window::<V>::new(view, batch, bracket, channels) };
        let Some(values) = self.call.adjoint.values() else { return };
        let values = window(values);
        let tangents = self.call.adjoint.tangent().map(window);
        for (channel, sum) in sums.iter_mut().enumerate() {
            let x = values.at(channel);
            let part = match &tangents {
                None => pchip::gradient(&x, weight, values.spans)[place],
                Some(tangents) => {
                    let a = tangents.at(channel);
                    let mut duals = [Dual { value: x[0], slope: a[0] }; 4];
                    for k in 1..4 {
                        duals[k] = Dual { value: x[k], slope: a[k] };
                    }
                    pchip::gradient(&duals, weight, values.spans)[place].slope
                }
            };
            *sum = part.fma(grad.at(channel).widen(), *sum);
        }
    }
}

impl<V: Blend> Work for Gather<'_, V> {
    #[inline(always)]
    fn run(self) {
        for row in self.rows.clone() {
            self.row(row);
        }
    }
}

/// `resample_backward` of host memory.
pub(super) fn backward(
    call: &Backward,
    output: *mut u8,
    workspace: &mut [u8],
    plan: &Workspace,
    threads: &dyn Threads,
    level: Level,
) {
    let sorted = sort(call, workspace, plan, threads);
    match call.grad.dtype() {
        DType::F64 => gather::<f64>(call, &sorted, output, threads, level),
        DType::F32 => gather::<f32>(call, &sorted, output, threads, level),
        DType::F16 => gather::<f16>(call, &sorted, output, threads, level),
        _ => gather::<bf16>(call, &sorted, output, threads, level),
    }
}

fn gather<V: Blend>(call: &Backward, sorted: &Sorted, output: *mut u8, threads: &dyn Threads, level: Level) {
    let width = call.grad.size(2);
    let output = Output::<V> { first: output.cast(), width };
    let rows = call.timeline.batch() * call.timeline.samples();
    threads.run(rows, grain(width), &|rows| level.run(Gather { call, sorted, output, rows }));
}

struct Dot<'c, V, T> {
    call: &'c TimeGradient<'c>,
    output: Output<T>,
    rows: Range<usize>,
    values: std::marker::PhantomData<V>,
}

/// Adds `grad * slope` of some channels to the lanes: channel `c` to lane `c % 32`, in ascending order.
#[inline(always)]
fn add_to_lanes<V: Blend>(
    lanes: &mut [V::Compute; LANES],
    channels: Range<usize>,
    rate: V::Compute,
    (grad, a, b): (Row<V>, Row<V>, Row<V>),
) {
    let mut step = 0;
    while step < channels.len() {
        let lane = (channels.start + step) % LANES;
        let count = (LANES - lane).min(channels.len() - step);
        let part = &mut lanes[lane..lane + count];
        if let (Some(g), Some(a), Some(b)) = (grad.dense(), a.dense(), b.dense()) {
            let (g, a, b) = (&g[step..step + count], &a[step..step + count], &b[step..step + count]);
            for (((sum, &g), &a), &b) in part.iter_mut().zip(g).zip(a).zip(b) {
                *sum = g.widen().fma((b.widen() - a.widen()) * rate, *sum);
            }
        } else {
            for (offset, sum) in part.iter_mut().enumerate() {
                let channel = step + offset;
                let difference = b.at(channel).widen() - a.at(channel).widen();
                *sum = grad.at(channel).widen().fma(difference * rate, *sum);
            }
        }
        step += count;
    }
}

impl<V: Blend + Value, T: Blend> Work for Dot<'_, V, T> {
    #[inline(always)]
    fn run(self) {
        let signal = &self.call.signal;
        let targets = signal.timeline.targets();
        let mut all = Targets::new(&signal.timeline, self.rows);
        // SAFETY: host memory and rows of the batch (`TimeGradient`'s contract).
        while let Some(chunk) = unsafe { all.next() } {
            for (row, bracket) in (chunk.row..).zip(chunk.brackets) {
                let mut lanes = [V::Compute::ZERO; LANES];
                if bracket.rate != 0.0 {
                    let rate = V::Compute::from_f64(bracket.rate);
                    let left = bracket.left as usize;
                    for group in signal.modes.groups() {
                        let channels = &group.channels;
                        if group.mode != Mode::Linear || channels.is_empty() {
                            continue;
                        }
                        // SAFETY: as above; a bracket with a rate has two samples.
                        let rows = unsafe {
                            (
                                Row::new(&self.call.grad, chunk.batch, row % targets, channels),
                                Row::new(&signal.values, chunk.batch, left, channels),
                                Row::new(&signal.values, chunk.batch, left + 1, channels),
                            )
                        };
                        add_to_lanes::<V>(&mut lanes, channels.clone(), rate, rows);
                    }
                }
                let mut half = LANES / 2;
                while half > 0 {
                    for lane in 0..half {
                        lanes[lane] = lanes[lane] + lanes[lane + half];
                    }
                    half /= 2;
                }
                self.output.row(row, &(0..1))[0] = T::narrow(T::Compute::from_f64(lanes[0].to_f64()));
            }
        }
    }
}

/// `resample_time_grad` of host memory.
pub(super) fn time_gradient(call: &TimeGradient, output: *mut u8, threads: &dyn Threads, level: Level) {
    match (call.signal.values.dtype(), call.signal.timeline.source_times.dtype()) {
        (DType::F64, DType::F64) => dot::<f64, f64>(call, output, threads, level),
        (DType::F64, _) => dot::<f64, f32>(call, output, threads, level),
        (DType::F32, DType::F64) => dot::<f32, f64>(call, output, threads, level),
        (DType::F32, _) => dot::<f32, f32>(call, output, threads, level),
        (DType::F16, DType::F64) => dot::<f16, f64>(call, output, threads, level),
        (DType::F16, _) => dot::<f16, f32>(call, output, threads, level),
        (_, DType::F64) => dot::<bf16, f64>(call, output, threads, level),
        _ => dot::<bf16, f32>(call, output, threads, level),
    }
}

fn dot<V: Blend + Value, T: Blend>(call: &TimeGradient, output: *mut u8, threads: &dyn Threads, level: Level) {
    let output = Output::<T> { first: output.cast(), width: 1 };
    let rows = call.signal.timeline.batch() * call.signal.timeline.targets();
    threads.run(rows, grain(call.signal.channels()), &|rows| {
        level.run(Dot { call, output, rows, values: std::marker::PhantomData::<V> })
    });
}
