//! The operators, one module each, and what they share.

pub mod interpolate;
pub mod modes;
pub mod resample;
pub mod timeline;
#[cfg(feature = "cuda")]
mod timeline_cuda;
