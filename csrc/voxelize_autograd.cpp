// The derivatives of voxelize and voxelize_sparse by their features, as calls of operators that have derivatives.
//
// With V(f) = voxelize, W(a; f) = voxelize_tangent and V'(g; f) = voxelize_backward:
//
//   V(f):     df = V'(g; f)
//   V'(g; f): dg = V(a) for sum and mean, which are linear; W(a; f) for max and min     a: the incoming gradient
//   W(a; f):  da = V'(g; f)
//
// A mean may be a voxelize_counted, which has the same derivative.
//
// Only max and min depend on f, and which point they pick does not move: by f nothing else follows. The same holds for
// the rows of voxelize_sparse. A point's voxel is constant almost everywhere, so points get no gradient.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <initializer_list>
#include <string>
#include <tuple>
#include <vector>

#include "operand.h"
#include "voxelize.h"

namespace robocache::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

Optional given(const Tensor& tensor) {
  return tensor.defined() ? Optional(tensor) : std::nullopt;
}

// The grid and the clouds of a call, as a context keeps them.
struct Grid {
  Tensor points;
  std::vector<double> origin, voxel_size;
  std::vector<int64_t> size;
  std::string reduce;
  Optional lengths;
  Optional counts, point_voxel; // of a mean, where it has them

  // Saved with the tensors of `others` after its own four.
  void keep(AutogradContext* ctx, std::initializer_list<Tensor> others) const {
    variable_list saved;
    saved.reserve(4 + others.size());
    saved.push_back(points);
    saved.push_back(lengths.value_or(Tensor()));
    saved.push_back(counts.value_or(Tensor()));
    saved.push_back(point_voxel.value_or(Tensor()));
    saved.insert(saved.end(), others);
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["origin"] = origin;
    ctx->saved_data["voxel_size"] = voxel_size;
    ctx->saved_data["grid_size"] = size;
    ctx->saved_data["reduce"] = reduce;
  }

  static Grid of(AutogradContext* ctx, const variable_list& saved) {
    return {saved[0],
            ctx->saved_data["origin"].toDoubleVector(),
            ctx->saved_data["voxel_size"].toDoubleVector(),
            ctx->saved_data["grid_size"].toIntVector(),
            ctx->saved_data["reduce"].toStringRef(),
            given(saved[1]),
            given(saved[2]),
            given(saved[3])};
  }

  bool picks() const {
    return core::picks(str(reduce));
  }
};

Tensor call_voxelize(
    const Tensor& points, const Optional& features, Numbers origin, Numbers voxel_size, at::IntArrayRef grid_size,
    std::string_view reduce, const Optional& lengths) {
  static const auto op = find<decltype(voxelize)>("robocache::voxelize");
  return op.call(points, features, origin, voxel_size, grid_size, reduce, lengths);
}

Tensor call_voxelize(const Optional& features, const Grid& grid) {
  return call_voxelize(grid.points, features, grid.origin, grid.voxel_size, grid.size, grid.reduce, grid.lengths);
}

std::tuple<Tensor, Tensor, Tensor> call_counted(
    const Tensor& points, const Tensor& features, Numbers origin, Numbers voxel_size, at::IntArrayRef grid_size,
    const Optional& lengths) {
  static const auto op = find<decltype(voxelize_counted)>("robocache::voxelize_counted");
  return op.call(points, features, origin, voxel_size, grid_size, lengths);
}

Tensor call_tangent(const Tensor& tangent, const Tensor& features, const Grid& grid) {
  static const auto op = find<decltype(voxelize_tangent)>("robocache::voxelize_tangent");
  return op.call(tangent, grid.points, features, grid.origin, grid.voxel_size, grid.size, grid.reduce, grid.lengths);
}

Tensor call_backward(const Tensor& grad, const Optional& features, const Grid& grid) {
  static const auto op = find<decltype(voxelize_backward)>("robocache::voxelize_backward");
  return op.call(
      grad, grid.points, features, grid.origin, grid.voxel_size, grid.size, grid.reduce, grid.lengths, grid.counts,
      grid.point_voxel);
}

// Of [B, N, C].
struct Voxelize : torch::autograd::Function<Voxelize> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& features, const Tensor& points, const std::vector<double>& origin,
      const std::vector<double>& voxel_size, const std::vector<int64_t>& grid_size, const std::string& reduce,
      const Optional& lengths) {
    const Grid grid{points, origin, voxel_size, grid_size, reduce, lengths, std::nullopt, std::nullopt};
    grid.keep(ctx, {grid.picks() ? features : Tensor()});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_voxelize(features, grid);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    variable_list out(7);
    if (grads[0].defined() && ctx->needs_input_grad(0))
      out[0] = call_backward(grads[0], given(saved[4]), Grid::of(ctx, saved));
    return out;
  }
};

// Of [B, N, C], to "mean"; what is found beside it goes along, and to the gradient.
struct Counted : torch::autograd::Function<Counted> {
  static constexpr bool is_traceable = true;

  static variable_list forward(
      AutogradContext* ctx, const Tensor& features, const Tensor& points, const std::vector<double>& origin,
      const std::vector<double>& voxel_size, const std::vector<int64_t>& grid_size, const Optional& lengths) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto [means, counts, point_voxel] = call_counted(points, features, origin, voxel_size, grid_size, lengths);
    Grid{points, origin, voxel_size, grid_size, "mean", lengths, counts, point_voxel}.keep(ctx, {});
    ctx->mark_non_differentiable({counts, point_voxel});
    ctx->set_materialize_grads(false); // not zeros for these two, as large as they are
    return {means, counts, point_voxel};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(6);
    if (grads[0].defined() && ctx->needs_input_grad(0))
      out[0] = call_backward(grads[0], std::nullopt, Grid::of(ctx, ctx->get_saved_variables()));
    return out;
  }
};

struct Tangent : torch::autograd::Function<Tangent> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& tangent, const Tensor& features, const Tensor& points,
      const std::vector<double>& origin, const std::vector<double>& voxel_size, const std::vector<int64_t>& grid_size,
      const std::string& reduce, const Optional& lengths) {
    const Grid grid{points, origin, voxel_size, grid_size, reduce, lengths, std::nullopt, std::nullopt};
    grid.keep(ctx, {grid.picks() ? features : Tensor()});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_tangent(tangent, features, grid);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    variable_list out(8);
    if (grads[0].defined() && ctx->needs_input_grad(0))
      out[0] = call_backward(grads[0], given(saved[4]), Grid::of(ctx, saved));
    return out;
  }
};

struct Backward : torch::autograd::Function<Backward> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& grad, const Optional& features, const Tensor& points,
      const std::vector<double>& origin, const std::vector<double>& voxel_size, const std::vector<int64_t>& grid_size,
      const std::string& reduce, const Optional& lengths, const Optional& counts, const Optional& point_voxel) {
    const Grid grid{points, origin, voxel_size, grid_size, reduce, lengths, counts, point_voxel};
    grid.keep(ctx, {grid.picks() ? features.value_or(Tensor()) : Tensor()});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(grad, features, grid);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Grid grid = Grid::of(ctx, saved);
    variable_list out(10);
    if (grads[0].defined() && ctx->needs_input_grad(0))
      out[0] = grid.picks() ? call_tangent(grads[0], saved[4], grid) : call_voxelize(grads[0], grid);
    return out;
  }
};

// The rows of a sparse grid.
struct Rows {
  Tensor coords, counts, order, starts, point_voxel;
  std::string reduce;

  void keep(AutogradContext* ctx, const Tensor& features) const {
    ctx->save_for_backward({coords, counts, order, starts, point_voxel, picks() ? features : Tensor()});
    ctx->saved_data["reduce"] = reduce;
  }

  static Rows of(AutogradContext* ctx, const variable_list& saved) {
    return {saved[0], saved[1], saved[2], saved[3], saved[4], ctx->saved_data["reduce"].toStringRef()};
  }

  bool picks() const {
    return core::picks(str(reduce));
  }
};

Tensor call_values(const Tensor& features, const Optional& tangent, const Rows& rows) {
  static const auto op = find<decltype(voxelize_sparse_values)>("robocache::voxelize_sparse_values");
  return op.call(
      features, rows.coords, rows.counts, rows.order, rows.starts, rows.point_voxel, rows.reduce, tangent);
}

Tensor call_sparse_backward(const Tensor& grad, const Optional& features, const Rows& rows) {
  static const auto op = find<decltype(voxelize_sparse_backward)>("robocache::voxelize_sparse_backward");
  return op.call(
      grad, features, rows.coords, rows.counts, rows.order, rows.starts, rows.point_voxel, rows.reduce);
}

// `moving` is what the values are linear in: the features, or with `features` their tangent.
struct Values : torch::autograd::Function<Values> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& moving, const Optional& features, const Tensor& coords, const Tensor& counts,
      const Tensor& order, const Tensor& starts, const Tensor& point_voxel, const std::string& reduce) {
    const Rows rows{coords, counts, order, starts, point_voxel, reduce};
    rows.keep(ctx, features.value_or(moving));
    const at::AutoDispatchBelowADInplaceOrView guard;
    return features.has_value() ? call_values(*features, moving, rows) : call_values(moving, std::nullopt, rows);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    variable_list out(8);
    if (grads[0].defined() && ctx->needs_input_grad(0))
      out[0] = call_sparse_backward(grads[0], given(saved[5]), Rows::of(ctx, saved));
    return out;
  }
};

struct SparseBackward : torch::autograd::Function<SparseBackward> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& grad, const Optional& features, const Tensor& coords, const Tensor& counts,
      const Tensor& order, const Tensor& starts, const Tensor& point_voxel, const std::string& reduce) {
    const Rows rows{coords, counts, order, starts, point_voxel, reduce};
    rows.keep(ctx, features.value_or(Tensor()));
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_sparse_backward(grad, features, rows);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Rows rows = Rows::of(ctx, saved);
    variable_list out(8);
    if (grads[0].defined() && ctx->needs_input_grad(0))
      out[0] = rows.picks() ? call_values(saved[5], grads[0], rows) : call_values(grads[0], std::nullopt, rows);
    return out;
  }
};

bool records(const Tensor& tensor) {
  return at::GradMode::is_enabled() && tensor.requires_grad();
}

// Whether the plan wants a recorded mean to keep its counts; where sizes are not known yet it does not.
bool keeps_counts(const Tensor& features, const Tensor& points, at::IntArrayRef grid_size) {
  if (points.dim() != 3 || features.dim() != 3 || grid_size.size() != 3) return false; // the operator says what is wrong
  const auto known = [](const c10::SymInt& size) { return size.maybe_as_int().value_or(-1); };
  return core::keeps_counts(
      known(points.sym_size(0)), known(points.sym_size(1)), known(features.sym_size(2)), slice(grid_size),
      features.element_size(), points.is_cuda());
}

} // namespace

Tensor voxelize(
    const Tensor& points, const Optional& features, Numbers origin, Numbers voxel_size, at::IntArrayRef grid_size,
    std::string_view reduce, const Optional& lengths) {
  const bool recorded = features.has_value() && records(*features) && core::reads_features(str(reduce));
  if (!recorded) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_voxelize(points, features, origin, voxel_size, grid_size, reduce, lengths);
  }
  const auto apply = [&](const Tensor& rows, const Tensor& clouds) {
    if (reduce == "mean" && keeps_counts(rows, clouds, grid_size))
      return Counted::apply(rows, clouds, origin.vec(), voxel_size.vec(), grid_size.vec(), lengths)[0];
    return Voxelize::apply(
        rows, clouds, origin.vec(), voxel_size.vec(), grid_size.vec(), std::string(reduce), lengths);
  };
  // Derivatives are of [B, N, C]; without a batch it is a view that autograd follows by itself.
  if (points.dim() == 3) return apply(*features, points);
  check_voxelize("voxelize", {true, false}, points, features, origin, voxel_size, grid_size, reduce, -1, lengths);
  return apply(features->unsqueeze(0), points.unsqueeze(0)).squeeze(0);
}

std::tuple<Tensor, Tensor, Tensor> voxelize_counted(
    const Tensor& points, const Tensor& features, Numbers origin, Numbers voxel_size, at::IntArrayRef grid_size,
    const Optional& lengths) {
  if (!records(features)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_counted(points, features, origin, voxel_size, grid_size, lengths);
  }
  const auto found = Counted::apply(features, points, origin.vec(), voxel_size.vec(), grid_size.vec(), lengths);
  return {found[0], found[1], found[2]};
}

Tensor voxelize_tangent(
    const Tensor& tangent, const Tensor& points, const Tensor& features, Numbers origin, Numbers voxel_size,
    at::IntArrayRef grid_size, std::string_view reduce, const Optional& lengths) {
  if (!records(tangent)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_tangent(
        tangent, features,
        {points, origin.vec(), voxel_size.vec(), grid_size.vec(), std::string(reduce), lengths, std::nullopt,
         std::nullopt});
  }
  return Tangent::apply(
      tangent, features.detach(), points, origin.vec(), voxel_size.vec(), grid_size.vec(), std::string(reduce),
      lengths);
}

Tensor voxelize_backward(
    const Tensor& grad, const Tensor& points, const Optional& features, Numbers origin, Numbers voxel_size,
    at::IntArrayRef grid_size, std::string_view reduce, const Optional& lengths, const Optional& counts,
    const Optional& point_voxel) {
  if (!records(grad)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(
        grad, features,
        {points, origin.vec(), voxel_size.vec(), grid_size.vec(), std::string(reduce), lengths, counts,
         point_voxel});
  }
  const Optional fixed = features.has_value() ? Optional(features->detach()) : std::nullopt;
  return Backward::apply(
      grad, fixed, points, origin.vec(), voxel_size.vec(), grid_size.vec(), std::string(reduce), lengths, counts,
      point_voxel);
}

Tensor voxelize_sparse_values(
    const Tensor& features, const Tensor& coords, const Tensor& counts, const Tensor& order, const Tensor& starts,
    const Tensor& point_voxel, std::string_view reduce, const Optional& tangent) {
  const Tensor& moving = tangent.has_value() ? *tangent : features;
  if (!records(moving)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_values(features, tangent, {coords, counts, order, starts, point_voxel, std::string(reduce)});
  }
  const Optional fixed = tangent.has_value() ? Optional(features.detach()) : std::nullopt;
  return Values::apply(moving, fixed, coords, counts, order, starts, point_voxel, std::string(reduce));
}

Tensor voxelize_sparse_backward(
    const Tensor& grad, const Optional& features, const Tensor& coords, const Tensor& counts, const Tensor& order,
    const Tensor& starts, const Tensor& point_voxel, std::string_view reduce) {
  if (!records(grad)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_sparse_backward(grad, features, {coords, counts, order, starts, point_voxel, std::string(reduce)});
  }
  const Optional fixed = features.has_value() ? Optional(features->detach()) : std::nullopt;
  return SparseBackward::apply(grad, fixed, coords, counts, order, starts, point_voxel, std::string(reduce));
}

} // namespace robocache::autograd
