//! Source and target times of a batch, checked and ready to be searched: the temporal half of an operator's arguments.

use crate::error::{Error, Result};
use crate::ops::interpolate::{Bracket, Samples, Time, first_descent, has_descent};
use crate::ops::modes::{Mode, Modes, Outside};
use crate::tensor::{DType, View};
#[cfg(feature = "torch")]
use crate::threads::Serial;
use crate::threads::Threads;
use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Samples of a row that are checked together, and how many are worth a thread.
const CHECKED: usize = 8192;
const CHECKED_BY_THREAD: usize = 1 << 15;

/// Who is called, for error texts: an operator, and the stream where its arguments are lists.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The operator.
    pub op: &'a str,
    /// Which of its streams.
    pub stream: Option<usize>,
}

impl<'a> From<&'a str> for Caller<'a> {
    fn from(op: &'a str) -> Self {
        Caller { op, stream: None }
    }
}

/// An argument's name: `values`, or `values[1]` of the second stream; written out only for an error.
#[derive(Clone, Copy, Debug)]
pub struct Argument<'a> {
    name: &'a str,
    stream: Option<usize>,
}

impl fmt::Display for Argument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.stream.map_or(Ok(()), |stream| write!(f, "[{stream}]"))
    }
}

impl Caller<'_> {
    /// The argument of that name.
    pub fn argument<'a>(&self, name: &'a str) -> Argument<'a> {
        Argument { name, stream: self.stream }
    }

    fn of_stream(&self) -> impl fmt::Display {
        self.stream.map_or(String::new(), |stream| format!(" for stream {stream}"))
    }
}

/// The times of a call, `[B, S]` and `[B, T]` (a shared row has stride 0), and how many samples of a row are valid.
#[derive(Clone, Copy, Debug)]
pub struct Timeline<'a> {
    /// `[B, S]`, ascending along each row.
    pub source_times: View<'a>,
    /// `[B, T]`, in any order, of the same type.
    pub target_times: View<'a>,
    /// `[B]` int32 or int64.
    pub source_lengths: Option<View<'a>>,
    /// What a target before the first or after the last sample gets.
    pub outside: Outside,
    /// Brackets know the spans beside them, too.
    pub spans: bool,
}

impl<'a> Timeline<'a> {
    /// Checks types and shapes; times of one axis are shared by the batch.
    pub fn new<'c>(
        caller: impl Into<Caller<'c>>,
        batch: usize,
        samples: usize,
        source_times: View<'a>,
        target_times: View<'a>,
        source_lengths: Option<View<'a>>,
        outside: Outside,
    ) -> Result<Self> {
        let caller = caller.into();
        let (op, source) = (caller.op, caller.argument("source_times"));
        let dtype = source_times.dtype();
        if !matches!(dtype, DType::F32 | DType::F64 | DType::I64) {
            let found = dtype.name();
            return Err(Error::Type(format!("{op}: {source} must be float32, float64 or int64, got {found}")));
        }
        if target_times.dtype() != dtype {
            let (wanted, found) = (dtype.name(), target_times.dtype().name());
            return Err(Error::Type(format!("{op}: target_times must be {wanted} (as {source}), got {found}")));
        }
        let source_shape = source_times.shape();
        let expected: &[usize] = if source_times.rank() == 1 { &[samples] } else { &[batch, samples] };
        if !matches!(source_times.rank(), 1 | 2) {
            return Err(Error::Value(format!("{op}: {source} must have shape [B, S] or [S], got {source_shape}")));
        }
        if source_shape.sizes() != expected {
            return Err(Error::Value(format!("{op}: {source} must have shape {expected:?}, got {source_shape}")));
        }
        let target_fits = match target_times.rank() {
            1 => true,
            2 => target_times.size(0) == batch,
            _ => false,
        };
        if !target_fits {
            let found = target_times.shape();
            return Err(Error::Value(format!(
                "{op}: target_times must have shape [B, T] or [T] with B = {batch}, got {found}"
            )));
        }
        if let Some(lengths) = &source_lengths {
            if !matches!(lengths.dtype(), DType::I32 | DType::I64) {
                let found = lengths.dtype().name();
                return Err(Error::Type(format!("{op}: source_lengths must be int32 or int64, got {found}")));
            }
            if lengths.shape().sizes() != [batch] {
                let found = lengths.shape();
                return Err(Error::Value(format!("{op}: source_lengths must have shape [{batch}], got {found}")));
            }
        }
        let rows = |times: View<'a>| if times.rank() == 1 { times.repeat(batch) } else { times };
        let (source_times, target_times) = (rows(source_times), rows(target_times));
        Ok(Timeline { source_times, target_times, source_lengths, outside, spans: false })
    }

    /// The same times, whose brackets know the spans beside them where `modes` needs them.
    pub fn with_spans_for(self, modes: &Modes) -> Self {
        Timeline { spans: modes.any(|mode| mode == Mode::Pchip), ..self }
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.source_times.size(0)
    }

    /// Samples of a row.
    pub fn samples(&self) -> usize {
        self.source_times.size(1)
    }

    /// Targets of a row.
    pub fn targets(&self) -> usize {
        self.target_times.size(1)
    }

    /// Rows whose brackets differ: one where the whole batch shares its times.
    pub fn distinct_rows(&self) -> usize {
        let shared = self.source_times.stride(0) == 0 && self.target_times.stride(0) == 0;
        if shared && self.source_lengths.is_none() { self.batch().min(1) } else { self.batch() }
    }

    /// The stated length of a row, unchecked.
    ///
    /// # Safety
    /// The lengths are host memory and `row` is a row of the batch.
    unsafe fn length(&self, row: usize) -> Option<i64> {
        let lengths = self.source_lengths.as_ref()?;
        let offset = row as isize * lengths.stride(0);
        // SAFETY: `new` checked the type and the shape; the caller promises host memory and the row.
        Some(unsafe {
            if lengths.dtype() == DType::I32 {
                i64::from(*lengths.at::<i32>(offset))
            } else {
                *lengths.at::<i64>(offset)
            }
        })
    }

    /// Valid samples of a row, clamped to `[1, S]` so that nothing outside is read.
    ///
    /// # Safety
    /// As for [`Timeline::check`].
    pub unsafe fn count(&self, row: usize) -> usize {
        // SAFETY: the caller's promise.
        let stated = unsafe { self.length(row) };
        stated.map_or(self.samples(), |length| length.clamp(1, self.samples() as i64) as usize)
    }

    /// Refuses lengths outside `[1, S]` and times that do not ascend, naming the first offending row.
    ///
    /// # Safety
    /// The views are host memory.
    pub unsafe fn check<'c>(&self, caller: impl Into<Caller<'c>>, threads: &dyn Threads) -> Result<()> {
        let caller = caller.into();
        for row in 0..self.batch() {
            // SAFETY: the caller's promise; `row` is a row of the batch.
            if let Some(length) = unsafe { self.length(row) }
                && !(1..=self.samples() as i64).contains(&length)
            {
                let samples = self.samples();
                let (op, stream) = (caller.op, caller.of_stream());
                return Err(Error::Value(format!(
                    "{op}: source_lengths must be in [1, {samples}], got {length} in row {row}{stream}"
                )));
            }
        }
        let shared = self.source_times.stride(0) == 0 && self.source_lengths.is_none();
        let rows = if shared { self.batch().min(1) } else { self.batch() };
        // SAFETY: the caller's promise; the type is the views' own.
        unsafe {
            match self.source_times.dtype() {
                DType::I64 => self.check_rows::<i64>(caller, rows, threads),
                DType::F64 => self.check_rows::<f64>(caller, rows, threads),
                _ => self.check_rows::<f32>(caller, rows, threads),
            }
        }
    }

    unsafe fn check_rows<T: Time + Debug>(&self, caller: Caller, rows: usize, threads: &dyn Threads) -> Result<()> {
        let parts = self.samples().div_ceil(CHECKED).max(1);
        let descends = AtomicBool::new(false);
        threads.run(rows * parts, CHECKED_BY_THREAD.div_ceil(self.samples().clamp(1, CHECKED)), &|range| {
            for (row, part) in range.map(|place| (place / parts, place % parts)) {
                let samples = part * CHECKED..(part + 1) * CHECKED;
                // SAFETY: `check`'s promise: host memory, type `T`, a row of the batch; `count` is at most S.
                if unsafe { has_descent::<T>(&self.source_times, row, self.count(row), samples) } {
                    descends.store(true, Ordering::Relaxed);
                    return;
                }
            }
        });
        if !descends.into_inner() {
            return Ok(());
        }
        // SAFETY: as above. The first row is named, whichever thread found one.
        (0..rows).try_for_each(|row| unsafe { self.check_row::<T>(caller, row) })
    }

    unsafe fn check_row<T: Time + Debug>(&self, caller: Caller, row: usize) -> Result<()> {
        // SAFETY: `check`'s promise: host memory, type `T`, a row of the batch.
        let descent = unsafe { first_descent::<T>(&self.source_times, row, self.count(row)) };
        match descent {
            None => Ok(()),
            Some((sample, before, found)) => {
                let (op, source) = (caller.op, caller.argument("source_times"));
                let place = format!("in row {row} at sample {sample}");
                Err(Error::Value(format!(
                    "{op}: {source} must ascend along each row, got {found:?} after {before:?} {place}"
                )))
            }
        }
    }

    /// The brackets of some targets of a row; `guess` carries what they tell about those that follow (0 at first).
    ///
    /// # Safety
    /// The views are host memory; `row` and `targets` are within the batch; `brackets` has a place for each target;
    /// `guess` comes from this row.
    pub unsafe fn brackets(&self, row: usize, targets: Range<usize>, guess: &mut usize, brackets: &mut [Bracket]) {
        // SAFETY: the caller's promise; the type is the views' own.
        unsafe {
            match self.source_times.dtype() {
                DType::I64 => self.brackets_of::<i64>(row, targets, guess, brackets),
                DType::F64 => self.brackets_of::<f64>(row, targets, guess, brackets),
                _ => self.brackets_of::<f32>(row, targets, guess, brackets),
            }
        }
    }

    /// A target's time.
    ///
    /// # Safety
    /// Host memory of type `T`; `row` and `target` are within the batch.
    #[inline(always)]
    pub unsafe fn target<T: Time>(&self, row: usize, target: usize) -> T {
        let offset = row as isize * self.target_times.stride(0) + target as isize * self.target_times.stride(1);
        // SAFETY: the caller's promise.
        unsafe { *self.target_times.at::<T>(offset) }
    }

    unsafe fn brackets_of<T: Time>(
        &self,
        row: usize,
        targets: Range<usize>,
        guess: &mut usize,
        brackets: &mut [Bracket],
    ) {
        // SAFETY: `brackets`' promise; `count` is in [1, S].
        let samples = unsafe { Samples::<T>::new(&self.source_times, row, self.count(row)) };
        for (bracket, target) in brackets.iter_mut().zip(targets) {
            // SAFETY: `target` is a column of the target times.
            let time = unsafe { self.target::<T>(row, target) };
            *bracket = samples.bracket(time, self.outside, self.spans, guess);
        }
    }
}

/// Checks what an operator on a device cannot see without reading its data: ascending times and lengths in range.
///
/// # Errors
/// [`Error::Value`] names the first offending row.
///
/// # Safety
/// The views are host memory.
#[cfg(feature = "torch")]
pub(crate) unsafe fn check_times(caller: Caller, source_times: View, source_lengths: Option<View>) -> Result<()> {
    let (batch, samples) = (source_times.size(0), source_times.size(1));
    let timeline = Timeline::new(caller, batch, samples, source_times, source_times, source_lengths, Outside::Hold)?;
    // SAFETY: the caller's promise.
    unsafe { timeline.check(caller, &Serial) }
}
