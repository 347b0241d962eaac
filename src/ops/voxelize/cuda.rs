//! `voxelize` on CUDA: each kernel's parameters and the launches.

use super::grid::Clouds;
use super::plan::{self, Tiles, Workspace};
use super::reduce::Reduce;
use crate::cuda;
use crate::device::Stream;
use crate::error::Result;
use crate::tensor::View;
use std::ptr::{null, null_mut};

const FILE: &str = "voxelize";
const ROWS_FILE: &str = "voxelize_rows";

/// `Clouds` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Points {
    points: *const u8,
    lengths: *const u8,
    strides: [i64; 3],
    lengths_step: i64,
    batch: i64,
    points_count: i64,
    size: [i64; 3],
    origin: [f64; 3],
    voxel_size: [f64; 3],
    cells: i64,
    lengths_bytes: i32,
    tiles: i32,
}

const _: () = assert!(size_of::<Points>() == 152);

impl Points {
    /// The same clouds by address, a block of which works on one of `tiles`.
    pub(crate) fn new(clouds: &Clouds, tiles: u32) -> Self {
        let (points, lengths) = (&clouds.points, clouds.lengths.as_ref());
        Points {
            points: points.data(),
            lengths: lengths.map_or(null(), |lengths| lengths.data()),
            strides: [0, 1, 2].map(|axis| points.stride(axis) as i64),
            lengths_step: lengths.map_or(0, |lengths| lengths.stride(0) as i64),
            batch: clouds.batch() as i64,
            points_count: clouds.points() as i64,
            size: clouds.grid.size,
            origin: clouds.grid.origin,
            voxel_size: clouds.grid.voxel_size,
            cells: clouds.grid.cells().unwrap_or(0) as i64,
            lengths_bytes: lengths.map_or(0, |lengths| lengths.dtype().size() as i32),
            tiles: tiles as i32,
        }
    }
}

/// `VoxelizeClearParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Clear {
    memory: *mut u8,
    bytes: i64,
}

const _: () = assert!(size_of::<Clear>() == 16);

/// `VoxelizePointsParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct PointsParams {
    clouds: Points,
    output: *mut u8,
    places: *mut u8,
}

const _: () = assert!(size_of::<PointsParams>() == 168);

/// `VoxelizeStartsParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct StartsParams {
    counts: *const u8,
    starts: *mut u8,
    cursor: *mut u8,
    cells: i64,
    tiles: i32,
}

const _: () = assert!(size_of::<StartsParams>() == 40);

/// `VoxelizeOrderParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct OrderParams {
    clouds: Points,
    places: *const u8,
    starts: *const u8,
    order: *mut u8,
}

const _: () = assert!(size_of::<OrderParams>() == 176);

/// `VoxelizeSpreadParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct SpreadParams {
    clouds: Points,
    grad: *const u8,
    counts: *const u8,
    output: *mut u8,
    cloud_stride: i64,
    channel_stride: i64,
    cell_stride: i64,
    channels: i64,
}

const _: () = assert!(size_of::<SpreadParams>() == 208);

/// `VoxelizeRowsParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowsParams {
    pub features: *const u8,
    pub tangent: *const u8,
    pub features_strides: [i64; 3],
    pub tangent_strides: [i64; 3],
    pub coords: *const u8,
    pub counts: *const u8,
    pub starts: *const u8,
    pub order: *const u8,
    pub grad: *const u8,
    pub output: *mut u8,
    /// Of the rows' side: cloud, channel, row.
    pub strides: [i64; 3],
    /// Of one grid, or all of a sparse one.
    pub rows: i64,
    pub batch: i64,
    pub points: i64,
    pub channels: i64,
    pub least: i32,
    pub mean: i32,
    pub tiles: i32,
}

const _: () = assert!(size_of::<RowsParams>() == 184);

pub(crate) fn strides(view: &View) -> [i64; 3] {
    [0, 1, 2].map(|axis| view.stride(axis) as i64)
}

impl RowsParams {
    /// Features, a tangent for a pick (for a sum it takes their place), and the reduction; the rest is empty.
    pub(crate) fn new(features: &View, tangent: Option<&View>, reduce: Reduce) -> Self {
        let (features, tangent) = match tangent {
            Some(tangent) if !reduce.picks() => (tangent, None),
            tangent => (features, tangent),
        };
        RowsParams {
            features: features.data(),
            tangent: tangent.map_or(null(), |tangent| tangent.data()),
            features_strides: strides(features),
            tangent_strides: tangent.map_or([0; 3], strides),
            coords: null(),
            counts: null(),
            starts: null(),
            order: null(),
            grad: null(),
            output: null_mut(),
            strides: [0; 3],
            rows: 0,
            batch: features.size(0) as i64,
            points: features.size(1) as i64,
            channels: features.size(2) as i64,
            least: i32::from(reduce == Reduce::Min),
            mean: i32::from(reduce == Reduce::Mean),
            tiles: 1,
        }
    }
}

/// Reduces rows, or sends a gradient to what they picked; `params.tiles` is set here.
///
/// # Safety
/// The addresses are memory of the stream's device that lives until the stream has run, as large as the sizes say.
pub(crate) unsafe fn rows(op: &'static str, plan: &Tiles, params: &RowsParams, stream: Stream) -> Result<()> {
    let params = RowsParams { tiles: plan.tiles as i32, ..*params };
    // SAFETY: the caller's promise; RowsParams mirrors the kernel's struct.
    unsafe { cuda::launch(op, stream.device, stream.handle, ROWS_FILE, &plan.launch, &params) }
}

/// Fills device memory with zero bytes.
///
/// # Safety
/// As for [`rows`].
pub(crate) unsafe fn clear(op: &'static str, memory: *mut u8, bytes: usize, stream: Stream) -> Result<()> {
    let params = Clear { memory, bytes: bytes as i64 };
    // SAFETY: the caller's promise; Clear mirrors the kernel's struct.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &plan::clear(op, bytes as u64)?, &params) }
}

/// Where the parts of a workspace lie.
#[derive(Clone, Copy)]
struct Parts {
    counts: *mut u8,
    cursor: *mut u8,
    starts: *mut u8,
    order: *mut u8,
    places: *mut u8,
}

impl Parts {
    fn new(plan: &Workspace, workspace: *mut u8) -> Self {
        let part = |at: usize| workspace.wrapping_add(at);
        Parts {
            counts: part(plan.counts_at),
            cursor: part(plan.cursor_at),
            starts: part(plan.starts_at),
            order: part(plan.order_at),
            places: part(plan.places_at),
        }
    }
}

/// Marks or counts points in a grid that is cleared.
///
/// # Safety
/// As for [`rows`]: the output has a place for each cell, and `places` is null or has one for each point.
unsafe fn by_point(
    op: &'static str,
    clouds: &Clouds,
    reduce: Reduce,
    output: *mut u8,
    places: *mut u8,
    stream: Stream,
) -> Result<()> {
    let Tiles { launch, tiles } = plan::points(op, reduce, clouds.points.dtype(), clouds.batch(), clouds.points())?;
    let params = PointsParams { clouds: Points::new(clouds, tiles), output, places };
    // SAFETY: the caller's promise; PointsParams mirrors the kernel's struct.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &launch, &params) }
}

/// Groups the points of every cloud by cell: counts, starts and order in the workspace.
///
/// # Safety
/// As for [`rows`]; the workspace is as planned.
unsafe fn group(
    op: &'static str,
    clouds: &Clouds,
    plan: &Workspace,
    workspace: *mut u8,
    stream: Stream,
) -> Result<Parts> {
    let parts = Parts::new(plan, workspace);
    let (batch, points) = (clouds.batch(), clouds.points());
    // SAFETY: the caller's promise: the workspace has these parts, which do not overlap; the params mirror the
    // kernels'.
    unsafe {
        clear(op, workspace, plan.starts_at, stream)?;
        by_point(op, clouds, Reduce::Count, parts.counts, parts.places, stream)?;
        let Tiles { launch, tiles } = plan::starts(op, batch, plan.cells)?;
        let params = StartsParams {
            counts: parts.counts,
            starts: parts.starts,
            cursor: parts.cursor,
            cells: plan.cells as i64,
            tiles: tiles as i32,
        };
        cuda::launch(op, stream.device, stream.handle, FILE, &launch, &params)?;
        let Tiles { launch, tiles } = plan::order(op, clouds.points.dtype(), batch, points)?;
        let params = OrderParams {
            clouds: Points::new(clouds, tiles),
            places: parts.places,
            starts: parts.starts,
            order: parts.order,
        };
        cuda::launch(op, stream.device, stream.handle, FILE, &launch, &params)?;
    }
    Ok(parts)
}

/// `voxelize` of device memory.
#[allow(clippy::too_many_arguments)]
pub(super) fn forward(
    op: &'static str,
    clouds: &Clouds,
    features: Option<View>,
    tangent: Option<View>,
    reduce: Reduce,
    output: *mut u8,
    plan: &Workspace,
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let cells = plan.cells * clouds.batch();
    // SAFETY: the views borrow memory that torch keeps until this stream has run the kernels (`Place::cuda`); sizes of
    // the output and the workspace are checked.
    unsafe {
        let Some(features) = features else {
            clear(op, output, cells * if reduce == Reduce::Occupancy { 1 } else { 4 }, stream)?;
            return by_point(op, clouds, reduce, output, null_mut(), stream);
        };
        let parts = group(op, clouds, plan, workspace, stream)?;
        let channels = features.size(2);
        let params = RowsParams {
            counts: parts.counts,
            starts: parts.starts,
            order: parts.order,
            output,
            strides: [(channels * plan.cells) as i64, plan.cells as i64, 1],
            rows: plan.cells as i64,
            ..RowsParams::new(&features, tangent.as_ref(), reduce)
        };
        let launch = plan::rows(op, reduce, false, features.dtype(), clouds.batch(), plan.cells, channels)?;
        rows(op, &launch, &params, stream)
    }
}

/// `voxelize_backward` of device memory.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    op: &'static str,
    clouds: &Clouds,
    grad: View,
    features: Option<View>,
    reduce: Reduce,
    output: *mut u8,
    plan: &Workspace,
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let (batch, points, channels) = (clouds.batch(), clouds.points(), grad.size(1));
    let [cloud_stride, channel_stride, cell_stride] = strides(&grad);
    // SAFETY: as in `forward`; the params mirror the kernels' structs.
    unsafe {
        if let Some(features) = features.filter(|_| reduce.picks()) {
            clear(op, output, batch * points * channels * grad.dtype().size(), stream)?;
            let parts = group(op, clouds, plan, workspace, stream)?;
            let params = RowsParams {
                counts: parts.counts,
                starts: parts.starts,
                order: parts.order,
                grad: grad.data(),
                output,
                strides: strides(&grad),
                rows: plan.cells as i64,
                ..RowsParams::new(&features, None, reduce)
            };
            let launch = plan::rows(op, reduce, true, grad.dtype(), batch, plan.cells, channels)?;
            return rows(op, &launch, &params, stream);
        }
        let mean = reduce == Reduce::Mean;
        if mean {
            clear(op, workspace, plan.bytes, stream)?;
            by_point(op, clouds, Reduce::Count, workspace, null_mut(), stream)?;
        }
        let Tiles { launch, tiles } = plan::spread(op, clouds.points.dtype(), grad.dtype(), batch, points)?;
        let params = SpreadParams {
            clouds: Points::new(clouds, tiles),
            grad: grad.data(),
            counts: if mean { workspace } else { null() },
            output,
            cloud_stride,
            channel_stride,
            cell_stride,
            channels: channels as i64,
        };
        cuda::launch(op, stream.device, stream.handle, FILE, &launch, &params)
    }
}
