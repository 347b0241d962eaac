// Calls robocache::resample, fuse and resample_mask on every case of a file that test_cpp.py writes and compares
// results, gradients and errors.
//
//     check_cases CASES.pt
//
// A case is a dict: `operator`, the arguments by name (max_gap and source_lengths may be None; values and source_times
// of fuse are lists), and either `result` with, where it has derivatives, `grad` (of the result) and the gradients
// `grad_values`, `grad_source_times`, `grad_target_times` (None where there is none), or `error` with its `kind`.

#include "cases.h"

#include <robocache/robocache.h>
#include <torch/csrc/autograd/autograd.h>

namespace {

// The tensors of a call; all but fuse have one source_times and at most one of values.
struct Tensors {
  Tensors(const Case& test, at::Device device)
      : values(test.tensors("values", device)),
        source_times(test.tensors("source_times", device)),
        target_times(test.tensors("target_times", device)),
        lengths(test.optional_tensor("source_lengths", device)) {}

  std::vector<at::Tensor> values, source_times, target_times;
  std::optional<at::Tensor> lengths;
};

at::Tensor call(const Case& test, const Tensors& given) {
  const std::string op = test.text("operator");
  const at::Tensor& target_times = given.target_times.at(0);
  if (op == "resample_mask") {
    return robocache::resample_mask(
        given.source_times.at(0), target_times, test.optional_number("max_gap"), given.lengths);
  }
  const std::string mode = test.text("mode"), outside = test.text("outside");
  if (op == "fuse") {
    return robocache::fuse(given.values, given.source_times, target_times, mode, outside, given.lengths);
  }
  return robocache::resample(given.values.at(0), given.source_times.at(0), target_times, mode, outside, given.lengths);
}

void check_result(const Case& test, at::Device device) {
  Tensors given(test, device);
  for (auto* tensors : {&given.values, &given.source_times, &given.target_times}) {
    for (at::Tensor& tensor : *tensors) {
      tensor = tensor.detach().requires_grad_(at::isFloatingType(tensor.scalar_type()));
    }
  }
  const at::Tensor result = call(test, given);
  expect(same_bits(result, test.tensor("result")), "the result must equal Python's");

  // The same values behind other strides.
  Tensors strided = given;
  for (at::Tensor& value : strided.values) {
    if (value.dim() > 1) {
      value = value.detach().transpose(0, 1).contiguous().transpose(0, 1);
    }
  }
  expect(same_bits(call(test, strided), result), "the result must not depend on strides");

  expect(result.requires_grad() == test.has("grad"), "the result must be differentiable where Python's is");
  if (!test.has("grad")) {
    return;
  }
  at::AutoGradMode gradients(true);
  torch::autograd::backward({result}, {test.tensor("grad", device)});
  check_gradients(test, "grad_values", given.values);
  check_gradients(test, "grad_source_times", given.source_times);
  check_gradients(test, "grad_target_times", given.target_times);
}

void check_defaults() {
  const at::Tensor times = at::arange(3, at::kDouble);
  const at::Tensor values = at::tensor({0.0, 10.0, 40.0}).unsqueeze(1);
  const at::Tensor targets = at::tensor({-1.0, 0.5, 1.5, 9.0}, at::kDouble);
  const at::Tensor expected = at::tensor({0.0, 5.0, 25.0, 40.0}).unsqueeze(1);
  expect(same_bits(robocache::resample(values, times, targets), expected), "the defaults must be linear and hold");

  const at::Tensor fused = robocache::fuse({values, values}, {times, times}, targets);
  expect(same_bits(fused, at::cat({expected, expected}, 1)), "the defaults of fuse must be linear and hold");

  const at::Tensor inside = at::tensor({0, 1, 1, 0}).to(at::kBool);
  expect(same_bits(robocache::resample_mask(times, targets), inside), "the default gap must be any");
}

} // namespace

int main(int argc, char** argv) {
  return check_all(argc, argv, check_defaults, check_result, [](const Case& test) { call(test, {test, at::kCPU}); });
}
