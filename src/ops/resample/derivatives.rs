//! The derivatives of [`resample`](super::resample): of any order where modes are linear in the values, of the first
//! and second for `slerp` and `pchip`; all deterministic.
//!
//! * `S` = [`resample_slope`]: the derivative of `R` = `resample` by a target's time, `(v[i+1] - v[i]) / dt` of
//!   `linear` channels, 0 of others;
//! * `T` = [`resample_tangent`]: the derivative of `R` along a direction of the values;
//! * `R'` and `S'` = [`resample_backward`]: the adjoints of `T` and `S`, gathered by source row in one order;
//! * `C` = [`resample_curvature`]: the derivative of `R'` along a direction of the values, gathered likewise;
//! * [`resample_time_grad`]: `q[t] = sum over channels of grad * S`, the gradient by the target times. The gradient by
//!   the source times is `-R'(q)`, the adjoint of a one-channel linear `R`.

#[cfg(feature = "cuda")]
use super::cuda;
#[cfg(not(feature = "cuda"))]
use super::no_cuda;
use super::plan::{Held, Workspace};
use super::{check_output, cpu_backward, signal_of};
use crate::device::{Place, Where};
use crate::error::{Error, Result};
use crate::ops::modes::{Mode, Modes, check_modes, names_any};
use crate::ops::signal::Signal;
use crate::ops::signal_cpu::{self, Read};
use crate::ops::timeline::Timeline;
use crate::simd::Level;
use crate::tensor::{DType, View, ViewMut};

/// What is gathered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Adjoint<'a> {
    /// That of the result; values `[B, S, D]` where a mode's derivative depends on them.
    Value(Option<View<'a>>),
    /// That of the slope.
    Slope,
    /// The derivative of the result's along a direction of the values.
    Curvature {
        /// `[B, S, D]`.
        values: View<'a>,
        /// `[B, S, D]`.
        tangent: View<'a>,
    },
}

impl<'a> Adjoint<'a> {
    pub(super) fn values(&self) -> Option<&View<'a>> {
        match self {
            Adjoint::Value(values) => values.as_ref(),
            Adjoint::Slope => None,
            Adjoint::Curvature { values, .. } => Some(values),
        }
    }

    pub(super) fn tangent(&self) -> Option<&View<'a>> {
        match self {
            Adjoint::Curvature { tangent, .. } => Some(tangent),
            _ => None,
        }
    }
}

/// Checked arguments of `resample_backward` and `resample_curvature`.
#[derive(Debug)]
pub(super) struct Backward<'a> {
    /// `[B, T, D]`.
    pub(super) grad: View<'a>,
    pub(super) timeline: Timeline<'a>,
    pub(super) modes: Modes,
    pub(super) adjoint: Adjoint<'a>,
}

/// Checked arguments of `resample_time_grad`.
#[derive(Debug)]
pub(super) struct TimeGradient<'a> {
    /// `[B, T, D]`.
    pub(super) grad: View<'a>,
    pub(super) signal: Signal<'a>,
}

fn forward(op: &'static str, signal: Signal, read: Read, output: &mut ViewMut, place: &Place) -> Result<()> {
    check_output(op, output, &signal)?;
    if output.is_empty() {
        return Ok(());
    }
    match place.0 {
        Where::Cpu(threads) => {
            signal_cpu::forward(&[signal], read, output.data(), threads, Level::best());
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::forward(op, &signal, read, output.data(), stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(no_cuda(op)),
    }
}

/// The derivative of [`resample`](super::resample) by each target's own time: `(v[i+1] - v[i]) / dt` for `linear`
/// channels, else 0.
///
/// Shapes and errors as for `resample`; values and times are floating.
///
/// # Errors
/// As for `resample`.
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
    let signal = signal_of(OP, values, source_times, target_times, mode, outside, source_lengths)?;
    check_floating(OP, "values", signal.values.dtype())?;
    check_floating(OP, "source_times", signal.timeline.source_times.dtype())?;
    forward(OP, signal, Read::Slope, output, place)
}

/// The derivative of [`resample`](super::resample) along `tangent`, a direction of the values: `[B, T, D]`; 0 where a
/// target is filled.
///
/// `tangent` and `values` are `[B, S, D]` of one floating type; the rest as for `resample`.
///
/// # Errors
/// As for `resample`.
#[allow(clippy::too_many_arguments)]
pub fn resample_tangent(
    tangent: View,
    values: View,
    source_times: View,
    target_times: View,
    mode: &str,
    outside: &str,
    source_lengths: Option<View>,
    output: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "resample_tangent";
    let signal = signal_of(OP, values, source_times, target_times, mode, outside, source_lengths)?;
    check_floating(OP, "values", signal.values.dtype())?;
    check_like(OP, "tangent", &tangent, "values", signal.values.dtype(), values.shape().sizes())?;
    let tangent = super::batched(OP.into(), tangent, &source_times, &target_times)?;
    forward(OP, signal, Read::Tangent(&tangent), output, place)
}

/// The bytes that [`resample_backward`] needs as workspace, aligned to 16, for that mode at that place.
///
/// # Errors
/// [`Error::Value`] where the number does not fit.
pub fn resample_backward_workspace(
    batch: usize,
    samples: usize,
    targets: usize,
    mode: &str,
    place: &Place,
) -> Result<usize> {
    let held = Held::of(place, names_any(mode, Mode::is_curved));
    Ok(Workspace::new(batch, samples, targets, held)?.bytes)
}

/// The bytes that [`resample_curvature`] needs as workspace, aligned to 16.
///
/// # Errors
/// [`Error::Value`] where the number does not fit.
pub fn resample_curvature_workspace(batch: usize, samples: usize, targets: usize) -> Result<usize> {
    Ok(Workspace::new(batch, samples, targets, Held::Order)?.bytes)
}

/// The adjoint of [`resample`](super::resample), or with `slope` of [`resample_slope`]: `grad` `[B, T, D]` to the
/// gradient `[B, S, D]`.
///
/// What a source sample receives is added with fused multiply-adds in ascending (bracket, target) order in the compute
/// type and rounded once, so the bits depend on nothing else. `values` `[B, S, D]` are read for `slerp` and `pchip`
/// only. `workspace` has [`resample_backward_workspace`] bytes.
///
/// # Errors
/// As for `resample`; [`Error::Value`] also where values are missing.
#[allow(clippy::too_many_arguments)]
pub fn resample_backward(
    grad: View,
    source_times: View,
    target_times: View,
    mode: &str,
    outside: &str,
    source_lengths: Option<View>,
    slope: bool,
    values: Option<View>,
    output: &mut ViewMut,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "resample_backward";
    let adjoint = if slope { Adjoint::Slope } else { Adjoint::Value(values) };
    let times = (source_times, target_times, source_lengths);
    gather(OP, grad, times, mode, outside, adjoint, output, workspace, place)
}

/// The derivative of [`resample_backward`] along `tangent`, a direction of the values: `[B, S, D]`. Only `slerp` and
/// `pchip` bend; other channels get 0.
///
/// `grad` is `[B, T, D]`, `tangent` and `values` are `[B, S, D]`, all of one floating type.
///
/// # Errors
/// As for [`resample_backward`]; the workspace has [`resample_curvature_workspace`] bytes.
#[allow(clippy::too_many_arguments)]
pub fn resample_curvature(
    grad: View,
    tangent: View,
    values: View,
    source_times: View,
    target_times: View,
    mode: &str,
    outside: &str,
    source_lengths: Option<View>,
    output: &mut ViewMut,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "resample_curvature";
    let adjoint = Adjoint::Curvature { values, tangent };
    let times = (source_times, target_times, source_lengths);
    gather(OP, grad, times, mode, outside, adjoint, output, workspace, place)
}

#[allow(clippy::too_many_arguments)]
fn gather(
    op: &'static str,
    grad: View,
    (source_times, target_times, source_lengths): (View, View, Option<View>),
    mode: &str,
    outside: &str,
    adjoint: Adjoint,
    output: &mut ViewMut,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    check_floating(op, "grad", grad.dtype())?;
    let (batch, samples) = (grad.size(0), source_times.size(source_times.rank().saturating_sub(1)));
    let channels = grad.size(2);
    let (modes, outside) = check_modes(op, mode, outside, grad.dtype(), channels)?;
    let timeline = Timeline::new(op, batch, samples, source_times, target_times, source_lengths, outside)?;
    let timeline = timeline.with_spans_for(&modes);
    check_like(op, "grad", &grad, "grad", grad.dtype(), &[batch, timeline.targets(), channels])?;
    for (argument, view) in [("values", adjoint.values()), ("tangent", adjoint.tangent())] {
        if let Some(view) = view {
            check_like(op, argument, view, "grad", grad.dtype(), &[batch, samples, channels])?;
        }
    }
    if let Adjoint::Value(None) = adjoint
        && let Some(group) = modes.groups().iter().find(|group| group.mode.bends())
    {
        let mode = group.mode.name();
        return Err(Error::Value(format!("{op}: values must be given for mode \"{mode}\", got none")));
    }
    output.check(op, grad.dtype(), [batch, samples, channels])?;
    let curves = modes.any(Mode::is_curved) || matches!(adjoint, Adjoint::Curvature { .. });
    let plan = Workspace::new(timeline.distinct_rows(), samples, timeline.targets(), Held::of(place, curves))?;
    if workspace.bytes() < plan.bytes {
        let (wanted, found) = (plan.bytes, workspace.bytes());
        return Err(Error::Value(format!("{op}: workspace must have at least {wanted} bytes, got {found}")));
    }
    if !workspace.data().addr().is_multiple_of(16) {
        return Err(Error::Value(format!("{op}: workspace must be aligned to 16 bytes")));
    }
    if output.is_empty() {
        return Ok(());
    }
    let call = Backward { grad, timeline, modes, adjoint };
    match place.0 {
        Where::Cpu(threads) => {
            // SAFETY: the workspace is ours for the call and was just found large enough.
            let memory = unsafe { std::slice::from_raw_parts_mut(workspace.data(), plan.bytes) };
            cpu_backward::backward(&call, output.data(), memory, &plan, threads, Level::best());
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::backward(op, &call, output.data(), workspace.data(), &plan, stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(no_cuda(op)),
    }
}

/// The gradient by the target times: `[B, T]` of the times' type, the sum over channels of `grad` times the slope.
///
/// Channel `c` is added to partial sum `c % 32` in ascending order; the 32 are added pairwise, 16, 8, 4, 2, 1 apart.
///
/// # Errors
/// As for `resample`; on CUDA also [`Error::Value`] for more than 224 runs of `linear` channels between others.
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
    let signal = signal_of(OP, values, source_times, target_times, mode, outside, source_lengths)?;
    let (batch, targets) = (signal.timeline.batch(), signal.timeline.targets());
    check_floating(OP, "values", signal.values.dtype())?;
    check_floating(OP, "source_times", signal.timeline.source_times.dtype())?;
    check_like(OP, "grad", &grad, "values", signal.values.dtype(), &[batch, targets, signal.channels()])?;
    output.check(OP, signal.timeline.source_times.dtype(), [batch, targets, 1])?;
    if output.is_empty() {
        return Ok(());
    }
    let call = TimeGradient { grad, signal };
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

fn check_like(op: &str, argument: &str, view: &View, other: &str, dtype: DType, shape: &[usize]) -> Result<()> {
    if view.shape().sizes() != shape {
        return Err(Error::Value(format!("{op}: {argument} must have shape {shape:?}, got {}", view.shape())));
    }
    if view.dtype() != dtype {
        let (wanted, found) = (dtype.name(), view.dtype().name());
        return Err(Error::Type(format!("{op}: {argument} must be {wanted} (as {other}), got {found}")));
    }
    Ok(())
}
