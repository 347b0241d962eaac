//! `voxelize_sparse` on the CPU: a radix sort of each cloud's keys, then rows in order.

use super::plan::Workspace;
use super::{Fill, Rows};
use crate::ops::rows::GRAIN;
use crate::ops::voxelize::cells_cpu::{self, Key, with_key};
use crate::ops::voxelize::cpu::{Shared, clear, with_floating};
use crate::ops::voxelize::exact::Feature;
use crate::ops::voxelize::grid::Clouds;
use crate::ops::voxelize::groups_cpu::{AHEAD, KNOWN_AHEAD};
use crate::ops::voxelize::reduce::Reduce;
use crate::ops::voxelize::rows::{Column, Place, Voxels, holder};
use crate::ops::voxelize::sort_cpu::{Pairs, sort};
use crate::simd::{Level, Work, prefetch};
use crate::tensor::{DType, View};
use crate::threads::{Threads, huge_pages};
use half::{bf16, f16};
use std::ops::Range;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Sorted points of a part of a cloud: what a thread takes.
const PART: usize = 16 * 1024;

/// The keys of a call as `rows` leaves them in its workspace, sorted within each cloud.
struct Sorted<'w, K> {
    keys: &'w [K],
    points: usize,
    dropped: u64,
}

impl<K: Key> Sorted<'_, K> {
    /// Parts of a cloud.
    fn parts(&self) -> usize {
        self.points.div_ceil(PART)
    }

    /// Parts of all clouds.
    fn all_parts(&self) -> usize {
        self.keys.len().checked_div(self.points).map_or(0, |clouds| clouds * self.parts())
    }

    /// The cloud of a part.
    fn cloud(&self, part: usize) -> usize {
        part / self.parts()
    }

    /// Calls `body(key, points)` for each voxel whose first point is in the part, also [`Sorted::dropped`]; the points
    /// are places in the order of the cloud.
    #[inline(always)]
    fn each(&self, part: usize, mut body: impl FnMut(u64, Range<usize>)) {
        let keys = &self.keys[self.cloud(part) * self.points..][..self.points];
        let mut first = part % self.parts() * PART;
        let last = self.points.min(first + PART);
        while 0 < first && first < last && keys[first] == keys[first - 1] {
            first += 1;
        }
        while first < last {
            let mut end = first + 1;
            while end < self.points && keys[end] == keys[first] {
                end += 1;
            }
            body(keys[first].cell(), first..end);
            first = end;
        }
    }

    /// Voxels that begin in each part.
    fn voxels(&self, threads: &dyn Threads) -> Vec<usize> {
        let mut counts = vec![0; self.all_parts()];
        let places = Shared(counts.as_mut_ptr());
        threads.run(self.all_parts(), 1, &|parts| {
            for part in parts {
                let mut count = 0;
                self.each(part, |key, _| count += usize::from(key != self.dropped));
                // SAFETY: a place for each part.
                unsafe { places.set(part, count) };
            }
        });
        counts
    }
}

/// `voxelize_sparse_rows` of host memory.
pub(super) fn rows(
    clouds: &Clouds,
    order: *mut i32,
    num_voxels: *mut i64,
    plan: &Workspace,
    workspace: *mut u8,
    threads: &dyn Threads,
) {
    // A dropped point's key is one past every cell.
    let dropped = clouds.grid.cells().unwrap_or(u64::MAX);
    let found = with_key!(dropped, K => {
        // SAFETY: `voxelize_sparse_rows` checked the sizes of the outputs and of the workspace.
        unsafe { rows_of::<K>(clouds, dropped, order, plan, workspace, threads) }
    });
    // SAFETY: one number, checked.
    unsafe { num_voxels.write(found as i64) };
}

/// # Safety
/// `order` and `workspace` have the planned sizes, and nothing else uses them.
unsafe fn rows_of<K: Key>(
    clouds: &Clouds,
    dropped: u64,
    order: *mut i32,
    plan: &Workspace,
    workspace: *mut u8,
    threads: &dyn Threads,
) -> usize {
    let (batch, points) = (clouds.batch(), clouds.points());
    // SAFETY: the caller's promise; any bits are numbers, and the parts do not overlap.
    let (keys, spare_keys, spare_points) = unsafe {
        let part = |at: usize| workspace.add(at);
        let spare = from_raw_parts_mut(part(plan.spare_keys_at).cast::<K>(), points * batch.min(1));
        let spare_points = from_raw_parts_mut(part(plan.spare_order_at).cast::<i32>(), points * batch.min(1));
        (from_raw_parts_mut(part(plan.keys_at).cast::<K>(), batch * points), spare, spare_points)
    };
    // SAFETY: as above.
    let order = unsafe { from_raw_parts_mut(order, batch * points) };
    if points > 0 {
        for (cloud, (keys, points)) in keys.chunks_exact_mut(points).zip(order.chunks_exact_mut(points)).enumerate() {
            // SAFETY: host memory (a place on the CPU); the key was chosen for the cells.
            let write = |first: usize, keys: &mut [K]| unsafe { cells_cpu::write(clouds, cloud, first, keys) };
            let spare = Pairs { keys: &mut *spare_keys, points: &mut *spare_points };
            sort(Pairs { keys, points }, spare, u64::BITS - dropped.leading_zeros(), threads, &write);
        }
    }
    Sorted { keys: &*keys, points, dropped }.voxels(threads).into_iter().sum()
}

/// `voxelize_sparse_fill` of host memory.
pub(super) fn fill(rows: &Fill, plan: &Workspace, workspace: *mut u8, threads: &dyn Threads) {
    let dropped = rows.size.iter().map(|&voxels| voxels as u64).product();
    with_key!(dropped, K => {
        // SAFETY: `voxelize_sparse_fill` checked all sizes; the workspace is as `rows` left it.
        let keys = unsafe { from_raw_parts(workspace.add(plan.keys_at).cast::<K>(), rows.batch * rows.points) };
        fill_of(rows, &Sorted { keys, points: rows.points, dropped }, threads)
    });
}

fn fill_of<K: Key>(rows: &Fill, sorted: &Sorted<K>, threads: &dyn Threads) {
    let ([_, y, z], all) = (rows.size.map(|voxels| voxels as u64), rows.rows);
    let mut found = 0;
    let starts: Vec<usize> = sorted
        .voxels(threads)
        .into_iter()
        .map(|voxels| {
            found += voxels;
            found - voxels
        })
        .collect();
    let (coords, counts) = (Shared(rows.coords.cast::<[i32; 4]>()), Shared(rows.counts));
    let (begins, point_voxel, order) = (Shared(rows.starts), Shared(rows.point_voxel), Shared(rows.order.cast_mut()));
    threads.run(sorted.all_parts(), 1, &|parts| {
        let order = &order;
        for part in parts {
            let (cloud, mut row) = (sorted.cloud(part), starts[part]);
            // SAFETY: `order` is as `rows` left it, and nobody writes it.
            let order = unsafe { from_raw_parts(order.0.add(cloud * sorted.points), sorted.points) };
            // The cells along z of one x and y: divided for once.
            let (mut line, mut place) = (0..0, [cloud as i32, 0, 0, 0]);
            sorted.each(part, |key, points| {
                let kept = key != sorted.dropped && row < all;
                for &point in &order[points.clone()] {
                    let voxel = if kept { row as i64 } else { -1 };
                    // SAFETY: a point of the cloud, which is in one voxel.
                    unsafe { point_voxel.set(cloud * sorted.points + point as usize, voxel) };
                }
                if kept {
                    if !line.contains(&key) {
                        let xy = key / z;
                        line = xy * z..(xy + 1) * z;
                        (place[1], place[2]) = ((xy / y) as i32, (xy % y) as i32);
                    }
                    place[3] = (key - line.start) as i32;
                    // SAFETY: a row of the outputs, that of one voxel.
                    unsafe {
                        coords.set(row, place);
                        counts.set(row, points.len() as i32);
                        begins.set(row, points.start as i32);
                    }
                    row += 1;
                }
            });
        }
    });
    let first = found.min(all);
    threads.run(all - first, GRAIN, &|range| {
        for row in first + range.start..first + range.end {
            // SAFETY: as above.
            unsafe {
                coords.set(row, [-1; 4]);
                counts.set(row, 0);
                begins.set(row, 0);
            }
        }
    });
}

/// The cloud and the points of a row, nothing where the numbers are not those of a row of these clouds; and as many
/// points that will soon follow.
///
/// # Safety
/// The views are dense host memory, checked by `Rows::new`; `row` is one of them.
#[inline(always)]
unsafe fn points_of<'a>(rows: &Rows<'a>, row: usize) -> (usize, &'a [i32], &'a [i32]) {
    let (batch, points) = (rows.order.size(0), rows.order.size(1));
    // SAFETY: the caller's promise.
    let (cloud, start, count) = unsafe {
        let number = |view: &View, index: usize| *view.at::<i32>(index as isize);
        (number(&rows.coords, 4 * row), number(&rows.starts, row), number(&rows.counts, row))
    };
    let (Ok(cloud), Ok(start), Ok(count)) = (usize::try_from(cloud), usize::try_from(start), usize::try_from(count))
    else {
        return (0, &[], &[]);
    };
    if cloud >= batch || start + count > points {
        return (0, &[], &[]);
    }
    // SAFETY: as above, and the range lies within the cloud's order.
    let order = unsafe { from_raw_parts(rows.order.at::<i32>((cloud * points + start) as isize), points - start) };
    let (order, rest) = order.split_at(count);
    let valid = order.iter().all(|&point| usize::try_from(point).is_ok_and(|point| point < points));
    let soon = rest.get(AHEAD..).map_or(&[][..], |soon| &soon[..soon.len().min(count)]);
    (cloud, if valid { order } else { &[] }, soon)
}

/// `voxelize_sparse_values` of host memory.
pub(super) fn values(
    rows: &Rows,
    features: &View,
    tangent: Option<&View>,
    reduce: Reduce,
    output: *mut u8,
    threads: &dyn Threads,
) {
    with_floating!(features.dtype(), F => values_of::<F>(rows, features, tangent, reduce, output.cast(), threads));
}

fn values_of<F: Feature>(
    rows: &Rows,
    features: &View,
    tangent: Option<&View>,
    reduce: Reduce,
    output: *mut F,
    threads: &dyn Threads,
) {
    huge_pages(output.cast(), rows.len() * features.size(2) * size_of::<F>());
    let output = Shared(output);
    let voxels = Voxels { features, tangent, cloud: 0, reduce };
    threads.run(rows.len(), GRAIN.div_ceil(8 * features.size(2)), &|range| {
        Level::best().run(Piece { rows, voxels, output: &output, range });
    });
}

/// Some rows, for one thread.
struct Piece<'r, F> {
    rows: &'r Rows<'r>,
    voxels: Voxels<'r, 'r>,
    output: &'r Shared<F>,
    range: Range<usize>,
}

impl<F: Feature> Work for Piece<'_, F> {
    #[inline(always)]
    fn run(self) {
        let Piece { rows, voxels, output, range } = self;
        let channels = voxels.features.size(2);
        for row in range {
            // SAFETY: `voxelize_sparse_values` checked the views; each place of the output is written once.
            unsafe {
                let first = output.0.add(row * channels);
                let (cloud, points, soon) = points_of(rows, row);
                if points.is_empty() {
                    first.write_bytes(0, channels); // all bits zero is zero in every floating type
                    continue;
                }
                let voxels = Voxels { cloud, ..voxels };
                for &point in soon {
                    voxels.fetch::<F>(point);
                }
                voxels.reduce(points, Place { first, step: 1 });
            }
        }
    }
}

/// `voxelize_sparse_backward` of host memory; `features` where a point is picked.
pub(super) fn backward(
    rows: &Rows,
    grad: &View,
    features: Option<&View>,
    point_voxel: &View,
    reduce: Reduce,
    output: *mut u8,
    threads: &dyn Threads,
) {
    with_floating!(grad.dtype(), F => match features {
        Some(features) => send::<F>(rows, grad, features, reduce, output.cast(), threads),
        None => spread::<F>(rows, grad, point_voxel, reduce, output.cast(), threads),
    });
}

fn spread<F: Feature>(
    rows: &Rows,
    grad: &View,
    point_voxel: &View,
    reduce: Reduce,
    output: *mut F,
    threads: &dyn Threads,
) {
    let (all, channels) = (rows.order.size(0) * rows.order.size(1), grad.size(1));
    huge_pages(output.cast(), all * channels * size_of::<F>());
    let (mean, output) = (reduce == Reduce::Mean, Shared(output));
    threads.run(all, GRAIN.div_ceil(channels), &|range| {
        Level::best().run(Spread { rows, grad, point_voxel, mean, output: &output, range });
    });
}

/// Some points, for one thread.
struct Spread<'r, F> {
    rows: &'r Rows<'r>,
    grad: &'r View<'r>,
    point_voxel: &'r View<'r>,
    mean: bool,
    output: &'r Shared<F>,
    range: Range<usize>,
}

impl<F: Feature> Work for Spread<'_, F> {
    #[inline(always)]
    fn run(self) {
        let Spread { rows, grad, point_voxel, mean, output, range } = self;
        let (channels, [row_stride, channel_stride]) = (grad.size(1), [0, 1].map(|axis| grad.stride(axis)));
        let row_of = |point: usize| {
            // SAFETY: `voxelize_sparse_backward` checked the views, dense but for `grad`.
            let row = unsafe { *point_voxel.at::<i64>(point as isize) };
            usize::try_from(row).ok().filter(|&row| row < rows.len())
        };
        // SAFETY: as above; rows that were found are within the views.
        let first_of = |row: usize| unsafe { grad.at::<F>(row as isize * row_stride) };
        // SAFETY: as above.
        let count_of = |row: usize| unsafe { rows.counts.at::<i32>(row as isize) };
        for point in range.clone() {
            if let Some(row) = Some(point + KNOWN_AHEAD).filter(|&soon| soon < range.end).and_then(row_of) {
                prefetch(first_of(row));
                if mean {
                    prefetch(count_of(row));
                }
            }
            // SAFETY: as above; each place of the output is written once.
            unsafe {
                let to = output.0.add(point * channels);
                let Some(row) = row_of(point) else {
                    to.write_bytes(0, channels); // all bits zero is zero in every floating type
                    continue;
                };
                let (from, count) = (first_of(row), if mean { *count_of(row) } else { 1 });
                for channel in 0..channels {
                    let sent = *from.offset(channel as isize * channel_stride);
                    *to.add(channel) = if count == 1 { sent } else { F::rounded(sent.to_f64(), f64::from(count)) };
                }
            }
        }
    }
}

fn send<F: Feature>(rows: &Rows, grad: &View, features: &View, reduce: Reduce, output: *mut F, threads: &dyn Threads) {
    let (points, channels) = (rows.order.size(1), grad.size(1));
    clear(output.cast(), rows.order.size(0) * points * channels * size_of::<F>(), threads);
    let output = Shared(output);
    threads.run(rows.len(), GRAIN.div_ceil(8 * channels), &|range| {
        let output = &output;
        for row in range {
            // SAFETY: as in `values_of`; a point is in one row, so each place is written once.
            unsafe {
                let (cloud, inside, _) = points_of(rows, row);
                for channel in if inside.is_empty() { 0..0 } else { 0..channels } {
                    let point = holder::<F>(&Column::new(features, cloud, channel), inside, reduce);
                    let sent = *grad.at::<F>(row as isize * grad.stride(0) + channel as isize * grad.stride(1));
                    output.set((cloud * points + point) * channels + channel, sent);
                }
            }
        }
    });
}
