// Gradients of rows whose channels are copied or lie on lines, gathered by source row, a block's share at a time, from
// what gather_gifts.cuh says of the targets.
#pragma once

#include "gather_gifts.cuh"

namespace robocache {

// Targets of a row that a thread loads together: where few touch it, and where many do.
constexpr int EAGER = 4, DEEP = 8;

// How a vector of N channels is summed: all channels of one mode, or one channel of its own.
template <class V, int N, bool ONE_MODE>
struct RowSums {
  using Compute = typename Element<V>::Compute;
  const ResampleBackwardParams& p;
  Mode mode;
  Compute sums[N] = {};

  __device__ RowSums(const ResampleBackwardParams& params, i64 channel)
      : p(params), mode(ONE_MODE ? LINEAR : mode_of(params.groups, channel)) {}

  // Adds a gift's part of a target's gradient.
  __device__ void add(const Gift<Compute>& gift, bool right, const Packed<Vector<V, N>>& packed) {
    Compute part = right ? gift.parts[1] : gift.parts[0];
    if constexpr (ONE_MODE) {
      if ((gift.flags >> right & 1) == 0) return;
    } else if (!part_of(gift.parts[0], gift.flags, mode, p.slope != 0, right, &part)) {
      return;
    }
    const Vector<V, N> chunk = packed.unpack();
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n] = fused(part, Element<V>::widen(chunk.at[n]), sums[n]);
  }

  // Adds gifts in their order, the loads of COUNT targets together; `grad` is that of the first gift.
  template <int COUNT>
  __device__ void add_all(const Gift<Compute>* gifts, const V* grad, const Received& received) {
    for (int begin = received.begin; begin < received.end; begin += COUNT) {
      Packed<Vector<V, N>> packed[COUNT];
#pragma unroll
      for (int k = 0; k < COUNT; ++k) {
        if (begin + k < received.end) packed[k].load_in(grad, p.load_bytes);
        grad += p.grad.row_step;
      }
#pragma unroll
      for (int k = 0; k < COUNT; ++k)
        if (begin + k < received.end) add(gifts[begin + k], begin + k < received.middle, packed[k]);
    }
  }

  __device__ void store(i64 row, i64 channel) const {
    Vector<V, N> out;
#pragma unroll
    for (int n = 0; n < N; ++n) out.at[n] = Element<V>::narrow(sums[n]);
    Packed<Vector<V, N>> packed;
    packed.pack(out);
    packed.store(static_cast<V*>(p.output) + row * p.width + channel);
  }
};

// The vectors of a block's rows, laid end to end.
template <int N>
struct Vectors {
  unsigned across, total, inverse;
  i64 first_channel;

  __device__ Vectors(const ResampleBackwardParams& p, const BlockShare& share) {
    const i64 first = share.tile * p.tile, vectors = (p.last - p.first) / N - first;
    first_channel = p.first + first * N;
    across = static_cast<unsigned>(vectors < p.tile ? vectors : p.tile);
    total = across * static_cast<unsigned>(share.rows);
    inverse = 0xffffffffu / across + 1;  // as in move_rows
  }

  __device__ unsigned row(unsigned item) const { return across == 1 ? item : __umulhi(item, inverse); }
  __device__ i64 channel(unsigned item) const { return first_channel + (item - row(item) * across) * N; }
};

// Gathers from gifts that are all kept, of one row of the batch. Threads: thread t takes the vectors t, t + 256, ...
template <class V, int N, bool ONE_MODE>
__device__ void gather_kept(
    const ResampleBackwardParams& p, const BlockShare& share, const GatherShared<typename Element<V>::Compute>& shared,
    i64 first) {
  const Vectors<N> vectors(p, share);
  const V* all = element<V>(p.grad.data, share.batch * p.grad.batch_step + first * p.grad.row_step);
  for (unsigned item = threadIdx.x; item < vectors.total; item += PLAIN_BLOCK) {
    const i64 channel = vectors.channel(item);
    const int* begins = shared.begins + vectors.row(item);
    const Received received = {begins[0], begins[1], begins[2]};
    RowSums<V, N, ONE_MODE> sums(p, channel);
    sums.template add_all<EAGER>(
        shared.gifts, all + channel * p.grad.channel_step + received.begin * p.grad.row_step, received);
    sums.store(share.first + vectors.row(item), channel);
  }
}

// Gathers from any places, so many at a time: those that ascend in one pass; of others first the brackets that end at a
// row, then those that begin there. Threads: as above, one vector at a time.
template <class V, int N, bool ONE_MODE>
__device__ void gather_by_parts(
    const ResampleBackwardParams& p, const BlockShare& share, GatherShared<typename Element<V>::Compute>& shared,
    const Places& places) {
  const Vectors<N> vectors(p, share);
  int kept = -1;
  for (unsigned base = 0; base < vectors.total; base += PLAIN_BLOCK) {
    const bool real = base + threadIdx.x < vectors.total;
    const unsigned item = real ? base + threadIdx.x : 0, row = vectors.row(item);
    const i64 channel = vectors.channel(item);
    const i64 batch = share.alike ? share.batch : quotient(share.first + row, p.times.samples);
    const i64 offset = batch * p.grad.batch_step + (places.first - batch * p.times.targets) * p.grad.row_step;
    const V* all = element<V>(p.grad.data, offset + channel * p.grad.channel_step);
    RowSums<V, N, ONE_MODE> sums(p, channel);
    for (unsigned pass = places.ascend ? 1 : 0; pass < 2; ++pass) {
      // No bracket ends at the first sample.
      const bool none = pass == 0 && share.first + row == batch * p.times.samples;
      for (i64 part = 0; part < places.count; part += KEPT_TARGETS) {
        const i64 left = places.count - part;
        const int count = left < KEPT_TARGETS ? static_cast<int>(left) : KEPT_TARGETS;
        if (kept < 0 || places.count > KEPT_TARGETS) {
          __syncthreads();
          kept = keep_places_of_any(p, share, shared, places, places.first + part, count);
          __syncthreads();
        }
        if (!real) continue;
        const V* grad = all + part * p.grad.row_step;
        if (places.ascend) {
          const Received received = received_by(shared, row, places.first + part, count);
          sums.template add_all<DEEP>(shared.gifts, grad + received.begin * p.grad.row_step, received);
          continue;
        }
        for (int at = none ? kept : 0; at < kept; ++at) {
          const unsigned touched = shared.gifts[at].touched;
          if ((touched & ((1u << PLACE_SHIFT) - 1)) != row + pass) continue;
          Packed<Vector<V, N>> packed;
          packed.load_in(grad + static_cast<i64>(touched >> PLACE_SHIFT) * p.grad.row_step, p.load_bytes);
          sums.add(shared.gifts[at], pass == 0, packed);
        }
      }
    }
    if (real) sums.store(share.first + row, channel);
  }
}

template <int N, bool SAME>
struct Width {
  static constexpr int CHANNELS = N;
  static constexpr bool ONE_MODE = SAME;
};

// Calls `visit` with the number of channels of a vector, as wide as they were found to be, and whether all are of one
// mode.
template <class V, class Visit>
__device__ void by_access(const ResampleBackwardParams& p, const Visit& visit) {
  if (p.access == BY_16_BYTES) return visit(Width<WIDE<V>, true>{});
  if constexpr (sizeof(V) < 8) {
    if (p.access == BY_8_BYTES) return visit(Width<WIDE<V> / 2, true>{});
  }
  if constexpr (sizeof(V) < 4) {
    if (p.access == BY_4_BYTES) return visit(Width<WIDE<V> / 4, true>{});
  }
  if (p.mode >= 0) visit(Width<1, true>{});
  else visit(Width<1, false>{});
}

// Any share, of targets in any order.
template <class V>
__device__ __noinline__ void gather_any(
    const ResampleBackwardParams& p, BlockShare share, GatherShared<typename Element<V>::Compute>& shared) {
  const Places places = p.time_type == F64_TIMES   ? find_places<double>(p, share, shared)
                        : p.time_type == F32_TIMES ? find_places<float>(p, share, shared)
                                                   : find_places<i64>(p, share, shared);
  by_access<V>(p, [&](auto width) {
    gather_by_parts<V, decltype(width)::CHANNELS, decltype(width)::ONE_MODE>(p, share, shared, places);
  });
}

// A block's share of the gradient; common cases first.
template <class T, class V>
__device__ void backward_rows(const ResampleBackwardParams& p) {
  alignas(16) __shared__ GatherShared<typename Element<V>::Compute> shared;
  const BlockShare share = block_share(p, p.times.samples, blockIdx.x);
  if (is_nothing(share)) return;
  begin();
  i64 first = -1;
  if (share.alike && p.times.targets <= MOST_TARGETS) first = find_gifts<T>(p, share, shared);
  if (first < 0) return gather_any<V>(p, share, shared);
  by_access<V>(p, [&](auto width) {
    gather_kept<V, decltype(width)::CHANNELS, decltype(width)::ONE_MODE>(p, share, shared, first);
  });
}

}  // namespace robocache
