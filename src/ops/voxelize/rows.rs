//! What the points of one voxel come to, in host memory.

use super::exact::{Feature, quotient};
use super::reduce::Reduce;
use crate::tensor::View;

/// The features `[B, N, C]` of one cloud and one channel, by point.
#[derive(Clone, Copy)]
pub struct Column<'v, 'a> {
    view: &'v View<'a>,
    first: isize,
}

impl<'v, 'a> Column<'v, 'a> {
    /// Channel `channel` of cloud `cloud`.
    pub fn new(view: &'v View<'a>, cloud: usize, channel: usize) -> Self {
        Column { view, first: cloud as isize * view.stride(0) + channel as isize * view.stride(2) }
    }

    /// A point's feature.
    ///
    /// # Safety
    /// Host memory of type `F`; the cloud, the channel and `point` lie within the shape.
    #[inline(always)]
    pub unsafe fn at<F: Feature>(&self, point: usize) -> F {
        // SAFETY: the caller's promise.
        unsafe { *self.view.at::<F>(self.first + point as isize * self.view.stride(1)) }
    }
}

/// Greater for what `reduce` prefers: a NaN before all, and of zeros the positive one is the greater.
#[inline(always)]
fn preference(value: f64, reduce: Reduce) -> u64 {
    if value.is_nan() {
        return u64::MAX;
    }
    let bits = value.to_bits();
    let ascending = if bits >> 63 == 0 { bits | 1 << 63 } else { !bits };
    if reduce == Reduce::Max { ascending } else { !ascending }
}

/// The first point, by index, that holds the extremum; there is at least one point.
///
/// # Safety
/// As for [`Column::at`], for every point.
pub unsafe fn holder<F: Feature>(column: &Column, points: &[i32], reduce: Reduce) -> usize {
    let mut best = (0, i32::MAX);
    for &point in points {
        // SAFETY: the caller's promise.
        let preferred = preference(unsafe { column.at::<F>(point as usize) }.to_f64(), reduce);
        if preferred > best.0 || preferred == best.0 && point < best.1 {
            best = (preferred, point);
        }
    }
    best.1 as usize
}

/// The value of a voxel, of at least one point.
///
/// # Safety
/// As for [`Column::at`], for every point, of `tangent` too.
pub unsafe fn value<F: Feature>(column: &Column, tangent: Option<&Column>, points: &[i32], reduce: Reduce) -> F {
    if reduce.picks() {
        // SAFETY: the caller's promise.
        return unsafe { tangent.unwrap_or(column).at(holder::<F>(column, points, reduce)) };
    }
    let count = if reduce == Reduce::Mean { points.len() as u64 } else { 1 };
    let column = tangent.unwrap_or(column);
    // SAFETY: the caller's promise.
    quotient(points.iter().map(|&point| unsafe { column.at::<F>(point as usize) }), count)
}
