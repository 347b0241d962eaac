//! The gradient of `voxelize` on CUDA: the launches.

use super::cells_of;
use super::cuda::{Parts, TILES_FILE, by_point, clear, reduce_cells, small_rows, tile};
use super::gradient_plan::{self, elements_of_access};
use super::grid::Clouds;
use super::launches::{self, SENT, Tiles};
use super::params::{Points, RowsParams, SpreadParams, TileRowsParams, strides};
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
    counts: Option<View>,
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
        if let Some(counts) = counts.filter(|_| mean) {
            let (from, counts) = (Source::new(&grad), counts.data());
            return match gradient_plan::shares(batch, points, channels, plan.cells, grad.dtype().size()) {
                None => send(op, clouds, &from, counts, false, output, stream),
                Some(pitch) => send_shares(op, clouds, &from, counts, plan.cells, pitch, output, workspace, stream),
            };
        }
        if !mean && gradient_plan::reads_alone(batch, points, channels, plan.cells, grad.dtype().size()) {
            return send(op, clouds, &Source::new(&grad), null(), false, output, stream);
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
            let chunks = tile(op, clouds, tiling, &parts.grouped(), output, row_bytes, stream)?;
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
        send(op, clouds, &Source::new(&grad), if mean { workspace } else { null() }, mean, output, stream)
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

/// Sends every point the gradient of its voxel, divided by how many points share it where there are `counts`; `follows`
/// another launch of the call.
///
/// # Safety
/// As for [`clear`]: there are counts of all cells or none, and the output has a row for each point.
unsafe fn send(
    op: &'static str,
    clouds: &Clouds,
    from: &Source,
    counts: *const u8,
    follows: bool,
    output: *mut u8,
    stream: Stream,
) -> Result<()> {
    let (batch, points, channels) = (clouds.batch(), clouds.points(), from.channels);
    let each = launches::points_of_sender(batch, points, channels, cells_of(op, &clouds.grid)?);
    let Tiles { launch, tiles } =
        launches::spread(op, clouds.points.dtype(), from.dtype, batch, points, channels, each)?;
    let params = from.to(Points::new(clouds, tiles), output, channels);
    let params = SpreadParams { counts, follows: i32::from(follows), each: each as i32, ..params };
    // SAFETY: the caller's promise; SpreadParams mirrors the kernel's struct.
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
    counts: *const u8,
    cells: usize,
    pitch: usize,
    output: *mut u8,
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let Tiles { launch, tiles } = launches::share(op, from.dtype, clouds.batch(), cells, from.channels)?;
    let params = SpreadParams { counts, ..from.to(Points::new(clouds, tiles), workspace, pitch) };
    let (strides, loads) = ([(cells * pitch) as i64, 1, pitch as i64], params.stores);
    let shares = Source { data: workspace, strides, loads, ..*from };
    // SAFETY: the caller's promise; SpreadParams mirrors the kernel's struct.
    unsafe {
        cuda::launch(op, stream.device, stream.handle, SPREAD_FILE, &launch, &params)?;
        send(op, clouds, &shares, null(), true, output, stream)
    }
}
