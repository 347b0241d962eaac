//! Every launch and every byte of workspace of `voxelize_sparse`, made from plain numbers and testable without a GPU.

use crate::error::{Error, Result};
use crate::launch::Launch;
use crate::ops::rows_plan::{blocks, kernel_name, line, taken};
use crate::ops::voxelize::grid::Grid;
use crate::ops::voxelize::launches::{BLOCK, GROUP, Tiles, tiles};
use crate::ops::voxelize::tiling::Tiling;
use crate::tensor::DType;

/// Bits of a digit at most: a thread of a block for each of its 256 values.
pub const DIGIT: u32 = 8;
/// Values of a digit at most.
pub const DIGITS: usize = 1 << DIGIT;
/// Points that a thread of the sort takes.
pub const EACH: u64 = 8;
/// Points that one block of the sort takes.
pub const TILE: usize = BLOCK as usize * EACH as usize;

/// Threads of the one block that adds up the tiles of all grids.
const NUMBER_BLOCK: u32 = 1024;
/// Tiles of all grids up to which one block can tell what is before each in a few rounds.
const MOST_TILES: usize = 1 << 17;

/// Points of a tile beyond which the passes over keys take less: a block has no room for them in shared memory, and
/// puts them in order with few of its warps.
const MOST_POINTS: usize = 1024;

/// How clouds are sorted on CUDA where it is by tiles of their grids: these are few and not full and share no lists,
/// and int32 counts all points.
fn tiling(batch: usize, points: usize, grid: &Grid) -> Option<Tiling> {
    let cells = grid.cells().and_then(|cells| usize::try_from(cells).ok())?;
    let tiling = Tiling::new(batch, points, cells)?;
    let fits = batch.checked_mul(points).is_some_and(|all| i32::try_from(all).is_ok());
    let few = batch.checked_mul(tiling.tiles).is_some_and(|all| all <= MOST_TILES);
    let full = points / tiling.tiles.max(1) > MOST_POINTS;
    (fits && few && !full && tiling.shared_bits == 0).then_some(tiling)
}

/// The memory that a call borrows: offsets and size in bytes, each part aligned to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Digits of a key, the number of passes of the sort.
    pub passes: u32,
    /// Bits of a digit on CUDA: no more than that many passes need, so that fewer digits have longer runs.
    pub digit: u32,
    /// Bytes of a key: on CUDA 4 where they hold the grid's cells.
    pub key: usize,
    /// Blocks of the sort for a cloud.
    pub tiles: usize,
    /// How clouds are sorted on CUDA, where it is by tiles of their grids and not by the digits of keys.
    pub tiling: Option<Tiling>,
    /// A key for each point, sorted when all passes are done.
    pub keys_at: usize,
    /// A key for each point (on the CPU of one cloud): keys between passes.
    pub spare_keys_at: usize,
    /// int32 for each point (on the CPU of one cloud): points between passes; then where rows end.
    pub spare_order_at: usize,
    /// int32 for each digit of each tile, on CUDA: how many keys have it, then where they go.
    pub counts_at: usize,
    /// int32 for each digit of each cloud, on CUDA.
    pub totals_at: usize,
    /// int64 for each tile, on CUDA: how many voxels begin in it, then how many begin before it.
    pub heads_at: usize,
    /// int32 for each cloud, by tiles of the grid as all that follow.
    pub cursor_at: usize,
    /// int32 for each point: its cell, then its row.
    pub cells_at: usize,
    /// uint32 for each point: its number in its chunk and its cell in its tile.
    pub entries_at: usize,
    /// uint16 for each tile of each chunk, and more.
    pub table_at: usize,
    /// Two int32 for each tile, and for all: points and voxels of a tile, then of those before.
    pub sums_at: usize,
    /// Four int32 for each voxel, at most one a point: its cloud, cell, place in the order and number of points.
    pub voxels_at: usize,
    /// All of it.
    pub bytes: usize,
}

impl Workspace {
    /// What that call needs.
    pub fn new(op: &str, batch: usize, points: usize, grid: &Grid, cuda: bool) -> Result<Workspace> {
        // A key is a cell, or their number for a dropped point, which so comes last.
        let cells = grid.cells().unwrap_or(u64::MAX);
        let bits = u64::BITS - cells.leading_zeros();
        let passes = bits.div_ceil(DIGIT);
        let digit = bits.div_ceil(passes.max(1));
        let key = if cuda && u32::try_from(cells).is_ok() { 4 } else { 8 };
        let tiles = points.div_ceil(TILE);
        let tiling = if cuda { tiling(batch, points, grid) } else { None };
        let tiled = if tiling.is_some() { batch } else { 0 };
        let sorted = batch - tiled;
        let one = if cuda { sorted } else { sorted.min(1) };
        let mut bytes = Some(0usize);
        let mut part = |clouds: usize, items: usize, item: usize| {
            let at = bytes.unwrap_or(0);
            let size = clouds.checked_mul(items).and_then(|all| all.checked_mul(item));
            let next = size.and_then(|size| at.checked_add(size)?.checked_next_multiple_of(16));
            bytes = bytes.and(next.filter(|&next| next <= isize::MAX as usize));
            at
        };
        let keys_at = part(sorted, points, key);
        let spare_keys_at = part(one, points, key);
        let spare_order_at = part(one, points, 4);
        let device = if cuda { sorted } else { 0 };
        let counts_at = part(device, tiles.saturating_mul(DIGITS), 4);
        let totals_at = part(device, DIGITS, 4);
        let heads_at = part(device, tiles, 8);
        let cursor_at = part(tiled, 1, 4);
        let cells_at = part(tiled, points, 4);
        let entries_at = part(tiled, points, 4);
        let table_at = part(tiled, tiling.map_or(0, |tiling| tiling.chunks.saturating_mul(tiling.pitch)), 2);
        let sums = tiling.map_or(0, |tiling| (batch * tiling.tiles + 1) * 8);
        let sums_at = part(1, sums, 1);
        let voxels_at = part(tiled, points, 16);
        let bytes = bytes.ok_or_else(|| {
            let found = format!("{batch} clouds of {points} points");
            Error::Value(format!("{op}: points must be few enough to plan memory for, got {found}"))
        })?;
        let parts = Workspace {
            passes,
            digit,
            key,
            tiles,
            tiling,
            keys_at,
            spare_keys_at,
            spare_order_at,
            counts_at,
            totals_at,
            heads_at,
            cursor_at,
            cells_at,
            entries_at,
            table_at,
            sums_at,
            voxels_at,
            bytes,
        };
        Ok(parts)
    }
}

/// The launches of the sort and of the rows; digits are counted, scanned and moved once for each pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// A key for each point.
    pub keys: Tiles,
    /// Counts the digits of each tile.
    pub count: Launch,
    /// Turns counts into places: a block for each digit of each cloud.
    pub scan: Launch,
    /// Moves keys to their places.
    pub shift: Launch,
    /// Counts the voxels that begin in each tile.
    pub heads: Launch,
    /// Turns these into the first row of each tile: one block.
    pub number: Launch,
    /// Writes the row of each point, and each row's voxel.
    pub fill: Launch,
    /// Counts the points of rows and empties those past the last, and widens the row of each point.
    pub finish: Launch,
}

/// The name of a kernel by the bytes of keys.
macro_rules! by_key {
    ($stem:literal, $key:expr) => {
        if $key == 4 { concat!("voxelize_sparse_", $stem, "_u32") } else { concat!("voxelize_sparse_", $stem, "_u64") }
    };
}

/// The plan for clouds of that many points of that type, with keys of so many bytes; `rows` are the rows or the points
/// of all clouds, of which there are more.
pub fn plan(op: &str, batch: usize, points: usize, dtype: DType, key: usize, rows: usize) -> Result<Plan> {
    let by_tile = |kernel| Ok::<_, Error>(tiles(op, kernel, batch, points, EACH)?.launch);
    let number = Launch {
        kernel: "voxelize_sparse_number",
        grid: [blocks(op, 1, 1)?, 1, 1],
        block: [BLOCK, 1, 1],
        shared_bytes: 0,
    };
    let keys = match key {
        4 => kernel_name!(@floats "voxelize_sparse_keys_", "_u32", dtype),
        _ => kernel_name!(@floats "voxelize_sparse_keys_", "_u64", dtype),
    };
    let digits = (batch as u64).saturating_mul(DIGITS as u64).saturating_mul(u64::from(BLOCK));
    Ok(Plan {
        keys: tiles(op, keys, batch, points, 1)?,
        count: by_tile(by_key!("count", key))?,
        scan: line(op, "voxelize_sparse_scan", digits, BLOCK)?,
        shift: by_tile(by_key!("shift", key))?,
        heads: by_tile(by_key!("heads", key))?,
        number,
        fill: by_tile(by_key!("fill", key))?,
        finish: line(op, "voxelize_sparse_finish", rows as u64, BLOCK)?,
    })
}

/// Counts the points and voxels of each tile of the grids: a block a tile.
pub fn tile_count(op: &str, batch: usize, tiling: &Tiling) -> Result<Launch> {
    line(op, "voxelize_sparse_tile_count", (batch as u64 * tiling.tiles as u64) * u64::from(BLOCK), BLOCK)
}

/// Turns these into what is before each tile: one block.
pub fn tile_number(op: &str) -> Result<Launch> {
    line(op, "voxelize_sparse_tile_number", u64::from(NUMBER_BLOCK), NUMBER_BLOCK)
}

/// Writes the order: a block a tile, then a block a chunk for its dropped points.
pub fn tile_order(op: &str, batch: usize, tiling: &Tiling) -> Result<Launch> {
    let blocks = batch as u64 * (tiling.tiles + tiling.chunks) as u64;
    line(op, "voxelize_sparse_tile_order", blocks.saturating_mul(u64::from(BLOCK)), BLOCK)
}

/// Writes rows and the row of each point: a thread for each of both.
pub fn tile_fill(op: &str, points: usize, rows: usize) -> Result<Launch> {
    line(op, "voxelize_sparse_tile_fill", points.max(rows) as u64, BLOCK)
}

/// Sends the gradient of a sum or a mean to every point: a thread 16 bytes of a point's channels, or as many as it
/// reduces at a time where a row has no whole number of these.
pub fn spread(op: &str, dtype: DType, points: u64, channels: usize) -> Result<Launch> {
    let wide = GROUP / dtype.size();
    let groups = channels.div_ceil(if channels.is_multiple_of(wide) { wide } else { taken(dtype) }) as u64;
    line(op, kernel_name!(@floats "voxelize_sparse_spread_", "", dtype), points.saturating_mul(groups), BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(size: [i64; 3]) -> Grid {
        Grid { origin: [0.0; 3], voxel_size: [1.0; 3], size }
    }

    #[test]
    fn keys_have_as_many_digits_as_the_grid_needs() {
        let passes = |size| Workspace::new("voxelize_sparse", 1, 10, &grid(size), true).unwrap().passes;
        assert_eq!(passes([1, 1, 1]), 1);
        assert_eq!(passes([255, 1, 1]), 1);
        assert_eq!(passes([256, 1, 1]), 2);
        assert_eq!(passes([128, 128, 128]), 3);
        assert_eq!(passes([1 << 21, 1 << 21, 1 << 21]), 8);
        let digit = |size| Workspace::new("voxelize_sparse", 1, 10, &grid(size), true).unwrap().digit;
        assert_eq!((digit([512; 3]), digit([256; 3]), digit([1; 3])), (7, 7, 1));
    }

    #[test]
    fn memory_grows_with_points_and_not_with_the_grid() {
        let bytes = |points, size| Workspace::new("voxelize_sparse", 2, points, &grid(size), true).unwrap().bytes;
        assert_eq!(bytes(500_000, [1 << 11; 3]), bytes(500_000, [1 << 21; 3]));
        let each = |side| bytes(1 << 20, [side; 3]) as f64 / (2.0 * f64::from(1 << 20));
        assert!((12.0..13.0).contains(&each(1 << 10)), "{} bytes a point by keys of 4", each(1 << 10));
        assert!((20.0..21.0).contains(&each(1 << 11)), "{} bytes a point by keys of 8", each(1 << 11));
        assert!((24.0..26.5).contains(&each(64)) && (24.0..26.5).contains(&each(256)), "{} by tiles", each(256));
        assert!(Workspace::new("voxelize_sparse", 1 << 40, 1 << 30, &grid([1; 3]), true).is_err());
    }

    #[test]
    fn grids_of_few_tiles_are_sorted_by_tiles() {
        let tiling = |batch, points, side| {
            Workspace::new("voxelize_sparse", batch, points, &grid([side; 3]), true).unwrap().tiling
        };
        assert_eq!(tiling(1, 500_000, 128).unwrap().tiles, 2048);
        assert_eq!(tiling(1, 500_000, 256).unwrap().tiles, 16_384);
        assert_eq!(tiling(1, 500_000, 257), None, "more tiles than a block counts");
        assert_eq!(tiling(1 << 12, 1 << 20, 64), None, "more points than int32 counts");
        assert_eq!(tiling(1, 7_000_000, 31), None, "932 full tiles");
        assert_eq!(tiling(100, 1000, 128), None, "more tiles than one block adds up");
        assert_eq!(Workspace::new("voxelize_sparse", 1, 9, &grid([8; 3]), false).unwrap().tiling, None);
    }

    #[test]
    fn parts_are_aligned_and_do_not_overlap() {
        let by_keys = [3 * 2049 * 4, 3 * 2049 * 4, 3 * 2049 * 4, 3 * 2 * 256 * 4, 3 * 256 * 4, 3 * 2 * 8];
        let [few, points] = [3 * 4, 3 * 2049 * 4];
        let by_tiles = [few, points, points, 3 * 5 * 8 * 2, (3 * 7 + 1) * 8, 4 * points];
        for (size, keys, tiles) in [([500; 3], by_keys, [0; 6]), ([5, 6, 7], [0; 6], by_tiles)] {
            let plan = Workspace::new("voxelize_sparse", 3, 2049, &grid(size), true).unwrap();
            let parts = [
                plan.keys_at,
                plan.spare_keys_at,
                plan.spare_order_at,
                plan.counts_at,
                plan.totals_at,
                plan.heads_at,
                plan.cursor_at,
                plan.cells_at,
                plan.entries_at,
                plan.table_at,
                plan.sums_at,
                plan.voxels_at,
                plan.bytes,
            ];
            for (pair, need) in parts.windows(2).zip(keys.into_iter().chain(tiles)) {
                assert!(pair[0] % 16 == 0 && pair[1] - pair[0] >= need && pair[1] - pair[0] < need + 16, "{plan:?}");
            }
        }
    }

    #[test]
    fn a_block_scans_a_digit_of_a_cloud() {
        let plan = plan("voxelize_sparse", 2, 500_000, DType::F32, 4, 1000).unwrap();
        assert_eq!(plan.scan.grid, [512, 1, 1]);
        assert_eq!(
            (plan.keys.launch.kernel, plan.fill.kernel),
            ("voxelize_sparse_keys_f32_u32", "voxelize_sparse_fill_u32")
        );
        assert_eq!(plan.shift.grid, [490, 1, 1]);
        assert_eq!((plan.keys.launch.grid, plan.keys.tiles), ([3908, 1, 1], 1954));
        assert_eq!(plan.finish.grid, [4, 1, 1]);
    }
}
