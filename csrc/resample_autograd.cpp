// The derivatives of resample, as calls of operators that have derivatives themselves.
//
// With R = resample, S = resample_slope (dR/dt), T = resample_tangent (R along a direction of the values), R' and S'
// the adjoints of T and S (resample_backward), C = resample_curvature (R' along a direction of the values) and q(g, v)
// = sum over channels of g * S(v) (resample_time_grad), for times tt (targets) and ts (sources):
//
//   R(v):     dv = R'(g; v)                         dtt = q(g, v)    dts = -R'(q)
//   S(v):     dv = S'(g)                            dtt = 0          dts = -S'(q)
//   T(a; v):  da = R'(g; v)      dv = C(g, a; v)    dtt = q(g, a)    dts = -R'(q)
//   R'(g; v): dg = T(a; v)       dv = C(g, a; v)    dtt = q(g, a)    dts = -R'(q)    a: the incoming gradient
//   S'(g):    dg = S(a)                             dtt = 0          dts = -S'(q)
//   q(g, v):  dg = h S(v)        dv = S'(h g)                        dts = -S'(h q)  h: the incoming gradient
//
// C is 0 but for slerp and pchip, the modes that bend; its own derivatives do not exist here. Times move `linear`
// channels only. Nothing is added in an order that a device chooses: sums over the batch, for shared times, are an R'
// too. Integer times, lengths and the texts are not differentiable.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <initializer_list>
#include <string>

#include "operand.h"
#include "resample.h"

namespace robocache::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Lengths = std::optional<Tensor>;

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

Tensor call_resample(
    const Tensor& values, const Tensor& ts, const Tensor& tt, std::string_view mode, std::string_view outside,
    const Lengths& lengths) {
  static const auto op = find<decltype(resample)>("robocache::resample");
  return op.call(values, ts, tt, mode, outside, lengths);
}

Tensor call_slope(
    const Tensor& values, const Tensor& ts, const Tensor& tt, std::string_view mode, std::string_view outside,
    const Lengths& lengths) {
  static const auto op = find<decltype(resample_slope)>("robocache::resample_slope");
  return op.call(values, ts, tt, mode, outside, lengths);
}

Tensor call_tangent(
    const Tensor& tangent, const Tensor& values, const Tensor& ts, const Tensor& tt, std::string_view mode,
    std::string_view outside, const Lengths& lengths) {
  static const auto op = find<decltype(resample_tangent)>("robocache::resample_tangent");
  // Values that nothing depends on are not kept; any of their shape will do.
  return op.call(tangent, values.defined() ? values : tangent.detach(), ts, tt, mode, outside, lengths);
}

Tensor call_curvature(
    const Tensor& grad, const Tensor& tangent, const Tensor& values, const Tensor& ts, const Tensor& tt,
    std::string_view mode, std::string_view outside, const Lengths& lengths) {
  static const auto op = find<decltype(resample_curvature)>("robocache::resample_curvature");
  return op.call(grad, tangent, values, ts, tt, mode, outside, lengths);
}

// [B, L] to [L], row after row: the gradient of one sample that B targets copied.
Tensor sum_rows(const Tensor& rows) {
  const auto times = rows.options().dtype(at::kFloat);
  const Tensor sample = at::zeros({1}, times), targets = at::zeros_symint({rows.sym_size(0)}, times);
  const Tensor sum =
      call_backward(rows.unsqueeze(0), sample, targets, "previous", "hold", std::nullopt, false, Tensor());
  return sum.squeeze(0).squeeze(0);
}

// The context's keys, written once.
struct Saved {
  Tensor ts, tt;
  Lengths lengths;
  std::string mode, outside;

  static void keep(
      AutogradContext* ctx, const Tensor& ts, const Tensor& tt, const Lengths& lengths, const std::string& mode,
      const std::string& outside, std::initializer_list<Tensor> others) {
    variable_list saved;
    saved.reserve(3 + others.size());
    saved.push_back(ts);
    saved.push_back(tt);
    saved.push_back(lengths.value_or(Tensor()));
    saved.insert(saved.end(), others);
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["mode"] = mode;
    ctx->saved_data["outside"] = outside;
  }

  Saved(AutogradContext* ctx, const variable_list& saved)
      : ts(saved[0]),
        tt(saved[1]),
        lengths(saved[2].defined() ? Lengths(saved[2]) : std::nullopt),
        mode(ctx->saved_data["mode"].toStringRef()),
        outside(ctx->saved_data["outside"].toStringRef()) {}
};

// What the derivatives depend on: values where a time wants a gradient or a mode bends, else nothing to keep alive.
Tensor if_needed(const Tensor& values, const Tensor& ts, const Tensor& tt, const std::string& mode) {
  return ts.requires_grad() || tt.requires_grad() || core::bends(str(mode)) ? values : Tensor();
}

// The gradients by both times, into their places of `out`, from the one that every row of targets gets.
void time_grads(
    AutogradContext* ctx, const Tensor& g, const Tensor& v, const Saved& s, size_t ts_place, bool slope,
    variable_list& out) {
  if (!ctx->needs_input_grad(ts_place) && (slope || !ctx->needs_input_grad(ts_place + 1))) return;
  const Tensor q = call_time_grad(g, v, s.ts, s.tt, s.mode, s.outside, s.lengths);
  if (ctx->needs_input_grad(ts_place)) out[ts_place] = source_grad(q, s.ts, s.tt, s.outside, s.lengths, slope);
  if (!slope && ctx->needs_input_grad(ts_place + 1)) out[ts_place + 1] = target_grad(q, s.tt);
}

struct Resample : torch::autograd::Function<Resample> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& values, const Tensor& ts, const Tensor& tt, const std::string& mode,
      const std::string& outside, const Lengths& lengths) {
    Saved::keep(ctx, ts, tt, lengths, mode, outside, {if_needed(values, ts, tt, mode)});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_resample(values, ts, tt, mode, outside, lengths);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Saved s(ctx, saved);
    const Tensor &g = grads[0], &v = saved[3];
    variable_list out(6);
    if (!g.defined()) return out;
    if (ctx->needs_input_grad(0)) out[0] = call_backward(g, s.ts, s.tt, s.mode, s.outside, s.lengths, false, v);
    time_grads(ctx, g, v, s, 1, false, out);
    return out;
  }
};

struct Tangent : torch::autograd::Function<Tangent> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& tangent, const Tensor& values, const Tensor& ts, const Tensor& tt,
      const std::string& mode, const std::string& outside, const Lengths& lengths) {
    const bool bends = core::bends(str(mode));
    Saved::keep(
        ctx, ts, tt, lengths, mode, outside, {if_needed(tangent, ts, tt, mode), bends ? values : Tensor()});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_tangent(tangent, values, ts, tt, mode, outside, lengths);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Saved s(ctx, saved);
    const Tensor &g = grads[0], &a = saved[3], &v = saved[4];
    variable_list out(7);
    if (!g.defined()) return out;
    if (ctx->needs_input_grad(0)) out[0] = call_backward(g, s.ts, s.tt, s.mode, s.outside, s.lengths, false, v);
    if (ctx->needs_input_grad(1) && v.defined())
      out[1] = call_curvature(g, a, v, s.ts, s.tt, s.mode, s.outside, s.lengths);
    time_grads(ctx, g, a, s, 2, false, out);
    return out;
  }
};

struct Slope : torch::autograd::Function<Slope> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& values, const Tensor& ts, const Tensor& tt, const std::string& mode,
      const std::string& outside, const Lengths& lengths) {
    Saved::keep(ctx, ts, tt, lengths, mode, outside, {ts.requires_grad() ? values : Tensor()});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_slope(values, ts, tt, mode, outside, lengths);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Saved s(ctx, saved);
    const Tensor &g = grads[0], &v = saved[3];
    variable_list out(6);
    if (!g.defined()) return out;
    if (ctx->needs_input_grad(0)) out[0] = call_backward(g, s.ts, s.tt, s.mode, s.outside, s.lengths, true, Tensor());
    time_grads(ctx, g, v, s, 1, true, out);
    return out;
  }
};

struct Backward : torch::autograd::Function<Backward> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& grad, const Tensor& ts, const Tensor& tt, const std::string& mode,
      const std::string& outside, const Lengths& lengths, bool slope, const std::optional<Tensor>& values) {
    const Tensor v = values.value_or(Tensor());
    const bool bends = !slope && v.defined() && core::bends(str(mode));
    const bool keeps_grad = ts.requires_grad() || tt.requires_grad() || (bends && v.requires_grad());
    Saved::keep(ctx, ts, tt, lengths, mode, outside, {keeps_grad ? grad : Tensor(), bends ? v : Tensor()});
    ctx->saved_data["slope"] = slope;
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(grad, ts, tt, mode, outside, lengths, slope, v);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Saved s(ctx, saved);
    const bool slope = ctx->saved_data["slope"].toBool();
    const Tensor &a = grads[0], &g = saved[3], &v = saved[4];
    variable_list out(8);
    if (!a.defined()) return out;
    if (ctx->needs_input_grad(0))
      out[0] = slope ? call_slope(a, s.ts, s.tt, s.mode, s.outside, s.lengths)
                     : call_tangent(a, v, s.ts, s.tt, s.mode, s.outside, s.lengths);
    time_grads(ctx, g, a, s, 1, slope, out);
    const size_t values_edge = s.lengths.has_value() ? 4 : 3; // an absent tensor has no edge
    if (v.defined() && ctx->needs_input_grad(values_edge))
      out[7] = call_curvature(g, a, v, s.ts, s.tt, s.mode, s.outside, s.lengths);
    return out;
  }
};

struct Curvature : torch::autograd::Function<Curvature> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* /*ctx*/, const Tensor& grad, const Tensor& tangent, const Tensor& values, const Tensor& ts,
      const Tensor& tt, const std::string& mode, const std::string& outside, const Lengths& lengths) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_curvature(grad, tangent, values, ts, tt, mode, outside, lengths);
  }

  static variable_list backward(AutogradContext* /*ctx*/, variable_list /*grads*/) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false, "resample: mode slerp and pchip must be differentiated at most twice, got a third derivative");
  }
};

struct TimeGrad : torch::autograd::Function<TimeGrad> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& grad, const Tensor& values, const Tensor& ts, const Tensor& tt,
      const std::string& mode, const std::string& outside, const Lengths& lengths) {
    Saved::keep(ctx, ts, tt, lengths, mode, outside, {grad, values});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_time_grad(grad, values, ts, tt, mode, outside, lengths);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Saved s(ctx, saved);
    const Tensor &h = grads[0], &g = saved[3], &v = saved[4];
    variable_list out(7);
    if (!h.defined()) return out;
    const Tensor scale = h.unsqueeze(-1).to(v.scalar_type());
    if (ctx->needs_input_grad(0)) out[0] = scale * call_slope(v, s.ts, s.tt, s.mode, s.outside, s.lengths);
    if (ctx->needs_input_grad(1))
      out[1] = call_backward(scale * g, s.ts, s.tt, s.mode, s.outside, s.lengths, true, Tensor());
    if (ctx->needs_input_grad(2)) {
      const Tensor q = call_time_grad(g, v, s.ts, s.tt, s.mode, s.outside, s.lengths);
      out[2] = source_grad(h * q, s.ts, s.tt, s.outside, s.lengths, true);
    }
    return out;
  }
};

bool needs_grad(std::initializer_list<const Tensor*> tensors) {
  if (!at::GradMode::is_enabled()) return false;
  for (const Tensor* tensor : tensors)
    if (tensor->requires_grad()) return true;
  return false;
}

} // namespace

Tensor call_backward(
    const Tensor& grad, const Tensor& ts, const Tensor& tt, std::string_view mode, std::string_view outside,
    const Lengths& lengths, bool slope, const Tensor& values) {
  static const auto op = find<decltype(resample_backward)>("robocache::resample_backward");
  return op.call(grad, ts, tt, mode, outside, lengths, slope, values.defined() ? Lengths(values) : std::nullopt);
}

Tensor call_time_grad(
    const Tensor& grad, const Tensor& values, const Tensor& ts, const Tensor& tt, std::string_view mode,
    std::string_view outside, const Lengths& lengths) {
  static const auto op = find<decltype(resample_time_grad)>("robocache::resample_time_grad");
  return op.call(grad, values, ts, tt, mode, outside, lengths);
}

Tensor target_grad(const Tensor& rows, const Tensor& tt) {
  return tt.dim() == 1 ? sum_rows(rows) : rows;
}

// -R'(q), or -S'(q), of one channel.
Tensor source_grad(
    const Tensor& q, const Tensor& ts, const Tensor& tt, std::string_view outside, const Lengths& lengths, bool slope) {
  const bool shared = ts.dim() == 1 && tt.dim() == 1 && !lengths.has_value();
  // The sign turns before the sum and not after: a compiler may turn that of a zero or not, and a sum forgets it.
  const Tensor rows = (shared ? sum_rows(q).unsqueeze(0) : q).neg();
  const Tensor grads =
      call_backward(rows.unsqueeze(-1), ts, tt, "linear", outside, lengths, slope, Tensor()).squeeze(-1);
  if (ts.dim() == 2) return grads;
  return shared ? grads.squeeze(0) : sum_rows(grads);
}

Tensor resample(
    const Tensor& values, const Tensor& ts, const Tensor& tt, std::string_view mode, std::string_view outside,
    const Lengths& lengths) {
  if (!needs_grad({&values, &ts, &tt})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_resample(values, ts, tt, mode, outside, lengths);
  }
  // Derivatives are of [B, S, D]; other shapes are views of it that autograd follows by itself.
  if (values.dim() == 3 && (ts.dim() == 2 || tt.dim() == 2))
    return Resample::apply(values, ts, tt, std::string(mode), std::string(outside), lengths);
  const Layout layout = check_layout("resample", values, ts, tt, lengths);
  const Tensor rows = values.reshape_symint({layout.batch, layout.samples, layout.channels});
  const Tensor out = Resample::apply(rows, ts, tt, std::string(mode), std::string(outside), lengths);
  return out.reshape_symint(layout.result(values, tt));
}

Tensor resample_slope(
    const Tensor& values, const Tensor& ts, const Tensor& tt, std::string_view mode, std::string_view outside,
    const Lengths& lengths) {
  if (!needs_grad({&values, &ts, &tt})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_slope(values, ts, tt, mode, outside, lengths);
  }
  return Slope::apply(values, ts, tt, std::string(mode), std::string(outside), lengths);
}

Tensor resample_tangent(
    const Tensor& tangent, const Tensor& values, const Tensor& ts, const Tensor& tt, std::string_view mode,
    std::string_view outside, const Lengths& lengths) {
  if (!needs_grad({&tangent, &values, &ts, &tt})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_tangent(tangent, values, ts, tt, mode, outside, lengths);
  }
  return Tangent::apply(tangent, values, ts, tt, std::string(mode), std::string(outside), lengths);
}

Tensor resample_backward(
    const Tensor& grad, const Tensor& ts, const Tensor& tt, std::string_view mode, std::string_view outside,
    const Lengths& lengths, bool slope, const std::optional<Tensor>& values) {
  const Tensor v = values.value_or(Tensor());
  if (!needs_grad({&grad, &ts, &tt}) && !(v.defined() && needs_grad({&v}))) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(grad, ts, tt, mode, outside, lengths, slope, v);
  }
  return Backward::apply(grad, ts, tt, std::string(mode), std::string(outside), lengths, slope, values);
}

Tensor resample_curvature(
    const Tensor& grad, const Tensor& tangent, const Tensor& values, const Tensor& ts, const Tensor& tt,
    std::string_view mode, std::string_view outside, const Lengths& lengths) {
  if (!needs_grad({&grad, &tangent, &values})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_curvature(grad, tangent, values, ts, tt, mode, outside, lengths);
  }
  return Curvature::apply(grad, tangent, values, ts, tt, std::string(mode), std::string(outside), lengths);
}

Tensor resample_time_grad(
    const Tensor& grad, const Tensor& values, const Tensor& ts, const Tensor& tt, std::string_view mode,
    std::string_view outside, const Lengths& lengths) {
  if (!needs_grad({&grad, &values, &ts, &tt})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_time_grad(grad, values, ts, tt, mode, outside, lengths);
  }
  return TimeGrad::apply(grad, values, ts, tt, std::string(mode), std::string(outside), lengths);
}

} // namespace robocache::autograd
