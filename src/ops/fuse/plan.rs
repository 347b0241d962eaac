//! Every launch decision of `fuse`, made from plain numbers and testable without a GPU.

use crate::error::{Error, Result};
use crate::launch::Launch;
use crate::ops::rows_plan::{Share, kernel_name, rows_of, warps};
use crate::tensor::DType;

/// Streams of one launch; more are run by several.
pub const MAX_STREAMS: usize = 16;
/// Groups of channels of one launch, over all its streams.
pub const MAX_GROUPS: usize = 64;

/// How a stream's channels are moved; the numbers are the kernels'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Access {
    /// One element at a time.
    Element = 0,
    /// 8 bytes at a time.
    Bytes8 = 1,
    /// 16 bytes at a time.
    Bytes16 = 2,
    /// One unit at a time: some of its channels turn, slerp or bend.
    Curved = 3,
}

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
    /// The streams, as many as one launch takes.
    pub streams: &'a [StreamCase],
}

/// A stream's part of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPlan {
    /// Warps before its own.
    pub first_warp: u64,
    /// What each of its warps takes.
    pub share: Share,
}

/// A launch and how its warps divide the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The launch.
    pub launch: Launch,
    /// Each stream's part; those past the last stream have no warps.
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

fn lanes(access: Access, dtype: DType) -> u64 {
    let bytes = match access {
        Access::Bytes16 => 16,
        Access::Bytes8 => 8,
        Access::Element | Access::Curved => return 1,
    };
    bytes / dtype.size() as u64
}

/// The plan of one launch.
pub fn fuse(case: &Case) -> Result<Plan> {
    let rows = rows_of("fuse", case.batch, case.targets)?;
    let mut first_warp = 0u64;
    let mut streams = [StreamPlan { first_warp: 0, share: Share::new(0, 0, 1) }; MAX_STREAMS];
    for (plan, stream) in streams.iter_mut().zip(case.streams) {
        let vectors = stream.across as u64 / lanes(stream.access, case.values);
        let share = Share::new(rows, vectors, case.streams.len() as u64);
        *plan = StreamPlan { first_warp, share };
        first_warp = first_warp.saturating_add(share.warps);
    }
    let kernel = if case.streams.iter().any(|stream| stream.access == Access::Curved) {
        kernel_name!(@floats "fuse_curved_", "", case.values)
    } else {
        kernel_name!(@values "fuse_", "", case.values)
    };
    Ok(Plan { launch: warps("fuse", kernel, first_warp)?, streams })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn stream(across: usize, access: Access) -> StreamCase {
        StreamCase { across, groups: 1, access }
    }

    fn case(streams: &[StreamCase]) -> Case<'_> {
        Case { batch: 32, targets: 250, values: DType::BF16, streams }
    }

    #[test]
    fn streams_share_one_launch() {
        let streams = [stream(512, Access::Bytes8), stream(14, Access::Element), stream(6, Access::Element)];
        let plan = fuse(&case(&streams)).unwrap();
        assert_eq!(plan.launch.kernel, "fuse_bf16");
        let firsts: Vec<_> = plan.streams[..4].iter().map(|stream| stream.first_warp).collect();
        assert_eq!(firsts, [0, 2000, 3000, 0]); // narrow streams give a warp 8 rows: the launch has warps enough
        assert_eq!(plan.launch.grid, [1000, 1, 1]);
        assert_eq!(plan.streams[0].share, Share { rows_per_warp: 4, tile: 128, tiles: 1, warps: 2000 });
    }

    #[test]
    fn one_curve_makes_the_launch_a_curved_one() {
        let plan = fuse(&case(&[stream(8, Access::Bytes16), stream(2, Access::Curved)])).unwrap();
        assert_eq!(plan.launch.kernel, "fuse_curved_bf16");
    }

    #[test]
    fn a_stream_without_channels_has_no_warps() {
        let plan = fuse(&case(&[stream(0, Access::Element), stream(3, Access::Element)])).unwrap();
        assert_eq!((plan.streams[0].share.warps, plan.streams[1].first_warp), (0, 0));
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
