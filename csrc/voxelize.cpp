// voxelize: what the points of a cloud say of each voxel of a dense grid.

#include "voxelize.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "check.h"
#include "timeline.h"

namespace robocache {

void check_floating(const char* op, const char* argument, const Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kDouble || type == at::kFloat || type == at::kHalf || type == at::kBFloat16, op, ": ", argument,
      " must be float64, float32, float16 or bfloat16, got ", dtype_name(type));
}

namespace {

constexpr int64_t MOST_POINTS = 2147483647; // counts are int32

// A size, or -1 where only a run will know it.
int64_t known(const c10::SymInt& size) {
  return size.maybe_as_int().value_or(-1);
}

void check_features(const char* op, const Tensor& features, const Tensor& points, const Space& space) {
  check_floating(op, "features", features);
  const auto wrong = [&](const std::string& wanted) {
    TORCH_CHECK_VALUE(
        false, op, ": features must have shape ", wanted, ", got ", shape_text(features.sym_sizes()));
  };
  if (space.batched) {
    if (features.dim() != 3 || !same(features.sym_size(0), space.batch) || !same(features.sym_size(1), space.points))
      wrong("[B, N, C] with B = " + size_text(space.batch) + " and N = " + size_text(space.points));
  } else if (features.dim() != 2 || !same(features.sym_size(0), space.points)) {
    wrong("[N, C] with N = " + size_text(space.points));
  }
  check_device(op, "features", features, "points", points);
}

} // namespace

Space check_voxelize(
    const char* op,
    Rules rules,
    const Tensor& points,
    const Optional& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    int64_t capacity,
    const Optional& lengths) {
  check_floating(op, "points", points);
  TORCH_CHECK_VALUE(
      (points.dim() == 2 || points.dim() == 3) && same(points.sym_size(-1), 3), op,
      ": points must have shape [B, N, 3] or [N, 3], got ", shape_text(points.sym_sizes()));
  const bool batched = points.dim() == 3;
  Space space{batched, batched ? points.sym_size(0) : c10::SymInt(1), points.sym_size(-2), 1, false};
  TORCH_CHECK_VALUE(
      known(space.points) <= MOST_POINTS, op, ": points must have at most ", MOST_POINTS, " points a cloud, got ",
      size_text(space.points));
  rust_call([&] { core::check_reduce(op, str(reduce)); });
  const bool reads = core::reads_features(str(reduce));
  TORCH_CHECK_VALUE(
      features.has_value() || !reads || !rules.needs_features, op, ": features must be given where reduce is \"",
      reduce, "\", got none");
  if (features.has_value()) check_features(op, *features, points, space);
  space.reads = reads && features.has_value();
  if (space.reads) space.channels = features->sym_size(-1);
  rust_call([&] {
    core::check_grid(
        op, kind(points.scalar_type()), slice(origin), slice(voxel_size), slice(grid_size), rules.sparse);
    if (rules.sparse) return;
    const size_t item = reads ? (features.has_value() ? features->element_size() : points.element_size())
                              : (reduce == "count" ? 4 : 1);
    core::check_result(op, slice(grid_size), known(space.batch), known(space.channels), item);
  });
  TORCH_CHECK_VALUE(capacity >= -1, op, ": capacity must be -1 or at least 0, got ", capacity);
  if (!lengths.has_value()) return space;
  const auto type = lengths->scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kInt || type == at::kLong, op, ": lengths must be int32 or int64, got ", dtype_name(type));
  check_shape(op, "lengths", *lengths, {space.batch});
  check_device(op, "lengths", *lengths, "points", points);
  return space;
}

void check_length_data(const char* op, const Tensor& points, const Optional& lengths) {
  if (!lengths.has_value() || !checks_data(*lengths)) return;
  const Tensor host = lengths->cpu();
  rust_call([&] { core::check_lengths(op, operand(host), static_cast<size_t>(points.size(-2))); });
}

// [B, X, Y, Z], [B, C, X, Y, Z], or these without B.
c10::SymDimVector result_size(const Space& space, at::IntArrayRef grid_size) {
  c10::SymDimVector size;
  if (space.batched) size.push_back(space.batch);
  if (space.reads) size.push_back(space.channels);
  for (const int64_t voxels : grid_size) size.push_back(voxels);
  return size;
}

Tensor workspace_of(
    const Tensor& points, const Space& space, at::IntArrayRef grid_size, std::string_view reduce, bool backward) {
  const auto batch = static_cast<size_t>(space.batch.expect_int());
  const auto count = static_cast<size_t>(space.points.expect_int());
  const size_t bytes = rust_call([&] {
    return core::voxelize_workspace(batch, count, slice(grid_size), str(reduce), backward, place(points.device()));
  });
  return borrow(bytes, points);
}

namespace {

at::ScalarType result_type(std::string_view reduce, const Tensor& features) {
  if (reduce == "occupancy") return at::kBool;
  return reduce == "count" ? at::kInt : features.scalar_type();
}

Tensor voxelize(
    const Tensor& points,
    const Optional& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    const Optional& lengths) {
  const char* op = "voxelize";
  const Space space =
      check_voxelize(op, {true, false}, points, features, origin, voxel_size, grid_size, reduce, -1, lengths);
  const c10::OptionalDeviceGuard guard(points.device());
  check_length_data(op, points, lengths);
  const auto type = result_type(reduce, features.value_or(points));
  Tensor output = at::empty(C10_AS_INTARRAYREF_SLOW(result_size(space, grid_size)), points.options().dtype(type));
  Tensor workspace = workspace_of(points, space, grid_size, reduce, false);
  rust_call([&] {
    core::voxelize(
        operand(points), operand(features), slice(origin), slice(voxel_size), slice(grid_size), str(reduce),
        operand(lengths), flat(output), flat(workspace), place(points.device()));
  });
  return output;
}

Tensor voxelize_meta(
    const Tensor& points,
    const Optional& features,
    Numbers origin,
    Numbers voxel_size,
    at::IntArrayRef grid_size,
    std::string_view reduce,
    const Optional& lengths) {
  const Space space =
      check_voxelize("voxelize", {true, false}, points, features, origin, voxel_size, grid_size, reduce, -1, lengths);
  const auto type = result_type(reduce, features.value_or(points));
  return at::empty_symint(result_size(space, grid_size), points.options().dtype(type));
}

// What the plan says, for whoever wants to know before: tests compare it with what is allocated.
int64_t voxelize_workspace(
    int64_t batch, int64_t points, at::IntArrayRef grid_size, std::string_view reduce, bool backward, bool cuda) {
  const auto count = [](int64_t number) { return static_cast<size_t>(std::max<int64_t>(number, 0)); };
  return static_cast<int64_t>(rust_call([&] {
    return core::voxelize_workspace(
        count(batch), count(points), slice(grid_size), str(reduce), backward, {cuda ? 0 : -1, 0});
  }));
}

} // namespace
} // namespace robocache

// One key each; autocast falls through, so features keep their dtype.

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "voxelize(Tensor points, Tensor? features, float[] origin, float[] voxel_size, int[] grid_size, *, "
      "str reduce=\"occupancy\", Tensor? lengths=None) -> Tensor");
  m.def(
      "_voxelize_workspace(int batch, int points, int[] grid_size, str reduce, bool backward, bool cuda) -> int",
      TORCH_FN(robocache::voxelize_workspace));
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("voxelize", TORCH_FN(robocache::voxelize));
}

TORCH_LIBRARY_IMPL(robocache, CUDA, m) {
  m.impl("voxelize", TORCH_FN(robocache::voxelize));
}

TORCH_LIBRARY_IMPL(robocache, Meta, m) {
  m.impl("voxelize", TORCH_FN(robocache::voxelize_meta));
}

TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  m.impl("voxelize", TORCH_FN(robocache::autograd::voxelize));
}

TORCH_LIBRARY_IMPL(robocache, AutocastCPU, m) {
  m.impl("voxelize", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(robocache, AutocastCUDA, m) {
  m.impl("voxelize", torch::CppFunction::makeFallthrough());
}
