// Rows whose channels are copied or lie on lines, a block's share of the work at a time.
//
// A block reads some of the source times of its row of the batch into shared memory, a thread finds the bracket of a
// target among them, and all threads then move the channels of the block's rows. What a block does once is the most of
// what a small call takes, and there every instruction counts, for it is fetched first: addresses are worked out before
// the launch before has ended, weights are divided while the rows are on their way.
#pragma once

#include "rows.cuh"

namespace robocache {

// A vector of the result from its two samples; `weight` is the bracket's, in the compute type.
template <bool SLOPE, class V, int N>
__device__ Vector<V, N> blend(const Vector<V, N>& a, const Vector<V, N>& b, typename Element<V>::Compute weight) {
  typename Element<V>::Compute left[N], right[N];
  widen_all(a, left);
  widen_all(b, right);
#pragma unroll
  for (int n = 0; n < N; ++n)
    left[n] = SLOPE ? (right[n] - left[n]) * weight : fused(weight, right[n] - left[n], left[n]);
  return narrowed<V>(left);
}

// What a thread finds out about a row for all the block: where its bracket lies and how its channels are made.
template <class Compute>
struct alignas(16) RowWork {
  u64 source;  // address of channel 0 of sample `left`, or where all channels are of one mode, of the first one read
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
  SHIFTED = 32,   // the first sample read is `left + 1`
  LATE = 64       // the row's weight is not divided yet
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

// `values`: channel 0 of sample 0 of the bracket's row of the batch.
template <class V, bool SLOPE>
__device__ RowWork<typename Element<V>::Compute> work_of(const Rows& p, const Bracket& bracket, const V* values) {
  using Compute = typename Element<V>::Compute;
  const V* source = values + bracket.left * p.values.row_step;
  const Compute weight = static_cast<Compute>(SLOPE ? bracket.rate : bracket.weight);
  unsigned flags = flags_of<Compute, SLOPE>(bracket);
  // Channels of one mode are made alike: the row's pick, once.
  if (!SLOPE && p.mode >= 0) {
    flags = pick<V, SLOPE>(flags, p.mode);
    if ((flags & SHIFTED) != 0) source += p.values.row_step;
  }
  return {reinterpret_cast<u64>(source), weight, flags};
}

// A weight before it is divided: the rows are read meanwhile.
struct alignas(16) Late {
  double distance, span;
};

// Source times of a long row that a block reads between the pivots around its first and its last target: `WINDOW` in the
// plan.
constexpr int WINDOW = 1024;

// What a block of plain rows keeps in shared memory.
template <class V>
struct PlainShared {
  u64 pivots[PIVOTS];
  union {
    struct {
      Late late[MAX_ROWS];
      RowWork<typename Element<V>::Compute> work[MAX_ROWS];
    };
    u64 window[WINDOW];  // before there is work
  };
  int lows[2];  // pivots up to the block's first target, and up to its last
};

// Where the vectors of a block go, which it knows before it waits.
template <class V>
struct Targets : Vectors {
  V* output;  // the first channel of the block's first row

  __device__ Targets(const Rows& p, const BlockShare& share, int channels) : Vectors(p, share, channels) {
    output = static_cast<V*>(p.output) + share.first * p.width + p.column + first_channel;
  }
};

// Where the targets of a block fall in a long row. Those that ascend lie in a window of neighbouring samples, which the
// block reads in one trip to memory if they are not too many; false of a target that must be searched for in memory. All
// threads come.
template <class T, class V>
__device__ bool find_in_window(
    const Staged<T>& staged, T target, int rows, PlainShared<V>& shared, Place<T>& place) {
  const int mine = static_cast<int>(threadIdx.x), shift = staged.shift;
  const int low = bound_of_pivots<UP_TO>(staged.pivots, static_cast<int>(staged.count >> shift), target);
  if (mine == 0) shared.lows[0] = low;
  if (mine == rows - 1) shared.lows[1] = low;
  __syncthreads();
  const i64 first = i64{shared.lows[0]} << shift, all = (i64{shared.lows[1]} + 1) << shift;
  const i64 size = (all < staged.count ? all : staged.count) - first;
  if (size <= 0 || size > WINDOW) return false;
  T* window = reinterpret_cast<T*>(shared.window);
  T read[WINDOW / PLAIN_BLOCK];
#pragma unroll
  for (int k = 0; k < WINDOW / PLAIN_BLOCK; ++k) {
    const int at = k * PLAIN_BLOCK + mine;
    read[k] = staged.samples.at(first + (at < size ? at : 0));
  }
#pragma unroll
  for (int k = 0; k < WINDOW / PLAIN_BLOCK; ++k) window[k * PLAIN_BLOCK + mine] = read[k];
  __syncthreads();
  const bool is_there = shared.lows[0] <= low && low <= shared.lows[1];
  if (is_there) {
    const i64 start = i64{low} << shift, rest = staged.count - start, most = (i64{1} << shift) - 1;
    int within = static_cast<int>(start - first), left = static_cast<int>(rest < most ? rest : most);
    while (left > 0) {
      const int half = left >> 1;
      const bool passed = window[within + half] <= target;
      within = passed ? within + half + 1 : within;
      left = passed ? left - half - 1 : half;
    }
    const i64 count = first + within;
    const bool inside = is_finite(target) && 0 < count && count < staged.count;
    const T from = count > start ? window[within - 1] : staged.pivots[low > 0 ? low - 1 : 0];
    place = {count, from, window[inside ? within : 0], inside};
  }
  __syncthreads();  // its memory becomes the work's
  return is_there;
}

// Begins, and finds the brackets of a block's rows; after it the threads may read `shared.work`, but for weights that
// are late.
template <class T, class V, bool SLOPE, bool LONG = false>
__device__ void find_work(const Rows& p, const BlockShare& share, const Targets<V>& vectors, PlainShared<V>& shared) {
  const int mine = static_cast<int>(threadIdx.x);
  const bool real = mine < share.rows;
  const i64 row = share.first + (real ? mine : 0);
  const i64 batch = share.alike ? share.batch : quotient(row, p.times.targets);
  const T* place_of_target = target_at<T>(p.times, batch, row - batch * p.times.targets);
  const T* times = element<T>(p.times.source_times, batch * p.times.source_row);
  const V* values = element<V>(p.values.data, batch * p.values.batch_step);
  // Rows of several rows of the batch search in memory, by the same code.
  const int shift = shift_of(p.times.samples, share.alike);
  const auto to_read = pivots_of<PLAIN_BLOCK>(times, p.times.source_step, p.times.samples, shift);
  if (is_nothing(share, vectors, place_of_target, values, to_read.at[0], vectors.output)) return;
  ask_ahead(p.ahead, share, values, times, p.times.samples, p.values.row_step, p.last);
  begin();
  T read[PIVOTS / PLAIN_BLOCK];
  to_read.load(read);
  const T target = __ldg(place_of_target);
  const Samples<T> samples = {times, p.times.source_step, count_of(p.times, batch)};
  T* pivots = reinterpret_cast<T*>(shared.pivots);
  const Staged<T> staged = {samples, samples.count, pivots, shift, share.rows > MAX_ROWS / 2};
  to_read.keep(read, static_cast<int>(samples.count >> shift), pivots);
  __syncthreads();
  Place<T> place;
  bool found = false;
  if (LONG) found = find_in_window(staged, target, share.rows, shared, place);
  if (real && !found) place = place_of(staged, target);
  if (real) {
    if (SLOPE || IS_RAW<V> || p.mode != LINEAR || !place.inside) {
      const Bracket bracket = bracket_at(staged, target, place.count, p.times.outside, false);
      shared.work[mine] = work_of<V, SLOPE>(p, bracket, values);
    } else {
      const V* source = values + (place.count - 1) * p.values.row_step;
      shared.late[mine] = {since(target, place.from), since(place.to, place.from)};
      shared.work[mine] = {reinterpret_cast<u64>(source), 0, target != place.from ? BOTH | LATE : 0u};
    }
  }
  __syncthreads();
}

// Divides the weights that are late, all threads together.
template <class V>
__device__ void divide_late(const Targets<V>& vectors, PlainShared<V>& shared) {
  RowWork<typename Element<V>::Compute>& mine = shared.work[threadIdx.x];
  if (threadIdx.x < vectors.rows && (mine.flags & LATE) != 0) {
    Late late = shared.late[threadIdx.x];
    not_before(late.distance);
    mine.weight = static_cast<typename Element<V>::Compute>(late.distance / late.span);
  }
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

// How a launch makes its channels: all are copied, all lie on lines or (SLOPES) are lines' slopes, or each has a mode.
enum Making { COPIES, LINES, SLOPES, ANY_MODES };

// Moves COUNT vectors of a thread, 256 apart, from the vector `first` of the block on. Nothing here is left out for
// some threads but the stores: a load that may not happen, or whose result may not be used, makes the compiler wait for
// the loads before it.
template <int COUNT, class V, int N, Making MAKING, class Groups>
__device__ void move_vectors(
    const Rows& p, const Targets<V>& vectors, const Groups& groups, PlainShared<V>& shared, unsigned first) {
  using Compute = typename Element<V>::Compute;
  using Chunk = Vector<V, N>;
  constexpr bool ONE_MODE = MAKING == COPIES || MAKING == LINES, BLENDS = MAKING != COPIES && !IS_RAW<V>;
  Packed<Chunk> a[COUNT], b[COUNT];
  unsigned picks[COUNT];
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
    const unsigned mine = first + k * PLAIN_BLOCK + threadIdx.x, item = mine < vectors.total ? mine : vectors.total - 1;
    const unsigned row = vectors.row(item);
    const i64 channel = vectors.template channel<N>(item);
    picks[k] = shared.work[row].flags;
    if (!ONE_MODE) picks[k] = pick<V, MAKING == SLOPES>(picks[k], mode_of(groups, channel));
    const V* from =
        reinterpret_cast<const V*>(shared.work[row].source) + (N == 1 ? channel * p.values.channel_step : channel);
    if (!ONE_MODE && (picks[k] & SHIFTED) != 0) from += p.values.row_step;
    // What is filled has a sample too.
    a[k].load(from);
    if (BLENDS) b[k].load(from + ((picks[k] & BOTH) != 0 ? p.values.row_step : 0));
  }
  if (MAKING == LINES && first == 0) divide_late(vectors, shared);
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
    const unsigned item = first + k * PLAIN_BLOCK + threadIdx.x;
    const unsigned row = vectors.row(item < vectors.total ? item : 0);
    if constexpr (BLENDS) {
      const Compute weight = shared.work[row].weight;
      Packed<Chunk> blended;
      blended.pack(blend<MAKING == SLOPES>(a[k].unpack(), b[k].unpack(), weight));
      // A late weight can be too small for its type.
      if ((picks[k] & BOTH) != 0 && (MAKING == SLOPES || weight != Compute(0))) a[k] = blended;
    }
    if ((picks[k] & (ZEROS | NANS)) != 0)
      a[k].pack(filled_with<Chunk>((picks[k] & ZEROS) != 0 ? V{} : Element<V>::nan()));
    if (item < vectors.total)
      a[k].store_in(vectors.output + row * p.width + (item - row * vectors.across) * N, p.store_bytes);
  }
}

// Threads: thread t takes the vectors t, t + 256, ... of the block's rows laid end to end, of N channels each; channels
// of several modes are moved by element.
template <class V, int N, Making MAKING, class Groups>
__device__ void move_rows(const Rows& p, const Targets<V>& vectors, const Groups& groups, PlainShared<V>& shared) {
  for (unsigned first = 0; first < vectors.total; first += FLIGHT * PLAIN_BLOCK) {
    const unsigned left = vectors.total - first;
    if (left <= PLAIN_BLOCK)
      move_vectors<1, V, N, MAKING>(p, vectors, groups, shared, first);
    else if (MAKING == LINES && left <= 2 * PLAIN_BLOCK)
      move_vectors<2, V, N, MAKING>(p, vectors, groups, shared, first);
    else
      move_vectors<FLIGHT, V, N, MAKING>(p, vectors, groups, shared, first);
  }
}

// A block's share of a signal, with its vectors as wide as they were found to be; but for lines in vectors of 16 bytes,
// which `move_rows_of` asks for first: each branch on the way is a wait for instructions.
template <class V, Making MAKING, class Groups>
__device__ void move_rows_by(
    const Rows& p, const Targets<V>& vectors, const Groups& groups, PlainShared<V>& shared) {
  if (MAKING != LINES && p.access == BY_16_BYTES) return move_rows<V, WIDE<V>, MAKING>(p, vectors, groups, shared);
  if constexpr (sizeof(V) < 8) {
    if (p.access == BY_8_BYTES) return move_rows<V, WIDE<V> / 2, MAKING>(p, vectors, groups, shared);
  }
  if constexpr (sizeof(V) < 4) {
    if (p.access == BY_4_BYTES) return move_rows<V, WIDE<V> / 4, MAKING>(p, vectors, groups, shared);
  }
  move_rows<V, 1, MAKING>(p, vectors, groups, shared);
}

template <class V, class Groups>
__device__ void move_rows_of(
    const Rows& p, const Targets<V>& vectors, const Groups& groups, PlainShared<V>& shared) {
  if constexpr (!IS_RAW<V>) {
    if (p.mode == LINEAR && p.access == BY_16_BYTES)
      return move_rows<V, WIDE<V>, LINES>(p, vectors, groups, shared);
    if (p.mode == LINEAR) return move_rows_by<V, LINES>(p, vectors, groups, shared);
  }
  if (p.mode >= 0) move_rows_by<V, COPIES>(p, vectors, groups, shared);
  else move_rows<V, 1, ANY_MODES>(p, vectors, groups, shared);
}

// LONG: of rows that the plan found long, for blocks of many targets.
template <class T, class V, bool LONG = false, class Groups>
__device__ void plain_rows(const Rows& p, const Groups& groups, unsigned block) {
  alignas(16) __shared__ PlainShared<V> shared;
  const BlockShare share = block_share(p, p.times.targets, block);
  const Targets<V> vectors(p, share, elements_of<V>(p.access));
  find_work<T, V, false, LONG>(p, share, vectors, shared);
  move_rows_of<V>(p, vectors, groups, shared);
}

// As above, whatever the type of the times: kernels with much code of their own are not compiled once for each.
template <class V, bool SLOPE, class Groups>
__device__ void plain_rows_of_any(const Rows& p, const Groups& groups, unsigned block) {
  alignas(16) __shared__ PlainShared<V> shared;
  const BlockShare share = block_share(p, p.times.targets, block);
  const Targets<V> vectors(p, share, SLOPE ? 1 : elements_of<V>(p.access));
  if (p.time_type == F64_TIMES) find_work<double, V, SLOPE>(p, share, vectors, shared);
  else if (p.time_type == F32_TIMES) find_work<float, V, SLOPE>(p, share, vectors, shared);
  else find_work<i64, V, SLOPE>(p, share, vectors, shared);
  if constexpr (SLOPE) move_rows<V, 1, SLOPES>(p, vectors, groups, shared);
  else move_rows_of<V>(p, vectors, groups, shared);
}

}  // namespace robocache
