// Runs a TorchScript module that calls the operators, without Python, and compares every bit of its outputs, a tuple.
//
//     run_module MODULE.pt INPUTS.pt EXPECTED.pt cpu|cuda

#include "files.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: run_module MODULE.pt INPUTS.pt EXPECTED.pt cpu|cuda\n";
    return 2;
  }
  try {
    const at::Device device(argv[4]);
    const at::InferenceMode inference;
    torch::jit::Module module = torch::jit::load(argv[1], device);
    std::vector<c10::IValue> inputs;
    for (const at::Tensor& input : load_tensors(argv[2])) {
      inputs.push_back(input.to(device));
    }
    const c10::IValue outputs = module.forward(inputs); // named: toTupleRef() borrows from it
    std::vector<at::Tensor> tensors;
    for (const c10::IValue& output : outputs.toTupleRef().elements()) {
      tensors.push_back(output.toTensor());
    }
    compare(tensors, load_tensors(argv[3]));
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
