// robocache::resample and the three operators its derivatives close over: checks, allocation, the call to Rust.

#include "resample.h"

#include <ATen/ops/empty.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>

#include "operand.h"
#include "timeline.h"

namespace robocache {
namespace {

// ROBOCACHE_CHECK=1 reads the times of every call back to the host; without it CUDA never waits.
bool checks_data(const Tensor& tensor) {
  if (tensor.is_cpu()) return false; // Rust checks host memory itself
  const char* value = std::getenv("ROBOCACHE_CHECK");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

void check_data(
    const char* op,
    const c10::SymInt& batch,
    const Tensor& source_times,
    const std::optional<Tensor>& source_lengths) {
  if (!checks_data(source_times)) return;
  const Tensor rows = source_times.dim() == 1 ? source_times.expand({batch.expect_int(), -1}) : source_times;
  const Tensor times = rows.cpu();
  const auto lengths = source_lengths.has_value() ? std::optional<Tensor>(source_lengths->cpu()) : std::nullopt;
  rust_call([&] { core::check_times(op, operand(times), operand(lengths)); });
}

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

Layout check_resample(
    const char* op,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  TORCH_CHECK_TYPE(
      kind(values.scalar_type()) != Kind::None, op,
      ": values must be float64, float32, float16, bfloat16, an integer type or bool, got ",
      dtype_name(values.scalar_type()));
  check_time_dtypes(op, source_times, target_times);
  check_device(op, "source_times", source_times, "values", values);
  check_device(op, "target_times", target_times, "values", values);
  if (source_lengths.has_value()) check_device(op, "source_lengths", *source_lengths, "values", values);

  const int64_t axes = source_times.dim();
  TORCH_CHECK_VALUE(
      axes == 1 || axes == 2, op, ": source_times must have shape [B, S] or [S], got ",
      shape_text(source_times.sym_sizes()));
  const bool shared = axes == 1 && target_times.dim() == 1;
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
      layout.samples.sym_gt(0).expect_true(__FILE__, __LINE__), op,
      ": values must have at least one sample, got shape ", shape_text(values.sym_sizes()));
  check_timeline(op, layout.batch, layout.samples, source_times, target_times, source_lengths);

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
  const Layout layout = check_resample("resample", values, source_times, target_times, mode, outside, source_lengths);
  const c10::OptionalDeviceGuard guard(values.device());
  check_data("resample", layout.batch, source_times, source_lengths);
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

Tensor resample_slope(
    const Tensor& values, // [B, S, D]
    const Tensor& source_times, // [B, S] or [S]
    const Tensor& target_times, // [B, T] or [T]
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  check_resample("resample_slope", values, source_times, target_times, mode, outside, source_lengths);
  const c10::OptionalDeviceGuard guard(values.device());
  Tensor output = at::empty({values.size(0), target_times.size(-1), values.size(2)}, values.options());
  rust_call([&] {
    core::resample_slope(
        operand(values), operand(source_times), operand(target_times), str(mode), str(outside),
        operand(source_lengths), flat(output), place(values.device()));
  });
  return output;
}

Tensor resample_slope_meta(
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  check_resample("resample_slope", values, source_times, target_times, mode, outside, source_lengths);
  return at::empty_symint({values.sym_size(0), target_times.sym_size(-1), values.sym_size(2)}, values.options());
}

void check_backward(
    const Tensor& grad,
    const Tensor& source_times,
    const Tensor& target_times,
    const std::optional<Tensor>& source_lengths) {
  const char* op = "resample_backward";
  TORCH_CHECK_VALUE(grad.dim() == 3, op, ": grad must have shape [B, T, D], got ", shape_text(grad.sym_sizes()));
  check_time_dtypes(op, source_times, target_times);
  check_device(op, "source_times", source_times, "grad", grad);
  check_device(op, "target_times", target_times, "grad", grad);
  if (source_lengths.has_value()) check_device(op, "source_lengths", *source_lengths, "grad", grad);
  check_timeline(op, grad.sym_size(0), source_times.sym_size(-1), source_times, target_times, source_lengths);
  check_shape(op, "grad", grad, {grad.sym_size(0), target_times.sym_size(-1), grad.sym_size(2)});
}

Tensor resample_backward(
    const Tensor& grad, // [B, T, D]
    const Tensor& source_times, // [B, S] or [S]
    const Tensor& target_times, // [B, T] or [T]
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths, // [B]
    bool slope) {
  check_backward(grad, source_times, target_times, source_lengths);
  const c10::OptionalDeviceGuard guard(grad.device());
  const int64_t batch = grad.size(0), samples = source_times.size(-1);
  Tensor output = at::empty({batch, samples, grad.size(2)}, grad.options());
  const std::size_t bytes =
      rust_call([&] { return core::resample_backward_workspace(batch, samples, target_times.size(-1)); });
  Tensor workspace = at::empty({static_cast<int64_t>(bytes)}, grad.options().dtype(at::kByte));
  rust_call([&] {
    core::resample_backward(
        operand(grad), operand(source_times), operand(target_times), str(mode), str(outside),
        operand(source_lengths), slope, flat(output), flat(workspace), place(grad.device()));
  });
  return output;
}

Tensor resample_backward_meta(
    const Tensor& grad,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view /*mode*/,
    std::string_view /*outside*/,
    const std::optional<Tensor>& source_lengths,
    bool /*slope*/) {
  check_backward(grad, source_times, target_times, source_lengths);
  return at::empty_symint({grad.sym_size(0), source_times.sym_size(-1), grad.sym_size(2)}, grad.options());
}

void check_time_grad(
    const Tensor& grad,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  const char* op = "resample_time_grad";
  check_resample(op, values, source_times, target_times, mode, outside, source_lengths);
  check_same_dtype(op, "grad", grad, "values", values);
  check_device(op, "grad", grad, "values", values);
  check_shape(op, "grad", grad, {values.sym_size(0), target_times.sym_size(-1), values.sym_size(2)});
}

Tensor resample_time_grad(
    const Tensor& grad, // [B, T, D]
    const Tensor& values, // [B, S, D]
    const Tensor& source_times, // [B, S] or [S]
    const Tensor& target_times, // [B, T] or [T]
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  check_time_grad(grad, values, source_times, target_times, mode, outside, source_lengths);
  const c10::OptionalDeviceGuard guard(values.device());
  Tensor output = at::empty({values.size(0), target_times.size(-1)}, target_times.options());
  rust_call([&] {
    core::resample_time_grad(
        operand(grad), operand(values), operand(source_times), operand(target_times), str(mode), str(outside),
        operand(source_lengths), flat(output), place(values.device()));
  });
  return output;
}

Tensor resample_time_grad_meta(
    const Tensor& grad,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  check_time_grad(grad, values, source_times, target_times, mode, outside, source_lengths);
  return at::empty_symint({values.sym_size(0), target_times.sym_size(-1)}, target_times.options());
}

} // namespace
} // namespace robocache

// One key each; autocast falls through, so values keep their dtype.

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "resample(Tensor values, Tensor source_times, Tensor target_times, *, str mode=\"linear\", "
      "str outside=\"hold\", Tensor? source_lengths=None) -> Tensor");
  m.def(
      "resample_slope(Tensor values, Tensor source_times, Tensor target_times, *, str mode, str outside, "
      "Tensor? source_lengths=None) -> Tensor");
  m.def(
      "resample_backward(Tensor grad, Tensor source_times, Tensor target_times, *, str mode, str outside, "
      "Tensor? source_lengths=None, bool slope=False) -> Tensor");
  m.def(
      "resample_time_grad(Tensor grad, Tensor values, Tensor source_times, Tensor target_times, *, str mode, "
      "str outside, Tensor? source_lengths=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("resample", TORCH_FN(robocache::resample));
  m.impl("resample_slope", TORCH_FN(robocache::resample_slope));
  m.impl("resample_backward", TORCH_FN(robocache::resample_backward));
  m.impl("resample_time_grad", TORCH_FN(robocache::resample_time_grad));
}

TORCH_LIBRARY_IMPL(robocache, CUDA, m) {
  m.impl("resample", TORCH_FN(robocache::resample));
  m.impl("resample_slope", TORCH_FN(robocache::resample_slope));
  m.impl("resample_backward", TORCH_FN(robocache::resample_backward));
  m.impl("resample_time_grad", TORCH_FN(robocache::resample_time_grad));
}

TORCH_LIBRARY_IMPL(robocache, Meta, m) {
  m.impl("resample", TORCH_FN(robocache::resample_meta));
  m.impl("resample_slope", TORCH_FN(robocache::resample_slope_meta));
  m.impl("resample_backward", TORCH_FN(robocache::resample_backward_meta));
  m.impl("resample_time_grad", TORCH_FN(robocache::resample_time_grad_meta));
}

TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  m.impl("resample", TORCH_FN(robocache::autograd::resample));
  m.impl("resample_slope", TORCH_FN(robocache::autograd::resample_slope));
  m.impl("resample_backward", TORCH_FN(robocache::autograd::resample_backward));
  m.impl("resample_time_grad", TORCH_FN(robocache::autograd::resample_time_grad));
}

TORCH_LIBRARY_IMPL(robocache, AutocastCPU, m) {
  m.impl("resample", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(robocache, AutocastCUDA, m) {
  m.impl("resample", torch::CppFunction::makeFallthrough());
}
