//! `fuse`: streams of different rates, lengths and widths on one clock, their channels side by side.
//!
//! The bits are those of [`resample`](crate::resample) of each stream, put together: both read rows by the same code.
//! No stream is written anywhere but to its channels of the result, and on CUDA one launch serves up to 16 streams.

#[cfg(feature = "cuda")]
mod cuda;
pub mod plan;

use crate::device::{Place, Where};
use crate::error::{Error, Result};
use crate::ops::modes::check_stream_modes;
use crate::ops::signal::Signal;
use crate::ops::signal_cpu::{self, Read};
use crate::ops::timeline::{Caller, Timeline};
use crate::simd::Level;
use crate::tensor::{View, ViewMut};

const OP: &str = "fuse";

fn value(text: String) -> Error {
    Error::Value(format!("{OP}: {text}"))
}

/// The streams' values as `[B, S, D]`, of one type and batch.
fn batched<'a>(values: &[View<'a>], source_times: &[View], target_times: &View) -> Result<Vec<View<'a>>> {
    let Some(first) = values.first() else {
        return Err(value("values must have at least one stream, got none".to_owned()));
    };
    if source_times.len() != values.len() {
        let (wanted, found) = (values.len(), source_times.len());
        return Err(value(format!(
            "source_times must have one tensor for each stream of values ({wanted}), got {found}"
        )));
    }
    let single = source_times.iter().chain([target_times]).all(|times| times.rank() == 1) && first.rank() == 2;
    let mut rows = Vec::with_capacity(values.len());
    for (stream, view) in values.iter().enumerate() {
        let shape = view.shape();
        if view.dtype() != first.dtype() {
            let (wanted, found) = (first.dtype().name(), view.dtype().name());
            return Err(Error::Type(format!("{OP}: values[{stream}] must be {wanted} (as values[0]), got {found}")));
        }
        let batch = first.size(0);
        if view.rank() != if single { 2 } else { 3 } || (!single && view.size(0) != batch) {
            let wanted = match (single, first.rank()) {
                (true, _) => "[S, D]".to_owned(),
                (_, 3) => format!("[{batch}, S, D]"),
                _ => "[B, S, D]".to_owned(),
            };
            return Err(value(format!("values[{stream}] must have shape {wanted}, got {shape}")));
        }
        let view = if single { view.repeat(1) } else { *view };
        if view.size(1) == 0 {
            return Err(value(format!("values[{stream}] must have at least one sample, got shape {shape}")));
        }
        rows.push(view);
    }
    Ok(rows)
}

fn signals_of<'a>(
    values: &[View<'a>],
    source_times: &[View<'a>],
    target_times: View<'a>,
    mode: &str,
    outside: &str,
    source_lengths: Option<View<'a>>,
) -> Result<Vec<Signal<'a>>> {
    let values = batched(values, source_times, &target_times)?;
    let batch = values[0].size(0);
    if let Some(lengths) = &source_lengths
        && lengths.shape().sizes() != [batch, values.len()]
    {
        let (streams, found) = (values.len(), lengths.shape());
        return Err(value(format!("source_lengths must have shape [{batch}, {streams}], got {found}")));
    }
    let widths: Vec<usize> = values.iter().map(|values| values.size(2)).collect();
    let (modes, outside) = check_stream_modes(OP, mode, outside, values[0].dtype(), &widths)?;
    let mut signals = Vec::with_capacity(values.len());
    for (stream, ((values, modes), &times)) in values.into_iter().zip(modes).zip(source_times).enumerate() {
        if times.dtype() != source_times[0].dtype() {
            let (wanted, found) = (source_times[0].dtype().name(), times.dtype().name());
            let text = format!("{OP}: source_times[{stream}] must be {wanted} (as source_times[0]), got {found}");
            return Err(Error::Type(text));
        }
        let caller = Caller { op: OP, stream: Some(stream) };
        let lengths = source_lengths.map(|lengths| lengths.column(stream));
        let timeline = Timeline::new(caller, batch, values.size(1), times, target_times, lengths, outside)?;
        signals.push(Signal { values, timeline: timeline.with_spans_for(&modes), modes });
    }
    Ok(signals)
}

/// Resamples several streams to `target_times` and puts their channels side by side.
///
/// * `values`: at least one stream, `[B, S_k, D_k]`, or `[S_k, D_k]` where all times have one axis; one type, as for
///   [`resample`](crate::resample).
/// * `source_times`: for each stream `[B, S_k]` or `[S_k]`, ascending; f32, f64 or int64, all of one type and unit.
/// * `target_times`: `[B, T]` or `[T]`, in any order.
/// * `mode`: one for all channels, or groups over the channels of all streams from left to right; a `slerp` group lies
///   within one stream.
/// * `outside`: as for `resample`.
/// * `source_lengths`: `[B, K]` int32 or int64, valid samples of each row of each stream.
/// * `output`: dense `[B, T, D_1 + ... + D_K]` of the values' type.
///
/// # Errors
/// As for `resample`; an argument of one stream is named with its index, `values[1]`.
///
/// # Examples
/// ```
/// use robocache::{Place, Serial, View, ViewMut, fuse};
///
/// let (gyro, gripper) = ([0.0f32, 2.0, 4.0], [0.0f32, 1.0]);
/// let (fast, slow) = ([0i64, 10, 20], [0i64, 15]); // milliseconds
/// let mut fused = [0.0f32; 4];
/// fuse(
///     &[View::new(&gyro, &[3, 1])?, View::new(&gripper, &[2, 1])?],
///     &[View::new(&fast, &[3])?, View::new(&slow, &[2])?],
///     View::new(&[5i64, 16], &[2])?,
///     "linear:1,previous:1",
///     "hold",
///     None,
///     &mut ViewMut::new(&mut fused, &[2, 2])?,
///     &Place::cpu(&Serial),
/// )?;
/// assert_eq!(fused, [1.0, 0.0, 3.2, 1.0]);
/// # Ok::<(), robocache::Error>(())
/// ```
#[allow(clippy::too_many_arguments)]
pub fn fuse(
    values: &[View],
    source_times: &[View],
    target_times: View,
    mode: &str,
    outside: &str,
    source_lengths: Option<View>,
    output: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    let signals = signals_of(values, source_times, target_times, mode, outside, source_lengths)?;
    let width = signals.iter().map(Signal::channels).sum();
    let timeline = &signals[0].timeline;
    output.check(OP, signals[0].values.dtype(), [timeline.batch(), timeline.targets(), width])?;
    if let Where::Cpu(threads) = place.0 {
        for (stream, signal) in signals.iter().enumerate() {
            // SAFETY: a place on the CPU goes with views of host memory (`View`'s constructors).
            unsafe { signal.timeline.check(Caller { op: OP, stream: Some(stream) }, threads)? };
        }
    }
    if output.is_empty() {
        return Ok(());
    }
    match place.0 {
        Where::Cpu(threads) => {
            signal_cpu::forward(&signals, Read::Value, output.data(), threads, Level::best());
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::forward(OP, &signals, output.data(), stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(crate::ops::resample::no_cuda(OP)),
    }
}
