// robocache::fuse for C++: streams of different rates on one clock, their channels side by side.

#pragma once

#include <ATen/core/Tensor.h>
#include <robocache/operator.h>

#include <optional>
#include <string_view>

namespace robocache {

/// Resamples several streams to `target_times` and puts their channels side by side: [B, T, D_1 + ... + D_K], dense,
/// with the bits of `resample` of each stream. On CUDA one launch serves up to 16 streams.
///
///     auto fused = robocache::fuse({vision, joints}, {vision_times, joint_times}, clock, "linear:512,angle:7");
///
/// Differentiable as `resample` is, in every stream and in floating times. Throws as `resample` does; an argument of
/// one stream is named with its index: `fuse: values[1] must be float32 (as values[0]), got float64`.
inline at::Tensor fuse(
    // K >= 1 streams [B, S_k, D_k], any strides; or [S_k, D_k] where all times are 1-D. One dtype and device.
    at::TensorList values,
    // Of each stream [B, S_k] or [S_k]; float64, float32 or int64, all of one dtype and unit; ascending along each row.
    at::TensorList source_times,
    // [B, T], or [T] shared by the batch; dtype and unit of source_times, in any order.
    const at::Tensor& target_times,
    // As for `resample`; groups run over the channels of all streams, and a slerp group lies within one stream.
    std::string_view mode = "linear",
    // As for `resample`.
    std::string_view outside = "hold",
    // [B, K], int32 or int64: how many samples of each row of each stream are valid, at least 1. None: all.
    const std::optional<at::Tensor>& source_lengths = std::nullopt) {
  using Signature = at::Tensor(
      at::TensorList,
      at::TensorList,
      const at::Tensor&,
      std::string_view,
      std::string_view,
      const std::optional<at::Tensor>&);
  static const auto op = detail::find_operator<Signature>("robocache::fuse");
  return op.call(values, source_times, target_times, mode, outside, source_lengths);
}

} // namespace robocache
