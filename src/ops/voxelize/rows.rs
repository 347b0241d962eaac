//! What the points of one voxel come to, in host memory.

use super::exact::{Feature, add, quotient};
use super::reduce::Reduce;
use crate::simd::prefetch_all;
use crate::tensor::View;

/// Channels that are summed side by side: a vector of f64, or two.
const WIDE: usize = 8;
/// As [`WIDE`], of what is left.
const NARROW: usize = 4;
/// Bytes of a point that are asked for; what follows is read in order, which the machine foresees by itself.
const FETCHED: usize = 512;

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

/// The value of a channel of a voxel, of at least one point.
///
/// # Safety
/// As for [`Column::at`], for every point, of `tangent` too.
unsafe fn value<F: Feature>(column: &Column, tangent: Option<&Column>, points: &[i32], reduce: Reduce) -> F {
    if reduce.picks() {
        // SAFETY: the caller's promise.
        return unsafe { tangent.unwrap_or(column).at(holder::<F>(column, points, reduce)) };
    }
    let count = if reduce == Reduce::Mean { points.len() as u64 } else { 1 };
    let column = tangent.unwrap_or(column);
    // SAFETY: the caller's promise.
    quotient(points.iter().map(|&point| unsafe { column.at::<F>(point as usize) }), count)
}

/// What reduces the voxels of a cloud.
#[derive(Clone, Copy)]
pub struct Voxels<'v, 'a> {
    /// `[B, N, C]`.
    pub features: &'v View<'a>,
    /// As the features; its derivative instead of the value.
    pub tangent: Option<&'v View<'a>>,
    /// Which of the batch.
    pub cloud: usize,
    /// How.
    pub reduce: Reduce,
}

/// Where the channels of a voxel are written: `step` elements apart.
#[derive(Clone, Copy)]
pub struct Place<F> {
    /// The first channel's.
    pub first: *mut F,
    /// Elements between channels.
    pub step: usize,
}

impl Voxels<'_, '_> {
    /// Reads ahead what a point gives.
    #[inline(always)]
    pub fn fetch<F: Feature>(&self, point: i32) {
        let view = self.tangent.unwrap_or(self.features);
        let offset = self.cloud as isize * view.stride(0) + point as isize * view.stride(1);
        let bytes = if view.stride(2) == 1 { view.size(2) * size_of::<F>() } else { 1 };
        prefetch_all(view.data().cast::<F>().wrapping_offset(offset), bytes.min(FETCHED));
    }

    /// Writes every channel of a voxel of at least one point.
    ///
    /// # Safety
    /// As for [`Column::at`], for every point, of `tangent` too; the places are this thread's.
    #[inline(always)]
    pub unsafe fn reduce<F: Feature>(&self, points: &[i32], place: Place<F>) {
        let channels = self.features.size(2);
        let mut channel = 0;
        // SAFETY: the caller's promise.
        unsafe {
            if !self.reduce.picks() && self.tangent.unwrap_or(self.features).stride(2) == 1 {
                channel = self.sum::<F, WIDE>(points, channel, place);
                channel = self.sum::<F, NARROW>(points, channel, place);
            }
            while channel < channels {
                place.first.add(channel * place.step).write(self.one(points, channel));
                channel += 1;
            }
        }
    }

    unsafe fn one<F: Feature>(&self, points: &[i32], channel: usize) -> F {
        let column = |view| Column::new(view, self.cloud, channel);
        // SAFETY: the caller's promise, that of `reduce`.
        unsafe { value(&column(self.features), self.tangent.map(column).as_ref(), points, self.reduce) }
    }

    /// Sums or means of as many times `W` channels as there are from `channel` on; the next channel.
    #[inline(always)]
    unsafe fn sum<F: Feature, const W: usize>(&self, points: &[i32], mut channel: usize, place: Place<F>) -> usize {
        let view = self.tangent.unwrap_or(self.features);
        let count = if self.reduce == Reduce::Mean { points.len() as f64 } else { 1.0 };
        while channel + W <= view.size(2) {
            let offset = self.cloud as isize * view.stride(0) + channel as isize;
            let mut values = [F::narrow_from(0.0); W];
            let (mut sums, mut inexact) = ([0.0f64; W], [0u64; W]);
            for &point in points {
                // SAFETY: the caller's promise, that of `reduce`: `W` neighbouring channels of a point.
                let row = unsafe { &*view.at::<F>(offset + point as isize * view.stride(1)).cast::<[F; W]>() };
                if points.len() == 1 {
                    for (value, number) in values.iter_mut().zip(row) {
                        *value = number.alone();
                    }
                    break;
                }
                for ((sum, inexact), number) in sums.iter_mut().zip(&mut inexact).zip(row) {
                    let (next, exact) = add(*sum, number.to_f64());
                    (*sum, *inexact) = (next, *inexact | u64::from(!exact));
                }
            }
            if points.len() > 1 {
                for (value, &sum) in values.iter_mut().zip(&sums) {
                    *value = F::rounded(sum, count);
                }
            }
            if inexact.iter().fold(0, |all, one| all | one) != 0 {
                for (value, channel) in values.iter_mut().zip(channel..) {
                    // SAFETY: as above.
                    *value = unsafe { self.one(points, channel) };
                }
            }
            // SAFETY: as above.
            unsafe {
                let first = place.first.add(channel * place.step);
                if place.step == 1 {
                    first.cast::<[F; W]>().write(values);
                } else {
                    for (k, &value) in values.iter().enumerate() {
                        first.add(k * place.step).write(value);
                    }
                }
            }
            channel += W;
        }
        channel
    }
}
