// Compiles where the public header needs no other include before it and no C++ newer than torch's own headers do.

#include <robocache/robocache.h>

at::Tensor resample_with_defaults(const at::Tensor& values, const at::Tensor& source_times, const at::Tensor& target_times) {
  return robocache::resample(values, source_times, target_times);
}
