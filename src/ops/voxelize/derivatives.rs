//! The derivatives of [`voxelize`](super::voxelize) by the features, as functions that have derivatives themselves, and
//! the counts that one of them need not find again.

use super::grid::{Clouds, Grid};
use super::reduce::Reduce;
use super::{
    Call, Findings, OP as VOXELIZE, call_of, cells_of, check_workspace, cpu, cpu_backward, features_of, forward,
    gradient_plan, plan,
};
#[cfg(feature = "cuda")]
use super::{cuda, cuda_backward};
use crate::device::{Place, Where};
use crate::error::{Error, Result};
use crate::tensor::{DType, View, ViewMut};

/// What [`voxelize_counted`] finds beside the means.
#[derive(Clone, Copy)]
pub struct Counted<'a> {
    /// Dense int32 `[B, X * Y * Z]`: how many points each voxel has.
    pub counts: View<'a>,
    /// Dense int32 `[B, N]`: the voxel of each point, row-major, or -1 where it is dropped.
    pub point_voxel: View<'a>,
}

/// [`voxelize`](super::voxelize) to `"mean"`, and what [`voxelize_backward`] need not find again then: how many points
/// each voxel has, and in which each point lies.
///
/// * `counts`, `point_voxel`: dense int32 `[B, X * Y * Z]` and `[B, N]`, as in [`Counted`].
/// * `workspace`: as planned for `"mean"`.
///
/// # Errors
/// As for [`voxelize`](super::voxelize); and [`Error::Value`] for a grid whose voxels int32 does not count.
#[allow(clippy::too_many_arguments)]
pub fn voxelize_counted(
    points: View,
    features: View,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    lengths: Option<View>,
    output: &mut ViewMut,
    counts: &mut ViewMut,
    point_voxel: &mut ViewMut,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "voxelize_counted";
    let call = call_of(OP, points, Some(features), origin, voxel_size, grid_size, "mean", lengths, |_| true, place)?;
    let (batch, cells) = (call.clouds.batch(), cells_of(OP, &call.clouds.grid)?);
    if i32::try_from(cells).is_err() {
        let most = i32::MAX;
        return Err(Error::Value(format!("{OP}: grid_size must make at most {most} voxels, got {cells}")));
    }
    counts.check_as(OP, "counts", DType::I32, [batch, cells, 1])?;
    point_voxel.check_as(OP, "point_voxel", DType::I32, [batch, call.clouds.points(), 1])?;
    // On CUDA the launches that find the means leave the others as well.
    if place.0.is_cuda() && !output.is_empty() {
        let findings = Findings { counts: counts.data(), point_voxel: point_voxel.data() };
        return forward(OP, &call, None, output, findings, workspace, place);
    }
    forward(OP, &call, None, output, Findings::UNASKED, workspace, place)?;
    let call = Call { features: None, reduce: Reduce::Count, ..call };
    forward(OP, &call, None, counts, Findings::UNASKED, workspace, place)?;
    match place.0 {
        _ if point_voxel.is_empty() => Ok(()),
        Where::Cpu(threads) => {
            cpu::point_voxel(&call.clouds, point_voxel.data().cast(), threads);
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => cuda::point_voxel(OP, &call.clouds, point_voxel.data(), stream),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(crate::ops::resample::no_cuda(OP)),
    }
}

/// The derivative of [`voxelize`](super::voxelize) along a direction of the features: of `"max"` and `"min"` the tangent
/// of the point that is the result; of `"sum"` and `"mean"` those of the tangent itself.
///
/// * `tangent`: `[B, N, C]` (`[N, C]`), as the features.
///
/// # Errors
/// As for [`voxelize`](super::voxelize).
#[allow(clippy::too_many_arguments)]
pub fn voxelize_tangent(
    tangent: View,
    points: View,
    features: View,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    reduce: &str,
    lengths: Option<View>,
    output: &mut ViewMut,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "voxelize_tangent";
    let call = call_of(OP, points, Some(features), origin, voxel_size, grid_size, reduce, lengths, |_| true, place)?;
    let tangent = features_of(OP, tangent, &call.clouds.points, points.rank() == 2)?;
    let Some(read) = call.features else {
        return Err(Error::Value(format!("{OP}: reduce must read features, got \"{reduce}\"")));
    };
    if tangent.size(2) != read.size(2) || tangent.dtype() != read.dtype() {
        let (wanted, found) = (read.shape(), tangent.shape());
        return Err(Error::Value(format!(
            "{OP}: tangent must be {} of shape {wanted}, got {} of shape {found}",
            read.dtype().name(),
            tangent.dtype().name()
        )));
    }
    forward(OP, &call, Some(tangent), output, Findings::UNASKED, workspace, place)
}

/// Refuses what was not found for so many grids and clouds.
fn check_counted(op: &str, counted: &Counted, reduce: Reduce, clouds: &Clouds, cells: usize) -> Result<()> {
    if reduce != Reduce::Mean {
        return Err(Error::Value(format!("{op}: counts must be none where reduce is not \"mean\", got some")));
    }
    let batch = clouds.batch();
    for (name, view, each) in
        [("counts", &counted.counts, cells), ("point_voxel", &counted.point_voxel, clouds.points())]
    {
        let dense = view.rank() == 2
            && (each < 2 || view.stride(1) == 1)
            && (batch < 2 || each == 0 || view.stride(0) == each as isize);
        if view.dtype() != DType::I32 || !dense || view.shape().sizes() != [batch, each] {
            let (dtype, found) = (view.dtype().name(), view.shape());
            return Err(Error::Value(format!(
                "{op}: {name} must be int32, dense and of shape [{batch}, {each}], got {dtype} of shape {found}"
            )));
        }
    }
    Ok(())
}

/// The gradient of [`voxelize`](super::voxelize) by the features.
///
/// * `grad`: `[B, C, X * Y * Z]`, any strides.
/// * `features`: read for `"max"` and `"min"` only.
/// * `counted`: for `"mean"` only, what [`voxelize_counted`] found for these clouds. Without it points are counted again.
/// * `output`: dense `[B, N, C]` of the gradient's type.
/// * `workspace`: as planned with `backward`, or with `counted` by [`voxelize_counted_workspace`].
///
/// # Errors
/// As for [`voxelize`](super::voxelize).
#[allow(clippy::too_many_arguments)]
pub fn voxelize_backward(
    grad: View,
    points: View,
    features: Option<View>,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    reduce: &str,
    lengths: Option<View>,
    counted: Option<Counted>,
    output: &mut ViewMut,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    const OP: &str = "voxelize_backward";
    let call = call_of(OP, points, features, origin, voxel_size, grid_size, reduce, lengths, Reduce::picks, place)?;
    let Call { clouds, features, reduce: kind } = &call;
    if !kind.reads_features() {
        return Err(Error::Value(format!("{OP}: reduce must read features, got \"{reduce}\"")));
    }
    let cells = cells_of(OP, &clouds.grid)?;
    if !grad.dtype().is_floating() {
        let found = grad.dtype().name();
        return Err(Error::Type(format!("{OP}: grad must be float64, float32, float16 or bfloat16, got {found}")));
    }
    let picked = kind.picks().then_some(*features).flatten();
    let channels = picked.map_or(grad.size(1), |features| features.size(2));
    if grad.rank() != 3 || grad.shape().sizes() != [clouds.batch(), channels, cells] {
        let (batch, found) = (clouds.batch(), grad.shape());
        return Err(Error::Value(format!("{OP}: grad must have shape [{batch}, {channels}, {cells}], got {found}")));
    }
    if let Some(features) = picked.filter(|features| features.dtype() != grad.dtype()) {
        let (wanted, found) = (features.dtype().name(), grad.dtype().name());
        return Err(Error::Type(format!("{OP}: grad must be {wanted} (as features), got {found}")));
    }
    if let Some(counted) = &counted {
        check_counted(OP, counted, *kind, clouds, cells)?;
    }
    output.check(OP, grad.dtype(), [clouds.batch(), clouds.points(), grad.size(1)])?;
    let plan = plan::Workspace::new(OP, clouds.batch(), clouds.points(), cells, *kind, true, place.0.is_cuda())?;
    let borrowed = match counted {
        Some(_) => gradient_plan::shares_bytes(
            clouds.batch(),
            clouds.points(),
            channels,
            cells,
            grad.dtype().size(),
            place.0.is_cuda(),
        ),
        None => plan.bytes,
    };
    check_workspace(OP, workspace, borrowed)?;
    if output.is_empty() {
        return Ok(());
    }
    match place.0 {
        Where::Cpu(threads) => {
            let (output, workspace) = (output.data(), workspace.data());
            cpu_backward::backward(clouds, grad, *features, *kind, counted, output, &plan, workspace, threads);
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => {
            let (output, workspace) = (output.data(), workspace.data());
            cuda_backward::backward(OP, clouds, grad, *features, *kind, counted, output, &plan, workspace, stream)
        }
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(crate::ops::resample::no_cuda(OP)),
    }
}

/// Bytes that [`voxelize_backward`] borrows with what was counted, for a gradient of so many channels of `item` bytes.
///
/// # Errors
/// As for [`voxelize_workspace`](super::voxelize_workspace).
pub fn voxelize_counted_workspace(
    batch: usize,
    points: usize,
    channels: usize,
    grid_size: &[i64],
    item: usize,
    place: &Place,
) -> Result<usize> {
    let grid = Grid::new(VOXELIZE, DType::F64, &[0.0; 3], &[1.0], grid_size, None)?;
    Ok(gradient_plan::shares_bytes(batch, points, channels, cells_of(VOXELIZE, &grid)?, item, place.0.is_cuda()))
}

/// Whether the mean that a derivative will be asked of is worth keeping its counts for it; -1 stands for a number that is
/// not known yet, which is never worth it. Nor is a grid that there cannot be: the operator says what is wrong with it.
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub(crate) fn keeps_counts(batch: i64, points: i64, channels: i64, grid_size: &[i64], item: usize, cuda: bool) -> bool {
    let known = [batch, points, channels].map(usize::try_from);
    let [Ok(batch), Ok(points), Ok(channels)] = known else { return false };
    let grid = Grid::new(VOXELIZE, DType::F64, &[0.0; 3], &[1.0], grid_size, None);
    let Ok(cells) = grid.and_then(|grid| cells_of(VOXELIZE, &grid)) else { return false };
    cuda && i32::try_from(cells).is_ok() && gradient_plan::keeps_counts(batch, points, channels, cells, item)
}
