// Gradients of rows that many targets touch.
//
// Where a block has few vectors, a thread that adds up one of them would wait for each of its loads, with most threads
// idle. So all threads read the gradients of the next targets together, a slab of them; then each vector's thread adds its
// own from there. Where vectors are more than threads, or rows are wide, these have loads in flight anyway.
#pragma once

#include "gather_plain.cuh"

namespace robocache {

// The gradients that a block reads before it adds any.
constexpr int SLAB_BYTES = 16384;
// Loads of a thread before it stores the first of them: all of a slab, but of the narrowest vectors.
template <class Word>
constexpr int SLAB_LOADS = sizeof(Word) < 4 ? 16 : SLAB_BYTES / PLAIN_BLOCK / static_cast<int>(sizeof(Word));

// What stands for a part that is not given: bits that no computation makes.
__device__ inline float not_given(float) { return __uint_as_float(0x7fc0dead); }
__device__ inline double not_given(double) { return __longlong_as_double(0x7ff8dead0000dead); }
__device__ inline bool is_given(float part) { return __float_as_uint(part) != 0x7fc0dead; }
__device__ inline bool is_given(double part) { return __double_as_longlong(part) != 0x7ff8dead0000dead; }

// The parts of gifts, of channels of one mode: what goes to the samples that their brackets begin at, then to the next.
// They take the memory of the gifts.
template <class Compute>
struct Parts {
  Compute of_side[2][KEPT_TARGETS];

  __device__ void keep(const Gift<Compute>& gift, int place) {
#pragma unroll
    for (int side = 0; side < 2; ++side)
      of_side[side][place] = (gift.flags >> side & 1) != 0 ? gift.parts[side] : not_given(Compute{});
  }
};

// Vectors of a row up to which they go through slabs: `MOST_ACROSS` in the plan.
constexpr unsigned MOST_ACROSS = 64;

template <class Compute>
struct ManyShared : GatherShared<Compute> {
  uint4 slab[SLAB_BYTES / sizeof(uint4)];
};

// Reads the gradients of `count` targets from `grad` on, all threads together.
template <class V, class Width>
__device__ void read_slab(
    const ResampleBackwardParams& p, const Vectors& vectors, const V* grad, int count,
    typename RowSums<V, Width>::Word* slab) {
  constexpr int LOADS = SLAB_LOADS<typename RowSums<V, Width>::Word>;
  const Moves<V, Width> moves(p);
  const unsigned items = static_cast<unsigned>(count) * vectors.across;
  for (unsigned base = threadIdx.x; base < items; base += LOADS * PLAIN_BLOCK) {
    typename RowSums<V, Width>::Word read[LOADS];
#pragma unroll
    for (int k = 0; k < LOADS; ++k) {
      const unsigned next = base + k * PLAIN_BLOCK, item = next < items ? next : items - 1;
      const i64 channel = vectors.template channel<Width::STEP>(item);
      moves.load(grad + vectors.row(item) * p.grad.row_step + channel * p.grad.channel_step, channel, read[k]);
    }
#pragma unroll
    for (int k = 0; k < LOADS; ++k)
      if (base + k * PLAIN_BLOCK < items) slab[base + k * PLAIN_BLOCK] = read[k];
  }
}

// Adds what a vector gets from COUNT targets of one side of its row that are side by side, all loaded before one is added;
// of those past the last of `left` nothing, unless ALL are there. Nothing is left out by a branch: it would be a wait for
// what it needs to know, for each target.
template <int COUNT, bool ALL, class Sums, class Compute>
__device__ void add_together(
    Sums& sums, const Compute* parts, const typename Sums::Word* slab, unsigned across, int left) {
  typename Sums::Word packed[COUNT];
  Compute part[COUNT];
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
    const int at = ALL || k < left ? k : left - 1;
    packed[k] = slab[at * across];
    part[k] = ALL || k < left ? parts[at] : not_given(Compute{});
  }
#pragma unroll
  for (int k = 0; k < COUNT; ++k) sums.add_part(part[k], is_given(part[k]), packed[k]);
}

// The same of all `count` targets of one side.
template <class Sums, class Compute>
__device__ void add_side(
    Sums& sums, const Compute* parts, const typename Sums::Word* slab, unsigned across, int count) {
  constexpr int COUNT = sizeof(*slab) > 8 ? 4 : 8;
  for (; count >= COUNT; count -= COUNT) {
    add_together<COUNT, true>(sums, parts, slab, across, count);
    parts += COUNT;
    slab += COUNT * across;
  }
  if (count > 0) add_together<COUNT, false>(sums, parts, slab, across, count);
}

// Gathers from the targets that touch a block's rows, in their order, a slab of them at a time. Threads: one for each
// vector of the block.
template <class V, class Width, class T>
__device__ void gather_slabs(
    const ResampleBackwardParams& p, const BlockShare& share, const Vectors& vectors, const Touching<T>& touching,
    ManyShared<typename Element<V>::Compute>& shared) {
  using Compute = typename Element<V>::Compute;
  using Word = typename RowSums<V, Width>::Word;
  Word* slab = reinterpret_cast<Word*>(shared.slab);
  Parts<Compute>& parts = reinterpret_cast<Parts<Compute>&>(shared.gifts);
  const unsigned across = vectors.across;
  const int fit = SLAB_BYTES / static_cast<int>(sizeof(Word) * across);
  const int most = fit < KEPT_TARGETS ? fit : KEPT_TARGETS;
  const bool real = threadIdx.x < vectors.total;
  const unsigned item = real ? threadIdx.x : 0, row = vectors.row(item);
  const i64 channel = vectors.template channel<Width::STEP>(item);
  const V* grad = element<V>(p.grad.data, share.batch * p.grad.batch_step + touching.first * p.grad.row_step);
  const Word* mine = slab + (item - row * across);
  RowSums<V, Width> sums(p, channel);
  for (int from = 0; from < touching.count; from += most) {
    const int count = touching.count - from < most ? touching.count - from : most;
    __syncthreads();
    read_slab<V, Width>(p, vectors, grad + from * p.grad.row_step, count, slab);
    for (int place = threadIdx.x; place < count; place += PLAIN_BLOCK) {
      const Gift<Compute> gift = find_gift<Compute>(p, touching, touching.first + from + place);
      if constexpr (Width::ONE_MODE) parts.keep(gift, place);
      else shared.gifts[place] = gift;
    }
    __syncthreads();
    // Samples that do not ascend may begin anywhere; what is read stays within the slab.
    const auto begin = [&](unsigned of) {
      const int place = shared.starts[of] - touching.first - from;
      return place < 0 ? 0 : (place < count ? place : count);
    };
    const int first = begin(row), middle = begin(row + 1), end = begin(row + 2);
    if constexpr (Width::ONE_MODE) {
      add_side(sums, parts.of_side[1] + first, mine + first * across, across, middle - first);
      add_side(sums, parts.of_side[0] + middle, mine + middle * across, across, end - middle);
    } else {
      for (int at = first; at < end; ++at) sums.add(shared.gifts[at], at < middle, mine[at * across]);
    }
  }
  if (real) sums.store(static_cast<V*>(p.output) + (share.first + row) * p.width + channel);
}

// A block's share of the gradient of one row of the batch, where targets are many.
template <class T, class V>
__device__ void backward_rows_of_many(const ResampleBackwardParams& p) {
  using Compute = typename Element<V>::Compute;
  alignas(16) __shared__ ManyShared<Compute> shared;
  const BlockShare share = block_share(p, p.times.samples, blockIdx.x);
  const Vectors vectors = vectors_of<V>(p, share);
  i64 first = -1;
  if (share.alike && p.times.targets <= MOST_TARGETS)
    first = with_touching<T, V>(p, share, vectors, shared, [&](const Touching<T>& touching) -> i64 {
      if (vectors.total > PLAIN_BLOCK || vectors.across > MOST_ACROSS) {
        const i64 kept = keep_gifts<T, Compute>(p, share, touching, shared);
        if (kept < 0) return kept;
        by_access<V>(p, [&](auto width) { gather_kept<V, decltype(width), true>(p, share, vectors, shared, kept); });
        return kept;
      }
      by_access<V>(p, [&](auto width) { gather_slabs<V, decltype(width)>(p, share, vectors, touching, shared); });
      return touching.first;
    });
  begin();
  if (first < 0) gather_any<T, V>(p, share, shared);
}

}  // namespace robocache
