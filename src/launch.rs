//! A kernel launch as plain data: what a plan decides and what `cuda.rs` hands to the driver.

/// One launch: the kernel's name and three public numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The `extern "C"` name of the kernel.
    pub kernel: &'static str,
    /// Blocks along each axis.
    pub grid: [u32; 3],
    /// Threads of a block along each axis.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

/// Lanes of a warp on every CUDA device.
pub const WARP: u32 = 32;

/// Bytes of a line of the second-level cache: blocks that ask for something ahead ask for a multiple of these.
pub const CACHE_LINE: u64 = 128;
