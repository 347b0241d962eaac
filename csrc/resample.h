// What the files of resample, and fuse, share: the meaning of the axes, and the differentiable operators.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/SmallVector.h>

#include <optional>
#include <string_view>

namespace robocache {

using at::Tensor;

// How the axes of a call's values are read.
struct Layout {
  bool batched; // [B, S, D...], else [S, D...]
  c10::SymInt batch, samples;
  c10::SymInt channels; // D, all trailing axes in one

  // [B, T, D...] or [T, D...]
  c10::SymDimVector result(const Tensor& values, const Tensor& target_times) const;
};

// Checks types, devices and shapes; not the texts, which Rust reads before it runs.
Layout check_layout(
    const char* op,
    const Tensor& values, // [B, S, D...] or [S, D...]
    const Tensor& source_times, // [B, S] or [S]
    const Tensor& target_times, // [B, T] or [T]
    const std::optional<Tensor>& source_lengths); // [B]

// Checks every argument of resample that can be checked without reading data.
Layout check_resample(
    const char* op,
    const Tensor& values, // [B, S, D...] or [S, D...]
    const Tensor& source_times, // [B, S] or [S]
    const Tensor& target_times, // [B, T] or [T]
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths); // [B]

// The operators under the Autograd key; resample_autograd.cpp says what is differentiable.
namespace autograd {

Tensor resample(
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths);
Tensor resample_slope(
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths);
Tensor resample_tangent(
    const Tensor& tangent,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths);
Tensor resample_backward(
    const Tensor& grad,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths,
    bool slope,
    const std::optional<Tensor>& values);
Tensor resample_curvature(
    const Tensor& grad,
    const Tensor& tangent,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths);
Tensor resample_time_grad(
    const Tensor& grad,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths);

// Through the dispatcher, so that autograd, Meta, tracing and export see each call. `values` may be undefined.
Tensor call_backward(
    const Tensor& grad,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths,
    bool slope,
    const Tensor& values);
Tensor call_time_grad(
    const Tensor& grad,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths);

// The gradient by the target times from that of every row, [B, T].
Tensor target_grad(const Tensor& rows, const Tensor& target_times);

// The gradient by the source times from that by the target times of every row, [B, T].
Tensor source_grad(
    const Tensor& rows,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths,
    bool slope);

} // namespace autograd
} // namespace robocache
