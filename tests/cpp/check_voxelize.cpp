// Calls robocache::voxelize and voxelize_sparse on every case of a file that test_voxelize_cpp.py writes and compares
// results, gradients and errors.
//
//     check_voxelize CASES.pt
//
// The arguments of a case are `points`, `features` and `lengths` (which may be None), the numbers `origin`,
// `voxel_size`, `grid_size` and `capacity` as tensors, and `reduce`. It has the list `results` and, where these are
// differentiable, `grad` (of the grid, or of the values) and the gradient `grad_features`; or an error.

#include "cases.h"

#include <robocache/robocache.h>
#include <torch/csrc/autograd/autograd.h>

namespace {

// The tensors of a call.
struct Clouds {
  Clouds(const Case& test, at::Device device)
      : points(test.tensor("points", device)),
        features(test.optional_tensor("features", device)),
        lengths(test.optional_tensor("lengths", device)) {}

  at::Tensor points;
  std::optional<at::Tensor> features, lengths;
};

std::vector<at::Tensor> call(const Case& test, const Clouds& given) {
  const auto origin = test.numbers<double>("origin"), voxel_size = test.numbers<double>("voxel_size");
  const auto grid_size = test.numbers<int64_t>("grid_size");
  const std::string reduce = test.text("reduce");
  if (test.text("operator") == "voxelize") {
    return {robocache::voxelize(given.points, given.features, origin, voxel_size, grid_size, reduce, given.lengths)};
  }
  const robocache::SparseVoxels found = robocache::voxelize_sparse(
      given.points, given.features, origin, voxel_size, grid_size, reduce, test.numbers<int64_t>("capacity").at(0),
      given.lengths);
  return {found.coords, found.values, found.counts, found.point_voxel, found.num_voxels};
}

void check_same(const std::vector<at::Tensor>& found, const std::vector<at::Tensor>& expected, const char* what) {
  expect(found.size() == expected.size(), "there must be as many results as in Python");
  for (size_t i = 0; i < found.size(); ++i) {
    expect(same_bits(found[i], expected[i]), "result " + std::to_string(i) + " must " + what);
  }
}

// The same numbers with another axis innermost.
at::Tensor strided(const at::Tensor& tensor) {
  return tensor.detach().transpose(0, -1).contiguous().transpose(0, -1);
}

void check_result(const Case& test, at::Device device) {
  Clouds given(test, device);
  if (given.features.has_value()) {
    given.features = given.features->detach().requires_grad_();
  }
  const std::vector<at::Tensor> results = call(test, given);
  check_same(results, test.tensors("results"), "equal Python's");

  Clouds other = given;
  other.points = strided(given.points);
  if (given.features.has_value()) {
    other.features = strided(*given.features);
  }
  check_same(call(test, other), results, "not depend on strides");

  const at::Tensor& result = results[test.text("operator") == "voxelize" ? 0 : 1];
  expect(result.requires_grad() == test.has("grad"), "the result must be differentiable where Python's is");
  if (!test.has("grad")) {
    return;
  }
  at::AutoGradMode gradients(true);
  torch::autograd::backward({result}, {test.tensor("grad", device)});
  check_gradients(test, "grad_features", {*given.features});
}

void check_defaults() {
  const at::Tensor points = at::tensor({0.5, 0.5, 0.5, 1.5, 0.0, 0.0, 0.25, 0.0, 0.75}).view({3, 3});
  const at::Tensor features = at::tensor({1.0, 8.0, 2.0}).unsqueeze(1);
  const at::Tensor occupied = robocache::voxelize(points, std::nullopt, {0, 0, 0}, {1}, {3, 1, 1});
  const at::Tensor expected = at::tensor({1, 1, 0}).to(at::kBool).view({3, 1, 1});
  expect(same_bits(occupied, expected), "the default must be occupancy");

  const robocache::SparseVoxels found =
      robocache::voxelize_sparse(points, features, {0, 0, 0}, {1}, {3, 1, 1});
  expect(same_bits(found.values, at::tensor({1.5, 8.0}).unsqueeze(1)), "the default of rows must be means");
  expect(found.coords.size(0) == 2, "there must be as many rows as voxels");
}

} // namespace

int main(int argc, char** argv) {
  return check_all(argc, argv, check_defaults, check_result, [](const Case& test) { call(test, {test, at::kCPU}); });
}
