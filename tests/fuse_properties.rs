//! What holds for `fuse` and `resample_mask` whatever their arguments, on inputs that proptest makes and shrinks.

mod logs;

use logs::{Log, MODES, OUTSIDE, any_seconds, bits, logs, seconds};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use robocache::{Element, MaxGap, Place, Serial, StdThreads, Threads, View, ViewMut, fuse, resample_mask};
use std::num::NonZeroUsize;

/// `[B, T, sum of D]`, to the targets of the first.
fn fused<T: Element>(
    streams: &[&Log<T>],
    mode: &str,
    outside: &str,
    lengths: Option<&[i64]>,
    threads: &dyn Threads,
) -> Vec<f64> {
    let values: Vec<View> = streams.iter().map(|stream| stream.values()).collect();
    let times: Vec<View> = streams.iter().map(|stream| stream.times()).collect();
    let width: usize = streams.iter().map(|stream| stream.channels).sum();
    let shape = [streams[0].batch, streams[0].row_targets(), width];
    let mut output = vec![0.0; shape.iter().product()];
    fuse(
        &values,
        &times,
        streams[0].targets(),
        mode,
        outside,
        lengths.map(|lengths| View::new(lengths, &[shape[0], streams.len()]).unwrap()),
        &mut ViewMut::new(&mut output, &shape).unwrap(),
        &Place::cpu(threads),
    )
    .unwrap();
    output
}

/// Some channels of every row of numbers.
fn columns(all: &[f64], width: usize, part: std::ops::Range<usize>) -> Vec<f64> {
    all.chunks(width).flat_map(|row| row[part.clone()].to_vec()).collect()
}

/// Each stream's result beside the others'.
fn side_by_side(parts: &[Vec<f64>], widths: &[usize]) -> Vec<f64> {
    let rows = parts[0].len() / widths[0];
    let row =
        |row: usize| parts.iter().zip(widths).flat_map(move |(part, &width)| part[row * width..][..width].to_vec());
    (0..rows).flat_map(row).collect()
}

/// The streams with the batch and the targets of the first.
fn on_one_clock<T: Element>(mut streams: Vec<Log<T>>) -> Vec<Log<T>> {
    let batch = streams.iter().map(|stream| stream.batch).min().unwrap();
    let count = streams[0].row_targets();
    let targets = streams[0].targets[..batch * count].to_vec();
    for stream in &mut streams {
        stream.times.truncate(stream.samples() * batch);
        stream.batch = batch;
        stream.values.truncate(stream.times.len() * stream.channels);
        stream.targets = targets.clone();
    }
    streams
}

fn streams() -> impl Strategy<Value = Vec<Log<f64>>> {
    vec(logs(seconds(), any_seconds()), 1..5).prop_map(on_one_clock)
}

fn mask<T: Element>(log: &Log<T>, gap: Option<MaxGap>) -> Vec<bool> {
    let shape = [log.batch, log.row_targets()];
    let mut output = vec![false; shape[0] * shape[1]];
    let out = &mut ViewMut::new(&mut output, &shape).unwrap();
    resample_mask(log.times(), log.targets(), gap, None, out, &Place::cpu(&Serial)).unwrap();
    output
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn fused_streams_are_those_of_resample_in_any_order(
        streams in streams(),
        modes in vec(select(&MODES), 4),
        outside in select(&OUTSIDE),
        turn in any::<Index>(),
        cuts in vec(any::<Index>(), 15),
    ) {
        let call = |streams: &[(&Log<f64>, &str, Vec<i64>)]| {
            let mode: Vec<_> = streams.iter().map(|(stream, mode, _)| format!("{mode}:{}", stream.channels)).collect();
            let logs: Vec<_> = streams.iter().map(|(stream, ..)| *stream).collect();
            let lengths: Vec<i64> = (0..logs[0].batch).flat_map(|row| streams.iter().map(move |s| s.2[row])).collect();
            let found = fused(&logs, &mode.join(","), outside, Some(&lengths), &Serial);
            let apart: Vec<_> =
                streams.iter().map(|(stream, mode, lengths)| stream.resample(mode, outside, Some(lengths))).collect();
            let widths: Vec<_> = logs.iter().map(|stream| stream.channels).collect();
            (bits(&found), bits(&side_by_side(&apart, &widths)))
        };
        let mut all: Vec<_> = Vec::new();
        for (place, stream) in streams.iter().enumerate() {
            let length = |row: usize| 1 + cuts[place * 3 + row].index(stream.samples()) as i64;
            all.push((stream, stream.fitting(modes[place % 4]), (0..stream.batch).map(length).collect()));
        }
        let (found, wanted) = call(&all);
        prop_assert_eq!(found, wanted);
        let turn = turn.index(all.len());
        all.rotate_left(turn);
        let (found, wanted) = call(&all);
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn a_stream_split_by_its_channels_fuses_to_the_same_bits(
        log in logs(seconds(), any_seconds()),
        mode in select(&MODES),
        outside in select(&OUTSIDE),
        cut in any::<Index>(),
    ) {
        let mode = log.fitting(mode);
        let unit = if mode == "slerp" { 4 } else { 1 };
        let cut = unit * cut.index(log.channels / unit + 1);
        let part = |part: std::ops::Range<usize>| Log {
            channels: part.len(),
            values: columns(&log.values, log.channels, part),
            ..log.clone()
        };
        let (left, right) = (part(0..cut), part(cut..log.channels));
        let split = fused(&[&left, &right], mode, outside, None, &Serial);
        prop_assert_eq!(bits(&split), bits(&log.resample(mode, outside, None)));
        prop_assert_eq!(bits(&fused(&[&log], mode, outside, None, &Serial)), bits(&split));
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits(streams in streams(), count in 1..6usize, mode in select(&MODES)) {
        let mode = if streams.iter().all(|stream| stream.fitting(mode) == mode) { mode } else { "pchip" };
        let all: Vec<_> = streams.iter().collect();
        let threads = StdThreads::new(NonZeroUsize::new(count).unwrap());
        let found = fused(&all, mode, "nan", None, &threads);
        prop_assert_eq!(bits(&found), bits(&fused(&all, mode, "nan", None, &Serial)));
    }

    #[test]
    fn a_shift_of_int64_times_changes_nothing(
        streams in vec(logs(-1_000_000..1_000_000i64, -2_000_000..2_000_000i64), 1..4).prop_map(on_one_clock),
        shift in i64::MIN + 2_000_000..i64::MAX - 2_000_000,
        gap in 0..400_000i64,
    ) {
        let move_by = |times: &[i64]| times.iter().map(|time| time + shift).collect();
        let moved: Vec<_> = streams
            .iter()
            .map(|log| Log { times: move_by(&log.times), targets: move_by(&log.targets), ..log.clone() })
            .collect();
        let (here, there): (Vec<_>, Vec<_>) = (streams.iter().collect(), moved.iter().collect());
        let found = fused(&there, "pchip", "zero", None, &Serial);
        prop_assert_eq!(bits(&found), bits(&fused(&here, "pchip", "zero", None, &Serial)));
        let gap = Some(MaxGap::Ticks(gap));
        prop_assert_eq!(mask(&moved[0], gap), mask(&streams[0], gap));
    }

    #[test]
    fn a_mask_is_where_nan_would_not_be(log in logs(seconds(), any_seconds()), gaps in (0.0..8.0, 0.0..8.0f64)) {
        let all = mask(&log, None);
        let filled = log.resample("linear", "nan", None);
        for (inside, row) in all.iter().zip(filled.chunks(log.channels)) {
            prop_assert_eq!(*inside, !row[0].is_nan());
        }
        // A longer gap lets more through.
        let (short, long) = (f64::min(gaps.0, gaps.1), f64::max(gaps.0, gaps.1));
        let [none, short, long, any] =
            [0.0, short, long, f64::INFINITY].map(|gap| mask(&log, Some(MaxGap::Number(gap))));
        for place in 0..all.len() {
            let ladder = [none[place], short[place], long[place], any[place], all[place]];
            prop_assert!(ladder.is_sorted() && any[place] == all[place], "{ladder:?}");
        }
    }
}
