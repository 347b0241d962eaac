// The derivatives of resample, of any order, as calls of its four operators.
//
// With R = resample, S = resample_slope (dR/dt), R' and S' their adjoints (resample_backward) and
// q(g, v) = sum over channels of g * S(v) (resample_time_grad), for times tt (targets) and ts (sources):
//
//   R(v):    dv = R'(g)          dtt = q(g, v)    dts = -R'(q)
//   S(v):    dv = S'(g)          dtt = 0          dts = -S'(q)
//   R'(g):   dg = R(a)           dtt = q(g, a)    dts = -R'(q)     a: the incoming gradient
//   S'(g):   dg = S(a)           dtt = 0          dts = -S'(q)
//   q(g, v): dg = h S(v)         dv = S'(h g)     dts = -S'(h q)   h: the incoming gradient
//
// Nothing is added in an order that a device chooses: sums over the batch, for shared times, are an R' too.
// Integer times, lengths and the texts are not differentiable.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>

#include "resample.h"

namespace robocache::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Lengths = std::optional<Tensor>;

// The operators through the dispatcher, so that autograd, Meta, tracing and export see each call.
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

Tensor call_backward(
    const Tensor& grad, const Tensor& ts, const Tensor& tt, std::string_view mode, std::string_view outside,
    const Lengths& lengths, bool slope) {
  static const auto op = find<decltype(resample_backward)>("robocache::resample_backward");
  return op.call(grad, ts, tt, mode, outside, lengths, slope);
}

Tensor call_time_grad(
    const Tensor& grad, const Tensor& values, const Tensor& ts, const Tensor& tt, std::string_view mode,
    std::string_view outside, const Lengths& lengths) {
  static const auto op = find<decltype(resample_time_grad)>("robocache::resample_time_grad");
  return op.call(grad, values, ts, tt, mode, outside, lengths);
}

// [B, L] to [L], row after row: the gradient of one sample that B targets copied.
Tensor sum_rows(const Tensor& rows) {
  const auto times = rows.options().dtype(at::kFloat);
  const Tensor sample = at::zeros({1}, times), targets = at::zeros_symint({rows.sym_size(0)}, times);
  const Tensor sum = call_backward(rows.unsqueeze(0), sample, targets, "previous", "hold", std::nullopt, false);
  return sum.squeeze(0).squeeze(0);
}

// Gradient by the target times from that of every row, [B, T].
Tensor target_grad(const Tensor& q, const Tensor& tt) {
  return tt.dim() == 1 ? sum_rows(q) : q;
}

// Gradient by the source times: -R'(q), or -S'(q), of one channel.
Tensor source_grad(
    const Tensor& q, const Tensor& ts, const Tensor& tt, std::string_view outside, const Lengths& lengths, bool slope) {
  const bool shared = ts.dim() == 1 && tt.dim() == 1 && !lengths.has_value();
  const Tensor rows = shared ? sum_rows(q).unsqueeze(0) : q;
  const Tensor grads = call_backward(rows.unsqueeze(-1), ts, tt, "linear", outside, lengths, slope).squeeze(-1);
  if (ts.dim() == 2) return grads.neg();
  return (shared ? grads.squeeze(0) : sum_rows(grads)).neg();
}

// The context's keys, written once.
struct Saved {
  Tensor ts, tt;
  Lengths lengths;
  std::string mode, outside;

  static void keep(
      AutogradContext* ctx, const Tensor& ts, const Tensor& tt, const Lengths& lengths, const std::string& mode,
      const std::string& outside, variable_list others) {
    others.insert(others.begin(), {ts, tt, lengths.value_or(Tensor())});
    ctx->save_for_backward(std::move(others));
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

// Times whose gradient nobody wants need no values to be kept alive.
Tensor if_times_need(const Tensor& values, const Tensor& ts, const Tensor& tt) {
  return ts.requires_grad() || tt.requires_grad() ? values : Tensor();
}

struct Resample : torch::autograd::Function<Resample> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& values, const Tensor& ts, const Tensor& tt, const std::string& mode,
      const std::string& outside, const Lengths& lengths) {
    Saved::keep(ctx, ts, tt, lengths, mode, outside, {if_times_need(values, ts, tt)});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_resample(values, ts, tt, mode, outside, lengths);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Saved s(ctx, saved);
    const Tensor &g = grads[0], &v = saved[3];
    variable_list out(6);
    if (!g.defined()) return out;
    if (ctx->needs_input_grad(0)) out[0] = call_backward(g, s.ts, s.tt, s.mode, s.outside, s.lengths, false);
    if (!v.defined()) return out;
    const Tensor q = call_time_grad(g, v, s.ts, s.tt, s.mode, s.outside, s.lengths);
    if (ctx->needs_input_grad(1)) out[1] = source_grad(q, s.ts, s.tt, s.outside, s.lengths, false);
    if (ctx->needs_input_grad(2)) out[2] = target_grad(q, s.tt);
    return out;
  }
};

struct Slope : torch::autograd::Function<Slope> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& values, const Tensor& ts, const Tensor& tt, const std::string& mode,
      const std::string& outside, const Lengths& lengths) {
    Saved::keep(ctx, ts, tt, lengths, mode, outside, {if_times_need(values, ts, tt)});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_slope(values, ts, tt, mode, outside, lengths);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Saved s(ctx, saved);
    const Tensor &g = grads[0], &v = saved[3];
    variable_list out(6);
    if (!g.defined()) return out;
    if (ctx->needs_input_grad(0)) out[0] = call_backward(g, s.ts, s.tt, s.mode, s.outside, s.lengths, true);
    if (v.defined() && ctx->needs_input_grad(1)) {
      const Tensor q = call_time_grad(g, v, s.ts, s.tt, s.mode, s.outside, s.lengths);
      out[1] = source_grad(q, s.ts, s.tt, s.outside, s.lengths, true);
    }
    return out;
  }
};

struct Backward : torch::autograd::Function<Backward> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, const Tensor& grad, const Tensor& ts, const Tensor& tt, const std::string& mode,
      const std::string& outside, const Lengths& lengths, bool slope) {
    Saved::keep(ctx, ts, tt, lengths, mode, outside, {if_times_need(grad, ts, tt)});
    ctx->saved_data["slope"] = slope;
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(grad, ts, tt, mode, outside, lengths, slope);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Saved s(ctx, saved);
    const bool slope = ctx->saved_data["slope"].toBool();
    const Tensor &a = grads[0], &g = saved[3];
    variable_list out(7);
    if (!a.defined()) return out;
    if (ctx->needs_input_grad(0))
      out[0] = slope ? call_slope(a, s.ts, s.tt, s.mode, s.outside, s.lengths) : gathered(a, s);
    if (!g.defined()) return out;
    const Tensor q = call_time_grad(g, a, s.ts, s.tt, s.mode, s.outside, s.lengths);
    if (ctx->needs_input_grad(1)) out[1] = source_grad(q, s.ts, s.tt, s.outside, s.lengths, slope);
    if (ctx->needs_input_grad(2) && !slope) out[2] = target_grad(q, s.tt);
    return out;
  }

  // R(a), where a target that had no samples had no part: zero and not NaN.
  static Tensor gathered(const Tensor& a, const Saved& s) {
    const Tensor out = call_resample(a, s.ts, s.tt, s.mode, s.outside == "nan" ? "zero" : s.outside, s.lengths);
    return s.tt.is_floating_point() ? out.masked_fill(s.tt.isnan().unsqueeze(-1), 0) : out;
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
      out[1] = call_backward(scale * g, s.ts, s.tt, s.mode, s.outside, s.lengths, true);
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

Tensor resample(
    const Tensor& values, const Tensor& ts, const Tensor& tt, std::string_view mode, std::string_view outside,
    const Lengths& lengths) {
  if (!needs_grad({&values, &ts, &tt})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_resample(values, ts, tt, mode, outside, lengths);
  }
  // Derivatives are of [B, S, D]; other shapes are views of it that autograd follows by itself.
  const Layout layout = check_resample("resample", values, ts, tt, mode, outside, lengths);
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

Tensor resample_backward(
    const Tensor& grad, const Tensor& ts, const Tensor& tt, std::string_view mode, std::string_view outside,
    const Lengths& lengths, bool slope) {
  if (!needs_grad({&grad, &ts, &tt})) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(grad, ts, tt, mode, outside, lengths, slope);
  }
  return Backward::apply(grad, ts, tt, std::string(mode), std::string(outside), lengths, slope);
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
