// The operators that the derivatives of resample close over: checks, allocation, the calls to Rust.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "operand.h"
#include "resample.h"
#include "timeline.h"

namespace robocache {
namespace {

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

void check_tangent(
    const Tensor& tangent,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  const char* op = "resample_tangent";
  check_resample(op, values, source_times, target_times, mode, outside, source_lengths);
  check_same_dtype(op, "tangent", tangent, "values", values);
  check_device(op, "tangent", tangent, "values", values);
  check_shape(op, "tangent", tangent, values.sym_sizes());
}

Tensor resample_tangent(
    const Tensor& tangent, // [B, S, D]
    const Tensor& values, // [B, S, D]
    const Tensor& source_times, // [B, S] or [S]
    const Tensor& target_times, // [B, T] or [T]
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) { // [B]
  check_tangent(tangent, values, source_times, target_times, mode, outside, source_lengths);
  const c10::OptionalDeviceGuard guard(values.device());
  Tensor output = at::empty({values.size(0), target_times.size(-1), values.size(2)}, values.options());
  rust_call([&] {
    core::resample_tangent(
        operand(tangent), operand(values), operand(source_times), operand(target_times), str(mode), str(outside),
        operand(source_lengths), flat(output), place(values.device()));
  });
  return output;
}

Tensor resample_tangent_meta(
    const Tensor& tangent,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) {
  check_tangent(tangent, values, source_times, target_times, mode, outside, source_lengths);
  return at::empty_symint({values.sym_size(0), target_times.sym_size(-1), values.sym_size(2)}, values.options());
}

void check_backward(
    const char* op,
    const Tensor& grad,
    const Tensor& source_times,
    const Tensor& target_times,
    const std::optional<Tensor>& source_lengths) {
  TORCH_CHECK_VALUE(grad.dim() == 3, op, ": grad must have shape [B, T, D], got ", shape_text(grad.sym_sizes()));
  check_time_dtypes({op}, source_times, target_times);
  check_device(op, "source_times", source_times, "grad", grad);
  check_device(op, "target_times", target_times, "grad", grad);
  if (source_lengths.has_value()) check_device(op, "source_lengths", *source_lengths, "grad", grad);
  check_timeline(op, grad.sym_size(0), source_times.sym_size(-1), source_times, target_times, source_lengths);
  check_shape(op, "grad", grad, {grad.sym_size(0), target_times.sym_size(-1), grad.sym_size(2)});
}

// [B, S, D] as the gradient that is gathered.
void check_like_source(
    const char* op,
    const char* argument,
    const Tensor& tensor,
    const Tensor& grad,
    const Tensor& source_times) {
  check_same_dtype(op, argument, tensor, "grad", grad);
  check_device(op, argument, tensor, "grad", grad);
  check_shape(op, argument, tensor, {grad.sym_size(0), source_times.sym_size(-1), grad.sym_size(2)});
}

Tensor resample_backward(
    const Tensor& grad, // [B, T, D]
    const Tensor& source_times, // [B, S] or [S]
    const Tensor& target_times, // [B, T] or [T]
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths, // [B]
    bool slope,
    const std::optional<Tensor>& values) { // [B, S, D]
  check_backward("resample_backward", grad, source_times, target_times, source_lengths);
  if (values.has_value()) check_like_source("resample_backward", "values", *values, grad, source_times);
  const c10::OptionalDeviceGuard guard(grad.device());
  Tensor output = at::empty({grad.size(0), source_times.size(-1), grad.size(2)}, grad.options());
  const core::Place where = place(grad.device());
  Tensor workspace = borrow(
      rust_call([&] {
        return core::resample_backward_workspace(
            grad.size(0), source_times.size(-1), target_times.size(-1), str(mode), where);
      }),
      grad);
  rust_call([&] {
    core::resample_backward(
        operand(grad), operand(source_times), operand(target_times), str(mode), str(outside),
        operand(source_lengths), slope, operand(values), flat(output), flat(workspace), where);
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
    bool /*slope*/,
    const std::optional<Tensor>& values) {
  check_backward("resample_backward", grad, source_times, target_times, source_lengths);
  if (values.has_value()) check_like_source("resample_backward", "values", *values, grad, source_times);
  return at::empty_symint({grad.sym_size(0), source_times.sym_size(-1), grad.sym_size(2)}, grad.options());
}

void check_curvature(
    const Tensor& grad,
    const Tensor& tangent,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    const std::optional<Tensor>& source_lengths) {
  const char* op = "resample_curvature";
  check_backward(op, grad, source_times, target_times, source_lengths);
  check_like_source(op, "tangent", tangent, grad, source_times);
  check_like_source(op, "values", values, grad, source_times);
}

Tensor resample_curvature(
    const Tensor& grad, // [B, T, D]
    const Tensor& tangent, // [B, S, D]
    const Tensor& values, // [B, S, D]
    const Tensor& source_times, // [B, S] or [S]
    const Tensor& target_times, // [B, T] or [T]
    std::string_view mode,
    std::string_view outside,
    const std::optional<Tensor>& source_lengths) { // [B]
  check_curvature(grad, tangent, values, source_times, target_times, source_lengths);
  const c10::OptionalDeviceGuard guard(grad.device());
  Tensor output = at::empty(values.sizes(), grad.options());
  Tensor workspace = borrow(
      rust_call([&] {
        return core::resample_curvature_workspace(grad.size(0), source_times.size(-1), target_times.size(-1));
      }),
      grad);
  rust_call([&] {
    core::resample_curvature(
        operand(grad), operand(tangent), operand(values), operand(source_times), operand(target_times), str(mode),
        str(outside), operand(source_lengths), flat(output), flat(workspace), place(grad.device()));
  });
  return output;
}

Tensor resample_curvature_meta(
    const Tensor& grad,
    const Tensor& tangent,
    const Tensor& values,
    const Tensor& source_times,
    const Tensor& target_times,
    std::string_view /*mode*/,
    std::string_view /*outside*/,
    const std::optional<Tensor>& source_lengths) {
  check_curvature(grad, tangent, values, source_times, target_times, source_lengths);
  return at::empty_symint(values.sym_sizes(), grad.options());
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

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "resample_slope(Tensor values, Tensor source_times, Tensor target_times, *, str mode, str outside, "
      "Tensor? source_lengths=None) -> Tensor");
  m.def(
      "resample_tangent(Tensor tangent, Tensor values, Tensor source_times, Tensor target_times, *, str mode, "
      "str outside, Tensor? source_lengths=None) -> Tensor");
  m.def(
      "resample_backward(Tensor grad, Tensor source_times, Tensor target_times, *, str mode, str outside, "
      "Tensor? source_lengths=None, bool slope=False, Tensor? values=None) -> Tensor");
  m.def(
      "resample_curvature(Tensor grad, Tensor tangent, Tensor values, Tensor source_times, Tensor target_times, *, "
      "str mode, str outside, Tensor? source_lengths=None) -> Tensor");
  m.def(
      "resample_time_grad(Tensor grad, Tensor values, Tensor source_times, Tensor target_times, *, str mode, "
      "str outside, Tensor? source_lengths=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("resample_slope", TORCH_FN(robocache::resample_slope));
  m.impl("resample_tangent", TORCH_FN(robocache::resample_tangent));
  m.impl("resample_backward", TORCH_FN(robocache::resample_backward));
  m.impl("resample_curvature", TORCH_FN(robocache::resample_curvature));
  m.impl("resample_time_grad", TORCH_FN(robocache::resample_time_grad));
}

TORCH_LIBRARY_IMPL(robocache, CUDA, m) {
  m.impl("resample_slope", TORCH_FN(robocache::resample_slope));
  m.impl("resample_tangent", TORCH_FN(robocache::resample_tangent));
  m.impl("resample_backward", TORCH_FN(robocache::resample_backward));
  m.impl("resample_curvature", TORCH_FN(robocache::resample_curvature));
  m.impl("resample_time_grad", TORCH_FN(robocache::resample_time_grad));
}

TORCH_LIBRARY_IMPL(robocache, Meta, m) {
  m.impl("resample_slope", TORCH_FN(robocache::resample_slope_meta));
  m.impl("resample_tangent", TORCH_FN(robocache::resample_tangent_meta));
  m.impl("resample_backward", TORCH_FN(robocache::resample_backward_meta));
  m.impl("resample_curvature", TORCH_FN(robocache::resample_curvature_meta));
  m.impl("resample_time_grad", TORCH_FN(robocache::resample_time_grad_meta));
}

TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  m.impl("resample_slope", TORCH_FN(robocache::autograd::resample_slope));
  m.impl("resample_tangent", TORCH_FN(robocache::autograd::resample_tangent));
  m.impl("resample_backward", TORCH_FN(robocache::autograd::resample_backward));
  m.impl("resample_curvature", TORCH_FN(robocache::autograd::resample_curvature));
  m.impl("resample_time_grad", TORCH_FN(robocache::autograd::resample_time_grad));
}
