// robocache::fuse: checks, allocation, the call to Rust, and derivatives as calls of resample's operators.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "operand.h"
#include "resample.h"
#include "timeline.h"

namespace robocache {
namespace {

using at::TensorList;
using Lengths = std::optional<Tensor>;

constexpr const char* OP = "fuse";

// What the checks of a call found out.
struct Fused {
  bool batched; // values [B, S, D], else [S, D]
  c10::SymInt batch;
  c10::SymDimVector result;
};

void check_stream(
    int64_t stream,
    bool batched,
    const c10::SymInt& batch,
    TensorList values,
    TensorList source_times,
    const Tensor& target_times) {
  const Caller caller{OP, stream};
  const Tensor &value = values[stream], &times = source_times[stream];
  const Argument name = caller.argument("values"), times_name = caller.argument("source_times");
  check_same_dtype(OP, name, value, "values[0]", values[0]);
  check_device(OP, name, value, "values[0]", values[0]);
  check_time_dtypes(caller, times, stream == 0 ? target_times : times);
  check_same_dtype(OP, times_name, times, "source_times[0]", source_times[0]);
  check_device(OP, times_name, times, "values[0]", values[0]);
  const bool fits = value.dim() == (batched ? 3 : 2) && (!batched || same(value.sym_size(0), batch));
  // The text of a size fixes a symbolic one, so it is made only for an error.
  TORCH_CHECK_VALUE(
      fits, OP, ": ", name, " must have shape ",
      !batched                   ? "[S, D]"
          : values[0].dim() == 3 ? '[' + size_text(batch) + ", S, D]"
                                 : "[B, S, D]",
      ", got ", shape_text(value.sym_sizes()));
  const c10::SymInt samples = value.sym_size(-2);
  TORCH_CHECK_VALUE(
      positive(samples), OP, ": ", name, " must have at least one sample, got shape ", shape_text(value.sym_sizes()));
  check_time_axes(caller, times);
  check_times(caller, batch, samples, times, target_times);
}

// Checks all but the texts, which Rust reads before it runs.
Fused check_fuse(
    TensorList values, TensorList source_times, const Tensor& target_times, const Lengths& source_lengths) {
  TORCH_CHECK_VALUE(!values.empty(), OP, ": values must have at least one stream, got none");
  TORCH_CHECK_VALUE(
      values.size() == source_times.size(), OP, ": source_times must have one tensor for each stream of values (",
      values.size(), "), got ", source_times.size());
  const auto type = values[0].scalar_type();
  TORCH_CHECK_TYPE(
      kind(type) != Kind::None, OP,
      ": values[0] must be float64, float32, float16, bfloat16, an integer type or bool, got ", dtype_name(type));
  check_device(OP, "target_times", target_times, "values[0]", values[0]);
  if (source_lengths.has_value()) check_device(OP, "source_lengths", *source_lengths, "values[0]", values[0]);

  Fused fused;
  fused.batched = values[0].dim() != 2 || target_times.dim() != 1;
  for (const Tensor& times : source_times) fused.batched |= times.dim() != 1;
  fused.batch = fused.batched && values[0].dim() > 0 ? values[0].sym_size(0) : c10::SymInt(1);
  const auto streams = static_cast<int64_t>(values.size());
  c10::SymInt total = 0;
  for (int64_t stream = 0; stream < streams; ++stream) {
    check_stream(stream, fused.batched, fused.batch, values, source_times, target_times);
    total += values[stream].sym_size(-1);
  }
  check_lengths(OP, source_lengths, {fused.batch, streams});
  if (fused.batched) fused.result.push_back(fused.batch);
  fused.result.push_back(target_times.sym_size(-1));
  fused.result.push_back(total);
  return fused;
}

// Checks the texts; gives each stream's own modes.
std::vector<std::string> check_texts(TensorList values, std::string_view mode, std::string_view outside) {
  const Kind type = kind(values[0].scalar_type());
  // Symbolic numbers of channels stay so where the mode does not ask for them.
  if (core::named_channels(str(mode)) == -2) {
    rust_call([&] { core::check_modes(OP, str(mode), str(outside), type, -1); });
    return std::vector<std::string>(values.size(), std::string(mode));
  }
  std::vector<std::size_t> widths;
  for (const Tensor& value : values)
    widths.push_back(static_cast<std::size_t>(value.sym_size(-1).guard_int(__FILE__, __LINE__)));
  const rust::Slice<const std::size_t> slice(widths.data(), widths.size());
  const auto modes = rust_call([&] { return core::stream_modes(OP, str(mode), str(outside), type, slice); });
  return {modes.begin(), modes.end()};
}

using Operands = c10::SmallVector<Operand, 4>;

Operands operands(TensorList tensors) {
  Operands all;
  for (const Tensor& tensor : tensors) all.push_back(operand(tensor));
  return all;
}

rust::Slice<const Operand> slice(const Operands& all) {
  return {all.data(), all.size()};
}

Tensor fuse(
    TensorList values, // each [B, S, D] or [S, D]
    TensorList source_times, // each [B, S] or [S]
    const Tensor& target_times, // [B, T] or [T]
    std::string_view mode,
    std::string_view outside,
    const Lengths& source_lengths) { // [B, K]
  const Fused fused = check_fuse(values, source_times, target_times, source_lengths);
  const c10::OptionalDeviceGuard guard(target_times.device());
  const bool reads = checks_data(target_times);
  for (size_t stream = 0; reads && stream < values.size(); ++stream) {
    const auto at = static_cast<int64_t>(stream);
    const auto lengths = source_lengths.has_value() ? Lengths(source_lengths->select(1, at)) : std::nullopt;
    check_data({OP, at}, fused.batch, source_times[stream], lengths);
  }
  Tensor output = at::empty(C10_AS_INTARRAYREF_SLOW(fused.result), values[0].options());
  const auto streams = operands(values), times = operands(source_times);
  rust_call([&] {
    core::fuse(
        slice(streams), slice(times), operand(target_times), str(mode), str(outside), operand(source_lengths),
        flat(output), place(target_times.device()));
  });
  return output;
}

Tensor fuse_meta(
    TensorList values,
    TensorList source_times,
    const Tensor& target_times,
    std::string_view mode,
    std::string_view outside,
    const Lengths& source_lengths) {
  const Fused fused = check_fuse(values, source_times, target_times, source_lengths);
  check_texts(values, mode, outside);
  return at::empty_symint(fused.result, values[0].options());
}

} // namespace

namespace autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor call_fuse(
    TensorList values, TensorList source_times, const Tensor& target_times, std::string_view mode,
    std::string_view outside, const Lengths& lengths) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("robocache::fuse", "").typed<decltype(robocache::fuse)>();
  return op.call(values, source_times, target_times, mode, outside, lengths);
}

// Of values [B, S, D]. Each stream's derivatives are those of its resample; a target's time gets the sum over streams,
// in their order.
struct Fuse : torch::autograd::Function<Fuse> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* ctx, TensorList values, TensorList source_times, const Tensor& target_times,
      const std::string& mode, const std::string& outside, const Lengths& lengths,
      const std::vector<std::string>& modes, const std::vector<c10::SymInt>& widths) {
    variable_list saved;
    saved.reserve(2 + 2 * values.size());
    saved.push_back(target_times);
    saved.push_back(lengths.value_or(Tensor()));
    for (size_t stream = 0; stream < values.size(); ++stream) {
      const bool needed =
          target_times.requires_grad() || source_times[stream].requires_grad() || core::bends(str(modes[stream]));
      saved.push_back(source_times[stream]);
      saved.push_back(needed ? values[stream] : Tensor());
    }
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["outside"] = outside;
    ctx->saved_data["modes"] = modes;
    ctx->saved_data["widths"] = c10::SymIntArrayRef(widths);
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_fuse(values, source_times, target_times, mode, outside, lengths);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &tt = saved[0], &all_lengths = saved[1];
    const std::string outside = ctx->saved_data["outside"].toStringRef();
    const auto modes = ctx->saved_data["modes"].toListRef();
    const auto widths = ctx->saved_data["widths"].toSymIntVector();
    const size_t streams = widths.size(), target = 2 * streams;
    variable_list out(target + 6);
    if (!grads[0].defined()) return out;
    c10::SymInt start = 0;
    for (size_t k = 0; k < streams; ++k) {
      const Tensor g = grads[0].narrow_symint(2, start, widths[k]);
      start += widths[k];
      const Tensor &ts = saved[2 + 2 * k], &v = saved[3 + 2 * k];
      const std::string& mode = modes[k].toStringRef();
      const auto at = static_cast<int64_t>(k);
      const Lengths lengths = all_lengths.defined() ? Lengths(all_lengths.select(1, at)) : std::nullopt;
      if (ctx->needs_input_grad(k)) out[k] = call_backward(g, ts, tt, mode, outside, lengths, false, v);
      if (!ctx->needs_input_grad(streams + k) && !ctx->needs_input_grad(target)) continue;
      const Tensor q = call_time_grad(g, v, ts, tt, mode, outside, lengths);
      if (ctx->needs_input_grad(streams + k)) out[streams + k] = source_grad(q, ts, tt, outside, lengths, false);
      if (!ctx->needs_input_grad(target)) continue;
      const Tensor part = target_grad(q, tt);
      out[target] = out[target].defined() ? out[target] + part : part;
    }
    return out;
  }
};

bool needs_grad(TensorList tensors) {
  for (const Tensor& tensor : tensors)
    if (tensor.requires_grad()) return true;
  return false;
}

Tensor fuse(
    TensorList values, TensorList source_times, const Tensor& target_times, std::string_view mode,
    std::string_view outside, const Lengths& lengths) {
  const bool wanted = needs_grad(values) || needs_grad(source_times) || target_times.requires_grad();
  if (!wanted || !at::GradMode::is_enabled()) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_fuse(values, source_times, target_times, mode, outside, lengths);
  }
  const Fused fused = check_fuse(values, source_times, target_times, lengths);
  const std::vector<std::string> modes = check_texts(values, mode, outside);
  std::vector<c10::SymInt> widths;
  for (const Tensor& value : values) widths.push_back(value.sym_size(-1));
  const auto apply = [&](TensorList rows) {
    return Fuse::apply(
        rows, source_times, target_times, std::string(mode), std::string(outside), lengths, modes, widths);
  };
  if (fused.batched) return apply(values);
  std::vector<Tensor> rows;
  for (const Tensor& value : values) rows.push_back(value.unsqueeze(0));
  return apply(rows).squeeze(0);
}

} // namespace
} // namespace autograd
} // namespace robocache

// One key each; autocast falls through, so values keep their dtype.

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def(
      "fuse(Tensor[] values, Tensor[] source_times, Tensor target_times, *, str mode=\"linear\", "
      "str outside=\"hold\", Tensor? source_lengths=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(robocache, CPU, m) {
  m.impl("fuse", TORCH_FN(robocache::fuse));
}

TORCH_LIBRARY_IMPL(robocache, CUDA, m) {
  m.impl("fuse", TORCH_FN(robocache::fuse));
}

TORCH_LIBRARY_IMPL(robocache, Meta, m) {
  m.impl("fuse", TORCH_FN(robocache::fuse_meta));
}

TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  m.impl("fuse", TORCH_FN(robocache::autograd::fuse));
}

TORCH_LIBRARY_IMPL(robocache, AutocastCPU, m) {
  m.impl("fuse", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(robocache, AutocastCUDA, m) {
  m.impl("fuse", torch::CppFunction::makeFallthrough());
}
