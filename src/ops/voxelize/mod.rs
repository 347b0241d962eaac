//! `voxelize`: what the points of a cloud say of each voxel of a grid. The contract, the checks and the choice of
//! backend.
//!
//! The voxel of a point is `floor((p - origin) / voxel_size)` along each axis, in the points' type (f32 for the
//! halves), the division rounded as IEEE 754 says; [`grid`] has that rule. A point outside the grid, or with a NaN or
//! infinite coordinate, is dropped. Sums are exact and rounded once ([`exact`]), so that no order of the points
//! matters.

pub mod bins;
pub(crate) mod cells_cpu;
pub(crate) mod cpu;
mod cpu_backward;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "cuda")]
mod cuda_backward;
pub(crate) mod derivatives;
pub mod exact;
pub(crate) mod gradient_plan;
pub mod grid;
pub(crate) mod groups_cpu;
pub mod launches;
#[cfg(feature = "cuda")]
pub(crate) mod params;
pub mod plan;
pub mod reduce;
pub(crate) mod rows;
pub(crate) mod sort_cpu;
pub mod tiling;

use crate::device::{Place, Where};
use crate::error::{Error, Result};
use crate::tensor::{DType, View, ViewMut};
use grid::{Clouds, Grid, MOST_POINTS, MOST_SPARSE};
use reduce::Reduce;
use std::ptr::null_mut;

const OP: &str = "voxelize";

/// Refuses points that are not `[B, N, 3]` or `[N, 3]` of a floating type; `[N, 3]` becomes `[1, N, 3]`.
pub(crate) fn batched<'a>(op: &str, points: View<'a>) -> Result<View<'a>> {
    let shape = points.shape();
    if !points.dtype().is_floating() {
        let found = points.dtype().name();
        return Err(Error::Type(format!("{op}: points must be float64, float32, float16 or bfloat16, got {found}")));
    }
    if !matches!(points.rank(), 2 | 3) || points.size(points.rank() - 1) != 3 {
        return Err(Error::Value(format!("{op}: points must have shape [B, N, 3] or [N, 3], got {shape}")));
    }
    let points = if points.rank() == 2 { points.repeat(1) } else { points };
    if points.size(1) > MOST_POINTS {
        let found = points.size(1);
        return Err(Error::Value(format!("{op}: points must have at most {MOST_POINTS} points a cloud, got {found}")));
    }
    Ok(points)
}

/// Refuses features that do not go with the points; `[N, C]` becomes `[1, N, C]`.
fn features_of<'a>(op: &str, features: View<'a>, points: &View, single: bool) -> Result<View<'a>> {
    if !features.dtype().is_floating() {
        let found = features.dtype().name();
        return Err(Error::Type(format!("{op}: features must be float64, float32, float16 or bfloat16, got {found}")));
    }
    let (batch, count, found) = (points.size(0), points.size(1), features.shape());
    if single {
        if features.rank() != 2 || features.size(0) != count {
            let wanted = format!("[N, C] with N = {count}");
            return Err(Error::Value(format!("{op}: features must have shape {wanted}, got {found}")));
        }
        return Ok(features.repeat(1));
    }
    if features.rank() != 3 || features.size(0) != batch || features.size(1) != count {
        let wanted = format!("[B, N, C] with B = {batch} and N = {count}");
        return Err(Error::Value(format!("{op}: features must have shape {wanted}, got {found}")));
    }
    Ok(features)
}

/// What a reduction finds on its way and leaves where somebody asks; null where nobody does.
#[derive(Clone, Copy)]
struct Findings {
    /// int32 for each cell: how many points it has.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    counts: *mut u8,
    /// int32 for each point: its cell, or -1.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    point_voxel: *mut u8,
}

impl Findings {
    const UNASKED: Findings = Findings { counts: null_mut(), point_voxel: null_mut() };
}

/// A checked call.
struct Call<'a> {
    clouds: Clouds<'a>,
    features: Option<View<'a>>,
    reduce: Reduce,
}

#[allow(clippy::too_many_arguments)]
fn call_of<'a>(
    op: &str,
    points: View<'a>,
    features: Option<View<'a>>,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    reduce: &str,
    lengths: Option<View<'a>>,
    needs_features: impl Fn(Reduce) -> bool,
    place: &Place,
) -> Result<Call<'a>> {
    let single = points.rank() == 2;
    let points = batched(op, points)?;
    let kind = Reduce::read(op, reduce)?;
    if features.is_none() && needs_features(kind) {
        return Err(Error::Value(format!("{op}: features must be given where reduce is \"{reduce}\", got none")));
    }
    let features = features.map(|features| features_of(op, features, &points, single)).transpose()?;
    let grid = Grid::new(op, points.dtype(), origin, voxel_size, grid_size, None)?;
    let read = features.filter(|_| kind.reads_features());
    let item = kind.output(features.map_or(points.dtype(), |features| features.dtype())).size();
    grid.check_result(op, points.size(0), read.map_or(1, |features| features.size(2)), item)?;
    let clouds = Clouds::new(op, points, grid, lengths)?;
    if let (Where::Cpu(_), Some(lengths)) = (place.0, lengths) {
        // SAFETY: a place on the CPU goes with views of host memory (`View`'s constructors); `Clouds::new` checked
        // them.
        unsafe { grid::check_lengths(op, lengths, clouds.points())? };
    }
    Ok(Call { clouds, features: read, reduce: kind })
}

fn cells_of(op: &str, grid: &Grid) -> Result<usize> {
    let cells =
        grid.cells().and_then(|cells| usize::try_from(cells).ok()).filter(|&cells| cells <= isize::MAX as usize);
    cells.ok_or_else(|| {
        let size = grid.size;
        Error::Value(format!("{op}: grid_size must make a result of less than 2^63 bytes, got {size:?}"))
    })
}

/// Refuses a workspace that is smaller than planned.
pub(crate) fn check_workspace(op: &str, workspace: &ViewMut, bytes: usize) -> Result<()> {
    let found = workspace.bytes();
    if found < bytes {
        return Err(Error::Value(format!("{op}: workspace must have at least {bytes} bytes, got {found}")));
    }
    if bytes > 0 && !workspace.data().addr().is_multiple_of(16) {
        return Err(Error::Value(format!("{op}: workspace must be aligned to 16 bytes")));
    }
    Ok(())
}

/// Reduces each cloud to a grid.
///
/// * `points`: `[B, N, 3]` or `[N, 3]`, metres; f64, f32, f16 or bf16, any strides.
/// * `features`: `[B, N, C]` (`[N, C]`) of a floating type; not read for `"occupancy"` and `"count"`.
/// * `origin`, `voxel_size` (1 or 3 numbers, positive), `grid_size`: the grid, metres and voxels.
/// * `reduce`: `"occupancy"`, `"count"`, `"sum"`, `"mean"`, `"max"` or `"min"`.
/// * `lengths`: `[B]` int32 or int64, valid points of each cloud, in `[0, N]`.
/// * `output`: dense; bool `[B, X, Y, Z]` for occupancy, int32 for count, else `[B, C, X, Y, Z]` of the features' type.
/// * `workspace`: bytes as [`voxelize_workspace`] plans them, aligned to 16.
///
/// # Errors
/// [`Error::Value`] and [`Error::Type`] name the argument, what must hold and what was found; nothing is written then.
/// [`Error::Unsupported`] where the place is a CUDA stream and this build or machine has no CUDA.
///
/// # Examples
/// ```
/// use robocache::{Place, Serial, View, ViewMut, voxelize, voxelize_workspace};
///
/// let points = [0.5f32, 0.5, 0.5, 0.2, 0.9, 0.1, 1.5, 0.0, 0.0]; // metres
/// let heights = [1.0f32, 2.0, 7.0];
/// let place = Place::cpu(&Serial);
/// let mut workspace = vec![0u128; voxelize_workspace(1, 3, &[2, 1, 1], "mean", false, &place)?.div_ceil(16)];
/// # let bytes = workspace.len() * 16;
/// # let workspace: &mut [u8] = unsafe { std::slice::from_raw_parts_mut(workspace.as_mut_ptr().cast(), bytes) };
/// let mut grid = [0.0f32; 2];
/// voxelize(
///     View::new(&points, &[3, 3])?,
///     Some(View::new(&heights, &[3, 1])?),
///     &[0.0, 0.0, 0.0],
///     &[1.0],
///     &[2, 1, 1],
///     "mean",
///     None,
///     &mut ViewMut::new(&mut grid, &[2])?,
///     &mut ViewMut::new(workspace, &[bytes])?,
///     &place,
/// )?;
/// assert_eq!(grid, [1.5, 7.0]);
/// # Ok::<(), robocache::Error>(())
/// ```
#[allow(clippy::too_many_arguments)]
pub fn voxelize(
    points: View,
    features: Option<View>,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    reduce: &str,
    lengths: Option<View>,
    output: &mut ViewMut,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    let needs = Reduce::reads_features;
    let call = call_of(OP, points, features, origin, voxel_size, grid_size, reduce, lengths, needs, place)?;
    forward(OP, &call, None, output, Findings::UNASKED, workspace, place)
}

fn forward(
    op: &'static str,
    call: &Call,
    tangent: Option<View>,
    output: &mut ViewMut,
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))] findings: Findings,
    workspace: &mut ViewMut,
    place: &Place,
) -> Result<()> {
    let Call { clouds, features, reduce } = call;
    let cells = cells_of(op, &clouds.grid)?;
    let channels = features.map_or(1, |features| features.size(2));
    let dtype = reduce.output(features.map_or(DType::F32, |features| features.dtype()));
    output.check(op, dtype, [clouds.batch(), channels, cells])?;
    let plan = plan::Workspace::new(op, clouds.batch(), clouds.points(), cells, *reduce, false, place.0.is_cuda())?;
    check_workspace(op, workspace, plan.bytes)?;
    if output.is_empty() {
        return Ok(());
    }
    match place.0 {
        Where::Cpu(threads) => {
            cpu::forward(clouds, *features, tangent, *reduce, output.data(), &plan, workspace.data(), threads);
            Ok(())
        }
        #[cfg(feature = "cuda")]
        Where::Cuda(stream) => {
            let (output, workspace) = (output.data(), workspace.data());
            cuda::forward(op, clouds, *features, tangent, *reduce, output, findings, &plan, workspace, stream)
        }
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => Err(crate::ops::resample::no_cuda(op)),
    }
}

/// Bytes that a call of that many clouds of that many points borrows: [`voxelize`] and
/// [`voxelize_tangent`](crate::voxelize_tangent), or with `backward` [`voxelize_backward`](crate::voxelize_backward).
///
/// # Errors
/// [`Error::Value`] where no memory could hold it.
pub fn voxelize_workspace(
    batch: usize,
    points: usize,
    grid_size: &[i64],
    reduce: &str,
    backward: bool,
    place: &Place,
) -> Result<usize> {
    let reduce = Reduce::read(OP, reduce)?;
    let grid = Grid::new(OP, DType::F64, &[0.0; 3], &[1.0], grid_size, None)?;
    let plan = plan::Workspace::new(OP, batch, points, cells_of(OP, &grid)?, reduce, backward, place.0.is_cuda())?;
    Ok(plan.bytes)
}

/// Refuses a grid that points of that type cannot have.
///
/// # Errors
/// [`Error::Value`] names the argument.
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub(crate) fn check_grid(
    op: &str,
    points: DType,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    sparse: bool,
) -> Result<()> {
    Grid::new(op, points, origin, voxel_size, grid_size, sparse.then_some(MOST_SPARSE)).map(|_| ())
}

/// Refuses a dense result that is too large; -1 stands for a number that is not known yet.
///
/// # Errors
/// [`Error::Value`].
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub(crate) fn check_result(op: &str, grid_size: &[i64], batch: i64, channels: i64, item: usize) -> Result<()> {
    let grid = Grid::new(op, DType::F64, &[0.0; 3], &[1.0], grid_size, None)?;
    grid.check_result(op, usize::try_from(batch).unwrap_or(1), usize::try_from(channels).unwrap_or(1), item)
}

/// Refuses an unknown reduction.
///
/// # Errors
/// [`Error::Value`].
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
pub(crate) fn check_reduce(op: &str, reduce: &str) -> Result<()> {
    Reduce::read(op, reduce).map(|_| ())
}
