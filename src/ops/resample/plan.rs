//! Every launch decision of `resample`, made from plain numbers and testable without a GPU.

use crate::error::{Error, Result};
use crate::launch::Launch;
use crate::ops::interpolate::Bracket;
use crate::ops::rows_plan::{Access, PLAIN_BLOCK, Share, blocks, kernel_name, line, rows_of, warps};
use crate::tensor::DType;

const OP: &str = "resample";
/// Targets whose order one number of the workspace tells; threads of a block that finds brackets.
pub const ORDER_TILE: u32 = 256;
/// Targets for each sample from which a gather keeps the loads of 8 targets of a row in flight, not of 3.
const DEEP: usize = 4;
/// A gather of curves needs more registers than 8 warps a block leave it.
const CURVED_BACKWARD_BLOCK: u32 = 128;

/// The numbers that decide: sizes, types and whether 16-byte accesses are possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Rows of the batch.
    pub batch: usize,
    /// Samples of a row.
    pub samples: usize,
    /// Targets of a row.
    pub targets: usize,
    /// Channels that one launch covers; units where it counts by units.
    pub channels: usize,
    /// Type of the values.
    pub values: DType,
    /// Type of the times.
    pub times: DType,
    /// How their layout and modes let the channels be moved.
    pub access: Access,
}

/// A forward launch and how it shares out the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The launch.
    pub launch: Launch,
    /// A block's share, or of a curved launch a warp's.
    pub share: Share,
}

/// The launches of a backward; the gather is repeated for every run of channel groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackwardPlan {
    /// Finds the bracket of every target of the distinct rows, and whether they lie in order.
    pub bracket: Launch,
    /// Puts the targets of a row in ascending (bracket, target) order; returns at once where they lie so already.
    pub order: Launch,
    /// Gathers by source row.
    pub gather: Launch,
    /// A block's share of the gather; nothing for a gather by units, which has a thread for each.
    pub share: Share,
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
    /// int32 for each [`ORDER_TILE`] targets of all rows: whether they lie in order.
    pub disorder_at: usize,
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
            let disorder_at = starts_at.checked_add(part(samples.checked_add(1)?, size_of::<i64>())?)?;
            let tiles = rows.checked_mul(targets)?.div_ceil(ORDER_TILE as usize);
            let bytes = disorder_at.checked_add(tiles.checked_mul(size_of::<i32>())?.checked_next_multiple_of(16)?)?;
            Some(Workspace { rows, order_at, scratch_at, starts_at, disorder_at, bytes })
        };
        plan().ok_or_else(|| {
            Error::Value(format!(
                "{OP}_backward: target_times must be small enough to plan memory for, got {rows} rows of {targets} targets"
            ))
        })
    }
}

fn vectors(case: &Case) -> u64 {
    case.channels as u64 / case.access.elements(case.values)
}

/// Rows of plain channels, a block at a time.
fn plain(case: &Case, kernel: &'static str) -> Result<Plan> {
    rows_of(OP, case.batch, case.targets)?;
    let share = Share::of_blocks(case.batch as u64, case.targets as u64, vectors(case), true);
    let launch =
        Launch { kernel, grid: [blocks(OP, share.count, 1)?, 1, 1], block: [PLAIN_BLOCK, 1, 1], shared_bytes: 0 };
    Ok(Plan { launch, share })
}

/// Rows of units, a warp at a time.
fn curved(case: &Case, kernel: &'static str) -> Result<Plan> {
    let share = Share::of_warps(rows_of(OP, case.batch, case.targets)?, case.channels as u64, 1);
    Ok(Plan { launch: warps(OP, kernel, share.count)?, share })
}

/// The plan of `resample`.
pub fn forward(case: &Case) -> Result<Plan> {
    match (case.access, case.values.is_floating()) {
        (Access::Curved, _) => curved(case, kernel_name!(@floats "resample_curved_", "", case.values)),
        (_, true) => plain(case, kernel_name!(@floats times "resample_", "", case.times, case.values)),
        (_, false) => plain(case, kernel_name!(@values "resample_", "", case.values)),
    }
}

/// The plan of `resample_slope`, which works an element at a time.
pub fn slope(case: &Case) -> Result<Plan> {
    let kernel = kernel_name!(@floats "resample_slope_", "", case.values);
    plain(&Case { access: Access::Element, ..*case }, kernel)
}

/// The plan of `resample_tangent`, which works a unit at a time.
pub fn tangent(case: &Case) -> Result<Plan> {
    curved(case, kernel_name!(@floats "resample_tangent_", "", case.values))
}

/// The plan of `resample_time_grad`: a warp for each row.
pub fn time_grad(case: &Case) -> Result<Launch> {
    let kernel = kernel_name!(@floats times "resample_time_grad_", "", case.times, case.values);
    warps(OP, kernel, rows_of(OP, case.batch, case.targets)?)
}

/// The plan of `resample_backward`, or of `resample_curvature`, with brackets of `distinct` rows.
pub fn backward(case: &Case, distinct: usize, curvature: bool) -> Result<BackwardPlan> {
    let bracket = kernel_name!("resample_bracket_", case.times);
    let rows = rows_of(OP, distinct, case.targets)?;
    let deep = case.targets / DEEP >= case.samples.max(1);
    let gather = match (curvature, case.access, deep) {
        (true, ..) => kernel_name!(@floats "resample_curvature_", "", case.values),
        (_, Access::Curved, _) => kernel_name!(@floats "resample_backward_curved_", "", case.values),
        (_, Access::Bytes16, false) => kernel_name!(@floats "resample_backward_", "_wide", case.values),
        (_, Access::Bytes16, true) => kernel_name!(@floats "resample_backward_", "_wide_deep", case.values),
        (.., false) => kernel_name!(@floats "resample_backward_", "", case.values),
        (.., true) => kernel_name!(@floats "resample_backward_", "_deep", case.values),
    };
    let by_units = case.access == Access::Curved || curvature;
    let by_vectors = case.access == Access::Bytes16 && !curvature;
    let across = if by_vectors { vectors(case) } else { case.channels as u64 };
    let order = Launch {
        kernel: "resample_order",
        grid: [blocks(OP, distinct as u64, 1)?, 1, 1],
        block: [ORDER_TILE, 1, 1],
        shared_bytes: 0,
    };
    let (gather, share) = if by_units {
        let items = (case.batch as u64).saturating_mul(case.samples as u64).saturating_mul(across);
        (line(OP, gather, items, CURVED_BACKWARD_BLOCK)?, Share::NONE)
    } else {
        let share = Share::of_blocks(case.batch as u64, case.samples as u64, across, true);
        let grid = [blocks(OP, share.count, 1)?, 1, 1];
        (Launch { kernel: gather, grid, block: [PLAIN_BLOCK, 1, 1], shared_bytes: 0 }, share)
    };
    Ok(BackwardPlan { bracket: line(OP, bracket, rows, ORDER_TILE)?, order, gather, share })
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
        access: Access::Bytes16,
    };

    #[test]
    fn plain_rows_are_moved_by_blocks() {
        let plan = forward(&BAR).unwrap();
        let launch = Launch { kernel: "resample_f64_bf16", grid: [256, 1, 1], block: [256, 1, 1], shared_bytes: 0 };
        assert_eq!(plan, Plan { launch, share: Share { rows: 32, chunks: 8, tile: 32, tiles: 1, count: 256 } });
        let elements = slope(&BAR).unwrap();
        assert_eq!((elements.launch.kernel, elements.share.tile), ("resample_slope_bf16", 256));
    }

    #[test]
    fn curves_have_kernels_of_their_own() {
        let curved = Case { access: Access::Curved, ..BAR };
        let plan = forward(&curved).unwrap();
        assert_eq!((plan.launch.kernel, plan.launch.grid, plan.share.rows), ("resample_curved_bf16", [500, 1, 1], 4));
        assert_eq!(tangent(&BAR).unwrap().launch.kernel, "resample_tangent_bf16");
        assert_eq!(backward(&curved, 32, false).unwrap().gather.kernel, "resample_backward_curved_bf16");
        // An access of 16 bytes is for plain channels only: a curvature has a thread for each unit.
        let gather = backward(&BAR, 32, true).unwrap().gather;
        assert_eq!((gather.kernel, gather.grid[0]), ("resample_curvature_bf16", 32 * 500 * 256 / 128));
    }

    #[test]
    fn nothing_to_do_is_an_empty_grid() {
        for empty in [Case { batch: 0, ..BAR }, Case { targets: 0, ..BAR }, Case { channels: 0, ..BAR }] {
            assert_eq!(forward(&empty).unwrap().launch.grid[0], 0, "{empty:?}");
        }
        assert_eq!(backward(&Case { channels: 0, ..BAR }, 32, false).unwrap().gather.grid[0], 0);
        assert_eq!(backward(&Case { targets: 0, ..BAR }, 32, false).unwrap().bracket.grid[0], 0);
    }

    #[test]
    fn sizes_beyond_32_bits_are_planned_and_beyond_a_launch_refused() {
        let large = Case { batch: 1 << 20, targets: 1 << 14, channels: 1, access: Access::Element, ..BAR };
        assert_eq!(forward(&large).unwrap().launch.grid[0], 1 << (34 - 8));
        let beyond = Case { batch: 1 << 40, targets: 1 << 14, ..BAR };
        assert!(matches!(forward(&beyond), Err(Error::Value(_))));
    }

    #[test]
    fn workspace_parts_are_aligned_and_do_not_overlap() {
        let plan = Workspace::new(3, 5, 7).unwrap();
        let parts = [0, plan.order_at, plan.scratch_at, plan.starts_at, plan.disorder_at, plan.bytes];
        let needs = [3 * 7 * 48, 3 * 7 * 8, 3 * 7 * 8, 3 * 6 * 8, 4];
        for (pair, need) in parts.windows(2).zip(needs) {
            assert!(pair[0] % 16 == 0 && pair[1] - pair[0] >= need, "{plan:?}");
        }
        assert!(Workspace::new(usize::MAX, 1, 1).is_err());
    }
}
