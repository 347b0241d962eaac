//! The parameters of the kernels of `voxelize` on CUDA, as `kernels/voxelize*` and `kernels/grid.cuh` declare them.

use super::grid::Clouds;
use super::reduce::Reduce;
use super::tiling;
use crate::launch::CACHE_LINE;
use crate::tensor::{DType, View};
use std::ptr::{null, null_mut};

/// `Clouds` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Points {
    pub points: *const u8,
    pub lengths: *const u8,
    pub strides: [i64; 3],
    pub lengths_step: i64,
    pub batch: i64,
    pub points_count: i64,
    pub size: [i64; 3],
    pub origin: [f64; 3],
    pub voxel_size: [f64; 3],
    pub cells: i64,
    pub lengths_bytes: i32,
    pub tiles: i32,
}

const _: () = assert!(size_of::<Points>() == 152);

impl Points {
    /// The same clouds by address, a block of which works on one of `tiles`.
    pub(crate) fn new(clouds: &Clouds, tiles: u32) -> Self {
        let (points, lengths) = (&clouds.points, clouds.lengths.as_ref());
        Points {
            points: points.data(),
            lengths: lengths.map_or(null(), |lengths| lengths.data()),
            strides: [0, 1, 2].map(|axis| points.stride(axis) as i64),
            lengths_step: lengths.map_or(0, |lengths| lengths.stride(0) as i64),
            batch: clouds.batch() as i64,
            points_count: clouds.points() as i64,
            size: clouds.grid.size,
            origin: clouds.grid.origin,
            voxel_size: clouds.grid.voxel_size,
            cells: clouds.grid.cells().unwrap_or(0) as i64,
            lengths_bytes: lengths.map_or(0, |lengths| lengths.dtype().size() as i32),
            tiles: tiles as i32,
        }
    }
}

/// `Asked` in the kernels: memory of the clouds of which each of their blocks asks for a part before it waits.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    first: *const u8,
    cloud_step: i64,
    bytes: i64,
    each: i32,
    pad: i32,
}

const _: () = assert!(size_of::<Asked>() == 32);

impl Asked {
    const NOTHING: Asked = Asked { first: null(), cloud_step: 0, bytes: 0, each: 0, pad: 0 };

    /// The points, and features of that type, where they lie side by side and the blocks ask for them; the part of a block
    /// is as much as `of_block` points have.
    pub(crate) fn ahead(clouds: &Clouds, features: Option<(&RowsParams, DType)>, of_block: usize) -> [Asked; 2] {
        let points = Source::new(clouds.points.data(), strides(&clouds.points), 3, clouds.points.dtype());
        let features =
            features.map(|(rows, dtype)| Source::new(rows.features, rows.features_strides, rows.channels, dtype));
        let row = points.row + features.map_or(0, |features| features.row);
        if !tiling::asks_ahead(clouds.batch(), clouds.points(), row as usize) {
            return [Asked::NOTHING; 2];
        }
        let asked = |source: Source| source.asked(clouds.points(), of_block);
        [asked(points), features.map_or(Asked::NOTHING, asked)]
    }
}

/// `[B, N, C]` to ask for: bytes from cloud to cloud and of a point's numbers, and whether a cloud's lie side by side.
#[derive(Clone, Copy)]
struct Source {
    first: *const u8,
    cloud_step: i64,
    row: i64,
    dense: bool,
}

impl Source {
    fn new(first: *const u8, [cloud, point, number]: [i64; 3], numbers: i64, dtype: DType) -> Self {
        let size = dtype.size() as i64;
        let dense = point == numbers && (number == 1 || numbers == 1);
        Source { first, cloud_step: cloud * size, row: numbers * size, dense }
    }

    fn asked(self, points: usize, of_block: usize) -> Asked {
        if !self.dense {
            return Asked::NOTHING;
        }
        let each = (of_block.min(points) * self.row as usize).next_multiple_of(CACHE_LINE as usize) as i32;
        Asked { first: self.first, cloud_step: self.cloud_step, bytes: points as i64 * self.row, each, pad: 0 }
    }
}

/// `VoxelizeClearParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clear {
    pub memory: *mut u8,
    pub bytes: i64,
}

const _: () = assert!(size_of::<Clear>() == 16);

/// `VoxelizePointsParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PointsParams {
    pub clouds: Points,
    pub output: *mut u8,
    pub places: *mut u8,
    pub each: i32,
}

const _: () = assert!(size_of::<PointsParams>() == 176);

/// `VoxelizeBinsParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct BinsParams {
    pub clouds: Points,
    pub places: *mut u8,
    pub table: *mut u8,
    pub rounds: i32,
    pub pad: i32,
}

const _: () = assert!(size_of::<BinsParams>() == 176);

/// `VoxelizeBinMarksParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct BinMarksParams {
    pub places: *const u8,
    pub table: *const u8,
    pub output: *mut u8,
    pub cells: i64,
    pub chunks: i32,
    pub chunk: i32,
}

const _: () = assert!(size_of::<BinMarksParams>() == 40);

/// `VoxelizeUnpackParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnpackParams {
    pub bits: *const u8,
    pub output: *mut u8,
    pub cells: i64,
    pub tiles: i32,
}

const _: () = assert!(size_of::<UnpackParams>() == 32);

/// `VoxelizeStartsParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartsParams {
    pub counts: *const u8,
    pub starts: *mut u8,
    pub cursor: *mut u8,
    pub cells: i64,
    pub tiles: i32,
}

const _: () = assert!(size_of::<StartsParams>() == 40);

/// `VoxelizeOrderParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrderParams {
    pub clouds: Points,
    pub places: *const u8,
    pub starts: *const u8,
    pub order: *mut u8,
}

const _: () = assert!(size_of::<OrderParams>() == 176);

/// `VoxelizeSpreadParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpreadParams {
    pub clouds: Points,
    pub grad: *const u8,
    pub counts: *const u8,
    pub point_voxel: *const u8,
    pub output: *mut u8,
    pub cloud_stride: i64,
    pub channel_stride: i64,
    pub cell_stride: i64,
    pub pitch: i64,
    pub channels: i64,
    pub loads: i32,
    pub stores: i32,
    pub follows: i32,
    pub each: i32,
}

const _: () = assert!(size_of::<SpreadParams>() == 240);

/// `VoxelizeGatherParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct GatherParams {
    pub grad: *const u8,
    pub counts: *const u8,
    pub point_voxel: *const u8,
    pub output: *mut u8,
    pub strides: [i64; 3],
    pub points: i64,
    pub cells: i64,
    pub channels: u32,
    pub tiles: i32,
    pub follows: i32,
    pub pad: i32,
}

const _: () = assert!(size_of::<GatherParams>() == 88);

/// `VoxelizeRowsParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowsParams {
    pub features: *const u8,
    pub tangent: *const u8,
    pub features_strides: [i64; 3],
    pub tangent_strides: [i64; 3],
    pub coords: *const u8,
    pub counts: *const u8,
    pub starts: *const u8,
    pub order: *const u8,
    pub grad: *const u8,
    pub output: *mut u8,
    pub counted: *mut u8,
    pub point_voxel: *mut u8,
    /// Of the rows' side: cloud, channel, row.
    pub strides: [i64; 3],
    /// Of one grid, or all of a sparse one.
    pub rows: i64,
    pub batch: i64,
    pub points: i64,
    pub channels: i64,
    pub least: i32,
    pub mean: i32,
    pub tiles: i32,
}

const _: () = assert!(size_of::<RowsParams>() == 200);

/// `Chunks` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunks {
    pub entries: *mut u8,
    pub table: *mut u8,
    pub points: i64,
    pub chunk: i32,
    pub chunks: i32,
    pub pitch: i32,
    pub bits: i32,
    pub shared_bits: i32,
}

const _: () = assert!(size_of::<Chunks>() == 48);

/// `VoxelizeTilesParams` in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TilesParams {
    pub clouds: Points,
    pub chunks: Chunks,
    pub cells: *mut u8,
    pub cursor: *mut u8,
    pub zeros: *mut u8,
    pub row_bytes: i64,
    pub asked: [Asked; 2],
}

const _: () = assert!(size_of::<TilesParams>() == 296);

/// `VoxelizeTileRowsParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileRowsParams {
    pub rows: RowsParams,
    pub chunks: Chunks,
    pub order: *mut u8,
    pub cursor: *mut u8,
}

const _: () = assert!(size_of::<TileRowsParams>() == 264);

/// `Small` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Small {
    pub clouds: Points,
    /// `PointsType` in the kernels.
    pub kind: i32,
    pub bits: i32,
    pub asked: [Asked; 2],
}

const _: () = assert!(size_of::<Small>() == 224);

impl Small {
    /// The same clouds by address, a block of which takes one of so many tiles of 2^bits cells, and what they ask for.
    pub(crate) fn new(clouds: &Clouds, features: Option<(&RowsParams, DType)>, bits: u32, tiles: u32) -> Self {
        let of_block = clouds.points().div_ceil(tiles.max(1) as usize);
        let kind = match clouds.points.dtype() {
            DType::F64 => 0,
            DType::F32 => 1,
            DType::F16 => 2,
            _ => 3,
        };
        let asked = Asked::ahead(clouds, features, of_block);
        Small { clouds: Points::new(clouds, tiles), kind, bits: bits as i32, asked }
    }
}

/// `VoxelizeSmallPointsParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmallPointsParams {
    pub small: Small,
    pub output: *mut u8,
}

const _: () = assert!(size_of::<SmallPointsParams>() == 232);

/// `VoxelizeSmallRowsParams` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmallRowsParams {
    pub rows: RowsParams,
    pub small: Small,
}

const _: () = assert!(size_of::<SmallRowsParams>() == 424);

pub(crate) fn strides(view: &View) -> [i64; 3] {
    [0, 1, 2].map(|axis| view.stride(axis) as i64)
}

impl RowsParams {
    /// Features, a tangent for a pick (for a sum it takes their place), and the reduction; the rest is empty.
    pub(crate) fn new(features: &View, tangent: Option<&View>, reduce: Reduce) -> Self {
        let (features, tangent) = match tangent {
            Some(tangent) if !reduce.picks() => (tangent, None),
            tangent => (features, tangent),
        };
        RowsParams {
            features: features.data(),
            tangent: tangent.map_or(null(), |tangent| tangent.data()),
            features_strides: strides(features),
            tangent_strides: tangent.map_or([0; 3], strides),
            coords: null(),
            counts: null(),
            starts: null(),
            order: null(),
            grad: null(),
            output: null_mut(),
            counted: null_mut(),
            point_voxel: null_mut(),
            strides: [0; 3],
            rows: 0,
            batch: features.size(0) as i64,
            points: features.size(1) as i64,
            channels: features.size(2) as i64,
            least: i32::from(reduce == Reduce::Min),
            mean: i32::from(reduce == Reduce::Mean),
            tiles: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_side_by_side_is_asked_for() {
        let asked = |strides, numbers| {
            let asked = Source::new(null(), strides, numbers, DType::F32).asked(1000, 50);
            (asked.cloud_step, asked.bytes, asked.each)
        };
        assert_eq!(asked([3000, 3, 1], 3), (12_000, 12_000, 640), "whole lines of 50 points");
        assert_eq!(asked([0, 3, 1], 3), (0, 12_000, 640), "one cloud for all");
        assert_eq!(asked([1000, 1, 7], 1), (4000, 4000, 256), "a number a point");
        assert_eq!(asked([3000, 1, 1000], 3).2, 0, "numbers apart");
        assert_eq!(asked([4000, 4, 1], 3).2, 0, "points apart");
    }
}
