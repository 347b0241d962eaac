//! Which way the gradient of a sum or a mean takes to the points on CUDA, from plain numbers and testable without a
//! GPU.

use super::tiling::{MOST_LISTS, TILE_BITS};
use crate::ops::rows_plan::Access;

/// What counting the points of a voxel costs, in channels of its gradient: two scattered writes and two reads.
const CHANNELS_OF_COUNT: usize = 4;
/// Cells for each element of the points' gradient from which on CUDA a mean's goes to the points one by one.
const CELLS_OF_ELEMENT: usize = 4;

/// What such a mean may cost in all, and have of channels and of points a cell, where it is so little that launches take
/// most of the time: three short ones less than two that go by tiles (up to three tenths on an H100).
const COST_OF_FEW: usize = 1 << 19;
const CHANNELS_OF_FEW: usize = 6;
const POINTS_OF_CELL: usize = 4;

/// Whether the gradient of a mean goes to points that were counted by voxel on CUDA, not to those of a tile together:
/// so few in a large grid that the blocks of most tiles have nothing to do, or so few in all.
pub(crate) fn counts_by_voxel(batch: usize, points: usize, channels: usize, cells: usize) -> bool {
    let cost = points.saturating_mul(channels.saturating_add(CHANNELS_OF_COUNT));
    let few = channels <= CHANNELS_OF_FEW && points <= cells.saturating_mul(POINTS_OF_CELL);
    cost <= cells / CELLS_OF_ELEMENT || few && cost.saturating_mul(batch) <= COST_OF_FEW
}

/// Bytes of all grids, or of their counts, up to which points find them in a GPU's second-level cache (40 MB of an A100,
/// 50 of an H100) beside what else is read and written.
const NEAR_BYTES: usize = 24 << 20;

/// Whether all grids of so many bytes a cell are as near.
fn is_near(batch: usize, cells: usize, bytes: usize) -> bool {
    batch.saturating_mul(cells).saturating_mul(bytes) <= NEAR_BYTES
}

/// Bytes of a grid for each point that a launch reads and writes in the time that a point takes less from there than by
/// tiles; where tiles share lists so many, and so many for each channel, of at most so many. Found on an H100, the first
/// for a gradient and its forward, which keeps counts and voxels, together.
const BYTES_OF_OWN: usize = 90;
const BYTES_OF_POINT: usize = 150;
const BYTES_OF_CHANNEL: usize = 10;
const MOST_CHANNELS: usize = 24;

/// Whether points are so many that it is worth it to work out what each point of a voxel gets even where that is far.
fn is_full(points: usize, channels: usize, cells: usize, item: usize) -> bool {
    let share_lists = cells > MOST_LISTS << TILE_BITS;
    let bytes =
        if share_lists { BYTES_OF_POINT + BYTES_OF_CHANNEL * channels.min(MOST_CHANNELS) } else { BYTES_OF_OWN };
    let moved = pitch(channels, item).saturating_mul(2 * item).saturating_add(4).saturating_mul(cells);
    moved <= points.saturating_mul(bytes)
}

/// Points of all clouds up to which a device takes less for finding them again than its host for two more results (4.7 us
/// beside an H200).
const POINTS_OF_HOST: usize = 512;

/// Whether a mean that is recorded keeps its counts on CUDA: worth it where its gradient and they are near then, or points
/// are many.
pub(crate) fn keeps_counts(batch: usize, points: usize, channels: usize, cells: usize, item: usize) -> bool {
    let some = batch.saturating_mul(points) > POINTS_OF_HOST && channels > 0;
    let full = channels > 1 && is_full(points, channels, cells, item);
    some && (full || all_near(batch, channels, cells, item))
}

/// Whether what the points of a voxel get, of all voxels, and the counts are near.
fn all_near(batch: usize, channels: usize, cells: usize, item: usize) -> bool {
    is_near(batch, cells, 4) && is_near(batch, cells, pitch(channels, item).saturating_mul(item))
}

/// Channels of a point that reads a sector for each, which take as long as what a point takes by tiles; and how many more
/// of all points take as long as the launches that are left out then.
const CHANNELS_OF_TILES: usize = 4;
const ELEMENTS_OF_TILES: usize = 1 << 19;

/// Whether points read the gradient of a sum as it lies in less time than a tile together.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) fn reads_alone(batch: usize, points: usize, channels: usize, cells: usize, item: usize) -> bool {
    let more = batch.saturating_mul(points).saturating_mul(channels.saturating_sub(CHANNELS_OF_TILES));
    is_near(batch, cells, channels.saturating_mul(item)) && more <= ELEMENTS_OF_TILES
}

/// Elements of points that each read a sector for every channel, up to which that takes no longer than another launch,
/// and of points with one channel, whose count takes as long as its gradient; and bytes of the grids, which that launch
/// reads and writes, that take as long as one of these.
const ELEMENTS_OF_SHARES: usize = 1 << 18;
const ELEMENTS_OF_ONE: usize = 800_000;
const BYTES_OF_ELEMENT: usize = 16;

/// Elements from the channels of a voxel to those of the next where they lie side by side: whole accesses.
fn pitch(channels: usize, item: usize) -> usize {
    let bytes = channels.saturating_mul(item);
    let access = bytes.min(16).next_power_of_two().max(4);
    bytes.div_ceil(access).saturating_mul(access) / item
}

/// How far apart the rows of voxels are, in elements, where points of counted voxels get a mean's gradient from what was
/// worked out for all of these first: their channels side by side. `None` where points read the gradient as it lies.
pub(crate) fn shares(batch: usize, points: usize, channels: usize, cells: usize, item: usize) -> Option<usize> {
    let elements = batch.saturating_mul(points).saturating_mul(channels);
    let grids = batch.saturating_mul(cells).saturating_mul(channels.saturating_mul(item));
    let most = if channels == 1 { ELEMENTS_OF_ONE } else { ELEMENTS_OF_SHARES };
    let few = elements <= most.saturating_add(grids / BYTES_OF_ELEMENT);
    let alone = few && all_near(batch, channels, cells, item);
    (!alone && keeps_counts(batch, points, channels, cells, item)).then(|| pitch(channels, item))
}

/// Bytes of these rows of all grids.
pub(crate) fn shares_bytes(
    batch: usize,
    points: usize,
    channels: usize,
    cells: usize,
    item: usize,
    cuda: bool,
) -> usize {
    let bytes = |pitch: usize| batch.saturating_mul(cells).saturating_mul(pitch * item);
    shares(batch, points, channels, cells, item).filter(|_| cuda).map_or(0, bytes)
}

/// Elements of the widest access that all rows allow: each of `each` elements, from the address on.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) fn elements_of_access(item: usize, each: usize, address: usize) -> i32 {
    let fits = |bytes: usize| bytes > item && each.is_multiple_of(bytes / item) && address.is_multiple_of(bytes);
    (Access::widest(fits).bytes() as usize / item).max(1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELLS: usize = 128 * 128 * 128;

    #[test]
    fn means_of_few_points_may_count_them_by_voxel() {
        let sparse = |points, channels| counts_by_voxel(1, points, channels, 3_900_000);
        assert!(sparse(70_000, 1) && sparse(70_000, 9) && !sparse(70_000, 10));
        assert!(!counts_by_voxel(1, usize::MAX, 1, CELLS) && counts_by_voxel(1, 0, usize::MAX, CELLS));
        let small = |batch, points, channels| counts_by_voxel(batch, points, channels, 30 * 30 * 30);
        assert!(small(1, 60_000, 3) && small(1, 52_428, 6) && !small(1, 52_429, 6) && !small(1, 20_000, 7));
        assert!(small(8, 9000, 3) && !small(9, 9000, 3), "clouds count together");
        assert!(!counts_by_voxel(1, 60_000, 1, 14_999), "a crowd");
    }

    #[test]
    fn recorded_means_keep_their_counts_where_they_are_near() {
        assert!(keeps_counts(1, 704_331, 4, 89 * 89 * 89, 2) && keeps_counts(4, 300, 64, 24 * 24 * 24, 4));
        assert!(!keeps_counts(1, 500_000, 8, CELLS, 4) && keeps_counts(1, 500_000, 3, CELLS, 2));
        assert!(!keeps_counts(1, 1000, 1, 4 * CELLS, 2), "counts are four bytes");
        assert!(!keeps_counts(1, 512, 3, 8, 4) && keeps_counts(1, 513, 3, 8, 4) && keeps_counts(3, 171, 3, 8, 4));
        assert!(!keeps_counts(1, 0, 3, 8, 4) && !keeps_counts(1, 3000, 0, 8, 4));
        assert!(!keeps_counts(usize::MAX, 3, usize::MAX, usize::MAX, 8));
    }

    #[test]
    fn many_elements_go_by_way_of_shares() {
        let shares = |points, channels, side: usize, item| shares(1, points, channels, side.pow(3), item);
        assert_eq!((shares(4037, 12, 18, 4), shares(26_579, 6, 24, 2)), (None, None), "few");
        assert_eq!((shares(300_000, 3, 100, 4), shares(300_000, 3, 64, 4)), (None, Some(4)), "a large grid");
        assert_eq!((shares(704_331, 4, 89, 2), shares(704_331, 5, 89, 2)), (Some(4), Some(8)));
        assert_eq!((shares(1_000_000, 33, 20, 2), shares(1_000_000, 3, 20, 8)), (Some(40), Some(4)));
        assert_eq!((shares(764_652, 1, 22, 2), shares(1_000_000, 1, 30, 2)), (None, Some(2)), "of one channel");
        assert_eq!(shares(500_000, 8, 128, 4), None, "far");
        assert_eq!(
            (shares(15_383_746, 4, 417, 4), shares(6_430_757, 23, 273, 2)),
            (Some(4), Some(24)),
            "far, but full"
        );
        assert_eq!((shares(4_000_000, 8, 256, 2), shares(4_000_000, 8, 257, 2)), (None, Some(8)), "tiles share lists");
        assert_eq!((shares(1_952_671, 6, 164, 2), shares(1_000_000, 6, 164, 2)), (Some(8), None), "81 and 159 bytes");
        assert_eq!(shares_bytes(1, 704_331, 5, 89 * 89 * 89, 2, true), 89 * 89 * 89 * 16);
        assert_eq!((shares_bytes(1, 704_331, 5, 89 * 89 * 89, 2, false), shares_bytes(1, 9, 5, 8, 2, true)), (0, 0));
        assert_eq!([1, 2, 3, 5].map(|channels| pitch(channels, 2)), [2, 2, 4, 8]);
        assert_eq!([1, 2, 3, 5].map(|channels| pitch(channels, 4)), [1, 2, 4, 8]);
        assert_eq!([1, 2, 3].map(|channels| pitch(channels, 8)), [1, 2, 4]);
    }

    #[test]
    fn few_channels_of_a_near_sum_are_read_alone() {
        let alone = |points, channels, side: usize| reads_alone(1, points, channels, side.pow(3), 4);
        assert!(alone(4_000_000, 4, 64) && alone(100_000, 8, 64) && !alone(200_000, 8, 64));
        assert!(!alone(1000, 4, 128) && alone(1000, 3, 125), "24 MB");
        assert!(alone(0, 0, 4) && !reads_alone(1, usize::MAX, usize::MAX, 1, 8));
    }

    #[test]
    fn accesses_are_as_wide_as_rows_and_addresses_allow() {
        assert_eq!([2, 4, 8].map(|item| elements_of_access(item, 24, 64)), [8, 4, 2]);
        assert_eq!([1, 2, 4, 8, 0].map(|each| elements_of_access(2, each, 64)), [1, 2, 4, 8, 8]);
        assert_eq!([2, 4, 8, 16].map(|address| elements_of_access(2, 8, address)), [1, 2, 4, 8]);
        assert_eq!([2, 4, 8, 16].map(|address| elements_of_access(4, 8, address)), [1, 1, 2, 4]);
    }
}
