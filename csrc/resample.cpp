// robocache::resample: checks, allocation, the call to Rust. Its derivatives are in resample_derivatives.cpp.

#include "resample.h"

#include <ATen/ops/empty.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "operand.h"
#include "timeline.h"

namespace robocache {
namespace {

// Values as Rust takes them: the trailing axes in one. A view wherever the strides allow it.
Tensor flatten_channels(const Tensor& values, const Layout& layout) {
  const int64_t first = layout.batched ? 2 : 1;
  return values.dim() <= first + 1 ? values : values.flatten(first);
}

} // namespace

c10::SymDimVector Layout::result(const Tensor& values, const Tensor& target_times) const {
  c10::SymDimVector sizes;
  if (batched) sizes.push_back(batch);
  sizes.push_back(target_times.sym_size(-1));
  for (int64_t axis = batched ? 2 : 1; axis < values.dim(); ++axis) sizes.push_back(values.sym_size(axis));
  return sizes;
}

Layout check_layout(
    const char* op,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    const std::optional<Tensor>& source_lengths) {
  TORCH_CHECK_TYPE(
      kind(values.scalar_type()) != Kind::None, op,
      ": values must be float64, float32, float16, bfloat16, an integer type or bool, got ",
      dtype_name(values.scalar_type()));
  check_time_dtypes({op}, source_times, target_times);
  check_device(op, "source_times", source_times, "values", values);
  check_device(op, "target_times", target_times, "values", values);
  if (source_lengths.has_value()) check_device(op, "source_lengths", *source_lengths, "values", values);

  check_time_axes({op}, source_times);
  const bool shared = source_times.dim() == 1 && target_times.dim() == 1;
  TORCH_CHECK_VALUE(
      values.dim() >= (shared ? 1 : 2), op, ": values must have shape [B, S, D...] or [S, D...], got ",
      shape_text(values.sym_sizes()));

  Layout layout;
  // [S, D...] where both times are [S] and [T]; with three or more axes [B, S, D...] is tried first.
  layout.batched = !shared;
  if (shared && values.dim() >= 3) {
    const c10::SymInt samples = source_times.sym_size(0);
    layout.batched = values.sym_size(1).sym_eq(samples).guard_bool(__FILE__, __LINE__) ||
        values.sym_size(0).sym_ne(samples).guard_bool(__FILE__, __LINE__);
  }
  const int64_t sample_axis = layout.batched ? 1 : 0;
  layout.batch = layout.batched ? values.sym_size(0) : c10::SymInt(1);
  layout.samples = values.sym_size(sample_axis);
  layout.channels = 1;
  for (int64_t axis = sample_axis + 1; axis < values.dim(); ++axis) layout.channels *= values.sym_size(axis);
  TORCH_CHECK_VALUE(
      positive(layout.samples), op, ": values must have at least one sample, got shape ", shape_text(values.sym_sizes()));
  check_timeline(op, layout.batch, layout.samples, source_times, target_times, source_lengths);
  return layout;
}

Layout check_resample(
    const char* op,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  const Layout layout = check_layout(op, values, source_times, target_times, source_lengths);
  // A symbolic number of channels stays one unless the mode names them all.
  const int64_t named = core::named_channels(str(mode));
  int64_t channels = -1;
  if (named >= 0 && layout.channels.sym_ge(named).guard_bool(__FILE__, __LINE__)) channels = named;
  else if (named >= -1) channels = layout.channels.guard_int(__FILE__, __LINE__);
  rust_call([&] { core::check_modes(op, str(mode), str(outside), kind(values.scalar_type()), channels); });
  return layout;
}

namespace {

Tensor resample(
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  const Layout layout = check_layout("resample", values, source_times, target_times, source_lengths);
  const c10::OptionalDeviceGuard guard(values.device());
  check_data({"resample"}, layout.batch, source_times, source_lengths);
  const Tensor rows = flatten_channels(values, layout);
  Tensor output = at::empty(C10_AS_INTARRAYREF_SLOW(layout.result(values, target_times)), values.options());
  rust_call([&] {
    core::resample(
        operand(rows), operand(source_times), operand(target_times), str(mode), str(outside),
        operand(source_lengths), flat(output), place(values.device()));
  });
  return output;
}

Tensor resample_meta(
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  const Layout layout = check_resample("resample", values, source_times, target_times, mode, outside, source_lengths);
  return at::empty_symint(layout.result(values, target_times), values.options());
}

} // namespace
} // namespace robocache

// One key each; autocast falls through, so values keep their dtype.

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "resample(Tensor values, Tensor source_times, Tensor target_times, *, str mode=\"linear\", "
      "str outside=\"hold\", Tensor? source_lengths=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("resample", TORCH_FN(robocache::resample));
}

TORCH_LIBRARY_IMPL(robocache, CUDA, m) {
  m.impl("resample", TORCH_FN(robocache::resample));
}

TORCH_LIBRARY_IMPL(robocache, Meta, m) {
  m.impl("resample", TORCH_FN(robocache::resample_meta));
}

TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  m.impl("resample", TORCH_FN(robocache::autograd::resample));
}

TORCH_LIBRARY_IMPL(robocache, AutocastCPU, m) {
  m.impl("resample", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(robocache, AutocastCUDA, m) {
  m.impl("resample", torch::CppFunction::makeFallthrough());
}
