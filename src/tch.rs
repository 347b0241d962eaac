//! Typed functions on [`tch::Tensor`](::tch::Tensor): the operators for programs that use PyTorch from Rust.
//!
//! They go through torch's dispatcher, so autograd records them and every device works; linking this crate registers
//! the operators, so a [`tch::CModule`](::tch::CModule) that calls `torch.ops.robocache.*` runs too.

use crate::error::{Error, Result};
use crate::ffi::bridge;
use ::tch::Tensor;

/// The optional arguments of [`resample`]; the default blends every channel and holds the ends.
#[derive(Clone, Copy, Debug)]
pub struct ResampleOptions<'a> {
    /// How channels are blended: `linear`, `previous`, `next` or `nearest`, or groups over the flattened trailing
    /// channels from left to right, `linear:7,previous:1,linear:*` (`*`: all that remain).
    pub mode: &'a str,
    /// What a target before the first or past the last sample gets: `hold` (the nearest end), `nan`, `zero`, or
    /// `extrapolate` (the end bracket's line, `linear` only).
    pub outside: &'a str,
    /// `[B]`, int32 or int64: how many samples of each row are valid, at least 1. `None`: all `S`.
    pub source_lengths: Option<&'a Tensor>,
}

impl Default for ResampleOptions<'_> {
    fn default() -> Self {
        ResampleOptions { mode: "linear", outside: "hold", source_lengths: None }
    }
}

/// Samples at `source_times` become values at `target_times`.
///
/// * `values`: `[B, S, D...]` with any strides and at least one sample, or `[S, D...]` where both times are 1-D; f64,
///   f32, f16, bf16, and integers and bool where no channel is blended.
/// * `source_times`: `[B, S]`, or `[S]` shared by the batch; f64, f32 or int64 ticks of any unit; ascending along each
///   row, and of equal times the later sample wins.
/// * `target_times`: `[B, T]`, or `[T]` shared by the batch; type and unit of `source_times`, in any order.
/// * Returns `[B, T, D...]`, dense, of the type of `values`.
///
/// A target that equals a sample's time gets that sample exactly, whatever its neighbour holds. A NaN target gives NaN
/// (0 for integers and bool), an infinite one counts as outside.
///
/// Differentiable, twice, in `values`, and for `linear` channels in floating `source_times` and `target_times`.
///
/// # Errors
///
/// [`Error::Value`] for a wrong shape or value, [`Error::Type`] for a wrong type, with the text that Python shows;
/// [`Error::Unsupported`] for a missing backend and [`Error::Runtime`] for what torch itself could not do, such as
/// allocate memory.
///
/// # Example
///
/// ```
/// use robocache::tch::{ResampleOptions, resample};
/// use tch::Tensor;
///
/// let times = Tensor::from_slice(&[0.0, 1.0, 2.0]); // seconds
/// let joint = Tensor::from_slice(&[0.0, 10.0, 40.0]).reshape([3, 1]); // degrees
/// let targets = Tensor::from_slice(&[0.5, 1.5, 9.0]);
///
/// let aligned = resample(&joint, &times, &targets, ResampleOptions::default())?;
/// assert_eq!(aligned, Tensor::from_slice(&[5.0, 25.0, 40.0]).reshape([3, 1]));
///
/// let held = ResampleOptions { mode: "previous", ..Default::default() };
/// let aligned = resample(&joint, &times, &targets, held)?;
/// assert_eq!(aligned, Tensor::from_slice(&[0.0, 10.0, 40.0]).reshape([3, 1]));
/// # Ok::<(), robocache::Error>(())
/// ```
pub fn resample(
    values: &Tensor,
    source_times: &Tensor,
    target_times: &Tensor,
    options: ResampleOptions<'_>,
) -> Result<Tensor> {
    // SAFETY: each address is that of the C++ tensor of a tch::Tensor that is borrowed for the whole call; C++ copies the
    // handle where it keeps one (autograd), never the address.
    let result = unsafe {
        bridge::tch_resample(
            address(values),
            address(source_times),
            address(target_times),
            options.mode,
            options.outside,
            options.source_lengths.map_or(0, address),
        )
    };
    let result = result.map_err(|exception| error(exception.what()))?;
    // SAFETY: the address is that of a new C++ tensor with no other owner, which tch::Tensor deletes when it is dropped.
    Ok(unsafe { Tensor::from_ptr(result as *mut _) })
}

/// Where the C++ tensor behind a [`Tensor`] lies.
fn address(tensor: &Tensor) -> usize {
    tensor.as_ptr() as usize
}

/// The error for an exception's text, which begins with its kind (see csrc/tch.h).
fn error(what: &str) -> Error {
    match what.split_once(": ") {
        Some(("ValueError", text)) => Error::Value(text.into()),
        Some(("TypeError", text)) => Error::Type(text.into()),
        Some(("NotImplementedError", text)) => Error::Unsupported(text.into()),
        Some(("RuntimeError", text)) => Error::Runtime(text.into()),
        _ => Error::Runtime(what.into()),
    }
}
