//! `voxelize_sparse` on CUDA: each kernel's parameters and the launches.

use super::plan::{self, Workspace};
use super::{Fill, Rows};
use crate::cuda;
use crate::device::Stream;
use crate::error::Result;
use crate::launch::Launch;
use crate::ops::voxelize::cuda::{self as voxelize, Grouped};
use crate::ops::voxelize::grid::Clouds;
use crate::ops::voxelize::launches::sparse_rows as rows_launch;
use crate::ops::voxelize::params::{Chunks, Points, RowsParams, strides};
use crate::ops::voxelize::reduce::Reduce;
use crate::ops::voxelize::tiling::Tiling;
use crate::tensor::{DType, View};
use std::mem::swap;
use std::ptr::{null, null_mut};

const FILE: &str = "voxelize_sparse";
const TILES_FILE: &str = "voxelize_sparse_tiles";

/// `VoxelizeSparseKeysParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Keys {
    clouds: Points,
    keys: *mut u8,
    order: *mut u8,
    dropped: u64,
}

const _: () = assert!(size_of::<Keys>() == 176);

/// `VoxelizeSparseSortParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Sort {
    keys: *mut u8,
    order: *mut u8,
    sorted_keys: *mut u8,
    sorted_order: *mut u8,
    counts: *mut u8,
    totals: *mut u8,
    batch: i64,
    points: i64,
    tiles: i32,
    first_bit: i32,
    bits: i32,
}

const _: () = assert!(size_of::<Sort>() == 80);

/// `VoxelizeSparseRowsParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Params {
    keys: *const u8,
    order: *const i32,
    heads: *mut u8,
    num_voxels: *mut i64,
    coords: *mut i32,
    counts: *mut i32,
    starts: *mut i32,
    point_voxel: *mut i64,
    ends: *mut u8,
    rows_of: *mut u8,
    dropped: u64,
    size: [i64; 3],
    batch: i64,
    points: i64,
    rows: i64,
    tiles: i32,
}

const _: () = assert!(size_of::<Params>() == 144);

/// `VoxelizeSparseSpreadParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct SpreadParams {
    grad: *const u8,
    point_voxel: *const u8,
    counts: *const u8,
    output: *mut u8,
    row_stride: i64,
    channel_stride: i64,
    points: i64,
    channels: i64,
    rows: i64,
}

const _: () = assert!(size_of::<SpreadParams>() == 72);

/// `VoxelizeSparseTilesParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct TilesParams {
    chunks: Chunks,
    sums: *mut u8,
    cells: *mut u8,
    order: *mut u8,
    voxels: *mut u8,
    num_voxels: *mut u8,
    batch: i64,
    tiles: i32,
}

const _: () = assert!(size_of::<TilesParams>() == 104);

/// `VoxelizeSparseTilesFillParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct TilesFill {
    rows: *const u8,
    voxels: *const u8,
    num_voxels: *const i64,
    coords: *mut i32,
    counts: *mut i32,
    starts: *mut i32,
    point_voxel: *mut i64,
    size: [i64; 3],
    points: i64,
    length: i64,
}

const _: () = assert!(size_of::<TilesFill>() == 96);

/// Adds a kernel to the stream.
///
/// # Safety
/// As for [`cuda::launch`].
unsafe fn launch<P: Copy>(op: &'static str, launch: &Launch, params: &P, stream: Stream) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { cuda::launch(op, stream.device, stream.handle, FILE, launch, params) }
}

/// `voxelize_sparse_rows` by tiles of the grids.
///
/// # Safety
/// As for [`cuda::launch`]; the workspace is as planned.
unsafe fn rows_by_tiles(
    op: &'static str,
    clouds: &Clouds,
    order: *mut u8,
    num_voxels: *mut u8,
    (plan, tiling): (&Workspace, &Tiling),
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let part = |at: usize| workspace.wrapping_add(at);
    let memory = Grouped {
        entries: part(plan.entries_at),
        table: part(plan.table_at),
        cells: part(plan.cells_at),
        cursor: part(plan.cursor_at),
    };
    // SAFETY: the caller's promise; the params mirror the kernels' structs.
    unsafe {
        let chunks = voxelize::tile(op, clouds, None, tiling, &memory, null_mut(), 0, stream)?;
        let params = TilesParams {
            chunks,
            sums: part(plan.sums_at),
            cells: part(plan.cells_at),
            order,
            voxels: part(plan.voxels_at),
            num_voxels,
            batch: clouds.batch() as i64,
            tiles: tiling.tiles as i32,
        };
        let launch = |launch: &Launch| cuda::launch(op, stream.device, stream.handle, TILES_FILE, launch, &params);
        launch(&plan::tile_count(op, clouds.batch(), tiling)?)?;
        launch(&plan::tile_number(op)?)?;
        launch(&plan::tile_order(op, clouds.batch(), tiling)?)
    }
}

/// `voxelize_sparse_rows` of device memory.
pub(super) fn rows(
    op: &'static str,
    clouds: &Clouds,
    order: *mut u8,
    num_voxels: *mut u8,
    plan: &Workspace,
    workspace: *mut u8,
    stream: Stream,
) -> Result<()> {
    let (batch, points) = (clouds.batch(), clouds.points());
    if let Some(tiling) = &plan.tiling {
        // SAFETY: the views borrow memory that torch keeps until this stream has run the kernels (`Place::cuda`); sizes
        // of the outputs and the workspace are checked.
        return unsafe { rows_by_tiles(op, clouds, order, num_voxels, (plan, tiling), workspace, stream) };
    }
    let launches = plan::plan(op, batch, points, clouds.points.dtype(), plan.key, 0)?;
    let part = |at: usize| workspace.wrapping_add(at);
    let dropped = clouds.grid.cells().unwrap_or(u64::MAX);
    let mut sort = Sort {
        keys: part(plan.keys_at),
        order,
        sorted_keys: part(plan.spare_keys_at),
        sorted_order: part(plan.spare_order_at),
        counts: part(plan.counts_at),
        totals: part(plan.totals_at),
        batch: batch as i64,
        points: points as i64,
        tiles: plan.tiles as i32,
        first_bit: 0,
        bits: plan.digit as i32,
    };
    let exchange = |sort: &mut Sort| {
        swap(&mut sort.keys, &mut sort.sorted_keys);
        swap(&mut sort.order, &mut sort.sorted_order);
    };
    // Keys are written where an odd or even number of passes brings them to their place.
    if plan.passes % 2 == 1 {
        exchange(&mut sort);
    }
    // SAFETY: the views borrow memory that torch keeps until this stream has run the kernels (`Place::cuda`); sizes of
    // the outputs and the workspace are checked, its parts do not overlap, and the params mirror the kernels' structs.
    unsafe {
        let keys =
            Keys { clouds: Points::new(clouds, launches.keys.tiles), keys: sort.keys, order: sort.order, dropped };
        launch(op, &launches.keys.launch, &keys, stream)?;
        for pass in 0..if points > 0 { plan.passes } else { 0 } {
            sort.first_bit = (pass * plan.digit) as i32;
            launch(op, &launches.count, &sort, stream)?;
            launch(op, &launches.scan, &sort, stream)?;
            launch(op, &launches.shift, &sort, stream)?;
            exchange(&mut sort);
        }
        let params = Params {
            keys: part(plan.keys_at),
            order: order.cast(),
            heads: part(plan.heads_at),
            num_voxels: num_voxels.cast(),
            coords: null_mut(),
            counts: null_mut(),
            starts: null_mut(),
            point_voxel: null_mut(),
            ends: null_mut(),
            rows_of: null_mut(),
            dropped,
            size: clouds.grid.size,
            batch: batch as i64,
            points: points as i64,
            rows: 0,
            tiles: plan.tiles as i32,
        };
        launch(op, &launches.heads, &params, stream)?;
        launch(op, &launches.number, &params, stream)
    }
}

/// `voxelize_sparse_fill` of device memory.
pub(super) fn fill(op: &'static str, rows: &Fill, plan: &Workspace, workspace: *mut u8, stream: Stream) -> Result<()> {
    let part = |at: usize| workspace.wrapping_add(at);
    if plan.tiling.is_some() {
        let points = rows.batch * rows.points;
        let params = TilesFill {
            rows: part(plan.cells_at),
            voxels: part(plan.voxels_at),
            num_voxels: rows.num_voxels,
            coords: rows.coords,
            counts: rows.counts,
            starts: rows.starts,
            point_voxel: rows.point_voxel,
            size: rows.size,
            points: points as i64,
            length: rows.rows as i64,
        };
        let launch = plan::tile_fill(op, points, rows.rows)?;
        // SAFETY: as in `rows`, which left the workspace.
        return unsafe { cuda::launch(op, stream.device, stream.handle, TILES_FILE, &launch, &params) };
    }
    let points = rows.batch * rows.points;
    let narrow = i32::try_from(points).is_ok();
    let launches = plan::plan(op, rows.batch, rows.points, DType::F32, plan.key, rows.rows.max(points))?;
    let params = Params {
        keys: part(plan.keys_at),
        order: rows.order,
        heads: part(plan.heads_at),
        num_voxels: rows.num_voxels.cast_mut(),
        coords: rows.coords,
        counts: rows.counts,
        starts: rows.starts,
        point_voxel: rows.point_voxel,
        ends: part(plan.spare_order_at),
        rows_of: if narrow { part(plan.spare_keys_at) } else { null_mut() },
        dropped: rows.size.iter().map(|&voxels| voxels as u64).product(),
        size: rows.size,
        batch: rows.batch as i64,
        points: rows.points as i64,
        rows: rows.rows as i64,
        tiles: plan.tiles as i32,
    };
    // SAFETY: as in `rows`.
    unsafe {
        launch(op, &launches.fill, &params, stream)?;
        launch(op, &launches.finish, &params, stream)
    }
}

fn params_of(rows: &Rows, features: &View, tangent: Option<&View>, reduce: Reduce) -> RowsParams {
    RowsParams {
        coords: rows.coords.data(),
        counts: rows.counts.data(),
        starts: rows.starts.data(),
        order: rows.order.data(),
        rows: rows.len() as i64,
        ..RowsParams::new(features, tangent, reduce)
    }
}

/// `voxelize_sparse_values` of device memory.
pub(super) fn values(
    op: &'static str,
    rows: &Rows,
    features: &View,
    tangent: Option<&View>,
    reduce: Reduce,
    output: *mut u8,
    stream: Stream,
) -> Result<()> {
    let channels = features.size(2);
    let launch = rows_launch(op, reduce, false, features.dtype(), rows.len(), channels)?;
    let strides = [0, 1, channels as i64];
    let params = RowsParams { output, strides, ..params_of(rows, features, tangent, reduce) };
    // SAFETY: as in `rows`; every view is as large as `Rows::new` checked.
    unsafe { voxelize::sparse_rows(op, &launch, &params, stream) }
}

/// `voxelize_sparse_backward` of device memory; `features` where a point is picked.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    op: &'static str,
    rows: &Rows,
    grad: &View,
    features: Option<&View>,
    point_voxel: &View,
    reduce: Reduce,
    output: *mut u8,
    stream: Stream,
) -> Result<()> {
    let channels = grad.size(1);
    let elements = rows.order.size(0) * rows.order.size(1) * channels;
    let [row_stride, channel_stride, _] = strides(grad);
    // SAFETY: as in `values`.
    unsafe {
        let Some(features) = features else {
            let params = SpreadParams {
                grad: grad.data(),
                point_voxel: point_voxel.data(),
                counts: if reduce == Reduce::Mean { rows.counts.data() } else { null() },
                output,
                row_stride,
                channel_stride,
                points: (rows.order.size(0) * rows.order.size(1)) as i64,
                channels: channels as i64,
                rows: rows.len() as i64,
            };
            return launch(op, &plan::spread(op, grad.dtype(), params.points as u64, channels)?, &params, stream);
        };
        voxelize::clear(op, output, elements * grad.dtype().size(), stream)?;
        let launch = rows_launch(op, reduce, true, grad.dtype(), rows.len(), channels)?;
        let strides = [0, channel_stride, row_stride];
        let params = RowsParams { grad: grad.data(), output, strides, ..params_of(rows, features, None, reduce) };
        voxelize::sparse_rows(op, &launch, &params, stream)
    }
}
