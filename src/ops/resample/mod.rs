//! `resample`: multi-rate rows of channels at other times. The contract, the checks and the choice of backend.
//!
//! For a target `t` let `i` be the last sample with `source_times[i] <= t`. The bracket is `i, i + 1`, its weight
//! `w = (t - time[i]) / (time[i + 1] - time[i])`: differences in the type of the times (int64 exactly), the quotient in
//! f64, rounded once to the type in which the values are computed (f32 for f32, f16 and bf16; f64 for f64). Where
//! `w == 0` the result is sample `i` exactly, whatever its neighbour holds.
//!
//! The derivatives close over three more operators, so that gradients of any order are exact and deterministic:
//!
//! * `R` = [`resample`], `S` = [`resample_slope`]: the derivative of `R` by a target's time, `(v[i+1] - v[i]) / dt`;
//! * [`resample_backward`]: the adjoint of either, gathered by source row in one order, without atomics;
//! * [`resample_time_grad`]: `q[t] = sum over channels of grad * S`, the gradient by the target times. The gradient by
//!   the source times is `-R'(q)`, the adjoint of a one-channel `R`.

mod cpu;
mod cpu_backward;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
mod levels;
pub mod plan;

use crate::device::{Place, Where};
use crate::error::{Error, Result};
use crate::ops::modes::{Modes, check_modes};
use crate::ops::timeline::Timeline;
use crate::simd::Level;
use crate::tensor::{DType, View, ViewMut};
use plan::Workspace;

/// Checked arguments of `resample` and `resample_slope`.
#[derive(Debug)]
struct Forward<'a> {
    /// `[B, S, D]`.
    values: View<'a>,
    timeline: Timeline<'a>,
    modes: Modes,
}

impl Forward<'_> {
    fn channels(&self) -> usize {
        self.values.size(2)
    }
}

/// Checked arguments of `resample_backward`.
#[derive(Debug)]
struct Backward<'a> {
    /// `[B, T, D]`.
    grad: View<'a>,
    timeline: Timeline<'a>,
    modes: Modes,
    slope: bool,
}

/// Checked arguments of `resample_time_grad`.
#[derive(Debug)]
struct TimeGradient<'a> {
    /// `[B, T, D]`.
    grad: View<'a>,
    forward: Forward<'a>,
}

/// Values as `[B, S, D]`, by the rule that gives times of one axis their meaning.
fn batched<'a>(op: &str, values: View<'a>, source_times: &View, target_times: &View) -> Result<View<'a>> {
    let shape = values.shape();
    let shared = source_times.rank() == 1 && target_times.rank() == 1;
    let values = match values.rank() {
        1 if shared => values.extend(2).repeat(1),
        2 if shared => values.repeat(1),
        2 => values.extend(3),
        3 => values,
        _ => return Err(Error::Value(format!("{op}: values must have shape [B, S, D...] or [S, D...], got {shape}"))),
    };
    if values.size(1) == 0 {
        return Err(Error::Value(format!("{op}: values must have at least one sample, got shape {shape}")));
    }
    Ok(values)
}

fn forward_of<'a>(
    op: &str,
    values: View<'a>,
    source_times: View<'a>,
    target_times: View<'a>,
    mode: &str,
    outside: &str,
    source_lengths: Option<View<'a>>,
) -> Result<Forward<'a>> {
    let values = batched(op, values, &source_times, &target_times)?;
    let (batch, samples) = (values.size(0), values.size(1));
    let (modes, outside) = check_modes(op, mode, outside, values.dtype(), values.size(2))?;
    let timeline = Timeline::new(op, batch, samples, source_times, target_times, source_lengths, outside)?;
    Ok(Forward { values, timeline, modes })
}

/// Refuses an output of another size or type; its axes may be grouped as the caller likes.
fn check_output(op: &str, output: &ViewMut, dtype: DType, elements: [usize; 3]) -> Result<()> {
    let wanted: usize = elements.iter().product();
    if output.dtype() != dtype || output.elements() != wanted {
        return Err(Error::Value(format!(
            "{op}: output must be {} of shape {elements:?}, got {} of shape {}",
            dtype.name(),
            output.dtype().name(),
            output.shape()
        )));
    }
    Ok(())
}

/// Resamples `values` from `source_times` to `target_times`.
///
/// * `values`: `[B, S, D]`, `[B, S]`, or with times of one axis `[S, D]` or `[S]`; at least one sample. f64, f32, f16,
///   bf16; any integer type and bool where no channel is blended.
/// * `source_times`: `[B, S]`, or `[S]` shared by the batch, ascending; f32, f64 or int64 in any unit.
/// * `target_times`: `[B, T]` or `[T]`, in any order, of the same type and unit.
/// * `mode`: `"linear"`, `"previous"`, `"next"`, `"nearest"`, or groups by width: `"linear:7,previous:1,linear:*"`.
/// * `outside`: `"hold"`, `"nan"`, `"zero"` or `"extrapolate"` (only `linear`).
/// * `source_lengths`: `[B]` int32 or int64, valid samples of each row, at least 1.
/// * `output`: dense `[B, T, D]` of the values' type.
///
/// # Errors
/// [`Error::Value`] and [`Error::Type`] name the argument, what must hold and what was found; nothing is written then.
/// [`Error::Unsupported`] where the place is a CUDA stream and this build or machine has no CUDA.
///
/// # Examples
/// ```
/// use robocache::{Place, Serial, View, ViewMut, resample};
///
/// let joint = [0.0f32, 1.0, 4.0]; // radians
/// let stamps = [0i64, 10_000_000, 20_000_000]; // nanoseconds
/// let clock = [5_000_000i64, 15_000_000];
/// let mut aligned = [0.0f32; 2];
/// resample(
///     View::new(&joint, &[3])?,
///     View::new(&stamps, &[3])?,
///     View::new(&clock, &[2])?,
///     "linear",
///     "hold",
///     None,
///     &mut ViewMut::new(&mut aligned, &[2])?,
///     &Place::cpu(&Serial),
/// )?;
/// assert_eq!(aligned, [0.5, 2.5]);
/// # Ok::<(), robocache::Error>(())
/// ```
#[allow(clippy::too_many_arguments)]
pub fn resample(
    values: View,
    source_times: View,
    target_times: View,
    mode: &str,
    outside: &str,
    source_lengths: Option<View>,
    output: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "resample";
    let call = forward_of(OP, values, source_times, target_times, mode, outside, source_lengths)?;
    check_output(OP, output, call.values.dtype(), [call.timeline.batch(), call.timeline.targets(), call.channels()])?;
    if let Where::Cpu(_) = place.0 {
        // SAFETY: a place on the CPU goes with views of host memory (`View`'s constructors).
        unsafe { call.timeline.check(OP)? };
    }
    if output.is_empty() {
        return Ok(());
    }
    match place.0 {
        Where::Cpu(threads) => {
            cpu::forward(&call, false, output.data(), threads, Level::best());
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::forward(OP, &call, false, output.data(), stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(no_cuda(OP)),
    }
}

/// Checks what `resample` cannot see without reading data on the device: ascending times and lengths in range.
///
/// # Errors
/// [`Error::Value`] names the first offending row.
///
/// # Safety
/// The views are host memory.
#[cfg(feature = "torch")]
pub(crate) unsafe fn check_times(
    op: &str,
    source_times: View,
    target_times: View,
    source_lengths: Option<View>,
) -> Result<()> {
    let (batch, samples) = (source_times.size(0), source_times.size(1));
    let outside = crate::ops::modes::Outside::Hold;
    let timeline = Timeline::new(op, batch, samples, source_times, target_times, source_lengths, outside)?;
    // SAFETY: the caller's promise.
    unsafe { timeline.check(op) }
}

/// The derivative of [`resample`] by each target's own time: `(v[i+1] - v[i]) / dt` for `linear` channels, else 0.
///
/// Shapes and errors as for [`resample`]; values and times are floating.
///
/// # Errors
/// As for [`resample`].
#[allow(clippy::too_many_arguments)]
pub fn resample_slope(
    values: View,
    source_times: View,
    target_times: View,
    mode: &str,
    outside: &str,
    source_lengths: Option<View>,
    output: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "resample_slope";
    let call = forward_of(OP, values, source_times, target_times, mode, outside, source_lengths)?;
    check_floating(OP, "values", call.values.dtype())?;
    check_floating(OP, "source_times", call.timeline.source_times.dtype())?;
    check_output(OP, output, call.values.dtype(), [call.timeline.batch(), call.timeline.targets(), call.channels()])?;
    if output.is_empty() {
        return Ok(());
    }
    match place.0 {
        Where::Cpu(threads) => {
            cpu::forward(&call, true, output.data(), threads, Level::best());
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::forward(OP, &call, true, output.data(), stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(no_cuda(OP)),
    }
}

/// The bytes that [`resample_backward`] needs as workspace, aligned to 16.
///
/// # Errors
/// [`Error::Value`] where the number does not fit.
pub fn resample_backward_workspace(batch: usize, samples: usize, targets: usize) -> Result<usize> {
    Ok(Workspace::new(batch, samples, targets)?.bytes)
}

/// The adjoint of [`resample`], or with `slope` of [`resample_slope`]: `grad` `[B, T, D]` to the gradient `[B, S, D]`.
///
/// What a source sample receives is added with fused multiply-adds in ascending (bracket, target) order in the compute
/// type and rounded once, so the bits depend on nothing else. `workspace` has [`resample_backward_workspace`] bytes.
///
/// # Errors
/// As for [`resample`].
#[allow(clippy::too_many_arguments)]
pub fn resample_backward(
    grad: View,
    source_times: View,
    target_times: View,
    mode: &str,
    outside: &str,
    source_lengths: Option<View>,
    slope: bool,
    output: &mut ViewMut,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "resample_backward";
    check_floating(OP, "grad", grad.dtype())?;
    let (batch, samples) = (grad.size(0), source_times.size(source_times.rank().saturating_sub(1)));
    let (modes, outside) = check_modes(OP, mode, outside, grad.dtype(), grad.size(2))?;
    let timeline = Timeline::new(OP, batch, samples, source_times, target_times, source_lengths, outside)?;
    check_shape(OP, "grad", &grad, [batch, timeline.targets(), grad.size(2)])?;
    check_output(OP, output, grad.dtype(), [batch, samples, grad.size(2)])?;
    let plan = Workspace::new(timeline.distinct_rows(), samples, timeline.targets())?;
    if workspace.bytes() < plan.bytes {
        let (wanted, found) = (plan.bytes, workspace.bytes());
        return Err(Error::Value(format!("{OP}: workspace must have at least {wanted} bytes, got {found}")));
    }
    if !workspace.data().addr().is_multiple_of(16) {
        return Err(Error::Value(format!("{OP}: workspace must be aligned to 16 bytes")));
    }
    if output.is_empty() {
        return Ok(());
    }
    let call = Backward { grad, timeline, modes, slope };
    match place.0 {
        Where::Cpu(threads) => {
            // SAFETY: the workspace is ours for the call and was just found large enough.
            let memory = unsafe { std::slice::from_raw_parts_mut(workspace.data(), plan.bytes) };
            cpu_backward::backward(&call, output.data(), memory, &plan, threads, Level::best());
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::backward(OP, &call, output.data(), workspace.data(), &plan, stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(no_cuda(OP)),
    }
}

/// The gradient by the target times: `[B, T]` of the times' type, the sum over channels of `grad` times the slope.
///
/// Channel `c` is added to partial sum `c % 32` in ascending order; the 32 are added pairwise, 16, 8, 4, 2, 1 apart.
///
/// # Errors
/// As for [`resample`]; on CUDA also [`Error::Value`] for more than 224 runs of `linear` channels between others.
#[allow(clippy::too_many_arguments)]
pub fn resample_time_grad(
    grad: View,
    values: View,
    source_times: View,
    target_times: View,
    mode: &str,
    outside: &str,
    source_lengths: Option<View>,
    output: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "resample_time_grad";
    let forward = forward_of(OP, values, source_times, target_times, mode, outside, source_lengths)?;
    let (batch, targets) = (forward.timeline.batch(), forward.timeline.targets());
    check_floating(OP, "values", forward.values.dtype())?;
    check_floating(OP, "source_times", forward.timeline.source_times.dtype())?;
    check_shape(OP, "grad", &grad, [batch, targets, forward.channels()])?;
    if grad.dtype() != forward.values.dtype() {
        let (wanted, found) = (forward.values.dtype().name(), grad.dtype().name());
        return Err(Error::Type(format!("{OP}: grad must be {wanted} (as values), got {found}")));
    }
    check_output(OP, output, forward.timeline.source_times.dtype(), [batch, targets, 1])?;
    if output.is_empty() {
        return Ok(());
    }
    let call = TimeGradient { grad, forward };
    match place.0 {
        Where::Cpu(threads) => {
            cpu_backward::time_gradient(&call, output.data(), threads, Level::best());
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::time_gradient(OP, &call, output.data(), stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(no_cuda(OP)),
    }
}

fn check_floating(op: &str, argument: &str, dtype: DType) -> Result<()> {
    if dtype.is_floating() {
        return Ok(());
    }
    Err(Error::Type(format!("{op}: {argument} must be floating point, got {}", dtype.name())))
}

fn check_shape(op: &str, argument: &str, view: &View, expected: [usize; 3]) -> Result<()> {
    if view.shape().sizes() == expected {
        return Ok(());
    }
    Err(Error::Value(format!("{op}: {argument} must have shape {expected:?}, got {}", view.shape())))
}

#[cfg(not(feature = "cuda"))]
fn no_cuda(op: &str) -> Error {
    Error::Unsupported(format!("{op}: this build has no CUDA; build robocache with feature cuda"))
}
