//! RoboCache turns multi-rate, irregular robot data into model-ready tensors.
//!
//! This crate is the core: checks, plans, the CPU backend and kernel launches, on memory that the caller owns. Without
//! features it knows neither torch nor CUDA. Feature `cuda` adds the kernels, `torch` the C++ library that registers
//! `torch.ops.robocache.*`, and `tch` typed functions on `tch::Tensor`.

#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod error;
#[cfg(feature = "torch")]
mod ffi;
mod launch;
mod number;
pub mod ops;
mod simd;
#[cfg(feature = "tch")]
pub mod tch;
mod tensor;
mod threads;

pub use device::{Place, Stream};
pub use error::{Error, Result};
pub use launch::Launch;
pub use ops::fuse::fuse;
pub use ops::resample::derivatives::{
    resample_backward, resample_backward_workspace, resample_curvature, resample_curvature_workspace, resample_slope,
    resample_tangent, resample_time_grad,
};
pub use ops::resample::resample;
pub use ops::resample_mask::{MaxGap, resample_mask};
pub use ops::voxelize::derivatives::{
    Counted, voxelize_backward, voxelize_counted, voxelize_counted_workspace, voxelize_tangent,
};
pub use ops::voxelize::{voxelize, voxelize_workspace};
pub use ops::voxelize_sparse::{
    voxelize_sparse_backward, voxelize_sparse_fill, voxelize_sparse_rows, voxelize_sparse_values,
    voxelize_sparse_workspace,
};
pub use simd::Level;
pub use tensor::{DType, Element, Shape, View, ViewMut};
pub use threads::{Serial, StdThreads, Threads};

// The Rust blocks of the guides are tests too.
#[cfg(all(doctest, feature = "tch"))]
#[doc = include_str!("../README.md")]
struct Readme;
#[cfg(all(doctest, feature = "tch"))]
#[doc = include_str!("../docs/deploy.md")]
struct Deploy;
