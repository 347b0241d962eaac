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
    compare(loader.run(inputs), load_tensors(argv[3]));
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
