//! `fuse` on CUDA: the kernel's parameters and its launch, one for up to 16 streams.

use super::plan::{self, Case, MAX_GROUPS, MAX_STREAMS, StreamCase};
use crate::cuda;
use crate::device::Stream as CudaStream;
use crate::error::Result;
use crate::ops::modes::Mode;
use crate::ops::rows_plan::Access;
use crate::ops::signal::Signal;
use crate::ops::signal_cuda::{Ahead, Channels, mode_code, moves, time_type};
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
    first_block: i64,
    tile: i64,
    tiles: i64,
    rows_per_share: i32,
    chunks: i32,
    access: i32,
    first_group: i32,
    groups: i32,
    mode: i32,
    store_bytes: i32,
    pad: i32,
    ahead: Ahead,
}

const _: () = assert!(size_of::<Stream>() == 152);

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

const _: () = assert!(size_of::<Params>() == 3792);

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
        first_block: 0,
        tile: 0,
        tiles: 0,
        rows_per_share: 0,
        chunks: 0,
        access: 0,
        first_group: 0,
        groups: 0,
        mode: -1,
        store_bytes: 0,
        pad: 0,
        ahead: Ahead::NONE,
    };
}

/// Where a stream's first channel goes in a row of the result, and by stores of how many bytes.
#[derive(Clone, Copy)]
struct Written {
    column: usize,
    store_bytes: usize,
}

/// What decides about a stream whose first channel goes to `column` of rows of `width`; and the bytes of a store.
fn case_of(signal: &Signal, output: *mut u8, column: usize, width: usize) -> (StreamCase, usize) {
    let size = signal.values.dtype().size();
    let groups = signal.modes.groups();
    let (access, store_bytes) = match signal.modes.uniform() {
        _ if signal.modes.any(Mode::is_curved) => (Access::Curved, 0),
        Some(_) => moves(&signal.values, output.addr().wrapping_add(column * size), width * size),
        None => (Access::Element, 0),
    };
    let units = || groups.iter().map(|group| group.channels.len() / group.mode.width()).sum();
    let across = if access == Access::Curved { units() } else { signal.channels() };
    (StreamCase { across, groups: groups.len(), access }, store_bytes)
}

/// `fuse` of device memory.
pub(super) fn forward(op: &'static str, signals: &[Signal], output: *mut u8, stream: CudaStream) -> Result<()> {
    let width = signals.iter().map(Signal::channels).sum();
    let mut places = Vec::with_capacity(signals.len());
    let mut cases = Vec::with_capacity(signals.len());
    let mut column = 0;
    for signal in signals {
        let (case, store_bytes) = case_of(signal, output, column, width);
        cases.push(case);
        places.push(Written { column, store_bytes });
        column += signal.channels();
    }
    let mut start = 0;
    while start < signals.len() {
        let end = start + plan::fitting(&cases[start..])?;
        launch(op, &signals[start..end], &cases[start..end], &places[start..end], (output, width), stream)?;
        start = end;
    }
    Ok(())
}

fn launch(
    op: &'static str,
    signals: &[Signal],
    cases: &[StreamCase],
    places: &[Written],
    (output, width): (*mut u8, usize),
    stream: CudaStream,
) -> Result<()> {
    let timeline = &signals[0].timeline;
    let values = signals[0].values.dtype();
    let times = timeline.source_times.dtype();
    let case = Case { batch: timeline.batch(), targets: timeline.targets(), values, times, streams: cases };
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
            column: places[place].column as i64,
            across: case.across as i64,
            first_block: part.first_block as i64,
            tile: part.share.tile as i64,
            tiles: part.share.tiles as i64,
            rows_per_share: part.share.rows as i32,
            chunks: part.share.chunks as i32,
            access: case.access as i32,
            first_group: group as i32,
            groups: case.groups as i32,
            mode: mode_code(&signal.modes),
            store_bytes: places[place].store_bytes as i32,
            pad: 0,
            ahead: Ahead::of_signal(signal, &part.share),
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
