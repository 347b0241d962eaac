//! Which way `voxelize` takes and every byte of workspace, from plain numbers and testable without a GPU; its launches
//! are in `launches.rs`.

use super::bins::Bins;
use super::gradient_plan::counts_by_voxel;
use super::reduce::Reduce;
use super::tiling::{CELLS_OF_POINT, Small, Tiling};
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
    use super::super::tiling::MOST_LISTS;
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
            (999, [0, 3 * 4, 0, 3 * 2049 * 4, 0, 3 * 2049 * 4, 3 * 5 * 40 * 2]),
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
    fn means_of_few_points_have_the_memory_of_either_way() {
        let plan = |points| Workspace::new("voxelize", 3, points, CELLS, Reduce::Mean, true, true).unwrap();
        let sparse = plan(100_000);
        assert_eq!((sparse.counts_at, sparse.cursor_at), (0, 3 * CELLS * 4));
        assert!(sparse.tiling.is_some() && plan(500_000).cursor_at == 0);
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
