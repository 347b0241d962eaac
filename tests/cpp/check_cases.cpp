// Calls robocache::resample on every case of a file that test_cpp.py writes and compares results, gradients and errors.
//
//     check_cases CASES.pt
//
// A case is a dict: the arguments by name (source_lengths may be None), and either `result` with, for floating values,
// `grad` (of the result) and the gradients `grad_values`, `grad_source_times`, `grad_target_times` (None where there is
// none), or `error` with its `kind`.

#include "files.h"

#include <robocache/robocache.h>
#include <torch/csrc/autograd/autograd.h>

#include <iostream>

namespace {

struct Case {
  explicit Case(const c10::IValue& fields) : fields(fields.toGenericDict()) {}

  std::string text(const char* name) const {
    return fields.at(name).toStringRef();
  }
  bool has(const char* name) const {
    return fields.contains(name) && !fields.at(name).isNone();
  }
  at::Tensor tensor(const char* name, at::Device device = at::kCPU) const {
    return fields.at(name).toTensor().to(device);
  }
  at::Tensor leaf(const char* name, at::Device device) const {
    const at::Tensor tensor = fields.at(name).toTensor().to(device).detach();
    return at::isFloatingType(tensor.scalar_type()) ? tensor.requires_grad_() : tensor;
  }

  c10::impl::GenericDict fields;
};

void expect(bool holds, const std::string& what) {
  if (!holds) {
    throw std::runtime_error(what);
  }
}

void check_result(const Case& test, at::Device device) {
  const at::Tensor values = test.leaf("values", device);
  const at::Tensor source_times = test.leaf("source_times", device);
  const at::Tensor target_times = test.leaf("target_times", device);
  const auto lengths =
      test.has("source_lengths") ? std::optional(test.tensor("source_lengths", device)) : std::nullopt;
  const std::string mode = test.text("mode");
  const std::string outside = test.text("outside");

  const at::Tensor result = robocache::resample(values, source_times, target_times, mode, outside, lengths);
  expect(same_bits(result, test.tensor("result")), "the result must equal Python's");

  // The same values behind other strides.
  if (values.dim() > 1) {
    const at::Tensor strided = values.detach().transpose(0, 1).contiguous().transpose(0, 1);
    const at::Tensor again = robocache::resample(strided, source_times, target_times, mode, outside, lengths);
    expect(same_bits(again, result), "the result must not depend on strides");
  }

  if (!test.has("grad")) {
    return;
  }
  at::AutoGradMode gradients(true);
  torch::autograd::backward({result}, {test.tensor("grad", device)});
  const std::pair<const char*, at::Tensor> leaves[] = {
      {"grad_values", values}, {"grad_source_times", source_times}, {"grad_target_times", target_times}};
  for (const auto& [name, leaf] : leaves) {
    expect(leaf.grad().defined() == test.has(name), std::string(name) + " must exist where Python's does");
    if (test.has(name)) {
      expect(same_bits(leaf.grad(), test.tensor(name)), std::string(name) + " must equal Python's");
    }
  }
}

void check_error(const Case& test) {
  const auto call = [&] {
    robocache::resample(
        test.tensor("values"),
        test.tensor("source_times"),
        test.tensor("target_times"),
        test.text("mode"),
        test.text("outside"),
        test.has("source_lengths") ? std::optional(test.tensor("source_lengths")) : std::nullopt);
  };
  std::string kind, text;
  try {
    call();
    kind = "no error";
  } catch (const c10::ValueError& error) {
    kind = "ValueError";
    text = error.what_without_backtrace();
  } catch (const c10::TypeError& error) {
    kind = "TypeError";
    text = error.what_without_backtrace();
  } catch (const c10::Error& error) {
    kind = "c10::Error";
    text = error.what_without_backtrace();
  }
  const std::string expected = test.text("kind") + ": " + test.text("error");
  expect(kind + ": " + text == expected, "the error must be\n  " + expected + "\ngot\n  " + kind + ": " + text);
}

void check_defaults() {
  const at::Tensor times = at::arange(3, at::kDouble);
  const at::Tensor values = at::tensor({0.0, 10.0, 40.0}).unsqueeze(1);
  const at::Tensor targets = at::tensor({-1.0, 0.5, 1.5, 9.0}, at::kDouble);
  const at::Tensor expected = at::tensor({0.0, 5.0, 25.0, 40.0}).unsqueeze(1);
  expect(same_bits(robocache::resample(values, times, targets), expected), "the defaults must be linear and hold");
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: check_cases CASES.pt\n";
    return 2;
  }
  int results = 0, errors = 0, failures = 0;
  const auto check = [&](const Case& test, at::Device device) {
    try {
      if (test.has("error")) {
        check_error(test);
        ++errors;
      } else {
        check_result(test, device);
        ++results;
      }
    } catch (const std::exception& error) {
      ++failures;
      std::cerr << test.text("name") << " on " << device << ": " << error.what() << "\n";
    }
  };
  try {
    check_defaults();
    const c10::IValue cases = load(argv[1]); // named: toListRef() borrows from it
    for (const c10::IValue& fields : cases.toListRef()) {
      const Case test(fields);
      check(test, at::kCPU);
      // CUDA never looks into the times, so some of the errors are the CPU's alone.
      if (at::hasCUDA() && !test.has("error")) {
        check(test, at::Device(at::kCUDA, 0));
      }
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  std::cout << results << " results, " << errors << " errors, " << failures << " failures\n";
  return failures == 0 ? 0 : 1;
}
