//! The operators, one module each, and what they share.

pub mod blend;
pub mod fuse;
pub mod interpolate;
pub mod modes;
pub mod resample;
pub mod resample_mask;
mod rows;
mod rows_plan;
pub mod signal;
mod signal_cpu;
#[cfg(feature = "cuda")]
mod signal_cuda;
pub mod timeline;
#[cfg(feature = "cuda")]
mod timeline_cuda;
pub mod voxelize;
pub mod voxelize_sparse;
