//! How blocks divide the source rows, or the targets, of a gradient that they gather.

use crate::ops::rows_plan::{
    MOST_VECTORS, MOST_WIDE_VECTORS, MULTIPROCESSORS, PLAIN_BLOCK, RESIDENT, Share, TILE, vectors_of_a_block,
};

/// Source rows below which rows of the batch share blocks that gather: such blocks take the general way, which is long.
const SHORT_GATHER: u64 = 32;
/// Targets that such a block keeps: `KEPT_TARGETS` in the kernels. Of more it takes the general way, too.
const KEPT_TARGETS: u64 = 512;
/// Vectors of a row up to which a block reads the gradients of many targets together: `MOST_ACROSS` in the kernels.
const MOST_ACROSS: u64 = 64;
/// Rows of the batch up to which those of many targets have blocks of their own, however few samples they have; and
/// targets of a row up to which more of them share blocks.
const BATCH_OF_MANY: u64 = 4 * RESIDENT;
const TARGETS_OF_SHARED: u64 = 128;
/// Blocks that gather from many targets and are resident at once, at 3 a multiprocessor.
pub(super) const RESIDENT_OF_MANY: u64 = 3 * MULTIPROCESSORS;
/// Targets of a block that gathers from few: `MOST_OF_FEW` in the kernels, where it has a thread for each and for some
/// beside them.
const MOST_OF_FEW: u64 = 240;

impl Share {
    /// For blocks that gather gradients, of `batch` rows of `samples` source rows that get those of so many targets.
    pub fn of_gather(batch: u64, samples: u64, vectors: u64, targets: u64) -> Share {
        let rows = most_gathered(batch, samples, vectors, targets);
        let of = |most| Share::of_blocks_of(batch, samples, vectors, most, SHORT_GATHER, rows);
        let all = batch.saturating_mul(samples).saturating_mul(vectors);
        of(vectors_of_a_block(all, RESIDENT, MOST_VECTORS, |most| of(most).count))
    }

    /// The same of many targets for each sample. Where a block has a thread for each of its vectors, the rows of a batch
    /// have blocks of their own, unless they are very many of few targets.
    pub fn of_many(batch: u64, samples: u64, vectors: u64, targets: u64) -> Share {
        let gather = Share::of_gather(batch, samples, vectors, targets);
        let at_once = u64::from(PLAIN_BLOCK) / vectors.max(1);
        let filling = |blocks| batch.saturating_mul(samples).div_ceil(blocks);
        let most = filling(RESIDENT_OF_MANY).min(at_once).max(filling(RESIDENT));
        let rows = rows_of_kept(samples, targets).max(at_once).min(most);
        let shared = gather.chunks == 0 && batch > BATCH_OF_MANY && targets <= TARGETS_OF_SHARED;
        if vectors > MOST_ACROSS || rows > at_once || shared || gather.count == 0 {
            return gather;
        }
        Share::in_chunks(batch, samples, (vectors, 1), rows)
    }

    /// For blocks that gather gradients from few targets: a block has so many of these, each of which may touch two source
    /// rows. Where targets do not ascend the blocks share out the source rows, so there are enough to fill the device.
    pub fn of_few(batch: u64, samples: u64, targets: u64, vectors: u64) -> Share {
        if batch == 0 || targets == 0 || vectors == 0 {
            return Share::NONE;
        }
        let tiles = vectors.div_ceil(u64::from(PLAIN_BLOCK));
        let tile = vectors.div_ceil(tiles);
        let most = |vectors: u64| (vectors / 2 / tile).max(1);
        let filling = batch.saturating_mul(targets).saturating_mul(tiles).div_ceil(RESIDENT);
        let rows = filling.clamp(most(u64::from(PLAIN_BLOCK)), most(MOST_WIDE_VECTORS)).min(MOST_OF_FEW);
        let share = Share::in_chunks(batch, targets, (tile, tiles), rows);
        let helping = (RESIDENT / batch.saturating_mul(tiles)).min(samples.div_ceil(u64::from(PLAIN_BLOCK)));
        if u64::from(share.chunks) >= helping {
            return share;
        }
        Share { chunks: helping as u32, count: helping * batch * tiles, ..share }
    }
}

/// Source rows of a block whose targets it nearly always keeps: of r rows it has those of r + 1 steps between samples,
/// and where these lie at random, that is within six deviations, the root of r + 1 mean steps each.
fn rows_of_kept(samples: u64, targets: u64) -> u64 {
    if targets <= KEPT_TARGETS {
        return u64::from(PLAIN_BLOCK);
    }
    let steps = KEPT_TARGETS as f64 * samples as f64 / targets.max(1) as f64;
    let root = (steps + 9.0).sqrt() - 3.0;
    ((root * root) as u64).saturating_sub(1).clamp(1, u64::from(PLAIN_BLOCK))
}

/// Source rows of a block that gathers, at most. One that does not keep all of its targets finds them again each time
/// that its threads go on to other vectors, so it has no more vectors than threads, nor more rows than it takes to fill
/// the device.
fn most_gathered(batch: u64, samples: u64, vectors: u64, targets: u64) -> u64 {
    let tiles = vectors.div_ceil(TILE);
    let at_once = (u64::from(PLAIN_BLOCK) / vectors.div_ceil(tiles.max(1)).max(1)).max(1);
    let filling = batch.saturating_mul(samples).saturating_mul(tiles).div_ceil(RESIDENT).max(1);
    rows_of_kept(samples, targets).max(at_once.min(filling))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_gather_are_as_many() {
        assert_eq!(Share::of_gather(32, 500, 32, 250).count, 512);
        assert_eq!(Share::of_gather(256, 1000, 64, 500).count, 1536);
        assert_eq!((Share::of_gather(4096, 64, 2, 9).chunks, Share::of_gather(4096, 31, 2, 9).chunks), (1, 0));
        assert_eq!(Share::of_gather(4, 8, 1024, 8), Share { rows: 1, chunks: 8, tile: 256, tiles: 4, count: 128 });
    }

    #[test]
    fn blocks_that_gather_keep_their_targets() {
        assert_eq!(Share::of_gather(8, 298, 4, 7229), Share { rows: 5, chunks: 60, tile: 4, tiles: 1, count: 480 });
        assert_eq!(Share::of_gather(80, 298, 4, 7229).rows, 43, "a vector for each thread, of 46 that fill the device");
        assert_eq!(Share::of_gather(1178, 232, 1, 1089).rows, 232, "no more vectors than threads");
        assert_eq!((Share::of_gather(441, 3913, 17, 9485).rows, Share::of_gather(441, 3913, 17, 0).rows), (135, 245));
        assert_eq!((rows_of_kept(1000, 1000), rows_of_kept(1000, 4000), rows_of_kept(0, 513)), (256, 74, 1));
        assert_eq!(rows_of_kept(7, 512), 256, "all of a row");
        assert_eq!(Share::of_gather(4, 8, 1024, u64::MAX).rows, 1);
    }

    #[test]
    fn many_targets_of_few_samples_fill_the_device() {
        assert_eq!(
            Share::of_many(8, 298, 4, 7229),
            Share { rows: 7, chunks: 43, tile: 4, tiles: 1, count: 344 },
            "all are resident"
        );
        assert_eq!(Share::of_many(1178, 232, 1, 1089).rows, 232, "a vector for each thread");
        assert_eq!(Share::of_many(600, 30, 2, 200), Share { rows: 30, chunks: 1, tile: 2, tiles: 1, count: 600 });
        assert_eq!((Share::of_many(4096, 8, 4, 128).chunks, Share::of_many(4096, 8, 4, 129).chunks), (0, 1));
        assert_eq!(Share::of_many(13, 13, 9, 1812), Share { rows: 1, chunks: 13, tile: 9, tiles: 1, count: 169 });
        assert_eq!(Share::of_many(128, 100, 8, 1600).rows, 25);
        assert_eq!(Share::of_many(64, 1000, 8, 4000), Share::of_gather(64, 1000, 8, 4000), "more vectors than threads");
        assert_eq!(Share::of_many(4, 64, 512, 16_384), Share::of_gather(4, 64, 512, 16_384), "wide rows");
        assert_eq!(Share::of_many(0, 9, 1, 90), Share::NONE);
    }

    #[test]
    fn few_targets_have_two_rows_each() {
        assert_eq!(
            Share::of_few(23, 37_407, 13_889, 1),
            Share { rows: 240, chunks: 58, tile: 1, tiles: 1, count: 1334 }
        );
        let long = Share::of_few(1, 100_000, 1000, 1);
        assert_eq!(
            (long.rows, long.chunks, long.count),
            (125, 391, 391),
            "a vector for each thread, and helping blocks"
        );
        assert_eq!(Share::of_few(961, 551, 87, 155), Share { rows: 13, chunks: 7, tile: 155, tiles: 1, count: 6727 });
        assert_eq!((Share::of_few(2309, 8183, 6, 1).count, Share::of_few(4, 9, 0, 1)), (2309, Share::NONE));
        assert_eq!(Share::of_few(1, 50, 5, 1000), Share { rows: 1, chunks: 5, tile: 250, tiles: 4, count: 20 });
    }
}
