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
