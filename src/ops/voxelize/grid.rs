//! Where a point lies: the grid, the cloud in it, and the one rule that gives a point its voxel.

use crate::error::{Error, Result};
use crate::simd::Blend;
use crate::tensor::{DType, View};

/// Voxels of a sparse grid along one axis: three of them make a key of 63 bits.
pub const MOST_SPARSE: i64 = 1 << 21;
/// Points of one cloud: counts are int32.
pub const MOST_POINTS: usize = i32::MAX as usize;

/// A grid of equal boxes; numbers are those of the type that points are computed in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// The lowest corner, metres.
    pub origin: [f64; 3],
    /// Edges of a voxel, metres.
    pub voxel_size: [f64; 3],
    /// Voxels along each axis.
    pub size: [i64; 3],
}

/// The type in which the voxel of such a point is computed.
fn compute_type(points: DType) -> DType {
    if points == DType::F64 { DType::F64 } else { DType::F32 }
}

fn rounded(points: DType, value: f64) -> f64 {
    if points == DType::F64 { value } else { f64::from(value as f32) }
}

/// The number as every runtime spells it.
fn spelt(value: f64) -> String {
    if value.is_nan() { "nan".to_owned() } else { format!("{value:?}") }
}

impl Grid {
    /// A grid for points of that type; `most` is how long an axis may be.
    pub fn new(
        op: &str,
        points: DType,
        origin: &[f64],
        voxel_size: &[f64],
        grid_size: &[i64],
        most: Option<i64>,
    ) -> Result<Grid> {
        let wrong = |text: String| Err(Error::Value(format!("{op}: {text}")));
        let compute = compute_type(points).name();
        let Ok(corner) = <[f64; 3]>::try_from(origin) else {
            return wrong(format!("origin must have 3 numbers, got {}", origin.len()));
        };
        let origin = corner.map(|value| rounded(points, value));
        if let Some(axis) = origin.iter().position(|value| !value.is_finite()) {
            return wrong(format!("origin must be finite in {compute}, got {} at axis {axis}", spelt(corner[axis])));
        }
        let edges = match *voxel_size {
            [edge] => [edge; 3],
            [x, y, z] => [x, y, z],
            _ => return wrong(format!("voxel_size must have 1 or 3 numbers, got {}", voxel_size.len())),
        };
        let voxel_size = edges.map(|value| rounded(points, value));
        if let Some(axis) = voxel_size.iter().position(|&value| !(value > 0.0 && value.is_finite())) {
            let found = spelt(edges[axis]);
            return wrong(format!("voxel_size must be positive and finite in {compute}, got {found} at axis {axis}"));
        }
        let Ok(size) = <[i64; 3]>::try_from(grid_size) else {
            return wrong(format!("grid_size must have 3 numbers, got {}", grid_size.len()));
        };
        if size.iter().any(|&voxels| voxels < 1) {
            return wrong(format!("grid_size must be at least 1 along each axis, got {size:?}"));
        }
        if let Some(most) = most
            && size.iter().any(|&voxels| voxels > most)
        {
            return wrong(format!("grid_size must be at most {most} along each axis, got {size:?}"));
        }
        Ok(Grid { origin, voxel_size, size })
    }

    /// Voxels of the grid, at most 2^63.
    pub fn cells(&self) -> Option<u64> {
        let cells = self.size.iter().try_fold(1u64, |all, &voxels| all.checked_mul(voxels as u64))?;
        (cells <= 1 << 63).then_some(cells)
    }

    /// Refuses a result that no address could reach; `item` is the size of an element.
    pub fn check_result(&self, op: &str, batch: usize, channels: usize, item: usize) -> Result<()> {
        let bytes = [batch.max(1) as u64, channels.max(1) as u64, item as u64]
            .iter()
            .try_fold(self.cells().unwrap_or(u64::MAX), |all, &factor| all.checked_mul(factor));
        match bytes {
            Some(bytes) if bytes < 1 << 63 => Ok(()),
            _ => Err(Error::Value(format!(
                "{op}: grid_size must make a result of less than 2^63 bytes, got {:?}",
                self.size
            ))),
        }
    }
}

/// A type of points and the arithmetic of their voxels.
pub trait Point: Blend<Compute: Axis> {}
impl<T: Blend<Compute: Axis>> Point for T {}

/// A coordinate as it is computed with.
pub trait Axis: Copy + Send + Sync {
    /// The nearest value of this type.
    fn of(value: f64) -> Self;
    /// The place along an axis: `floor((p - origin) / size)` where it lies in `[0, voxels)`.
    fn place(self, origin: Self, size: Self, voxels: i64) -> Option<i64>;
}

macro_rules! axes {
    ($($ty:ident),*) => {$(
        impl Axis for $ty {
            #[inline(always)]
            fn of(value: f64) -> Self {
                value as $ty
            }
            #[inline(always)]
            fn place(self, origin: Self, size: Self, voxels: i64) -> Option<i64> {
                let quotient = (self - origin) / size;
                // What is not below zero is rounded down by cutting its fraction off; a NaN compares as false. The
                // conversion saturates, so a quotient past every integer lies past the grid too.
                let place = quotient as i64;
                (quotient >= 0.0 && place < voxels).then_some(place)
            }
        }
    )*};
}
axes!(f32, f64);

/// Clouds of points in one grid.
#[derive(Clone, Copy, Debug)]
pub struct Clouds<'a> {
    /// `[B, N, 3]`.
    pub points: View<'a>,
    /// `[B]`.
    pub lengths: Option<View<'a>>,
    /// The grid of every cloud.
    pub grid: Grid,
}

impl<'a> Clouds<'a> {
    /// Clouds `[B, N, 3]`.
    pub fn new(op: &str, points: View<'a>, grid: Grid, lengths: Option<View<'a>>) -> Result<Self> {
        if let Some(lengths) = &lengths {
            if !matches!(lengths.dtype(), DType::I32 | DType::I64) {
                let found = lengths.dtype().name();
                return Err(Error::Type(format!("{op}: lengths must be int32 or int64, got {found}")));
            }
            if lengths.rank() != 1 || lengths.size(0) != points.size(0) {
                let (batch, found) = (points.size(0), lengths.shape());
                return Err(Error::Value(format!("{op}: lengths must have shape [{batch}], got {found}")));
            }
        }
        Ok(Clouds { points, lengths, grid })
    }

    /// Number of clouds.
    pub fn batch(&self) -> usize {
        self.points.size(0)
    }

    /// Points of a cloud, those past its length too.
    pub fn points(&self) -> usize {
        self.points.size(1)
    }

    /// Valid points of a cloud, clamped to `[0, N]` so that nothing outside is read.
    ///
    /// # Safety
    /// The views are host memory, and `cloud` is one of the batch.
    pub unsafe fn count(&self, cloud: usize) -> usize {
        let all = self.points();
        // SAFETY: the caller's promise.
        self.lengths.map_or(all, |lengths| unsafe { length(&lengths, cloud) }.clamp(0, all as i64) as usize)
    }

    /// The index of the voxel of a point, in row-major order.
    ///
    /// # Safety
    /// Host memory of type `P`; `cloud` and `point` lie within the shape.
    #[inline(always)]
    pub unsafe fn cell<P: Point>(&self, frame: &Frame<P::Compute>, cloud: usize, point: usize) -> Option<u64> {
        let first = cloud as isize * self.points.stride(0) + point as isize * self.points.stride(1);
        let mut cell = 0u64;
        for axis in 0..3 {
            let offset = first + axis as isize * self.points.stride(2);
            // SAFETY: the caller's promise.
            let coordinate = unsafe { *self.points.at::<P>(offset) }.widen();
            let place = coordinate.place(frame.origin[axis], frame.size[axis], self.grid.size[axis])?;
            cell = cell.wrapping_mul(self.grid.size[axis] as u64).wrapping_add(place as u64);
        }
        Some(cell)
    }
}

/// The grid's numbers in the type that points are computed in.
#[derive(Clone, Copy, Debug)]
pub struct Frame<C> {
    origin: [C; 3],
    size: [C; 3],
}

impl<C: Axis> Frame<C> {
    /// Of that grid.
    pub fn new(grid: &Grid) -> Self {
        Frame { origin: grid.origin.map(C::of), size: grid.voxel_size.map(C::of) }
    }
}

/// One length as it was given.
///
/// # Safety
/// Host memory, and `cloud` is one of the batch.
unsafe fn length(lengths: &View, cloud: usize) -> i64 {
    let offset = cloud as isize * lengths.stride(0);
    // SAFETY: the caller's promise; `Clouds::new` let these two types pass.
    unsafe {
        match lengths.dtype() {
            DType::I64 => *lengths.at::<i64>(offset),
            _ => i64::from(*lengths.at::<i32>(offset)),
        }
    }
}

/// Refuses a length outside `[0, N]`, naming the first.
///
/// # Errors
/// [`Error::Value`].
///
/// # Safety
/// The view is host memory of int32 or int64, `[B]`.
pub(crate) unsafe fn check_lengths(op: &str, lengths: View, points: usize) -> Result<()> {
    for row in 0..lengths.size(0) {
        // SAFETY: the caller's promise.
        let found = unsafe { length(&lengths, row) };
        if !(0..=points as i64).contains(&found) {
            return Err(Error::Value(format!("{op}: lengths must be in [0, {points}], got {found} in row {row}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faces_belong_to_the_upper_voxel_and_negative_points_to_none() {
        let place = |p: f32| p.place(0.0, 0.1f64 as f32, 10);
        assert_eq!(place(0.0), Some(0));
        assert_eq!(place(-0.0), Some(0));
        assert_eq!(place(-f32::MIN_POSITIVE), None);
        assert_eq!(place(0.1), Some(1));
        assert_eq!(place(0.099_999_99), Some(0));
        assert_eq!(place(1.0), None);
        assert_eq!(place(f32::NAN), None);
        assert_eq!(place(f32::INFINITY), None);
        assert_eq!(place(f32::MAX), None);
    }

    #[test]
    fn a_grid_of_all_keys_is_counted() {
        let grid = |size: [i64; 3]| Grid { origin: [0.0; 3], voxel_size: [1.0; 3], size };
        assert_eq!(grid([MOST_SPARSE; 3]).cells(), Some(1 << 63));
        assert_eq!(grid([MOST_SPARSE, MOST_SPARSE, 2 * MOST_SPARSE]).cells(), None);
        assert_eq!(grid([i64::MAX; 3]).cells(), None);
    }
}
