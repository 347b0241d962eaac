//! The gradient of `voxelize` on the CPU: cell by cell where points are grouped, else point by point.

use super::cells_cpu::{Key, each_run, with_key};
use super::cpu::{POINT, Shared, clear, with_floating};
use super::derivatives::Counted;
use super::exact::Feature;
use super::grid::Clouds;
use super::groups_cpu::{Groups, KNOWN_AHEAD};
use super::plan::Workspace;
use super::reduce::Reduce;
use super::rows::{Column, Voxels, holder};
use crate::ops::rows::GRAIN;
use crate::simd::{Level, Work, prefetch};
use crate::tensor::{DType, View};
use crate::threads::Threads;
use half::{bf16, f16};
use std::ops::Range;

/// `voxelize_backward` of host memory; with what was `counted` for a mean nothing is borrowed.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    clouds: &Clouds,
    grad: View,
    features: Option<View>,
    reduce: Reduce,
    counted: Option<Counted>,
    output: *mut u8,
    plan: &Workspace,
    workspace: *mut u8,
    threads: &dyn Threads,
) {
    with_floating!(grad.dtype(), F => match features.filter(|_| reduce.picks()) {
        Some(features) => send::<F>(clouds, &grad, &features, reduce, output.cast(), plan, workspace, threads),
        None => spread::<F>(clouds, &grad, reduce, counted, output.cast(), plan, workspace, threads),
    });
}

/// The gradient of a sum or a mean: every point gets that of its voxel.
#[allow(clippy::too_many_arguments)]
fn spread<F: Feature>(
    clouds: &Clouds,
    grad: &View,
    reduce: Reduce,
    counted: Option<Counted>,
    output: *mut F,
    plan: &Workspace,
    workspace: *mut u8,
    threads: &dyn Threads,
) {
    for cloud in 0..clouds.batch() {
        let counts = counted.map(|counted| counted.counts);
        let rows = Rows { grad, reduce, counts, cloud, output: Shared(output), points: clouds.points() };
        if let Some(counted) = &counted {
            spread_known(&rows, &counted.point_voxel, plan.cells, threads);
            continue;
        }
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
    /// Of the points of each cell, where somebody has counted them.
    counts: Option<View<'g>>,
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

    /// How many points a cell has that share its gradient, as was counted before.
    ///
    /// # Safety
    /// Host memory; the cell is of the grid.
    #[inline(always)]
    unsafe fn counted(&self, cell: usize) -> usize {
        let Some(counts) = self.counts else { return 1 };
        let at = self.cloud as isize * counts.stride(0) + cell as isize;
        // SAFETY: the caller's promise.
        unsafe { (*counts.at::<i32>(at)).max(1) as usize }
    }

    /// Asks for what [`Rows::send`] reads first of a cell that was counted.
    ///
    /// # Safety
    /// The cell is of the grid.
    #[inline(always)]
    unsafe fn fetch(&self, cell: usize) {
        let [cloud_stride, channel_stride, cell_stride] = [0, 1, 2].map(|axis| self.grad.stride(axis));
        let from = self.cloud as isize * cloud_stride + cell as isize * cell_stride;
        for channel in 0..self.channels().min(SENT) {
            // SAFETY: the caller's promise.
            prefetch(unsafe { self.grad.at::<F>(from + channel as isize * channel_stride) });
        }
        if let Some(counts) = self.counts {
            // SAFETY: as above.
            prefetch(unsafe { counts.at::<i32>(self.cloud as isize * counts.stride(0) + cell as isize) });
        }
    }

    /// Gives points of a cell its gradient, which so many share.
    ///
    /// # Safety
    /// Host memory of type `F`; the cell is of the grid, and no other thread writes these points' rows.
    #[inline(always)]
    unsafe fn send(&self, cell: usize, points: &[i32], count: usize) {
        let [cloud_stride, channel_stride, cell_stride] = [0, 1, 2].map(|axis| self.grad.stride(axis));
        let from = self.cloud as isize * cloud_stride + cell as isize * cell_stride;
        let count = if self.reduce == Reduce::Mean { count as f64 } else { 1.0 };
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
            unsafe { self.rows.send(cell, points, points.len()) }
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

/// Point by point, of a mean whose points' cells are known, as are their counts.
fn spread_known<F: Feature>(rows: &Rows<F>, point_voxel: &View, cells: usize, threads: &dyn Threads) {
    let first = rows.cloud as isize * point_voxel.stride(0);
    threads.run(rows.points, GRAIN, &|range| {
        let cell_of = |point: usize| {
            // SAFETY: host memory of an int32 for each point.
            let cell = unsafe { *point_voxel.at::<i32>(first + point as isize) };
            usize::try_from(cell).ok().filter(|&cell| cell < cells)
        };
        for point in range.clone() {
            if let Some(cell) = Some(point + KNOWN_AHEAD).filter(|&soon| soon < range.end).and_then(cell_of) {
                // SAFETY: the cell is of the grid.
                unsafe { rows.fetch(cell) }
            }
            // SAFETY: host memory of type `F`; each point comes once.
            unsafe {
                match cell_of(point) {
                    Some(cell) => rows.send(cell, &[point as i32], rows.counted(cell)),
                    None => rows.drop(&[point as i32]),
                }
            }
        }
    });
}

/// Point by point, of a sum whose points have far more cells.
fn spread_points<F: Feature, K: Key>(rows: &Rows<F>, clouds: &Clouds, cells: usize, threads: &dyn Threads) {
    each_run::<K>(clouds, rows.cloud..rows.cloud + 1, threads, |_, first, found| {
        for (point, key) in (first as i32..).zip(found) {
            let cell = key.cell() as usize;
            // SAFETY: host memory of type `F`; each point comes once.
            unsafe { if cell < cells { rows.send(cell, &[point], 1) } else { rows.drop(&[point]) } }
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
                        // SAFETY: host memory of type `F`; a point of the cloud is in one cell, so each place is
                        // written once.
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
