// Calls robocache::resample, fuse and resample_mask on every case of a file that test_cpp.py writes and compares
// results, gradients and errors.
//
//     check_cases CASES.pt
//
// A case is a dict: `operator`, the arguments by name (max_gap and source_lengths may be None; values and source_times
// of fuse are lists), and either `result` with, where it has derivatives, `grad` (of the result) and the gradients
// `grad_values`, `grad_source_times`, `grad_target_times` (None where there is none), or `error` with its `kind`.

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
  std::optional<at::Tensor> optional_tensor(const char* name, at::Device device) const {
    return has(name) ? std::optional(tensor(name, device)) : std::nullopt;
  }
  std::optional<at::Scalar> optional_number(const char* name) const {
    return has(name) ? std::optional(fields.at(name).toScalar()) : std::nullopt;
  }
  // One tensor, or the tensors of a list, those of None undefined; none at all where there is no such field.
  std::vector<at::Tensor> tensors(const char* name, at::Device device = at::kCPU) const {
    std::vector<at::Tensor> all;
    if (!fields.contains(name)) {
      return all;
    }
    const auto add = [&](const c10::IValue& value) {
      all.push_back(value.isNone() ? at::Tensor() : value.toTensor().to(device));
    };
    const c10::IValue value = fields.at(name); // named: toListRef() borrows from it
    if (!value.isList()) {
      add(value);
      return all;
    }
    for (const c10::IValue& item : value.toListRef()) {
      add(item);
    }
    return all;
  }

  c10::impl::GenericDict fields;
};

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

void expect(bool holds, const std::string& what) {
  if (!holds) {
    throw std::runtime_error(what);
  }
}

void check_gradients(const Case& test, const char* name, const std::vector<at::Tensor>& leaves) {
  const std::vector<at::Tensor> expected = test.tensors(name);
  expect(expected.size() == leaves.size(), std::string(name) + " must have one for each tensor");
  for (size_t i = 0; i < leaves.size(); ++i) {
    const std::string which = std::string(name) + " " + std::to_string(i);
    const at::Tensor& found = leaves[i].grad();
    expect(found.defined() == expected[i].defined(), which + " must exist where Python's does");
    expect(!found.defined() || same_bits(found, expected[i]), which + " must equal Python's");
  }
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

void check_error(const Case& test) {
  std::string kind, text;
  try {
    call(test, Tensors(test, at::kCPU));
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

  const at::Tensor fused = robocache::fuse({values, values}, {times, times}, targets);
  expect(same_bits(fused, at::cat({expected, expected}, 1)), "the defaults of fuse must be linear and hold");

  const at::Tensor inside = at::tensor({0, 1, 1, 0}).to(at::kBool);
  expect(same_bits(robocache::resample_mask(times, targets), inside), "the default gap must be any");
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
      std::cerr << test.text("operator") << " " << test.text("name") << " on " << device << ": ";
      std::cerr << error.what() << "\n";
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
