// robocache::resample for C++: signals at their own times, read off at the times that a model wants.

#pragma once

#include <ATen/core/Tensor.h>
#include <robocache/operator.h>

#include <optional>
#include <string_view>

namespace robocache {

/// Samples at `source_times` become values at `target_times`: [B, T, D...], dense, in the dtype of `values`.
///
/// For a target `t`, let `i` be the last sample with `source_times[i] <= t` and
/// `w = (t - time[i]) / (time[i + 1] - time[i])`. Where `w == 0` the result is sample `i` exactly: a NaN in its
/// neighbour does not leak. A NaN target time gives NaN (0 for integers and bool); an infinite one counts as outside.
///
///     auto times = torch::tensor({0.0, 1.0, 2.0});
///     auto joint = torch::tensor({{0.0}, {10.0}, {40.0}});
///     auto angle = robocache::resample(joint, times, torch::tensor({0.5, 1.5}));   // [[5], [25]]
///
/// Differentiable in `values`, of any order (`slerp` and `pchip`: twice), and for `linear` channels in floating
/// `source_times` and `target_times`. The same bits on CPU and CUDA. CUDA runs on the current stream and device and
/// never waits.
///
/// Throws c10::ValueError (a wrong shape or value), c10::TypeError (a wrong dtype) and c10::NotImplementedError (no
/// such backend, or librobocache.so not loaded). `what_without_backtrace()` is the same text as in Python: `resample:
/// source_times must have shape [2, 5], got [2, 4]`.
inline at::Tensor resample(
    // [B, S, D...], any strides, S >= 1; or [S, D...] where both times are 1-D. float64, float32, float16 or bfloat16;
    // also integers and bool where no channel is blended.
    const at::Tensor& values,
    // [B, S], or [S] shared by the batch; float64, float32 or int64, ticks of any unit (int64 nanoseconds are exact);
    // ascends along each row, and of equal times the later sample wins.
    const at::Tensor& source_times,
    // [B, T], or [T] shared by the batch; dtype and unit of source_times, in any order.
    const at::Tensor& target_times,
    // How channels are blended: "linear", "previous", "next", "nearest", "angle" (radians, along the shorter arc),
    // "slerp" (unit quaternions, 4 channels each) or "pchip" (monotone cubic), or groups over the flattened trailing
    // channels from left to right, "linear:3,slerp:4,previous:*" (*: all that remain).
    std::string_view mode = "linear",
    // What a target before the first or past the last sample gets: "hold" (the nearest end), "nan", "zero", or
    // "extrapolate" (the end bracket's line, `linear` only).
    std::string_view outside = "hold",
    // [B], int32 or int64: how many samples of each row are valid, at least 1. None: all S.
    const std::optional<at::Tensor>& source_lengths = std::nullopt) {
  using Signature = at::Tensor(
      const at::Tensor&,
      const at::Tensor&,
      const at::Tensor&,
      std::string_view,
      std::string_view,
      const std::optional<at::Tensor>&);
  static const auto op = detail::find_operator<Signature>("robocache::resample");
  return op.call(values, source_times, target_times, mode, outside, source_lengths);
}

} // namespace robocache
