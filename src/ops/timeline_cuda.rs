//! The temporal half of a kernel's arguments: mirrors of the structs in `kernels/interpolate.cuh`.

use crate::ops::modes::{Group, Modes, Outside};
use crate::ops::timeline::Timeline;

/// Groups that one launch can hold; more are run by several launches.
pub const MAX_GROUPS: usize = 16;

/// `Timeline` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Times {
    source_times: *const u8,
    target_times: *const u8,
    source_lengths: *const u8,
    source_row: i64,
    source_step: i64,
    target_row: i64,
    target_step: i64,
    lengths_step: i64,
    batch: i64,
    samples: i64,
    targets: i64,
    lengths_bytes: i32,
    outside: i32,
}

const _: () = assert!(size_of::<Times>() == 96);

impl Times {
    /// The same times by address.
    pub fn new(timeline: &Timeline) -> Self {
        let lengths = timeline.source_lengths.as_ref();
        Times {
            source_times: timeline.source_times.data(),
            target_times: timeline.target_times.data(),
            source_lengths: lengths.map_or(std::ptr::null(), |lengths| lengths.data()),
            source_row: timeline.source_times.stride(0) as i64,
            source_step: timeline.source_times.stride(1) as i64,
            target_row: timeline.target_times.stride(0) as i64,
            target_step: timeline.target_times.stride(1) as i64,
            lengths_step: lengths.map_or(0, |lengths| lengths.stride(0) as i64),
            batch: timeline.batch() as i64,
            samples: timeline.samples() as i64,
            targets: timeline.targets() as i64,
            lengths_bytes: lengths.map_or(0, |lengths| lengths.dtype().size() as i32),
            outside: match timeline.outside {
                Outside::Hold => 0,
                Outside::Nan => 1,
                Outside::Zero => 2,
                Outside::Extrapolate => 3,
            },
        }
    }
}

/// `Groups` in the kernels: the modes of the channels of one launch.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    ends: [i64; MAX_GROUPS],
    modes: [i32; MAX_GROUPS],
    count: i32,
    pad: i32,
}

const _: () = assert!(size_of::<Groups>() == 200);

impl Groups {
    /// The groups in runs that fit a launch, each with its first and one past its last channel.
    pub fn launches(modes: &Modes) -> impl Iterator<Item = (Groups, i64, i64)> + '_ {
        modes.groups().chunks(MAX_GROUPS).map(|run| (Groups::new(run), first(run), last(run)))
    }

    fn new(run: &[Group]) -> Self {
        let mut groups = Groups { ends: [0; MAX_GROUPS], modes: [0; MAX_GROUPS], count: run.len() as i32, pad: 0 };
        for (place, group) in run.iter().enumerate() {
            groups.ends[place] = group.channels.end as i64;
            groups.modes[place] = group.mode as i32;
        }
        groups
    }
}

fn first(run: &[Group]) -> i64 {
    run.first().map_or(0, |group| group.channels.start as i64)
}

fn last(run: &[Group]) -> i64 {
    run.last().map_or(0, |group| group.channels.end as i64)
}
