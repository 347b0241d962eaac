//! Every launch decision of `resample`, made from plain numbers and testable without a GPU.

use crate::error::{Error, Result};
use crate::launch::Launch;
use crate::ops::interpolate::Bracket;
use crate::ops::rows_plan::{Share, blocks, kernel_name, line, rows_of, rows_per_warp, warps};
use crate::tensor::DType;

const OP: &str = "resample";
/// The gather is latency bound; 8 warps a block reach full occupancy at 32 registers on sm_80 to sm_120.
const BACKWARD_BLOCK: u32 = 256;
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
    /// The rows allow 16-byte accesses and have one mode.
    pub wide: bool,
    /// Some channels turn, slerp or bend.
    pub curved: bool,
}

/// A forward launch and how its warps divide the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The launch.
    pub launch: Launch,
    /// A warp's share.
    pub share: Share,
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
                "{OP}_backward: target_times must be small enough to plan memory for, got {rows} rows of {targets} targets"
            ))
        })
    }
}

fn vectors(case: &Case) -> u64 {
    let lanes = if case.wide { 16 / case.values.size() as u64 } else { 1 };
    case.channels as u64 / lanes
}

fn forward_with(case: &Case, kernel: &'static str) -> Result<Plan> {
    let share = Share::new(rows_of(OP, case.batch, case.targets)?, vectors(case), 1);
    Ok(Plan { launch: warps(OP, kernel, share.warps)?, share })
}

/// The plan of `resample`.
pub fn forward(case: &Case) -> Result<Plan> {
    let kernel = match (case.curved, case.values.is_floating(), case.wide) {
        (true, ..) => kernel_name!(@floats "resample_curved_", "", case.values),
        (_, true, true) => kernel_name!(@floats times "resample_", "_wide", case.times, case.values),
        (_, true, false) => kernel_name!(@floats times "resample_", "", case.times, case.values),
        (_, false, true) => kernel_name!(@values "resample_", "_wide", case.values),
        (_, false, false) => kernel_name!(@values "resample_", "", case.values),
    };
    forward_with(case, kernel)
}

/// The plan of `resample_slope`, which works an element at a time.
pub fn slope(case: &Case) -> Result<Plan> {
    let kernel = kernel_name!(@floats "resample_slope_", "", case.values);
    forward_with(&Case { wide: false, ..*case }, kernel)
}

/// The plan of `resample_tangent`, which works a unit at a time.
pub fn tangent(case: &Case) -> Result<Plan> {
    let kernel = kernel_name!(@floats "resample_tangent_", "", case.values);
    forward_with(&Case { wide: false, ..*case }, kernel)
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
    let rows_per_warp = rows_per_warp(rows, 1, 1);
    let gather = match (curvature, case.curved, case.wide) {
        (true, ..) => kernel_name!(@floats "resample_curvature_", "", case.values),
        (_, true, _) => kernel_name!(@floats "resample_backward_curved_", "", case.values),
        (_, _, true) => kernel_name!(@floats "resample_backward_", "_wide", case.values),
        _ => kernel_name!(@floats "resample_backward_", "", case.values),
    };
    let by_units = case.curved || curvature;
    let across = vectors(&Case { wide: case.wide && !by_units, ..*case });
    let items = (case.batch as u64).saturating_mul(case.samples as u64).saturating_mul(across);
    let order = Launch {
        kernel: "resample_order",
        grid: [blocks(OP, distinct as u64, 1)?, 1, 1],
        block: [BACKWARD_BLOCK, 1, 1],
        shared_bytes: 0,
    };
    Ok(BackwardPlan {
        bracket: warps(OP, bracket, rows.div_ceil(u64::from(rows_per_warp)))?,
        rows_per_warp,
        order,
        gather: line(OP, gather, items, if by_units { CURVED_BACKWARD_BLOCK } else { BACKWARD_BLOCK })?,
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
        curved: false,
    };

    #[test]
    fn a_warp_takes_the_rows_it_searches_in_lockstep() {
        let plan = forward(&BAR).unwrap();
        let launch =
            Launch { kernel: "resample_f64_bf16_wide", grid: [500, 1, 1], block: [128, 1, 1], shared_bytes: 0 };
        assert_eq!(plan, Plan { launch, share: Share { rows_per_warp: 4, tile: 32, tiles: 1, warps: 2000 } });
    }

    #[test]
    fn narrow_rows_share_a_warp_and_long_rows_are_cut() {
        let narrow = forward(&Case { batch: 64, targets: 4096, channels: 32, ..BAR }).unwrap().share;
        assert_eq!((narrow.rows_per_warp, narrow.tile, narrow.tiles), (32, 4, 1));
        let long = forward(&Case { batch: 1, targets: 10, channels: 640 * 480 * 3, ..BAR }).unwrap();
        assert_eq!((long.share.rows_per_warp, long.share.tile, long.share.tiles), (4, 1024, 113));
        assert_eq!(long.launch.grid, [85, 1, 1]);
    }

    #[test]
    fn curves_have_kernels_of_their_own() {
        let curved = Case { curved: true, wide: false, ..BAR };
        assert_eq!(forward(&curved).unwrap().launch.kernel, "resample_curved_bf16");
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
        let large = Case { batch: 1 << 20, targets: 1 << 14, channels: 1, wide: false, ..BAR };
        assert_eq!(forward(&large).unwrap().launch.grid[0], 1 << (34 - 5 - 2));
        let beyond = Case { batch: 1 << 40, targets: 1 << 14, ..BAR };
        assert!(matches!(forward(&beyond), Err(Error::Value(_))));
    }

    #[test]
    fn workspace_parts_are_aligned_and_do_not_overlap() {
        let plan = Workspace::new(3, 5, 7).unwrap();
        let parts = [0, plan.order_at, plan.scratch_at, plan.starts_at, plan.bytes];
        let needs = [3 * 7 * 48, 3 * 7 * 8, 3 * 7 * 8, 3 * 6 * 8];
        for (pair, need) in parts.windows(2).zip(needs) {
            assert!(pair[0] % 16 == 0 && pair[1] - pair[0] >= need, "{plan:?}");
        }
        assert!(Workspace::new(usize::MAX, 1, 1).is_err());
    }
}
