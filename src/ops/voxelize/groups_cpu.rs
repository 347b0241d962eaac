//! The points of a cloud by cell on the CPU, and walks along the cells that have points.

use super::cells_cpu::{self, Key};
use super::grid::Clouds;
use super::plan::Workspace;
use super::sort_cpu::{Pairs, sort};
use crate::threads::Threads;
use std::ops::Range;
use std::slice::from_raw_parts_mut;

/// Voxels below which another thread costs more than it saves.
pub(super) const CELLS: usize = 4096;
/// Pieces of a grid at most: enough for the threads of a machine, each with its own part of the grid.
const PIECES: usize = 64;
/// Points between asking for one's features and reading them.
pub(crate) const AHEAD: usize = 16;
/// The same of what a point is sent whose voxel is known: these come in no order, so they lie anywhere.
pub(crate) const KNOWN_AHEAD: usize = 8;

/// The points of a cloud by cell: keys that ascend, and the points in that order; apart from them the dropped ones.
#[derive(Clone, Copy)]
pub(super) struct Groups<'w, K> {
    pub keys: &'w [K],
    pub points: &'w [i32],
    pub dropped: &'w [i32],
}

impl<'w, K: Key> Groups<'w, K> {
    /// Of a cloud.
    ///
    /// # Safety
    /// `workspace` has the bytes that `plan` says, aligned to 16, and nothing else uses them while the groups live.
    pub unsafe fn new(
        clouds: &Clouds,
        cloud: usize,
        plan: &Workspace,
        workspace: *mut u8,
        threads: &dyn Threads,
    ) -> Self {
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

    /// Ranges of neighbouring cells that are about as much work as each other, where a point is as much as `weight`
    /// cells.
    pub fn pieces(&self, cells: usize, weight: usize) -> Vec<Range<usize>> {
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
    pub fn within(&self, cells: &Range<usize>) -> Walk<'w, K> {
        Walk { groups: *self, first: self.before(cells.start), last: self.before(cells.end) }
    }
}

/// A walk along cells that have points. No iterator with a body: a closure would be compiled for the base instruction
/// set.
pub(super) struct Walk<'w, K> {
    groups: Groups<'w, K>,
    first: usize,
    last: usize,
}

impl<'w, K: Key> Walk<'w, K> {
    /// The next cell, its points, and as many points that will soon follow.
    #[inline(always)]
    pub fn next(&mut self) -> Option<(usize, &'w [i32], &'w [i32])> {
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
