//! How grids are cut into tiles and clouds into chunks on CUDA, from plain numbers.

/// A tile has at most 2^10 cells: with 16 bytes for each, 6 blocks fit a multiprocessor of sm_90, 2 of sm_86.
pub(crate) const TILE_BITS: u32 = 10;
/// A tile has at least 2^5 cells: neighbours along z then still fill whole sectors; 2^4, which of a half still fill
/// one, where a block then keeps its points.
const LEAST_BITS: u32 = 5;
const LEAST_BITS_OF_KEPT: u32 = 4;
/// Lists of a grid's points in a chunk: their counters of 16 bits are 32 KB of the 48 KB of shared memory that a launch
/// may have unasked.
pub(crate) const MOST_LISTS: usize = 16_384;
/// Up to 2^3 neighbouring tiles of very many share a list, of which each of their blocks then reads all: an entry has
/// 13 bits for a cell.
const MOST_SHARED_BITS: u32 = 3;
/// Tiles of all grids below which they are made smaller: nearly one for each of 132 multiprocessors (148 of sm_100 and
/// 108 of sm_80 gain no more: what a block of few cells does takes as long as what one of many does).
const FEW_TILES: usize = 128;
/// Points of a tile beyond which smaller ones are worth it as long as all of them run at once, and bits of the
/// smallest.
const POINTS_OF_FEW: usize = 100;
const BITS_OF_FEW: u32 = 7;
/// Points of a tile up to which there is no gain in smaller tiles: a block keeps 2048 points in shared memory, and some
/// tiles have more than others.
const POINTS_OF_TILE: usize = 1024;
/// Points of the largest tile beyond which half as large ones send a gradient to the points in less time: up to a sixth,
/// measured on an H200 in grids of 600 to 1200 tiles; of 400 points a tile it takes a tenth more.
const POINTS_OF_SPREAD: usize = 480;
/// Points of a tile up to which a block keeps them, if some tiles have a third more than others.
const POINTS_OF_KEPT: usize = 1536;
/// Points of a chunk at most: four for each thread of a block.
const CHUNK: usize = WIDE_BLOCK as usize * POINTS_OF_THREAD;
/// Points of a chunk of clouds that have no more than 64 of these, or that have so few points in all, in few tiles: a
/// quarter of a block's threads then wait for each other, and more multiprocessors have work. Up to a fifth, measured on
/// an H200; of more points it is lost on reading what lies in as many parts.
const SMALL_CHUNK: usize = 1024;
const SMALL_CHUNKS: usize = 64;
const POINTS_OF_SMALL_CHUNKS: usize = 1 << 18;
const TILES_OF_SMALL_CHUNK: usize = 1024;
/// Chunks that clouds of that size have where they are reduced: as many as a block of a tile has threads, each of which
/// looks up where its points lie in one. Of more points fewer, in parts that are longer; found on an H100.
const CHUNKS_OF_FEW: usize = 256;
const CHUNKS_OF_MANY: usize = 216;
const TILES_OF_MANY: usize = 2048;
/// What their points are a multiple of, where they are many an odd one: what a tile's block reads of two chunks lies a
/// chunk apart, and of most sizes a neighbouring even number took more, up to a fifth.
const CHUNK_STEP: usize = 256;
const LEAST_STEPS: usize = 2;
/// Tiles of a grid up to which a chunk is at most that large; a line of the table is then 2 bytes a point, of smaller
/// chunks up to 4.
const TILES_OF_CHUNK: usize = 4096;
/// Points of a chunk for more tiles, again 2 bytes a point; counters of 16 bits hold them, and a block's registers.
const LARGE_CHUNK: usize = MOST_ROUNDS * CHUNK;
const MOST_ROUNDS: usize = 4;
/// Bytes of the table that are borrowed for any number of points, and for each point.
const TABLE_BYTES: usize = 64 << 20;
const TABLE_BYTES_A_POINT: usize = 8;
/// Points of a small cloud: a block keeps them all, `KEPT` in the kernels.
const POINTS_OF_SMALL: usize = 2048;
/// Points of a cloud up to which one launch that marks or counts is no slower than two that do so by point: a round of
/// a block's threads. It spares a host the second launch.
const POINTS_OF_TINY: usize = 1024;
/// Points that the blocks of small clouds look at in all, each at all of its cloud: 4000 for each of 132
/// multiprocessors take some 2 us there, less than a launch that writes them by tile.
const LOOKS: usize = 1 << 19;
/// Tiles of all grids whose blocks all run at once on an H200, four to a multiprocessor.
const TILES_AT_ONCE: usize = 528;
/// Threads of a block that writes a chunk of points by tile: more points share the chunk's line of the table.
const WIDE_BLOCK: u32 = 1024;
/// Points that each of them takes at a time.
const POINTS_OF_THREAD: usize = 4;

/// Points of a tile and for each of its cells up to which a block links them by voxel: few tiles have more than the
/// 1216 that it has room for, and voxels that are fuller are better put in order.
const POINTS_OF_LINKED: usize = 1088;
const POINTS_OF_LINKED_CELL: usize = 4;

/// Whether a block links the points of a tile, from those of a cloud and the tiles and cells of its grid.
fn links(points: usize, tiles: usize, cells: usize) -> bool {
    points <= tiles.saturating_mul(POINTS_OF_LINKED) && points <= cells.saturating_mul(POINTS_OF_LINKED_CELL)
}

/// Cells a point up to which the gradient of a sum goes to the points by tiles, which read that of the cells near a
/// point once: a point alone reads a sector of up to 16 cells for each channel.
pub(crate) const CELLS_OF_POINT: usize = 16;

/// Bytes of all points and their features up to which blocks ask the second-level cache for them before they wait: up to a
/// fourteenth faster, measured on an H200. Of 22 MB beside a grid of 67 MB a hundredth is lost.
const MOST_ASKED: usize = 16_000_000;

/// Whether the blocks that write clouds by tile, or reduce small ones, ask for all of their points and features, of so many
/// bytes for each point.
pub fn asks_ahead(batch: usize, points: usize, point_bytes: usize) -> bool {
    batch.saturating_mul(points).saturating_mul(point_bytes) <= MOST_ASKED
}

/// Points of a chunk of so many clouds in grids of so many tiles, to reduce them or to spread their gradient.
fn points_of_chunk(batch: usize, points: usize, tiles: usize, spreads: bool) -> usize {
    let all = points.saturating_mul(batch);
    let steps = |chunks: usize| all.div_ceil(chunks).div_ceil(CHUNK_STEP);
    if tiles > TILES_OF_CHUNK {
        LARGE_CHUNK
    } else if tiles <= TILES_OF_SMALL_CHUNK && all <= POINTS_OF_SMALL_CHUNKS {
        if spreads { SMALL_CHUNK } else { steps(CHUNKS_OF_FEW).max(LEAST_STEPS) * CHUNK_STEP }
    } else if tiles <= TILES_OF_SMALL_CHUNK && points <= SMALL_CHUNKS * SMALL_CHUNK {
        SMALL_CHUNK
    } else if tiles <= TILES_OF_MANY && all > POINTS_OF_SMALL_CHUNKS && !spreads {
        CHUNK.min((steps(CHUNKS_OF_MANY) | 1).saturating_mul(CHUNK_STEP))
    } else {
        CHUNK
    }
}

/// How a grid is cut into tiles and its clouds into chunks; a block takes a chunk, then a block takes a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// A tile is 2^bits neighbouring cells.
    pub bits: u32,
    /// Tiles of a grid.
    pub tiles: usize,
    /// Points of a chunk, which are one round of a block or several of the widest.
    pub chunk: usize,
    /// Chunks of a cloud.
    pub chunks: usize,
    /// uint16 in a chunk's line of the table: where each list of points begins, padded to 16 bytes.
    pub pitch: usize,
    /// 2^shared_bits neighbouring tiles share a list.
    pub shared_bits: u32,
    /// Voxels have so few points that a block links these.
    pub links: bool,
}

impl Tiling {
    /// Threads of a block that takes a chunk.
    pub fn threads(&self) -> u32 {
        WIDE_BLOCK.min((self.chunk / POINTS_OF_THREAD) as u32)
    }

    /// Rounds of four points that each of them takes.
    pub fn rounds(&self) -> usize {
        self.chunk.div_ceil(CHUNK)
    }

    /// Whether tiles that share lists send a gradient to all points in less time than points that each read theirs:
    /// there are not so many more of these cells that most tiles are empty, nor so few that reading the lists takes
    /// longer.
    pub fn spreads(&self, points: usize, cells: usize) -> bool {
        cells / CELLS_OF_POINT <= points && points.saturating_mul(1 << self.shared_bits) <= cells.saturating_mul(2)
    }

    /// To reduce so many clouds in grids of so many cells, or `None` where the table would be too large.
    pub fn new(batch: usize, points: usize, cells: usize) -> Option<Tiling> {
        Tiling::planned(batch, points, cells, false)
    }

    /// To send a gradient to their points, as above.
    pub fn to_spread(batch: usize, points: usize, cells: usize) -> Option<Tiling> {
        Tiling::planned(batch, points, cells, true)
    }

    fn planned(batch: usize, points: usize, cells: usize, spreads: bool) -> Option<Tiling> {
        let tiles = |bits: u32| cells.div_ceil(1 << bits);
        let lists_of = |bits: u32| cells.div_ceil(1 << (TILE_BITS + bits));
        let shared_bits = (0..=MOST_SHARED_BITS).find(|&bits| lists_of(bits) <= MOST_LISTS)?;
        let points_of = |bits: u32| points / tiles(bits).max(1);
        let wanted = |bits: u32| {
            let tiles = tiles(bits);
            let few = tiles.saturating_mul(batch) < FEW_TILES;
            tiles < TILES_OF_CHUNK && (few || points_of(bits) > POINTS_OF_TILE)
        };
        let mut bits = TILE_BITS;
        while bits > LEAST_BITS && wanted(bits) {
            bits -= 1;
        }
        let at_once = |bits: u32| tiles(bits).saturating_mul(batch) <= TILES_AT_ONCE;
        while bits > BITS_OF_FEW && at_once(bits - 1) && points_of(bits) > POINTS_OF_FEW {
            bits -= 1;
        }
        let halved = tiles(bits - 1) < TILES_OF_CHUNK && points_of(bits) > POINTS_OF_SPREAD;
        if spreads && bits == TILE_BITS && halved {
            bits -= 1;
        }
        let full = bits == LEAST_BITS && points_of(bits) > POINTS_OF_TILE;
        if full && points_of(LEAST_BITS_OF_KEPT) <= POINTS_OF_KEPT {
            bits = LEAST_BITS_OF_KEPT;
        }
        let tiles = tiles(bits);
        let chunk = points_of_chunk(batch, points, tiles, spreads);
        let lists = tiles.div_ceil(1 << shared_bits);
        let tiling = Tiling {
            bits,
            tiles,
            chunk,
            chunks: points.div_ceil(chunk),
            pitch: (lists + 1).next_multiple_of(8),
            shared_bits,
            links: links(points, tiles, cells),
        };
        let table = tiling.chunks.checked_mul(tiling.pitch * 2)?.checked_mul(batch)?;
        let most = points.saturating_mul(batch).saturating_mul(TABLE_BYTES_A_POINT).saturating_add(TABLE_BYTES);
        (lists <= MOST_LISTS && table <= most).then_some(tiling)
    }
}

/// How a grid is cut into tiles where clouds are so small that a block of each looks at all points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Small {
    /// A tile is 2^bits neighbouring cells.
    pub bits: u32,
    /// Tiles of a grid.
    pub tiles: usize,
    /// Voxels have so few points that a block links these.
    pub links: bool,
}

impl Small {
    /// For that many clouds in grids of so many cells, or `None` where that would take longer than other ways; what
    /// only marks or counts points has little to do otherwise.
    pub fn new(batch: usize, points: usize, cells: usize, keeps: bool) -> Option<Small> {
        let tiles = |bits: u32| cells.div_ceil(1 << bits);
        let mut bits = TILE_BITS;
        while bits > LEAST_BITS && tiles(bits).saturating_mul(batch) < FEW_TILES {
            bits -= 1;
        }
        let (tiles, all) = (tiles(bits), tiles(bits).saturating_mul(batch));
        let most = if keeps { POINTS_OF_SMALL } else { POINTS_OF_TINY };
        let few = points <= most && all <= TILES_AT_ONCE && all.saturating_mul(points) <= LOOKS;
        few.then_some(Small { bits, tiles, links: links(points, tiles, cells) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_and_features_that_stay_in_the_cache_are_asked_for() {
        assert!(asks_ahead(1, 500_000, 12 + 16) && !asks_ahead(1, 500_000, 12 + 32));
        assert!(!asks_ahead(8, 500_000, 12) && !asks_ahead(usize::MAX, 2, 12));
    }

    #[test]
    fn tiles_are_small_where_they_are_few_or_full() {
        let bits = |batch, points, side: usize| Tiling::new(batch, points, side.pow(3)).unwrap().bits;
        assert_eq!(bits(1, 4_000_000, 256), 10);
        assert_eq!(bits(1, 4_000_000, 64), 6, "4096 tiles of 1000 points");
        assert_eq!(
            (bits(1, 300_000, 16), bits(1, 7_000_000, 31)),
            (4, 5),
            "kept in smaller tiles, and not even in these"
        );
        assert_eq!(bits(1, 1000, 16), 5, "few, and none smaller");
        assert_eq!(bits(1, 12_000, 32), 8, "128 at once");
        assert_eq!((bits(1, 20_000, 32), bits(1, 200_000, 64), bits(1, 100_000, 16)), (7, 9, 5), "up to 528");
        let chunk = |batch, points, side: usize| Tiling::new(batch, points, side.pow(3)).unwrap().chunk;
        assert_eq!((chunk(1, 9, 64), chunk(1, 131_072, 64), chunk(1, 131_073, 64)), (512, 512, 768), "256 chunks");
        assert_eq!((chunk(1, 1 << 18, 64), chunk(1, 300_000, 70), chunk(1, 704_331, 89)), (1024, 1792, 3328));
        assert_eq!((chunk(1, 829_440, 95), chunk(1, 829_441, 95)), (3840, CHUNK), "15 and 16 or more steps");
        assert_eq!((chunk(2, 65_536, 64), chunk(2, 65_537, 64)), (512, 768), "clouds count together");
        assert_eq!((chunk(99, 65_536, 64), chunk(99, 65_537, 64)), (SMALL_CHUNK, CHUNK), "small ones do not");
        assert_eq!((chunk(1, 9, 128), chunk(1, 500_000, 128), chunk(1, 500_000, 129)), (CHUNK, 2816, CHUNK));
        let spread_chunk = |points| Tiling::to_spread(1, points, 1 << 18).unwrap().chunk;
        assert_eq!((spread_chunk(1 << 18), spread_chunk((1 << 18) + 1)), (SMALL_CHUNK, CHUNK));
        assert_eq!(bits(8, 100_000, 64), 10);
        assert_eq!(Tiling::new(1, 4_000_000, 256usize.pow(3)).unwrap().chunk, LARGE_CHUNK);
        let shared =
            |side: usize| Tiling::new(1, 4_000_000, side.pow(3)).map(|tiling| (tiling.shared_bits, tiling.pitch));
        assert_eq!((shared(256), shared(257)), (Some((0, 16_392)), Some((1, 8296))));
        assert_eq!((shared(512), shared(513)), (Some((3, 16_392)), None), "more lists than counters");
        let links = |points, side: usize| Tiling::new(1, points, side.pow(3)).unwrap().links;
        assert_eq!((links(500_000, 128), links(704_331, 89), links(50_000, 24)), (true, true, true));
        assert_eq!((links(764_652, 22), links(60_000, 24)), (false, false), "full voxels");
        assert!(!links(6_000_000, 170), "full tiles");
        let spread = |points, side: usize| Tiling::to_spread(1, points, side.pow(3)).unwrap().bits;
        assert_eq!((spread(800_000, 95), spread(400_000, 100), spread(4_000_000, 64)), (9, 10, 6));
        assert_eq!((bits(1, 800_000, 95), spread(9_000_000, 256)), (10, 10), "to reduce; and of very many tiles");
        let one = Tiling::new(1, 0, 1).unwrap();
        assert_eq!((one.tiles, one.chunks, one.pitch), (1, 0, 8));
        for batch in [0, 1, 7, 300] {
            for points in [0, 1, 4097, 500_000, 4_500_000, 70_000_000, i32::MAX as usize] {
                for cells in [1, 1025, 32 * 4096 - 1, 32 * 4096 + 1, 65 * 65 * 65, 170 * 170 * 170, MOST_LISTS * 5000] {
                    let Some(tiling) = Tiling::new(batch, points, cells) else { continue };
                    assert!(tiling.tiles << tiling.bits >= cells && (tiling.tiles - 1) << tiling.bits < cells);
                    let lists = tiling.tiles.div_ceil(1 << tiling.shared_bits);
                    assert!(lists <= MOST_LISTS && tiling.chunks * tiling.chunk >= points);
                    assert!(tiling.pitch > lists && tiling.pitch.is_multiple_of(8));
                    assert!(
                        tiling.chunk <= usize::from(u16::MAX)
                            && (LEAST_BITS_OF_KEPT..=TILE_BITS).contains(&tiling.bits)
                    );
                    // A kernel adds a chunk to its start in int32.
                    assert!(i32::try_from(tiling.chunks * tiling.chunk).is_ok() || points > 1 << 30);
                }
            }
        }
    }
}
