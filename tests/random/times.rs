//! Random times of a case: every scale, stretches that repeat, targets everywhere.

use super::{Random, decode, encode};
use robocache::DType;

/// Where a clock starts and how long its steps are.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    ticks: (i64, i64),
    seconds: (f64, f64),
}

impl Clock {
    pub fn random(r: &mut Random) -> Clock {
        let start = r.pick(&[0, -5, 1_700_000_000_000_000_000, i64::MIN, i64::MAX - 400]);
        let steps = [1, 1 + r.below(9) as i64, 10_000_000, 1 << 55, 1 << 62];
        let ticks = (start, r.pick(&steps));
        let seconds =
            (r.pick(&[0.0, -3.25, 1.7e9, -1e-310, 1e300]), r.pick(&[1.0, 1.0, 0.01, 0.1, 1e6, 5e-324, 1e-39, 1e290]));
        Clock { ticks, seconds }
    }

    /// The same start, with steps a few times as long.
    pub fn slower(&self, r: &mut Random) -> Clock {
        let factor = 1 + r.below(5);
        let ticks = (self.ticks.0, self.ticks.1.saturating_mul(factor as i64));
        Clock { ticks, seconds: (self.seconds.0, self.seconds.1 * factor as f64) }
    }
}

/// `valid` ascending times, then garbage that nothing may look at.
pub fn random_times(r: &mut Random, dtype: DType, clock: Clock, samples: usize, valid: usize) -> Vec<u64> {
    let mut row: Vec<u64> = if dtype == DType::I64 {
        let (mut time, step) = clock.ticks;
        let next = |time: &mut i64, r: &mut Random| {
            let now = *time;
            *time = time.saturating_add(r.pick(&[0, 1, step, step, step]));
            Some(now as u64)
        };
        (0..valid).map_while(|_| next(&mut time, r)).collect()
    } else {
        let (mut time, step) = clock.seconds;
        let mut numbers: Vec<f64> = (0..valid)
            .map(|_| {
                let now = time;
                time += if r.one_in(5) { 0.0 } else { step * (0.5 + r.unit()) };
                now
            })
            .collect();
        if r.one_in(16) {
            numbers[0] = f64::NEG_INFINITY;
        }
        if r.one_in(16) {
            numbers[valid - 1] = f64::INFINITY;
        }
        numbers.into_iter().map(|number| encode(dtype, number)).collect()
    };
    row.resize_with(samples, || if r.one_in(2) { encode(dtype, f64::NAN) } else { r.bits() });
    row
}

/// Targets at samples, between them, outside and at the ends of the type; in ascending order or in any.
pub fn random_targets(r: &mut Random, dtype: DType, source: &[u64], count: usize) -> Vec<u64> {
    let mut row: Vec<u64> = (0..count)
        .map(|_| {
            let (a, b) = (r.pick(source), r.pick(source));
            if dtype == DType::I64 {
                let middle = (i128::from(a as i64) + i128::from(b as i64)).div_euclid(2) as i64;
                let near = r.below(7) as i64 - 3;
                return match r.below(10) {
                    0 => i64::MIN as u64,
                    1 => i64::MAX as u64,
                    2..6 => a,
                    6..8 => middle as u64,
                    _ => middle.saturating_add(near) as u64,
                };
            }
            let (a, b) = (decode(dtype, a), decode(dtype, b));
            let number = match r.below(16) {
                0 => r.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
                1 => r.number(true),
                2 => a + r.pick(&[-1.0, 1.0, -1e-9, 1e20]),
                3..8 => a,
                _ => a + (b - a) * r.unit(),
            };
            encode(dtype, number)
        })
        .collect();
    if r.one_in(2) {
        match dtype {
            DType::I64 => row.sort_by_key(|&bits| bits as i64),
            _ => row.sort_by(|&a, &b| decode(dtype, a).total_cmp(&decode(dtype, b))),
        }
    }
    row
}
