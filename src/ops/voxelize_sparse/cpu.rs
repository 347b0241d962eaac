//! `voxelize_sparse` on the CPU: a radix sort of each cloud's keys, then rows in order.

use super::plan::{DIGIT, DIGITS, Workspace};
use super::{Fill, Rows};
use crate::ops::rows::GRAIN;
use crate::ops::voxelize::cpu::{Shared, clear, each_point, with_floating};
use crate::ops::voxelize::exact::Feature;
use crate::ops::voxelize::grid::Clouds;
use crate::ops::voxelize::reduce::Reduce;
use crate::ops::voxelize::rows::{Column, holder, value};
use crate::tensor::{DType, View};
use crate::threads::Threads;
use half::{bf16, f16};
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Sorts pairs by the keys' digits from the lowest on; equal keys stay in order, and the result is in the first pair.
fn sort(keys: &mut [u64], order: &mut [i32], spare_keys: &mut [u64], spare_order: &mut [i32], passes: u32) {
    let mut swapped = false;
    let (mut from, mut to) = ((keys, order), (spare_keys, spare_order));
    for pass in 0..passes {
        let digit = |key: u64| (key >> (pass * DIGIT)) as usize % DIGITS;
        let mut places = [0usize; DIGITS];
        from.0.iter().for_each(|&key| places[digit(key)] += 1);
        if places.contains(&from.0.len()) {
            continue; // One digit for all.
        }
        let mut next = 0;
        for place in &mut places {
            (*place, next) = (next, next + *place);
        }
        for (&key, &point) in from.0.iter().zip(from.1.iter()) {
            let place = &mut places[digit(key)];
            (to.0[*place], to.1[*place]) = (key, point);
            *place += 1;
        }
        std::mem::swap(&mut from, &mut to);
        swapped = !swapped;
    }
    if swapped {
        to.0.copy_from_slice(from.0);
        to.1.copy_from_slice(from.1);
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
    let (batch, points) = (clouds.batch(), clouds.points());
    // A dropped point's key is one past every cell.
    let dropped = clouds.grid.cells().unwrap_or(u64::MAX);
    // SAFETY: `voxelize_sparse_rows` checked the sizes of the outputs and of the workspace; any bits are numbers, and
    // the parts do not overlap.
    let (keys, orders, spare_keys, spare_order) = unsafe {
        std::ptr::write_bytes(workspace, 0, plan.bytes);
        order.write_bytes(0, batch * points);
        (
            from_raw_parts_mut(workspace.add(plan.keys_at).cast::<u64>(), batch * points),
            from_raw_parts_mut(order, batch * points),
            from_raw_parts_mut(workspace.add(plan.spare_keys_at).cast::<u64>(), points * batch.min(1)),
            from_raw_parts_mut(workspace.add(plan.spare_order_at).cast::<i32>(), points * batch.min(1)),
        )
    };
    let (written, placed) = (Shared(keys.as_mut_ptr()), Shared(orders.as_mut_ptr()));
    each_point(clouds, 0..batch, threads, |cloud, point, cell| {
        let (written, placed) = (&written, &placed);
        // SAFETY: a place for each point of each cloud.
        unsafe {
            written.set(cloud * points + point, cell.unwrap_or(dropped));
            placed.set(cloud * points + point, point as i32);
        }
    });
    let mut found = 0;
    if points > 0 {
        for (keys, order) in keys.chunks_exact_mut(points).zip(orders.chunks_exact_mut(points)) {
            sort(keys, order, spare_keys, spare_order, plan.passes);
            let kept = keys.partition_point(|&key| key < dropped);
            found += keys[..kept].chunk_by(|a, b| a == b).count() as i64;
        }
    }
    // SAFETY: one number, checked.
    unsafe { num_voxels.write(found) };
}

/// `voxelize_sparse_fill` of host memory.
pub(super) fn fill(rows: &Fill, plan: &Workspace, workspace: *mut u8) {
    let (points, [x, y, z]) = (rows.points, rows.size.map(|voxels| voxels as u64));
    let dropped = x * y * z;
    // SAFETY: `voxelize_sparse_fill` checked all sizes; the workspace is as `rows` left it, and `order` too.
    let (keys, order) = unsafe {
        let all = rows.batch * points;
        (from_raw_parts(workspace.add(plan.keys_at).cast::<u64>(), all), from_raw_parts(rows.order, all))
    };
    let mut row = 0;
    for cloud in 0..if points > 0 { rows.batch } else { 0 } {
        let (keys, order) = (&keys[cloud * points..][..points], &order[cloud * points..][..points]);
        let mut start = 0;
        for voxel in keys.chunk_by(|a, b| a == b) {
            let (key, kept) = (voxel[0], voxel[0] != dropped && row < rows.rows);
            for &point in &order[start..start + voxel.len()] {
                // SAFETY: a point of the cloud.
                unsafe {
                    rows.point_voxel.add(cloud * points + point as usize).write(if kept { row as i64 } else { -1 })
                };
            }
            if kept {
                let coords = [cloud as u64, key / (y * z), key / z % y, key % z];
                // SAFETY: a row of the outputs.
                unsafe {
                    rows.coords.add(4 * row).cast::<[i32; 4]>().write(coords.map(|place| place as i32));
                    rows.counts.add(row).write(voxel.len() as i32);
                    rows.starts.add(row).write(start as i32);
                }
                row += 1;
            }
            start += voxel.len();
        }
    }
    for row in row..rows.rows {
        // SAFETY: as above.
        unsafe {
            rows.coords.add(4 * row).cast::<[i32; 4]>().write([-1; 4]);
            rows.counts.add(row).write(0);
            rows.starts.add(row).write(0);
        }
    }
}

/// The cloud and the points of a row; nothing where the numbers are not those of a row of these clouds.
///
/// # Safety
/// The views are dense host memory, checked by `Rows::new`; `row` is one of them.
unsafe fn points_of<'a>(rows: &Rows<'a>, row: usize) -> (usize, &'a [i32]) {
    let (batch, points) = (rows.order.size(0), rows.order.size(1));
    // SAFETY: the caller's promise.
    let (cloud, start, count) = unsafe {
        let number = |view: &View, index: usize| *view.at::<i32>(index as isize);
        (number(&rows.coords, 4 * row), number(&rows.starts, row), number(&rows.counts, row))
    };
    let (Ok(cloud), Ok(start), Ok(count)) = (usize::try_from(cloud), usize::try_from(start), usize::try_from(count))
    else {
        return (0, &[]);
    };
    if cloud >= batch || start + count > points {
        return (0, &[]);
    }
    // SAFETY: as above, and the range lies within the cloud's order.
    let order = unsafe { from_raw_parts(rows.order.at::<i32>((cloud * points + start) as isize), count) };
    let valid = order.iter().all(|&point| usize::try_from(point).is_ok_and(|point| point < points));
    (cloud, if valid { order } else { &[] })
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
    let (channels, output) = (features.size(2), Shared(output));
    threads.run(rows.len(), GRAIN.div_ceil(8 * channels), &|range| {
        let output = &output;
        for row in range {
            // SAFETY: `voxelize_sparse_values` checked the views; each place of the output is written once.
            unsafe {
                let (cloud, points) = points_of(rows, row);
                for channel in 0..channels {
                    let column = Column::new(features, cloud, channel);
                    let tangent = tangent.map(|tangent| Column::new(tangent, cloud, channel));
                    let found = if points.is_empty() {
                        F::narrow_from(0.0)
                    } else {
                        value::<F>(&column, tangent.as_ref(), points, reduce)
                    };
                    output.set(row * channels + channel, found);
                }
            }
        }
    });
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
    let (all, channels, output) = (rows.order.size(0) * rows.order.size(1), grad.size(1), Shared(output));
    threads.run(all, GRAIN.div_ceil(channels), &|range| {
        let output = &output;
        for point in range {
            // SAFETY: `voxelize_sparse_backward` checked the views, dense but for `grad`; rows are within them, and
            // each place of the output is written once.
            unsafe {
                let row = usize::try_from(*point_voxel.at::<i64>(point as isize)).ok().filter(|&row| row < rows.len());
                let mean = row.filter(|_| reduce == Reduce::Mean);
                let count = mean.map_or(1, |row| *rows.counts.at::<i32>(row as isize));
                for channel in 0..channels {
                    let sent = row.map_or(0.0, |row| {
                        (*grad.at::<F>(row as isize * grad.stride(0) + channel as isize * grad.stride(1))).to_f64()
                    });
                    output.set(point * channels + channel, F::rounded(sent, f64::from(count)));
                }
            }
        }
    });
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
                let (cloud, inside) = points_of(rows, row);
                for channel in if inside.is_empty() { 0..0 } else { 0..channels } {
                    let point = holder::<F>(&Column::new(features, cloud, channel), inside, reduce);
                    let sent = *grad.at::<F>(row as isize * grad.stride(0) + channel as isize * grad.stride(1));
                    output.set((cloud * points + point) * channels + channel, sent);
                }
            }
        }
    });
}
