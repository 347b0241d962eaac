// Gradients gathered by source row: what each target gives the samples of its bracket, added in one fixed order,
// without atomics. Rows that are copied or lie on lines are in gather_plain.cuh, those with curves in
// gather_curved.cuh.
#pragma once

#include "rows_plain.cuh"

namespace robocache {

struct ResampleBackwardParams {
  Timeline times;
  Channels grad;     // [B, T, D]
  Channels values;   // [B, S, D]; null where no derivative depends on them
  Channels tangent;  // [B, S, D]; null but for the curvature
  const Bracket* brackets;  // these three of a curved launch
  const i64* order;
  const i64* starts;
  const int* disorder;  // as in ResampleDisorderParams, of a plain launch; null: blocks look for themselves
  void* output;         // [B, S, D]
  i64 width, first, last;
  i64 rows;  // distinct rows of times: 1 or B
  i64 tile, tiles;  // as in Rows, and the next two; of a plain launch
  int rows_per_share;
  int chunks;
  int slope;
  int access;     // as in Rows, and the next
  int mode;
  int load_bytes;  // what the gradient allows in one load of a wider vector
  Ahead ahead;     // of the gradient and the target times; where targets are few nobody asks
  Groups groups;
};
static_assert(sizeof(ResampleBackwardParams) == 640, "mirrors ops::resample::cuda::BackwardParams");

// Targets whose disorder one number tells.
constexpr int ORDER_TILE = 256;

// How much of a target's gradient goes to one side of its bracket; false where the sample had no part in the result.
// `weight` and `flags` are those of `flags_of`.
template <class Compute>
__device__ bool part_of(Compute weight, unsigned flags, Mode mode, bool slope, bool right, Compute* part) {
  if ((flags & (IS_ZERO | IS_NAN)) != 0) return false;
  const bool blends = (flags & BLENDS) != 0;
  if (slope) {
    *part = right ? weight : -weight;
    return mode == LINEAR && blends;
  }
  if ((mode == LINEAR || mode == ANGLE) && blends) {
    *part = right ? weight : Compute(1) - weight;
    return true;
  }
  *part = 1;
  return copies_right(flags, mode) == right;
}

}  // namespace robocache
