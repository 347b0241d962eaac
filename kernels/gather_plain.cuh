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
  using Word = Packed<Vector<V, N>>;
  const bool slope;
  const int load_bytes;
  const i64 step;  // of the gradient, from a target to the next
  Mode mode;
  Compute sums[N] = {};

  __device__ RowSums(const ResampleBackwardParams& p, i64 channel)
      : slope(p.slope != 0), load_bytes(p.load_bytes), step(p.grad.row_step),
        mode(ONE_MODE ? LINEAR : mode_of(p.groups, channel)) {}

  // Adds a gift's part of a target's gradient.
  __device__ void add(const Gift<Compute>& gift, bool right, const Word& packed) {
    Compute part = right ? gift.parts[1] : gift.parts[0];
    if constexpr (ONE_MODE) {
      if ((gift.flags >> right & 1) == 0) return;
    } else if (!part_of(gift.parts[0], gift.flags, mode, slope, right, &part)) {
      return;
    }
    Compute wide[N];
    widen_all(packed.unpack(), wide);
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n] = fused(part, wide[n], sums[n]);
  }

  // Adds gifts in their order, the loads of COUNT targets together; `grad` is that of the first gift.
  template <int COUNT>
  __device__ void add_few(const Gift<Compute>* gifts, const V* grad, const Received& received) {
    for (int begin = received.begin; begin < received.end; begin += COUNT) {
      Word packed[COUNT];
#pragma unroll
      for (int k = 0; k < COUNT; ++k) {
        if (begin + k < received.end) packed[k].load_in(grad, load_bytes);
        grad += step;
      }
#pragma unroll
      for (int k = 0; k < COUNT; ++k)
        if (begin + k < received.end) add(gifts[begin + k], begin + k < received.middle, packed[k]);
    }
  }

  // The same where most rows have COUNT targets: all are loaded, of those past the last the last, for a load that may
  // not happen waits for the ones before it.
  template <int COUNT>
  __device__ void add_many(const Gift<Compute>* gifts, const V* grad, const Received& received) {
    for (int begin = received.begin; begin < received.end; begin += COUNT) {
      Word packed[COUNT];
      const auto load = [&](int bytes) {
        const V* at = grad;
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
          packed[k].load_in(at, bytes);
          at += begin + k + 1 < received.end ? step : 0;
        }
      };
      if (sizeof(Word) < 16 || load_bytes == 16) load(16);
      else if (load_bytes == 8) load(8);
      else load(4);
      grad += COUNT * step;
#pragma unroll
      for (int k = 0; k < COUNT; ++k)
        if (begin + k < received.end) add(gifts[begin + k], begin + k < received.middle, packed[k]);
    }
  }

  __device__ void store(V* to) const {
    Word packed;
    packed.pack(narrowed<V>(sums));
    packed.store(to);
  }
};

// Gathers from gifts that are all kept, of one row of the batch, MANY of each source row. Threads: thread t takes the
// vectors t, t + 256, ...
template <class V, int N, bool ONE_MODE, bool MANY>
__device__ void gather_kept(
    const ResampleBackwardParams& p, const BlockShare& share, const Vectors& vectors,
    const GatherShared<typename Element<V>::Compute>& shared, i64 first) {
  const V* all = element<V>(p.grad.data, share.batch * p.grad.batch_step + first * p.grad.row_step);
  for (unsigned item = threadIdx.x; item < vectors.total; item += PLAIN_BLOCK) {
    const i64 channel = vectors.channel<N>(item);
    const int* begins = shared.begins + vectors.row(item);
    const Received received = {begins[0], begins[1], begins[2]};
    const V* grad = all + channel * p.grad.channel_step + received.begin * p.grad.row_step;
    RowSums<V, N, ONE_MODE> sums(p, channel);
    if constexpr (MANY) sums.template add_many<DEEP>(shared.gifts, grad, received);
    else sums.template add_few<EAGER>(shared.gifts, grad, received);
    sums.store(static_cast<V*>(p.output) + (share.first + vectors.row(item)) * p.width + channel);
  }
}

// Gathers from any places, so many at a time: those that ascend in one pass; of others first the brackets that end at a
// row, then those that begin there. Threads: as above, one vector at a time.
template <class V, int N, bool ONE_MODE>
__device__ void gather_by_parts(
    const ResampleBackwardParams& p, const BlockShare& share, GatherShared<typename Element<V>::Compute>& shared,
    const Places& places) {
  const Vectors vectors(p, share, N);
  int kept = -1;
  for (unsigned base = 0; base < vectors.total; base += PLAIN_BLOCK) {
    const bool real = base + threadIdx.x < vectors.total;
    const unsigned item = real ? base + threadIdx.x : 0, row = vectors.row(item);
    const i64 channel = vectors.channel<N>(item);
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
          sums.template add_many<DEEP>(shared.gifts, grad + received.begin * p.grad.row_step, received);
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
    if (real) sums.store(static_cast<V*>(p.output) + (share.first + row) * p.width + channel);
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

// A block's share of the gradient, of MANY targets for each source row; common cases first.
template <class T, class V, bool MANY>
__device__ void backward_rows(const ResampleBackwardParams& p) {
  alignas(16) __shared__ GatherShared<typename Element<V>::Compute> shared;
  const BlockShare share = block_share(p, p.times.samples, blockIdx.x);
  const Vectors vectors(p, share, elements_of<V>(p.access));
  i64 first = -1;
  if (share.alike && p.times.targets <= MOST_TARGETS) first = find_gifts<T>(p, share, vectors, shared);
  begin();
  if (first < 0) return gather_any<V>(p, share, shared);
  by_access<V>(p, [&](auto width) {
    gather_kept<V, decltype(width)::CHANNELS, decltype(width)::ONE_MODE, MANY>(p, share, vectors, shared, first);
  });
}

}  // namespace robocache
