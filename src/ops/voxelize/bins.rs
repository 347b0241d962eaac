//! How the voxels of a grid are shared out to bins, and the points of a cloud to chunks, to mark occupied voxels on
//! CUDA; from plain numbers.

use super::launches::{Tiles, shared_out};
use crate::error::Result;
use crate::launch::Launch;
use crate::ops::rows_plan::{MULTIPROCESSORS, blocks, kernel_name};
use crate::tensor::DType;

/// Bins of a grid: `BINS` in the kernels. Each is one block's, and nearly two for each multiprocessor of an H200.
const BINS: usize = 256;
/// Voxels of a bin at most: a place in one has 16 bits, and their marks are 8 KB of shared memory.
const CELLS_OF_BIN: usize = 1 << 16;
/// Numbers of a chunk's line of the table: `PITCH` in the kernels.
const PITCH: usize = BINS + 8;
/// Threads of a block that writes a chunk, and of one that marks a bin: `CHUNK_BLOCK` and `MARK_BLOCK` in the kernels.
const CHUNK_BLOCK: u32 = 512;
const MARK_BLOCK: u32 = 1024;
/// Points of a chunk for each round of a block: four for each thread. It keeps what it finds in registers, so rounds are
/// few.
const POINTS_OF_ROUND: usize = 4 * CHUNK_BLOCK as usize;
const MOST_ROUNDS: usize = 4;
/// Blocks of chunks that are resident at once, two a multiprocessor at 64 registers: chunks are larger where there are
/// more. An A100 holds 216 and a B200 296, where a turn's last blocks run alone or a tenth of the device idles.
const RESIDENT: usize = 2 * MULTIPROCESSORS as usize;
/// Points of all clouds from which bins take less time than marks that are scattered in memory; the second is where
/// there is a point for each voxel, so that many threads would mark the same ones.
const ENOUGH_POINTS: usize = 1 << 19;
const ENOUGH_OF_CROWDED: usize = 1 << 18;
/// Points of a cloud below which its chunks and bins would be nearly empty.
const LEAST_POINTS: usize = 1 << 16;

/// How a call marks by bins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bins {
    /// Points of a chunk at most.
    pub chunk: usize,
    /// Chunks of a cloud.
    pub chunks: usize,
}

impl Bins {
    /// Of `batch` clouds, where it is worth it and the grid is not too large.
    pub fn new(batch: usize, points: usize, cells: usize) -> Option<Bins> {
        let all = batch.saturating_mul(points);
        let many = all >= ENOUGH_POINTS || all >= ENOUGH_OF_CROWDED && points >= cells;
        if !many || points < LEAST_POINTS || cells > BINS * CELLS_OF_BIN {
            return None;
        }
        let rounds = all.div_ceil(RESIDENT * POINTS_OF_ROUND).clamp(1, MOST_ROUNDS);
        let chunk = rounds * POINTS_OF_ROUND;
        Some(Bins { chunk, chunks: points.div_ceil(chunk) })
    }

    /// Places of a cloud's points, as uint16.
    pub fn places(&self) -> usize {
        self.chunk.saturating_mul(self.chunks)
    }

    /// Numbers of a cloud's part of the table, as uint16.
    pub fn table(&self) -> usize {
        self.chunks.saturating_mul(PITCH)
    }

    /// Rounds of a block that writes a chunk.
    pub fn rounds(&self) -> usize {
        self.chunk / POINTS_OF_ROUND
    }

    /// Writes the places of each chunk by bin.
    pub fn write(&self, op: &str, dtype: DType, batch: usize) -> Result<Tiles> {
        let kernel = kernel_name!(@floats "voxelize_bins_", "", dtype);
        shared_out(op, kernel, batch, self.chunks as u64, 1, CHUNK_BLOCK)
    }

    /// Marks the voxels of each bin.
    pub fn mark(&self, op: &str, batch: usize) -> Result<Launch> {
        let grid = [blocks(op, (batch as u64).saturating_mul(BINS as u64), 1)?, 1, 1];
        Ok(Launch { kernel: "voxelize_bin_marks", grid, block: [MARK_BLOCK, 1, 1], shared_bytes: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_points_are_marked_by_bins() {
        assert_eq!(Bins::new(1, 4_000_000, 1 << 24), Some(Bins { chunk: 8192, chunks: 489 }));
        assert_eq!(Bins::new(1, 1_000_000, 1 << 21), Some(Bins { chunk: 4096, chunks: 245 }));
        assert_eq!(Bins::new(8, 1 << 16, 1 << 21), Some(Bins { chunk: 2048, chunks: 32 }));
    }

    #[test]
    fn few_points_small_clouds_and_large_grids_are_not() {
        assert_eq!(Bins::new(1, ENOUGH_POINTS - 1, 1 << 21), None);
        assert!(Bins::new(1, ENOUGH_OF_CROWDED, ENOUGH_OF_CROWDED).is_some(), "a point for each voxel");
        assert_eq!(Bins::new(1, ENOUGH_OF_CROWDED, ENOUGH_OF_CROWDED + 1), None);
        assert_eq!(Bins::new(1 << 10, 1 << 15, 1 << 21), None);
        assert_eq!(Bins::new(1, 4_000_000, (1 << 24) + 1), None);
    }

    #[test]
    fn chunks_hold_every_point_and_rounds_are_whole() {
        for points in [1 << 18, 600_000, 1_000_001, 4_000_000, 67_000_000, u32::MAX as usize] {
            let bins = Bins::new(1, points, 4096).unwrap();
            assert!(bins.places() >= points && bins.places() < points + bins.chunk);
            assert!((1..=MOST_ROUNDS).contains(&bins.rounds()) && bins.rounds() * POINTS_OF_ROUND == bins.chunk);
            assert!(bins.chunk < 1 << 16, "the table has uint16");
        }
    }

    #[test]
    fn each_bin_is_a_block() {
        let bins = Bins::new(2, 600_000, 1 << 20).unwrap();
        assert_eq!(bins.mark("voxelize", 2).unwrap().grid, [512, 1, 1]);
        assert_eq!(bins.write("voxelize", DType::BF16, 2).unwrap().launch.kernel, "voxelize_bins_bf16");
    }
}
