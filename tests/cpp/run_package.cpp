// Runs an AOTInductor package that calls the operators, without Python, and compares every bit of its outputs.
//
//     run_package PACKAGE.pt2 INPUTS.pt EXPECTED.pt cpu|cuda

#include "files.h"

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: run_package PACKAGE.pt2 INPUTS.pt EXPECTED.pt cpu|cuda\n";
    return 2;
  }
  try {
    const at::Device device(argv[4]);
    const at::InferenceMode inference;
    torch::inductor::AOTIModelPackageLoader loader(argv[1]);
    std::vector<at::Tensor> inputs = load_tensors(argv[2]);
    for (at::Tensor& input : inputs) {
      input = input.to(device);
    }
    const std::vector<at::Tensor> outputs = loader.run(inputs);
    const std::vector<at::Tensor> expected = load_tensors(argv[3]);
    if (outputs.size() != expected.size()) {
      std::cerr << "the package must give " << expected.size() << " outputs, got " << outputs.size() << "\n";
      return 1;
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!same_bits(outputs[i], expected[i])) {
        std::cerr << "output " << i << " must equal Python's bit for bit, got other bits\n";
        return 1;
      }
    }
    std::cout << outputs.size() << " output(s) equal, bit for bit\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
