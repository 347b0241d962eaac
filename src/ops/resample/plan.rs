//! Every launch decision of `resample`, made from plain numbers and testable without a GPU.

use super::gather_plan::RESIDENT_OF_MANY;
use crate::device::Place;
use crate::error::{Error, Result};
use crate::launch::Launch;
use crate::ops::interpolate::Bracket;
use crate::ops::rows_plan::{Access, PLAIN_BLOCK, RESIDENT, Share, blocks, kernel_name, line, rows_of, warps};
use crate::tensor::DType;

const OP: &str = "resample";
/// Targets whose order one number of the workspace tells.
pub const ORDER_TILE: u32 = 256;
/// Target times that a block of the gather reads to see for itself whether they ascend: 16 for each thread, from the
/// cache. Of more targets a launch before it tells.
const LOOKED_AT: u64 = 4096;
/// Source times that a block has in shared memory, of a long row the last of every 2^shift: `PIVOTS` in the kernels.
const PIVOTS: u64 = 512;
/// Source times between these that a block reads around its targets at most: `WINDOW` in the kernels.
const WINDOW: u64 = 1024;
/// From this shift on reading a window takes less than the steps of a search.
const LONG_SHIFT: u32 = 5;
/// Targets for each sample from which a thread of the gather waits for the loads of its row, not for other rows: there
/// threads make the loads in flight, so vectors become narrower until the device is full, and a kernel of its own loads
/// the gradients of eight targets together. In the kernel for few that cost up to a quarter.
const MANY_TARGETS: usize = 4;
/// Threads that fill an H200 where they gather from many targets.
const ENOUGH_THREADS: u64 = RESIDENT_OF_MANY * PLAIN_BLOCK as u64;
/// Bytes of a gradient of rows that are moved by elements apart, from which it takes less to make it zero first.
const APART_BYTES: usize = 4 << 20;
/// Threads of the kernels that prepare a gather of curves.
const PREPARE_BLOCK: u32 = 256;
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

/// The launches of a backward of plain rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackwardPlan {
    /// Sees which targets do not ascend; none where the blocks of the gather see for themselves.
    pub disorder: Option<Launch>,
    /// The output is made zero first.
    pub clears: bool,
    /// Gathers by source row, or where it clears by target.
    pub gather: Launch,
    /// How wide its vectors are.
    pub access: Access,
    /// A block's share of the gather.
    pub share: Share,
}

/// The launches before a gather of curves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurvedPlan {
    /// Finds the bracket of every target of the distinct rows.
    pub bracket: Launch,
    /// Puts the targets of a row in ascending (bracket, target) order.
    pub order: Launch,
}

/// What a backward holds in borrowed memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A bracket and a place in order for every target: on the CPU, and where curves are gathered.
    Order,
    /// Where targets do not ascend: CUDA works out the rest as it gathers.
    Disorder,
}

impl Held {
    /// At a place, for rows of which some channels turn, slerp or bend, or not.
    pub fn of(place: &Place, curves: bool) -> Held {
        if place.0.is_cuda() && !curves { Held::Disorder } else { Held::Order }
    }
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
    /// int32 for each [`ORDER_TILE`] targets of all rows: whether some do not ascend. It has the memory to itself.
    pub disorder_at: usize,
    /// All of it.
    pub bytes: usize,
}

impl Workspace {
    /// For that many distinct rows.
    pub fn new(rows: usize, samples: usize, targets: usize, held: Held) -> Result<Self> {
        let part = |row: usize, item: usize| row.checked_mul(rows)?.checked_mul(item)?.checked_next_multiple_of(16);
        let none = Workspace { rows, order_at: 0, scratch_at: 0, starts_at: 0, disorder_at: 0, bytes: 0 };
        let plan = || {
            if held == Held::Disorder {
                let tiles = rows.checked_mul(targets)?.div_ceil(ORDER_TILE as usize);
                return Some(Workspace { bytes: (tiles * size_of::<i32>()).checked_next_multiple_of(16)?, ..none });
            }
            let order_at = part(targets, size_of::<Bracket>())?;
            let scratch_at = order_at.checked_add(part(targets, size_of::<i64>())?)?;
            let starts_at = scratch_at.checked_add(part(targets, size_of::<i64>())?)?;
            let bytes = starts_at.checked_add(part(samples.checked_add(1)?, size_of::<i64>())?)?;
            Some(Workspace { order_at, scratch_at, starts_at, bytes, ..none })
        };
        plan().ok_or_else(|| {
            Error::Value(format!(
                "{OP}_backward: target_times must be small enough to plan memory for, got {rows} rows of {targets} targets"
            ))
        })
    }
}

fn vectors(case: &Case) -> u64 {
    (case.channels as u64).div_ceil(case.access.elements(case.values))
}

/// Rows of plain channels, a block at a time.
fn plain(case: &Case, kernel: &'static str) -> Result<Plan> {
    rows_of(OP, case.batch, case.targets)?;
    let share = Share::of_plain(case.batch as u64, case.targets as u64, vectors(case), case.access);
    let launch =
        Launch { kernel, grid: [blocks(OP, share.count, 1)?, 1, 1], block: [PLAIN_BLOCK, 1, 1], shared_bytes: 0 };
    Ok(Plan { launch, share })
}

/// Whether the targets of most blocks lie in a window of a long row that a block reads in one trip to memory, if they are
/// spread evenly; of few of them, or in a row that is not so long, searches take less.
fn has_windows(case: &Case, share: &Share) -> bool {
    let shift = (0..u64::BITS).find(|shift| case.samples as u64 >> shift <= PIVOTS).unwrap_or(0);
    let near = (case.samples as u64).saturating_mul(u64::from(share.rows)) / (case.targets as u64).max(1);
    share.chunks > 0 && share.rows > PLAIN_BLOCK / 2 && shift >= LONG_SHIFT && near.saturating_add(2 << shift) <= WINDOW
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
        (_, true) => {
            let plan = plain(case, kernel_name!(@floats times "resample_", "", case.times, case.values))?;
            if !has_windows(case, &plan.share) {
                return Ok(plan);
            }
            let kernel = kernel_name!(@floats times "resample_long_", "", case.times, case.values);
            Ok(Plan { launch: Launch { kernel, ..plan.launch }, ..plan })
        }
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

/// Whether so few of the source rows get anything that it takes less to make all of them zero and then to gather those
/// from the targets, than to gather all. From how many samples a target on depends on what the gather costs, whose rows
/// have `across` vectors and whose blocks `share`: found on an H100, where both took as long.
fn is_mostly_zero(case: &Case, across: u64, share: &Share) -> bool {
    // Nothing is gathered then, nor are there addresses of target times.
    if case.targets == 0 {
        return true;
    }
    let elements = case.batch.saturating_mul(case.samples).saturating_mul(case.channels);
    let apart = case.access == Access::Apart && elements >= APART_BYTES / case.values.size();
    let samples_of_target = match share.chunks {
        // The general way.
        0 => 2,
        _ if apart => 6,
        _ if share.count <= RESIDENT => return false,
        _ if across == 1 => 2,
        _ if across <= 8 && share.count >= 4 * RESIDENT => 8,
        _ => 16,
    };
    case.samples / samples_of_target >= case.targets
}

/// The plan of `resample_backward` of plain rows, with `distinct` rows of times and a gradient that is read in loads of
/// so many bytes.
pub fn backward(case: &Case, distinct: usize, load_bytes: usize) -> Result<BackwardPlan> {
    let rows = (case.batch as u64).saturating_mul(case.samples as u64);
    let mut access = case.access;
    let many = case.targets / MANY_TARGETS >= case.samples.max(1);
    if many {
        let threads = |access| rows.saturating_mul(vectors(&Case { access, ..*case }));
        let loads = |half: &Access| half.bytes() <= load_bytes as u64;
        while let Some(half) = access.halved(case.values).filter(loads).filter(|_| threads(access) < ENOUGH_THREADS) {
            access = half;
        }
    }
    let across = vectors(&Case { access, ..*case });
    let (batch, samples, targets) = (case.batch as u64, case.samples as u64, case.targets as u64);
    let gather = Share::of_gather(batch, samples, across, targets);
    let clears = is_mostly_zero(case, across, &gather);
    let share = match (clears, many) {
        (true, _) => Share::of_few(batch, samples, targets, across),
        (_, true) => Share::of_many(batch, samples, across, targets),
        _ => gather,
    };
    // Rows of the batch that a block's rows can be of.
    let batches = if share.chunks > 0 { 1 } else { u64::from(share.rows) / (case.samples as u64).max(1) + 2 };
    let targets = rows_of(OP, distinct, case.targets)?;
    let disorder = if batches.saturating_mul(case.targets as u64) > LOOKED_AT {
        Some(line(OP, kernel_name!("resample_disorder_", case.times), targets, ORDER_TILE)?)
    } else {
        None
    };
    let kernel = match (clears, many) {
        (true, _) => kernel_name!(@floats times "resample_backward_few_", "", case.times, case.values),
        (_, true) if share.chunks > 0 => {
            kernel_name!(@floats times "resample_backward_many_", "", case.times, case.values)
        }
        _ => kernel_name!(@floats times "resample_backward_", "", case.times, case.values),
    };
    let grid = [blocks(OP, share.count, 1)?, 1, 1];
    Ok(BackwardPlan {
        disorder,
        clears,
        gather: Launch { kernel, grid, block: [PLAIN_BLOCK, 1, 1], shared_bytes: 0 },
        access,
        share,
    })
}

/// What a gather of curves needs first, with brackets of `distinct` rows.
pub fn prepare_curved(case: &Case, distinct: usize) -> Result<CurvedPlan> {
    let bracket = kernel_name!("resample_bracket_", case.times);
    let bracket = line(OP, bracket, rows_of(OP, distinct, case.targets)?, PREPARE_BLOCK)?;
    let order = Launch {
        kernel: "resample_order",
        grid: [blocks(OP, distinct as u64, 1)?, 1, 1],
        block: [PREPARE_BLOCK, 1, 1],
        shared_bytes: 0,
    };
    Ok(CurvedPlan { bracket, order })
}

/// The gather of `resample_backward` of rows with curves, or of `resample_curvature`: a thread for each unit.
pub fn backward_curved(case: &Case, curvature: bool) -> Result<Launch> {
    let kernel = if curvature {
        kernel_name!(@floats "resample_curvature_", "", case.values)
    } else {
        kernel_name!(@floats "resample_backward_curved_", "", case.values)
    };
    let rows = rows_of(OP, case.batch, case.samples)?;
    line(OP, kernel, rows.saturating_mul(case.channels as u64), CURVED_BACKWARD_BLOCK)
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
        let launch = Launch { kernel: "resample_f64_bf16", grid: [512, 1, 1], block: [256, 1, 1], shared_bytes: 0 };
        assert_eq!(plan, Plan { launch, share: Share { rows: 16, chunks: 16, tile: 32, tiles: 1, count: 512 } });
        let elements = slope(&BAR).unwrap();
        assert_eq!((elements.launch.kernel, elements.share.tile), ("resample_slope_bf16", 256));
    }

    #[test]
    fn many_targets_of_long_rows_are_found_in_windows() {
        let kernel = |batch, samples, targets, channels| {
            let case = Case { batch, samples, targets, channels, access: Access::Element, ..BAR };
            forward(&case).unwrap().launch.kernel
        };
        assert_eq!(kernel(23, 37_407, 13_889, 1), "resample_long_f64_bf16");
        assert_eq!(kernel(23, 37_407, 12_000, 1), "resample_f64_bf16", "1024 samples are not enough");
        assert_eq!(
            (kernel(64, 8208, 8000, 1), kernel(64, 8207, 8000, 1)),
            ("resample_long_f64_bf16", "resample_f64_bf16")
        );
        assert_eq!(kernel(1, 65_536, 16_384, 1), "resample_f64_bf16", "few targets a block");
        assert_eq!(kernel(1 << 20, 9000, 1, 1), "resample_f64_bf16", "blocks of several rows");
        assert_eq!(kernel(23, 37_407, 0, 1), "resample_f64_bf16");
    }

    #[test]
    fn curves_have_kernels_of_their_own() {
        let curved = Case { access: Access::Curved, ..BAR };
        let plan = forward(&curved).unwrap();
        assert_eq!((plan.launch.kernel, plan.launch.grid, plan.share.rows), ("resample_curved_bf16", [500, 1, 1], 4));
        assert_eq!(tangent(&BAR).unwrap().launch.kernel, "resample_tangent_bf16");
        assert_eq!(backward_curved(&curved, false).unwrap().kernel, "resample_backward_curved_bf16");
        let gather = backward_curved(&BAR, true).unwrap();
        assert_eq!((gather.kernel, gather.grid[0]), ("resample_curvature_bf16", 32 * 500 * 256 / 128));
        let prepared = prepare_curved(&BAR, 32).unwrap();
        assert_eq!((prepared.bracket.grid[0], prepared.order.grid[0]), (32, 32));
    }

    #[test]
    fn plain_gradients_are_one_launch_unless_targets_are_many() {
        let plan = backward(&BAR, 32, 16).unwrap();
        assert_eq!(
            (plan.disorder, plan.gather.kernel, plan.access),
            (None, "resample_backward_f64_bf16", Access::Bytes16)
        );
        assert_eq!(plan.share, Share { rows: 32, chunks: 16, tile: 32, tiles: 1, count: 512 });
        let many = |targets| backward(&Case { targets, ..BAR }, 32, 16).unwrap().gather.kernel;
        let short = Case { batch: 4096, samples: 8, targets: 64, channels: 8, ..BAR };
        assert_eq!(backward(&short, 4096, 16).unwrap().gather.kernel, "resample_backward_f64_bf16", "shared blocks");
        assert_eq!((many(1999), many(2000)), ("resample_backward_f64_bf16", "resample_backward_many_f64_bf16"));
        let disorder = backward(&Case { targets: 5000, ..BAR }, 32, 16).unwrap().disorder.unwrap();
        assert_eq!((disorder.kernel, disorder.grid[0]), ("resample_disorder_f64", 625));
        // 85 rows of the batch to a block.
        let short = Case { batch: 1 << 16, samples: 3, targets: 64, channels: 8, ..BAR };
        assert!(backward(&short, 1 << 16, 16).unwrap().disorder.is_some());
    }

    #[test]
    fn gradients_of_few_targets_are_made_zero_first() {
        let plan = |batch, samples, channels, targets, access| {
            let case = Case { batch, samples, targets, channels, access, values: DType::F32, ..BAR };
            backward(&case, batch, 16).unwrap()
        };
        let clears = |batch, samples, channels, targets, access| plan(batch, samples, channels, targets, access).clears;
        let (wide, apart) = (Access::Bytes16, Access::Apart);
        let few = plan(2309, 8183, 4, 6, wide);
        assert_eq!(
            (few.clears, few.gather.kernel, few.gather.grid),
            (true, "resample_backward_few_f64_f32", [2309, 1, 1])
        );
        assert_eq!((clears(64, 4096, 4, 2048, wide), clears(64, 4096, 4, 2049, wide)), (true, false), "narrow rows");
        assert_eq!((clears(3070, 1941, 32, 242, wide), clears(3070, 1941, 32, 243, wide)), (true, false), "many turns");
        assert_eq!((clears(64, 4096, 64, 256, wide), clears(64, 4096, 64, 257, wide)), (true, false));
        assert!(!clears(16, 4096, 256, 8, wide), "the gather's blocks all run at once");
        assert_eq!((clears(961, 551, 617, 91, apart), clears(961, 551, 617, 92, apart)), (true, false));
        assert!(!clears(32, 500, 33, 10, apart) && clears(526, 4, 12, 2, wide));
        let none = plan(32, 500, 256, 0, wide);
        assert_eq!(
            (none.clears, none.gather.grid, none.disorder),
            (true, [0, 1, 1], None),
            "zeros, and nothing to gather"
        );
    }

    #[test]
    fn few_source_rows_of_many_targets_are_gathered_in_narrower_vectors() {
        let case = Case { batch: 4, samples: 8, targets: 4096, channels: 2048, ..BAR };
        assert_eq!(backward(&case, 4, 16).unwrap().access, Access::Bytes4);
        assert_eq!(backward(&Case { values: DType::F32, ..case }, 4, 16).unwrap().access, Access::Bytes8);
        assert_eq!(backward(&case, 4, 8).unwrap().access, Access::Bytes4);
        assert_eq!(backward(&case, 4, 4).unwrap().access, Access::Bytes16, "no load of 8 bytes to begin with");
        assert_eq!(backward(&Case { batch: 4096, ..case }, 4, 16).unwrap().access, Access::Bytes16);
    }

    #[test]
    fn nothing_to_do_is_an_empty_grid() {
        for empty in [Case { batch: 0, ..BAR }, Case { targets: 0, ..BAR }, Case { channels: 0, ..BAR }] {
            assert_eq!(forward(&empty).unwrap().launch.grid[0], 0, "{empty:?}");
        }
        assert_eq!(backward(&Case { channels: 0, ..BAR }, 32, 16).unwrap().gather.grid[0], 0);
        assert_eq!(prepare_curved(&Case { targets: 0, ..BAR }, 32).unwrap().bracket.grid[0], 0);
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
        let plan = Workspace::new(3, 5, 7, Held::Order).unwrap();
        let parts = [0, plan.order_at, plan.scratch_at, plan.starts_at, plan.bytes];
        let needs = [3 * 7 * 48, 3 * 7 * 8, 3 * 7 * 8, 3 * 6 * 8];
        for (pair, need) in parts.windows(2).zip(needs) {
            assert!(pair[0] % 16 == 0 && pair[1] - pair[0] >= need, "{plan:?}");
        }
        assert!(Workspace::new(usize::MAX, 1, 1, Held::Order).is_err());
    }

    #[test]
    fn plain_gradients_on_cuda_borrow_a_number_for_256_targets() {
        let bytes = |rows, targets| Workspace::new(rows, 1000, targets, Held::Disorder).unwrap().bytes;
        assert_eq!((bytes(4096, 16_384), bytes(3, 7), bytes(3, 0)), (1 << 20, 16, 0));
        assert!(Workspace::new(usize::MAX, 1, 2, Held::Disorder).is_err());
        assert_eq!(Held::of(&Place::cpu(&crate::threads::Serial), false), Held::Order);
    }
}
