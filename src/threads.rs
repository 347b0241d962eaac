//! Who runs the rows of a CPU operator: the caller's thread, `std` threads, or (in `ffi.rs`) torch's own pool.

use std::num::NonZeroUsize;
use std::ops::Range;

/// Something that can run a body over the parts of a range, on as many threads as it likes.
///
/// The body gives the same bits however the range is cut, so that results do not depend on the number of threads.
pub trait Threads: Sync {
    /// Calls `body` with ranges that cover `0..items` once each; a range shorter than `grain` is not worth a thread.
    fn run(&self, items: usize, grain: usize, body: &(dyn Fn(Range<usize>) + Sync));
}

/// Runs everything on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Threads for Serial {
    fn run(&self, items: usize, _grain: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
        if items > 0 {
            body(0..items);
        }
    }
}

/// Scoped `std` threads, started for each call.
#[derive(Clone, Copy, Debug)]
pub struct StdThreads {
    count: NonZeroUsize,
}

impl StdThreads {
    /// At most `count` threads.
    pub fn new(count: NonZeroUsize) -> Self {
        StdThreads { count }
    }
}

impl Default for StdThreads {
    fn default() -> Self {
        StdThreads { count: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN) }
    }
}

impl Threads for StdThreads {
    fn run(&self, items: usize, grain: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
        let parts = self.count.get().min(items.div_ceil(grain.max(1)));
        if parts <= 1 {
            return Serial.run(items, grain, body);
        }
        let step = items.div_ceil(parts);
        std::thread::scope(|scope| {
            for start in (step..items).step_by(step) {
                scope.spawn(move || body(start..items.min(start + step)));
            }
            body(0..step);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn ranges_cover_every_item_once() {
        for items in [0, 1, 2, 7, 100, 101] {
            for count in 1..6 {
                let seen = Mutex::new(vec![0; items]);
                let threads = StdThreads::new(NonZeroUsize::new(count).unwrap());
                threads.run(items, 3, &|range| range.for_each(|item| seen.lock().unwrap()[item] += 1));
                assert_eq!(seen.into_inner().unwrap(), vec![1; items], "{items} items, {count} threads");
            }
        }
    }
}
