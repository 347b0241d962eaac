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
            outside: outside_code(timeline.outside),
        }
    }
}

/// `Outside` in the kernels.
pub fn outside_code(outside: Outside) -> i32 {
    match outside {
        Outside::Hold => 0,
        Outside::Nan => 1,
        Outside::Zero => 2,
        Outside::Extrapolate => 3,
    }
}

/// `Groups` in the kernels: the modes of the channels of one launch.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    ends: [i64; MAX_GROUPS],
    starts: [i64; MAX_GROUPS],
    modes: [i32; MAX_GROUPS],
    count: i32,
    pad: i32,
}

const _: () = assert!(size_of::<Groups>() == 328);

/// The groups of one launch and what it covers.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The groups.
    pub groups: Groups,
    /// The first channel, or of a launch by units 0.
    pub first: i64,
    /// One past the last channel or unit.
    pub last: i64,
}

/// How a kernel counts along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// By channels.
    Channels,
    /// By what is blended together: a quaternion, or a channel.
    Units,
}

impl Groups {
    /// No group.
    pub const NONE: Groups =
        Groups { ends: [0; MAX_GROUPS], starts: [0; MAX_GROUPS], modes: [0; MAX_GROUPS], count: 0, pad: 0 };

    /// The groups in runs that fit a launch.
    pub fn launches(modes: &Modes, count: Count) -> impl Iterator<Item = Run> + '_ {
        modes.groups().chunks(MAX_GROUPS).map(move |run| Groups::run(run, count))
    }

    fn run(run: &[Group], count: Count) -> Run {
        let mut groups = Groups { count: run.len() as i32, ..Groups::NONE };
        for (place, (end, start, mode)) in entries(run, count).enumerate() {
            (groups.ends[place], groups.starts[place], groups.modes[place]) = (end, start, mode);
        }
        let first =
            if count == Count::Channels { run.first().map_or(0, |group| group.channels.start as i64) } else { 0 };
        let last = run.len().checked_sub(1).map_or(first, |place| groups.ends[place]);
        Run { groups, first, last }
    }
}

/// What a kernel reads of each group: where it ends, its first channel and its mode.
pub fn entries(groups: &[Group], count: Count) -> impl Iterator<Item = (i64, i64, i32)> + '_ {
    let mut units = 0;
    groups.iter().map(move |group| {
        units += group.channels.len() / group.mode.width();
        let end = if count == Count::Channels { group.channels.end } else { units };
        (end as i64, group.channels.start as i64, group.mode as i32)
    })
}
