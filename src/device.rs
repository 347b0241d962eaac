//! Where an operator runs: on the CPU with somebody's threads, or on a CUDA stream.

use crate::threads::Threads;
use std::fmt;

/// Where an operator runs, and with what.
#[derive(Clone, Copy)]
pub struct Place<'a>(pub(crate) Where<'a>);

#[derive(Clone, Copy)]
pub(crate) enum Where<'a> {
    Cpu(&'a dyn Threads),
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    Cuda(Stream),
}

/// A CUDA stream of a device, by the driver's handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Index of the device.
    pub device: i32,
    /// The `CUstream`; 0 is the default stream.
    pub handle: usize,
}

impl Where<'_> {
    /// True on a CUDA device.
    pub(crate) fn is_cuda(&self) -> bool {
        matches!(self, Where::Cuda(_))
    }
}

impl<'a> Place<'a> {
    /// On the CPU, the work cut into row ranges that `threads` runs.
    pub fn cpu(threads: &'a dyn Threads) -> Self {
        Place(Where::Cpu(threads))
    }

    /// On a CUDA stream; the call returns before the work is done.
    ///
    /// # Safety
    /// Every view passed with this place must be memory of that device and stay valid until the stream has run the
    /// work; the handle must be a live stream of that device, or 0.
    pub unsafe fn cuda(stream: Stream) -> Place<'static> {
        Place(Where::Cuda(stream))
    }
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Where::Cpu(_) => f.write_str("Cpu"),
            Where::Cuda(stream) => stream.fmt(f),
        }
    }
}
