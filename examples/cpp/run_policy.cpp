// Runs a TorchScript policy that calls robocache's operators, without Python, on one saved observation.
//
//     python examples/policy.py policy
//     run_policy policy/policy.pt policy/observation.pt [policy/expected.pt]
//
// With a third file the actions are compared with the ones in it, and a single differing bit is a failure. The policy
// needs no line of RoboCache here: linking robocache::robocache loads the library, which registers the operators.

#include <torch/script.h>

#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// What Python's torch.save(value, path) has written.
torch::IValue load(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("run_policy: a file must exist at " + path + ", got none");
  }
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return torch::jit::pickle_load(bytes);
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  // Compared as integers: NaN equals NaN there, and 0.0 differs from -0.0.
  return a.scalar_type() == b.scalar_type() && at::equal(a.view(at::kInt), b.view(at::kInt));
}

int run(const std::vector<std::string>& paths) {
  torch::jit::Module policy = torch::jit::load(paths.at(0));
  policy.eval();

  const torch::IValue inputs = load(paths.at(1)); // named: toListRef() borrows from it
  std::vector<torch::IValue> observation;
  for (const torch::IValue& input : inputs.toListRef()) {
    observation.push_back(input.toTensor());
  }

  const torch::NoGradGuard no_grad;
  const at::Tensor actions = policy.forward(observation).toTensor(); // [B, steps, 7], radians
  std::cout << "actions " << actions.sizes() << ", the first:\n" << actions[0][0] << "\n";

  if (paths.size() > 2) {
    if (!same_bits(actions, load(paths[2]).toTensor())) {
      std::cerr << "run_policy: the actions must equal " << paths[2] << " bit for bit, got others\n";
      return 1;
    }
    std::cout << "equal to " << paths[2] << ", bit for bit\n";
  }
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::cerr << "usage: run_policy POLICY.pt OBSERVATION.pt [EXPECTED.pt]\n";
    return 2;
  }
  try {
    return run({argv + 1, argv + argc});
  } catch (const c10::Error& error) {
    std::cerr << error.what_without_backtrace() << "\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
  }
  return 1;
}
