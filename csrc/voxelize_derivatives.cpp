// The operators that the derivatives of voxelize close over: checks, allocation, the calls to Rust.

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "check.h"
#include "voxelize.h"

namespace robocache {
namespace {

// The private operators take batches only, and reductions that read features.
Space check_private(
    const char* op,
    const Tensor& points,
    const Optional& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    const Optional& lengths) {
  const bool needed = core::picks(str(reduce));
  const Space space =
      check_voxelize(op, {needed, false}, points, features, origin, voxel_size, grid_size, reduce, -1, lengths);
  TORCH_CHECK_VALUE(
      space.batched, op, ": points must have shape [B, N, 3], got ", shape_text(points.sym_sizes()));
  TORCH_CHECK_VALUE(
      core::reads_features(str(reduce)), op, ": reduce must be \"sum\", \"mean\", \"max\" or \"min\", got \"", reduce,
      "\"");
  return space;
}

// Of [B, N, 3], to "mean", with the counts of the voxels and the voxel of each point.
Space check_counted(
    const Tensor& points,
    const Tensor& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    const Optional& lengths) {
  return check_private("voxelize_counted", points, features, origin, voxel_size, grid_size, "mean", lengths);
}

c10::SymDimVector counts_size(const c10::SymInt& batch, at::IntArrayRef grid_size) {
  return {batch, grid_size[0], grid_size[1], grid_size[2]};
}

std::tuple<Tensor, Tensor, Tensor> voxelize_counted(
    const Tensor& points,
    const Tensor& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    const Optional& lengths) {
  const Space space = check_counted(points, features, origin, voxel_size, grid_size, lengths);
  const c10::OptionalDeviceGuard guard(points.device());
  check_length_data("voxelize_counted", points, lengths);
  Tensor output = at::empty(C10_AS_INTARRAYREF_SLOW(result_size(space, grid_size)), features.options());
  Tensor counts =
      at::empty(C10_AS_INTARRAYREF_SLOW(counts_size(space.batch, grid_size)), points.options().dtype(at::kInt));
  Tensor point_voxel = at::empty({points.size(0), points.size(1)}, counts.options());
  Tensor workspace = workspace_of(points, space, grid_size, "mean", false);
  rust_call([&] {
    core::voxelize_counted(
        operand(points), operand(features), slice(origin), slice(voxel_size), slice(grid_size), operand(lengths),
        flat(output), flat(counts), flat(point_voxel), flat(workspace), place(points.device()));
  });
  return {output, counts, point_voxel};
}

std::tuple<Tensor, Tensor, Tensor> voxelize_counted_meta(
    const Tensor& points,
    const Tensor& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    const Optional& lengths) {
  const Space space = check_counted(points, features, origin, voxel_size, grid_size, lengths);
  return {
      at::empty_symint(result_size(space, grid_size), features.options()),
      at::empty_symint(counts_size(space.batch, grid_size), points.options().dtype(at::kInt)),
      at::empty_symint({space.batch, space.points}, points.options().dtype(at::kInt))};
}

Space check_tangent(
    const Tensor& tangent,
    const Tensor& points,
    const Tensor& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    const Optional& lengths) {
  const char* op = "voxelize_tangent";
  const Space space = check_private(op, points, features, origin, voxel_size, grid_size, reduce, lengths);
  check_shape(op, "tangent", tangent, features.sym_sizes());
  check_same_dtype(op, "tangent", tangent, "features", features);
  check_device(op, "tangent", tangent, "features", features);
  return space;
}

Tensor voxelize_tangent(
    const Tensor& tangent, // [B, N, C]
    const Tensor& points,
    const Tensor& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    const Optional& lengths) {
  const Space space = check_tangent(tangent, points, features, origin, voxel_size, grid_size, reduce, lengths);
  const c10::OptionalDeviceGuard guard(points.device());
  check_length_data("voxelize_tangent", points, lengths);
  Tensor output = at::empty(C10_AS_INTARRAYREF_SLOW(result_size(space, grid_size)), features.options());
  Tensor workspace = workspace_of(points, space, grid_size, reduce, false);
  rust_call([&] {
    core::voxelize_tangent(
        operand(tangent), operand(points), operand(features), slice(origin), slice(voxel_size), slice(grid_size),
        str(reduce), operand(lengths), flat(output), flat(workspace), place(points.device()));
  });
  return output;
}

Tensor voxelize_tangent_meta(
    const Tensor& tangent,
    const Tensor& points,
    const Tensor& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    const Optional& lengths) {
  const Space space = check_tangent(tangent, points, features, origin, voxel_size, grid_size, reduce, lengths);
  return at::empty_symint(result_size(space, grid_size), features.options());
}

// [B, N, C]
c10::SymDimVector check_backward(
    const Tensor& grad,
    const Tensor& points,
    const Optional& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    const Optional& lengths,
    const Optional& counts,
    const Optional& point_voxel) {
  const char* op = "voxelize_backward";
  const Space space = check_private(op, points, features, origin, voxel_size, grid_size, reduce, lengths);
  check_floating(op, "grad", grad);
  c10::SymInt channels = space.channels;
  if (!features.has_value() && grad.dim() == 5) channels = grad.sym_size(1);
  check_shape(op, "grad", grad, {space.batch, channels, grid_size[0], grid_size[1], grid_size[2]});
  if (core::picks(str(reduce))) check_same_dtype(op, "grad", grad, "features", *features);
  check_device(op, "grad", grad, "points", points);
  TORCH_CHECK_VALUE(
      counts.has_value() == point_voxel.has_value(), op, ": counts and point_voxel must be given together, got only ",
      counts.has_value() ? "counts" : "point_voxel");
  if (!counts.has_value()) return {space.batch, space.points, channels};
  TORCH_CHECK_VALUE(
      reduce == "mean", op, ": counts must be none where reduce is not \"mean\", got some for \"", reduce, "\"");
  const auto check_found = [&](const char* name, const Tensor& found, c10::SymDimVector size) {
    TORCH_CHECK_TYPE(
        found.scalar_type() == at::kInt, op, ": ", name, " must be int32, got ", dtype_name(found.scalar_type()));
    check_shape(op, name, found, size);
    check_device(op, name, found, "points", points);
  };
  check_found("counts", *counts, counts_size(space.batch, grid_size));
  check_found("point_voxel", *point_voxel, {space.batch, space.points});
  return {space.batch, space.points, channels};
}

// Of the gradient of a mean whose voxels are counted.
Tensor counted_workspace_of(const Tensor& grad, const Tensor& points, at::IntArrayRef grid_size) {
  const auto size = [](const Tensor& tensor, int64_t axis) { return static_cast<size_t>(tensor.size(axis)); };
  const size_t bytes = rust_call([&] {
    return core::voxelize_counted_workspace(
        size(points, 0), size(points, 1), size(grad, 1), slice(grid_size), grad.element_size(),
        place(points.device()));
  });
  return borrow(bytes, points);
}

Tensor voxelize_backward(
    const Tensor& grad, // [B, C, X, Y, Z]
    const Tensor& points,
    const Optional& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    const Optional& lengths,
    const Optional& counts,
    const Optional& point_voxel) {
  const auto size =
      check_backward(grad, points, features, origin, voxel_size, grid_size, reduce, lengths, counts, point_voxel);
  const c10::OptionalDeviceGuard guard(points.device());
  check_length_data("voxelize_backward", points, lengths);
  // The three axes of the grid as one: a view where the strides allow it.
  const int64_t all = grid_size[0] * grid_size[1] * grid_size[2];
  const Tensor cells = grad.reshape({grad.size(0), grad.size(1), all});
  Optional counted, found;
  if (counts.has_value()) {
    counted = counts->reshape({grad.size(0), all}).contiguous();
    found = point_voxel->contiguous();
  }
  Tensor output = at::empty(C10_AS_INTARRAYREF_SLOW(size), grad.options());
  Tensor workspace = counted.has_value()
      ? counted_workspace_of(grad, points, grid_size)
      : workspace_of(points, {true, size[0], size[1], size[2], true}, grid_size, reduce, true);
  rust_call([&] {
    core::voxelize_backward(
        operand(cells), operand(points), operand(features), slice(origin), slice(voxel_size), slice(grid_size),
        str(reduce), operand(lengths), operand(counted), operand(found), flat(output), flat(workspace),
        place(points.device()));
  });
  return output;
}

Tensor voxelize_backward_meta(
    const Tensor& grad,
    const Tensor& points,
    const Optional& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    const Optional& lengths,
    const Optional& counts,
    const Optional& point_voxel) {
  const auto size =
      check_backward(grad, points, features, origin, voxel_size, grid_size, reduce, lengths, counts, point_voxel);
  return at::empty_symint(size, grad.options());
}

// What the plan says, for whoever wants to know before: tests compare it with what is allocated.
int64_t voxelize_counted_workspace(
    int64_t batch, int64_t points, int64_t channels, at::IntArrayRef grid_size, int64_t item, bool cuda) {
  const auto count = [](int64_t number) { return static_cast<size_t>(std::max<int64_t>(number, 0)); };
  return static_cast<int64_t>(rust_call([&] {
    return core::voxelize_counted_workspace(
        count(batch), count(points), count(channels), slice(grid_size), count(item), {cuda ? 0 : -1, 0});
  }));
}

} // namespace
} // namespace robocache

// One key each; autocast falls through, so features keep their dtype.

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "voxelize_tangent(Tensor tangent, Tensor points, Tensor features, float[] origin, float[] voxel_size, "
      "int[] grid_size, *, str reduce=\"max\", Tensor? lengths=None) -> Tensor");
  m.def(
      "voxelize_counted(Tensor points, Tensor features, float[] origin, float[] voxel_size, int[] grid_size, *, "
      "Tensor? lengths=None) -> (Tensor, Tensor, Tensor)");
  m.def(
      "voxelize_backward(Tensor grad, Tensor points, Tensor? features, float[] origin, float[] voxel_size, "
      "int[] grid_size, *, str reduce=\"mean\", Tensor? lengths=None, Tensor? counts=None, "
      "Tensor? point_voxel=None) -> Tensor");
  m.def(
      "_voxelize_counted_workspace(int batch, int points, int channels, int[] grid_size, int item, bool cuda) -> int",
      TORCH_FN(robocache::voxelize_counted_workspace));
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("voxelize_tangent", TORCH_FN(robocache::voxelize_tangent));
  m.impl("voxelize_counted", TORCH_FN(robocache::voxelize_counted));
  m.impl("voxelize_backward", TORCH_FN(robocache::voxelize_backward));
}

TORCH_LIBRARY_IMPL(robocache, CUDA, m) {
  m.impl("voxelize_tangent", TORCH_FN(robocache::voxelize_tangent));
  m.impl("voxelize_counted", TORCH_FN(robocache::voxelize_counted));
  m.impl("voxelize_backward", TORCH_FN(robocache::voxelize_backward));
}

TORCH_LIBRARY_IMPL(robocache, Meta, m) {
  m.impl("voxelize_tangent", TORCH_FN(robocache::voxelize_tangent_meta));
  m.impl("voxelize_counted", TORCH_FN(robocache::voxelize_counted_meta));
  m.impl("voxelize_backward", TORCH_FN(robocache::voxelize_backward_meta));
}

TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  m.impl("voxelize_tangent", TORCH_FN(robocache::autograd::voxelize_tangent));
  m.impl("voxelize_counted", TORCH_FN(robocache::autograd::voxelize_counted));
  m.impl("voxelize_backward", TORCH_FN(robocache::autograd::voxelize_backward));
}

TORCH_LIBRARY_IMPL(robocache, AutocastCPU, m) {
  m.impl("voxelize_tangent", torch::CppFunction::makeFallthrough());
  m.impl("voxelize_counted", torch::CppFunction::makeFallthrough());
  m.impl("voxelize_backward", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(robocache, AutocastCUDA, m) {
  m.impl("voxelize_tangent", torch::CppFunction::makeFallthrough());
  m.impl("voxelize_counted", torch::CppFunction::makeFallthrough());
  m.impl("voxelize_backward", torch::CppFunction::makeFallthrough());
}
