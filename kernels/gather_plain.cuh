// Gradients of rows whose channels are copied or lie on lines, gathered by source row, a block's share at a time, from
// what gather_gifts.cuh says of the targets.
#pragma once

#include "gather_sums.cuh"

namespace robocache {

// Gathers from gifts that are all kept, of one row of the batch, MANY of each source row. Threads: thread t takes the
// vectors t, t + 256, ...
template <class V, class Width, bool MANY>
__device__ void gather_kept(
    const ResampleBackwardParams& p, const BlockShare& share, const Vectors& vectors,
    const GatherShared<typename Element<V>::Compute>& shared, i64 first) {
  const V* all = element<V>(p.grad.data, share.batch * p.grad.batch_step + first * p.grad.row_step);
  for (unsigned item = threadIdx.x; item < vectors.total; item += PLAIN_BLOCK) {
    const i64 channel = vectors.template channel<Width::STEP>(item);
    const int* begins = shared.begins + vectors.row(item);
    const Received received = {begins[0], begins[1], begins[2]};
    const V* grad = all + channel * p.grad.channel_step + received.begin * p.grad.row_step;
    RowSums<V, Width> sums(p, channel);
    if constexpr (MANY) sums.template add_many<DEEP>(shared.gifts, grad, received);
    else sums.template add_few<EAGER>(shared.gifts, grad, received);
    sums.store(static_cast<V*>(p.output) + (share.first + vectors.row(item)) * p.width + channel);
  }
}

// Gathers from any places, so many at a time: those that ascend in one pass; of others first the brackets that end at a
// row, then those that begin there. Threads: as above, one vector at a time.
template <class T, class V, class Width>
__device__ void gather_by_parts(
    const ResampleBackwardParams& p, const BlockShare& share, GatherShared<typename Element<V>::Compute>& shared,
    const Places& places) {
  const Moves<V, Width> moves(p);
  const Vectors vectors = moves.vectors(p, share);
  int kept = -1;
  for (unsigned base = 0; base < vectors.total; base += PLAIN_BLOCK) {
    const bool real = base + threadIdx.x < vectors.total;
    const unsigned item = real ? base + threadIdx.x : 0, row = vectors.row(item);
    const i64 channel = vectors.template channel<Width::STEP>(item);
    const i64 batch = share.alike ? share.batch : quotient(share.first + row, p.times.samples);
    const i64 offset = batch * p.grad.batch_step + (places.first - batch * p.times.targets) * p.grad.row_step;
    const V* all = element<V>(p.grad.data, offset + channel * p.grad.channel_step);
    RowSums<V, Width> sums(p, channel);
    for (unsigned pass = places.ascend ? 1 : 0; pass < 2; ++pass) {
      // No bracket ends at the first sample.
      const bool none = pass == 0 && share.first + row == batch * p.times.samples;
      for (i64 part = 0; part < places.count; part += KEPT_TARGETS) {
        const i64 left = places.count - part;
        const int count = left < KEPT_TARGETS ? static_cast<int>(left) : KEPT_TARGETS;
        if (kept < 0 || places.count > KEPT_TARGETS) {
          __syncthreads();
          kept = keep_places<T>(p, share, shared, places, places.first + part, count);
          __syncthreads();
        }
        if (!real) continue;
        const V* grad = all + part * p.grad.row_step;
        if (places.ascend) {
          const Received received = received_by(shared, row, places.first + part, count);
          sums.template add_many<DEEP>(shared.gifts, grad + received.begin * p.grad.row_step, received);
          continue;
        }
        for (int at = none ? kept : 0; at < kept; ++at) {
          const unsigned touched = shared.gifts[at].touched;
          if ((touched & ((1u << PLACE_SHIFT) - 1)) != row + pass) continue;
          typename RowSums<V, Width>::Word packed;
          moves.load(grad + static_cast<i64>(touched >> PLACE_SHIFT) * p.grad.row_step, channel, packed);
          sums.add(shared.gifts[at], pass == 0, packed);
        }
      }
    }
    if (real) sums.store(static_cast<V*>(p.output) + (share.first + row) * p.width + channel);
  }
}

// Any share, of targets in any order.
template <class T, class V>
__device__ __noinline__ void gather_any(
    const ResampleBackwardParams& p, BlockShare share, GatherShared<typename Element<V>::Compute>& shared) {
  const Places places = find_places<T>(p, share, shared);
  by_access<V>(p, [&](auto width) { gather_by_parts<T, V, decltype(width)>(p, share, shared, places); });
}

// A block's share of the gradient; common cases first.
template <class T, class V>
__device__ void backward_rows(const ResampleBackwardParams& p) {
  alignas(16) __shared__ GatherShared<typename Element<V>::Compute> shared;
  const BlockShare share = block_share(p, p.times.samples, blockIdx.x);
  const Vectors vectors = vectors_of<V>(p, share);
  i64 first = -1;
  if (share.alike && p.times.targets <= MOST_TARGETS)
    first = with_touching<T, V>(p, share, vectors, shared, [&](const Touching<T>& touching) {
      return keep_gifts(p, share, touching, shared);
    });
  begin();
  if (first < 0) return gather_any<T, V>(p, share, shared);
  by_access<V>(p, [&](auto width) { gather_kept<V, decltype(width), false>(p, share, vectors, shared, first); });
}

}  // namespace robocache
