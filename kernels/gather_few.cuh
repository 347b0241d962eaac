// Gradients of rows that few targets touch, from these: all else of the output is zero before.
//
// A block takes neighbouring targets of one row of the batch, finds their brackets, and gathers the rows that none of
// the targets before them touches, from its own targets and a few after them. Where very many lie in one bracket it takes
// the general way for that; where targets do not ascend all blocks share out the samples, those without targets too.
#pragma once

#include "gather_plain.cuh"

namespace robocache {

// Targets of a block at most: `MOST_OF_FEW` in the plan. It has a thread for each, for the one before them, and for
// others after them, which may touch the same rows.
constexpr int MOST_OF_FEW = 240;

// Gathers some rows of one row of the batch in the general way, so many at a time.
template <class T, class V>
__device__ void gather_rest(
    const ResampleBackwardParams& p, const BlockShare& share, i64 first, i64 end,
    GatherShared<typename Element<V>::Compute>& shared) {
  const i64 batch_first = share.batch * p.times.samples;
  for (; first < end; first += MAX_ROWS) {
    const int rows = static_cast<int>(end - first < MAX_ROWS ? end - first : MAX_ROWS);
    __syncthreads();
    gather_any<T, V>(p, BlockShare{batch_first + first, rows, true, share.batch, share.tile}, shared);
  }
}

// The targets that a block knows the brackets of, from the one before its own on: where each begins, and how it is
// placed among the row's.
struct Neighbours {
  const i64* lefts;
  int size;    // with the one before
  bool begins; // no target is before the block's own
  bool ends;   // no target is after them

  // Whether the target at `place`, of the block's own, is the first to touch a row.
  __device__ bool is_first(int place, i64 row) const { return (place == 1 && begins) || lefts[place - 1] < row - 1; }
  // Whether all targets that touch a row, of the block's own and after, are here.
  __device__ bool has_all(i64 row) const { return ends || lefts[size - 1] > row; }
};

// Gathers the rows that a block's own targets are the first to touch. Threads: for each of these targets one for each
// vector of the sample its bracket begins at, then of the next.
template <class V, class Width>
__device__ void gather_touched(
    const ResampleBackwardParams& p, const BlockShare& share, const Vectors& vectors, const Neighbours& near,
    const Gift<typename Element<V>::Compute>* gifts) {
  const i64 target = share.first - share.batch * p.times.targets - 1;  // of place 0
  const V* all = element<V>(p.grad.data, share.batch * p.grad.batch_step + target * p.grad.row_step);
  V* output = static_cast<V*>(p.output) + share.batch * p.times.samples * p.width;
  for (unsigned item = threadIdx.x; item < vectors.total; item += PLAIN_BLOCK) {
    const unsigned pair = vectors.row(item);
    const int place = static_cast<int>(pair >> 1) + 1;
    const i64 row = near.lefts[place] + (pair & 1), channel = vectors.template channel<Width::STEP>(item);
    if (row >= p.times.samples || !near.is_first(place, row) || !near.has_all(row)) continue;
    Received received = {place, place, place};
    while (received.middle < near.size && near.lefts[received.middle] < row) ++received.middle;
    received.end = received.middle;
    while (received.end < near.size && near.lefts[received.end] <= row) ++received.end;
    RowSums<V, Width> sums(p, channel);
    sums.template add_few<EAGER>(gifts, all + channel * p.grad.channel_step + place * p.grad.row_step, received);
    sums.store(output + row * p.width + channel);
  }
}

// A block's share of targets that are few. It always follows the launch that makes the output zero.
template <class T, class V>
__device__ void backward_rows_of_few(const ResampleBackwardParams& p) {
  using Compute = typename Element<V>::Compute;
  alignas(16) __shared__ GatherShared<Compute> shared;
  const BlockShare share = block_share(p, p.times.targets, blockIdx.x);
  const i64 first = share.first - share.batch * p.times.targets, samples = p.times.samples;
  if (p.disorder != nullptr) begin();
  const Samples<T> row = samples_of<T>(p.times, share.batch);
  const int shift = shift_of(samples, true);
  const auto to_read = pivots_of<PLAIN_BLOCK>(row.first, row.step, samples, shift);
  T read[PIVOTS / PLAIN_BLOCK];
  to_read.load(read);
  // The target of a thread is the one before the block's first, for thread 0.
  const i64 mine = first - 1 + threadIdx.x, left = p.times.targets - (first - 1);
  const i64 most = share.rows > 0 ? share.rows + (PLAIN_BLOCK - MOST_OF_FEW) : 0;
  const int size = static_cast<int>(left < most ? left : most);
  const bool real = mine >= 0 && static_cast<int>(threadIdx.x) < size;
  const T target = target_of<T>(p.times, share.batch, real ? mine : 0);
  T* pivots = reinterpret_cast<T*>(shared.pivots);
  const Staged<T> staged = {row, row.count, pivots, shift, size > MAX_ROWS / 2};
  const bool disorder = disorder_of_row<T>(p, share.batch);
  to_read.keep(read, static_cast<int>(row.count >> shift), pivots);
  if (__syncthreads_or(disorder) != 0) {
    begin();
    const i64 part = first / p.rows_per_share, each = (samples + p.chunks - 1) / p.chunks, from = part * each;
    return gather_rest<T, V>(p, share, from, from + each < samples ? from + each : samples, shared);
  }
  if (share.rows <= 0) return;
  i64* lefts = shared.before;
  if (real) {
    const i64 before = bound<UP_TO>(staged, target), last = row.count - 1, place = before - 1;
    shared.gifts[threadIdx.x] = gift_of<Compute>(p, bracket_at(staged, target, before, p.times.outside, false));
    lefts[threadIdx.x] = place < 0 ? 0 : (place < last ? place : last);
  }
  __syncthreads();
  const Neighbours near = {lefts, size, first == 0, left <= size};
  BlockShare pairs = share;
  pairs.rows *= 2;
  begin();
  by_access<V>(p, [&](auto width) {
    using Width = decltype(width);
    gather_touched<V, Width>(p, share, Moves<V, Width>(p).vectors(p, pairs), near, shared.gifts);
  });
  // Only the last bracket's two rows can be touched by targets that are not here.
  const i64 last = lefts[share.rows];
  const bool is_first = near.begins || lefts[0] < last - 1, is_next = near.begins || lefts[0] < last;
  const i64 from = is_first && !near.has_all(last) ? last : last + 1;
  const i64 end = is_next && !near.has_all(last + 1) ? last + 2 : last + 1;
  if (from < end) gather_rest<T, V>(p, share, from, end < samples ? end : samples, shared);
}

}  // namespace robocache
