//! Every launch and every byte of workspace of `voxelize`, made from plain numbers and testable without a GPU.

use super::bins::Bins;
use super::reduce::Reduce;
use super::tiling::{CELLS_OF_POINT, Small, TILE_BITS, Tiling};
use crate::error::{Error, Result};
use crate::launch::Launch;
use crate::ops::rows_plan::{blocks, kernel_name, line};
use crate::tensor::DType;

/// Threads of a block: 8 warps hide the latency of loads that depend on nothing.
pub const BLOCK: u32 = 256;
/// Bytes that one thread clears.
pub const CLEARED: u64 = 16;
/// Points that one thread marks or counts.
pub(crate) const COUNTED: u64 = 4;
/// Points of all clouds up to which a thread marks one: 1024 of these are a full multiprocessor's, so that each of 132
/// has some, and what a thread does for four points takes longer than for one.
const POINTS_OF_SINGLE: usize = 1 << 17;
/// Cells that one thread of the scan takes: four loads of 16 bytes in flight.
pub const SCANNED: u64 = 16;
/// Rows that one thread of the reduction lists: one load of 16 bytes.
pub const LISTED: u64 = 4;
/// Bytes of a row's channels that one thread reduces at a time: one load.
pub const GROUP: usize = 16;
/// Blocks that share out the channels of few tiles: as many fill an H200 (132 multiprocessors of 6 to 8 blocks).
const ENOUGH_BLOCKS: usize = 1024;
/// Rows of a sparse grid, times their groups of channels, up to which neighbours go to different blocks: rows with many
/// points are neighbours, and 132 multiprocessors that hold four blocks each wait for the fullest. Where there are more
/// blocks, they even out.
const ITEMS_APART: u64 = 1 << 18;

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
        let tiling = if by_tiles { Tiling::new(batch, points, cells) } else { None };
        let tiling = tiling.filter(|tiling| !spreads || tiling.shared_bits == 0 || tiling.spreads(points, cells));
        let tiled = tiling.is_some();
        let (groups, mean) = (groups && small.is_none(), mean && small.is_none());
        let counts = cuda && !tiled && (groups || mean);
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

/// A launch of blocks that each take a tile of one cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// The launch.
    pub launch: Launch,
    /// Tiles of a cloud.
    pub tiles: u32,
}

/// Blocks of 256 threads over `items` of each cloud, `each` for a thread.
pub(crate) fn tiles(op: &str, kernel: &'static str, batch: usize, items: usize, each: u64) -> Result<Tiles> {
    shared_out(op, kernel, batch, (items as u64).div_ceil(u64::from(BLOCK) * each), 1, BLOCK)
}

/// So many blocks for each of `batch` clouds, in `parts` along y.
pub(crate) fn shared_out(
    op: &str,
    kernel: &'static str,
    batch: usize,
    tiles: u64,
    parts: u32,
    block: u32,
) -> Result<Tiles> {
    let grid = [blocks(op, tiles.saturating_mul(batch as u64), 1)?, parts, 1];
    // A kernel divides by it, so it is never zero.
    let tiles = u32::try_from(tiles.max(1)).unwrap_or(u32::MAX);
    Ok(Tiles { launch: Launch { kernel, grid, block: [block, 1, 1], shared_bytes: 0 }, tiles })
}

/// Blocks that share the channels of each of so many tiles: as many as fill the device, and at most one a part.
fn parts(tiles: u64, dtype: DType, channels: usize, bits: u32) -> u32 {
    let all = channels.div_ceil((GROUP / dtype.size()) << (TILE_BITS - bits));
    let wanted = ENOUGH_BLOCKS as u64 / tiles.max(1);
    wanted.clamp(1, all.max(1) as u64) as u32
}

/// Clears that many bytes.
pub fn clear(op: &str, bytes: u64) -> Result<Launch> {
    line(op, "voxelize_clear", bytes.div_ceil(CLEARED), BLOCK)
}

/// Points that one thread marks or counts.
pub fn points_of_thread(reduce: Reduce, batch: usize, points: usize) -> u64 {
    let few = batch.saturating_mul(points) <= POINTS_OF_SINGLE;
    if few && reduce == Reduce::Occupancy { 1 } else { COUNTED }
}

/// Marks or counts points: a thread four of them, of f32 three loads of 16 bytes, or of few one.
pub fn points(op: &str, reduce: Reduce, dtype: DType, batch: usize, points: usize) -> Result<Tiles> {
    let kernel = match reduce {
        Reduce::Occupancy => kernel_name!(@floats "voxelize_occupancy_", "", dtype),
        _ => kernel_name!(@floats "voxelize_count_", "", dtype),
    };
    tiles(op, kernel, batch, points, points_of_thread(reduce, batch, points))
}

/// Marks points in bits, as above.
pub fn marks(op: &str, dtype: DType, batch: usize, points: usize) -> Result<Tiles> {
    tiles(op, kernel_name!(@floats "voxelize_mark_", "", dtype), batch, points, COUNTED)
}

/// Makes bytes of these: a thread 16 cells.
pub fn unpack(op: &str, batch: usize, cells: usize) -> Result<Tiles> {
    tiles(op, "voxelize_unpack", batch, cells, SCANNED)
}

/// Gives the points of each cell their places: a thread 16 cells.
pub fn starts(op: &str, batch: usize, cells: usize) -> Result<Tiles> {
    tiles(op, "voxelize_starts", batch, cells, SCANNED)
}

/// Writes the order: a thread a point.
pub fn order(op: &str, dtype: DType, batch: usize, points: usize) -> Result<Tiles> {
    tiles(op, kernel_name!(@floats "voxelize_order_", "", dtype), batch, points, 1)
}

/// Sends a gradient to every point: a thread a point, its warp all channels.
pub fn spread(op: &str, points: DType, grad: DType, batch: usize, count: usize) -> Result<Tiles> {
    let kernel = match points {
        DType::F64 => kernel_name!(@floats "voxelize_spread_f64_", "", grad),
        DType::F32 => kernel_name!(@floats "voxelize_spread_f32_", "", grad),
        DType::F16 => kernel_name!(@floats "voxelize_spread_f16_", "", grad),
        _ => kernel_name!(@floats "voxelize_spread_bf16_", "", grad),
    };
    tiles(op, kernel, batch, count, 1)
}

/// Reduces rows of points that are in order in memory: a block 1024 rows of one grid.
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
    let tiles = (rows as u64).div_ceil(u64::from(BLOCK) * LISTED);
    let parts = parts(tiles.saturating_mul(grids as u64), dtype, channels, TILE_BITS);
    shared_out(op, kernel, grids, tiles, parts, BLOCK)
}

/// Sends the gradient of each tile to its points: a block a tile.
pub fn tile_spread(op: &str, dtype: DType, batch: usize, tiling: &Tiling, channels: usize) -> Result<Tiles> {
    let kernel = kernel_name!(@floats "voxelize_tile_spread_", "", dtype);
    let tiles = tiling.tiles as u64;
    let parts = parts(tiles.saturating_mul(batch as u64), dtype, channels, tiling.bits);
    shared_out(op, kernel, batch, tiles, parts, BLOCK)
}

/// Writes the points of each chunk by tile.
pub fn chunks(op: &str, dtype: DType, batch: usize, tiling: &Tiling) -> Result<Tiles> {
    let kernel = match tiling.rounds() {
        1 => kernel_name!(@floats "voxelize_tiles_", "", dtype),
        _ => kernel_name!(@floats "voxelize_large_tiles_", "", dtype),
    };
    shared_out(op, kernel, batch, tiling.chunks as u64, 1, tiling.threads())
}

/// Reduces the points of each tile: a block a tile.
pub fn tile_rows(
    op: &str,
    reduce: Reduce,
    backward: bool,
    dtype: DType,
    batch: usize,
    tiling: &Tiling,
    channels: usize,
) -> Result<Tiles> {
    let kernel = match (reduce.picks(), backward) {
        (true, true) => kernel_name!(@floats "voxelize_tile_send_", "", dtype),
        (true, false) => kernel_name!(@floats "voxelize_tile_pick_", "", dtype),
        _ if tiling.links => kernel_name!(@floats "voxelize_tile_link_", "", dtype),
        _ => kernel_name!(@floats "voxelize_tile_sum_", "", dtype),
    };
    let tiles = tiling.tiles as u64;
    let parts = parts(tiles.saturating_mul(batch as u64), dtype, channels, tiling.bits);
    shared_out(op, kernel, batch, tiles, parts, BLOCK)
}

/// Marks or counts the points of small clouds: a block a tile.
pub fn small_points(op: &str, reduce: Reduce, batch: usize, small: &Small) -> Result<Tiles> {
    let kernel = match reduce {
        Reduce::Occupancy => "voxelize_small_occupancy",
        _ => "voxelize_small_count",
    };
    shared_out(op, kernel, batch, small.tiles as u64, 1, BLOCK)
}

/// Reduces the points of each tile of small clouds, or sends them its gradient: a block a tile.
pub fn small_rows(
    op: &str,
    reduce: Reduce,
    backward: bool,
    dtype: DType,
    batch: usize,
    small: &Small,
    channels: usize,
) -> Result<Tiles> {
    let kernel = match (reduce.picks(), backward) {
        (true, true) => kernel_name!(@floats "voxelize_small_send_", "", dtype),
        (true, false) => kernel_name!(@floats "voxelize_small_pick_", "", dtype),
        (false, true) => kernel_name!(@floats "voxelize_small_spread_", "", dtype),
        (false, false) if small.links => kernel_name!(@floats "voxelize_small_link_", "", dtype),
        (false, false) => kernel_name!(@floats "voxelize_small_sum_", "", dtype),
    };
    let tiles = small.tiles as u64;
    let parts = parts(tiles.saturating_mul(batch as u64), dtype, channels, small.bits);
    shared_out(op, kernel, batch, tiles, parts, BLOCK)
}

/// Reduces the rows of a sparse grid: a thread 16 bytes of a row's channels, neighbours in different blocks where these
/// are few.
pub fn sparse_rows(
    op: &str,
    reduce: Reduce,
    backward: bool,
    dtype: DType,
    rows: usize,
    channels: usize,
) -> Result<Launch> {
    let groups = channels.div_ceil(GROUP / dtype.size());
    let items = (rows as u64).saturating_mul(groups as u64);
    let apart = items <= ITEMS_APART;
    let kernel = match (apart, reduce.picks(), backward) {
        (true, true, true) => kernel_name!(@floats "voxelize_row_apart_send_", "", dtype),
        (true, true, false) => kernel_name!(@floats "voxelize_row_apart_pick_", "", dtype),
        (true, false, _) => kernel_name!(@floats "voxelize_row_apart_sum_", "", dtype),
        (false, true, true) => kernel_name!(@floats "voxelize_row_send_", "", dtype),
        (false, true, false) => kernel_name!(@floats "voxelize_row_pick_", "", dtype),
        (false, false, _) => kernel_name!(@floats "voxelize_row_sum_", "", dtype),
    };
    line(op, kernel, items, BLOCK)
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
    fn a_mean_of_half_a_million_points_is_these_launches() {
        let point = points("voxelize", Reduce::Mean, DType::F32, 1, 500_000).unwrap();
        assert_eq!((point.launch.kernel, point.launch.grid, point.tiles), ("voxelize_count_f32", [489, 1, 1], 489));
        assert_eq!(starts("voxelize", 1, CELLS).unwrap().launch.grid, [512, 1, 1]);
        let row = rows("voxelize", Reduce::Mean, false, DType::F32, 1, CELLS, 8).unwrap();
        assert_eq!((row.launch.kernel, row.launch.grid, row.tiles), ("voxelize_sum_f32", [2048, 1, 1], 2048));
        assert_eq!(rows("voxelize", Reduce::Max, true, DType::BF16, 3, 5, 17).unwrap().launch.grid, [3, 3, 1]);
        let tiling = Tiling::new(1, 500_000, CELLS).unwrap();
        assert_eq!(
            tiling,
            Tiling { bits: 10, tiles: 2048, chunk: 4096, chunks: 123, pitch: 2056, shared_bits: 0, links: true }
        );
        let chunk = chunks("voxelize", DType::F32, 1, &tiling).unwrap();
        assert_eq!((chunk.launch.kernel, chunk.launch.grid), ("voxelize_tiles_f32", [123, 1, 1]));
        let tile = tile_rows("voxelize", Reduce::Mean, false, DType::F32, 1, &tiling, 8).unwrap();
        assert_eq!((tile.launch.kernel, tile.launch.grid), ("voxelize_tile_link_f32", [2048, 1, 1]));
        let row = sparse_rows("voxelize", Reduce::Max, true, DType::F16, 1000, 9).unwrap();
        assert_eq!((row.kernel, row.grid), ("voxelize_row_apart_send_f16", [8, 1, 1]));
        let row = sparse_rows("voxelize_sparse", Reduce::Mean, false, DType::F32, 500_000, 8).unwrap();
        assert_eq!((row.kernel, row.grid), ("voxelize_row_sum_f32", [3907, 1, 1]));
        assert_eq!(clear("voxelize", 17).unwrap().grid, [1, 1, 1]);
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
        let plan = Small::new(1, 1000, 16 * 16 * 16, true).unwrap();
        let tiles = small_rows("voxelize", Reduce::Mean, true, DType::F16, 1, &plan, 300).unwrap();
        assert_eq!((tiles.launch.kernel, tiles.launch.grid), ("voxelize_small_spread_f16", [128, 2, 1]));
        let tiles = small_points("voxelize", Reduce::Occupancy, 3, &plan).unwrap();
        assert_eq!((tiles.launch.kernel, tiles.launch.grid), ("voxelize_small_occupancy", [384, 1, 1]));
    }

    #[test]
    fn few_tiles_share_out_their_channels() {
        let parts = |side: usize, channels| {
            let tiling = Tiling::new(1, 1000, side.pow(3)).unwrap();
            tile_rows("voxelize", Reduce::Sum, false, DType::F32, 1, &tiling, channels).unwrap().launch.grid[1]
        };
        assert_eq!(parts(128, 64), 1);
        assert_eq!(parts(32, 64), 4, "128 tiles of 256 cells and 16 channels");
        assert_eq!(parts(16, 64), 1, "128 tiles of 32 cells and 128 channels");
        assert_eq!(parts(16, 300), 3);
    }

    #[test]
    fn nothing_to_do_is_an_empty_grid() {
        assert_eq!(points("voxelize", Reduce::Count, DType::F64, 0, 5).unwrap().launch.grid[0], 0);
        assert_eq!(points("voxelize", Reduce::Count, DType::F64, 5, 0).unwrap().launch.grid[0], 0);
        assert!(rows("voxelize", Reduce::Sum, false, DType::F64, 1, 1 << 50, 1).is_err());
    }
}
