// What the test programs share: reading what Python's torch.save has written, and comparing bits.

#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

inline c10::IValue load(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("a file must exist at " + path + ", got none");
  }
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return torch::jit::pickle_load(bytes);
}

inline std::vector<at::Tensor> load_tensors(const std::string& path) {
  const c10::IValue list = load(path); // named: toListRef() borrows from it
  std::vector<at::Tensor> tensors;
  for (const c10::IValue& tensor : list.toListRef()) {
    tensors.push_back(tensor.toTensor());
  }
  return tensors;
}

// Whether shape, dtype and every bit are the same; a NaN equals any NaN.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) {
    return false;
  }
  const auto bytes = [](const at::Tensor& tensor) {
    return tensor.detach().cpu().contiguous().view({-1, 1}).view(at::kByte);
  };
  const auto nan = [](const at::Tensor& tensor) { return tensor.detach().cpu().reshape({-1, 1}).isnan(); };
  return a.numel() == 0 || ((bytes(a) == bytes(b)) | (nan(a) & nan(b))).all().item<bool>();
}

// Throws where an output differs from the one that Python has saved, else says how many there are.
inline void compare(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& expected) {
  if (outputs.size() != expected.size()) {
    throw std::runtime_error(
        "there must be " + std::to_string(expected.size()) + " outputs, got " + std::to_string(outputs.size()));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!same_bits(outputs[i], expected[i])) {
      throw std::runtime_error("output " + std::to_string(i) + " must equal Python's bit for bit, got other bits");
    }
  }
  std::cout << outputs.size() << " output(s) equal, bit for bit\n";
}
