// How the channels of a gradient are taken together, moved and summed: the vectors of gathered rows.
#pragma once

#include "gather_gifts.cuh"

namespace robocache {

// Targets of a row that a thread loads together: where few touch it, and where many do.
constexpr int EAGER = 4, DEEP = 8;

// How the channels of a launch are taken: N together, of one mode or not; side by side, or FAR apart. Apart, a warp still
// reads and writes whole sectors of a row, and what is found out about a row serves N of its elements.
template <int N, bool SAME, bool FAR = false>
struct Width {
  static constexpr int CHANNELS = N, STEP = FAR ? 1 : N;  // of a vector; from a vector to the next
  static constexpr bool ONE_MODE = SAME, IS_APART = FAR;
};

// How such channels are moved. A row has as many vectors as lie between the channels of one.
template <class V, class Width>
struct Moves {
  static constexpr int N = Width::CHANNELS;
  using Word = Packed<Vector<V, N>>;
  using Single = Packed<Vector<V, 1>>;
  const int load_bytes;
  const i64 last, apart, apart_in_grad;

  __device__ explicit Moves(const ResampleBackwardParams& p)
      : load_bytes(p.load_bytes), last(p.last), apart(Width::IS_APART ? (p.last - p.first + N - 1) / N : 1),
        apart_in_grad(apart * p.grad.channel_step) {}

  // The vectors of a block's rows.
  __device__ Vectors vectors(const ResampleBackwardParams& p, const BlockShare& share) const {
    if constexpr (Width::IS_APART) return Vectors(share, p.tile, apart, p.first + share.tile * p.tile);
    else return Vectors(p, share, N);
  }

  // From the channel `channel` on, in loads of so many bytes; of a channel that the row does not have any other.
  __device__ void load(const V* from, i64 channel, Word& word, int bytes) const {
    if constexpr (Width::IS_APART) {
      Vector<V, N> read;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        Single single;
        single.load(from + (channel + n * apart < last ? n * apart_in_grad : 0));
        read.at[n] = single.unpack().at[0];
      }
      word.pack(read);
    } else {
      word.load_in(from, bytes);
    }
  }
  __device__ void load(const V* from, i64 channel, Word& word) const { load(from, channel, word, load_bytes); }

  __device__ void store(const Word& word, i64 channel, V* to) const {
    if constexpr (Width::IS_APART) {
      const Vector<V, N> made = word.unpack();
#pragma unroll
      for (int n = 0; n < N; ++n)
        if (channel + n * apart < last) to[n * apart] = made.at[n];
    } else {
      word.store(to);
    }
  }
};

// How a vector of channels is summed.
template <class V, class Width>
struct RowSums {
  static constexpr int N = Width::CHANNELS;
  static constexpr bool ONE_MODE = Width::ONE_MODE;
  using Compute = typename Element<V>::Compute;
  using Word = Packed<Vector<V, N>>;
  const Moves<V, Width> moves;
  const i64 channel;
  const bool slope;
  const i64 step;  // of the gradient, from a target to the next
  Mode mode;
  Compute sums[N] = {};

  __device__ RowSums(const ResampleBackwardParams& p, i64 channel)
      : moves(p), channel(channel), slope(p.slope != 0), step(p.grad.row_step),
        mode(ONE_MODE ? LINEAR : mode_of(p.groups, channel)) {}

  // Adds a part of a target's gradient. One that is not given is left out by a choice, not by a branch, which every thread
  // of the warp would wait at for what it loads.
  __device__ void add_part(Compute part, bool given, const Word& packed) {
    Compute wide[N];
    widen_all(packed.unpack(), wide);
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n] = given ? fused(part, wide[n], sums[n]) : sums[n];
  }

  // The same of a gift.
  __device__ void add(const Gift<Compute>& gift, bool right, const Word& packed) {
    Compute part = right ? gift.parts[1] : gift.parts[0];
    const bool given = ONE_MODE ? (gift.flags >> right & 1) != 0
                                : part_of(gift.parts[0], gift.flags, mode, slope, right, &part);
    add_part(part, given, packed);
  }

  // Adds gifts in their order, the loads of COUNT targets together; `grad` is that of the first gift.
  template <int COUNT>
  __device__ void add_few(const Gift<Compute>* gifts, const V* grad, const Received& received) {
    for (int begin = received.begin; begin < received.end; begin += COUNT) {
      Word packed[COUNT];
#pragma unroll
      for (int k = 0; k < COUNT; ++k) {
        if (begin + k < received.end) moves.load(grad, channel, packed[k]);
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
          moves.load(at, channel, packed[k], bytes);
          at += begin + k + 1 < received.end ? step : 0;
        }
      };
      if (sizeof(Word) < 16 || Width::IS_APART || moves.load_bytes == 16) load(16);
      else if (moves.load_bytes == 8) load(8);
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
    moves.store(packed, channel, to);
  }
};

// Calls `visit` with how the channels are taken, in vectors as wide as they were found to be.
template <class V, class Visit>
__device__ void by_access(const ResampleBackwardParams& p, const Visit& visit) {
  if (p.access == BY_16_BYTES) return visit(Width<WIDE<V>, true>{});
  if constexpr (sizeof(V) < 8) {
    if (p.access == BY_8_BYTES) return visit(Width<WIDE<V> / 2, true>{});
  }
  if constexpr (sizeof(V) < 4) {
    if (p.access == BY_4_BYTES) return visit(Width<WIDE<V> / 4, true>{});
  }
  if (p.access == APART) return visit(Width<TAKEN<V>, true, true>{});
  if (p.mode >= 0) visit(Width<1, true>{});
  else visit(Width<1, false>{});
}

// The vectors of a block's rows.
template <class V>
__device__ Vectors vectors_of(const ResampleBackwardParams& p, const BlockShare& share) {
  if (p.access == APART) return Moves<V, Width<TAKEN<V>, true, true>>(p).vectors(p, share);
  return Vectors(p, share, elements_of<V>(p.access));
}

}  // namespace robocache
