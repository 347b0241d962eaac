//! Signals in the kernels: mirrors of the structs in `kernels/rows.cuh`, and how wide their rows can be moved.

use super::rows_plan::{Access, Share};
use super::timeline_cuda::Times;
use crate::ops::modes::Modes;
use crate::ops::signal::Signal;
use crate::tensor::{DType, View};

/// `Channels` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Channels {
    data: *const u8,
    batch_step: i64,
    row_step: i64,
    channel_step: i64,
}

const _: () = assert!(size_of::<Channels>() == 32);

impl Channels {
    /// No tensor; a kernel that is given one reads nothing of it.
    pub const NONE: Channels = Channels { data: std::ptr::null(), batch_step: 0, row_step: 0, channel_step: 0 };

    /// The same channels by address.
    pub fn new(view: &View) -> Self {
        Channels {
            data: view.data(),
            batch_step: view.stride(0) as i64,
            row_step: view.stride(1) as i64,
            channel_step: view.stride(2) as i64,
        }
    }
}

/// `TimeType` in the kernels.
pub fn time_type(dtype: DType) -> i32 {
    match dtype {
        DType::I64 => 2,
        DType::F32 => 1,
        _ => 0,
    }
}

/// `mode` in the kernels: that of all channels, or -1.
pub fn mode_code(modes: &Modes) -> i32 {
    modes.uniform().map_or(-1, |mode| mode as i32)
}

/// `Ahead` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    rows: i32,
    times: i32,
}

impl Ahead {
    /// Nothing is asked for.
    pub const NONE: Ahead = Ahead { rows: 0, times: 0 };

    /// Of the values and the source times of a signal.
    pub fn of_signal(signal: &Signal, share: &Share) -> Ahead {
        let (batch, targets) = (signal.timeline.batch() as u64, signal.timeline.targets() as u64);
        let samples = signal.timeline.samples() as u64;
        let of = |bytes| share.asked_of_samples(batch, samples, targets, bytes);
        Ahead {
            rows: bytes_of_row(&signal.values).map_or(0, of),
            times: bytes_of_row(&signal.timeline.source_times).map_or(0, |bytes| share.asked(batch, bytes)),
        }
    }

    /// Of a gradient that is gathered, and the target times.
    pub fn of_gradient(grad: &View, target_times: &View, share: &Share) -> Ahead {
        let of = |view| bytes_of_row(view).map_or(0, |bytes| share.asked(grad.size(0) as u64, bytes));
        Ahead { rows: of(grad), times: of(target_times) }
    }
}

/// Bytes of memory in which a row of the batch lies, of `[B, S]` or `[B, S, D]`, where these are in order and at most a
/// fourth of the bytes between are others'.
fn bytes_of_row(view: &View) -> Option<u64> {
    let dense = view.rank() < 3 || view.size(2) <= 1 || view.stride(2) == 1;
    let width = if view.rank() < 3 { 1 } else { view.size(2) };
    let step =
        usize::try_from(view.stride(1)).ok().filter(|step| dense && (width..=width + width / 4).contains(step))?;
    Some((view.size(1) * step * view.dtype().size()) as u64)
}

/// `Rows` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    times: Times,
    values: Channels,
    output: *mut u8,
    width: i64,
    column: i64,
    first: i64,
    last: i64,
    tile: i64,
    tiles: i64,
    rows_per_share: i32,
    chunks: i32,
    time_type: i32,
    access: i32,
    mode: i32,
    store_bytes: i32,
    ahead: Ahead,
}

const _: () = assert!(size_of::<Rows>() == 216);

impl Rows {
    /// All rows of a signal that has the output to itself; the launch covers `first..last` of each.
    pub fn new(
        signal: &Signal,
        output: *mut u8,
        (first, last): (i64, i64),
        (access, store_bytes): (Access, usize),
        share: &Share,
    ) -> Self {
        Rows {
            times: Times::new(&signal.timeline),
            values: Channels::new(&signal.values),
            output,
            width: signal.channels() as i64,
            column: 0,
            first,
            last,
            tile: share.tile as i64,
            tiles: share.tiles as i64,
            rows_per_share: share.rows as i32,
            chunks: share.chunks as i32,
            time_type: time_type(signal.timeline.source_times.dtype()),
            access: access as i32,
            mode: mode_code(&signal.modes),
            store_bytes: store_bytes as i32,
            ahead: Ahead::of_signal(signal, share),
        }
    }
}

/// True where rows of channels of `view` can be read `bytes` at a time.
pub fn reads_in(bytes: usize, view: &View) -> bool {
    let size = view.dtype().size();
    let whole = |number: usize| number.is_multiple_of(bytes);
    bytes > size
        && view.stride(2) == 1
        && whole(view.size(2) * size)
        && (0..2).all(|axis| view.size(axis) <= 1 || whole(view.stride(axis).unsigned_abs() * size))
        && whole(view.data().addr())
}

/// How the channels of a signal of one mode move to rows that lie `row` bytes apart, the first at `written`: the widest
/// vectors that can be read, and the bytes of the stores by which they can be written.
pub fn moves(view: &View, written: usize, row: usize) -> (Access, usize) {
    let stores = |bytes: usize| written.is_multiple_of(bytes) && row.is_multiple_of(bytes);
    // Vectors of 16 bytes can be written in parts, of 8 or 4 bytes.
    let reads = |bytes: usize| reads_in(bytes, view) && stores(if bytes == 16 { 4 } else { bytes });
    let access = Access::widest(reads);
    (access, [16, 8].into_iter().find(|&bytes| stores(bytes)).unwrap_or(4))
}

/// How a gradient is gathered from `view` to rows that lie `row` bytes apart, the first at `written`: the widest
/// vectors that can be written, and the bytes of the loads by which they can be read.
pub fn gathers(view: &View, written: usize, row: usize) -> (Access, usize) {
    let size = view.dtype().size();
    let reads = |bytes: usize| {
        let whole = |number: usize| number.is_multiple_of(bytes);
        view.stride(2) == 1
            && (0..2).all(|axis| view.size(axis) <= 1 || whole(view.stride(axis).unsigned_abs() * size))
            && whole(view.data().addr())
    };
    let load_bytes = [16, 8, 4].into_iter().find(|&bytes| reads(bytes)).unwrap_or(0);
    // Vectors of 16 bytes can be read in parts, of 8 or 4 bytes.
    let loads = |bytes: usize| load_bytes >= if bytes == 16 { 4 } else { bytes };
    let writes = |bytes: usize| bytes > size && written.is_multiple_of(bytes) && row.is_multiple_of(bytes);
    (Access::widest(|bytes| writes(bytes) && loads(bytes)), load_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_asked_for_where_they_lie_in_order() {
        let data = [0u16; 4096];
        let bytes = |sizes: &[usize], strides: &[isize]| {
            // SAFETY: all elements of these sizes and strides lie in `data`, which outlives the view.
            let view = unsafe { View::from_raw(data.as_ptr().cast(), DType::BF16, sizes, strides) }.unwrap();
            bytes_of_row(&view)
        };
        assert_eq!(bytes(&[2, 4, 8], &[32, 8, 1]), Some(64));
        assert_eq!(bytes(&[2, 4, 8], &[40, 10, 1]), Some(80), "a fourth is others'");
        assert_eq!(bytes(&[2, 4, 8], &[44, 11, 1]), None);
        assert_eq!(bytes(&[2, 4, 8], &[32, 1, 4]), None, "channels apart");
        assert_eq!(
            (bytes(&[2, 4], &[4, 1]), bytes(&[2, 4], &[8, 2]), bytes(&[2, 4], &[0, 1])),
            (Some(8), None, Some(8))
        );
    }

    #[test]
    fn a_gradient_is_read_in_parts_where_it_is_less_aligned_than_what_is_written() {
        #[repr(align(16))]
        struct Aligned([u16; 4096]);
        let data = Aligned([0; 4096]);
        let gathered = |start: usize, row: isize, channels: usize| {
            let first = data.0[start..].as_ptr().cast();
            // SAFETY: 4 rows of at most 600 elements lie in `data`, which outlives the view.
            let view = unsafe { View::from_raw(first, DType::BF16, &[2, 2, channels], &[2 * row, row, 1]) }.unwrap();
            gathers(&view, 1 << 12, channels * 2)
        };
        assert_eq!(gathered(0, 512, 512), (Access::Bytes16, 16));
        assert_eq!(gathered(0, 532, 512), (Access::Bytes16, 8));
        assert_eq!(gathered(2, 532, 512), (Access::Bytes16, 4));
        assert_eq!(gathered(512, 532, 14), (Access::Bytes4, 8));
        assert_eq!(gathered(1, 532, 512), (Access::Element, 0), "not even 4 bytes");
        assert_eq!(gathered(0, 532, 7), (Access::Element, 8), "rows of 14 bytes");
    }
}
