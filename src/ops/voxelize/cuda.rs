//! `voxelize` on CUDA: the launches.

use super::Findings;
use super::bins::Bins;
use super::grid::Clouds;
use super::launches::{self, Tiles};
use super::params::{
    Asked, BinMarksParams, BinsParams, Chunks, Clear, OrderParams, Points, PointsParams, RowsParams, Small,
    SmallPointsParams, SmallRowsParams, StartsParams, TileRowsParams, TilesParams, UnpackParams,
};
use super::plan::Workspace;
use super::reduce::Reduce;
use super::tiling::{self, Tiling};
use crate::cuda;
use crate::device::Stream;
use crate::error::Result;
use crate::launch::Launch;
use crate::tensor::{DType, View};
use std::ptr::null_mut;

const FILE: &str = "voxelize";
const ROWS_FILE: &str = "voxelize_rows";
pub(super) const TILES_FILE: &str = "voxelize_tiles";
const SMALL_FILE: &str = "voxelize_small";
const BINS_FILE: &str = "voxelize_bins";

/// Reduces the rows of a sparse grid, or sends a gradient to what they picked.
///
/// # Safety
/// The addresses are memory of the stream's device that lives until the stream has run, as large as the sizes say.
pub(crate) unsafe fn sparse_rows(op: &'static str, launch: &Launch, params: &RowsParams, stream: Stream) -> Result<()> {
    // SAFETY: the caller's promise; RowsParams mirrors the kernel's struct.
    unsafe { cuda::launch(op, stream.device, stream.handle, ROWS_FILE, launch, params) }
}

/// Fills device memory with zero bytes.
///
/// # Safety
/// As for [`sparse_rows`].
pub(crate) unsafe fn clear(op: &'static str, memory: *mut u8, bytes: usize, stream: Stream) -> Result<()> {
    let params = Clear { memory, bytes: bytes as i64 };
    // SAFETY: the caller's promise; Clear mirrors the kernel's struct.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &launches::clear(op, bytes as u64)?, &params) }
}

/// Where the parts of a workspace lie.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    counts: *mut u8,
    pub cursor: *mut u8,
    starts: *mut u8,
    pub order: *mut u8,
    places: *mut u8,
    entries: *mut u8,
    table: *mut u8,
}

impl Parts {
    pub fn new(plan: &Workspace, workspace: *mut u8) -> Self {
        let part = |at: usize| workspace.wrapping_add(at);
        Parts {
            counts: part(plan.counts_at),
            cursor: part(plan.cursor_at),
            starts: part(plan.starts_at),
            order: part(plan.order_at),
            places: part(plan.places_at),
            entries: part(plan.entries_at),
            table: part(plan.table_at),
        }
    }
}

/// Runs a launch that marks or counts the points of each cell, sets their counts to zero, or writes the cell of each.
/// One that counts comes right after the one that makes the counts zero: its kernel reads points before that is done.
///
/// # Safety
/// As for [`sparse_rows`]: the output has a place for each cell, and `places` is null or has one for each point.
pub(super) unsafe fn by_point(
    op: &'static str,
    clouds: &Clouds,
    Tiles { launch, tiles }: Tiles,
    output: *mut u8,
    places: *mut u8,
    stream: Stream,
) -> Result<()> {
    let each = launches::points_of_thread(clouds.batch(), clouds.points()) as i32;
    let params = PointsParams { clouds: Points::new(clouds, tiles), output, places, each };
    // SAFETY: the caller's promise; PointsParams mirrors the kernel's struct.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, &launch, &params) }
}

/// Writes the cell of each point, or -1, where int32 counts them; the output has an int32 for each point.
pub(super) fn point_voxel(op: &'static str, clouds: &Clouds, output: *mut u8, stream: Stream) -> Result<()> {
    let tiles = launches::place(op, clouds.points.dtype(), clouds.batch(), clouds.points())?;
    // SAFETY: as in `forward`: memory that torch keeps until this stream has run; the sizes are checked.
    unsafe { by_point(op, clouds, tiles, output, null_mut(), stream) }
}

/// Marks points by bins of voxels, with what the workspace has for each chunk.
///
/// # Safety
/// As for [`sparse_rows`]; the workspace is as planned.
unsafe fn by_bins(
    op: &'static str,
    clouds: &Clouds,
    output: *mut u8,
    bins: &Bins,
    plan: &Workspace,
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let Parts { entries: places, table, .. } = Parts::new(plan, workspace);
    let Tiles { launch, tiles } = bins.write(op, clouds.points.dtype(), clouds.batch())?;
    let write = BinsParams { clouds: Points::new(clouds, tiles), places, table, rounds: bins.rounds() as i32, pad: 0 };
    let (cells, chunks, chunk) = (plan.cells as i64, bins.chunks as i32, bins.chunk as i32);
    let mark = BinMarksParams { places, table, output, cells, chunks, chunk };
    // SAFETY: the caller's promise; the params mirror the kernels' structs.
    unsafe {
        cuda::launch(op, stream.device, stream.handle, BINS_FILE, &launch, &write)?;
        cuda::launch(op, stream.device, stream.handle, BINS_FILE, &bins.mark(op, clouds.batch())?, &mark)
    }
}

/// Marks points in bits of the workspace, which become bytes.
///
/// # Safety
/// As for [`sparse_rows`]; the workspace is as planned.
unsafe fn by_bits(
    op: &'static str,
    clouds: &Clouds,
    output: *mut u8,
    plan: &Workspace,
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let bits = workspace.wrapping_add(plan.marks_at);
    // SAFETY: the caller's promise; the params mirror the kernels' structs.
    unsafe {
        clear(op, bits, clouds.batch() * plan.cells.div_ceil(64) * 8, stream)?;
        let Tiles { launch, tiles } = launches::marks(op, clouds.points.dtype(), clouds.batch(), clouds.points())?;
        let each = launches::COUNTED as i32;
        let params = PointsParams { clouds: Points::new(clouds, tiles), output: bits, places: null_mut(), each };
        cuda::launch(op, stream.device, stream.handle, FILE, &launch, &params)?;
        let Tiles { launch, tiles } = launches::unpack(op, clouds.batch(), plan.cells)?;
        let params = UnpackParams { bits, output, cells: plan.cells as i64, tiles: tiles as i32 };
        cuda::launch(op, stream.device, stream.handle, FILE, &launch, &params)
    }
}

/// Groups the points of every cloud by cell: counts, starts and order in the workspace.
///
/// # Safety
/// As for [`sparse_rows`]; the workspace is as planned.
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
        let count = launches::points(op, Reduce::Count, clouds.points.dtype(), batch, points)?;
        by_point(op, clouds, count, parts.counts, parts.places, stream)?;
        let Tiles { launch, tiles } = launches::starts(op, batch, plan.cells)?;
        let params = StartsParams {
            counts: parts.counts,
            starts: parts.starts,
            cursor: parts.cursor,
            cells: plan.cells as i64,
            tiles: tiles as i32,
        };
        cuda::launch(op, stream.device, stream.handle, FILE, &launch, &params)?;
        let Tiles { launch, tiles } = launches::order(op, clouds.points.dtype(), batch, points)?;
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

/// Memory for the points of clouds by tile.
#[derive(Clone, Copy)]
pub(crate) struct Grouped {
    /// uint32 for each point.
    pub entries: *mut u8,
    /// uint16 for each list of each chunk, and more.
    pub table: *mut u8,
    /// int32 for each point: its cell, or -1; null where nothing reads it.
    pub cells: *mut u8,
    /// int32 for each cloud, which become zero.
    pub cursor: *mut u8,
}

impl Parts {
    /// With `cells` as there.
    pub fn grouped(&self, cells: *mut u8) -> Grouped {
        Grouped { entries: self.entries, table: self.table, cells, cursor: self.cursor }
    }
}

/// Writes the points of every cloud by tile of its grid.
///
/// # Safety
/// As for [`sparse_rows`], the sizes as `tiling` says; `zeros` is null or has `row_bytes` for each point, which become
/// zero where it is dropped; `features` are what the next launch reads of the points.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn tile(
    op: &'static str,
    clouds: &Clouds,
    features: Option<(&RowsParams, DType)>,
    tiling: &Tiling,
    memory: &Grouped,
    zeros: *mut u8,
    row_bytes: usize,
    stream: Stream,
) -> Result<Chunks> {
    let chunks = Chunks {
        entries: memory.entries,
        table: memory.table,
        points: clouds.points() as i64,
        chunk: tiling.chunk as i32,
        chunks: tiling.chunks as i32,
        pitch: tiling.pitch as i32,
        bits: tiling.bits as i32,
        shared_bits: tiling.shared_bits as i32,
    };
    let Tiles { launch, tiles } = launches::chunks(op, clouds.points.dtype(), clouds.batch(), tiling)?;
    let params = TilesParams {
        clouds: Points::new(clouds, tiles),
        chunks,
        cells: memory.cells,
        cursor: memory.cursor,
        zeros,
        row_bytes: row_bytes as i64,
        asked: Asked::ahead(clouds, features, tiling.chunk),
    };
    // SAFETY: the caller's promise; TilesParams mirrors the kernel's struct.
    unsafe { cuda::launch(op, stream.device, stream.handle, TILES_FILE, &launch, &params)? };
    Ok(chunks)
}

/// Reduces the cells of small clouds, or sends their gradient to the points.
///
/// # Safety
/// As for [`sparse_rows`]; `params` says of the features, the output and the gradient what is there.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn small_rows(
    op: &'static str,
    clouds: &Clouds,
    reduce: Reduce,
    backward: bool,
    dtype: DType,
    params: &RowsParams,
    small: &tiling::Small,
    stream: Stream,
) -> Result<()> {
    let channels = params.channels as usize;
    let Tiles { launch, tiles } = launches::small_rows(op, reduce, backward, dtype, clouds.batch(), small, channels)?;
    let rows = RowsParams { tiles: tiles as i32, ..*params };
    let features = (!backward).then_some((&rows, dtype));
    let params = SmallRowsParams { rows, small: Small::new(clouds, features, small.bits, tiles) };
    // SAFETY: the caller's promise; SmallRowsParams mirrors the kernel's struct.
    unsafe { cuda::launch(op, stream.device, stream.handle, SMALL_FILE, &launch, &params) }
}

/// Groups the points of every cloud by cell and reduces the cells, or sends a gradient to what they picked.
///
/// # Safety
/// As for [`group`]; `params` says of the features, the output and the gradient what is there.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn reduce_cells(
    op: &'static str,
    clouds: &Clouds,
    reduce: Reduce,
    backward: bool,
    dtype: DType,
    params: &RowsParams,
    plan: &Workspace,
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let (batch, channels) = (clouds.batch(), params.channels as usize);
    // SAFETY: the caller's promise; the params mirror the kernels' structs.
    unsafe {
        if let Some(small) = &plan.small {
            return small_rows(op, clouds, reduce, backward, dtype, params, small, stream);
        }
        if let Some(tiling) = &plan.tiling {
            let parts = Parts::new(plan, workspace);
            let memory = parts.grouped(params.point_voxel);
            let features = (!backward).then_some((params, dtype));
            let chunks = tile(op, clouds, features, tiling, &memory, null_mut(), 0, stream)?;
            let Tiles { launch, tiles } = launches::tile_rows(op, reduce, backward, dtype, batch, tiling, channels)?;
            let rows = RowsParams { tiles: tiles as i32, ..*params };
            let params = TileRowsParams { rows, chunks, order: parts.order, cursor: parts.cursor };
            return cuda::launch(op, stream.device, stream.handle, TILES_FILE, &launch, &params);
        }
        if !params.point_voxel.is_null() {
            point_voxel(op, clouds, params.point_voxel, stream)?;
        }
        let parts = group(op, clouds, plan, workspace, stream)?;
        let Tiles { launch, tiles } = launches::rows(op, reduce, backward, dtype, batch, plan.cells, channels)?;
        let params = RowsParams {
            counts: parts.counts,
            starts: parts.starts,
            order: parts.order,
            tiles: tiles as i32,
            ..*params
        };
        cuda::launch(op, stream.device, stream.handle, ROWS_FILE, &launch, &params)
    }
}

/// `voxelize` of device memory; what is asked of the findings goes there, of features only.
#[allow(clippy::too_many_arguments)]
pub(super) fn forward(
    op: &'static str,
    clouds: &Clouds,
    features: Option<View>,
    tangent: Option<View>,
    reduce: Reduce,
    output: *mut u8,
    findings: Findings,
    plan: &Workspace,
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let cells = plan.cells * clouds.batch();
    // SAFETY: the views borrow memory that torch keeps until this stream has run the kernels (`Place::cuda`); sizes of
    // the output and the workspace are checked.
    unsafe {
        let Some(features) = features else {
            if let Some(small) = &plan.small {
                let Tiles { launch, tiles } = launches::small_points(op, reduce, clouds.batch(), small)?;
                let params = SmallPointsParams { small: Small::new(clouds, None, small.bits, tiles), output };
                return cuda::launch(op, stream.device, stream.handle, SMALL_FILE, &launch, &params);
            }
            if let Some(bins) = &plan.bins {
                return by_bins(op, clouds, output, bins, plan, workspace, stream);
            }
            if plan.parts > 0 {
                return by_bits(op, clouds, output, plan, workspace, stream);
            }
            clear(op, output, cells * if reduce == Reduce::Occupancy { 1 } else { 4 }, stream)?;
            let launch = launches::points(op, reduce, clouds.points.dtype(), clouds.batch(), clouds.points())?;
            return by_point(op, clouds, launch, output, null_mut(), stream);
        };
        let params = RowsParams {
            output,
            counted: findings.counts,
            point_voxel: findings.point_voxel,
            strides: [features.size(2) as i64 * plan.cells as i64, plan.cells as i64, 1],
            rows: plan.cells as i64,
            ..RowsParams::new(&features, tangent.as_ref(), reduce)
        };
        reduce_cells(op, clouds, reduce, false, features.dtype(), &params, plan, workspace, stream)
    }
}
