// robocache::resample_mask for C++: which targets the samples answer for.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>
#include <robocache/operator.h>

#include <optional>

namespace robocache {

/// True where a target lies within its row's first and last valid sample (inclusive) and, with `max_gap`, on a sample
/// or in a bracket that is no longer: bool [B, T], or [T] where both times are 1-D and there are no lengths. NaN and
/// infinite targets: false.
///
///     auto stamps = torch::tensor({0, 10, 500}, torch::kLong);
///     auto valid = robocache::resample_mask(stamps, torch::tensor({5, 100}, torch::kLong), 50);   // [true, false]
///
/// Throws as `resample` does; c10::ValueError also for a `max_gap` that is negative or NaN.
inline at::Tensor resample_mask(
    // [B, S], or [S] shared by the batch, S >= 1; float64, float32 or int64; ascends along each row.
    const at::Tensor& source_times,
    // [B, T], or [T] shared by the batch; dtype and unit of source_times, in any order.
    const at::Tensor& target_times,
    // The longest bracket that counts, in the unit of the times. None: any.
    const std::optional<at::Scalar>& max_gap = std::nullopt,
    // [B], int32 or int64: how many samples of each row are valid, at least 1. None: all S.
    const std::optional<at::Tensor>& source_lengths = std::nullopt) {
  using Signature = at::Tensor(
      const at::Tensor&, const at::Tensor&, const std::optional<at::Scalar>&, const std::optional<at::Tensor>&);
  static const auto op = detail::find_operator<Signature>("robocache::resample_mask");
  return op.call(source_times, target_times, max_gap, source_lengths);
}

} // namespace robocache
