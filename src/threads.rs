//! Who runs the rows of a CPU operator: the caller's thread, `std` threads, or (in `ffi.rs`) torch's own pool.

use std::num::NonZeroUsize;
use std::ops::Range;

/// Bytes of a result from which on its pages are asked to be large.
#[cfg(target_os = "linux")]
const LARGE: usize = 4 << 20;

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

/// Asks for large pages where memory is large enough to gain by them: new pages are cleared as they are first written,
/// and one fault of 2 MiB takes the place of 512.
pub(crate) fn huge_pages(first: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    if bytes >= LARGE {
        const PAGE: usize = 4096;
        const MADV_HUGEPAGE: i32 = 14;
        unsafe extern "C" {
            fn madvise(first: *mut u8, bytes: usize, advice: i32) -> i32;
        }
        let skipped = first.addr().wrapping_neg() % PAGE;
        // SAFETY: whole pages of the caller's memory; the advice changes no byte, and a refusal changes nothing.
        unsafe { madvise(first.add(skipped), (bytes - skipped) / PAGE * PAGE, MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (first, bytes);
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
