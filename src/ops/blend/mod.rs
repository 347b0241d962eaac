//! The formulas of the modes that take more than a line between two numbers, each with its derivatives.
//!
//! A formula is a fixed sequence of correctly rounded operations, so that the CPU and CUDA (`kernels/blend_*.cuh`) give
//! the same bits. It is written over [`crate::number::Number`]: of duals it computes a derivative.

pub mod angle;
pub mod pchip;
pub mod slerp;
