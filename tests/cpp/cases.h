// What the programs that check cases share: reading a case, comparing, and counting.
//
// A case is a dict with `operator`, `name` and the arguments by name, and either its results or `error` with `kind`.

#pragma once

#include "files.h"

#include <iostream>
#include <optional>

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
  // The numbers of a tensor [n]: plain integers are saved with as few bytes as they need, and torch reads only eight.
  template <typename Number>
  std::vector<Number> numbers(const char* name) const {
    const at::Tensor all = tensor(name);
    return {all.const_data_ptr<Number>(), all.const_data_ptr<Number>() + all.numel()};
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

inline void expect(bool holds, const std::string& what) {
  if (!holds) {
    throw std::runtime_error(what);
  }
}

inline void check_gradients(const Case& test, const char* name, const std::vector<at::Tensor>& leaves) {
  const std::vector<at::Tensor> expected = test.tensors(name);
  expect(expected.size() == leaves.size(), std::string(name) + " must have one for each tensor");
  for (size_t i = 0; i < leaves.size(); ++i) {
    const std::string which = std::string(name) + " " + std::to_string(i);
    const at::Tensor& found = leaves[i].grad();
    expect(found.defined() == expected[i].defined(), which + " must exist where Python's does");
    expect(!found.defined() || same_bits(found, expected[i]), which + " must equal Python's");
  }
}

template <typename Call>
void check_error(const Case& test, Call call) {
  std::string kind, text;
  try {
    call(test);
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

// The whole of a program: every case of the file that is its one argument, results on every device.
template <typename Defaults, typename Result, typename Call>
int check_all(int argc, char** argv, Defaults check_defaults, Result check_result, Call call) {
  if (argc != 2) {
    std::cerr << "usage: " << argv[0] << " CASES.pt\n";
    return 2;
  }
  int results = 0, errors = 0, failures = 0;
  const auto check = [&](const Case& test, at::Device device) {
    try {
      if (test.has("error")) {
        check_error(test, call);
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
      // CUDA never looks into times and lengths, so some of the errors are the CPU's alone.
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
