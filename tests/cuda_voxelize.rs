//! `voxelize` and `voxelize_sparse` on CUDA against the CPU, bit for bit, on a GPU or on the emulated driver.
//!
//! As in `tests/cuda.rs`, each test is skipped aloud without a driver, and `ROBOCACHE_CASES` sets the number of cases.

#![cfg(feature = "cuda")]

mod definition;
#[path = "definition/voxelize.rs"]
mod definition_voxelize;
#[allow(dead_code)] // a part of it is used here
mod device;
mod random;

#[path = "random/voxelize.rs"]
mod clouds;
#[path = "random/voxelize_run.rs"]
mod clouds_run;

use clouds::{CloudCase, REDUCTIONS, Sizes, Spread, Values};
use clouds_run::{assert_same, run_dense, run_sparse};
use device::{Device, Gpu, begin};
use random::array::{Array, Layout};
use random::run::Host;
use random::{FLOATING, Random, cases, encode};
use robocache::{DType, Error, Serial};

/// Fewer than of `resample`: each case is up to a dozen calls, and a sort is many launches.
const CASES: u64 = 800;

/// What results and workspaces are full of before a call: every element must be written.
fn fill_of(index: u64) -> u8 {
    [0x5a, 0xff, 0x00, 0x7f][index as usize % 4]
}

/// Everything that the case has, here and there.
fn compare(device: &Device, index: u64, case: &CloudCase) {
    let fail = |error: Error| -> Vec<clouds_run::Part> { panic!("{error}: {case:?}") };
    let wanted = run_dense(case, &Host::new(&Serial), 0x3c).unwrap_or_else(fail);
    let found = run_dense(case, &Gpu::new(device, index), fill_of(index)).unwrap_or_else(fail);
    assert_same(&found, &wanted, &(index, case));
    let wanted = run_sparse(case, &Host::new(&Serial), 0x3c).unwrap_or_else(fail);
    let found = run_sparse(case, &Gpu::new(device, index), fill_of(index)).unwrap_or_else(fail);
    assert_same(&found, &wanted, &(index, case));
}

#[test]
fn random_clouds_give_equal_bits() {
    let Some(device) = begin("random_clouds_give_equal_bits") else { return };
    for index in 0..cases(CASES) {
        compare(device, index, &CloudCase::random(index));
    }
}

#[test]
fn threads_that_start_at_once_give_equal_bits() {
    let Some(device) = begin("threads_that_start_at_once_give_equal_bits") else { return };
    let count = cases(CASES) / 40;
    std::thread::scope(|scope| {
        for thread in 1..=4 {
            scope.spawn(move || {
                device.enter();
                (0..count).for_each(|index| compare(device, index, &CloudCase::random(thread << 32 | index)));
            });
        }
    });
}

#[test]
fn voxels_of_many_points_give_equal_bits() {
    let Some(device) = begin("voxels_of_many_points_give_equal_bits") else { return };
    let all = [Values::Small, Values::Cancelling, Values::Wide, Values::Ties, Values::Wild];
    for (index, values) in all.into_iter().enumerate() {
        for (place, dtype) in FLOATING.into_iter().enumerate() {
            for (seed, reduce) in REDUCTIONS.into_iter().enumerate() {
                let spread = if seed % 2 == 0 { Spread::Heavy } else { Spread::Few };
                let sizes = Sizes { batch: 2, count: 300 + 100 * place, channels: 1 + (seed + place) % 3 };
                let seed = 1000 * index + 10 * place + seed;
                let dtypes = [FLOATING[(index + place) % 4], dtype];
                let mut case = CloudCase::new(&mut Random(seed as u64), dtypes, reduce, sizes, spread, values);
                case.lengths = None;
                compare(device, seed as u64, &case);
            }
        }
    }
}

#[test]
fn points_that_are_linked_give_equal_bits() {
    let Some(device) = begin("points_that_are_linked_give_equal_bits") else { return };
    // In small clouds and in tiles: voxels of one point, of several, of more than a thread takes, and a full tile;
    // channels by each access, and where they begin anywhere.
    let kinds = [
        (900, 16, Spread::Few),
        (2000, 16, Spread::Even),
        (3500, 24, Spread::Few),
        (3000, 20, Spread::Even),
        (2800, 21, Spread::Few),
    ];
    for (place, (count, side, spread)) in kinds.into_iter().enumerate() {
        for (index, channels) in [1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 17].into_iter().enumerate() {
            let dtypes = [DType::F32, FLOATING[(index + place) % 4]];
            let values = [Values::Small, Values::Cancelling, Values::Wide, Values::Wild][(index / 4 + index) % 4];
            let seed = (10 * place + index) as u64;
            let sizes = Sizes { batch: 1, count, channels };
            let r = &mut Random(seed);
            let mut case = CloudCase::new(r, dtypes, "mean", sizes, spread, values);
            case.grid_size = vec![side; 3];
            case.voxel_size = case.voxel_size.iter().map(|edge| edge / 4.0).collect();
            case.lengths = None;
            let shape = [1, channels, (side * side * side) as usize];
            case.grad = Array::new(r, dtypes[1], &shape, Layout::Dense, |_, at| at as u64 % 0x7c00);
            let wanted = run_dense(&case, &Host::new(&Serial), 0x3c).unwrap();
            assert_same(&run_dense(&case, &Gpu::new(device, seed), 0xff).unwrap(), &wanted, &(count, channels));
        }
    }
}

#[test]
fn gradients_by_smaller_tiles_give_equal_bits() {
    let Some(device) = begin("gradients_by_smaller_tiles_give_equal_bits") else { return };
    // Tiles so full that those of a gradient are half as large, and so many that they are no smaller.
    for (seed, reduce) in ["mean", "sum"].into_iter().enumerate() {
        let (r, sizes) = (&mut Random(seed as u64), Sizes { batch: 90, count: 2500, channels: 2 });
        let mut case = CloudCase::new(r, [DType::F32, DType::BF16], reduce, sizes, Spread::Even, Values::Small);
        case.grid_size = vec![30, 10, 10];
        case.voxel_size = case.voxel_size.iter().map(|edge| edge / 4.0).collect();
        case.lengths = None;
        case.grad = Array::new(r, DType::BF16, &[90, 2, 3000], Layout::Dense, |_, at| at as u64 % 0x7c00);
        let wanted = run_dense(&case, &Host::new(&Serial), 0x3c).unwrap();
        assert_same(&run_dense(&case, &Gpu::new(device, seed as u64), 0xff).unwrap(), &wanted, &reduce);
    }
}

#[test]
fn large_clouds_that_divide_the_work_otherwise_give_equal_bits() {
    let Some(device) = begin("large_clouds_that_divide_the_work_otherwise_give_equal_bits") else { return };
    let sizes = |batch, count, channels| Sizes { batch, count, channels };
    let kinds = [
        // Several tiles of a sort, and of the points.
        (sizes(2, 9000, 1), Spread::Even),
        (sizes(1, 2048, 2), Spread::Even),
        (sizes(3, 2049, 1), Spread::Faces),
        (sizes(1, 6000, 1), Spread::Heavy),
        // More tiles than a warp scans at once.
        (sizes(1, 70_000, 1), Spread::Few),
        // More clouds than a block scans at once, and more channels than a block takes.
        (sizes(300, 4, 1), Spread::Even),
        (sizes(2, 40, 70), Spread::Few),
    ];
    for (index, (sizes, spread)) in kinds.into_iter().enumerate() {
        for (seed, reduce) in ["mean", "max"].into_iter().enumerate() {
            let dtypes = [FLOATING[index % 4], FLOATING[(index + seed) % 4]];
            let seed = (100 * index + seed) as u64;
            let mut case = CloudCase::new(&mut Random(seed), dtypes, reduce, sizes, spread, Values::Cancelling);
            case.capacity = None;
            compare(device, seed, &case);
        }
    }
}

#[test]
fn grids_of_many_tiles_give_equal_bits() {
    let Some(device) = begin("grids_of_many_tiles_give_equal_bits") else { return };
    let kinds = [
        // Tiles that share lists: full ones, with a gradient by tiles, and empty ones; then so many that a chunk has
        // several rounds of points.
        (257, "mean", 1_100_000, Spread::Few),
        (257, "mean", 0, Spread::Even),
        (257, "max", 900, Spread::Even),
        (81, "mean", 20_000, Spread::Few),
        (81, "max", 5_000, Spread::Even),
    ];
    for (seed, (x, reduce, count, spread)) in kinds.into_iter().enumerate() {
        let (r, sizes) = (&mut Random(seed as u64), Sizes { batch: 1, count, channels: 1 });
        let mut case = CloudCase::new(r, [DType::F32, DType::F16], reduce, sizes, spread, Values::Cancelling);
        case.grid_size = vec![x, 256, 256];
        case.sparse_size = case.grid_size.clone();
        // Smaller voxels, so that points lie in many tiles.
        case.voxel_size = case.voxel_size.iter().map(|edge| edge / 40.0).collect();
        case.lengths = None;
        let cells = x as usize * 256 * 256;
        case.grad = Array::new(r, DType::F16, &[1, 1, cells], Layout::Dense, |_, at| at as u64 % 0x7c00);
        compare(device, seed as u64, &case);
    }
}

#[test]
fn full_tiles_of_many_channels_give_equal_bits() {
    let Some(device) = begin("full_tiles_of_many_channels_give_equal_bits") else { return };
    // Blocks share the channels of a tile whose points are too many for the shared memory of each.
    for (seed, (dtype, channels)) in [(DType::F64, 200), (DType::F32, 400), (DType::F16, 800)].into_iter().enumerate() {
        for (place, reduce) in ["sum", "mean", "max"].into_iter().enumerate() {
            let sizes = Sizes { batch: 2, count: 2600, channels };
            let seed = (10 * seed + place) as u64;
            let mut case =
                CloudCase::new(&mut Random(seed), [DType::F32, dtype], reduce, sizes, Spread::Heavy, Values::Small);
            case.lengths = None;
            compare(device, seed, &case);
        }
    }
}

#[test]
fn clouds_of_many_chunks_give_equal_bits() {
    let Some(device) = begin("clouds_of_many_chunks_give_equal_bits") else { return };
    // More than a block has threads, and of blocks of 320 threads.
    let (many, odd) = (257 * 4096 + 5, (1 << 18) + 300);
    for (seed, (count, spread)) in
        [(many, Spread::Even), (many, Spread::Few), (odd, Spread::Even)].into_iter().enumerate()
    {
        let (r, sizes) = (&mut Random(seed as u64), Sizes { batch: 1, count, channels: 1 });
        let mut case = CloudCase::new(r, [DType::F32, DType::F16], "mean", sizes, spread, Values::Small);
        case.sparse_size = case.grid_size.clone();
        compare(device, 0, &case);
    }
}

#[test]
fn keys_of_more_tiles_than_a_block_scans_at_once_give_equal_bits() {
    let Some(device) = begin("keys_of_more_tiles_than_a_block_scans_at_once_give_equal_bits") else { return };
    let sizes = Sizes { batch: 1, count: 1024 * 2048 + 5, channels: 1 };
    let r = &mut Random(3);
    let mut case = CloudCase::new(r, [DType::F32, DType::F16], "mean", sizes, Spread::Even, Values::Small);
    case.sparse_size = vec![300, 2000, 500];
    let wanted = run_sparse(&case, &Host::new(&Serial), 0x3c).unwrap();
    assert_same(&run_sparse(&case, &Gpu::new(device, 0), 0xff).unwrap(), &wanted, &"many tiles");
}

#[test]
fn many_points_are_marked_in_bits_with_equal_results() {
    let Some(device) = begin("many_points_are_marked_in_bits_with_equal_results") else { return };
    // Of clouds that are too small for bins: crowded voxels of any number, and few points a voxel in whole groups.
    for (seed, (size, dtype)) in [([7, 5, 3], DType::F64), ([128, 128, 16], DType::BF16)].into_iter().enumerate() {
        let sizes = Sizes { batch: 17, count: 61_690 + seed, channels: 1 };
        let r = &mut Random(seed as u64);
        let mut case = CloudCase::new(r, [dtype, DType::F32], "occupancy", sizes, Spread::Even, Values::Small);
        case.grid_size = size.to_vec();
        let wanted = run_dense(&case, &Host::new(&Serial), 0x3c).unwrap();
        assert_same(&run_dense(&case, &Gpu::new(device, 0), 0xff).unwrap(), &wanted, &(size, dtype));
    }
}

/// The same box in so many voxels.
fn cut_otherwise(case: &mut CloudCase, size: [i32; 3]) {
    let edge = |axis: usize| case.voxel_size[axis % case.voxel_size.len()];
    let edges = [0, 1, 2].map(|axis| edge(axis) * case.grid_size[axis] as f64 / f64::from(size[axis]));
    (case.voxel_size, case.grid_size) = (edges.to_vec(), size.map(i64::from).to_vec());
}

#[test]
fn means_of_few_points_in_large_grids_give_equal_bits() {
    let Some(device) = begin("means_of_few_points_in_large_grids_give_equal_bits") else { return };
    // Points are counted by voxel; blocks share the channels of few; threads take four of many.
    for (seed, (size, dtype, batch, count, channels, spread)) in [
        ([100, 90, 90], DType::F64, 2, 300, 5, Spread::Even),
        ([100, 90, 90], DType::F32, 1, 301, 9, Spread::Few),
        ([100, 90, 90], DType::BF16, 1, 33, 33, Spread::Even),
        ([100, 90, 90], DType::F16, 2, 2600, 1, Spread::Heavy),
        ([150, 150, 150], DType::F16, 1, 140_003, 1, Spread::Even),
    ]
    .into_iter()
    .enumerate()
    {
        let (r, sizes) = (&mut Random(40 + seed as u64), Sizes { batch, count, channels });
        let mut case = CloudCase::new(r, [FLOATING[seed % 4], dtype], "mean", sizes, spread, Values::Small);
        cut_otherwise(&mut case, size);
        let cells = size.into_iter().product::<i32>() as usize;
        case.grad =
            Array::new(r, dtype, &[batch, channels, cells], Layout::Dense, |_, at| encode(dtype, (at % 2039) as f64));
        let wanted = run_dense(&case, &Host::new(&Serial), 0x3c).unwrap();
        let found = run_dense(&case, &Gpu::new(device, seed as u64), fill_of(seed as u64)).unwrap();
        assert_same(&found, &wanted, &(seed, size, dtype));
    }
}

#[test]
fn gradients_of_many_counted_elements_give_equal_bits() {
    let Some(device) = begin("gradients_of_many_counted_elements_give_equal_bits") else { return };
    // By way of what each point of a voxel gets: rows of whole accesses and of others, one of a channel.
    for (seed, (dtype, batch, count, channels)) in [
        (DType::F32, 1, 40_003, 7),
        (DType::BF16, 1, 44_001, 6),
        (DType::F64, 1, 90_001, 3),
        (DType::F16, 2, 5003, 33),
        (DType::F16, 3, 90_001, 1),
        (DType::F32, 1, 9001, 32),
    ]
    .into_iter()
    .enumerate()
    {
        let (r, sizes) = (&mut Random(60 + seed as u64), Sizes { batch, count, channels });
        let types = [FLOATING[seed % 4], dtype];
        let mut case = CloudCase::new(r, types, "mean", sizes, Spread::Even, Values::Small);
        case.grid_size = vec![9, 8, 7];
        let grad = [batch, channels, 9 * 8 * 7];
        case.grad = Array::new(r, dtype, &grad, Layout::Dense, |_, at| encode(dtype, (at % 2039) as f64));
        let wanted = run_dense(&case, &Host::new(&Serial), 0x3c).unwrap();
        let found = run_dense(&case, &Gpu::new(device, seed as u64), fill_of(seed as u64)).unwrap();
        assert_same(&found, &wanted, &(seed, dtype));
    }
}

#[test]
fn many_points_are_marked_by_bins_with_equal_results() {
    let Some(device) = begin("many_points_are_marked_by_bins_with_equal_results") else { return };
    // Crowded voxels, fewer than bins, or of a number that is no multiple of what a thread writes; then more chunks than
    // a block looks at together, and rounds.
    for (seed, (size, dtype, batch, count)) in [
        ([7, 5, 3], DType::F64, 2, 131_072),
        ([1, 1, 1], DType::BF16, 1, 262_144),
        ([51, 37, 33], DType::F16, 2, 131_101),
        ([128, 128, 16], DType::F32, 1, 540_001),
        ([256, 256, 256], DType::F32, 1, 1_100_003),
    ]
    .into_iter()
    .enumerate()
    {
        let sizes = Sizes { batch, count, channels: 1 };
        let r = &mut Random(20 + seed as u64);
        let mut case = CloudCase::new(r, [dtype, DType::F32], "occupancy", sizes, Spread::Even, Values::Small);
        cut_otherwise(&mut case, size);
        // All points of a cloud alone, so that every chunk and round has some.
        case.lengths = case.lengths.filter(|_| batch > 1);
        let wanted = run_dense(&case, &Host::new(&Serial), 0x3c).unwrap();
        assert_same(&run_dense(&case, &Gpu::new(device, 0), 0xff).unwrap(), &wanted, &(size, dtype));
    }
}

#[test]
fn voxels_of_more_points_than_a_block_keeps_give_equal_bits() {
    let Some(device) = begin("voxels_of_more_points_than_a_block_keeps_give_equal_bits") else { return };
    // By tiles, in one of which three voxels have more points than are sorted or marked at a time; then by few.
    for (seed, (count, spread)) in
        [(131_072 + 4099, Spread::Few), (5000, Spread::Heavy), (1900, Spread::Few)].into_iter().enumerate()
    {
        for (place, reduce) in ["mean", "max"].into_iter().enumerate() {
            let sizes = Sizes { batch: 1, count, channels: 1 + place };
            let r = &mut Random((10 * seed + place) as u64);
            let mut case = CloudCase::new(r, [DType::F32, DType::F32], reduce, sizes, spread, Values::Wide);
            case.sparse_size = vec![128, 128, 128];
            case.lengths = None;
            let wanted = run_sparse(&case, &Host::new(&Serial), 0x3c).unwrap();
            assert_same(&run_sparse(&case, &Gpu::new(device, 0), 0xff).unwrap(), &wanted, &(count, spread, reduce));
        }
    }
}

#[test]
fn clouds_without_points_channels_or_rows_are_no_error() {
    let Some(device) = begin("clouds_without_points_channels_or_rows_are_no_error") else { return };
    for (batch, count, channels) in [(0, 4, 2), (2, 0, 2), (2, 4, 0), (0, 0, 0), (1, 0, 0)] {
        for (index, reduce) in REDUCTIONS.into_iter().enumerate() {
            for capacity in [None, Some(0), Some(3)] {
                let dtypes = [DType::F32, FLOATING[index % 4]];
                let sizes = Sizes { batch, count, channels };
                let mut case = CloudCase::new(&mut Random(9), dtypes, reduce, sizes, Spread::Even, Values::Small);
                case.capacity = capacity;
                compare(device, index as u64, &case);
            }
        }
    }
}

#[test]
fn garbage_lengths_stay_within_memory() {
    let Some(device) = begin("garbage_lengths_stay_within_memory") else { return };
    for index in 0..cases(CASES) / 4 {
        let case = CloudCase::random(index).with_garbage(&mut Random(index));
        let memory = Gpu::new(device, index);
        run_dense(&case, &memory, fill_of(index)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
        run_sparse(&case, &memory, fill_of(index)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
    }
}

#[test]
fn a_call_again_gives_the_same_bits() {
    let Some(device) = begin("a_call_again_gives_the_same_bits") else { return };
    let sizes = Sizes { batch: 2, count: 3000, channels: 2 };
    for (seed, reduce) in ["mean", "max"].into_iter().enumerate() {
        let dtypes = [DType::F32, DType::F32];
        let case = CloudCase::new(&mut Random(seed as u64), dtypes, reduce, sizes, Spread::Few, Values::Cancelling);
        let dense = || run_dense(&case, &Gpu::new(device, 0), 0xa5).unwrap();
        let sparse = || run_sparse(&case, &Gpu::new(device, 1), 0xff).unwrap();
        let (first_dense, first_sparse) = (dense(), sparse());
        for _ in 0..4 {
            assert_same(&dense(), &first_dense, &case);
            assert_same(&sparse(), &first_sparse, &case);
        }
    }
}
