// Which targets the samples answer for: first time <= t <= last time, and on a sample or in a bracket within the limit.

#include "interpolate.cuh"

using namespace robocache;

struct ResampleMaskParams {
  Timeline times;
  unsigned char* output;  // [B, T]
  u64 ticks;              // the limit for int64 times
  double number;          // the limit for floating times, a number of their type
  int limited;
  int rows_per_warp;
};
static_assert(sizeof(ResampleMaskParams) == 128, "mirrors ops::resample_mask::cuda::Params");

namespace {

__device__ bool is_within(i64 from, i64 to, const ResampleMaskParams& p) {
  return static_cast<u64>(to) - static_cast<u64>(from) <= p.ticks;
}
__device__ bool is_within(double from, double to, const ResampleMaskParams& p) { return since(to, from) <= p.number; }
__device__ bool is_within(float from, float to, const ResampleMaskParams& p) { return since(to, from) <= p.number; }

template <class T>
__device__ bool covers(const Found<T>& found, const ResampleMaskParams& p) {
  const T target = found.target;
  if (!is_finite(target) || found.count == 0) return false;
  const T from = found.samples.at(found.count - 1);
  if (from == target) return true;
  if (found.count == found.samples.count) return false;
  return p.limited == 0 || is_within(from, found.samples.at(found.count), p);
}

// Threads: a warp searches for `rows_per_warp` targets and lane r marks that of row r.
template <class T>
__device__ void mask_rows(const ResampleMaskParams& p) {
  const int lane = threadIdx.x % WARP;
  const i64 first_row = warp_of_grid() * p.rows_per_warp;
  const i64 all = p.times.batch * p.times.targets;
  if (first_row >= all) return;
  const Found<T> found = search<T>(p.times, first_row, p.rows_per_warp, lane);
  if (lane < p.rows_per_warp && first_row + lane < all) p.output[first_row + lane] = covers(found, p) ? 1 : 0;
}

}  // namespace

#define KERNEL(NAME, T)                                                                                     \
  extern "C" __global__ void __launch_bounds__(128) NAME(const __grid_constant__ ResampleMaskParams p) { \
    begin();                                                                                                \
    mask_rows<T>(p);                                                                                        \
  }
KERNEL(resample_mask_f64, double)
KERNEL(resample_mask_f32, float)
KERNEL(resample_mask_i64, long long)
