// The temporal arguments that `resample` and its gradients share, checked with symbolic sizes.
#pragma once

#include <optional>

#include "check.h"

namespace robocache {

inline void check_time_dtypes(const char* op, const at::Tensor& source_times, const at::Tensor& target_times) {
  const auto type = source_times.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kFloat || type == at::kDouble || type == at::kLong, op,
      ": source_times must be float32, float64 or int64, got ", dtype_name(type));
  check_same_dtype(op, "target_times", target_times, "source_times", source_times);
}

// Times [B, S] or [S] and [B, T] or [T], lengths [B].
inline void check_timeline(
    const char* op,
    const c10::SymInt& batch,
    const c10::SymInt& samples,
    const at::Tensor& source_times,
    const at::Tensor& target_times,
    const std::optional<at::Tensor>& source_lengths) {
  if (source_times.dim() == 1) {
    check_shape(op, "source_times", source_times, {samples});
  } else {
    check_shape(op, "source_times", source_times, {batch, samples});
  }
  const bool fits = target_times.dim() == 1 || (target_times.dim() == 2 && same(target_times.sym_size(0), batch));
  TORCH_CHECK_VALUE(
      fits, op, ": target_times must have shape [B, T] or [T] with B = ", size_text(batch), ", got ",
      shape_text(target_times.sym_sizes()));
  if (source_lengths.has_value()) {
    const auto type = source_lengths->scalar_type();
    TORCH_CHECK_TYPE(
        type == at::kInt || type == at::kLong, op, ": source_lengths must be int32 or int64, got ", dtype_name(type));
    check_shape(op, "source_lengths", *source_lengths, {batch});
  }
}

} // namespace robocache
