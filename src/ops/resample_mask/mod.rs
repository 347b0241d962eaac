//! `resample_mask`: which targets the samples answer for, within their first and last time and within short brackets.

#[cfg(feature = "cuda")]
mod cuda;
pub mod plan;

use crate::device::{Place, Where};
use crate::error::{Error, Result};
use crate::ops::interpolate::{Limit, Samples, Time};
use crate::ops::modes::Outside;
use crate::ops::rows::{GRAIN, Output};
use crate::ops::timeline::Timeline;
use crate::tensor::{DType, View, ViewMut};
use crate::threads::Threads;

const OP: &str = "resample_mask";

/// The longest bracket that the mask lets through, in the unit of the times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxGap {
    /// A whole number, exact for int64 times.
    Ticks(i64),
    /// Any number; for f32 times it is rounded to f32.
    Number(f64),
}

impl MaxGap {
    /// Refuses a negative number and NaN.
    pub fn check(self) -> Result<()> {
        let found = match self {
            MaxGap::Ticks(ticks) if ticks < 0 => ticks.to_string(),
            MaxGap::Number(number) if number.is_nan() => "nan".to_owned(),
            MaxGap::Number(number) if number < 0.0 => format!("{number:?}"),
            _ => return Ok(()),
        };
        Err(Error::Value(format!("{OP}: max_gap must be at least 0, got {found}")))
    }

    fn limit(self, times: DType) -> Limit {
        let (ticks, number) = match self {
            MaxGap::Ticks(ticks) => (ticks as u64, ticks as f64),
            // Rust's conversion rounds down and saturates.
            MaxGap::Number(number) => (number as u64, number),
        };
        Limit { ticks, number: if times == DType::F32 { f64::from(number as f32) } else { number } }
    }
}

/// Marks the targets that lie within their row's first and last valid sample (inclusive) and, with `max_gap`, on a
/// sample or in a bracket that is no longer.
///
/// * `source_times`: `[B, S]` or `[S]`, ascending, at least one sample; f32, f64 or int64.
/// * `target_times`: `[B, T]` or `[T]`, of the same type, in any order; NaN and infinite ones are marked false.
/// * `source_lengths`: `[B]` int32 or int64.
/// * `output`: bool, dense `[B, T]`; `[T]` where both times have one axis and there are no lengths.
///
/// # Errors
/// As for [`resample`](crate::resample); [`Error::Value`] also for a `max_gap` that is negative or NaN.
///
/// # Examples
/// ```
/// use robocache::{MaxGap, Place, Serial, View, ViewMut, resample_mask};
///
/// let (stamps, clock) = ([0i64, 10, 500], [5i64, 100, 500, 501]); // milliseconds
/// let mut valid = [false; 4];
/// resample_mask(
///     View::new(&stamps, &[3])?,
///     View::new(&clock, &[4])?,
///     Some(MaxGap::Ticks(50)),
///     None,
///     &mut ViewMut::new(&mut valid, &[4])?,
///     &Place::cpu(&Serial),
/// )?;
/// assert_eq!(valid, [true, false, true, false]);
/// # Ok::<(), robocache::Error>(())
/// ```
pub fn resample_mask(
    source_times: View,
    target_times: View,
    max_gap: Option<MaxGap>,
    source_lengths: Option<View>,
    output: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    let timeline = timeline_of(source_times, target_times, source_lengths)?;
    max_gap.map_or(Ok(()), MaxGap::check)?;
    let limit = max_gap.map(|gap| gap.limit(source_times.dtype()));
    output.check(OP, DType::Bool, [timeline.batch(), timeline.targets(), 1])?;
    if let Where::Cpu(threads) = place.0 {
        // SAFETY: a place on the CPU goes with views of host memory (`View`'s constructors).
        unsafe { timeline.check(OP, threads)? };
    }
    if output.is_empty() {
        return Ok(());
    }
    match place.0 {
        Where::Cpu(threads) => {
            match source_times.dtype() {
                DType::I64 => mask::<i64>(&timeline, limit.as_ref(), output.data(), threads),
                DType::F64 => mask::<f64>(&timeline, limit.as_ref(), output.data(), threads),
                _ => mask::<f32>(&timeline, limit.as_ref(), output.data(), threads),
            }
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::mask(OP, &timeline, limit, output.data(), stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(crate::ops::resample::no_cuda(OP)),
    }
}

fn timeline_of<'a>(
    source_times: View<'a>,
    target_times: View<'a>,
    source_lengths: Option<View<'a>>,
) -> Result<Timeline<'a>> {
    let shape = source_times.shape();
    if !matches!(source_times.rank(), 1 | 2) {
        return Err(Error::Value(format!("{OP}: source_times must have shape [B, S] or [S], got {shape}")));
    }
    let samples = source_times.size(source_times.rank() - 1);
    if samples == 0 {
        return Err(Error::Value(format!("{OP}: source_times must have at least one sample, got shape {shape}")));
    }
    let batch = match (source_times.rank(), target_times.rank(), &source_lengths) {
        (2, ..) => source_times.size(0),
        (_, 2, _) => target_times.size(0),
        (_, _, Some(lengths)) if lengths.rank() == 1 => lengths.size(0),
        _ => 1,
    };
    Timeline::new(OP, batch, samples, source_times, target_times, source_lengths, Outside::Hold)
}

fn mask<T: Time>(timeline: &Timeline, limit: Option<&Limit>, output: *mut u8, threads: &dyn Threads) {
    let targets = timeline.targets();
    let output = Output::<bool> { first: output.cast(), width: 1 };
    threads.run(timeline.batch() * targets, GRAIN, &|rows| {
        let mut start = rows.start;
        while start < rows.end {
            let (batch, first) = (start / targets, start % targets);
            let count = (targets - first).min(rows.end - start);
            // SAFETY: host memory of type T (`resample_mask`), a row of the batch; `count` is in [1, S].
            let samples = unsafe { Samples::<T>::new(&timeline.source_times, batch, timeline.count(batch)) };
            let mut guess = 0;
            for target in first..first + count {
                // SAFETY: as above, and one of its targets.
                let time = unsafe { timeline.target::<T>(batch, target) };
                output.row(batch * targets + target, &(0..1))[0] = samples.covers(time, limit, &mut guess);
            }
            start += count;
        }
    });
}
