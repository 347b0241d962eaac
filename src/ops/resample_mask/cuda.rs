//! `resample_mask` on CUDA: the kernel's parameters and its launch.

use super::plan;
use crate::cuda;
use crate::device::Stream;
use crate::error::Result;
use crate::ops::interpolate::Limit;
use crate::ops::timeline::Timeline;
use crate::ops::timeline_cuda::Times;

const FILE: &str = "resample_mask";

/// `ResampleMaskParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Params {
    times: Times,
    output: *mut u8,
    limit: Limit,
    limited: i32,
    rows_per_warp: i32,
}

const _: () = assert!(size_of::<Params>() == 128);

/// `resample_mask` of device memory.
pub(super) fn mask(
    op: &'static str,
    timeline: &Timeline,
    limit: Option<Limit>,
    output: *mut u8,
    stream: Stream,
) -> Result<()> {
    let plan = plan::mask(timeline.batch(), timeline.targets(), timeline.source_times.dtype())?;
    let params = Params {
        times: Times::new(timeline),
        output,
        limit: limit.unwrap_or(Limit { ticks: 0, number: 0.0 }),
        limited: i32::from(limit.is_some()),
        rows_per_warp: plan.rows_per_warp as i32,
    };
    // SAFETY: the views borrow memory that torch keeps until this stream has run the kernel (`Place::cuda`); Params
    // mirrors the kernel's struct, and a lane has a place of the output for each target.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &plan.launch, &params) }
}
