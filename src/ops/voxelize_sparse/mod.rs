//! `voxelize_sparse`: the occupied voxels only, in the order of `(cloud, x, y, z)`. The contract, the checks and the
//! choice of backend.
//!
//! It is three steps. [`voxelize_sparse_rows`] sorts the points of each cloud by voxel and counts the voxels;
//! [`voxelize_sparse_fill`] then writes one row for each, once the number of rows is known or where it is fixed; and
//! [`voxelize_sparse_values`] reduces the features of each row's points, by the code of `voxelize`.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod plan;

use crate::device::{Place, Where};
use crate::error::{Error, Result};
use crate::ops::voxelize::grid::{self, Clouds, Grid, MOST_SPARSE};
use crate::ops::voxelize::reduce::Reduce;
use crate::ops::voxelize::{batched, check_workspace};
use crate::tensor::{DType, View, ViewMut};

const OP: &str = "voxelize_sparse";

/// Sorts the points of each cloud by voxel and counts the occupied voxels.
///
/// * `points`: `[B, N, 3]` (`[N, 3]`), and the grid and lengths, as for [`voxelize`](crate::voxelize); at most 2^21 voxels
///   along an axis.
/// * `order`: int32, dense `[B, N]`: the points of each cloud, those of one voxel side by side in ascending index, dropped
///   ones last.
/// * `num_voxels`: int64 `[1]`.
/// * `workspace`: bytes as [`voxelize_sparse_workspace`] plans them, aligned to 16; [`voxelize_sparse_fill`] wants them as
///   they are left.
///
/// # Errors
/// As for [`voxelize`](crate::voxelize).
#[allow(clippy::too_many_arguments)]
pub fn voxelize_sparse_rows(
    points: View,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    lengths: Option<View>,
    order: &mut ViewMut,
    num_voxels: &mut ViewMut,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    let points = batched(OP, points)?;
    let grid = Grid::new(OP, points.dtype(), origin, voxel_size, grid_size, Some(MOST_SPARSE))?;
    let clouds = Clouds::new(OP, points, grid, lengths)?;
    if let (Where::Cpu(_), Some(lengths)) = (place.0, lengths) {
        // SAFETY: a place on the CPU goes with views of host memory (`View`'s constructors); `Clouds::new` checked
        // them.
        unsafe { grid::check_lengths(OP, lengths, clouds.points())? };
    }
    order.check(OP, DType::I32, [clouds.batch(), clouds.points(), 1])?;
    num_voxels.check(OP, DType::I64, [1, 1, 1])?;
    let plan = plan::Workspace::new(OP, clouds.batch(), clouds.points(), &grid, place.0.is_cuda())?;
    check_workspace(OP, workspace, plan.bytes)?;
    match place.0 {
        Where::Cpu(threads) => {
            cpu::rows(&clouds, order.data().cast(), num_voxels.data().cast(), &plan, workspace.data(), threads);
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => {
            cuda::rows(OP, &clouds, order.data(), num_voxels.data(), &plan, workspace.data(), stream)
        }
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(crate::ops::resample::no_cuda(OP)),
    }
}

/// What `voxelize_sparse_fill` reads and writes, in host or device memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub size: [i64; 3],
    pub batch: usize,
    pub points: usize,
    pub rows: usize,
    pub order: *const i32,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the CPU counts rows as it writes them"))]
    pub num_voxels: *const i64,
    pub coords: *mut i32,
    pub counts: *mut i32,
    pub starts: *mut i32,
    pub point_voxel: *mut i64,
}

/// Writes a row for each occupied voxel, after [`voxelize_sparse_rows`].
///
/// * `order`, `num_voxels`, `workspace`: as that left them.
/// * `coords`: int32, dense `[M, 4]`: cloud, x, y, z; -1 in rows past the last voxel. Voxels past `M` are dropped.
/// * `counts`, `starts`: int32 `[M]`: points of each row, and where they begin in the order of its cloud.
/// * `point_voxel`: int64 `[B, N]`: each point's row, or -1.
///
/// # Errors
/// As for [`voxelize_sparse_rows`].
#[allow(clippy::too_many_arguments)]
pub fn voxelize_sparse_fill(
    points: View,
    grid_size: &[i64],
    order: View,
    num_voxels: View,
    coords: &mut ViewMut,
    counts: &mut ViewMut,
    starts: &mut ViewMut,
    point_voxel: &mut ViewMut,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    let points = batched(OP, points)?;
    let grid = Grid::new(OP, points.dtype(), &[0.0; 3], &[1.0], grid_size, Some(MOST_SPARSE))?;
    let (batch, count) = (points.size(0), points.size(1));
    let rows = counts.elements();
    coords.check(OP, DType::I32, [rows, 4, 1])?;
    counts.check(OP, DType::I32, [rows, 1, 1])?;
    starts.check(OP, DType::I32, [rows, 1, 1])?;
    point_voxel.check(OP, DType::I64, [batch, count, 1])?;
    check_dense(OP, "order", &order, DType::I32, batch * count)?;
    check_dense(OP, "num_voxels", &num_voxels, DType::I64, 1)?;
    let plan = plan::Workspace::new(OP, batch, count, &grid, place.0.is_cuda())?;
    check_workspace(OP, workspace, plan.bytes)?;
    let rows = Fill {
        size: grid.size,
        batch,
        points: count,
        rows,
        order: order.data().cast(),
        num_voxels: num_voxels.data().cast(),
        coords: coords.data().cast(),
        counts: counts.data().cast(),
        starts: starts.data().cast(),
        point_voxel: point_voxel.data().cast(),
    };
    match place.0 {
        Where::Cpu(threads) => {
            cpu::fill(&rows, &plan, workspace.data(), threads);
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::fill(OP, &rows, &plan, workspace.data(), stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(crate::ops::resample::no_cuda(OP)),
    }
}

/// Bytes that [`voxelize_sparse_rows`] and [`voxelize_sparse_fill`] borrow; they grow with the points, not with the
/// grid.
///
/// # Errors
/// [`Error::Value`] where no memory could hold it.
pub fn voxelize_sparse_workspace(batch: usize, points: usize, grid_size: &[i64], place: &Place) -> Result<usize> {
    let grid = Grid::new(OP, DType::F64, &[0.0; 3], &[1.0], grid_size, Some(MOST_SPARSE))?;
    Ok(plan::Workspace::new(OP, batch, points, &grid, place.0.is_cuda())?.bytes)
}

/// The rows of a sparse grid as [`voxelize_sparse_fill`] wrote them; every view dense.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub coords: View<'a>,
    pub counts: View<'a>,
    pub order: View<'a>,
    pub starts: View<'a>,
}

fn check_dense(op: &str, name: &str, view: &View, dtype: DType, elements: usize) -> Result<()> {
    let found: usize = view.shape().sizes().iter().product();
    let mut step = 1;
    let dense = (0..view.rank()).rev().all(|axis| {
        let fits = view.size(axis) == 1 || view.stride(axis) == step;
        step *= view.size(axis) as isize;
        fits
    });
    if view.dtype() == dtype && found == elements && (dense || found == 0) {
        return Ok(());
    }
    let (wanted, shape, dtype) = (dtype.name(), view.shape(), view.dtype().name());
    Err(Error::Value(format!(
        "{op}: {name} must be {wanted}, dense, of {elements} elements, got {dtype} of shape {shape}"
    )))
}

impl<'a> Rows<'a> {
    fn new(
        op: &str,
        coords: View<'a>,
        counts: View<'a>,
        order: View<'a>,
        starts: View<'a>,
        batch: usize,
        points: usize,
    ) -> Result<Self> {
        let rows = counts.shape().sizes().iter().product::<usize>();
        check_dense(op, "counts", &counts, DType::I32, rows)?;
        check_dense(op, "coords", &coords, DType::I32, rows * 4)?;
        check_dense(op, "starts", &starts, DType::I32, rows)?;
        check_dense(op, "order", &order, DType::I32, batch * points)?;
        Ok(Rows { coords, counts, order, starts })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.counts.shape().sizes().iter().product()
    }
}

/// The type and shape of a view, for error texts.
fn described(view: &View) -> String {
    format!("{} of shape {}", view.dtype().name(), view.shape())
}

/// Refuses features that are not `[B, N, C]` of a floating type.
fn check_features(op: &str, name: &str, features: &View) -> Result<()> {
    if features.rank() == 3 && features.dtype().is_floating() {
        return Ok(());
    }
    let (dtype, shape) = (features.dtype().name(), features.shape());
    Err(Error::Value(format!("{op}: {name} must be floating of shape [B, N, C], got {dtype} of shape {shape}")))
}

/// Reduces the features of each row's points.
///
/// * `features`: `[B, N, C]`, any strides, of a floating type.
/// * `coords`, `counts`, `order`, `starts`: as [`voxelize_sparse_rows`] and [`voxelize_sparse_fill`] wrote them.
/// * `reduce`: `"sum"`, `"mean"`, `"max"` or `"min"`.
/// * `tangent`: `[B, N, C]`; gives the derivative along it, as [`voxelize_tangent`](crate::voxelize_tangent).
/// * `output`: dense `[M, C]`; zero in rows without points.
///
/// # Errors
/// As for [`voxelize`](crate::voxelize).
#[allow(clippy::too_many_arguments)]
pub fn voxelize_sparse_values(
    features: View,
    coords: View,
    counts: View,
    order: View,
    starts: View,
    reduce: &str,
    tangent: Option<View>,
    output: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "voxelize_sparse_values";
    let reduce = read(OP, reduce)?;
    check_features(OP, "features", &features)?;
    let rows = Rows::new(OP, coords, counts, order, starts, features.size(0), features.size(1))?;
    if let Some(tangent) = &tangent
        && (tangent.shape() != features.shape() || tangent.dtype() != features.dtype())
    {
        let (wanted, found) = (described(&features), described(tangent));
        return Err(Error::Value(format!("{OP}: tangent must be {wanted} (as features), got {found}")));
    }
    output.check(OP, features.dtype(), [rows.len(), features.size(2), 1])?;
    if output.is_empty() {
        return Ok(());
    }
    match place.0 {
        Where::Cpu(threads) => {
            cpu::values(&rows, &features, tangent.as_ref(), reduce, output.data(), threads);
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::values(OP, &rows, &features, tangent.as_ref(), reduce, output.data(), stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(crate::ops::resample::no_cuda(OP)),
    }
}

fn read(op: &str, reduce: &str) -> Result<Reduce> {
    let kind = Reduce::read(op, reduce)?;
    if kind.reads_features() {
        return Ok(kind);
    }
    Err(Error::Value(format!("{op}: reduce must read features, got \"{reduce}\"")))
}

/// The gradient of [`voxelize_sparse_values`] by the features.
///
/// * `grad`: `[M, C]`, any strides.
/// * `features`: read for `"max"` and `"min"` only.
/// * `point_voxel`: int64 `[B, N]`.
/// * `output`: dense `[B, N, C]` of the gradient's type.
///
/// # Errors
/// As for [`voxelize`](crate::voxelize).
#[allow(clippy::too_many_arguments)]
pub fn voxelize_sparse_backward(
    grad: View,
    features: Option<View>,
    coords: View,
    counts: View,
    order: View,
    starts: View,
    point_voxel: View,
    reduce: &str,
    output: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "voxelize_sparse_backward";
    let kind = read(OP, reduce)?;
    let batched = order.rank() == 2 && point_voxel.shape() == order.shape();
    if !batched {
        let (wanted, found) = (order.shape(), point_voxel.shape());
        return Err(Error::Value(format!(
            "{OP}: point_voxel must have the shape [B, N] of order, {wanted}, got {found}"
        )));
    }
    let (batch, points) = (order.size(0), order.size(1));
    let rows = Rows::new(OP, coords, counts, order, starts, batch, points)?;
    check_dense(OP, "point_voxel", &point_voxel, DType::I64, batch * points)?;
    if grad.rank() != 2 || grad.size(0) != rows.len() || !grad.dtype().is_floating() {
        let (found, dtype) = (grad.shape(), grad.dtype().name());
        let wanted = rows.len();
        return Err(Error::Value(format!(
            "{OP}: grad must be floating of shape [{wanted}, C], got {dtype} of shape {found}"
        )));
    }
    let picked = if kind.picks() {
        let features = features.ok_or_else(|| {
            Error::Value(format!("{OP}: features must be given where reduce is \"{reduce}\", got none"))
        })?;
        check_features(OP, "features", &features)?;
        let wanted = [batch, points, grad.size(1)];
        if features.shape().sizes() != wanted || features.dtype() != grad.dtype() {
            let (dtype, found) = (grad.dtype().name(), described(&features));
            return Err(Error::Value(format!("{OP}: features must be {dtype} of shape {wanted:?}, got {found}")));
        }
        Some(features)
    } else {
        None
    };
    output.check(OP, grad.dtype(), [batch, points, grad.size(1)])?;
    if output.is_empty() {
        return Ok(());
    }
    match place.0 {
        Where::Cpu(threads) => {
            cpu::backward(&rows, &grad, picked.as_ref(), &point_voxel, kind, output.data(), threads);
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => {
            cuda::backward(OP, &rows, &grad, picked.as_ref(), &point_voxel, kind, output.data(), stream)
        }
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(crate::ops::resample::no_cuda(OP)),
    }
}
