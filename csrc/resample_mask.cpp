// robocache::resample_mask: checks, allocation, the call to Rust.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Scalar.h>
#include <torch/library.h>

#include "operand.h"
#include "timeline.h"

namespace robocache {
namespace {

using at::Tensor;

core::MaxGap gap_of(const std::optional<at::Scalar>& max_gap) {
  if (!max_gap.has_value()) return {false, false, 0, 0.0};
  TORCH_CHECK_TYPE(
      !max_gap->isComplex() && !max_gap->isBoolean(), "resample_mask: max_gap must be a real number, got ",
      dtype_name(max_gap->type()));
  if (max_gap->isIntegral(/*includeBool=*/false)) {
    const int64_t ticks = max_gap->isSymbolic() ? max_gap->toSymInt().guard_int(__FILE__, __LINE__) : max_gap->toLong();
    return {true, true, ticks, 0.0};
  }
  const double number =
      max_gap->isSymbolic() ? max_gap->toSymFloat().guard_float(__FILE__, __LINE__) : max_gap->toDouble();
  return {true, false, 0, number};
}

// The size of the result: [B, T], or [T] where both times have one axis and there are no lengths.
c10::SymDimVector check_mask(
    const Tensor& source_times,
    const Tensor& target_times,
    const core::MaxGap& max_gap,
    const std::optional<Tensor>& source_lengths) {
  const char* op = "resample_mask";
  check_time_dtypes({op}, source_times, target_times);
  check_device(op, "target_times", target_times, "source_times", source_times);
  if (source_lengths.has_value()) check_device(op, "source_lengths", *source_lengths, "source_times", source_times);
  check_time_axes({op}, source_times);
  const c10::SymInt samples = source_times.sym_size(-1);
  TORCH_CHECK_VALUE(
      positive(samples), op,
      ": source_times must have at least one sample, got shape ", shape_text(source_times.sym_sizes()));
  c10::SymInt batch = 1;
  if (source_times.dim() == 2) batch = source_times.sym_size(0);
  else if (target_times.dim() == 2) batch = target_times.sym_size(0);
  else if (source_lengths.has_value() && source_lengths->dim() == 1) batch = source_lengths->sym_size(0);
  check_timeline(op, batch, samples, source_times, target_times, source_lengths);
  rust_call([&] { core::check_max_gap(max_gap); });
  const bool single = source_times.dim() == 1 && target_times.dim() == 1 && !source_lengths.has_value();
  if (single) return {target_times.sym_size(-1)};
  return {batch, target_times.sym_size(-1)};
}

Tensor resample_mask(
    const Tensor& source_times, // [B, S] or [S]
    const Tensor& target_times, // [B, T] or [T]
    const std::optional<at::Scalar>& max_gap, // in the unit of the times
    const std::optional<Tensor>& source_lengths) { // [B]
  const core::MaxGap gap = gap_of(max_gap);
  const auto size = check_mask(source_times, target_times, gap, source_lengths);
  const c10::OptionalDeviceGuard guard(source_times.device());
  check_data({"resample_mask"}, size.size() == 1 ? c10::SymInt(1) : size[0], source_times, source_lengths);
  Tensor output = at::empty(C10_AS_INTARRAYREF_SLOW(size), source_times.options().dtype(at::kBool));
  rust_call([&] {
    core::resample_mask(
        operand(source_times), operand(target_times), gap, operand(source_lengths), flat(output),
        place(source_times.device()));
  });
  return output;
}

Tensor resample_mask_meta(
    const Tensor& source_times,
    const Tensor& target_times,
    const std::optional<at::Scalar>& max_gap,
    const std::optional<Tensor>& source_lengths) {
  const auto size = check_mask(source_times, target_times, gap_of(max_gap), source_lengths);
  return at::empty_symint(size, source_times.options().dtype(at::kBool));
}

} // namespace
} // namespace robocache

// A mask has no derivative, so autograd falls through.

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "resample_mask(Tensor source_times, Tensor target_times, *, Scalar? max_gap=None, "
      "Tensor? source_lengths=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("resample_mask", TORCH_FN(robocache::resample_mask));
}

TORCH_LIBRARY_IMPL(robocache, CUDA, m) {
  m.impl("resample_mask", TORCH_FN(robocache::resample_mask));
}

TORCH_LIBRARY_IMPL(robocache, Meta, m) {
  m.impl("resample_mask", TORCH_FN(robocache::resample_mask_meta));
}

TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  m.impl("resample_mask", torch::CppFunction::makeFallthrough());
}
