//! `voxelize` on the CPU: points find their voxels on every thread, a counting sort groups them, and voxels are reduced
//! on every thread.

use super::exact::Feature;
use super::grid::{Clouds, Frame, Point};
use super::plan::Workspace;
use super::reduce::Reduce;
use super::rows::{Column, holder, value};
use crate::ops::rows::GRAIN;
use crate::tensor::{DType, View};
use crate::threads::Threads;
use half::{bf16, f16};
use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering::Relaxed};

/// The cell of a point that is in no voxel.
const NONE: u64 = u64::MAX;
/// Voxels below which another thread costs more than it saves.
const CELLS: usize = 4096;

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

/// Calls `body(cloud, point, cell)` for every point, on every thread; `None` for a point in no voxel.
pub(crate) fn each_point(
    clouds: &Clouds,
    range: Range<usize>,
    threads: &dyn Threads,
    body: impl Fn(usize, usize, Option<u64>) + Sync,
) {
    with_floating!(clouds.points.dtype(), P => each_point_of::<P>(clouds, range, threads, body));
}

/// `range` is of clouds.
fn each_point_of<P: Point>(
    clouds: &Clouds,
    range: Range<usize>,
    threads: &dyn Threads,
    body: impl Fn(usize, usize, Option<u64>) + Sync,
) {
    let (points, frame) = (clouds.points(), Frame::<P::Compute>::new(&clouds.grid));
    threads.run(range.len() * points, GRAIN, &|items| {
        let (mut cloud, mut point) = (range.start + items.start / points, items.start % points);
        // SAFETY: host memory (a place on the CPU), a cloud of the batch.
        let mut count = unsafe { clouds.count(cloud) };
        for _ in items {
            // SAFETY: as above, of type `P`, a point of the cloud.
            let cell = (point < count).then(|| unsafe { clouds.cell::<P>(&frame, cloud, point) }).flatten();
            body(cloud, point, cell);
            point += 1;
            if point == points {
                (cloud, point) = (cloud + 1, 0);
                if cloud < range.end {
                    // SAFETY: as above.
                    count = unsafe { clouds.count(cloud) };
                }
            }
        }
    });
}

/// The parts of the workspace, one cloud's at a time.
struct Parts<'w> {
    cells: &'w mut [u64],
    starts: &'w mut [i32],
    order: &'w mut [i32],
}

impl<'w> Parts<'w> {
    /// # Safety
    /// `workspace` has the bytes that `plan` says, aligned to 16, and nothing else uses them.
    unsafe fn new(plan: &Workspace, workspace: *mut u8, points: usize, cells: usize) -> Self {
        // SAFETY: the caller's promise; the parts do not overlap, and any bits are numbers.
        unsafe {
            let part = |at: usize| workspace.add(at);
            std::ptr::write_bytes(workspace, 0, plan.bytes);
            Parts {
                cells: std::slice::from_raw_parts_mut(part(plan.places_at).cast(), points),
                starts: std::slice::from_raw_parts_mut(part(plan.starts_at).cast(), cells + 1),
                order: std::slice::from_raw_parts_mut(part(plan.order_at).cast(), points),
            }
        }
    }

    /// Groups the points of a cloud: those of cell `c` are `order[starts[c]..starts[c + 1]]`, in ascending order.
    fn group(&mut self, clouds: &Clouds, cloud: usize, threads: &dyn Threads) {
        let cells = Shared(self.cells.as_mut_ptr());
        each_point(clouds, cloud..cloud + 1, threads, |_, point, cell| {
            // SAFETY: a place for each point.
            unsafe { cells.set(point, cell.unwrap_or(NONE)) }
        });
        self.starts.fill(0);
        let last = self.starts.len() - 1;
        let starts = &mut *self.starts;
        let inside = |cell: &&u64| **cell != NONE;
        self.cells.iter().filter(inside).for_each(|&cell| starts[cell as usize] += 1);
        // Where each cell ends; filling from the last point on then leaves where it starts.
        let mut end = 0;
        for start in starts[..last].iter_mut() {
            end += *start;
            *start = end;
        }
        starts[last] = end;
        for (point, &cell) in self.cells.iter().enumerate().rev().filter(|(_, cell)| inside(cell)) {
            let start = &mut starts[cell as usize];
            *start -= 1;
            self.order[*start as usize] = point as i32;
        }
    }

    fn points(&self, cell: usize) -> &[i32] {
        &self.order[self.starts[cell] as usize..self.starts[cell + 1] as usize]
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
        (Reduce::Occupancy, _) => {
            clear(output, all.len() * cells, threads);
            let output = Shared(output);
            each_point(clouds, all, threads, |cloud, _, cell| {
                let output = &output;
                if let Some(cell) = cell {
                    // SAFETY: a byte for each cell of each cloud; threads that meet there write the same.
                    unsafe { AtomicU8::from_ptr(output.0.add(cloud * cells + cell as usize)) }.store(1, Relaxed);
                }
            });
        }
        (Reduce::Count, _) | (_, None) => {
            clear(output, all.len() * cells * size_of::<i32>(), threads);
            count(clouds, all, output.cast(), cells, threads);
        }
        (_, Some(features)) => {
            // SAFETY: `voxelize` checked the workspace.
            let mut parts = unsafe { Parts::new(plan, workspace, clouds.points(), cells) };
            for cloud in all {
                parts.group(clouds, cloud, threads);
                with_floating!(features.dtype(), F => {
                    grids::<F>(&parts, &features, tangent.as_ref(), cloud, reduce, output.cast(), cells, threads)
                });
            }
        }
    }
}

/// Adds one for each point to the cell of its cloud, the first of which is that of `range.start`.
fn count(clouds: &Clouds, range: Range<usize>, counts: *mut i32, cells: usize, threads: &dyn Threads) {
    let (first, counts) = (range.start, Shared(counts));
    each_point(clouds, range, threads, |cloud, _, cell| {
        let counts = &counts;
        if let Some(cell) = cell {
            // SAFETY: a number for each cell of each cloud.
            let place = unsafe { AtomicI32::from_ptr(counts.0.add((cloud - first) * cells + cell as usize)) };
            place.fetch_add(1, Relaxed);
        }
    });
}

#[allow(clippy::too_many_arguments)]
fn grids<F: Feature>(
    parts: &Parts,
    features: &View,
    tangent: Option<&View>,
    cloud: usize,
    reduce: Reduce,
    output: *mut F,
    cells: usize,
    threads: &dyn Threads,
) {
    let (channels, output) = (features.size(2), Shared(output));
    threads.run(cells, CELLS, &|range| {
        let output = &output;
        // A few cells at a time, so that what is cleared is still near when it is written.
        for first in range.clone().step_by(CELLS) {
            let cells_here = first..range.end.min(first + CELLS);
            for channel in 0..channels {
                let at = (cloud * channels + channel) * cells + first;
                // SAFETY: these cells of the output are this thread's; all bits zero is zero in every floating type.
                unsafe { output.0.add(at).write_bytes(0, cells_here.len()) };
            }
            for cell in cells_here {
                let points = parts.points(cell);
                if points.is_empty() {
                    continue;
                }
                for channel in 0..channels {
                    let column = Column::new(features, cloud, channel);
                    let tangent = tangent.map(|tangent| Column::new(tangent, cloud, channel));
                    // SAFETY: host memory of type `F`; the points are those of the cloud, and each place is written by
                    // one thread.
                    unsafe {
                        let found = value::<F>(&column, tangent.as_ref(), points, reduce);
                        output.set((cloud * channels + channel) * cells + cell, found);
                    }
                }
            }
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
    let (points, channels, output) = (clouds.points(), grad.size(1), Shared(output));
    let counts: *mut i32 = workspace.cast();
    for cloud in 0..clouds.batch() {
        if reduce == Reduce::Mean {
            clear(workspace, plan.cells * size_of::<i32>(), threads);
            count(clouds, cloud..cloud + 1, counts, plan.cells, threads);
        }
        let counts = Shared(counts);
        each_point(clouds, cloud..cloud + 1, threads, |_, point, cell| {
            let (output, counts) = (&output, &counts);
            // SAFETY: a count for each cell, written above.
            let count =
                cell.filter(|_| reduce == Reduce::Mean).map_or(1, |cell| unsafe { *counts.0.add(cell as usize) });
            for channel in 0..channels {
                let sent = cell.map_or(0.0, |cell| {
                    let at = cloud as isize * grad.stride(0)
                        + channel as isize * grad.stride(1)
                        + cell as isize * grad.stride(2);
                    // SAFETY: host memory of type `F`, within the shape.
                    unsafe { *grad.at::<F>(at) }.to_f64()
                });
                // SAFETY: each place is written once.
                unsafe {
                    output.set((cloud * points + point) * channels + channel, F::rounded(sent, f64::from(count)))
                };
            }
        });
    }
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
    // SAFETY: `voxelize_backward` checked the workspace.
    let mut parts = unsafe { Parts::new(plan, workspace, points, plan.cells) };
    for cloud in 0..clouds.batch() {
        parts.group(clouds, cloud, threads);
        threads.run(plan.cells, CELLS, &|range| {
            let output = &output;
            for cell in range {
                let inside = parts.points(cell);
                for channel in if inside.is_empty() { 0..0 } else { 0..channels } {
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
    }
}
