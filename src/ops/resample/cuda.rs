//! `resample` on CUDA: each kernel's parameters and its launch.

use super::plan::{self, Case, Workspace};
use super::{Backward, Forward, TimeGradient};
use crate::cuda;
use crate::device::Stream;
use crate::error::{Error, Result};
use crate::ops::interpolate::Bracket;
use crate::ops::modes::Modes;
use crate::ops::timeline_cuda::{Groups, Times};
use crate::tensor::View;

const FILE: &str = "resample";

/// `Channels` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Channels {
    data: *const u8,
    batch_step: i64,
    row_step: i64,
    channel_step: i64,
}

impl Channels {
    fn new(view: &View) -> Self {
        Channels {
            data: view.data(),
            batch_step: view.stride(0) as i64,
            row_step: view.stride(1) as i64,
            channel_step: view.stride(2) as i64,
        }
    }
}

/// `ResampleParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ForwardParams {
    times: Times,
    groups: Groups,
    values: Channels,
    output: *mut u8,
    width: i64,
    first: i64,
    last: i64,
    tile: i64,
    tiles: i64,
    rows_per_warp: i32,
    pad: i32,
}

const _: () = assert!(size_of::<ForwardParams>() == 384);

/// Runs of linear channels that the one launch of a time gradient can hold.
const MAX_RUNS: usize = 224;

/// `ResampleTimeGradParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct TimeGradParams {
    times: Times,
    values: Channels,
    grad: Channels,
    output: *mut u8,
    runs: i64,
    first: [i64; MAX_RUNS],
    last: [i64; MAX_RUNS],
}

const _: () = assert!(size_of::<TimeGradParams>() == 3760);

/// `ResampleBracketParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BracketParams {
    times: Times,
    brackets: *mut Bracket,
    rows: i64,
    rows_per_warp: i32,
    pad: i32,
}

const _: () = assert!(size_of::<BracketParams>() == 120);

/// `ResampleOrderParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct OrderParams {
    brackets: *const Bracket,
    order: *mut i64,
    scratch: *mut i64,
    starts: *mut i64,
    targets: i64,
    samples: i64,
}

const _: () = assert!(size_of::<OrderParams>() == 48);

/// `ResampleBackwardParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BackwardParams {
    groups: Groups,
    grad: Channels,
    brackets: *const Bracket,
    order: *const i64,
    starts: *const i64,
    output: *mut u8,
    batch: i64,
    samples: i64,
    targets: i64,
    width: i64,
    first: i64,
    last: i64,
    rows: i64,
    slope: i32,
    pad: i32,
}

const _: () = assert!(size_of::<BackwardParams>() == 328);

/// True where rows of channels, read and written, can be moved 16 bytes at a time.
fn wide(read: &View, written: *mut u8, modes: &Modes) -> bool {
    let size = read.dtype().size();
    let whole = |bytes: usize| bytes.is_multiple_of(16);
    let rows_whole = (0..2).all(|axis| read.size(axis) <= 1 || whole(read.stride(axis).unsigned_abs() * size));
    modes.uniform().is_some()
        && read.stride(2) == 1
        && whole(read.size(2) * size)
        && rows_whole
        && whole(read.data().addr())
        && whole(written.addr())
}

fn forward_case(call: &Forward, output: *mut u8) -> Case {
    Case {
        batch: call.timeline.batch(),
        samples: call.timeline.samples(),
        targets: call.timeline.targets(),
        channels: call.channels(),
        values: call.values.dtype(),
        times: call.timeline.source_times.dtype(),
        wide: wide(&call.values, output, &call.modes),
    }
}

/// `resample` (or its slope) of device memory.
pub(super) fn forward(op: &'static str, call: &Forward, slope: bool, output: *mut u8, stream: Stream) -> Result<()> {
    let case = forward_case(call, output);
    let plan_of = if slope { plan::slope } else { plan::forward };
    for (groups, first, last) in Groups::launches(&call.modes) {
        let plan = plan_of(&Case { channels: (last - first) as usize, ..case })?;
        let params = ForwardParams {
            times: Times::new(&call.timeline),
            groups,
            values: Channels::new(&call.values),
            output,
            width: case.channels as i64,
            first,
            last,
            tile: plan.tile as i64,
            tiles: plan.tiles as i64,
            rows_per_warp: plan.rows_per_warp as i32,
            pad: 0,
        };
        // SAFETY: the views borrow memory that torch keeps until this stream has run the kernel (`Place::cuda`);
        // ForwardParams mirrors the kernel's struct, and the plan covers every row and channel once.
        unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &plan.launch, &params)? };
    }
    Ok(())
}

/// `resample_time_grad` of device memory.
pub(super) fn time_gradient(op: &'static str, call: &TimeGradient, output: *mut u8, stream: Stream) -> Result<()> {
    let forward = &call.forward;
    let linear: Vec<_> = forward.modes.groups().iter().filter(|group| group.mode.blends()).collect();
    if linear.len() > MAX_RUNS {
        return Err(Error::Value(format!(
            "{op}: mode must have at most {MAX_RUNS} runs of linear channels on CUDA, got {}",
            linear.len()
        )));
    }
    let (mut first, mut last) = ([0; MAX_RUNS], [0; MAX_RUNS]);
    for (run, group) in linear.iter().enumerate() {
        (first[run], last[run]) = (group.channels.start as i64, group.channels.end as i64);
    }
    let params = TimeGradParams {
        times: Times::new(&forward.timeline),
        values: Channels::new(&forward.values),
        grad: Channels::new(&call.grad),
        output,
        runs: linear.len() as i64,
        first,
        last,
    };
    let plan = plan::time_grad(&forward_case(forward, output))?;
    // SAFETY: as for the forward; the launch has a warp for each target.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &plan.launch, &params) }
}

/// `resample_backward` of device memory: brackets, their order, then one gather for each run of groups.
pub(super) fn backward(
    op: &'static str,
    call: &Backward,
    output: *mut u8,
    workspace: *mut u8,
    memory: &Workspace,
    stream: Stream,
) -> Result<()> {
    let case = Case {
        batch: call.timeline.batch(),
        samples: call.timeline.samples(),
        targets: call.timeline.targets(),
        channels: call.grad.size(2),
        values: call.grad.dtype(),
        times: call.timeline.source_times.dtype(),
        wide: wide(&call.grad, output, &call.modes),
    };
    let at = |offset: usize| workspace.wrapping_add(offset);
    let brackets: *mut Bracket = workspace.cast();
    let (order, scratch, starts) =
        (at(memory.order_at).cast(), at(memory.scratch_at).cast(), at(memory.starts_at).cast());
    let plan = plan::backward(&case, memory.rows)?;
    let params = BracketParams {
        times: Times::new(&call.timeline),
        brackets,
        rows: memory.rows as i64,
        rows_per_warp: plan.rows_per_warp as i32,
        pad: 0,
    };
    // SAFETY: as for the forward; the workspace has a bracket for each target of each distinct row.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &plan.bracket, &params)? };
    let (targets, samples) = (case.targets as i64, case.samples as i64);
    let params = OrderParams { brackets, order, scratch, starts, targets, samples };
    // SAFETY: as above, and `order`, `scratch` and `starts` are the parts of the workspace planned for them.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &plan.order, &params)? };
    for (groups, first, last) in Groups::launches(&call.modes) {
        let plan = plan::backward(&Case { channels: (last - first) as usize, ..case }, memory.rows)?;
        let params = BackwardParams {
            groups,
            grad: Channels::new(&call.grad),
            brackets,
            order,
            starts,
            output,
            batch: case.batch as i64,
            samples,
            targets,
            width: case.channels as i64,
            first,
            last,
            rows: memory.rows as i64,
            slope: i32::from(call.slope),
            pad: 0,
        };
        // SAFETY: as above; the gather writes every element of the output once.
        unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &plan.gather, &params)? };
    }
    Ok(())
}
