//! The voxels of points in host memory, many at a time.

use super::cpu::with_floating;
use super::grid::{Axis, Clouds, Frame, Point};
use crate::number::Compute;
use crate::ops::rows::GRAIN;
use crate::simd::{Level, Work};
use crate::tensor::DType;
use crate::threads::Threads;
use half::{bf16, f16};
use std::ops::Range;

/// Points whose cells are found before they are used: the loop over them stays free of what is done with each.
const CHUNK: usize = 256;
/// Voxels along an axis that f32 counts exactly, so that a quotient is compared before it becomes an integer.
const COUNTED: i64 = 1 << 24;

/// A cell's index, or the number of cells for a point in none.
pub(crate) trait Key: Copy + Ord + Send + Sync + Default {
    /// Of a cell that the type holds.
    fn of(cell: u64) -> Self;
    /// The cell.
    fn cell(self) -> u64;
}

macro_rules! keys {
    ($($ty:ty),*) => {$(
        impl Key for $ty {
            #[inline(always)]
            fn of(cell: u64) -> Self {
                cell as $ty
            }
            #[inline(always)]
            fn cell(self) -> u64 {
                self as u64
            }
        }
    )*};
}
keys!(u32, u64);

/// True where u32 holds every cell and, for a dropped point, the number of cells.
pub(crate) fn is_narrow(cells: u64) -> bool {
    u32::try_from(cells).is_ok()
}

/// Runs `$body` with `$name` as the narrowest key of that many cells.
macro_rules! with_key {
    ($cells:expr, $name:ident => $body:expr) => {
        if crate::ops::voxelize::cells_cpu::is_narrow($cells) {
            type $name = u32;
            $body
        } else {
            type $name = u64;
            $body
        }
    };
}
pub(crate) use with_key;

/// A coordinate that is cut to a whole number.
trait Whole {
    /// # Safety
    /// The number lies in `[0, 2^31)`.
    unsafe fn whole(self) -> u32;
}

macro_rules! wholes {
    ($($ty:ty),*) => {$(
        impl Whole for $ty {
            #[inline(always)]
            unsafe fn whole(self) -> u32 {
                // SAFETY: the caller's promise.
                unsafe { self.to_int_unchecked::<i32>() as u32 }
            }
        }
    )*};
}
wholes!(f32, f64);

/// The loop over dense points, vectorised: the rule of [`Axis::place`] without branches.
struct Dense<'a, P: Point> {
    points: &'a [P],
    origin: [P::Compute; 3],
    edge: [P::Compute; 3],
    counted: [P::Compute; 3],
    size: [u32; 3],
    dropped: u32,
    cells: &'a mut [u32],
}

impl<P: Point<Compute: Whole>> Work for Dense<'_, P> {
    #[inline(always)]
    fn run(self) {
        let Dense { points, origin, edge, counted, size, dropped, cells } = self;
        let zero = P::Compute::ZERO;
        for (cell, point) in cells.iter_mut().zip(points.chunks_exact(3)) {
            let (mut index, mut inside) = (0u32, true);
            for axis in 0..3 {
                let quotient = (point[axis].widen() - origin[axis]) / edge[axis];
                let within = (quotient >= zero) & (quotient < counted[axis]);
                // SAFETY: below `COUNTED`, or zero.
                let place = unsafe { (if within { quotient } else { zero }).whole() };
                index = index.wrapping_mul(size[axis]).wrapping_add(place);
                inside &= within;
            }
            *cell = if inside { index } else { dropped };
        }
    }
}

/// Writes the cells of the points of a cloud from `first` on; of those in none, the number of cells.
///
/// # Safety
/// Host memory; the points are points of the cloud, and the key holds every cell.
pub(crate) unsafe fn write<K: Key>(clouds: &Clouds, cloud: usize, first: usize, cells: &mut [K]) {
    // SAFETY: the caller's promise; the type is the view's own.
    with_floating!(clouds.points.dtype(), P => unsafe { write_of::<P, K>(clouds, cloud, first, cells) });
}

unsafe fn write_of<P: Point<Compute: Whole>, K: Key>(clouds: &Clouds, cloud: usize, first: usize, cells: &mut [K]) {
    let (grid, points) = (&clouds.grid, &clouds.points);
    let dropped = grid.cells().unwrap_or(u64::MAX);
    // SAFETY: the caller's promise.
    let valid = unsafe { clouds.count(cloud) }.saturating_sub(first).min(cells.len());
    let (cells, rest) = cells.split_at_mut(valid);
    rest.fill(K::of(dropped));
    let counted = is_narrow(dropped) && size_of::<K>() == size_of::<u32>() && grid.size.iter().all(|&s| s <= COUNTED);
    if counted && points.stride(2) == 1 && points.stride(1) == 3 {
        let offset = cloud as isize * points.stride(0) + first as isize * 3;
        // SAFETY: the caller's promise: dense points of type `P`; a key of four bytes is u32.
        let (points, cells) = unsafe {
            let cells = std::slice::from_raw_parts_mut(cells.as_mut_ptr().cast::<u32>(), valid);
            (std::slice::from_raw_parts(points.at::<P>(offset), 3 * valid), cells)
        };
        let (origin, edge) = (grid.origin.map(P::Compute::of), grid.voxel_size.map(P::Compute::of));
        let (counted, size) = (grid.size.map(|s| P::Compute::of(s as f64)), grid.size.map(|s| s as u32));
        Level::best().run(Dense { points, origin, edge, counted, size, dropped: dropped as u32, cells });
        return;
    }
    let frame = Frame::<P::Compute>::new(grid);
    for (cell, point) in cells.iter_mut().zip(first..) {
        // SAFETY: the caller's promise.
        *cell = K::of(unsafe { clouds.cell::<P>(&frame, cloud, point) }.unwrap_or(dropped));
    }
}

/// Calls `body(cloud, first, cells)` for runs of neighbouring points of the clouds of `range`, on every thread.
pub(crate) fn each_run<K: Key>(
    clouds: &Clouds,
    range: Range<usize>,
    threads: &dyn Threads,
    body: impl Fn(usize, usize, &[K]) + Sync,
) {
    let points = clouds.points();
    threads.run(range.len() * points, GRAIN, &|items| {
        let mut found = [K::default(); CHUNK];
        let mut next = items.start;
        while next < items.end {
            let (cloud, first) = (range.start + next / points, next % points);
            let found = &mut found[..CHUNK.min(points - first).min(items.end - next)];
            // SAFETY: host memory (a place on the CPU), points of a cloud of the batch; the caller chose the key.
            unsafe { write(clouds, cloud, first, found) };
            body(cloud, first, found);
            next += found.len();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::grid::Grid;
    use super::*;
    use crate::tensor::View;

    /// Faces, their neighbours in the type, what lies outside, and what is no number.
    fn edges() -> Vec<f32> {
        let faces = (-1..=9).map(|place| place as f32 * 0.1);
        let near =
            |face: f32| [f32::from_bits(face.to_bits().wrapping_sub(1)), face, f32::from_bits(face.to_bits() + 1)];
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX, -f32::MIN_POSITIVE, 3e9, 1.7e7];
        faces.flat_map(near).chain(odd).collect()
    }

    #[test]
    fn many_at_a_time_are_the_cells_of_one_at_a_time() {
        let edges = edges();
        let points: Vec<f32> = (0..3999).map(|place| edges[(place * place + place / 3) % edges.len()]).collect();
        let wide: Vec<f64> = points.iter().map(|&p| f64::from(p)).collect();
        let grid = Grid { origin: [-0.1, 0.0, 0.1], voxel_size: [0.1, 0.2, 0.1], size: [7, 5, 9] };
        let narrow = Grid {
            voxel_size: [0.1f32, 0.2, 0.1].map(f64::from),
            origin: [f64::from(-0.1f32), 0.0, f64::from(0.1f32)],
            ..grid
        };
        let views =
            [(View::new(&points, &[1, 1333, 3]).unwrap(), narrow), (View::new(&wide, &[1, 1333, 3]).unwrap(), grid)];
        for (view, grid) in views {
            let lengths = [1300i32];
            let clouds = Clouds { points: view, lengths: Some(View::new(&lengths, &[1]).unwrap()), grid };
            let (mut fast, mut slow) = ([0u32; 1333], [0u64; 1333]);
            // SAFETY: host memory, points of the cloud.
            unsafe {
                write(&clouds, 0, 0, &mut fast);
                write(&clouds, 0, 0, &mut slow);
            }
            assert!(fast.iter().zip(&slow).all(|(&a, &b)| u64::from(a) == b));
            assert!(
                slow.iter().filter(|&&cell| cell < 315).count() > 100 && slow[1300..].iter().all(|&cell| cell == 315)
            );
        }
    }
}
