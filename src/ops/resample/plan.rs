//! Every launch decision of `resample`, made from plain numbers and testable without a GPU.

use crate::error::{Error, Result};
use crate::launch::{Launch, WARP};
use crate::ops::interpolate::Bracket;
use crate::tensor::DType;

/// 4 warps: a warp works alone, and small blocks spread a small batch over more multiprocessors.
const FORWARD_BLOCK: u32 = 128;
/// The gather is latency bound; 8 warps a block reach full occupancy at 32 registers on sm_80 to sm_120.
const BACKWARD_BLOCK: u32 = 256;
/// 4 vectors in flight on each of 32 lanes hide the latency of a load.
const VECTORS_PER_WARP: u64 = 128;
/// Rows that a warp handles: at least the 4 that it searches in lockstep, at most one for each lane.
const ROWS_PER_WARP: [u32; 4] = [4, 8, 16, 32];
/// Warps that fill an H200 (132 multiprocessors of 16 resident blocks of 4 warps) about a quarter; fewer rows a warp
/// before fewer warps.
const ENOUGH_WARPS: u64 = 2048;
/// Vectors of a row that one warp takes; longer rows (images) are cut, so that one row is not one warp's work.
const TILE: u64 = 1024;

/// The numbers that decide: sizes, types and whether 16-byte accesses are possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Rows of the batch.
    pub batch: usize,
    /// Samples of a row.
    pub samples: usize,
    /// Targets of a row.
    pub targets: usize,
    /// Channels that one launch covers.
    pub channels: usize,
    /// Type of the values.
    pub values: DType,
    /// Type of the times.
    pub times: DType,
    /// The rows allow 16-byte accesses and have one mode.
    pub wide: bool,
}

/// A forward launch and how its warps divide the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The launch.
    pub launch: Launch,
    /// Rows of `[B * T]` that one warp handles.
    pub rows_per_warp: u32,
    /// Vectors of a row that one warp handles.
    pub tile: u64,
    /// Tiles of a row.
    pub tiles: u64,
}

/// The launches of a backward; the gather is repeated for every run of channel groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackwardPlan {
    /// Finds the bracket of every target of the distinct rows.
    pub bracket: Launch,
    /// Rows that one warp of it handles.
    pub rows_per_warp: u32,
    /// Puts the targets of a row in ascending (bracket, target) order; returns early where they ascend already.
    pub order: Launch,
    /// Gathers by source row.
    pub gather: Launch,
}

/// The memory that a backward borrows from torch: offsets and size in bytes, each part aligned to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Distinct rows of brackets; the brackets stand first.
    pub rows: usize,
    /// `[rows, T]` int64: the targets in ascending (bracket, target) order.
    pub order_at: usize,
    /// `[rows, T]` int64, for sorting.
    pub scratch_at: usize,
    /// `[rows, S + 1]` int64: how many places have a bracket that begins before a sample.
    pub starts_at: usize,
    /// All of it.
    pub bytes: usize,
}

impl Workspace {
    /// For that many distinct rows.
    pub fn new(rows: usize, samples: usize, targets: usize) -> Result<Self> {
        let part = |row: usize, item: usize| row.checked_mul(rows)?.checked_mul(item)?.checked_next_multiple_of(16);
        let plan = || {
            let order_at = part(targets, size_of::<Bracket>())?;
            let scratch_at = order_at.checked_add(part(targets, size_of::<i64>())?)?;
            let starts_at = scratch_at.checked_add(part(targets, size_of::<i64>())?)?;
            let bytes = starts_at.checked_add(part(samples.checked_add(1)?, size_of::<i64>())?)?;
            Some(Workspace { rows, order_at, scratch_at, starts_at, bytes })
        };
        plan().ok_or_else(|| {
            Error::Value(format!(
                "resample_backward: target_times must be small enough to plan memory for, got {rows} rows of {targets} targets"
            ))
        })
    }
}

/// The name of the kernel of a time and a value type, from a table that the compiler checks.
macro_rules! kernel_name {
    (@values $prefix:expr, $suffix:expr, $value:expr) => {
        match $value {
            DType::F64 => concat!($prefix, "f64", $suffix),
            DType::F32 => concat!($prefix, "f32", $suffix),
            DType::F16 => concat!($prefix, "f16", $suffix),
            DType::BF16 => concat!($prefix, "bf16", $suffix),
            DType::I64 | DType::U64 => concat!($prefix, "b64", $suffix),
            DType::I32 | DType::U32 => concat!($prefix, "b32", $suffix),
            DType::I16 | DType::U16 => concat!($prefix, "b16", $suffix),
            DType::I8 | DType::U8 | DType::Bool => concat!($prefix, "b8", $suffix),
        }
    };
    (@times $prefix:expr, $suffix:expr, $time:expr, $value:expr) => {
        match $time {
            DType::I64 => kernel_name!(@values concat!($prefix, "i64_"), $suffix, $value),
            DType::F64 => kernel_name!(@values concat!($prefix, "f64_"), $suffix, $value),
            _ => kernel_name!(@values concat!($prefix, "f32_"), $suffix, $value),
        }
    };
}

fn lanes_in_16_bytes(dtype: DType) -> u64 {
    16 / dtype.size() as u64
}

fn blocks(threads: u64, block: u32) -> Result<u32> {
    u32::try_from(threads.div_ceil(u64::from(block))).ok().filter(|&grid| grid <= i32::MAX as u32).ok_or_else(|| {
        Error::Value(format!("resample: the result must fit one launch, got {threads} threads in blocks of {block}"))
    })
}

fn line(kernel: &'static str, threads: u64, block: u32) -> Result<Launch> {
    Ok(Launch { kernel, grid: [blocks(threads, block)?, 1, 1], block: [block, 1, 1], shared_bytes: 0 })
}

/// The most rows a warp can take while its lanes have work in flight and the device has enough warps.
fn rows_per_warp(rows: u64, vectors: u64) -> u32 {
    let fits = |&count: &u32| {
        let count = u64::from(count);
        count * vectors <= VECTORS_PER_WARP && rows.div_ceil(count) >= ENOUGH_WARPS
    };
    ROWS_PER_WARP.into_iter().rev().find(fits).unwrap_or(ROWS_PER_WARP[0])
}

fn rows_of(case: &Case) -> Result<u64> {
    (case.batch as u64)
        .checked_mul(case.targets as u64)
        .ok_or_else(|| Error::Value(format!("resample: B * T must fit 64 bits, got {} * {}", case.batch, case.targets)))
}

fn forward_with(case: &Case, kernel: &'static str) -> Result<Plan> {
    let rows = rows_of(case)?;
    let vectors = case.channels as u64 / if case.wide { lanes_in_16_bytes(case.values) } else { 1 };
    let tile = vectors.clamp(1, TILE);
    let tiles = vectors.div_ceil(tile);
    let rows_per_warp = rows_per_warp(rows, tile);
    let warps = rows.div_ceil(u64::from(rows_per_warp)).saturating_mul(tiles);
    let launch = line(kernel, warps.saturating_mul(u64::from(WARP)), FORWARD_BLOCK)?;
    Ok(Plan { launch, rows_per_warp, tile, tiles })
}

/// The plan of `resample`.
pub fn forward(case: &Case) -> Result<Plan> {
    let kernel = if case.wide {
        kernel_name!(@times "resample_", "_wide", case.times, case.values)
    } else {
        kernel_name!(@times "resample_", "", case.times, case.values)
    };
    forward_with(case, kernel)
}

/// The plan of `resample_slope`, which works an element at a time.
pub fn slope(case: &Case) -> Result<Plan> {
    let kernel = kernel_name!(@times "resample_slope_", "", case.times, case.values);
    forward_with(&Case { wide: false, ..*case }, kernel)
}

/// The plan of `resample_time_grad`: a warp for each row.
pub fn time_grad(case: &Case) -> Result<Plan> {
    let kernel = kernel_name!(@times "resample_time_grad_", "", case.times, case.values);
    let launch = line(kernel, rows_of(case)?.saturating_mul(u64::from(WARP)), FORWARD_BLOCK)?;
    Ok(Plan { launch, rows_per_warp: 1, tile: case.channels as u64, tiles: 1 })
}

/// The plan of `resample_backward` with brackets of `distinct` rows.
pub fn backward(case: &Case, distinct: usize) -> Result<BackwardPlan> {
    let bracket = match case.times {
        DType::I64 => "resample_bracket_i64",
        DType::F64 => "resample_bracket_f64",
        _ => "resample_bracket_f32",
    };
    let rows = rows_of(&Case { batch: distinct, ..*case })?;
    let rows_per_warp = rows_per_warp(rows, 1);
    let warps = rows.div_ceil(u64::from(rows_per_warp));
    let gather = if case.wide {
        kernel_name!(@values "resample_backward_", "_wide", case.values)
    } else {
        kernel_name!(@values "resample_backward_", "", case.values)
    };
    let vectors = case.channels as u64 / if case.wide { lanes_in_16_bytes(case.values) } else { 1 };
    let items = (case.batch as u64).saturating_mul(case.samples as u64).saturating_mul(vectors);
    let order = Launch {
        kernel: "resample_order",
        grid: [blocks(distinct as u64, 1)?, 1, 1],
        block: [BACKWARD_BLOCK, 1, 1],
        shared_bytes: 0,
    };
    Ok(BackwardPlan {
        bracket: line(bracket, warps.saturating_mul(u64::from(WARP)), FORWARD_BLOCK)?,
        rows_per_warp,
        order,
        gather: line(gather, items, BACKWARD_BLOCK)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAR: Case = Case {
        batch: 32,
        samples: 500,
        targets: 250,
        channels: 256,
        values: DType::BF16,
        times: DType::F64,
        wide: true,
    };

    #[test]
    fn a_warp_takes_the_rows_it_searches_in_lockstep() {
        let plan = forward(&BAR).unwrap();
        let launch =
            Launch { kernel: "resample_f64_bf16_wide", grid: [500, 1, 1], block: [128, 1, 1], shared_bytes: 0 };
        assert_eq!(plan, Plan { launch, rows_per_warp: 4, tile: 32, tiles: 1 });
    }

    #[test]
    fn narrow_rows_share_a_warp_and_long_rows_are_cut() {
        let narrow = forward(&Case { batch: 64, targets: 4096, channels: 32, ..BAR }).unwrap();
        assert_eq!((narrow.rows_per_warp, narrow.tile, narrow.tiles), (32, 4, 1));
        let long = forward(&Case { batch: 1, targets: 10, channels: 640 * 480 * 3, ..BAR }).unwrap();
        assert_eq!((long.rows_per_warp, long.tile, long.tiles), (4, 1024, 113));
        assert_eq!(long.launch.grid, [85, 1, 1]);
    }

    #[test]
    fn nothing_to_do_is_an_empty_grid() {
        for empty in [Case { batch: 0, ..BAR }, Case { targets: 0, ..BAR }, Case { channels: 0, ..BAR }] {
            assert_eq!(forward(&empty).unwrap().launch.grid[0], 0, "{empty:?}");
        }
        assert_eq!(backward(&Case { channels: 0, ..BAR }, 32).unwrap().gather.grid[0], 0);
        assert_eq!(backward(&Case { targets: 0, ..BAR }, 32).unwrap().bracket.grid[0], 0);
    }

    #[test]
    fn sizes_beyond_32_bits_are_planned_and_beyond_a_launch_refused() {
        let large = Case { batch: 1 << 20, targets: 1 << 14, channels: 1, wide: false, ..BAR };
        assert_eq!(forward(&large).unwrap().launch.grid[0], 1 << (34 - 5 - 2));
        let beyond = Case { batch: 1 << 40, targets: 1 << 14, ..BAR };
        assert!(matches!(forward(&beyond), Err(Error::Value(_))));
    }

    #[test]
    fn workspace_parts_are_aligned_and_do_not_overlap() {
        let plan = Workspace::new(3, 5, 7).unwrap();
        let parts = [0, plan.order_at, plan.scratch_at, plan.starts_at, plan.bytes];
        let needs = [3 * 7 * 32, 3 * 7 * 8, 3 * 7 * 8, 3 * 6 * 8];
        for (pair, need) in parts.windows(2).zip(needs) {
            assert!(pair[0] % 16 == 0 && pair[1] - pair[0] >= need, "{plan:?}");
        }
        assert!(Workspace::new(usize::MAX, 1, 1).is_err());
    }
}
