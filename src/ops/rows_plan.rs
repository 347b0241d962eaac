//! How warps divide rows of channels: what the plans of the operators that read rows share.

use crate::error::{Error, Result};
use crate::launch::{Launch, WARP};

/// 4 warps: a warp works alone, and small blocks spread a small batch over more multiprocessors.
pub const BLOCK: u32 = 128;
/// 4 vectors in flight on each of 32 lanes hide the latency of a load.
const VECTORS_PER_WARP: u64 = 128;
/// Rows that a warp handles: at least the 4 that it searches in lockstep, at most one for each lane.
const ROWS_PER_WARP: [u32; 4] = [4, 8, 16, 32];
/// Warps that fill an H200 (132 multiprocessors of 16 resident blocks of 4 warps) about a quarter; fewer rows a warp
/// before fewer warps.
const ENOUGH_WARPS: u64 = 2048;
/// Vectors of a row that one warp takes; longer rows (images) are cut, so that one row is not one warp's work.
const TILE: u64 = 1024;

/// A warp's share of the rows of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Rows of `[B * T]` that one warp handles.
    pub rows_per_warp: u32,
    /// Vectors of a row that one warp handles.
    pub tile: u64,
    /// Tiles of a row.
    pub tiles: u64,
    /// Warps that handle all rows.
    pub warps: u64,
}

impl Share {
    /// Of that many rows of that many vectors, where so many signals share a launch.
    pub fn new(rows: u64, vectors: u64, signals: u64) -> Share {
        let tile = vectors.clamp(1, TILE);
        let tiles = vectors.div_ceil(tile);
        let rows_per_warp = rows_per_warp(rows, tile, signals);
        let warps = rows.div_ceil(u64::from(rows_per_warp)).saturating_mul(tiles);
        // Kernels divide by it, those past the last warp of a launch too.
        Share { rows_per_warp, tile, tiles: tiles.max(1), warps }
    }
}

/// The most rows a warp can take while its lanes have work in flight and the device has enough warps.
pub fn rows_per_warp(rows: u64, vectors: u64, signals: u64) -> u32 {
    let fits = |&count: &u32| {
        let count = u64::from(count);
        count * vectors <= VECTORS_PER_WARP && rows.div_ceil(count).saturating_mul(signals) >= ENOUGH_WARPS
    };
    ROWS_PER_WARP.into_iter().rev().find(fits).unwrap_or(ROWS_PER_WARP[0])
}

/// `B * T`.
pub fn rows_of(op: &str, batch: usize, targets: usize) -> Result<u64> {
    (batch as u64)
        .checked_mul(targets as u64)
        .ok_or_else(|| Error::Value(format!("{op}: B * T must fit 64 bits, got {batch} * {targets}")))
}

/// Blocks for that many threads; `op` for the error text.
pub fn blocks(op: &str, threads: u64, block: u32) -> Result<u32> {
    u32::try_from(threads.div_ceil(u64::from(block))).ok().filter(|&grid| grid <= i32::MAX as u32).ok_or_else(|| {
        Error::Value(format!("{op}: the result must fit one launch, got {threads} threads in blocks of {block}"))
    })
}

/// A launch along one axis.
pub fn line(op: &str, kernel: &'static str, threads: u64, block: u32) -> Result<Launch> {
    Ok(Launch { kernel, grid: [blocks(op, threads, block)?, 1, 1], block: [block, 1, 1], shared_bytes: 0 })
}

/// A launch of that many warps.
pub fn warps(op: &str, kernel: &'static str, warps: u64) -> Result<Launch> {
    line(op, kernel, warps.saturating_mul(u64::from(WARP)), BLOCK)
}

/// The name of the kernel of a time and a value type, from a table that the compiler checks.
macro_rules! kernel_name {
    (@floats $prefix:expr, $suffix:expr, $value:expr) => {
        match $value {
            DType::F64 => concat!($prefix, "f64", $suffix),
            DType::F32 => concat!($prefix, "f32", $suffix),
            DType::F16 => concat!($prefix, "f16", $suffix),
            _ => concat!($prefix, "bf16", $suffix),
        }
    };
    (@values $prefix:expr, $suffix:expr, $value:expr) => {
        match $value {
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 => kernel_name!(@floats $prefix, $suffix, $value),
            DType::I64 | DType::U64 => concat!($prefix, "b64", $suffix),
            DType::I32 | DType::U32 => concat!($prefix, "b32", $suffix),
            DType::I16 | DType::U16 => concat!($prefix, "b16", $suffix),
            DType::I8 | DType::U8 | DType::Bool => concat!($prefix, "b8", $suffix),
        }
    };
    (@$kind:tt times $prefix:expr, $suffix:expr, $time:expr, $value:expr) => {
        match $time {
            DType::I64 => kernel_name!(@$kind concat!($prefix, "i64_"), $suffix, $value),
            DType::F64 => kernel_name!(@$kind concat!($prefix, "f64_"), $suffix, $value),
            _ => kernel_name!(@$kind concat!($prefix, "f32_"), $suffix, $value),
        }
    };
    ($prefix:expr, $time:expr) => {
        match $time {
            DType::I64 => concat!($prefix, "i64"),
            DType::F64 => concat!($prefix, "f64"),
            _ => concat!($prefix, "f32"),
        }
    };
}
pub(crate) use kernel_name;
