//! The gradient of `voxelize` on CUDA: the launches.

use super::cells_of;
use super::cuda::{Parts, TILES_FILE, by_point, clear, reduce_cells, small_rows, tile};
use super::derivatives::Counted;
use super::gradient_plan::{self, elements_of_access};
use super::grid::Clouds;
use super::launches::{self, SENT, Tiles};
use super::params::{GatherParams, Points, RowsParams, SpreadParams, TileRowsParams, strides};
use super::plan::Workspace;
use super::reduce::Reduce;
use super::tiling::CELLS_OF_POINT;
use crate::cuda;
use crate::device::Stream;
use crate::error::Result;
use crate::tensor::{DType, View};
use std::ptr::{null, null_mut};

const SPREAD_FILE: &str = "voxelize_spread";

/// `voxelize_backward` of device memory.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    op: &'static str,
    clouds: &Clouds,
    grad: View,
    features: Option<View>,
    reduce: Reduce,
    counted: Option<Counted>,
    output: *mut u8,
    plan: &Workspace,
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let (batch, points, channels) = (clouds.batch(), clouds.points(), grad.size(1));
    let row_bytes = channels * grad.dtype().size();
    // SAFETY: as in `forward`; the params mirror the kernels' structs.
    unsafe {
        if let Some(features) = features.filter(|_| reduce.picks()) {
            clear(op, output, batch * points * row_bytes, stream)?;
            let params = RowsParams {
                grad: grad.data(),
                output,
                strides: strides(&grad),
                rows: plan.cells as i64,
                ..RowsParams::new(&features, None, reduce)
            };
            return reduce_cells(op, clouds, reduce, true, grad.dtype(), &params, plan, workspace, stream);
        }
        let mean = reduce == Reduce::Mean;
        if let Some(counted) = counted.filter(|_| mean) {
            let (from, known) = (Source::new(&grad), Known::of(&counted));
            return match gradient_plan::shares(batch, points, channels, plan.cells, grad.dtype().size()) {
                None if i32::try_from(points.saturating_mul(channels)).is_ok() => {
                    gather(op, clouds, &from, &known, plan.cells, false, output, stream)
                }
                None => send(op, clouds, &from, &known, false, output, stream),
                Some(pitch) => send_shares(op, clouds, &from, &known, plan.cells, pitch, output, workspace, stream),
            };
        }
        if !mean && gradient_plan::reads_alone(batch, points, channels, plan.cells, grad.dtype().size()) {
            return send(op, clouds, &Source::new(&grad), &Known::NOTHING, false, output, stream);
        }
        // Of the points only their number matters.
        let rows = RowsParams {
            grad: grad.data(),
            output,
            strides: strides(&grad),
            rows: plan.cells as i64,
            channels: channels as i64,
            ..RowsParams::new(&clouds.points, None, reduce)
        };
        if let Some(small) = &plan.small {
            return small_rows(op, clouds, reduce, true, grad.dtype(), &rows, small, stream);
        }
        let counted = mean && gradient_plan::counts_by_voxel(batch, points, channels, plan.cells);
        if let Some(tiling) = plan.tiling.as_ref().filter(|_| !counted) {
            let parts = Parts::new(plan, workspace);
            let chunks = tile(op, clouds, None, tiling, &parts.grouped(null_mut()), output, row_bytes, stream)?;
            let Tiles { launch, tiles } = launches::tile_spread(op, grad.dtype(), batch, tiling, channels)?;
            let rows = RowsParams { tiles: tiles as i32, ..rows };
            let params = TileRowsParams { rows, chunks, order: parts.order, cursor: parts.cursor };
            return cuda::launch(op, stream.device, stream.handle, TILES_FILE, &launch, &params);
        }
        if mean {
            let dtype = clouds.points.dtype();
            if points <= plan.cells / CELLS_OF_POINT {
                by_point(op, clouds, launches::reset(op, dtype, batch, points)?, workspace, null_mut(), stream)?;
            } else {
                clear(op, workspace, batch * plan.cells * 4, stream)?;
            }
            let count = launches::points(op, Reduce::Count, dtype, batch, points)?;
            by_point(op, clouds, count, workspace, null_mut(), stream)?;
        }
        let known = if mean { Known { counts: workspace, ..Known::NOTHING } } else { Known::NOTHING };
        send(op, clouds, &Source::new(&grad), &known, mean, output, stream)
    }
}

/// A gradient `[B, C, cells]` as it is read.
#[derive(Clone, Copy)]
struct Source {
    data: *const u8,
    strides: [i64; 3],
    channels: usize,
    dtype: DType,
    /// Elements of a load.
    loads: i32,
}

impl Source {
    fn new(grad: &View) -> Self {
        let (channels, item) = (grad.size(1), grad.dtype().size());
        let each = channels | grad.stride(0).unsigned_abs() | grad.stride(2).unsigned_abs();
        let loads = if grad.stride(1) == 1 { elements_of_access(item, each, grad.data().addr()) } else { 1 };
        Source { data: grad.data(), strides: strides(grad), channels, dtype: grad.dtype(), loads }
    }

    /// What goes to rows `pitch` elements apart. Where each channel is a store it is a load too, so that neighbouring
    /// threads take neighbours. The clouds, the counts and whether it follows are the caller's.
    fn to(&self, clouds: Points, output: *mut u8, pitch: usize) -> SpreadParams {
        let [cloud_stride, channel_stride, cell_stride] = self.strides;
        let stores = elements_of_access(self.dtype.size(), pitch, output.addr());
        SpreadParams {
            clouds,
            grad: self.data,
            counts: null(),
            point_voxel: null(),
            output,
            cloud_stride,
            channel_stride,
            cell_stride,
            pitch: pitch as i64,
            channels: self.channels as i64,
            loads: if stores == 1 && self.channels > SENT { 1 } else { self.loads },
            stores,
            follows: 0,
            each: 1,
        }
    }
}

/// What a launch that sends a gradient need not find, null where it must: how many points share each cell, the cell of
/// each point.
#[derive(Clone, Copy)]
struct Known {
    counts: *const u8,
    point_voxel: *const u8,
}

impl Known {
    const NOTHING: Known = Known { counts: null(), point_voxel: null() };

    fn of(counted: &Counted) -> Self {
        Known { counts: counted.counts.data(), point_voxel: counted.point_voxel.data() }
    }
}

/// Sends every point the gradient of its voxel, divided by how many points share it where there are counts; `follows`
/// another launch of the call.
///
/// # Safety
/// As for [`clear`]: there are counts of all cells or none, cells of all points or none, and the output has a row for
/// each point.
unsafe fn send(
    op: &'static str,
    clouds: &Clouds,
    from: &Source,
    known: &Known,
    follows: bool,
    output: *mut u8,
    stream: Stream,
) -> Result<()> {
    let (batch, points, channels) = (clouds.batch(), clouds.points(), from.channels);
    let &Known { counts, point_voxel } = known;
    let found = point_voxel.is_null().then_some(clouds.points.dtype());
    let each = match found {
        Some(_) => launches::points_of_sender(batch, points, channels, cells_of(op, &clouds.grid)?),
        None => 1,
    };
    let Tiles { launch, tiles } = launches::spread(op, found, from.dtype, batch, points, channels, each)?;
    let params = from.to(Points::new(clouds, tiles), output, channels);
    let params = SpreadParams { counts, point_voxel, follows: i32::from(follows), each: each as i32, ..params };
    // SAFETY: the caller's promise; SpreadParams mirrors the kernel's struct.
    unsafe { cuda::launch(op, stream.device, stream.handle, SPREAD_FILE, &launch, &params) }
}

/// The same an element a thread, of a cloud's that int32 counts, where the cells of all points are known.
///
/// # Safety
/// As for [`send`].
#[allow(clippy::too_many_arguments)]
unsafe fn gather(
    op: &'static str,
    clouds: &Clouds,
    from: &Source,
    known: &Known,
    cells: usize,
    follows: bool,
    output: *mut u8,
    stream: Stream,
) -> Result<()> {
    let (batch, points, channels) = (clouds.batch(), clouds.points(), from.channels);
    let Tiles { launch, tiles } = launches::gather(op, from.dtype, batch, points, channels)?;
    let params = GatherParams {
        grad: from.data,
        counts: known.counts,
        point_voxel: known.point_voxel,
        output,
        strides: from.strides,
        points: points as i64,
        cells: cells as i64,
        channels: channels as u32,
        tiles: tiles as i32,
        follows: i32::from(follows),
        pad: 0,
    };
    // SAFETY: the caller's promise; GatherParams mirrors the kernel's struct.
    unsafe { cuda::launch(op, stream.device, stream.handle, SPREAD_FILE, &launch, &params) }
}

/// The same by way of what each point of a voxel gets, rows of `pitch` elements in the workspace.
///
/// # Safety
/// As for [`send`]; the workspace has such a row for each cell.
#[allow(clippy::too_many_arguments)]
unsafe fn send_shares(
    op: &'static str,
    clouds: &Clouds,
    from: &Source,
    known: &Known,
    cells: usize,
    pitch: usize,
    output: *mut u8,
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let Tiles { launch, tiles } = launches::share(op, from.dtype, clouds.batch(), cells, from.channels)?;
    let params = SpreadParams { counts: known.counts, ..from.to(Points::new(clouds, tiles), workspace, pitch) };
    let (strides, loads) = ([(cells * pitch) as i64, 1, pitch as i64], params.stores);
    let shares = Source { data: workspace, strides, loads, ..*from };
    // SAFETY: the caller's promise; SpreadParams mirrors the kernel's struct.
    unsafe {
        cuda::launch(op, stream.device, stream.handle, SPREAD_FILE, &launch, &params)?;
        let known = Known { counts: null(), ..*known };
        if from.channels == 1 {
            return gather(op, clouds, &shares, &known, cells, true, output, stream);
        }
        send(op, clouds, &shares, &known, true, output, stream)
    }
}
