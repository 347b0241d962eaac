//! `voxelize` and `voxelize_sparse` on [`tch::Tensor`](::tch::Tensor).

use super::{address, adopted, error, owned};
use crate::error::Result;
use crate::ffi::bridge;
use ::tch::Tensor;

/// The optional arguments of [`voxelize`]; the default says which voxels have a point.
#[derive(Clone, Copy, Debug)]
pub struct VoxelizeOptions<'a> {
    /// What a voxel says of its points: `occupancy` (bool), `count` (int32), or of their features, in their type:
    /// `sum` and `mean` (exact, rounded once), `max` or `min`.
    pub reduce: &'a str,
    /// `[B]` (`[1]` for one cloud), int32 or int64, from 0 to `N`: the valid points of each cloud. `None`: all.
    pub lengths: Option<&'a Tensor>,
}

impl Default for VoxelizeOptions<'_> {
    fn default() -> Self {
        VoxelizeOptions { reduce: "occupancy", lengths: None }
    }
}

/// The optional arguments of [`voxelize_sparse`]; the default takes means, in as many rows as there are voxels.
#[derive(Clone, Copy, Debug)]
pub struct VoxelizeSparseOptions<'a> {
    /// As for [`VoxelizeOptions`]; with `occupancy` and `count` there are no values.
    pub reduce: &'a str,
    /// The number of rows, whatever the points are, so that CUDA need not wait for it: rows that are left over have
    /// coords -1 and zeros, and the last voxels, if there are more, are dropped. `None`: as many as there are voxels.
    pub capacity: Option<usize>,
    /// As for [`VoxelizeOptions`].
    pub lengths: Option<&'a Tensor>,
}

impl Default for VoxelizeSparseOptions<'_> {
    fn default() -> Self {
        VoxelizeSparseOptions { reduce: "mean", capacity: None, lengths: None }
    }
}

/// What [`voxelize_sparse`] returns: a row for each of `M` voxels, in the order of `(b, x, y, z)`.
#[derive(Debug)]
pub struct SparseVoxels {
    /// `[M, 4]` int32: `(b, x, y, z)` of each row; -1 in a row that is not used.
    pub coords: Tensor,
    /// `[M, C]`: what each voxel says of its points' features; `[M, 0]` where there is nothing to say.
    pub values: Tensor,
    /// `[M]` int32: the points of each voxel.
    pub counts: Tensor,
    /// `[B, N]` int64 (`[N]` for one cloud): the row of each point's voxel, or -1.
    pub point_voxel: Tensor,
    /// `[1]` int64: how many voxels have points, those past the capacity too.
    pub num_voxels: Tensor,
}

/// Turns point clouds into dense grids.
///
/// * `points`: `[B, N, 3]`, or `[N, 3]` for one cloud, with any strides, in metres or any other unit; f64, f32, f16 or
///   bf16.
/// * `features`: `[B, N, C]` or `[N, C]`, of a floating type that need not be the points'. `None`, or not read, for
///   `occupancy` and `count`.
/// * `origin`: the lowest corner of the grid, 3 numbers in the unit of the points.
/// * `voxel_size`: the edges of a voxel, 3 positive numbers, or 1 for a cube.
/// * `grid_size`: voxels along x, y and z.
/// * Returns `[B, X, Y, Z]`, with features that are read `[B, C, X, Y, Z]`, dense; without `B` for one cloud.
///
/// The voxel of a point is `floor((p - origin) / voxel_size)` along each axis, in the points' type (f32 for the
/// halves). A point outside the grid, or with a NaN or infinite coordinate, is dropped. An empty voxel is false or 0. A
/// NaN feature makes its voxel NaN, and for `max` and `min` -0 is less than +0.
///
/// Differentiable in `features`, any number of times: `max` and `min` send the gradient to the first point that holds
/// the extremum. Points get none.
///
/// # Errors
///
/// As for [`resample`](super::resample). Lengths outside `[0, N]` are found on the CPU, on CUDA with
/// `ROBOCACHE_CHECK=1` only.
///
/// # Example
///
/// ```
/// use robocache::tch::{VoxelizeOptions, voxelize};
/// use tch::Tensor;
///
/// let points = Tensor::from_slice(&[0.1f32, 0.2, 0.0, 0.4, 0.1, 0.3, -0.2, 0.7, 0.0]).reshape([3, 3]); // metres
/// let (origin, voxel_size, grid_size) = ([-0.5, 0.0, 0.0], [0.5], [2, 2, 1]);
///
/// let count = VoxelizeOptions { reduce: "count", ..Default::default() };
/// let counts = voxelize(&points, None, &origin, &voxel_size, &grid_size, count)?;
/// assert_eq!(counts, Tensor::from_slice(&[0i32, 1, 2, 0]).reshape([2, 2, 1]));
///
/// let intensity = Tensor::from_slice(&[1.0f32, 2.0, 5.0]).reshape([3, 1]);
/// let mean = VoxelizeOptions { reduce: "mean", ..Default::default() };
/// let means = voxelize(&points, Some(&intensity), &origin, &voxel_size, &grid_size, mean)?;
/// assert_eq!(means, Tensor::from_slice(&[0.0f32, 5.0, 1.5, 0.0]).reshape([1, 2, 2, 1]));
/// # Ok::<(), robocache::Error>(())
/// ```
pub fn voxelize(
    points: &Tensor,
    features: Option<&Tensor>,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    options: VoxelizeOptions<'_>,
) -> Result<Tensor> {
    let (features, lengths) = (features.map_or(0, address), options.lengths.map_or(0, address));
    // SAFETY: as for `resample`: every address is that of a tensor that is borrowed for the whole call.
    owned(unsafe {
        bridge::tch_voxelize(address(points), features, origin, voxel_size, grid_size, options.reduce, lengths)
    })
}

/// Turns point clouds into rows for the occupied voxels only: memory grows with the points, not with the grid.
///
/// The arguments are as for [`voxelize`], `grid_size` at most 2^21 along each axis; the values are its bits. Without
/// `features` there are no values.
///
/// Differentiable in `features` through `values`, as [`voxelize`] is.
///
/// # Errors
///
/// As for [`voxelize`].
///
/// # Example
///
/// ```
/// use robocache::tch::{VoxelizeSparseOptions, voxelize_sparse};
/// use tch::Tensor;
///
/// let points = Tensor::from_slice(&[0.1f32, 0.2, 0.0, 0.4, 0.1, 0.3, -0.2, 0.7, 0.0]).reshape([3, 3]); // metres
/// let intensity = Tensor::from_slice(&[1.0f32, 2.0, 5.0]).reshape([3, 1]);
/// let (origin, voxel_size, grid_size) = ([-0.5, 0.0, 0.0], [0.5], [2, 2, 1]);
///
/// let options = VoxelizeSparseOptions::default();
/// let voxels = voxelize_sparse(&points, Some(&intensity), &origin, &voxel_size, &grid_size, options)?;
/// assert_eq!(voxels.coords, Tensor::from_slice(&[0i32, 0, 1, 0, 0, 1, 0, 0]).reshape([2, 4]));
/// assert_eq!(voxels.values, Tensor::from_slice(&[5.0f32, 1.5]).reshape([2, 1]));
/// assert_eq!(voxels.point_voxel, Tensor::from_slice(&[1i64, 1, 0]));
/// # Ok::<(), robocache::Error>(())
/// ```
pub fn voxelize_sparse(
    points: &Tensor,
    features: Option<&Tensor>,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    options: VoxelizeSparseOptions<'_>,
) -> Result<SparseVoxels> {
    let (features, lengths) = (features.map_or(0, address), options.lengths.map_or(0, address));
    // More rows than i64 can name are more than any memory can hold: torch says so.
    let capacity = options.capacity.map_or(-1, |rows| i64::try_from(rows).unwrap_or(i64::MAX));
    // SAFETY: as for `voxelize`.
    let found = unsafe {
        bridge::tch_voxelize_sparse(
            address(points),
            features,
            origin,
            voxel_size,
            grid_size,
            options.reduce,
            capacity,
            lengths,
        )
    };
    let found = found.map_err(|exception| error(exception.what()))?;
    // SAFETY: C++ made these tensors for the caller alone, and each is adopted once.
    Ok(unsafe {
        SparseVoxels {
            coords: adopted(found.coords),
            values: adopted(found.values),
            counts: adopted(found.counts),
            point_voxel: adopted(found.point_voxel),
            num_voxels: adopted(found.num_voxels),
        }
    })
}
