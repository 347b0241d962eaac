// Rows whose channels are copied or lie on lines, a block's share of the work at a time.
//
// A block reads some of the source times of its row of the batch into shared memory, a thread finds the bracket of a
// target among them, and all threads then move the channels of the block's rows.
#pragma once

#include "rows.cuh"

namespace robocache {

// One element of the result from its two samples; `weight` is the bracket's, in the compute type.
template <class V, bool SLOPE>
__device__ V blend(V a, V b, typename Element<V>::Compute weight) {
  using E = Element<V>;
  const auto left = E::widen(a), right = E::widen(b);
  return E::narrow(SLOPE ? (right - left) * weight : fused(weight, right - left, left));
}

// What a thread finds out about a row for all the block: where its bracket lies and how its channels are made.
template <class Compute>
struct RowWork {
  i64 source;  // offset of channel 0 of sample `left`, or where all channels are of one mode, of the first one read
  Compute weight;
  unsigned flags;  // Flags, or where all channels are of one mode, their Pick
};

enum Flags : unsigned {
  IS_ZERO = 1,
  IS_NAN = 2,
  BLENDS = 4,           // linear channels take both samples
  NEXT_IS_RIGHT = 8,    // `next` copies `left + 1`
  NEAREST_IS_RIGHT = 16
};

// Which samples an element is made of, as bits.
enum Pick : unsigned {
  ZEROS = IS_ZERO,
  NANS = IS_NAN,
  BOTH = BLENDS,  // the sample after the first one read is blended in
  SHIFTED = 32    // the first sample read is `left + 1`
};

// What modes can make of a bracket, as bits.
template <class Compute, bool SLOPE>
__device__ unsigned flags_of(const Bracket& bracket) {
  if (SLOPE) return bracket.rate != 0.0 ? BLENDS : 0u;
  unsigned flags = bracket.fill == ZERO ? IS_ZERO : (bracket.fill == NOT_A_NUMBER ? IS_NAN : 0u);
  if (static_cast<Compute>(bracket.weight) != Compute(0) && flags == 0) flags |= BLENDS;
  if (copied(bracket, NEXT) != bracket.left) flags |= NEXT_IS_RIGHT;
  if (copied(bracket, NEAREST) != bracket.left) flags |= NEAREST_IS_RIGHT;
  return flags;
}

// Whether a mode that copies takes the sample after `left`.
__device__ inline bool copies_right(unsigned flags, int mode) {
  return (flags & (mode == NEXT ? NEXT_IS_RIGHT : (mode == NEAREST ? NEAREST_IS_RIGHT : 0u))) != 0;
}

template <class V, bool SLOPE>
__device__ unsigned pick(unsigned flags, int mode) {
  const unsigned both = !IS_RAW<V> && mode == LINEAR ? flags & BLENDS : 0u;
  if (SLOPE) return both != 0 ? both : ZEROS;
  return (flags & (IS_ZERO | IS_NAN)) | both | (copies_right(flags, mode) ? SHIFTED : 0u);
}

template <class V, bool SLOPE>
__device__ RowWork<typename Element<V>::Compute> work_of(const Rows& p, const Bracket& bracket, i64 batch) {
  using Compute = typename Element<V>::Compute;
  const i64 source = batch * p.values.batch_step + bracket.left * p.values.row_step;
  const Compute weight = static_cast<Compute>(SLOPE ? bracket.rate : bracket.weight);
  const unsigned flags = flags_of<Compute, SLOPE>(bracket);
  // Channels of one mode are made alike: the row's pick, once.
  if (SLOPE || p.mode < 0) return {source, weight, flags};
  const unsigned all = pick<V, SLOPE>(flags, p.mode);
  return {source + ((all & SHIFTED) != 0 ? p.values.row_step : 0), weight, all};
}

// What a block of plain rows keeps in shared memory.
template <class V>
struct PlainShared {
  u64 pivots[PIVOTS];
  RowWork<typename Element<V>::Compute> work[MAX_ROWS];
};

// Finds the brackets of a block's rows; after it the threads may read `shared.work`.
template <class T, class V, bool SLOPE>
__device__ void find_work(const Rows& p, const BlockShare& share, PlainShared<V>& shared) {
  const int mine = static_cast<int>(threadIdx.x);
  const bool real = mine < share.rows;
  const i64 row = share.first + (real ? mine : 0);
  const i64 batch = share.alike ? share.batch : quotient(row, p.times.targets);
  const T target = target_of<T>(p.times, batch, row - batch * p.times.targets);
  const Samples<T> samples = samples_of<T>(p.times, batch);
  // Rows of several rows of the batch search in memory, by the same code.
  Staged<T> staged = {samples, samples.count, reinterpret_cast<T*>(shared.pivots), NOT_STAGED};
  if (share.alike) {
    staged = stage<PLAIN_BLOCK>(samples, reinterpret_cast<T*>(shared.pivots));
    staged.crowded = share.rows > MAX_ROWS / 2;
  }
  __syncthreads();
  if (real)
    shared.work[mine] =
        work_of<V, SLOPE>(p, bracket_at(staged, target, bound<UP_TO>(staged, target), p.times.outside, false), batch);
  __syncthreads();
}

// Vectors in flight for each thread before the first is used.
constexpr int FLIGHT = 4;

// Every element of a vector the same.
template <class Chunk, class V>
__device__ Chunk filled_with(V value) {
  Chunk chunk;
#pragma unroll
  for (int n = 0; n < static_cast<int>(sizeof(Chunk) / sizeof(V)); ++n) chunk.at[n] = value;
  return chunk;
}

// Threads: thread t takes the vectors t, t + 256, ... of the block's rows laid end to end, of N channels each; channels
// of several modes are moved by element.
template <class V, int N, bool SLOPE, bool ONE_MODE, class Groups>
__device__ void move_rows(const Rows& p, const BlockShare& share, const Groups& groups, const PlainShared<V>& shared) {
  using Compute = typename Element<V>::Compute;
  using Chunk = Vector<V, N>;
  const i64 first_vector = share.tile * p.tile, vectors = (p.last - p.first) / N - first_vector;
  const unsigned across = static_cast<unsigned>(vectors < p.tile ? vectors : p.tile);
  const unsigned total = across * static_cast<unsigned>(share.rows);
  // item / across is a multiplication: exact, as items are below 2^18 and across is at most 2^10.
  const unsigned inverse = 0xffffffffu / across + 1;
  const auto row_of = [&](unsigned item) { return across == 1 ? item : __umulhi(item, inverse); };
  const i64 first_channel = p.first + first_vector * N;
  const V* values = element<V>(p.values.data, first_channel * p.values.channel_step);
  V* output = static_cast<V*>(p.output) + share.first * p.width + p.column + first_channel;
  for (unsigned base = threadIdx.x; base < total; base += PLAIN_BLOCK * FLIGHT) {
    Packed<Chunk> a[FLIGHT], b[FLIGHT];
    Compute weight[FLIGHT];
    unsigned picks[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const unsigned item = base + k * PLAIN_BLOCK;
      if (item >= total) continue;
      const unsigned row = row_of(item);
      const int channel = static_cast<int>(item - row * across) * N;
      const RowWork<Compute> work = shared.work[row];
      weight[k] = work.weight;
      picks[k] = ONE_MODE ? work.flags : pick<V, SLOPE>(work.flags, mode_of(groups, first_channel + channel));
      if ((picks[k] & (ZEROS | NANS)) != 0) continue;
      const V* from = values + work.source + (N == 1 ? channel * p.values.channel_step : channel);
      if (!ONE_MODE && (picks[k] & SHIFTED) != 0) from += p.values.row_step;
      a[k].load(from);
      if ((picks[k] & BOTH) != 0) b[k].load(from + p.values.row_step);
    }
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const unsigned item = base + k * PLAIN_BLOCK;
      if (item >= total) continue;
      if constexpr (!IS_RAW<V>) {
        const Chunk left = a[k].unpack(), right = b[k].unpack();
        Chunk out;
#pragma unroll
        for (int n = 0; n < N; ++n)
          out.at[n] = (picks[k] & BOTH) != 0 ? blend<V, SLOPE>(left.at[n], right.at[n], weight[k]) : left.at[n];
        a[k].pack(out);
      }
      if ((picks[k] & ZEROS) != 0) a[k].pack(filled_with<Chunk>(V{}));
      if ((picks[k] & NANS) != 0) a[k].pack(filled_with<Chunk>(Element<V>::nan()));
      const unsigned row = row_of(item);
      a[k].store_in(output + row * p.width + (item - row * across) * N, p.store_bytes);
    }
  }
}

// A block's share of a signal, with its vectors as wide as they were found to be.
template <class V, class Groups>
__device__ void move_rows_by(
    const Rows& p, const BlockShare& share, const Groups& groups, const PlainShared<V>& shared) {
  if (p.access == BY_16_BYTES) return move_rows<V, WIDE<V>, false, true>(p, share, groups, shared);
  if constexpr (sizeof(V) < 8) {
    if (p.access == BY_8_BYTES) return move_rows<V, WIDE<V> / 2, false, true>(p, share, groups, shared);
  }
  if constexpr (sizeof(V) < 4) {
    if (p.access == BY_4_BYTES) return move_rows<V, WIDE<V> / 4, false, true>(p, share, groups, shared);
  }
  if (p.mode >= 0) move_rows<V, 1, false, true>(p, share, groups, shared);
  else move_rows<V, 1, false, false>(p, share, groups, shared);
}

template <class T, class V, class Groups>
__device__ void plain_rows(const Rows& p, const Groups& groups, unsigned block) {
  alignas(16) __shared__ PlainShared<V> shared;
  const BlockShare share = block_share(p, p.times.targets, block);
  if (is_nothing(share)) return;
  begin();
  find_work<T, V, false>(p, share, shared);
  move_rows_by<V>(p, share, groups, shared);
}

// As above, whatever the type of the times: kernels with much code of their own are not compiled once for each.
template <class V, bool SLOPE, class Groups>
__device__ void plain_rows_of_any(const Rows& p, const Groups& groups, unsigned block) {
  alignas(16) __shared__ PlainShared<V> shared;
  const BlockShare share = block_share(p, p.times.targets, block);
  if (is_nothing(share)) return;
  begin();
  if (p.time_type == F64_TIMES) find_work<double, V, SLOPE>(p, share, shared);
  else if (p.time_type == F32_TIMES) find_work<float, V, SLOPE>(p, share, shared);
  else find_work<i64, V, SLOPE>(p, share, shared);
  if constexpr (SLOPE) move_rows<V, 1, true, false>(p, share, groups, shared);
  else move_rows_by<V>(p, share, groups, shared);
}

}  // namespace robocache
