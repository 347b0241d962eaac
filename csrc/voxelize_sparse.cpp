// voxelize_sparse: the occupied voxels only, as rows; composed of an operator that finds the rows and one that reduces
// their points.

#include "voxelize.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <string>

#include "check.h"
#include "timeline.h"

namespace robocache {
namespace {

using Sparse = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using Rows = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Rows voxelize_sparse_rows(
    const Tensor& points, // [B, N, 3]
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    int64_t capacity,
    const Optional& lengths) {
  const char* op = "voxelize_sparse_rows";
  const Space space = check_voxelize(
      op, {false, true}, points, std::nullopt, origin, voxel_size, grid_size, "count", capacity, lengths);
  TORCH_CHECK_VALUE(
      space.batched, op, ": points must have shape [B, N, 3], got ", shape_text(points.sym_sizes()));
  const c10::OptionalDeviceGuard guard(points.device());
  check_length_data("voxelize_sparse", points, lengths);
  const int64_t batch = points.size(0), count = points.size(1);
  const auto make = [&](at::IntArrayRef size, at::ScalarType type) {
    return at::empty(size, points.options().dtype(type));
  };
  const core::Place where = place(points.device());
  Tensor workspace = borrow(
      rust_call([&] {
        return core::voxelize_sparse_workspace(
            static_cast<size_t>(batch), static_cast<size_t>(count), slice(grid_size), where);
      }),
      points);
  Tensor order = make({batch, count}, at::kInt), num_voxels = make({1}, at::kLong);
  rust_call([&] {
    core::voxelize_sparse_rows(
        operand(points), slice(origin), slice(voxel_size), slice(grid_size), operand(lengths), flat(order),
        flat(num_voxels), flat(workspace), where);
  });
  // The one synchronisation, where the caller wants exactly as many rows as there are voxels.
  const int64_t rows = capacity >= 0 ? capacity : num_voxels.item<int64_t>();
  Tensor coords = make({rows, 4}, at::kInt), counts = make({rows}, at::kInt), starts = make({rows}, at::kInt);
  Tensor point_voxel = make({batch, count}, at::kLong);
  rust_call([&] {
    core::voxelize_sparse_fill(
        operand(points), slice(grid_size), operand(order), operand(num_voxels), flat(coords), flat(counts),
        flat(starts), flat(point_voxel), flat(workspace), where);
  });
  return {coords, counts, point_voxel, num_voxels, order, starts};
}

// The rows of a call: dense, on one device.
void check_rows(
    const char* op,
    const char* first_argument,
    const Tensor& first,
    const Tensor& coords,
    const Tensor& counts,
    const Tensor& order,
    const Tensor& starts,
    std::string_view reduce) {
  rust_call([&] { core::check_reduce(op, str(reduce)); });
  TORCH_CHECK_VALUE(
      core::reads_features(str(reduce)), op, ": reduce must be \"sum\", \"mean\", \"max\" or \"min\", got \"", reduce,
      "\"");
  const auto check_int = [&](const char* name, const Tensor& tensor) {
    TORCH_CHECK_TYPE(
        tensor.scalar_type() == at::kInt, op, ": ", name, " must be int32, got ", dtype_name(tensor.scalar_type()));
    check_device(op, name, tensor, first_argument, first);
  };
  check_int("coords", coords);
  check_int("counts", counts);
  check_int("order", order);
  check_int("starts", starts);
  TORCH_CHECK_VALUE(counts.dim() == 1, op, ": counts must have shape [M], got ", shape_text(counts.sym_sizes()));
  TORCH_CHECK_VALUE(order.dim() == 2, op, ": order must have shape [B, N], got ", shape_text(order.sym_sizes()));
  check_shape(op, "coords", coords, {counts.sym_size(0), 4});
  check_shape(op, "starts", starts, {counts.sym_size(0)});
}

void check_axes(const char* op, const char* name, const Tensor& tensor, int64_t dim) {
  check_floating(op, name, tensor);
  TORCH_CHECK_VALUE(
      tensor.dim() == dim, op, ": ", name, " must have ", dim, " axes, got shape ", shape_text(tensor.sym_sizes()));
}

// [M, C]
c10::SymDimVector check_values(
    const Tensor& features,
    const Tensor& coords,
    const Tensor& counts,
    const Tensor& order,
    const Tensor& starts,
    std::string_view reduce,
    const Optional& tangent) {
  const char* op = "voxelize_sparse_values";
  check_rows(op, "features", features, coords, counts, order, starts, reduce);
  check_axes(op, "features", features, 3);
  check_shape(op, "features", features, {order.sym_size(0), order.sym_size(1), features.sym_size(2)});
  if (tangent.has_value()) {
    check_same_dtype(op, "tangent", *tangent, "features", features);
    check_shape(op, "tangent", *tangent, features.sym_sizes());
    check_device(op, "tangent", *tangent, "features", features);
  }
  return {counts.sym_size(0), features.sym_size(2)};
}

Tensor voxelize_sparse_values(
    const Tensor& features, // [B, N, C]
    const Tensor& coords, // [M, 4]
    const Tensor& counts, // [M]
    const Tensor& order, // [B, N]
    const Tensor& starts, // [M]
    const Tensor& /*point_voxel*/, // [B, N]; for the derivative
    std::string_view reduce,
    const Optional& tangent) { // [B, N, C]
  const auto size = check_values(features, coords, counts, order, starts, reduce, tangent);
  const c10::OptionalDeviceGuard guard(features.device());
  const Tensor at_coords = coords.contiguous(), all_counts = counts.contiguous(), all_order = order.contiguous();
  const Tensor all_starts = starts.contiguous();
  Tensor output = at::empty(C10_AS_INTARRAYREF_SLOW(size), features.options());
  rust_call([&] {
    core::voxelize_sparse_values(
        operand(features), operand(at_coords), operand(all_counts), operand(all_order), operand(all_starts),
        str(reduce), operand(tangent), flat(output), place(features.device()));
  });
  return output;
}

Tensor voxelize_sparse_values_meta(
    const Tensor& features,
    const Tensor& coords,
    const Tensor& counts,
    const Tensor& order,
    const Tensor& starts,
    const Tensor& /*point_voxel*/,
    std::string_view reduce,
    const Optional& tangent) {
  const auto size = check_values(features, coords, counts, order, starts, reduce, tangent);
  return at::empty_symint(size, features.options());
}

// [B, N, C]
c10::SymDimVector check_backward(
    const Tensor& grad,
    const Optional& features,
    const Tensor& coords,
    const Tensor& counts,
    const Tensor& order,
    const Tensor& starts,
    const Tensor& point_voxel,
    std::string_view reduce) {
  const char* op = "voxelize_sparse_backward";
  check_rows(op, "grad", grad, coords, counts, order, starts, reduce);
  check_axes(op, "grad", grad, 2);
  check_shape(op, "grad", grad, {counts.sym_size(0), grad.sym_size(1)});
  TORCH_CHECK_TYPE(
      point_voxel.scalar_type() == at::kLong, op, ": point_voxel must be int64, got ",
      dtype_name(point_voxel.scalar_type()));
  check_shape(op, "point_voxel", point_voxel, order.sym_sizes());
  check_device(op, "point_voxel", point_voxel, "grad", grad);
  const bool picks = core::picks(str(reduce));
  TORCH_CHECK_VALUE(
      !picks || features.has_value(), op, ": features must be given where reduce is \"", reduce, "\", got none");
  if (picks) {
    check_same_dtype(op, "features", *features, "grad", grad);
    check_shape(op, "features", *features, {order.sym_size(0), order.sym_size(1), grad.sym_size(1)});
    check_device(op, "features", *features, "grad", grad);
  }
  return {order.sym_size(0), order.sym_size(1), grad.sym_size(1)};
}

Tensor voxelize_sparse_backward(
    const Tensor& grad, // [M, C]
    const Optional& features, // [B, N, C], for max and min
    const Tensor& coords,
    const Tensor& counts,
    const Tensor& order,
    const Tensor& starts,
    const Tensor& point_voxel,
    std::string_view reduce) {
  const auto size = check_backward(grad, features, coords, counts, order, starts, point_voxel, reduce);
  const c10::OptionalDeviceGuard guard(grad.device());
  const Tensor at_coords = coords.contiguous(), all_counts = counts.contiguous(), all_order = order.contiguous();
  const Tensor all_starts = starts.contiguous(), voxels = point_voxel.contiguous();
  Tensor output = at::empty(C10_AS_INTARRAYREF_SLOW(size), grad.options());
  rust_call([&] {
    core::voxelize_sparse_backward(
        operand(grad), operand(features), operand(at_coords), operand(all_counts), operand(all_order),
        operand(all_starts), operand(voxels), str(reduce), flat(output), place(grad.device()));
  });
  return output;
}

Tensor voxelize_sparse_backward_meta(
    const Tensor& grad,
    const Optional& features,
    const Tensor& coords,
    const Tensor& counts,
    const Tensor& order,
    const Tensor& starts,
    const Tensor& point_voxel,
    std::string_view reduce) {
  const auto size = check_backward(grad, features, coords, counts, order, starts, point_voxel, reduce);
  return at::empty_symint(size, grad.options());
}

// Composed of the two operators, so that autograd and tracing see each.
Sparse voxelize_sparse(
    const Tensor& points, // [B, N, 3] or [N, 3]
    const Optional& features, // [B, N, C] or [N, C]
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    int64_t capacity,
    const Optional& lengths) {
  const Space space = check_voxelize(
      "voxelize_sparse", {false, true}, points, features, origin, voxel_size, grid_size, reduce, capacity, lengths);
  static const auto find_rows = c10::Dispatcher::singleton()
                                    .findSchemaOrThrow("robocache::voxelize_sparse_rows", "")
                                    .typed<decltype(voxelize_sparse_rows)>();
  static const auto find_values = c10::Dispatcher::singleton()
                                      .findSchemaOrThrow("robocache::voxelize_sparse_values", "")
                                      .typed<decltype(voxelize_sparse_values)>();
  const Tensor clouds = space.batched ? points : points.unsqueeze(0);
  auto [coords, counts, point_voxel, num_voxels, order, starts] =
      find_rows.call(clouds, origin, voxel_size, grid_size, capacity, lengths);
  Tensor values;
  if (space.reads) {
    const Tensor rows = space.batched ? *features : features->unsqueeze(0);
    values = find_values.call(rows, coords, counts, order, starts, point_voxel, reduce, std::nullopt);
  } else {
    values = at::empty_symint({counts.sym_size(0), 0}, features.value_or(points).options());
  }
  return {coords, values, counts, space.batched ? point_voxel : point_voxel.squeeze(0), num_voxels};
}

int64_t voxelize_sparse_workspace(int64_t batch, int64_t points, at::IntArrayRef grid_size, bool cuda) {
  const auto count = [](int64_t number) { return static_cast<size_t>(std::max<int64_t>(number, 0)); };
  return static_cast<int64_t>(rust_call([&] {
    return core::voxelize_sparse_workspace(count(batch), count(points), slice(grid_size), {cuda ? 0 : -1, 0});
  }));
}

} // namespace
} // namespace robocache

// voxelize_sparse_rows has no C++ Meta kernel: how many rows it makes is known only to a run, and Python's fake kernel
// can say so (torch_ops/robocache/_fake.py). It has no derivative, so autograd falls through.

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "voxelize_sparse(Tensor points, Tensor? features, float[] origin, float[] voxel_size, int[] grid_size, *, "
      "str reduce=\"mean\", int capacity=-1, Tensor? lengths=None) -> "
      "(Tensor coords, Tensor values, Tensor counts, Tensor point_voxel, Tensor num_voxels)");
  m.def(
      "voxelize_sparse_rows(Tensor points, float[] origin, float[] voxel_size, int[] grid_size, *, "
      "int capacity=-1, Tensor? lengths=None) -> "
      "(Tensor coords, Tensor counts, Tensor point_voxel, Tensor num_voxels, Tensor order, Tensor starts)");
  m.def(
      "voxelize_sparse_values(Tensor features, Tensor coords, Tensor counts, Tensor order, Tensor starts, "
      "Tensor point_voxel, *, str reduce=\"mean\", Tensor? tangent=None) -> Tensor");
  m.def(
      "voxelize_sparse_backward(Tensor grad, Tensor? features, Tensor coords, Tensor counts, Tensor order, "
      "Tensor starts, Tensor point_voxel, *, str reduce=\"mean\") -> Tensor");
  m.def(
      "_voxelize_sparse_workspace(int batch, int points, int[] grid_size, bool cuda) -> int",
      TORCH_FN(robocache::voxelize_sparse_workspace));
}

TORCH_LIBRARY_IMPL(robocache, CompositeImplicitAutograd, m) {
  m.impl("voxelize_sparse", TORCH_FN(robocache::voxelize_sparse));
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("voxelize_sparse_rows", TORCH_FN(robocache::voxelize_sparse_rows));
  m.impl("voxelize_sparse_values", TORCH_FN(robocache::voxelize_sparse_values));
  m.impl("voxelize_sparse_backward", TORCH_FN(robocache::voxelize_sparse_backward));
}

TORCH_LIBRARY_IMPL(robocache, CUDA, m) {
  m.impl("voxelize_sparse_rows", TORCH_FN(robocache::voxelize_sparse_rows));
  m.impl("voxelize_sparse_values", TORCH_FN(robocache::voxelize_sparse_values));
  m.impl("voxelize_sparse_backward", TORCH_FN(robocache::voxelize_sparse_backward));
}

TORCH_LIBRARY_IMPL(robocache, Meta, m) {
  m.impl("voxelize_sparse_values", TORCH_FN(robocache::voxelize_sparse_values_meta));
  m.impl("voxelize_sparse_backward", TORCH_FN(robocache::voxelize_sparse_backward_meta));
}

TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  m.impl("voxelize_sparse_rows", torch::CppFunction::makeFallthrough());
  m.impl("voxelize_sparse_values", TORCH_FN(robocache::autograd::voxelize_sparse_values));
  m.impl("voxelize_sparse_backward", TORCH_FN(robocache::autograd::voxelize_sparse_backward));
}

TORCH_LIBRARY_IMPL(robocache, AutocastCPU, m) {
  m.impl("voxelize_sparse_rows", torch::CppFunction::makeFallthrough());
  m.impl("voxelize_sparse_values", torch::CppFunction::makeFallthrough());
  m.impl("voxelize_sparse_backward", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(robocache, AutocastCUDA, m) {
  m.impl("voxelize_sparse_rows", torch::CppFunction::makeFallthrough());
  m.impl("voxelize_sparse_values", torch::CppFunction::makeFallthrough());
  m.impl("voxelize_sparse_backward", torch::CppFunction::makeFallthrough());
}
