//! The functions of the bridge: operands become views, errors become texts with their kind in front.

use super::bridge::{Kind, MaxGap, Operand, Place};
use super::operand::dtype;
use crate::error::{Error, Result};
use crate::ops::modes::{self, Modes};
use crate::ops::resample::derivatives;
use crate::ops::timeline::{self, Caller};
use crate::tensor::View;

/// What C++ gets: an exception of the kind that the text begins with.
pub(super) type Told<T> = std::result::Result<T, String>;

pub(super) fn told<T>(call: impl FnOnce() -> Result<T>) -> Told<T> {
    call().map_err(|error| format!("{}: {error}", error.kind()))
}

#[allow(clippy::too_many_arguments)]
pub fn resample(
    values: &Operand,
    source_times: &Operand,
    target_times: &Operand,
    mode: &str,
    outside: &str,
    source_lengths: &Operand,
    output: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        crate::resample(
            values.view("values")?,
            source_times.view("source_times")?,
            target_times.view("target_times")?,
            mode,
            outside,
            source_lengths.optional(),
            &mut output.output()?,
            &place.place(),
        )
    })
}

#[allow(clippy::too_many_arguments)]
pub fn resample_slope(
    values: &Operand,
    source_times: &Operand,
    target_times: &Operand,
    mode: &str,
    outside: &str,
    source_lengths: &Operand,
    output: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        derivatives::resample_slope(
            values.view("values")?,
            source_times.view("source_times")?,
            target_times.view("target_times")?,
            mode,
            outside,
            source_lengths.optional(),
            &mut output.output()?,
            &place.place(),
        )
    })
}

#[allow(clippy::too_many_arguments)]
pub fn resample_tangent(
    tangent: &Operand,
    values: &Operand,
    source_times: &Operand,
    target_times: &Operand,
    mode: &str,
    outside: &str,
    source_lengths: &Operand,
    output: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        derivatives::resample_tangent(
            tangent.view("tangent")?,
            values.view("values")?,
            source_times.view("source_times")?,
            target_times.view("target_times")?,
            mode,
            outside,
            source_lengths.optional(),
            &mut output.output()?,
            &place.place(),
        )
    })
}

#[allow(clippy::too_many_arguments)]
pub fn resample_backward(
    grad: &Operand,
    source_times: &Operand,
    target_times: &Operand,
    mode: &str,
    outside: &str,
    source_lengths: &Operand,
    slope: bool,
    values: &Operand,
    output: &Operand,
    workspace: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        derivatives::resample_backward(
            grad.view("grad")?,
            source_times.view("source_times")?,
            target_times.view("target_times")?,
            mode,
            outside,
            source_lengths.optional(),
            slope,
            values.optional(),
            &mut output.output()?,
            &mut workspace.output()?,
            &place.place(),
        )
    })
}

#[allow(clippy::too_many_arguments)]
pub fn resample_curvature(
    grad: &Operand,
    tangent: &Operand,
    values: &Operand,
    source_times: &Operand,
    target_times: &Operand,
    mode: &str,
    outside: &str,
    source_lengths: &Operand,
    output: &Operand,
    workspace: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        derivatives::resample_curvature(
            grad.view("grad")?,
            tangent.view("tangent")?,
            values.view("values")?,
            source_times.view("source_times")?,
            target_times.view("target_times")?,
            mode,
            outside,
            source_lengths.optional(),
            &mut output.output()?,
            &mut workspace.output()?,
            &place.place(),
        )
    })
}

pub fn resample_backward_workspace(
    batch: usize,
    samples: usize,
    targets: usize,
    mode: &str,
    place: &Place,
) -> Told<usize> {
    told(|| derivatives::resample_backward_workspace(batch, samples, targets, mode, &place.place()))
}

pub fn resample_curvature_workspace(batch: usize, samples: usize, targets: usize) -> Told<usize> {
    told(|| derivatives::resample_curvature_workspace(batch, samples, targets))
}

#[allow(clippy::too_many_arguments)]
pub fn resample_time_grad(
    grad: &Operand,
    values: &Operand,
    source_times: &Operand,
    target_times: &Operand,
    mode: &str,
    outside: &str,
    source_lengths: &Operand,
    output: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        derivatives::resample_time_grad(
            grad.view("grad")?,
            values.view("values")?,
            source_times.view("source_times")?,
            target_times.view("target_times")?,
            mode,
            outside,
            source_lengths.optional(),
            &mut output.output()?,
            &place.place(),
        )
    })
}

pub fn resample_mask(
    source_times: &Operand,
    target_times: &Operand,
    max_gap: &MaxGap,
    source_lengths: &Operand,
    output: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        crate::resample_mask(
            source_times.view("source_times")?,
            target_times.view("target_times")?,
            max_gap.gap(),
            source_lengths.optional(),
            &mut output.output()?,
            &place.place(),
        )
    })
}

#[allow(clippy::too_many_arguments)]
pub fn fuse(
    values: &[Operand],
    source_times: &[Operand],
    target_times: &Operand,
    mode: &str,
    outside: &str,
    source_lengths: &Operand,
    output: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        crate::fuse(
            &views(values, "values")?,
            &views(source_times, "source_times")?,
            target_times.view("target_times")?,
            mode,
            outside,
            source_lengths.optional(),
            &mut output.output()?,
            &place.place(),
        )
    })
}

fn views<'a>(operands: &'a [Operand], name: &str) -> Result<Vec<View<'a>>> {
    operands.iter().map(|operand| operand.view(name)).collect()
}

fn known(op: &str, values: Kind) -> Result<crate::tensor::DType> {
    dtype(values).ok_or_else(|| Error::Type(format!("{op}: values must be of a known type")))
}

pub fn check_modes(op: &str, mode: &str, outside: &str, values: Kind, channels: i64) -> Told<()> {
    let channels = usize::try_from(channels).unwrap_or(1);
    told(|| modes::check_modes(op, mode, outside, known(op, values)?, channels).map(drop))
}

pub fn stream_modes(op: &str, mode: &str, outside: &str, values: Kind, widths: &[usize]) -> Told<Vec<String>> {
    told(|| {
        let (modes, _) = modes::check_stream_modes(op, mode, outside, known(op, values)?, widths)?;
        Ok(modes.iter().map(Modes::text).collect())
    })
}

pub fn bends(mode: &str) -> bool {
    modes::names_any(mode, modes::Mode::bends)
}

pub fn named_channels(mode: &str) -> i64 {
    let last = mode.rsplit(',').next().unwrap_or(mode);
    if matches!(last, "slerp" | "slerp:*") {
        return -1; // the number must be a multiple of 4
    }
    if modes::is_plain(mode) {
        return -2;
    }
    Modes::named_channels(mode).and_then(|channels| i64::try_from(channels).ok()).unwrap_or(-1)
}

pub fn check_max_gap(max_gap: &MaxGap) -> Told<()> {
    told(|| max_gap.gap().map_or(Ok(()), crate::MaxGap::check))
}

pub fn check_times(op: &str, stream: i64, source_times: &Operand, source_lengths: &Operand) -> Told<()> {
    told(|| {
        let caller = Caller { op, stream: usize::try_from(stream).ok() };
        // SAFETY: csrc calls this with host tensors only.
        unsafe { timeline::check_times(caller, source_times.view("source_times")?, source_lengths.optional()) }
    })
}

pub fn build_info() -> String {
    let images: Vec<String> =
        images().map(|(kernel, arch)| format!(r#"{{"kernel":"{kernel}","arch":"{arch}"}}"#)).collect();
    let text = |value: Option<&str>| value.map_or("null".to_owned(), |value| format!("\"{value}\""));
    let features: Vec<String> = [("cuda", cfg!(feature = "cuda")), ("torch", true), ("tch", cfg!(feature = "tch"))]
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| format!("\"{name}\""))
        .collect();
    format!(
        r#"{{"version":{},"torch":{},"cuda":{},"torch_cuda":{},"nvrtc":{},"images":[{}],"simd":{},"features":[{}]}}"#,
        text(Some(env!("CARGO_PKG_VERSION"))),
        text(option_env!("ROBOCACHE_TORCH_VERSION")),
        cfg!(robocache_cuda),
        text(option_env!("ROBOCACHE_TORCH_CUDA")),
        text(option_env!("ROBOCACHE_NVRTC_VERSION")),
        images.join(","),
        text(Some(crate::simd::Level::best().name())),
        features.join(","),
    )
}

#[cfg(feature = "cuda")]
fn images() -> impl Iterator<Item = (&'static str, String)> {
    crate::cuda::images().map(|(kernel, arch)| (kernel, arch.to_string()))
}

#[cfg(not(feature = "cuda"))]
fn images() -> impl Iterator<Item = (&'static str, String)> {
    std::iter::empty()
}
