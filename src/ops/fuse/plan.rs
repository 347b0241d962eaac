//! Every launch decision of `fuse`, made from plain numbers and testable without a GPU.

use crate::error::{Error, Result};
use crate::launch::{Launch, WARP};
use crate::ops::rows_plan::{
    Access, MULTIPROCESSORS, PLAIN_BLOCK, Share, blocks, kernel_name, most_vectors, rows_of, vectors_of_a_block,
};
use crate::tensor::DType;

/// Streams of one launch; more are run by several.
pub const MAX_STREAMS: usize = 16;
/// Groups of channels of one launch, over all its streams.
pub const MAX_GROUPS: usize = 64;

/// Blocks that are resident at once, at 3 a multiprocessor: a thread needs 80 registers.
const RESIDENT: u64 = 3 * MULTIPROCESSORS;

/// Rows of a block at most: those of a stream of few channels take longer to find than to move.
const MOST_ROWS: u64 = 128;

/// The numbers of a stream that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamCase {
    /// Channels, or units of a curved stream.
    pub across: usize,
    /// Groups of channels.
    pub groups: usize,
    /// What its layout allows.
    pub access: Access,
}

/// The numbers of a call that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case<'a> {
    /// Rows of the batch.
    pub batch: usize,
    /// Targets of a row.
    pub targets: usize,
    /// Type of the values.
    pub values: DType,
    /// Type of the times.
    pub times: DType,
    /// The streams, as many as one launch takes.
    pub streams: &'a [StreamCase],
}

/// A stream's part of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPlan {
    /// Blocks before its own.
    pub first_block: u64,
    /// What each of its blocks takes, or of a curved stream each of its warps.
    pub share: Share,
}

/// A launch and how its blocks divide the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The launch.
    pub launch: Launch,
    /// Each stream's part; those past the last stream have no blocks.
    pub streams: [StreamPlan; MAX_STREAMS],
}

/// How many of the streams one launch takes: as many as fit its parameters.
///
/// # Errors
/// [`Error::Value`] where one stream alone has more groups than a launch takes.
pub fn fitting(streams: &[StreamCase]) -> Result<usize> {
    let mut groups = 0;
    for (taken, stream) in streams.iter().enumerate() {
        groups += stream.groups;
        if taken == MAX_STREAMS || (groups > MAX_GROUPS && taken > 0) {
            return Ok(taken);
        }
        if groups > MAX_GROUPS {
            return Err(Error::Value(format!(
                "fuse: mode must have at most {MAX_GROUPS} groups within one stream on CUDA, got {groups}"
            )));
        }
    }
    Ok(streams.len())
}

/// The plan of one launch.
pub fn fuse(case: &Case) -> Result<Plan> {
    let rows = rows_of("fuse", case.batch, case.targets)?;
    let vectors = |stream: &StreamCase| stream.across as u64 / stream.access.elements(case.values);
    let of_stream = |stream: &StreamCase, most: u64| {
        if stream.access == Access::Curved {
            let share = Share::of_warps(rows, stream.across as u64, case.streams.len() as u64);
            return (share, share.count.div_ceil(u64::from(PLAIN_BLOCK / WARP)));
        }
        let share = Share::of_blocks(
            case.batch as u64,
            case.targets as u64,
            vectors(stream),
            most.min(vectors(stream).saturating_mul(MOST_ROWS)),
        );
        (share, share.count)
    };
    let sum = |of: &dyn Fn(&StreamCase) -> u64| case.streams.iter().map(of).fold(0, u64::saturating_add);
    let all = sum(&|stream| rows.saturating_mul(vectors(stream)));
    let widest = case.streams.iter().map(|stream| stream.access).max_by_key(|access| access.bytes());
    let most_vectors = most_vectors(widest.unwrap_or(Access::Element));
    let most = vectors_of_a_block(all, RESIDENT, most_vectors, |most| sum(&|stream| of_stream(stream, most).1));
    let mut first_block = 0u64;
    let mut streams = [StreamPlan { first_block: 0, share: Share::NONE }; MAX_STREAMS];
    for (plan, stream) in streams.iter_mut().zip(case.streams) {
        let (share, count) = of_stream(stream, most);
        *plan = StreamPlan { first_block, share };
        first_block = first_block.saturating_add(count);
    }
    let kernel = match case.streams.iter().any(|stream| stream.access == Access::Curved) {
        true => kernel_name!(@floats "fuse_curved_", "", case.values),
        false if case.values.is_floating() => kernel_name!(@floats times "fuse_", "", case.times, case.values),
        false => kernel_name!(@values "fuse_", "", case.values),
    };
    let grid = [blocks("fuse", first_block, 1)?, 1, 1];
    Ok(Plan { launch: Launch { kernel, grid, block: [PLAIN_BLOCK, 1, 1], shared_bytes: 0 }, streams })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn stream(across: usize, access: Access) -> StreamCase {
        StreamCase { across, groups: 1, access }
    }

    fn case(streams: &[StreamCase]) -> Case<'_> {
        Case { batch: 32, targets: 250, values: DType::BF16, times: DType::F64, streams }
    }

    #[test]
    fn streams_share_one_launch() {
        let streams = [stream(512, Access::Bytes16), stream(14, Access::Bytes4), stream(6, Access::Bytes4)];
        let plan = fuse(&case(&streams)).unwrap();
        assert_eq!(plan.launch.kernel, "fuse_f64_bf16");
        let firsts: Vec<_> = plan.streams[..4].iter().map(|stream| stream.first_block).collect();
        assert_eq!(firsts, [0, 256, 320, 0]);
        assert_eq!(plan.launch.grid, [384, 1, 1]);
        assert_eq!(plan.streams[0].share, Share { rows: 32, chunks: 8, tile: 64, tiles: 1, count: 256 });
    }

    #[test]
    fn one_curve_makes_the_launch_a_curved_one() {
        let plan = fuse(&case(&[stream(8, Access::Bytes16), stream(2, Access::Curved)])).unwrap();
        assert_eq!(plan.launch.kernel, "fuse_curved_bf16");
    }

    #[test]
    fn a_stream_without_channels_has_no_blocks() {
        let plan = fuse(&case(&[stream(0, Access::Element), stream(3, Access::Element)])).unwrap();
        assert_eq!((plan.streams[0].share.count, plan.streams[1].first_block), (0, 0));
    }

    #[test]
    fn a_launch_takes_16_streams_and_64_groups() {
        assert_eq!(fitting(&[stream(1, Access::Element); 16]), Ok(16));
        assert_eq!(fitting(&[stream(1, Access::Element); 40]), Ok(16));
        let many = StreamCase { groups: 30, ..stream(60, Access::Element) };
        assert_eq!(fitting(&[many; 5]), Ok(2));
        assert!(fitting(&[StreamCase { groups: 65, ..many }]).is_err());
    }
}
