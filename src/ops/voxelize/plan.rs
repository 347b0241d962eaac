//! Every launch and every byte of workspace of `voxelize`, made from plain numbers and testable without a GPU.

use super::reduce::Reduce;
use crate::error::{Error, Result};
use crate::launch::Launch;
use crate::ops::rows_plan::{blocks, kernel_name, line};
use crate::tensor::DType;

/// Threads of a block: 8 warps hide the latency of loads that depend on nothing.
pub const BLOCK: u32 = 256;
/// Bytes that one thread clears.
pub const CLEARED: u64 = 16;
/// Cells that one thread of the scan takes: four loads of 16 bytes in flight.
pub const SCANNED: u64 = 16;
/// Rows that one thread of the reduction lists: one load of 16 bytes.
pub const LISTED: u64 = 4;
/// Bytes of a point's features that one block reduces at a time: a sector of memory, for 32 KB of shared memory.
pub const SECTOR: usize = 32;
/// What a grid's second axis may be.
const MOST_CHUNKS: u64 = 65_535;

/// The memory that a call borrows: offsets and size in bytes, each part aligned to 16.
///
/// On the CPU clouds take turns, so there is one cloud's part of each; on CUDA there are those of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Voxels of a grid.
    pub cells: usize,
    /// int32 for each cell, on CUDA: how many points it has. First, so that it can be cleared together with `cursor`.
    pub counts_at: usize,
    /// int32 for each cloud, on CUDA: how many places of its order are given away.
    pub cursor_at: usize,
    /// int32 for each cell (and one more on the CPU): where its points begin in the order.
    pub starts_at: usize,
    /// int32 for each point: the points, those of a cell side by side.
    pub order_at: usize,
    /// For each point, on CUDA int32: its place among those of its cell, or -1; on the CPU uint64: its cell.
    pub places_at: usize,
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
        let counts = groups && cuda || backward && reduce == Reduce::Mean;
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
        let cursor_at = part(groups && cuda, 1, 4);
        let starts_at = part(groups, if cuda { cells } else { cells.saturating_add(1) }, 4);
        let order_at = part(groups, points, 4);
        let places_at = part(groups, points, if cuda { 4 } else { 8 });
        let bytes = bytes.ok_or_else(|| {
            let found = format!("{batch} clouds of {points} points in {cells} voxels");
            Error::Value(format!("{op}: grid_size must be small enough to plan memory for, got {found}"))
        })?;
        Ok(Workspace { cells, counts_at, cursor_at, starts_at, order_at, places_at, bytes })
    }
}

/// A launch of blocks that each take a tile of one cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// The launch.
    pub launch: Launch,
    /// Tiles of a cloud.
    pub tiles: u32,
}

/// Blocks of 256 threads over `items` of each cloud, `each` for a thread, in `chunks` along y.
pub(crate) fn tiles(
    op: &str,
    kernel: &'static str,
    batch: usize,
    items: usize,
    each: u64,
    chunks: u64,
) -> Result<Tiles> {
    let tiles = (items as u64).div_ceil(u64::from(BLOCK) * each);
    let chunks = u32::try_from(chunks).ok().filter(|&chunks| u64::from(chunks) <= MOST_CHUNKS).ok_or_else(|| {
        let most = MOST_CHUNKS * SECTOR as u64;
        Error::Value(format!("{op}: features must have at most {most} bytes a point on CUDA, got more"))
    })?;
    let grid = [blocks(op, tiles.saturating_mul(batch as u64), 1)?, chunks, 1];
    // A kernel divides by it, so it is never zero.
    let tiles = u32::try_from(tiles.max(1)).unwrap_or(u32::MAX);
    Ok(Tiles { launch: Launch { kernel, grid, block: [BLOCK, 1, 1], shared_bytes: 0 }, tiles })
}

/// Clears that many bytes.
pub fn clear(op: &str, bytes: u64) -> Result<Launch> {
    line(op, "voxelize_clear", bytes.div_ceil(CLEARED), BLOCK)
}

/// Marks or counts points: a thread a point.
pub fn points(op: &str, reduce: Reduce, dtype: DType, batch: usize, points: usize) -> Result<Tiles> {
    let kernel = match reduce {
        Reduce::Occupancy => kernel_name!(@floats "voxelize_occupancy_", "", dtype),
        _ => kernel_name!(@floats "voxelize_count_", "", dtype),
    };
    tiles(op, kernel, batch, points, 1, 1)
}

/// Gives the points of each cell their places: a thread 16 cells.
pub fn starts(op: &str, batch: usize, cells: usize) -> Result<Tiles> {
    tiles(op, "voxelize_starts", batch, cells, SCANNED, 1)
}

/// Writes the order: a thread a point.
pub fn order(op: &str, dtype: DType, batch: usize, points: usize) -> Result<Tiles> {
    tiles(op, kernel_name!(@floats "voxelize_order_", "", dtype), batch, points, 1, 1)
}

/// Sends a gradient to every point: a thread a point, its warp all channels.
pub fn spread(op: &str, points: DType, grad: DType, batch: usize, count: usize) -> Result<Tiles> {
    let kernel = match points {
        DType::F64 => kernel_name!(@floats "voxelize_spread_f64_", "", grad),
        DType::F32 => kernel_name!(@floats "voxelize_spread_f32_", "", grad),
        DType::F16 => kernel_name!(@floats "voxelize_spread_f16_", "", grad),
        _ => kernel_name!(@floats "voxelize_spread_bf16_", "", grad),
    };
    tiles(op, kernel, batch, count, 1, 1)
}

/// Reduces rows of points: a block 1024 rows of one grid and a sector of each point's features.
pub fn rows(
    op: &str,
    reduce: Reduce,
    backward: bool,
    dtype: DType,
    grids: usize,
    rows: usize,
    channels: usize,
) -> Result<Tiles> {
    let kernel = match (reduce.picks(), backward) {
        (true, true) => kernel_name!(@floats "voxelize_send_", "", dtype),
        (true, false) => kernel_name!(@floats "voxelize_pick_", "", dtype),
        _ => kernel_name!(@floats "voxelize_sum_", "", dtype),
    };
    tiles(op, kernel, grids, rows, LISTED, channels.div_ceil(SECTOR / dtype.size()) as u64)
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
    fn parts_are_aligned_and_do_not_overlap() {
        let plan = Workspace::new("voxelize", 3, 101, 999, Reduce::Mean, false, true).unwrap();
        let parts = [plan.counts_at, plan.cursor_at, plan.starts_at, plan.order_at, plan.places_at, plan.bytes];
        let needs = [3 * 999 * 4, 3 * 4, 3 * 999 * 4, 3 * 101 * 4, 3 * 101 * 4];
        for (pair, need) in parts.windows(2).zip(needs) {
            assert!(pair[0] % 16 == 0 && pair[1] - pair[0] >= need && pair[1] - pair[0] < need + 16, "{plan:?}");
        }
        let cpu = Workspace::new("voxelize", 3, 101, 999, Reduce::Mean, false, false).unwrap();
        assert_eq!(cpu.bytes, 4000 + 416 + 816, "one cloud at a time");
        assert!(Workspace::new("voxelize", 1 << 40, 1 << 30, CELLS, Reduce::Max, true, true).is_err());
    }

    #[test]
    fn a_mean_of_half_a_million_points_is_these_launches() {
        let point = points("voxelize", Reduce::Mean, DType::F32, 1, 500_000).unwrap();
        assert_eq!((point.launch.kernel, point.launch.grid, point.tiles), ("voxelize_count_f32", [1954, 1, 1], 1954));
        assert_eq!(starts("voxelize", 1, CELLS).unwrap().launch.grid, [512, 1, 1]);
        let row = rows("voxelize", Reduce::Mean, false, DType::F32, 1, CELLS, 8).unwrap();
        assert_eq!((row.launch.kernel, row.launch.grid, row.tiles), ("voxelize_sum_f32", [2048, 1, 1], 2048));
        assert_eq!(rows("voxelize", Reduce::Max, true, DType::BF16, 3, 5, 17).unwrap().launch.grid, [3, 2, 1]);
        assert_eq!(clear("voxelize", 17).unwrap().grid, [1, 1, 1]);
    }

    #[test]
    fn nothing_to_do_is_an_empty_grid() {
        assert_eq!(points("voxelize", Reduce::Count, DType::F64, 0, 5).unwrap().launch.grid[0], 0);
        assert_eq!(points("voxelize", Reduce::Count, DType::F64, 5, 0).unwrap().launch.grid[0], 0);
        assert!(rows("voxelize", Reduce::Sum, false, DType::F64, 1, 1 << 50, 1).is_err());
    }
}
