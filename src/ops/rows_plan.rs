//! How blocks and warps divide rows of channels: what the plans of the operators that read rows share.

use crate::error::{Error, Result};
use crate::launch::{CACHE_LINE, Launch, WARP};
use crate::tensor::DType;

/// Threads of a block of plain rows: `PLAIN_BLOCK` in the kernels. 8 warps hide each other's loads, and 4 such blocks
/// fit a multiprocessor of sm_80 to sm_120 at 64 registers a thread.
pub const PLAIN_BLOCK: u32 = 256;
/// Vectors of a block at most; one for each thread is the least. What its times cost is little beside so many.
pub(crate) const MOST_VECTORS: u64 = 48 * PLAIN_BLOCK as u64;
/// The same of vectors of 16 bytes that are moved: fewer of them take as long as the block's times do.
pub(crate) const MOST_WIDE_VECTORS: u64 = 16 * PLAIN_BLOCK as u64;
/// Multiprocessors of an H200; of an A100 108, of a B200 148.
pub const MULTIPROCESSORS: u64 = 132;
/// Blocks that are resident at once, at 4 a multiprocessor. A launch has as many, or a multiple: with fewer the device
/// is not full, and what is over runs when the rest is done. On an A100, which holds 432, a fifth of a single turn's
/// blocks are over; of a B200, which holds 592, a tenth stays idle.
pub const RESIDENT: u64 = 4 * MULTIPROCESSORS;
/// Rows of the batch up to which each has blocks of its own, however little they do: all are resident at once.
const BATCH_OF_BLOCKS: u64 = 2 * MULTIPROCESSORS;
/// Threads of a block of warps that work alone; small blocks spread a small batch over more multiprocessors.
pub const BLOCK: u32 = 128;
/// 4 vectors in flight on each of 32 lanes hide the latency of a load.
const VECTORS_PER_WARP: u64 = 128;
/// Rows that a warp handles: at least the 4 that it searches in lockstep, at most one for each lane.
const ROWS_PER_WARP: [u32; 4] = [4, 8, 16, 32];
/// Warps that fill an H200 (132 multiprocessors of 16 resident blocks of 4 warps) about a quarter; fewer rows a warp
/// before fewer warps.
const ENOUGH_WARPS: u64 = 2048;
/// Bytes up to which blocks ask the second-level cache for all of an array before they wait: nearly what it holds, 50 MB of
/// an H200 or H100 (126 of a B200; sm_80 asks for nothing). A gradient of 33 MB took a tenth less so, one of 131 MB a tenth
/// more.
const MOST_ASKED: u64 = 40_000_000;
/// The same of samples that are blended: of 10 MB up to a twentieth was lost, of 8 MB as much gained.
const MOST_ASKED_OF_SAMPLES: u64 = 9_000_000;
/// The same where they are more than the targets, which do not touch all of them: what is read in vain then takes less
/// than a trip to memory.
const MOST_ASKED_IN_VAIN: u64 = 2_000_000;
/// Vectors of a row in one share; longer rows (images) are cut, so that one row is not one warp's or block's work.
pub(crate) const TILE: u64 = 1024;

/// Channels of a row that one thread takes at a time at most: `MOST_TAKEN` in the kernels.
const MOST_TAKEN: usize = 4;
/// Channels from which a row that cannot be moved in vectors is taken so: of fewer, threads would have nothing to do.
const CHANNELS_APART: usize = 16;

/// Channels that a thread takes at a time where these need not be one access: 16 bytes of them, and 8 bytes of halves;
/// `TAKEN` in the kernels.
pub fn taken(dtype: DType) -> usize {
    (Access::Bytes16.bytes() as usize / dtype.size()).min(MOST_TAKEN)
}

/// How a signal's channels are moved; the numbers are the kernels'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Access {
    /// One element at a time.
    Element = 0,
    /// 4 bytes at a time.
    Bytes4 = 1,
    /// 8 bytes at a time.
    Bytes8 = 2,
    /// 16 bytes at a time.
    Bytes16 = 3,
    /// One unit at a time: some of its channels turn, slerp or bend.
    Curved = 4,
    /// Several elements at a time that lie apart, of a gradient.
    Apart = 5,
}

impl Access {
    /// The widest that `allows` says is possible, of vectors of more than one element.
    pub fn widest(allows: impl Fn(usize) -> bool) -> Access {
        let all = [(16, Access::Bytes16), (8, Access::Bytes8), (4, Access::Bytes4)];
        all.into_iter().find(|&(bytes, _)| allows(bytes)).map_or(Access::Element, |(_, access)| access)
    }

    /// Bytes that are moved together; 0 where it is by element or unit.
    pub fn bytes(self) -> u64 {
        match self {
            Access::Bytes16 => 16,
            Access::Bytes8 => 8,
            Access::Bytes4 => 4,
            Access::Element | Access::Curved | Access::Apart => 0,
        }
    }

    /// Elements that are moved together.
    pub fn elements(self, dtype: DType) -> u64 {
        if self == Access::Apart {
            return taken(dtype) as u64;
        }
        (self.bytes() / dtype.size() as u64).max(1)
    }

    /// How a gradient of so many channels of one mode is moved where it is not in vectors.
    pub fn apart(self, channels: usize) -> Access {
        if self == Access::Element && channels >= CHANNELS_APART { Access::Apart } else { self }
    }

    /// Vectors of half as many bytes, where those still have more than one element.
    pub fn halved(self, dtype: DType) -> Option<Access> {
        let half = match self {
            Access::Bytes16 => Access::Bytes8,
            Access::Bytes8 => Access::Bytes4,
            _ => return None,
        };
        (half.bytes() > dtype.size() as u64).then_some(half)
    }
}

/// How the rows of a signal are shared out: to the blocks of a plain launch, or to the warps of a curved one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Rows of `[B * T]` in one share.
    pub rows: u32,
    /// Shares of the targets of one row of the batch, or 0: rows of `[B * T]` are cut as if the batch had one row.
    pub chunks: u32,
    /// Vectors or units of a row in one share.
    pub tile: u64,
    /// Such parts of a row.
    pub tiles: u64,
    /// Shares of all rows.
    pub count: u64,
}

impl Share {
    /// A share of nothing.
    pub const NONE: Share = Share { rows: 1, chunks: 0, tile: 1, tiles: 1, count: 0 };

    /// For blocks of at most `most` vectors, of `batch` rows of `targets` targets of so many vectors.
    pub fn of_blocks(batch: u64, targets: u64, vectors: u64, most: u64) -> Share {
        Share::of_blocks_of(batch, targets, vectors, most, u64::from(PLAIN_BLOCK), u64::from(PLAIN_BLOCK))
    }

    /// For the blocks of a launch of its own, of vectors of that access.
    pub fn of_plain(batch: u64, targets: u64, vectors: u64, access: Access) -> Share {
        let of = |most| Share::of_blocks(batch, targets, vectors, most);
        let all = batch.saturating_mul(targets).saturating_mul(vectors);
        of(vectors_of_a_block(all, RESIDENT, most_vectors(access), |most| of(most).count))
    }

    /// Blocks of at most so many rows of one row of the batch each, and of one of the tiles of a row.
    pub(crate) fn in_chunks(batch: u64, targets: u64, (tile, tiles): (u64, u64), most_rows: u64) -> Share {
        let chunks = targets.div_ceil(most_rows);
        let rows = targets.div_ceil(chunks);
        // More chunks than 32 bits count are more blocks than a launch takes, which `blocks` refuses.
        let narrow = u32::try_from(chunks).unwrap_or(u32::MAX);
        let count = chunks.saturating_mul(batch).saturating_mul(tiles);
        Share { rows: rows as u32, chunks: narrow, tile, tiles, count }
    }

    /// As `of_blocks`; rows of a batch with fewer than `short` targets may share blocks, and of others a block has at most
    /// `most_rows`.
    pub(crate) fn of_blocks_of(batch: u64, targets: u64, vectors: u64, most: u64, short: u64, most_rows: u64) -> Share {
        if batch == 0 || targets == 0 || vectors == 0 {
            return Share::NONE;
        }
        let tiles = vectors.div_ceil(TILE.min(most));
        let tile = vectors.div_ceil(tiles);
        let rows = (most / tile).clamp(1, u64::from(PLAIN_BLOCK));
        if targets < rows.min(short) && batch > BATCH_OF_BLOCKS {
            // Each thread searches in memory for itself, so these are spread until a warp has one row for each lane.
            let all = batch.saturating_mul(targets);
            let rows = rows.min(all.saturating_mul(tiles).div_ceil(RESIDENT).max(u64::from(WARP)));
            return Share {
                rows: rows as u32,
                chunks: 0,
                tile,
                tiles,
                count: all.div_ceil(rows).saturating_mul(tiles),
            };
        }
        Share::in_chunks(batch, targets, (tile, tiles), rows.min(most_rows))
    }

    /// Bytes that each share asks for of an array that has `bytes` for each of the `batch` rows whose shares these are.
    pub fn asked(&self, batch: u64, bytes: u64) -> i32 {
        let shares = u64::from(self.chunks).saturating_mul(self.tiles);
        if shares == 0 || batch.saturating_mul(bytes) > MOST_ASKED {
            return 0;
        }
        bytes.div_ceil(shares).next_multiple_of(CACHE_LINE) as i32
    }

    /// The same of samples, of which targets may be too few to touch all.
    pub fn asked_of_samples(&self, batch: u64, samples: u64, targets: u64, bytes: u64) -> i32 {
        let most = if samples > targets { MOST_ASKED_IN_VAIN } else { MOST_ASKED_OF_SAMPLES };
        if batch.saturating_mul(bytes) > most { 0 } else { self.asked(batch, bytes) }
    }

    /// For warps: of that many rows of that many units, where so many signals share a launch.
    pub fn of_warps(rows: u64, units: u64, signals: u64) -> Share {
        let tile = units.clamp(1, TILE);
        let tiles = units.div_ceil(tile);
        let rows_per_warp = rows_per_warp(rows, tile, signals);
        let count = rows.div_ceil(u64::from(rows_per_warp)).saturating_mul(tiles);
        // Kernels divide by the tiles, in warps past the last too.
        Share { rows: rows_per_warp, chunks: 0, tile, tiles: tiles.max(1), count }
    }
}

/// Vectors of a block that moves rows, at most.
pub fn most_vectors(access: Access) -> u64 {
    if access == Access::Bytes16 { MOST_WIDE_VECTORS } else { MOST_VECTORS }
}

/// Vectors of a block, of `all` that a launch has, with which all blocks are resident at once, or as many times as many
/// as `most` of a block ask for; `count` says how many blocks of so many vectors there are.
pub fn vectors_of_a_block(all: u64, resident: u64, most: u64, count: impl Fn(u64) -> u64) -> u64 {
    let least = u64::from(PLAIN_BLOCK);
    let blocks = resident.saturating_mul(all.div_ceil(resident.saturating_mul(most)).max(1));
    let mut vectors = all.div_ceil(blocks).clamp(least, most).next_multiple_of(least);
    // Rows are whole, so there can be more blocks than their vectors ask for.
    while vectors < most && count(vectors) > blocks {
        vectors += least;
    }
    vectors
}

/// The most rows a warp can take while its lanes have work in flight and the device has enough warps.
pub fn rows_per_warp(rows: u64, vectors: u64, signals: u64) -> u32 {
    let fits = |&count: &u32| {
        let count = u64::from(count);
        count * vectors <= VECTORS_PER_WARP && rows.div_ceil(count).saturating_mul(signals) >= ENOUGH_WARPS
    };
    ROWS_PER_WARP.into_iter().rev().find(fits).unwrap_or(ROWS_PER_WARP[0])
}

/// `B * T`.
pub fn rows_of(op: &str, batch: usize, targets: usize) -> Result<u64> {
    (batch as u64)
        .checked_mul(targets as u64)
        .ok_or_else(|| Error::Value(format!("{op}: B * T must fit 64 bits, got {batch} * {targets}")))
}

/// Blocks for that many threads; `op` for the error text.
pub fn blocks(op: &str, threads: u64, block: u32) -> Result<u32> {
    u32::try_from(threads.div_ceil(u64::from(block))).ok().filter(|&grid| grid <= i32::MAX as u32).ok_or_else(|| {
        Error::Value(format!("{op}: the result must fit one launch, got {threads} threads in blocks of {block}"))
    })
}

/// A launch along one axis.
pub fn line(op: &str, kernel: &'static str, threads: u64, block: u32) -> Result<Launch> {
    Ok(Launch { kernel, grid: [blocks(op, threads, block)?, 1, 1], block: [block, 1, 1], shared_bytes: 0 })
}

/// A launch of that many warps.
pub fn warps(op: &str, kernel: &'static str, warps: u64) -> Result<Launch> {
    line(op, kernel, warps.saturating_mul(u64::from(WARP)), BLOCK)
}

/// The name of the kernel of a time and a value type, from a table that the compiler checks.
macro_rules! kernel_name {
    (@floats $prefix:expr, $suffix:expr, $value:expr) => {
        match $value {
            DType::F64 => concat!($prefix, "f64", $suffix),
            DType::F32 => concat!($prefix, "f32", $suffix),
            DType::F16 => concat!($prefix, "f16", $suffix),
            _ => concat!($prefix, "bf16", $suffix),
        }
    };
    (@values $prefix:expr, $suffix:expr, $value:expr) => {
        match $value {
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 => kernel_name!(@floats $prefix, $suffix, $value),
            DType::I64 | DType::U64 => concat!($prefix, "b64", $suffix),
            DType::I32 | DType::U32 => concat!($prefix, "b32", $suffix),
            DType::I16 | DType::U16 => concat!($prefix, "b16", $suffix),
            DType::I8 | DType::U8 | DType::Bool => concat!($prefix, "b8", $suffix),
        }
    };
    (@$kind:tt times $prefix:expr, $suffix:expr, $time:expr, $value:expr) => {
        match $time {
            DType::I64 => kernel_name!(@$kind concat!($prefix, "i64_"), $suffix, $value),
            DType::F64 => kernel_name!(@$kind concat!($prefix, "f64_"), $suffix, $value),
            _ => kernel_name!(@$kind concat!($prefix, "f32_"), $suffix, $value),
        }
    };
    ($prefix:expr, $time:expr) => {
        match $time {
            DType::I64 => concat!($prefix, "i64"),
            DType::F64 => concat!($prefix, "f64"),
            _ => concat!($prefix, "f32"),
        }
    };
}
pub(crate) use kernel_name;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_ask_for_all_of_what_stays_in_the_cache() {
        let share = Share::of_plain(32, 250, 32, Access::Bytes16);
        assert_eq!(share.asked(32, 4000), 256, "16 parts of a row of the batch, of whole lines");
        assert_eq!((share.asked(32, 1_250_000), share.asked(33, 1_250_000)), (78_208, 0), "40 MB stay");
        assert_eq!(share.asked_of_samples(32, 250, 250, 256_000), 16_000);
        assert_eq!(share.asked_of_samples(32, 250, 250, 300_000), 0, "9 MB");
        assert_eq!(share.asked_of_samples(32, 500, 250, 256_000), 0, "half of 8 MB would be in vain");
        assert_eq!(share.asked_of_samples(32, 500, 250, 62_500), 3968, "as much of 2 MB is not");
        assert_eq!(Share { tiles: 2, ..share }.asked(32, 4096), 128, "tiles of a row share it out as well");
        assert_eq!((Share { chunks: 0, ..share }.asked(1, 4096), Share::NONE.asked(0, 0)), (0, 0), "of several rows");
        assert_eq!(share.asked(u64::MAX, u64::MAX), 0);
    }

    #[test]
    fn as_many_blocks_as_are_resident_at_once() {
        let share = Share::of_plain(32, 250, 32, Access::Bytes16);
        assert_eq!(share, Share { rows: 16, chunks: 16, tile: 32, tiles: 1, count: 512 });
        let share = Share::of_plain(64, 1024, 4, Access::Bytes16);
        assert_eq!(share, Share { rows: 128, chunks: 8, tile: 4, tiles: 1, count: 512 });
        let share = Share::of_plain(256, 500, 64, Access::Bytes16);
        assert_eq!(share, Share { rows: 63, chunks: 8, tile: 64, tiles: 1, count: 2048 }, "or four times as many");
        let share = Share::of_plain(8, 128, 16, Access::Bytes16);
        assert_eq!(share, Share { rows: 16, chunks: 8, tile: 16, tiles: 1, count: 64 }, "a vector for each thread");
        for batch in [1, 7, 40, 200, 500] {
            for targets in [300, 1000, 5000] {
                // A block has at most a row for each thread.
                let share = Share::of_plain(batch, targets, 16, Access::Bytes16);
                let few = batch * targets <= RESIDENT * u64::from(PLAIN_BLOCK) / 2;
                assert!(!few || share.count <= RESIDENT, "{batch} {targets}: {share:?}");
            }
        }
    }

    #[test]
    fn many_short_rows_share_a_block_and_long_rows_are_cut() {
        let share = Share::of_plain(4096, 3, 2, Access::Bytes16);
        assert_eq!(share, Share { rows: 32, chunks: 0, tile: 2, tiles: 1, count: 384 });
        let share = Share::of_plain(1, 10, 640 * 480 * 3 / 8, Access::Bytes16);
        assert_eq!((share.rows, share.tile, share.tiles, share.count), (3, 1020, 113, 452));
    }

    #[test]
    fn every_row_is_in_one_share() {
        for batch in [1, 2, 131, 265, 4096] {
            for targets in [1, 2, 31, 255, 256, 257, 16384] {
                for vectors in [1, 3, 32, 256, 1023, 1025] {
                    let share = Share::of_plain(batch, targets, vectors, Access::Bytes16);
                    let rows = u64::from(share.rows);
                    let of = |all: u64| all.div_ceil(rows) * share.tiles;
                    let count = if share.chunks == 0 { of(batch * targets) } else { batch * of(targets) };
                    assert_eq!(share.count, count, "{batch} {targets} {vectors}");
                    assert!(
                        rows >= 1
                            && rows <= u64::from(PLAIN_BLOCK)
                            && rows * share.tile <= MOST_VECTORS.max(share.tile)
                    );
                    assert!(share.tile * share.tiles >= vectors && share.tile <= TILE);
                }
            }
        }
        assert_eq!(Share::of_plain(5, 0, 3, Access::Element).count, 0);
        assert_eq!(Share::of_plain(u64::MAX, u64::MAX, 1, Access::Element).count, u64::MAX);
    }

    #[test]
    fn access_is_the_widest_that_the_layout_allows() {
        assert_eq!(Access::widest(|bytes| bytes <= 8), Access::Bytes8);
        assert_eq!(Access::widest(|_| false), Access::Element);
        assert_eq!((Access::Bytes4.elements(DType::BF16), Access::Curved.elements(DType::F32)), (2, 1));
        let apart = |dtype| Access::Element.apart(16).elements(dtype);
        assert_eq!((apart(DType::BF16), apart(DType::F32), apart(DType::F64)), (4, 4, 2));
        assert_eq!((Access::Element.apart(15), Access::Bytes4.apart(16)), (Access::Element, Access::Bytes4));
    }
}
