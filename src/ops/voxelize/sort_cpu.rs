//! A stable radix sort of a cloud's points by key, on every thread: each counts the digits of its part of the points,
//! and what lies before it, digit by digit, is where it writes.

use super::cells_cpu::Key;
use super::cpu::Shared;
use crate::threads::Threads;
use std::ops::Range;

/// Bits of a digit at most: a place to write for each of its values, all within a core's second cache.
const MOST_BITS: u32 = 11;
/// As [`MOST_BITS`], for clouds so small that clearing the counters would cost more than another pass.
const FEW_BITS: u32 = 8;
/// Points below which [`FEW_BITS`] is better.
const FEW: usize = 1 << MOST_BITS;
/// Points of a part: less is not worth a thread.
const PART: usize = 16 * 1024;
/// Parts at most; more counters would not fit the caches.
const PARTS: usize = 64;

/// Keys and points, side by side.
pub(crate) struct Pairs<'a, K> {
    /// The key of each.
    pub keys: &'a mut [K],
    /// The points.
    pub points: &'a mut [i32],
}

/// Where neighbouring parts of that many points begin and end.
fn part(points: usize, parts: usize, index: usize) -> Range<usize> {
    let step = points.div_ceil(parts);
    (step * index).min(points)..(step * (index + 1)).min(points)
}

/// Turns counts by part and digit into places: digit after digit, and within a digit part after part.
fn place(counts: &mut [u32], digits: usize) {
    let mut totals = vec![0u32; digits];
    for row in counts.chunks_exact(digits) {
        totals.iter_mut().zip(row).for_each(|(total, count)| *total += count);
    }
    let mut next = 0;
    for total in &mut totals {
        (*total, next) = (next, next + *total);
    }
    for row in counts.chunks_exact_mut(digits) {
        for (count, total) in row.iter_mut().zip(&mut totals) {
            (*count, *total) = (*total, *total + *count);
        }
    }
}

/// Writes the keys by `write(first, keys)`, then sorts; equal keys stay in the order of their points. The result is
/// `pairs` again; `spare` is as long.
pub(crate) fn sort<'a, K: Key>(
    pairs: Pairs<'a, K>,
    spare: Pairs<'a, K>,
    bits: u32,
    threads: &dyn Threads,
    write: &(dyn Fn(usize, &mut [K]) + Sync),
) -> Pairs<'a, K> {
    let count = pairs.keys.len();
    let passes = bits.div_ceil(if count < FEW { FEW_BITS } else { MOST_BITS }).max(1);
    let width = bits.div_ceil(passes);
    let (digits, parts) = (1usize << width, count.div_ceil(PART).clamp(1, PARTS));
    let mut counts = vec![0u32; parts * digits];
    // The last pass writes to `pairs`.
    let (mut from, mut to) = if passes.is_multiple_of(2) { (pairs, spare) } else { (spare, pairs) };
    for pass in 0..passes {
        let digit = |key: K| (key.cell() >> (pass * width)) as usize & (digits - 1);
        let (all, rows) = (Shared(from.keys.as_mut_ptr()), Shared(counts.as_mut_ptr()));
        threads.run(parts, 1, &|range| {
            for index in range {
                let part = part(count, parts, index);
                // SAFETY: the keys and the counters of a part are those of the thread that has it.
                let (keys, row) = unsafe { (all.slice(part.start, part.len()), rows.slice(index * digits, digits)) };
                if pass == 0 {
                    write(part.start, keys);
                } else {
                    row.fill(0);
                }
                for &key in &*keys {
                    // SAFETY: a digit's value is below their number.
                    unsafe { *row.get_unchecked_mut(digit(key)) += 1 };
                }
            }
        });
        place(&mut counts, digits);
        let (keys, points) = (&*from.keys, &*from.points);
        let (to_keys, to_points) = (Shared(to.keys.as_mut_ptr()), Shared(to.points.as_mut_ptr()));
        threads.run(parts, 1, &|range| {
            for index in range {
                // SAFETY: as above.
                let row = unsafe { rows.slice(index * digits, digits) };
                let part = part(count, parts, index);
                let mut move_to = |key: K, point: i32| {
                    // SAFETY: a digit's value is below their number; the counts of all parts and digits add up to the
                    // points, so every place is one of them and is written once.
                    unsafe {
                        let place = row.get_unchecked_mut(digit(key));
                        to_keys.set(*place as usize, key);
                        to_points.set(*place as usize, point);
                        *place += 1;
                    }
                };
                if pass == 0 {
                    keys[part.clone()].iter().zip(part).for_each(|(&key, point)| move_to(key, point as i32));
                } else {
                    keys[part.clone()].iter().zip(&points[part]).for_each(|(&key, &point)| move_to(key, point));
                }
            }
        });
        std::mem::swap(&mut from, &mut to);
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::{Serial, StdThreads};
    use std::num::NonZeroUsize;

    fn check<K: Key + std::fmt::Debug>(count: usize, bits: u32, threads: &dyn Threads) {
        let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        let key = |point: usize| K::of((point as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(21) & mask);
        let mut expected: Vec<(K, i32)> = (0..count).map(|point| (key(point), point as i32)).collect();
        expected.sort();
        let (mut keys, mut points) = (vec![K::default(); count], vec![0; count]);
        let (mut spare_keys, mut spare_points) = (keys.clone(), points.clone());
        let pairs = Pairs { keys: &mut keys, points: &mut points };
        let spare = Pairs { keys: &mut spare_keys, points: &mut spare_points };
        sort(pairs, spare, bits, threads, &|first, keys| {
            keys.iter_mut().zip(first..).for_each(|(place, point)| *place = key(point));
        });
        assert!(keys.into_iter().zip(points).eq(expected), "{count} points, {bits} bits");
    }

    #[test]
    fn points_are_sorted_by_key_and_then_by_index() {
        let three = StdThreads::new(NonZeroUsize::new(3).unwrap());
        for count in [0, 1, 2, 100, FEW, PART + 1, 5 * PART - 7] {
            for threads in [&Serial as &dyn Threads, &three] {
                for bits in [1, 8, 11, 12, 22, 32] {
                    check::<u32>(count, bits, threads);
                }
                for bits in [1, 33, 64] {
                    check::<u64>(count, bits, threads);
                }
            }
        }
    }
}
