//! `voxelize` on the CPU: points find their voxels on every thread, a counting sort groups them, and voxels are reduced
//! on every thread.

use super::cells_cpu::{self, Key, each_run, with_key};
use super::exact::Feature;
use super::grid::Clouds;
use super::groups_cpu::{CELLS, Groups};
use super::plan::{MOST_PARTS, Workspace};
use super::reduce::Reduce;
use super::rows::{Place, Voxels};
use crate::ops::rows::GRAIN;
use crate::simd::{Level, Work};
use crate::tensor::{DType, View};
use crate::threads::{Threads, huge_pages};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering::Relaxed};

/// Voxels that are as much work as a point.
pub(super) const POINT: usize = 4;

/// Bytes of a grid that a thread clears before it writes there: they stay in its second-level cache.
const NEAR_BYTES: usize = 128 << 10;

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
        let step = (NEAR_BYTES / (channels * size_of::<F>()).max(1)).clamp(1, CELLS);
        for first in range.clone().step_by(step) {
            let here = first..range.end.min(first + step);
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

/// Writes the cell of each point, or -1, where int32 counts them.
pub(super) fn point_voxel(clouds: &Clouds, output: *mut i32, threads: &dyn Threads) {
    let (output, points) = (Shared(output), clouds.points());
    let dropped = clouds.grid.cells().unwrap_or(u64::MAX);
    each_run::<u32>(clouds, 0..clouds.batch(), threads, |cloud, first, found| {
        for (point, &cell) in (cloud * points + first..).zip(found) {
            let cell = if u64::from(cell) < dropped { cell as i32 } else { -1 };
            // SAFETY: the caller has an int32 for each point, and each comes once.
            unsafe { output.set(point, cell) };
        }
    });
}
