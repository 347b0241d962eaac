//! `resample` on CUDA: each kernel's parameters and its launch.

use super::derivatives::{Adjoint, Backward, TimeGradient};
use super::plan::{self, Case, Workspace};
use crate::cuda;
use crate::device::Stream;
use crate::error::{Error, Result};
use crate::ops::interpolate::Bracket;
use crate::ops::modes::{Mode, Modes};
use crate::ops::rows_plan::Access;
use crate::ops::signal::Signal;
use crate::ops::signal_cpu::Read;
use crate::ops::signal_cuda::{Ahead, Channels, Rows, gathers, mode_code, moves};
use crate::ops::timeline::Timeline;
use crate::ops::timeline_cuda::{Count, Groups, Times};
use crate::ops::voxelize::cuda as voxelize;
use crate::tensor::View;

const FILE: &str = "resample";

/// `ResampleParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ForwardParams {
    rows: Rows,
    groups: Groups,
}

const _: () = assert!(size_of::<ForwardParams>() == 544);

/// `ResampleTangentParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct TangentParams {
    forward: ForwardParams,
    tangent: Channels,
}

const _: () = assert!(size_of::<TangentParams>() == 576);

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
    spans: i32,
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

/// `ResampleDisorderParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct DisorderParams {
    times: Times,
    disorder: *mut i32,
    rows: i64,
}

const _: () = assert!(size_of::<DisorderParams>() == 112);

/// `ResampleBackwardParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct BackwardParams {
    times: Times,
    grad: Channels,
    values: Channels,
    tangent: Channels,
    brackets: *const Bracket,
    order: *const i64,
    starts: *const i64,
    disorder: *const i32,
    output: *mut u8,
    width: i64,
    first: i64,
    last: i64,
    rows: i64,
    tile: i64,
    tiles: i64,
    rows_per_share: i32,
    chunks: i32,
    slope: i32,
    access: i32,
    mode: i32,
    load_bytes: i32,
    ahead: Ahead,
    groups: Groups,
}

const _: () = assert!(size_of::<BackwardParams>() == 640);

/// The numbers that decide, for rows of `read` in one mode or several and a dense output of the same rows; and the
/// bytes of a store.
fn case(timeline: &Timeline, modes: &Modes, read: &View, output: *mut u8) -> (Case, usize) {
    let (access, store_bytes) = match modes.uniform() {
        _ if modes.any(Mode::is_curved) => (Access::Curved, 0),
        Some(_) => moves(read, output.addr(), read.size(2) * read.dtype().size()),
        None => (Access::Element, 0),
    };
    let case = Case {
        batch: timeline.batch(),
        samples: timeline.samples(),
        targets: timeline.targets(),
        channels: read.size(2),
        values: read.dtype(),
        times: timeline.source_times.dtype(),
        access,
    };
    (case, store_bytes)
}

/// `resample`, its slope or its tangent, of device memory.
pub(super) fn forward(op: &'static str, signal: &Signal, read: Read, output: *mut u8, stream: Stream) -> Result<()> {
    let (case, store_bytes) = case(&signal.timeline, &signal.modes, &signal.values, output);
    let by_units = matches!(read, Read::Tangent(_)) || (case.access == Access::Curved && matches!(read, Read::Value));
    let count = if by_units { Count::Units } else { Count::Channels };
    for run in Groups::launches(&signal.modes, count) {
        let case = Case { channels: (run.last - run.first) as usize, ..case };
        let plan = match read {
            Read::Value => plan::forward(&case)?,
            Read::Slope => plan::slope(&case)?,
            Read::Tangent(_) => plan::tangent(&case)?,
        };
        let rows = Rows::new(signal, output, (run.first, run.last), (case.access, store_bytes), &plan.share);
        let params = ForwardParams { rows, groups: run.groups };
        // SAFETY: the views borrow memory that torch keeps until this stream has run the kernel (`Place::cuda`); the
        // params mirror the kernel's struct, and the plan covers every row and channel once.
        unsafe {
            if let Read::Tangent(tangent) = read {
                let params = TangentParams { forward: params, tangent: Channels::new(tangent) };
                cuda::launch(op, stream.device, stream.handle, FILE, &plan.launch, &params)?;
            } else {
                cuda::launch(op, stream.device, stream.handle, FILE, &plan.launch, &params)?;
            }
        }
    }
    Ok(())
}

/// `resample_time_grad` of device memory.
pub(super) fn time_gradient(op: &'static str, call: &TimeGradient, output: *mut u8, stream: Stream) -> Result<()> {
    let signal = &call.signal;
    let linear: Vec<_> = signal.modes.groups().iter().filter(|group| group.mode == Mode::Linear).collect();
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
        times: Times::new(&signal.timeline),
        values: Channels::new(&signal.values),
        grad: Channels::new(&call.grad),
        output,
        runs: linear.len() as i64,
        first,
        last,
    };
    let launch = plan::time_grad(&case(&signal.timeline, &signal.modes, &signal.values, output).0)?;
    // SAFETY: as for the forward; the launch has a warp for each target.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &launch, &params) }
}

/// `resample_backward` or `resample_curvature` of device memory.
pub(super) fn backward(
    op: &'static str,
    call: &Backward,
    output: *mut u8,
    workspace: *mut u8,
    memory: &Workspace,
    stream: Stream,
) -> Result<()> {
    let (mut case, _) = case(&call.timeline, &call.modes, &call.grad, output);
    let (access, load_bytes) = gathers(&call.grad, output.addr(), case.channels * case.values.size());
    if !matches!(case.access, Access::Curved) && call.modes.uniform().is_some() {
        case.access = access.apart(case.channels);
    }
    let curvature = matches!(call.adjoint, Adjoint::Curvature { .. });
    let at = |offset: usize| workspace.wrapping_add(offset);
    let params = BackwardParams {
        times: Times::new(&call.timeline),
        grad: Channels::new(&call.grad),
        values: call.adjoint.values().map_or(Channels::NONE, Channels::new),
        tangent: call.adjoint.tangent().map_or(Channels::NONE, Channels::new),
        brackets: workspace.cast_const().cast(),
        order: at(memory.order_at).cast_const().cast(),
        starts: at(memory.starts_at).cast_const().cast(),
        disorder: std::ptr::null(),
        output,
        width: case.channels as i64,
        first: 0,
        last: 0,
        rows: memory.rows as i64,
        tile: 0,
        tiles: 0,
        rows_per_share: 0,
        chunks: 0,
        slope: i32::from(matches!(call.adjoint, Adjoint::Slope)),
        access: 0,
        mode: mode_code(&call.modes),
        load_bytes: load_bytes as i32,
        ahead: Ahead::NONE,
        groups: Groups::NONE,
    };
    if case.access == Access::Curved || curvature {
        return curved(op, call, &case, curvature, params, workspace, memory, stream);
    }
    let planned: Vec<_> = Groups::launches(&call.modes, Count::Channels)
        .map(|run| {
            let case = Case { channels: (run.last - run.first) as usize, ..case };
            plan::backward(&case, memory.rows, load_bytes).map(|plan| (run, plan))
        })
        .collect::<Result<_>>()?;
    if planned.iter().any(|(_, plan)| plan.clears) {
        let bytes = case.batch * case.samples * case.channels * case.values.size();
        // SAFETY: as for the forward; the output is dense and of that size.
        unsafe { voxelize::clear(op, output, bytes, stream)? };
    }
    for (run, plan) in planned {
        let mut params = BackwardParams {
            first: run.first,
            last: run.last,
            tile: plan.share.tile as i64,
            tiles: plan.share.tiles as i64,
            rows_per_share: plan.share.rows as i32,
            chunks: plan.share.chunks as i32,
            access: plan.access as i32,
            ahead: Ahead::of_gradient(&call.grad, &call.timeline.target_times, &plan.share),
            groups: run.groups,
            ..params
        };
        if let Some(launch) = &plan.disorder {
            let disorder: *mut i32 = at(memory.disorder_at).cast();
            params.disorder = disorder;
            let params = DisorderParams { times: params.times, disorder, rows: params.rows };
            // SAFETY: as for the forward; the workspace has a number for each tile of targets of the distinct rows.
            unsafe { cuda::launch(op, stream.device, stream.handle, FILE, launch, &params)? };
        }
        // SAFETY: as above; the gather writes every element of its channels once, but for those that stay zero.
        unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &plan.gather, &params)? };
    }
    Ok(())
}

/// The gather by units: brackets, their order, then one launch for each run of groups.
#[allow(clippy::too_many_arguments)]
fn curved(
    op: &'static str,
    call: &Backward,
    case: &Case,
    curvature: bool,
    params: BackwardParams,
    workspace: *mut u8,
    memory: &Workspace,
    stream: Stream,
) -> Result<()> {
    let at = |offset: usize| workspace.wrapping_add(offset).cast::<i64>();
    let prepared = plan::prepare_curved(case, memory.rows)?;
    let brackets: *mut Bracket = workspace.cast();
    let (order, scratch, starts) = (at(memory.order_at), at(memory.scratch_at), at(memory.starts_at));
    let spans = i32::from(call.timeline.spans);
    let bracket = BracketParams { times: params.times, brackets, rows: memory.rows as i64, spans, pad: 0 };
    let (targets, samples) = (case.targets as i64, case.samples as i64);
    let ordered = OrderParams { brackets, order, scratch, starts, targets, samples };
    // SAFETY: as for the forward; the workspace has a bracket for each target of each distinct row, and `order`,
    // `scratch` and `starts` are the parts of the workspace planned for them.
    unsafe {
        cuda::launch(op, stream.device, stream.handle, FILE, &prepared.bracket, &bracket)?;
        cuda::launch(op, stream.device, stream.handle, FILE, &prepared.order, &ordered)?;
    }
    for run in Groups::launches(&call.modes, Count::Units) {
        let launch = plan::backward_curved(&Case { channels: (run.last - run.first) as usize, ..*case }, curvature)?;
        let params = BackwardParams { first: run.first, last: run.last, groups: run.groups, ..params };
        // SAFETY: as above; the gather writes every element of the output once.
        unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &launch, &params)? };
    }
    Ok(())
}
