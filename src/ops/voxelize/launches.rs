//! Every launch of `voxelize`, made from plain numbers and testable without a GPU.

use super::reduce::Reduce;
use super::tiling::{Small, TILE_BITS, Tiling};
use crate::error::Result;
use crate::launch::Launch;
use crate::ops::rows_plan::{blocks, kernel_name, line, taken};
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
/// Channels of a point that a thread sends together: `MOST_SENT` in the kernel.
pub(crate) const SENT: usize = 8;
/// Bytes of a row's channels that go together: one access.
pub const GROUP: usize = 16;
/// Blocks that share out the channels of few tiles: as many fill an H200 (132 multiprocessors of 6 to 8 blocks).
const ENOUGH_BLOCKS: usize = 1024;
/// Rows of a sparse grid, times their groups of channels, up to which neighbours go to different blocks: rows with many
/// points are neighbours, and 132 multiprocessors that hold four blocks each wait for the fullest. Where there are more
/// blocks, they even out.
const ITEMS_APART: u64 = 1 << 18;

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
    most_of(tiles, channels.div_ceil((GROUP / dtype.size()) << (TILE_BITS - bits)))
}

/// The same of any number of parts.
fn most_of(tiles: u64, all: usize) -> u32 {
    let wanted = ENOUGH_BLOCKS as u64 / tiles.max(1);
    wanted.clamp(1, all.max(1) as u64) as u32
}

/// Clears that many bytes.
pub fn clear(op: &str, bytes: u64) -> Result<Launch> {
    line(op, "voxelize_clear", bytes.div_ceil(CLEARED), BLOCK)
}

/// Points that one thread marks or counts.
pub fn points_of_thread(batch: usize, points: usize) -> u64 {
    if batch.saturating_mul(points) <= POINTS_OF_SINGLE { 1 } else { COUNTED }
}

/// Marks or counts points: a thread four of them, of f32 three loads of 16 bytes, or of few one.
pub fn points(op: &str, reduce: Reduce, dtype: DType, batch: usize, points: usize) -> Result<Tiles> {
    let kernel = match reduce {
        Reduce::Occupancy => kernel_name!(@floats "voxelize_occupancy_", "", dtype),
        _ => kernel_name!(@floats "voxelize_count_", "", dtype),
    };
    tiles(op, kernel, batch, points, points_of_thread(batch, points))
}

/// Sets the counts of the cells that have points to zero, as above.
pub fn reset(op: &str, dtype: DType, batch: usize, points: usize) -> Result<Tiles> {
    tiles(op, kernel_name!(@floats "voxelize_reset_", "", dtype), batch, points, points_of_thread(batch, points))
}

/// Writes the cell of each point, as above.
pub fn place(op: &str, dtype: DType, batch: usize, points: usize) -> Result<Tiles> {
    tiles(op, kernel_name!(@floats "voxelize_place_", "", dtype), batch, points, points_of_thread(batch, points))
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

/// Points up to which a thread sends a gradient to one, and others wait less for it than for four.
const POINTS_OF_SENDER: usize = 1 << 18;

/// Points that one thread sends a gradient to: four of many with one channel, where int32 counts their cells.
pub fn points_of_sender(batch: usize, points: usize, channels: usize, cells: usize) -> u64 {
    let many = batch.saturating_mul(points) > POINTS_OF_SENDER;
    if many && channels == 1 && i32::try_from(cells).is_ok() { 4 } else { 1 }
}

/// Sends a gradient to every point: a thread eight channels of a point, or one of so many points. Without a type of the
/// points their cells are known.
pub fn spread(
    op: &str,
    points: Option<DType>,
    grad: DType,
    batch: usize,
    count: usize,
    channels: usize,
    each: u64,
) -> Result<Tiles> {
    let kernel = match points {
        None => kernel_name!(@floats "voxelize_spread_known_", "", grad),
        Some(DType::F64) => kernel_name!(@floats "voxelize_spread_f64_", "", grad),
        Some(DType::F32) => kernel_name!(@floats "voxelize_spread_f32_", "", grad),
        Some(DType::F16) => kernel_name!(@floats "voxelize_spread_f16_", "", grad),
        _ => kernel_name!(@floats "voxelize_spread_bf16_", "", grad),
    };
    tiles(op, kernel, batch, count.saturating_mul(channels.div_ceil(SENT)), each)
}

/// Sends a gradient to every point of a voxel that is known: a thread an element.
pub fn gather(op: &str, dtype: DType, batch: usize, points: usize, channels: usize) -> Result<Tiles> {
    tiles(op, kernel_name!(@floats "voxelize_gather_", "", dtype), batch, points.saturating_mul(channels), 1)
}

/// Works out what each point of a voxel gets: a thread a voxel.
pub fn share(op: &str, dtype: DType, batch: usize, cells: usize, channels: usize) -> Result<Tiles> {
    let tiles = (cells as u64).div_ceil(u64::from(BLOCK));
    let parts = most_of(tiles.saturating_mul(batch as u64), channels.div_ceil(SENT));
    shared_out(op, kernel_name!(@floats "voxelize_share_", "", dtype), batch, tiles, parts, BLOCK)
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

/// Reduces the rows of a sparse grid: a thread some of a row's channels, neighbours in different blocks where these are
/// few.
pub fn sparse_rows(
    op: &str,
    reduce: Reduce,
    backward: bool,
    dtype: DType,
    rows: usize,
    channels: usize,
) -> Result<Launch> {
    let groups = channels.div_ceil(taken(dtype));
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
    use super::*;

    const CELLS: usize = 128 * 128 * 128;

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
            Tiling { bits: 10, tiles: 2048, chunk: 2816, chunks: 178, pitch: 2056, shared_bits: 0, links: true }
        );
        let chunk = chunks("voxelize", DType::F32, 1, &tiling).unwrap();
        assert_eq!((chunk.launch.kernel, chunk.launch.grid), ("voxelize_tiles_f32", [178, 1, 1]));
        let tile = tile_rows("voxelize", Reduce::Mean, false, DType::F32, 1, &tiling, 8).unwrap();
        assert_eq!((tile.launch.kernel, tile.launch.grid), ("voxelize_tile_link_f32", [2048, 1, 1]));
        let row = sparse_rows("voxelize", Reduce::Max, true, DType::F16, 1000, 9).unwrap();
        assert_eq!((row.kernel, row.grid), ("voxelize_row_apart_send_f16", [12, 1, 1]));
        let row = sparse_rows("voxelize_sparse", Reduce::Mean, false, DType::F32, 500_000, 8).unwrap();
        assert_eq!((row.kernel, row.grid), ("voxelize_row_sum_f32", [3907, 1, 1]));
        assert_eq!(clear("voxelize", 17).unwrap().grid, [1, 1, 1]);
    }

    #[test]
    fn small_clouds_are_one_launch() {
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
        let spread = |count, channels| {
            let each = points_of_sender(2, count, channels, 1000);
            spread("voxelize", None, DType::F32, 2, count, channels, each).unwrap().launch.grid
        };
        assert_eq!((spread(300, 9), spread(300, 64)), ([6, 1, 1], [20, 1, 1]), "a thread eight channels");
        assert_eq!((spread(300_000, 64)[0], spread(300, 0)[0]), (18_750, 0));
        assert_eq!((spread(300_000, 1)[0], spread(60_000, 1)[0]), (586, 470), "of many four points");
        assert_eq!(points_of_sender(1, 1 << 30, 1, 1 << 31), 1, "cells that int32 does not count");
        let share = |cells, channels| share("voxelize", DType::F16, 2, cells, channels).unwrap().launch;
        assert_eq!((share(5832, 12).kernel, share(5832, 12).grid), ("voxelize_share_f16", [46, 2, 1]));
        assert_eq!((share(1 << 20, 12).grid, share(300, 0).grid), ([8192, 1, 1], [4, 1, 1]));
    }

    #[test]
    fn nothing_to_do_is_an_empty_grid() {
        assert_eq!(points("voxelize", Reduce::Count, DType::F64, 0, 5).unwrap().launch.grid[0], 0);
        assert_eq!(points("voxelize", Reduce::Count, DType::F64, 5, 0).unwrap().launch.grid[0], 0);
        assert!(rows("voxelize", Reduce::Sum, false, DType::F64, 1, 1 << 50, 1).is_err());
    }
}
