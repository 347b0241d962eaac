//! Typed functions on [`tch::Tensor`](::tch::Tensor): the operators for programs that use PyTorch from Rust.
//!
//! They go through torch's dispatcher, so autograd records them and every device works; linking this crate registers
//! the operators, so a [`tch::CModule`](::tch::CModule) that calls `torch.ops.robocache.*` runs too.

mod voxelize;

pub use voxelize::{SparseVoxels, VoxelizeOptions, VoxelizeSparseOptions, voxelize, voxelize_sparse};

use crate::error::{Error, Result};
use crate::ffi::bridge;
use crate::ops::resample_mask::MaxGap;
use ::tch::Tensor;

/// The optional arguments of [`resample`] and [`fuse`]; the default blends every channel linearly and holds the ends.
#[derive(Clone, Copy, Debug)]
pub struct ResampleOptions<'a> {
    /// How channels are blended: `linear`, `previous`, `next`, `nearest`, `angle`, `slerp` or `pchip`, or groups over
    /// the flattened trailing channels (of [`fuse`]: over the channels of all streams) from left to right,
    /// `linear:3,slerp:4,previous:*` (`*`: all that remain).
    pub mode: &'a str,
    /// What a target before the first or past the last sample gets: `hold` (the nearest end), `nan`, `zero`, or
    /// `extrapolate` (the end bracket's line, `linear` only).
    pub outside: &'a str,
    /// `[B]`, of [`fuse`] `[B, K]`, int32 or int64: how many samples of each row are valid, at least 1. `None`: all.
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
    // SAFETY: each address is that of the C++ tensor of a tch::Tensor that is borrowed for the whole call; C++ copies
    // the handle where it keeps one (autograd), never the address.
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
    owned(result)
}

/// Which targets the samples answer for: within their row's first and last time (inclusive) and, with `max_gap`, on a
/// sample or in a bracket that is no longer.
///
/// * `source_times`: `[B, S]`, or `[S]` shared by the batch, at least one sample; as for [`resample`].
/// * `target_times`: `[B, T]`, or `[T]` shared by the batch, in any order; NaN and infinite ones are not answered for.
/// * `source_lengths`: `[B]`, int32 or int64.
/// * Returns bool `[B, T]`, or `[T]` where both times are 1-D and there are no lengths.
///
/// # Errors
///
/// As for [`resample`]; [`Error::Value`] also for a `max_gap` that is negative or NaN.
///
/// # Example
///
/// ```
/// use robocache::MaxGap;
/// use robocache::tch::resample_mask;
/// use tch::Tensor;
///
/// let stamps = Tensor::from_slice(&[0i64, 10, 500]); // milliseconds
/// let clock = Tensor::from_slice(&[5i64, 100, 501]);
/// let valid = resample_mask(&stamps, &clock, Some(MaxGap::Ticks(50)), None)?;
/// assert_eq!(valid, Tensor::from_slice(&[true, false, false]));
/// # Ok::<(), robocache::Error>(())
/// ```
pub fn resample_mask(
    source_times: &Tensor,
    target_times: &Tensor,
    max_gap: Option<MaxGap>,
    source_lengths: Option<&Tensor>,
) -> Result<Tensor> {
    let gap = match max_gap {
        None => bridge::MaxGap { given: false, whole: false, ticks: 0, number: 0.0 },
        Some(MaxGap::Ticks(ticks)) => bridge::MaxGap { given: true, whole: true, ticks, number: 0.0 },
        Some(MaxGap::Number(number)) => bridge::MaxGap { given: true, whole: false, ticks: 0, number },
    };
    let lengths = source_lengths.map_or(0, address);
    // SAFETY: as for `resample`.
    owned(unsafe { bridge::tch_resample_mask(address(source_times), address(target_times), &gap, lengths) })
}

/// Several streams, each with its own times and rate, on one clock, their channels side by side: the bits of
/// [`resample`] of each stream.
///
/// * `values`: at least one stream `[B, S_k, D_k]`, or `[S_k, D_k]` where all times are 1-D; one type and device.
/// * `source_times`: of each stream `[B, S_k]` or `[S_k]`; all of one type and unit.
/// * `target_times`: `[B, T]`, or `[T]` shared by the batch.
/// * Returns `[B, T, D_1 + ... + D_K]`, dense. Differentiable as [`resample`] is.
///
/// # Errors
///
/// As for [`resample`]; an argument of one stream is named with its index, `values[1]`.
///
/// # Example
///
/// ```
/// use robocache::tch::{ResampleOptions, fuse};
/// use tch::Tensor;
///
/// let gyro = Tensor::from_slice(&[0.0f32, 2.0, 4.0]).reshape([3, 1]);
/// let gripper = Tensor::from_slice(&[0.0f32, 1.0]).reshape([2, 1]);
/// let times = [Tensor::from_slice(&[0i64, 10, 20]), Tensor::from_slice(&[0i64, 15])]; // milliseconds
/// let clock = Tensor::from_slice(&[5i64, 15]);
/// let options = ResampleOptions { mode: "linear:1,previous:1", ..Default::default() };
/// let fused = fuse(&[&gyro, &gripper], &[&times[0], &times[1]], &clock, options)?;
/// assert_eq!(fused, Tensor::from_slice(&[1.0f32, 0.0, 3.0, 1.0]).reshape([2, 2]));
/// # Ok::<(), robocache::Error>(())
/// ```
pub fn fuse(
    values: &[&Tensor],
    source_times: &[&Tensor],
    target_times: &Tensor,
    options: ResampleOptions<'_>,
) -> Result<Tensor> {
    let addresses = |tensors: &[&Tensor]| tensors.iter().map(|tensor| address(tensor)).collect::<Vec<_>>();
    let (values, source_times) = (addresses(values), addresses(source_times));
    let lengths = options.source_lengths.map_or(0, address);
    // SAFETY: as for `resample`.
    let result = unsafe {
        bridge::tch_fuse(&values, &source_times, address(target_times), options.mode, options.outside, lengths)
    };
    owned(result)
}

/// The tensor that C++ made, or the error that it threw.
fn owned(result: std::result::Result<usize, cxx::Exception>) -> Result<Tensor> {
    let result = result.map_err(|exception| error(exception.what()))?;
    // SAFETY: C++ made this tensor for the caller alone.
    Ok(unsafe { adopted(result) })
}

/// A tensor that C++ made.
///
/// # Safety
/// The address is that of a new C++ tensor with no other owner: tch::Tensor deletes it when it is dropped.
unsafe fn adopted(address: usize) -> Tensor {
    // SAFETY: as the caller promises.
    unsafe { Tensor::from_ptr(address as *mut _) }
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
