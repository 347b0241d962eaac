//! `fuse` on CUDA: the kernel's parameters and its launch, one for up to 16 streams.

use super::plan::{self, Access, Case, MAX_GROUPS, MAX_STREAMS, StreamCase};
use crate::cuda;
use crate::device::Stream as CudaStream;
use crate::error::Result;
use crate::ops::modes::Mode;
use crate::ops::signal::Signal;
use crate::ops::signal_cuda::{Channels, moves_in, time_type};
use crate::ops::timeline_cuda::{Count, entries, outside_code};

const FILE: &str = "fuse";

/// `FuseStream` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Stream {
    source_times: *const u8,
    source_lengths: *const u8,
    source_row: i64,
    source_step: i64,
    samples: i64,
    values: Channels,
    column: i64,
    across: i64,
    first_warp: i64,
    tile: i64,
    tiles: i64,
    rows_per_warp: i32,
    access: i32,
    first_group: i32,
    groups: i32,
}

const _: () = assert!(size_of::<Stream>() == 128);

/// `FuseParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Params {
    target_times: *const u8,
    target_row: i64,
    target_step: i64,
    lengths_step: i64,
    batch: i64,
    targets: i64,
    output: *mut u8,
    width: i64,
    lengths_bytes: i32,
    outside: i32,
    streams: i32,
    time_type: i32,
    stream: [Stream; MAX_STREAMS],
    ends: [i64; MAX_GROUPS],
    starts: [i64; MAX_GROUPS],
    modes: [i32; MAX_GROUPS],
}

const _: () = assert!(size_of::<Params>() == 3408);

impl Stream {
    const NONE: Stream = Stream {
        source_times: std::ptr::null(),
        source_lengths: std::ptr::null(),
        source_row: 0,
        source_step: 0,
        samples: 0,
        values: Channels::NONE,
        column: 0,
        across: 0,
        first_warp: 0,
        tile: 0,
        tiles: 0,
        rows_per_warp: 0,
        access: 0,
        first_group: 0,
        groups: 0,
    };
}

/// What decides about a stream whose first channel goes to `column` of rows of `width`.
fn case_of(signal: &Signal, output: *mut u8, column: usize, width: usize) -> StreamCase {
    let size = signal.values.dtype().size();
    let moves = |bytes| {
        signal.modes.uniform().is_some()
            && moves_in(bytes, &signal.values, output.addr().wrapping_add(column * size), width * size)
    };
    let access = if signal.modes.any(Mode::is_curved) {
        Access::Curved
    } else if moves(16) {
        Access::Bytes16
    } else if moves(8) {
        Access::Bytes8
    } else {
        Access::Element
    };
    let units = || signal.modes.groups().iter().map(|group| group.channels.len() / group.mode.width()).sum();
    let across = if access == Access::Curved { units() } else { signal.channels() };
    StreamCase { across, groups: signal.modes.groups().len(), access }
}

/// `fuse` of device memory.
pub(super) fn forward(op: &'static str, signals: &[Signal], output: *mut u8, stream: CudaStream) -> Result<()> {
    let width = signals.iter().map(Signal::channels).sum();
    let mut columns = Vec::with_capacity(signals.len());
    let mut cases = Vec::with_capacity(signals.len());
    let mut column = 0;
    for signal in signals {
        cases.push(case_of(signal, output, column, width));
        columns.push(column);
        column += signal.channels();
    }
    let mut start = 0;
    while start < signals.len() {
        let end = start + plan::fitting(&cases[start..])?;
        launch(op, &signals[start..end], &cases[start..end], &columns[start..end], (output, width), stream)?;
        start = end;
    }
    Ok(())
}

fn launch(
    op: &'static str,
    signals: &[Signal],
    cases: &[StreamCase],
    columns: &[usize],
    (output, width): (*mut u8, usize),
    stream: CudaStream,
) -> Result<()> {
    let timeline = &signals[0].timeline;
    let values = signals[0].values.dtype();
    let case = Case { batch: timeline.batch(), targets: timeline.targets(), values, streams: cases };
    let plan = plan::fuse(&case)?;
    let lengths = timeline.source_lengths.as_ref();
    let mut params = Params {
        target_times: timeline.target_times.data(),
        target_row: timeline.target_times.stride(0) as i64,
        target_step: timeline.target_times.stride(1) as i64,
        lengths_step: lengths.map_or(0, |lengths| lengths.stride(0) as i64),
        batch: timeline.batch() as i64,
        targets: timeline.targets() as i64,
        output,
        width: width as i64,
        lengths_bytes: lengths.map_or(0, |lengths| lengths.dtype().size() as i32),
        outside: outside_code(timeline.outside),
        streams: signals.len() as i32,
        time_type: time_type(timeline.source_times.dtype()),
        stream: [Stream::NONE; MAX_STREAMS],
        ends: [0; MAX_GROUPS],
        starts: [0; MAX_GROUPS],
        modes: [0; MAX_GROUPS],
    };
    let mut group = 0;
    for (place, signal) in signals.iter().enumerate() {
        let (case, part, timeline) = (&cases[place], &plan.streams[place], &signal.timeline);
        params.stream[place] = Stream {
            source_times: timeline.source_times.data(),
            source_lengths: timeline.source_lengths.as_ref().map_or(std::ptr::null(), |lengths| lengths.data()),
            source_row: timeline.source_times.stride(0) as i64,
            source_step: timeline.source_times.stride(1) as i64,
            samples: timeline.samples() as i64,
            values: Channels::new(&signal.values),
            column: columns[place] as i64,
            across: case.across as i64,
            first_warp: part.first_warp as i64,
            tile: part.share.tile as i64,
            tiles: part.share.tiles as i64,
            rows_per_warp: part.share.rows_per_warp as i32,
            access: case.access as i32,
            first_group: group as i32,
            groups: case.groups as i32,
        };
        let count = if case.access == Access::Curved { Count::Units } else { Count::Channels };
        for (end, start, mode) in entries(signal.modes.groups(), count) {
            (params.ends[group], params.starts[group], params.modes[group]) = (end, start, mode);
            group += 1;
        }
    }
    // SAFETY: the views borrow memory that torch keeps until this stream has run the kernel (`Place::cuda`); Params
    // mirrors the kernel's struct, and the plan covers every row and channel of every stream once.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &plan.launch, &params) }
}
