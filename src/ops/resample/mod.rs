//! `resample`: multi-rate rows of channels at other times. The contract, the checks and the choice of backend.
//!
//! For a target `t` let `i` be the last sample with `source_times[i] <= t`. The bracket is `i, i + 1`, its weight
//! `w = (t - time[i]) / (time[i + 1] - time[i])`: differences in the type of the times (int64 exactly), the quotient in
//! f64, rounded once to the type in which the values are computed (f32 for f32, f16 and bf16; f64 for f64). Where
//! `w == 0` the result is sample `i` exactly, whatever its neighbour holds.
//!
//! `angle`, `slerp` and `pchip` have their formulas in [`crate::ops::blend`]. The derivatives are in [`derivatives`].

mod cpu_backward;
#[cfg(feature = "cuda")]
mod cuda;
pub mod derivatives;
mod gather_plan;
#[cfg(test)]
mod levels;
pub mod plan;

use crate::device::{Place, Where};
use crate::error::Result;
use crate::ops::modes::check_modes;
use crate::ops::signal::{Signal, batched};
use crate::ops::signal_cpu::{self, Read};
use crate::ops::timeline::Timeline;
use crate::simd::Level;
use crate::tensor::{View, ViewMut};

fn signal_of<'a>(
    op: &str,
    values: View<'a>,
    source_times: View<'a>,
    target_times: View<'a>,
    mode: &str,
    outside: &str,
    source_lengths: Option<View<'a>>,
) -> Result<Signal<'a>> {
    let values = batched(op.into(), values, &source_times, &target_times)?;
    let (batch, samples) = (values.size(0), values.size(1));
    let (modes, outside) = check_modes(op, mode, outside, values.dtype(), values.size(2))?;
    let timeline = Timeline::new(op, batch, samples, source_times, target_times, source_lengths, outside)?;
    Ok(Signal { values, timeline: timeline.with_spans_for(&modes), modes })
}

/// Refuses an output of another size or type; its axes may be grouped as the caller likes.
fn check_output(op: &str, output: &ViewMut, signal: &Signal) -> Result<()> {
    let elements = [signal.timeline.batch(), signal.timeline.targets(), signal.channels()];
    output.check(op, signal.values.dtype(), elements)
}

/// Resamples `values` from `source_times` to `target_times`.
///
/// * `values`: `[B, S, D]`, `[B, S]`, or with times of one axis `[S, D]` or `[S]`; at least one sample. f64, f32, f16,
///   bf16; any integer type and bool where no channel is blended.
/// * `source_times`: `[B, S]`, or `[S]` shared by the batch, ascending; f32, f64 or int64 in any unit.
/// * `target_times`: `[B, T]` or `[T]`, in any order, of the same type and unit.
/// * `mode`: `"linear"`, `"previous"`, `"next"`, `"nearest"`, `"angle"`, `"slerp"`, `"pchip"`, or groups by width:
///   `"linear:3,slerp:4,previous:*"`.
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
    let signal = signal_of(OP, values, source_times, target_times, mode, outside, source_lengths)?;
    check_output(OP, output, &signal)?;
    if let Where::Cpu(threads) = place.0 {
        // SAFETY: a place on the CPU goes with views of host memory (`View`'s constructors).
        unsafe { signal.timeline.check(OP, threads)? };
    }
    if output.is_empty() {
        return Ok(());
    }
    match place.0 {
        Where::Cpu(threads) => {
            signal_cpu::forward(&[signal], Read::Value, output.data(), threads, Level::best());
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::forward(OP, &signal, Read::Value, output.data(), stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(no_cuda(OP)),
    }
}

#[cfg(not(feature = "cuda"))]
pub(super) fn no_cuda(op: &str) -> crate::Error {
    crate::Error::Unsupported(format!("{op}: this build has no CUDA; build robocache with feature cuda"))
}
