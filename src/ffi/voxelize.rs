//! The functions of the bridge that are about space.

use super::bridge::{Kind, Operand, Place};
use super::calls::{Told, told};
use super::operand::dtype;
use crate::error::Error;
use crate::ops::voxelize::reduce::Reduce;
use crate::ops::voxelize::{self as space, derivatives, grid};

#[allow(clippy::too_many_arguments)]
pub fn voxelize(
    points: &Operand,
    features: &Operand,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    reduce: &str,
    lengths: &Operand,
    output: &Operand,
    workspace: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        crate::voxelize(
            points.view("points")?,
            features.optional(),
            origin,
            voxel_size,
            grid_size,
            reduce,
            lengths.optional(),
            &mut output.output()?,
            &mut workspace.output()?,
            &place.place(),
        )
    })
}

#[allow(clippy::too_many_arguments)]
pub fn voxelize_counted(
    points: &Operand,
    features: &Operand,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    lengths: &Operand,
    output: &Operand,
    counts: &Operand,
    point_voxel: &Operand,
    workspace: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        crate::voxelize_counted(
            points.view("points")?,
            features.view("features")?,
            origin,
            voxel_size,
            grid_size,
            lengths.optional(),
            &mut output.output()?,
            &mut counts.output()?,
            &mut point_voxel.output()?,
            &mut workspace.output()?,
            &place.place(),
        )
    })
}

#[allow(clippy::too_many_arguments)]
pub fn voxelize_tangent(
    tangent: &Operand,
    points: &Operand,
    features: &Operand,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    reduce: &str,
    lengths: &Operand,
    output: &Operand,
    workspace: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        crate::voxelize_tangent(
            tangent.view("tangent")?,
            points.view("points")?,
            features.view("features")?,
            origin,
            voxel_size,
            grid_size,
            reduce,
            lengths.optional(),
            &mut output.output()?,
            &mut workspace.output()?,
            &place.place(),
        )
    })
}

#[allow(clippy::too_many_arguments)]
pub fn voxelize_backward(
    grad: &Operand,
    points: &Operand,
    features: &Operand,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    reduce: &str,
    lengths: &Operand,
    counts: &Operand,
    point_voxel: &Operand,
    output: &Operand,
    workspace: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        let counted = match counts.optional() {
            None => None,
            Some(counts) => Some(crate::Counted { counts, point_voxel: point_voxel.view("point_voxel")? }),
        };
        crate::voxelize_backward(
            grad.view("grad")?,
            points.view("points")?,
            features.optional(),
            origin,
            voxel_size,
            grid_size,
            reduce,
            lengths.optional(),
            counted,
            &mut output.output()?,
            &mut workspace.output()?,
            &place.place(),
        )
    })
}

pub fn voxelize_counted_workspace(
    batch: usize,
    points: usize,
    channels: usize,
    grid_size: &[i64],
    item: usize,
    place: &Place,
) -> Told<usize> {
    told(|| crate::voxelize_counted_workspace(batch, points, channels, grid_size, item, &place.place()))
}

/// Whether a recorded mean keeps the counts of its voxels for its gradient; sizes that are not known yet are -1.
pub fn keeps_counts(batch: i64, points: i64, channels: i64, grid_size: &[i64], item: usize, cuda: bool) -> bool {
    derivatives::keeps_counts(batch, points, channels, grid_size, item, cuda)
}

pub fn voxelize_workspace(
    batch: usize,
    points: usize,
    grid_size: &[i64],
    reduce: &str,
    backward: bool,
    place: &Place,
) -> Told<usize> {
    told(|| crate::voxelize_workspace(batch, points, grid_size, reduce, backward, &place.place()))
}

#[allow(clippy::too_many_arguments)]
pub fn voxelize_sparse_rows(
    points: &Operand,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    lengths: &Operand,
    order: &Operand,
    num_voxels: &Operand,
    workspace: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        crate::voxelize_sparse_rows(
            points.view("points")?,
            origin,
            voxel_size,
            grid_size,
            lengths.optional(),
            &mut order.output()?,
            &mut num_voxels.output()?,
            &mut workspace.output()?,
            &place.place(),
        )
    })
}

#[allow(clippy::too_many_arguments)]
pub fn voxelize_sparse_fill(
    points: &Operand,
    grid_size: &[i64],
    order: &Operand,
    num_voxels: &Operand,
    coords: &Operand,
    counts: &Operand,
    starts: &Operand,
    point_voxel: &Operand,
    workspace: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        crate::voxelize_sparse_fill(
            points.view("points")?,
            grid_size,
            order.view("order")?,
            num_voxels.view("num_voxels")?,
            &mut coords.output()?,
            &mut counts.output()?,
            &mut starts.output()?,
            &mut point_voxel.output()?,
            &mut workspace.output()?,
            &place.place(),
        )
    })
}

pub fn voxelize_sparse_workspace(batch: usize, points: usize, grid_size: &[i64], place: &Place) -> Told<usize> {
    told(|| crate::voxelize_sparse_workspace(batch, points, grid_size, &place.place()))
}

#[allow(clippy::too_many_arguments)]
pub fn voxelize_sparse_values(
    features: &Operand,
    coords: &Operand,
    counts: &Operand,
    order: &Operand,
    starts: &Operand,
    reduce: &str,
    tangent: &Operand,
    output: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        crate::voxelize_sparse_values(
            features.view("features")?,
            coords.view("coords")?,
            counts.view("counts")?,
            order.view("order")?,
            starts.view("starts")?,
            reduce,
            tangent.optional(),
            &mut output.output()?,
            &place.place(),
        )
    })
}

#[allow(clippy::too_many_arguments)]
pub fn voxelize_sparse_backward(
    grad: &Operand,
    features: &Operand,
    coords: &Operand,
    counts: &Operand,
    order: &Operand,
    starts: &Operand,
    point_voxel: &Operand,
    reduce: &str,
    output: &Operand,
    place: &Place,
) -> Told<()> {
    told(|| {
        crate::voxelize_sparse_backward(
            grad.view("grad")?,
            features.optional(),
            coords.view("coords")?,
            counts.view("counts")?,
            order.view("order")?,
            starts.view("starts")?,
            point_voxel.view("point_voxel")?,
            reduce,
            &mut output.output()?,
            &place.place(),
        )
    })
}

pub fn check_grid(
    op: &str,
    points: Kind,
    origin: &[f64],
    voxel_size: &[f64],
    grid_size: &[i64],
    sparse: bool,
) -> Told<()> {
    told(|| {
        let points = dtype(points).ok_or_else(|| Error::Type(format!("{op}: points must be floating")))?;
        space::check_grid(op, points, origin, voxel_size, grid_size, sparse)
    })
}

pub fn check_result(op: &str, grid_size: &[i64], batch: i64, channels: i64, item: usize) -> Told<()> {
    told(|| space::check_result(op, grid_size, batch, channels, item))
}

pub fn check_reduce(op: &str, reduce: &str) -> Told<()> {
    told(|| space::check_reduce(op, reduce))
}

pub fn check_lengths(op: &str, lengths: &Operand, points: usize) -> Told<()> {
    // SAFETY: csrc calls this with host tensors only, whose shape and type it has checked.
    told(|| unsafe { grid::check_lengths(op, lengths.view("lengths")?, points) })
}

pub fn reads_features(reduce: &str) -> bool {
    Reduce::read("", reduce).is_ok_and(Reduce::reads_features)
}

pub fn picks(reduce: &str) -> bool {
    Reduce::read("", reduce).is_ok_and(Reduce::picks)
}
