// The operators for Rust's tch: the one header that src/ffi.rs includes for the feature `tch`.

#pragma once

#include <cstddef>
#include <cstdint>

#include "rust/cxx.h"

namespace robocache {

namespace core {
struct MaxGap;
struct SparseVoxels;
}

// robocache::resample through the dispatcher, on the at::Tensor that each tch::Tensor points to, by address; returns
// the address of a new at::Tensor, which the caller owns. Throws std::runtime_error with the text "KIND: MESSAGE", as
// src/ffi.rs does the other way: cxx carries nothing of an exception but its text. KIND is ValueError, TypeError,
// NotImplementedError or RuntimeError.
std::size_t tch_resample(
    std::size_t values, // [B, S, D...] or [S, D...]
    std::size_t source_times, // [B, S] or [S]
    std::size_t target_times, // [B, T] or [T]
    rust::Str mode,
    rust::Str outside,
    std::size_t source_lengths); // [B], or 0: all S samples are valid

// robocache::resample_mask likewise.
std::size_t tch_resample_mask(
    std::size_t source_times, // [B, S] or [S]
    std::size_t target_times, // [B, T] or [T]
    const core::MaxGap& max_gap,
    std::size_t source_lengths); // [B], or 0

// robocache::fuse likewise.
std::size_t tch_fuse(
    rust::Slice<const std::size_t> values, // each [B, S, D] or [S, D]
    rust::Slice<const std::size_t> source_times, // each [B, S] or [S]
    std::size_t target_times, // [B, T] or [T]
    rust::Str mode,
    rust::Str outside,
    std::size_t source_lengths); // [B, K], or 0

// robocache::voxelize likewise.
std::size_t tch_voxelize(
    std::size_t points, // [B, N, 3] or [N, 3]
    std::size_t features, // [B, N, C] or [N, C], or 0
    rust::Slice<const double> origin, // 3
    rust::Slice<const double> voxel_size, // 1 or 3
    rust::Slice<const std::int64_t> grid_size, // 3
    rust::Str reduce,
    std::size_t lengths); // [B], or 0: all N points are valid

// robocache::voxelize_sparse likewise: each tensor of the result by address, owned by the caller.
core::SparseVoxels tch_voxelize_sparse(
    std::size_t points, // [B, N, 3] or [N, 3]
    std::size_t features, // [B, N, C] or [N, C], or 0
    rust::Slice<const double> origin, // 3
    rust::Slice<const double> voxel_size, // 1 or 3
    rust::Slice<const std::int64_t> grid_size, // 3
    rust::Str reduce,
    std::int64_t capacity, // rows, or -1
    std::size_t lengths); // [B], or 0

} // namespace robocache
