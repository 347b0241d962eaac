//! CUDA against the CPU, bit for bit, on a GPU or on the emulated driver of `tests/emulator`.
//!
//! Without a driver each test says that it is skipped, and fails under `ROBOCACHE_REQUIRE_CUDA=1`. `ROBOCACHE_CASES`
//! sets the number of random cases.

#![cfg(feature = "cuda")]

mod definition;
mod device;
mod random;

use definition::Mode;
use device::{Device, Gpu, MOST_RUNS, alone, assert_passed, begin, compare, skip};
use random::array::{Array, Layout, difference, same};
use random::fuse::{FuseCase, run_fuse};
use random::run::{Host, Op, run};
use random::{Case, FLOATING, INTEGERS, Random, Sizes, cases, decode, encode};
use robocache::{DType, Error, Serial};

#[test]
fn cuda_and_cpu_give_equal_bits() {
    let Some(device) = begin("cuda_and_cpu_give_equal_bits") else { return };
    let count = cases(3000);
    for index in 0..count {
        compare(device, index, &Case::random(index, &FLOATING));
    }
    for index in 0..count / 4 {
        compare(device, index, &Case::random(index, &INTEGERS));
    }
}

/// `fuse`, here and there.
fn compare_fused(device: &Device, index: u64, case: &FuseCase) {
    let wanted = run_fuse(case, &Host::new(&Serial)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
    let found = run_fuse(case, &Gpu::new(device, index)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
    let dtype = case.dtype();
    assert!(same(dtype, &found, &wanted), "fuse {index}: {}\n{case:?}", difference(dtype, &found, &wanted));
}

#[test]
fn fused_streams_give_equal_bits() {
    let Some(device) = begin("fused_streams_give_equal_bits") else { return };
    let count = cases(3000) / 3;
    for index in 0..count {
        compare_fused(device, index, &FuseCase::random(index, &FLOATING));
    }
    for index in 0..count / 4 {
        compare_fused(device, index, &FuseCase::random(index, &INTEGERS));
    }
}

#[test]
fn threads_that_start_at_once_give_equal_bits() {
    let Some(device) = begin("threads_that_start_at_once_give_equal_bits") else { return };
    let count = cases(3000) / 40;
    std::thread::scope(|scope| {
        for thread in 1..=4 {
            scope.spawn(move || {
                device.enter();
                (0..count).for_each(|index| compare(device, index, &Case::random(thread << 32 | index, &FLOATING)));
            });
        }
    });
}

#[test]
fn large_calls_that_divide_the_work_otherwise_give_equal_bits() {
    let Some(device) = begin("large_calls_that_divide_the_work_otherwise_give_equal_bits") else { return };
    let sizes = |batch, samples, targets, channels| Sizes { batch, samples, targets, channels };
    let kinds = [
        // 8, 16 and 32 rows a warp: searched together, then by one lane each.
        (DType::BF16, sizes(1, 1000, 17_000, 9)),
        (DType::F32, sizes(1, 50, 33_000, 5)),
        (DType::F64, sizes(2, 200, 40_000, 3)),
        (DType::U8, sizes(3, 9, 25_000, 1)),
        // Rows that are cut into tiles, and more bytes than a lane takes at once.
        (DType::F32, sizes(1, 3, 5, 1030)),
        (DType::F64, sizes(2, 3, 2, 2064)),
        (DType::BF16, sizes(1, 3, 3, 8208)),
        (DType::I16, sizes(2, 2, 4, 9001)),
        // More samples than a warp reaches in three steps, more targets than a block sorts at once.
        (DType::F32, sizes(1, 40_000, 30, 2)),
        (DType::F16, sizes(2, 30, 5000, 8)),
    ];
    for (index, (dtype, sizes)) in kinds.into_iter().enumerate() {
        for (times, seed) in [(DType::F64, 1), (DType::F32, 2), (DType::I64, 3)] {
            let case = Case::new(&mut Random(seed * 100 + index as u64), dtype, times, sizes);
            compare(device, seed, &case);
        }
    }
}

#[test]
fn rows_of_every_length_that_a_search_tells_apart_give_equal_bits() {
    let Some(device) = begin("rows_of_every_length_that_a_search_tells_apart_give_equal_bits") else { return };
    // Staged whole, on both sides of each of the search's steps; then every 2nd and every 16th sample, the rest searched
    // by eighths, and by halves where most threads of a block search: 150 rows of one channel.
    for samples in [1, 7, 8, 9, 63, 64, 65, 448, 511, 512, 513, 1025, 5000] {
        for (targets, channels) in [(5, 3), (300, 1)] {
            for (times, seed) in [(DType::F64, 1), (DType::F32, 2), (DType::I64, 3)] {
                let sizes = Sizes { batch: 2, samples, targets, channels };
                let seed = seed * 10_000 + samples as u64 + targets as u64;
                compare(device, seed, &Case::new(&mut Random(seed), DType::F32, times, sizes));
            }
        }
    }
}

/// The same targets, each row's in ascending order.
fn ascending(mut case: Case) -> Case {
    let times = &case.target_times;
    let dtype = times.dtype;
    let mut bits: Vec<u64> = match dtype {
        DType::F32 => times.elements::<u32>().into_iter().map(u64::from).collect(),
        _ => times.elements(),
    };
    for row in bits.chunks_mut(case.targets) {
        row.sort_by(|&a, &b| match dtype {
            DType::I64 => (a as i64).cmp(&(b as i64)),
            _ => decode(dtype, a).total_cmp(&decode(dtype, b)),
        });
    }
    case.target_times = Array::new(&mut Random(0), dtype, &times.sizes.clone(), Layout::Dense, |_, at| bits[at]);
    case
}

#[test]
fn many_targets_of_long_rows_give_equal_bits() {
    let Some(device) = begin("many_targets_of_long_rows_give_equal_bits") else { return };
    // Blocks of over 128 targets, which lie in a window of at most 1024 samples where they ascend evenly; of any times
    // nothing is read beyond the row.
    let linear = ("linear", Mode::Linear);
    for (seed, (dtype, times, (name, mode))) in [
        (DType::F32, DType::F64, linear),
        (DType::BF16, DType::I64, linear),
        (DType::F16, DType::F32, linear),
        (DType::F64, DType::F64, ("nearest", Mode::Nearest)),
    ]
    .into_iter()
    .enumerate()
    {
        let (seed, sizes) = (seed as u64, Sizes { batch: 10, samples: 8600, targets: 8000, channels: 1 });
        let random = || Case::new(&mut Random(700 + seed), dtype, times, sizes);
        let case = || Case { mode: name.to_owned(), modes: vec![mode], ..random() };
        let forward = |case: Case| {
            let wanted = run(&case, Op::Resample, &Host::new(&Serial)).unwrap();
            let found = run(&case, Op::Resample, &Gpu::new(device, seed)).unwrap();
            assert!(same(dtype, &found, &wanted), "{seed}: {}", difference(dtype, &found, &wanted));
        };
        forward(ascending(case()));
        forward(case());
        run(&case().with_garbage(&mut Random(seed)), Op::Resample, &Gpu::new(device, seed)).unwrap();
    }
}

/// The case with targets at these shares of the way from the first sample to the last, in every row.
fn at_shares(mut case: Case, share: impl Fn(usize) -> f64) -> Case {
    let (samples, targets) = (case.samples, case.targets);
    let source: Vec<f64> = case.source_times.elements();
    let time = |at: usize| {
        let row = &source[at / targets * samples..][..samples];
        row[0] + (row[samples - 1] - row[0]) * share(at % targets)
    };
    let shape = case.target_times.sizes.clone();
    case.target_times =
        Array::new(&mut Random(0), DType::F64, &shape, Layout::Dense, |_, at| encode(DType::F64, time(at)));
    case
}

/// The case with all channels linear.
fn linear(case: Case) -> Case {
    let channels = case.modes.len();
    Case { mode: "linear".to_owned(), modes: vec![Mode::Linear; channels], ..case }
}

/// The gradient by the values, here and there.
fn compare_gradients(device: &Device, seed: u64, case: &Case) {
    let op = Op::Backward { slope: false };
    let wanted = run(case, op, &Host::new(&Serial)).unwrap();
    let found = run(case, op, &Gpu::new(device, seed)).unwrap();
    let dtype = case.values.dtype;
    assert!(same(dtype, &found, &wanted), "{seed}: {}", difference(dtype, &found, &wanted));
}

#[test]
fn gradients_of_many_targets_give_equal_bits() {
    let Some(device) = begin("gradients_of_many_targets_give_equal_bits") else { return };
    // Of 4, 10 and 60 targets for each sample: blocks that keep all of theirs, at once eight of a row and more, and that
    // do not; by elements and by vectors.
    let mut seed = 0;
    for times in [DType::F64, DType::F32, DType::I64] {
        for dtype in FLOATING {
            for (samples, targets, channels) in [(90, 360, 5), (40, 400, 8), (33, 1980, 2)] {
                seed += 1;
                let random = Case::new(&mut Random(seed), dtype, times, Sizes { batch: 3, samples, targets, channels });
                let case = ascending(random);
                compare_gradients(device, seed, &case);
                compare_gradients(device, seed, &linear(case));
            }
        }
    }
}

#[test]
fn gradients_of_few_targets_give_equal_bits() {
    let Some(device) = begin("gradients_of_few_targets_give_equal_bits") else { return };
    // Rows of the batch that are short and many, in one mode and in several, of targets that ascend and of others.
    let mut seed = 100;
    for times in [DType::F64, DType::F32, DType::I64] {
        for dtype in FLOATING {
            for channels in [1, 8, 19] {
                seed += 1;
                let sizes = Sizes { batch: 270, samples: 20, targets: 7, channels };
                let random = Case::new(&mut Random(seed), dtype, times, sizes);
                compare_gradients(device, seed, &random);
                let case = ascending(random);
                compare_gradients(device, seed, &case);
                compare_gradients(device, seed, &linear(case));
            }
        }
    }
    // Of a long row: some in a bracket, neighbours' in one, and more in one than a block has, within the row and past its
    // ends; and one that does not ascend.
    for (seed, dtype) in (0..).zip([DType::F32, DType::BF16]) {
        let sizes = Sizes { batch: 1, samples: 140_000, targets: 900, channels: 2 };
        let case = linear(Case::new(&mut Random(seed), dtype, DType::F64, sizes));
        let even = |at: usize| at as f64 / 899.0;
        compare_gradients(device, seed, &at_shares(case.clone(), even));
        compare_gradients(device, seed, &at_shares(case.clone(), |at| 0.5 + even(at) * 2e-3));
        compare_gradients(
            device,
            seed,
            &at_shares(case.clone(), |at| if at < 300 { even(at) } else { 0.4 + even(at) * 1e-9 }),
        );
        compare_gradients(device, seed, &at_shares(case.clone(), |at| even(at) * 3.0 - 1.0));
        compare_gradients(device, seed, &at_shares(case, |at| if at == 500 { 0.0 } else { even(at) }));
    }
    // Two launches of groups, of which the second takes few targets for its one channel.
    let case = alternating_of(Sizes { batch: 1, samples: 140_000, targets: 20_000, channels: 17 });
    compare_gradients(device, 0, &at_shares(case, |at| at as f64 / 19_999.0));
}

#[test]
fn one_target_that_does_not_ascend_gives_equal_bits() {
    let Some(device) = begin("one_target_that_does_not_ascend_gives_equal_bits") else { return };
    // Wherever it stands among those that a thread of a gradient's block looks at: together, and alone.
    let targets = 1200;
    for place in [1, 255, 256, 300, 511, 512, 700, 1000, 1023, 1024, 1100, 1199] {
        let sizes = Sizes { batch: 1, samples: 40, targets, channels: 2 };
        let case = Case { source_lengths: None, ..linear(Case::new(&mut Random(900), DType::F32, DType::F64, sizes)) };
        let share = |at: usize| if at == place { 0.0 } else { (at + 1) as f64 / 1201.0 };
        compare_gradients(device, place as u64, &at_shares(case, share));
    }
}

#[test]
fn large_fused_calls_give_equal_bits() {
    let Some(device) = begin("large_fused_calls_give_equal_bits") else { return };
    let kinds = [
        (DType::BF16, vec![512, 14, 6, 8, 1]),
        (DType::F32, vec![7; 40]),
        (DType::F64, vec![1030, 2064]),
        (DType::F16, vec![4; 16]),
        (DType::I16, vec![9001, 16, 0, 3]),
    ];
    for (index, (dtype, widths)) in kinds.iter().enumerate() {
        for seed in 0..6 {
            let times = [DType::F64, DType::F32, DType::I64][seed as usize % 3];
            let case = FuseCase::new(&mut Random(seed * 100 + index as u64), *dtype, times, widths);
            compare_fused(device, seed, &case);
        }
    }
}

/// The first random call of streams of these widths whose result has elements.
fn with_elements(widths: &[usize]) -> FuseCase {
    let mut cases = (0..).map(|seed| FuseCase::new(&mut Random(seed), DType::F32, DType::F64, widths));
    cases.find(|case| case.streams[0].batch * case.streams[0].targets > 0).unwrap()
}

/// Streams that are linear, the last of which has groups of one channel by turns.
fn grouped(streams: usize, groups: usize) -> FuseCase {
    let widths: Vec<_> = (0..streams).map(|stream| if stream + 1 < streams { 2 } else { groups }).collect();
    let mut case = with_elements(&widths);
    for (own, &width) in case.streams.iter_mut().zip(&widths) {
        (own.modes, own.outside) = (vec![Mode::Linear; width], "hold");
    }
    case.streams[streams - 1].modes = alternating(groups).modes;
    let before = if streams > 1 { format!("linear:{},", 2 * (streams - 1)) } else { String::new() };
    case.mode = before + &alternating(groups).mode;
    case
}

#[test]
fn fused_streams_of_more_groups_than_a_launch_holds() {
    let Some(device) = begin("fused_streams_of_more_groups_than_a_launch_holds") else { return };
    for (streams, groups) in [(1, 64), (2, 64), (16, 49), (16, 50), (17, 64), (40, 3)] {
        compare_fused(device, 0, &grouped(streams, groups));
    }
    let error = run_fuse(&grouped(2, 65), &Gpu::new(device, 0)).unwrap_err();
    let text = "fuse: mode must have at most 64 groups within one stream on CUDA, got 65";
    assert_eq!(error, Error::Value(text.to_owned()));
}

#[test]
fn up_to_16_streams_are_one_launch() {
    let Some(device) = begin("up_to_16_streams_are_one_launch") else { return };
    if !device.emulated {
        return skip("up_to_16_streams_are_one_launch", "only the emulated driver says what it launched");
    }
    for (streams, launches) in [(1, 1), (2, 1), (16, 1), (17, 2), (40, 3)] {
        let environment =
            [("ROBOCACHE_EMULATOR_LAUNCHES", Some("1")), ("ROBOCACHE_STREAMS", Some(&*streams.to_string()))];
        let output = alone("one_fused_call", &environment);
        assert_passed(&output, "one_fused_call");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(errors.matches("emulator: launch fuse_").count(), launches, "{streams} streams:\n{errors}");
    }
}

#[test]
#[ignore = "run by up_to_16_streams_are_one_launch"]
fn one_fused_call() {
    let Some(device) = begin("one_fused_call") else { return };
    let streams = std::env::var("ROBOCACHE_STREAMS").unwrap().parse().unwrap();
    compare_fused(device, 0, &with_elements(&vec![3; streams]));
}

/// A case whose channels are linear and not, by turns.
fn alternating(channels: usize) -> Case {
    alternating_of(Sizes { batch: 2, samples: 9, targets: 6, channels })
}

fn alternating_of(sizes: Sizes) -> Case {
    let mut case = Case::new(&mut Random(7), DType::F32, DType::F64, sizes);
    let modes = [(Mode::Linear, "linear:1"), (Mode::Previous, "previous:1")];
    case.modes = (0..sizes.channels).map(|channel| modes[channel % 2].0).collect();
    case.mode = (0..sizes.channels).map(|channel| modes[channel % 2].1).collect::<Vec<_>>().join(",");
    case.outside = "hold";
    case
}

#[test]
fn a_time_gradient_sums_more_groups_than_a_launch_of_resample_holds() {
    let Some(device) = begin("a_time_gradient_sums_more_groups_than_a_launch_of_resample_holds") else { return };
    for channels in [33, 40, 2 * MOST_RUNS] {
        compare(device, 0, &alternating(channels));
    }
    let error = run(&alternating(2 * MOST_RUNS + 1), Op::TimeGrad, &Gpu::new(device, 0)).unwrap_err();
    let text = "resample_time_grad: mode must have at most 224 runs of linear channels on CUDA, got 225";
    assert_eq!(error, Error::Value(text.to_owned()));
}

#[test]
fn a_row_found_before_its_neighbours_reads_nothing_more() {
    let Some(device) = begin("a_row_found_before_its_neighbours_reads_nothing_more") else { return };
    let sizes = Sizes { batch: 2, samples: 100, targets: 2, channels: 3 };
    let mut case = Case::new(&mut Random(1), DType::F32, DType::F64, sizes);
    let times: Vec<f64> = (0..200).map(|place| f64::from(place % 100)).collect();
    case.source_times = Array::dense(&times, &[2, 100]);
    case.target_times = Array::dense(&[-1.0, -2.0, 50.5, 60.25], &[2, 2]);
    case.source_lengths = Some(Array::dense(&[1i64, 100], &[2]));
    compare(device, 0, &case);
}

#[test]
fn weights_that_are_divided_while_rows_are_read_give_equal_bits() {
    let Some(device) = begin("weights_that_are_divided_while_rows_are_read_give_equal_bits") else { return };
    // Too small for an f32, at a sample, inside, of a quotient that is subnormal, outside; beside samples that are not
    // numbers. A thread has one element, two, three of four; and of 48,000 channels two vectors of 16 bytes.
    let (last, tiny) = (1e300, f64::from_bits(1));
    for channels in [1usize, 3, 12_001, 20_001, 48_000] {
        for outside in ["hold", "zero", "nan"] {
            let sizes = Sizes { batch: 1, samples: 4, targets: 16, channels };
            let mut case = Case::new(&mut Random(channels as u64), DType::F32, DType::F64, sizes);
            (case.mode, case.modes, case.outside) = ("linear".into(), vec![Mode::Linear; channels], outside);
            let row = [1.0f32, f32::NAN, f32::INFINITY, 2.0];
            let values: Vec<f32> = row.iter().flat_map(|&value| vec![value; channels]).collect();
            // One channel has no axis of its own.
            let shape = [1, 4, channels];
            case.values = Array::dense(&values, if channels == 1 { &shape[..2] } else { &shape });
            case.source_times = Array::dense(&[0.0, last, 1.5 * last, 1.6 * last], &[1, 4]);
            let times = [-1.0, 0.0, tiny, 1e-10, 1.0, 0.25 * last, last, 1.1 * last, 1.5 * last, 1.6 * last, 1.7e308];
            let targets: Vec<f64> = (0..16).map(|target| times[target % times.len()]).collect();
            case.target_times = Array::dense(&targets, &[1, 16]);
            case.source_lengths = None;
            compare(device, channels as u64, &case);
        }
    }
}

#[test]
fn garbage_times_and_lengths_stay_within_memory() {
    let Some(device) = begin("garbage_times_and_lengths_stay_within_memory") else { return };
    for index in 0..cases(3000) / 4 {
        let case = Case::random(index, &FLOATING).with_garbage(&mut Random(index));
        for op in Op::of(&case) {
            let memory = Gpu::new(device, index);
            run(&case, op, &memory).unwrap_or_else(|error| panic!("{error}: {case:?}"));
        }
        let case = FuseCase::random(index, &FLOATING).with_garbage(&mut Random(index));
        run_fuse(&case, &Gpu::new(device, index)).unwrap_or_else(|error| panic!("{error}: {case:?}"));
    }
}
