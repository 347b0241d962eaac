// The temporal arguments that the operators share, checked with symbolic sizes.
#pragma once

#include <cstdlib>
#include <cstring>
#include <optional>

#include "check.h"
#include "operand.h"

namespace robocache {

// Who is called, for error texts: an operator, and the stream where its arguments are lists (-1 where they are not).
struct Caller {
  const char* op;
  int64_t stream = -1;

  Argument argument(const char* name) const {
    return {name, stream};
  }
};

inline void check_time_dtypes(const Caller& caller, const at::Tensor& source_times, const at::Tensor& target_times) {
  const auto type = source_times.scalar_type();
  const Argument source = caller.argument("source_times");
  TORCH_CHECK_TYPE(
      type == at::kFloat || type == at::kDouble || type == at::kLong, caller.op, ": ", source,
      " must be float32, float64 or int64, got ", dtype_name(type));
  check_same_dtype(caller.op, "target_times", target_times, source, source_times);
}

// [B, S] or [S].
inline void check_time_axes(const Caller& caller, const at::Tensor& source_times) {
  TORCH_CHECK_VALUE(
      source_times.dim() == 1 || source_times.dim() == 2, caller.op, ": ", caller.argument("source_times"),
      " must have shape [B, S] or [S], got ", shape_text(source_times.sym_sizes()));
}

inline void check_lengths(
    const char* op,
    const std::optional<at::Tensor>& source_lengths,
    c10::SymIntArrayRef shape) {
  if (!source_lengths.has_value()) return;
  const auto type = source_lengths->scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kInt || type == at::kLong, op, ": source_lengths must be int32 or int64, got ", dtype_name(type));
  check_shape(op, "source_lengths", *source_lengths, shape);
}

// Times [B, S] or [S] and [B, T] or [T].
inline void check_times(
    const Caller& caller,
    const c10::SymInt& batch,
    const c10::SymInt& samples,
    const at::Tensor& source_times,
    const at::Tensor& target_times) {
  const Argument source = caller.argument("source_times");
  if (source_times.dim() == 1) {
    check_shape(caller.op, source, source_times, {samples});
  } else {
    check_shape(caller.op, source, source_times, {batch, samples});
  }
  const bool fits = target_times.dim() == 1 || (target_times.dim() == 2 && same(target_times.sym_sizes()[0], batch));
  TORCH_CHECK_VALUE(
      fits, caller.op, ": target_times must have shape [B, T] or [T] with B = ", size_text(batch), ", got ",
      shape_text(target_times.sym_sizes()));
}

// Times as above, lengths [B].
inline void check_timeline(
    const char* op,
    const c10::SymInt& batch,
    const c10::SymInt& samples,
    const at::Tensor& source_times,
    const at::Tensor& target_times,
    const std::optional<at::Tensor>& source_lengths) {
  check_times({op}, batch, samples, source_times, target_times);
  check_lengths(op, source_lengths, {batch});
}

// ROBOCACHE_CHECK=1 reads the times of every call back to the host; without it CUDA never waits.
inline bool checks_data(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return false; // Rust checks host memory itself
  const char* value = std::getenv("ROBOCACHE_CHECK");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

inline void check_data(
    const Caller& caller,
    const c10::SymInt& batch,
    const at::Tensor& source_times,
    const std::optional<at::Tensor>& source_lengths) {
  if (!checks_data(source_times)) return;
  const at::Tensor rows = source_times.dim() == 1 ? source_times.expand({batch.expect_int(), -1}) : source_times;
  const at::Tensor times = rows.cpu();
  const auto lengths =
      source_lengths.has_value() ? std::optional<at::Tensor>(source_lengths->cpu()) : std::nullopt;
  rust_call([&] { core::check_times(caller.op, caller.stream, operand(times), operand(lengths)); });
}

} // namespace robocache
