//! Which way `voxelize` takes and every byte of workspace, from plain numbers and testable without a GPU; its launches
//! are in `launches.rs`.

use super::bins::Bins;
use super::reduce::Reduce;
use super::tiling::{CELLS_OF_POINT, MOST_LISTS, Small, TILE_BITS, Tiling};
use crate::error::{Error, Result};

/// Cells a point up to which the CPU marks occupied cells in bits, all of which it reads again.
const CELLS_OF_MARK: usize = 16;
/// Points of all clouds from which on CUDA marks them in bits, which then become bytes, where it is not by bins: what
/// scattered bytes cost is more than that launch.
const POINTS_OF_BITS: usize = 1 << 20;
/// Points of a part that may have bits of its own, and parts at most: a thread marks all of its parts in those of one.
const POINTS_OF_PART: usize = 1 << 14;
pub(crate) const MOST_PARTS: usize = 16;

/// The memory that a call borrows: offsets and size in bytes, each part aligned to 16.
///
/// On the CPU clouds take turns, so there is one cloud's part of each; on CUDA there are those of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Voxels of a grid.
    pub cells: usize,
    /// Points are grouped by cell, on CUDA where it is not by tiles.
    pub groups: bool,
    /// How one launch does it all on CUDA, where clouds are small.
    pub small: Option<Small>,
    /// How points are grouped on CUDA, where it is by tiles.
    pub tiling: Option<Tiling>,
    /// int32 for each cell, on CUDA: how many points it has. First, so that it can be cleared together with `cursor`.
    pub counts_at: usize,
    /// int32 for each cloud, on CUDA: how many places of its order are given away.
    pub cursor_at: usize,
    /// int32 for each cell, on CUDA: where its points begin in the order.
    pub starts_at: usize,
    /// int32 for each point, on the CPU two: the points, those of a cell side by side.
    pub order_at: usize,
    /// For each point, on CUDA int32: its place among those of its cell, or -1; on the CPU two uint32, or uint64 where
    /// there are as many cells: its cell.
    pub places_at: usize,
    /// uint32 for each point, by tiles: its number in its chunk and its cell in its tile; or by bins uint16: its cell's
    /// place in its bin.
    pub entries_at: usize,
    /// uint16 for each list or bin of each chunk, and more.
    pub table_at: usize,
    /// How occupied voxels are marked on CUDA, where points are many.
    pub bins: Option<Bins>,
    /// Parts of a cloud's points with room to mark their occupied cells in bits, on CUDA one; 0 where bytes are written
    /// at once.
    pub parts: usize,
    /// uint64 for each 64 cells of each part.
    pub marks_at: usize,
    /// All of it.
    pub bytes: usize,
}

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
/// tiles: so many, and so many for each channel, of at most so many.
const BYTES_OF_POINT: usize = 150;
const BYTES_OF_CHANNEL: usize = 10;
const MOST_CHANNELS: usize = 24;

/// Whether points are so many that it is worth it to work out what each point of a voxel gets even where that is far: of
/// grids that are so large that tiles share lists.
fn is_full(points: usize, channels: usize, cells: usize, item: usize) -> bool {
    if cells <= MOST_LISTS << TILE_BITS {
        return false;
    }
    let moved = pitch(channels, item).saturating_mul(2 * item).saturating_add(4).saturating_mul(cells);
    moved <= points.saturating_mul(BYTES_OF_POINT + BYTES_OF_CHANNEL * channels.min(MOST_CHANNELS))
}

/// Whether a mean that is recorded keeps its counts on CUDA: worth it where its gradient and they are near then, or points
/// are many.
pub(crate) fn keeps_counts(batch: usize, points: usize, channels: usize, cells: usize, item: usize) -> bool {
    let full = channels > 1 && is_full(points, channels, cells, item);
    points > 0 && channels > 0 && (full || all_near(batch, channels, cells, item))
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

/// Elements of points that each read a sector for every channel, up to which that takes no longer than another launch;
/// and bytes of the grids, which that launch reads and writes, that take as long as one of these.
const ELEMENTS_OF_SHARES: usize = 1 << 18;
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
    let few = elements <= ELEMENTS_OF_SHARES.saturating_add(grids / BYTES_OF_ELEMENT);
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

/// Elements of the widest access, at most 16 bytes and 8 elements, that all rows allow: each of `each` elements, from the
/// address on.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) fn elements_of_access(item: usize, each: usize, address: usize) -> i32 {
    let fits = |&elements: &usize| {
        let bytes = elements * item;
        bytes <= 16 && each.is_multiple_of(elements) && address.is_multiple_of(bytes)
    };
    [8, 4, 2].into_iter().find(fits).unwrap_or(1) as i32
}

impl Workspace {
    /// What that call needs.
    pub fn new(
        op: &str,
        batch: usize,
        points: usize,
        cells: usize,
        reduce: Reduce,
        backward: bool,
        cuda: bool,
    ) -> Result<Workspace> {
        let groups = reduce.picks() || !backward && reduce.reads_features();
        let mean = backward && reduce == Reduce::Mean;
        let spreads = mean || backward && reduce == Reduce::Sum && cells / CELLS_OF_POINT <= points;
        let groups = groups || !cuda && spreads;
        let one_launch = cuda && (!backward || groups || spreads);
        let small = if one_launch { Small::new(batch, points, cells, groups || spreads) } else { None };
        let by_tiles = cuda && small.is_none() && (groups || spreads);
        let plan = if spreads { Tiling::to_spread } else { Tiling::new };
        let tiling = if by_tiles { plan(batch, points, cells) } else { None };
        let tiling = tiling.filter(|tiling| !spreads || tiling.shared_bits == 0 || tiling.spreads(points, cells));
        let tiled = tiling.is_some();
        let (groups, mean) = (groups && small.is_none(), mean && small.is_none());
        // A call says later how many channels there are; of none there is nothing to do.
        let counts = cuda && (!tiled && (groups || mean) || mean && counts_by_voxel(batch, points, 1, cells));
        let marks = !backward && reduce == Reduce::Occupancy && cells / CELLS_OF_MARK <= points;
        let bins = if marks && cuda && small.is_none() { Bins::new(batch, points, cells) } else { None };
        let parts = match (marks, cuda) {
            (false, _) => 0,
            (true, true) => usize::from(bins.is_none() && batch.saturating_mul(points) >= POINTS_OF_BITS),
            (true, false) => (points / POINTS_OF_PART).min(MOST_PARTS),
        };
        let clouds = if cuda { batch } else { batch.min(1) };
        let mut bytes = Some(0usize);
        let mut part = |wanted: bool, items: usize, item: usize| {
            let at = bytes.unwrap_or(0);
            let size = if wanted { clouds.checked_mul(items).and_then(|all| all.checked_mul(item)) } else { Some(0) };
            let next = size.and_then(|size| at.checked_add(size)?.checked_next_multiple_of(16));
            bytes = bytes.and(next.filter(|&next| next <= isize::MAX as usize));
            at
        };
        let counts_at = part(counts, cells, 4);
        let cursor_at = part(groups && cuda || tiled, 1, 4);
        let starts_at = part(groups && cuda && !tiled, cells, 4);
        let (order, place) =
            if cuda { (4, 4) } else { (2 * 4, if u32::try_from(cells).is_ok() { 2 * 4 } else { 2 * 8 }) };
        let order_at = part(groups || tiled, points, order);
        let places_at = part(groups && !tiled, points, place);
        let (entries, entry) = bins.map_or((points, 4), |bins| (bins.places(), 2));
        let entries_at = part(tiled || bins.is_some(), entries, entry);
        let lists = tiling.map_or(0, |tiling| tiling.chunks.saturating_mul(tiling.pitch));
        let table_at = part(tiled || bins.is_some(), bins.map_or(lists, |bins| bins.table()), 2);
        let marks_at = part(parts > 0, cells.div_ceil(64).saturating_mul(parts), 8);
        let bytes = bytes.ok_or_else(|| {
            let found = format!("{batch} clouds of {points} points in {cells} voxels");
            Error::Value(format!("{op}: grid_size must be small enough to plan memory for, got {found}"))
        })?;
        Ok(Workspace {
            cells,
            groups: groups && !tiled,
            small,
            tiling,
            counts_at,
            cursor_at,
            starts_at,
            order_at,
            places_at,
            entries_at,
            table_at,
            bins,
            parts,
            marks_at,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELLS: usize = 128 * 128 * 128;

    #[test]
    fn nothing_is_borrowed_where_points_need_no_order() {
        for (reduce, backward) in [(Reduce::Occupancy, false), (Reduce::Count, false), (Reduce::Sum, true)] {
            for cuda in [false, true] {
                let plan = Workspace::new("voxelize", 2, 100, CELLS, reduce, backward, cuda).unwrap();
                assert_eq!(plan.bytes, 0, "{reduce:?} {backward}");
            }
        }
    }

    #[test]
    fn many_points_are_marked_in_bits() {
        let plan = |batch, points, cells| {
            Workspace::new("voxelize", batch, points, cells, Reduce::Occupancy, false, true).unwrap()
        };
        let many = plan(20, 60_000, CELLS / 8);
        assert_eq!((many.parts, many.bins, many.bytes), (1, None, 20 * CELLS / 64), "of small clouds");
        let large = plan(1, 4_000_000, (1 << 24) + 64);
        assert_eq!((large.parts, large.bins, large.bytes), (1, None, (1 << 21) + 8 + 8), "of a large grid");
        assert_eq!((plan(1, 200_000, CELLS).parts, plan(1, 200_000, CELLS).bytes), (0, 0), "few");
        assert_eq!(plan(1, 2_000_000, 2_000_000 * 17).bytes, 0, "a grid that is all but empty");
    }

    #[test]
    fn many_points_of_a_cloud_are_marked_by_bins() {
        let plan = Workspace::new("voxelize", 2, 600_000, CELLS, Reduce::Occupancy, false, true).unwrap();
        let bins = Bins::new(2, 600_000, CELLS).unwrap();
        assert_eq!((plan.bins, plan.parts, plan.entries_at), (Some(bins), 0, 0));
        assert_eq!(plan.table_at, 2 * 2 * bins.places());
        assert_eq!(plan.bytes, plan.table_at + 2 * 2 * bins.table());
    }

    #[test]
    fn parts_are_aligned_and_do_not_overlap() {
        let many = 8 * 1024 * MOST_LISTS + 1;
        for (cells, needs) in [
            (999, [0, 3 * 4, 0, 3 * 2049 * 4, 0, 3 * 2049 * 4, 3 * 3 * 40 * 2]),
            (many, [3 * many * 4, 3 * 4, 3 * many * 4, 3 * 2049 * 4, 3 * 2049 * 4, 0, 0]),
        ] {
            let plan = Workspace::new("voxelize", 3, 2049, cells, Reduce::Mean, false, true).unwrap();
            let parts = [
                plan.counts_at,
                plan.cursor_at,
                plan.starts_at,
                plan.order_at,
                plan.places_at,
                plan.entries_at,
                plan.table_at,
                plan.bytes,
            ];
            for (pair, need) in parts.windows(2).zip(needs) {
                assert!(pair[0] % 16 == 0 && pair[1] - pair[0] >= need && pair[1] - pair[0] < need + 16, "{plan:?}");
            }
        }
        let cpu = Workspace::new("voxelize", 3, 101, 999, Reduce::Mean, false, false).unwrap();
        assert_eq!(cpu.bytes, 816 + 816, "one cloud at a time");
        let spread = |reduce, cells| Workspace::new("voxelize", 1, 5000, cells, reduce, true, true).unwrap().tiling;
        assert!(spread(Reduce::Mean, CELLS).is_some() && spread(Reduce::Sum, 80_000).is_some());
        assert!(spread(Reduce::Sum, CELLS).is_none(), "a gather reads less");
        assert!(spread(Reduce::Mean, 100_000_000).is_none(), "and of most tiles nothing");
        let shared =
            |points| Workspace::new("voxelize", 1, points, 72_500_000, Reduce::Mean, true, true).unwrap().tiling;
        assert!(shared(15_000_000).is_some() && shared(60_000_000).is_none(), "long lists");
        assert!(Workspace::new("voxelize", 1 << 40, 1 << 30, CELLS, Reduce::Max, true, true).is_err());
    }

    #[test]
    fn means_of_few_points_may_count_them_by_voxel() {
        let sparse = |points, channels| counts_by_voxel(1, points, channels, 3_900_000);
        assert!(sparse(70_000, 1) && sparse(70_000, 9) && !sparse(70_000, 10));
        assert!(!counts_by_voxel(1, usize::MAX, 1, CELLS) && counts_by_voxel(1, 0, usize::MAX, CELLS));
        let small = |batch, points, channels| counts_by_voxel(batch, points, channels, 30 * 30 * 30);
        assert!(small(1, 60_000, 3) && small(1, 52_428, 6) && !small(1, 52_429, 6) && !small(1, 20_000, 7));
        assert!(small(8, 9000, 3) && !small(9, 9000, 3), "clouds count together");
        assert!(!counts_by_voxel(1, 60_000, 1, 14_999), "a crowd");
        let plan = |points| Workspace::new("voxelize", 3, points, CELLS, Reduce::Mean, true, true).unwrap();
        let sparse = plan(100_000);
        assert_eq!((sparse.counts_at, sparse.cursor_at), (0, 3 * CELLS * 4), "either way has its memory");
        assert!(sparse.tiling.is_some() && plan(500_000).cursor_at == 0);
    }

    #[test]
    fn recorded_means_keep_their_counts_where_they_are_near() {
        assert!(keeps_counts(1, 704_331, 4, 89 * 89 * 89, 2) && keeps_counts(4, 10, 64, 24 * 24 * 24, 4));
        assert!(!keeps_counts(1, 500_000, 8, CELLS, 4) && keeps_counts(1, 500_000, 3, CELLS, 2));
        assert!(!keeps_counts(1, 10, 1, 4 * CELLS, 2), "counts are four bytes");
        assert!(!keeps_counts(1, 0, 3, 8, 4) && !keeps_counts(1, 3, 0, 8, 4));
        assert!(!keeps_counts(usize::MAX, 3, usize::MAX, usize::MAX, 8));
    }

    #[test]
    fn many_elements_go_by_way_of_shares() {
        let shares = |points, channels, side: usize, item| shares(1, points, channels, side.pow(3), item);
        assert_eq!((shares(4037, 12, 18, 4), shares(26_579, 6, 24, 2)), (None, None), "few");
        assert_eq!((shares(300_000, 3, 100, 4), shares(300_000, 3, 64, 4)), (None, Some(4)), "a large grid");
        assert_eq!((shares(704_331, 4, 89, 2), shares(704_331, 5, 89, 2)), (Some(4), Some(8)));
        assert_eq!((shares(1_000_000, 33, 20, 2), shares(1_000_000, 3, 20, 8)), (Some(40), Some(4)));
        assert_eq!((shares(500_000, 1, 50, 2), shares(500_000, 8, 128, 4)), (Some(2), None), "of one channel; far");
        assert_eq!(
            (shares(15_383_746, 4, 417, 4), shares(6_430_757, 23, 273, 2)),
            (Some(4), Some(24)),
            "far, but full"
        );
        assert_eq!((shares(4_000_000, 8, 256, 2), shares(4_000_000, 8, 257, 2)), (None, Some(8)), "tiles share lists");
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

    #[test]
    fn small_clouds_are_one_launch_without_memory() {
        let small = |batch, points, side: usize| Small::new(batch, points, side.pow(3), true);
        assert_eq!(small(1, 2048, 8), Some(Small { bits: 5, tiles: 16, links: true }), "four points a cell");
        assert_eq!(small(1, 500, 4), Some(Small { bits: 5, tiles: 2, links: false }), "eight");
        assert_eq!(small(1, 2048, 16), Some(Small { bits: 5, tiles: 128, links: true }));
        assert_eq!(small(1, 2048, 32), Some(Small { bits: 8, tiles: 128, links: true }));
        assert_eq!(small(8, 1024, 24), Some(Small { bits: 9, tiles: 27, links: true }));
        assert_eq!(small(1, 100, 128), None, "more tiles than run at once");
        assert_eq!(small(2, 2048, 48), Some(Small { bits: 10, tiles: 108, links: true }));
        assert_eq!(small(3, 2048, 48), None, "too many looks");
        assert_eq!(small(1, 2049, 16), None, "more than a block keeps");
        assert_eq!(small(0, 4, 1), Some(Small { bits: 5, tiles: 1, links: true }));
        assert_eq!(Small::new(1, 1025, 4096, false), None, "more than one look of a block that only marks");
        for (reduce, backward) in [(Reduce::Occupancy, false), (Reduce::Mean, false), (Reduce::Max, true)] {
            let plan = Workspace::new("voxelize", 2, 100, 999, reduce, backward, true).unwrap();
            assert!(plan.small.is_some() && plan.tiling.is_none() && plan.bytes == 0, "{plan:?}");
        }
    }
}
