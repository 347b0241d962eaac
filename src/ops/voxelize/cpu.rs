//! `voxelize` on the CPU: points find their voxels on every thread, a counting sort groups them, and voxels are reduced
//! on every thread.

use super::cells_cpu::{self, Key, each_run, with_key};
use super::exact::Feature;
use super::grid::Clouds;
use super::plan::{MOST_PARTS, Workspace};
use super::reduce::Reduce;
use super::rows::{Column, Place, Voxels, holder};
use super::sort_cpu::{Pairs, sort};
use crate::ops::rows::GRAIN;
use crate::simd::{Level, Work, prefetch};
use crate::tensor::{DType, View};
use crate::threads::{Threads, huge_pages};
use half::{bf16, f16};
use std::ops::Range;
use std::slice::from_raw_parts_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering::Relaxed};

/// Voxels below which another thread costs more than it saves.
const CELLS: usize = 4096;
/// Pieces of a grid at most: enough for the threads of a machine, each with its own part of the grid.
const PIECES: usize = 64;
/// Voxels that are as much work as a point.
const POINT: usize = 4;
/// Points between asking for one's features and reading them.
pub(crate) const AHEAD: usize = 16;

/// Runs `$body` with `$name` as the Rust type of a floating tag.
macro_rules! with_floating {
    ($dtype:expr, $name:ident => $body:expr) => {
        match $dtype {
            DType::F64 => {
                type $name = f64;
                $body
            }
            DType::F32 => {
                type $name = f32;
                $body
            }
            DType::F16 => {
                type $name = f16;
                $body
            }
            _ => {
                type $name = bf16;
                $body
            }
        }
    };
}
pub(crate) use with_floating;

/// Memory that threads write at places of their own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub *mut T);

// SAFETY: every place is written by one thread (who calls `set` promises that).
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Writes one place.
    ///
    /// # Safety
    /// `index` lies within the memory and no other thread touches it.
    #[inline(always)]
    pub unsafe fn set(&self, index: usize, value: T) {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index).write(value) }
    }

    /// Neighbouring places.
    ///
    /// # Safety
    /// They lie within the memory, hold values, and no other thread touches them while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, first: usize, count: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), count) }
    }
}

/// Fills memory with zero bytes on every thread.
pub(crate) fn clear(first: *mut u8, bytes: usize, threads: &dyn Threads) {
    let memory = Shared(first);
    threads.run(bytes, 16 * GRAIN, &|range| {
        let memory = &memory;
        // SAFETY: the caller's memory; ranges are disjoint.
        unsafe { memory.0.add(range.start).write_bytes(0, range.len()) }
    });
}

/// The points of a cloud by cell: keys that ascend, and the points in that order; apart from them the dropped ones.
#[derive(Clone, Copy)]
struct Groups<'w, K> {
    keys: &'w [K],
    points: &'w [i32],
    dropped: &'w [i32],
}

impl<'w, K: Key> Groups<'w, K> {
    /// Of a cloud.
    ///
    /// # Safety
    /// `workspace` has the bytes that `plan` says, aligned to 16, and nothing else uses them while the groups live.
    unsafe fn new(clouds: &Clouds, cloud: usize, plan: &Workspace, workspace: *mut u8, threads: &dyn Threads) -> Self {
        let points = clouds.points();
        let dropped = plan.cells as u64;
        // SAFETY: the caller's promise; the parts do not overlap, and any bits are numbers.
        let (pairs, spare) = unsafe {
            let (keys, order) = (workspace.add(plan.places_at).cast::<K>(), workspace.add(plan.order_at).cast::<i32>());
            let pairs = |index: usize| Pairs {
                keys: from_raw_parts_mut(keys.add(index * points), points),
                points: from_raw_parts_mut(order.add(index * points), points),
            };
            (pairs(0), pairs(1))
        };
        // SAFETY: host memory (a place on the CPU); the key was chosen for the cells.
        let write = |first: usize, keys: &mut [K]| unsafe { cells_cpu::write(clouds, cloud, first, keys) };
        let Pairs { keys, points } = sort(pairs, spare, u64::BITS - dropped.leading_zeros(), threads, &write);
        let kept = keys.partition_point(|key| key.cell() < dropped);
        Groups { keys: &keys[..kept], points: &points[..kept], dropped: &points[kept..] }
    }

    /// Points in cells before that one.
    fn before(&self, cell: usize) -> usize {
        self.keys.partition_point(|key| key.cell() < cell as u64)
    }

    /// Ranges of neighbouring cells that are about as much work as each other, where a point is as much as `weight` cells.
    fn pieces(&self, cells: usize, weight: usize) -> Vec<Range<usize>> {
        let work = |cell: usize| cell as u128 + self.before(cell) as u128 * weight as u128;
        let (pieces, all) = (cells.div_ceil(CELLS).min(PIECES), work(cells));
        let starts = (0..=pieces).map(|piece| {
            let (mut low, mut high) = (0, cells);
            while low < high {
                let middle = low + (high - low) / 2;
                if work(middle) * (pieces as u128) < all * piece as u128 { low = middle + 1 } else { high = middle }
            }
            low
        });
        let starts: Vec<usize> = starts.collect();
        starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }

    /// The cells of a range that have points.
    #[inline(always)]
    fn within(&self, cells: &Range<usize>) -> Walk<'w, K> {
        Walk { groups: *self, first: self.before(cells.start), last: self.before(cells.end) }
    }
}

/// A walk along cells that have points. No iterator with a body: a closure would be compiled for the base instruction
/// set.
struct Walk<'w, K> {
    groups: Groups<'w, K>,
    first: usize,
    last: usize,
}

impl<'w, K: Key> Walk<'w, K> {
    /// The next cell, its points, and as many points that will soon follow.
    #[inline(always)]
    fn next(&mut self) -> Option<(usize, &'w [i32], &'w [i32])> {
        let Groups { keys, points, .. } = self.groups;
        let (first, mut end) = (self.first, self.first + 1);
        if first >= self.last {
            return None;
        }
        while end < self.last && keys[end] == keys[first] {
            end += 1;
        }
        self.first = end;
        let soon = points.get(first + AHEAD..).map_or(&[][..], |soon| &soon[..soon.len().min(end - first)]);
        Some((keys[first].cell() as usize, &points[first..end], soon))
    }
}

/// `voxelize` of host memory.
#[allow(clippy::too_many_arguments)]
pub(super) fn forward(
    clouds: &Clouds,
    features: Option<View>,
    tangent: Option<View>,
    reduce: Reduce,
    output: *mut u8,
    plan: &Workspace,
    workspace: *mut u8,
    threads: &dyn Threads,
) {
    let (cells, all) = (plan.cells, 0..clouds.batch());
    match (reduce, features) {
        (Reduce::Occupancy, _) if plan.parts > 0 => {
            for cloud in all {
                let grid = Shared(output.wrapping_add(cloud * cells));
                with_key!(cells as u64, K => occupancy::<K>(clouds, cloud, plan, grid, workspace, threads));
            }
        }
        (Reduce::Occupancy, _) => {
            clear(output, all.len() * cells, threads);
            let output = Shared(output);
            with_key!(cells as u64, K => each_run::<K>(clouds, all, threads, |cloud, _, found| {
                let output = &output;
                for cell in found.iter().map(|key| key.cell() as usize).filter(|&cell| cell < cells) {
                    // SAFETY: a byte for each cell of each cloud; threads that meet there write the same.
                    unsafe { AtomicU8::from_ptr(output.0.add(cloud * cells + cell)) }.store(1, Relaxed);
                }
            }));
        }
        (Reduce::Count, _) | (_, None) => {
            clear(output, all.len() * cells * size_of::<i32>(), threads);
            count(clouds, all, output.cast(), cells, threads);
        }
        (_, Some(features)) => {
            huge_pages(output, all.len() * features.size(2) * cells * features.dtype().size());
            for cloud in all {
                let voxels = Voxels { features: &features, tangent: tangent.as_ref(), cloud, reduce };
                with_key!(cells as u64, K => {
                    // SAFETY: `voxelize` checked the workspace.
                    let groups = unsafe { Groups::<K>::new(clouds, cloud, plan, workspace, threads) };
                    with_floating!(features.dtype(), F => grids::<F, K>(&groups, &voxels, output.cast(), cells, threads));
                });
            }
        }
    }
}

/// Points whose cells are found at a time.
const RUN: usize = 256;

/// Marks a cloud's occupied cells: each thread in bits of its own, those of the first of its parts, so that threads do
/// not take each other's cache lines; then all bits become bytes.
fn occupancy<K: Key>(
    clouds: &Clouds,
    cloud: usize,
    plan: &Workspace,
    grid: Shared<u8>,
    workspace: *mut u8,
    threads: &dyn Threads,
) {
    let (cells, points, words) = (plan.cells, clouds.points(), plan.cells.div_ceil(64));
    let bits = Shared(workspace.wrapping_add(plan.marks_at).cast::<u64>());
    let marked: [AtomicBool; MOST_PARTS] = Default::default();
    threads.run(plan.parts, 1, &|range| {
        // SAFETY: `voxelize` checked the workspace, and the words of a part are those of the thread that has it.
        let bits = unsafe { bits.slice(range.start * words, words) };
        bits.fill(0);
        marked[range.start].store(true, Relaxed);
        let end = range.end * points / plan.parts;
        for first in (range.start * points / plan.parts..end).step_by(RUN) {
            let mut keys = [K::default(); RUN];
            let keys = &mut keys[..RUN.min(end - first)];
            // SAFETY: host memory (a place on the CPU); the key was chosen for the cells.
            unsafe { cells_cpu::write(clouds, cloud, first, keys) };
            for cell in keys.iter().map(|key| key.cell() as usize).filter(|&cell| cell < cells) {
                bits[cell / 64] |= 1 << (cell % 64);
            }
        }
    });
    let parts: Vec<usize> = (0..plan.parts).filter(|&part| marked[part].load(Relaxed)).collect();
    threads.run(words, GRAIN / 64, &|range| {
        let (bits, grid) = (&bits, &grid);
        for word in range {
            // SAFETY: as above; they are written.
            let marked = parts.iter().fold(0, |all, part| all | unsafe { *bits.0.add(part * words + word) });
            let flags = spread_bits(marked);
            let here = flags.len().min(cells - 64 * word);
            // SAFETY: a byte for each cell; a word's cells are one thread's.
            unsafe { grid.slice(64 * word, here) }.copy_from_slice(&flags[..here]);
        }
    });
}

/// A byte that is 0 or 1 for each bit, from the lowest on.
#[inline(always)]
fn spread_bits(bits: u64) -> [u8; 64] {
    let mut flags = [0; 64];
    for (eight, byte) in flags.chunks_exact_mut(8).zip(bits.to_le_bytes()) {
        // Each byte keeps one bit of its own, which the addition carries to its highest place.
        let kept = (u64::from(byte) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        eight.copy_from_slice(&(((kept + 0x7f7f_7f7f_7f7f_7f7f) >> 7) & 0x0101_0101_0101_0101).to_le_bytes());
    }
    flags
}

/// Adds one for each point to the cell of its cloud, the first of which is that of `range.start`.
fn count(clouds: &Clouds, range: Range<usize>, counts: *mut i32, cells: usize, threads: &dyn Threads) {
    let (start, counts) = (range.start, Shared(counts));
    with_key!(cells as u64, K => each_run::<K>(clouds, range, threads, |cloud, _, found| {
        let counts = &counts;
        for cell in found.iter().map(|key| key.cell() as usize).filter(|&cell| cell < cells) {
            // SAFETY: a number for each cell of each cloud.
            let place = unsafe { AtomicI32::from_ptr(counts.0.add((cloud - start) * cells + cell)) };
            place.fetch_add(1, Relaxed);
        }
    }));
}

/// Some cells of a cloud's grid, for one thread.
struct Piece<'g, F, K> {
    groups: &'g Groups<'g, K>,
    voxels: &'g Voxels<'g, 'g>,
    output: &'g Shared<F>,
    cells: usize,
    range: Range<usize>,
}

impl<F: Feature, K: Key> Work for Piece<'_, F, K> {
    #[inline(always)]
    fn run(self) {
        let Piece { groups, voxels, output, cells, range } = self;
        let channels = voxels.features.size(2);
        // A few cells at a time, so that what is cleared is still near when it is written.
        for first in range.clone().step_by(CELLS) {
            let here = first..range.end.min(first + CELLS);
            for channel in 0..channels {
                let at = (voxels.cloud * channels + channel) * cells + first;
                // SAFETY: these cells of the output are this thread's; all bits zero is zero in every floating type.
                unsafe { output.0.add(at).write_bytes(0, here.len()) };
            }
            let mut walk = groups.within(&here);
            while let Some((cell, points, soon)) = walk.next() {
                for &point in soon {
                    voxels.fetch::<F>(point);
                }
                // SAFETY: host memory of type `F`; the points are those of the cloud, and each place is written by one
                // thread.
                unsafe {
                    let first = output.0.add(voxels.cloud * channels * cells + cell);
                    voxels.reduce(points, Place { first, step: cells });
                }
            }
        }
    }
}

fn grids<F: Feature, K: Key>(groups: &Groups<K>, voxels: &Voxels, output: *mut F, cells: usize, threads: &dyn Threads) {
    let (pieces, output) = (groups.pieces(cells, POINT), Shared(output));
    threads.run(pieces.len(), 1, &|range| {
        for piece in &pieces[range] {
            Level::best().run(Piece { groups, voxels, output: &output, cells, range: piece.clone() });
        }
    });
}

/// `voxelize_backward` of host memory.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    clouds: &Clouds,
    grad: View,
    features: Option<View>,
    reduce: Reduce,
    output: *mut u8,
    plan: &Workspace,
    workspace: *mut u8,
    threads: &dyn Threads,
) {
    with_floating!(grad.dtype(), F => match features.filter(|_| reduce.picks()) {
        Some(features) => send::<F>(clouds, &grad, &features, reduce, output.cast(), plan, workspace, threads),
        None => spread::<F>(clouds, &grad, reduce, output.cast(), plan, workspace, threads),
    });
}

/// The gradient of a sum or a mean: every point gets that of its voxel.
fn spread<F: Feature>(
    clouds: &Clouds,
    grad: &View,
    reduce: Reduce,
    output: *mut F,
    plan: &Workspace,
    workspace: *mut u8,
    threads: &dyn Threads,
) {
    for cloud in 0..clouds.batch() {
        let rows = Rows { grad, reduce, cloud, output: Shared(output), points: clouds.points() };
        with_key!(plan.cells as u64, K => {
            if plan.groups {
                // SAFETY: `voxelize_backward` checked the workspace.
                let groups = unsafe { Groups::<K>::new(clouds, cloud, plan, workspace, threads) };
                spread_cells(&rows, &groups, plan.cells, threads);
            } else {
                spread_points::<F, K>(&rows, clouds, plan.cells, threads);
            }
        });
    }
}

/// Where the points of a cloud get the gradient of their voxels.
struct Rows<'g, F> {
    grad: &'g View<'g>,
    reduce: Reduce,
    cloud: usize,
    output: Shared<F>,
    /// Of a cloud.
    points: usize,
}

/// Channels whose gradients are read before any is written: the points of a voxel then get theirs side by side.
const SENT: usize = 16;

impl<F: Feature> Rows<'_, F> {
    fn channels(&self) -> usize {
        self.grad.size(1)
    }

    /// Where a point's row is written.
    #[inline(always)]
    fn row(&self, point: i32) -> *mut F {
        self.output.0.wrapping_add((self.cloud * self.points + point as usize) * self.channels())
    }

    /// Gives all points of a cell its gradient.
    ///
    /// # Safety
    /// Host memory of type `F`; the cell is of the grid, and no other thread writes these points' rows.
    #[inline(always)]
    unsafe fn send(&self, cell: usize, points: &[i32]) {
        let [cloud_stride, channel_stride, cell_stride] = [0, 1, 2].map(|axis| self.grad.stride(axis));
        let from = self.cloud as isize * cloud_stride + cell as isize * cell_stride;
        let count = if self.reduce == Reduce::Mean { points.len() as f64 } else { 1.0 };
        let mut sent = [F::narrow_from(0.0); SENT];
        for first in (0..self.channels()).step_by(SENT) {
            let here = SENT.min(self.channels() - first);
            // SAFETY: the caller's promise.
            unsafe {
                for (value, channel) in sent[..here].iter_mut().zip(first..) {
                    *value = *self.grad.at::<F>(from + channel as isize * channel_stride);
                }
                if count != 1.0 {
                    for value in &mut sent[..here] {
                        *value = F::rounded(value.to_f64(), count);
                    }
                }
                for &point in points {
                    self.row(point).add(first).copy_from_nonoverlapping(sent.as_ptr(), here);
                }
            }
        }
    }

    /// Gives points that are in no cell zero.
    ///
    /// # Safety
    /// As for [`Rows::send`].
    unsafe fn drop(&self, points: &[i32]) {
        for &point in points {
            // SAFETY: the caller's promise; all bits zero is zero in every floating type.
            unsafe { self.row(point).write_bytes(0, self.channels()) }
        }
    }
}

/// Some cells of a cloud's grid, for one thread.
struct Spread<'g, F, K> {
    rows: &'g Rows<'g, F>,
    groups: &'g Groups<'g, K>,
    range: Range<usize>,
}

impl<F: Feature, K: Key> Work for Spread<'_, F, K> {
    #[inline(always)]
    fn run(self) {
        let mut walk = self.groups.within(&self.range);
        while let Some((cell, points, soon)) = walk.next() {
            for &point in soon {
                prefetch(self.rows.row(point));
            }
            // SAFETY: host memory of type `F`; a point of the cloud is in one cell, and a cell in one piece.
            unsafe { self.rows.send(cell, points) }
        }
    }
}

/// Cell by cell, in order: neighbours share what is read of the grid.
fn spread_cells<F: Feature, K: Key>(rows: &Rows<F>, groups: &Groups<K>, cells: usize, threads: &dyn Threads) {
    threads.run(groups.dropped.len(), GRAIN, &|range| {
        // SAFETY: host memory of type `F`; a point is dropped once.
        unsafe { rows.drop(&groups.dropped[range]) }
    });
    let pieces = groups.pieces(cells, POINT);
    threads.run(pieces.len(), 1, &|range| {
        for piece in &pieces[range] {
            Level::best().run(Spread { rows, groups, range: piece.clone() });
        }
    });
}

/// Point by point, of a sum whose points have far more cells.
fn spread_points<F: Feature, K: Key>(rows: &Rows<F>, clouds: &Clouds, cells: usize, threads: &dyn Threads) {
    each_run::<K>(clouds, rows.cloud..rows.cloud + 1, threads, |_, first, found| {
        for (point, key) in (first as i32..).zip(found) {
            let cell = key.cell() as usize;
            // SAFETY: host memory of type `F`; each point comes once.
            unsafe { if cell < cells { rows.send(cell, &[point]) } else { rows.drop(&[point]) } }
        }
    });
}

/// The gradient of an extremum: its holder gets all of it.
#[allow(clippy::too_many_arguments)]
fn send<F: Feature>(
    clouds: &Clouds,
    grad: &View,
    features: &View,
    reduce: Reduce,
    output: *mut F,
    plan: &Workspace,
    workspace: *mut u8,
    threads: &dyn Threads,
) {
    let (points, channels) = (clouds.points(), grad.size(1));
    clear(output.cast(), clouds.batch() * points * channels * size_of::<F>(), threads);
    let output = Shared(output);
    for cloud in 0..clouds.batch() {
        with_key!(plan.cells as u64, K => {
            // SAFETY: `voxelize_backward` checked the workspace.
            let groups = unsafe { Groups::<K>::new(clouds, cloud, plan, workspace, threads) };
            let pieces = groups.pieces(plan.cells, POINT);
            threads.run(pieces.len(), 1, &|range| {
                let output = &output;
                let voxels = Voxels { features, tangent: None, cloud, reduce };
                let cells = pieces[range.start].start..pieces[range.end - 1].end;
                let mut walk = groups.within(&cells);
                while let Some((cell, inside, soon)) = walk.next() {
                    soon.iter().for_each(|&point| voxels.fetch::<F>(point));
                    for channel in 0..channels {
                        let at = cloud as isize * grad.stride(0)
                            + channel as isize * grad.stride(1)
                            + cell as isize * grad.stride(2);
                        // SAFETY: host memory of type `F`; a point of the cloud is in one cell, so each place is written
                        // once.
                        unsafe {
                            let point = holder::<F>(&Column::new(features, cloud, channel), inside, reduce);
                            output.set((cloud * points + point) * channels + channel, *grad.at::<F>(at));
                        }
                    }
                }
            });
        });
    }
}
