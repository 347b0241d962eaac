// Compiles where the public header needs no other include before it and no C++ newer than torch's own headers do.

#include <robocache/robocache.h>

using at::Tensor;

Tensor resample_with_defaults(const Tensor& values, const Tensor& source_times, const Tensor& target_times) {
  return robocache::resample(values, source_times, target_times);
}

Tensor fuse_with_defaults(const Tensor& values, const Tensor& source_times, const Tensor& target_times) {
  return robocache::fuse({values, values}, {source_times, source_times}, target_times);
}

Tensor resample_mask_with_a_gap(const Tensor& source_times, const Tensor& target_times) {
  return robocache::resample_mask(source_times, target_times, 0.5);
}

Tensor voxelize_with_defaults(const Tensor& points) {
  return robocache::voxelize(points, std::nullopt, {-8, -8, -1}, {0.125}, {128, 128, 32});
}

Tensor voxelize_sparse_with_a_capacity(const Tensor& points, const Tensor& features) {
  return robocache::voxelize_sparse(points, features, {-8, -8, -1}, {0.1}, {160, 160, 20}, "max", 1000).values;
}
