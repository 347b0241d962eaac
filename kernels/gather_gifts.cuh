// What targets give the samples beside them, worked out once for all channels of a block's rows.
//
// Where targets ascend, those that touch a block's samples are neighbours, and a search among the targets says which;
// where they do not, the block reads all of them and keeps those that touch. What a kept target gives is in shared
// memory; then all threads gather the channels (gather_plain.cuh). The common case is short code of its own
// (`keep_gifts`): a block spends as long on fetching instructions as on its few targets.
#pragma once

#include "gather.cuh"

namespace robocache {

// Targets that a block keeps at a time.
constexpr int KEPT_TARGETS = 512;
// Targets that 32 bits count.
constexpr i64 MOST_TARGETS = 0x7fffffff;

// What a target gives the samples beside it. Where all channels are of one mode: the parts of its gradient that go to
// `left` and `left + 1`, and a bit of the flags for each that is given; else the bracket's weight or rate and its
// Flags. Of targets that do not ascend, `touched` says which row `left` is, counted from the one before the block's,
// and which of the places that were read together the target is.
template <class Compute>
struct alignas(16) Gift {
  Compute parts[2];
  unsigned flags, touched;
};
constexpr int PLACE_SHIFT = 16;
static_assert(MAX_ROWS < 1 << PLACE_SHIFT && KEPT_TARGETS <= 1 << (32 - PLACE_SHIFT), "what was touched");

// Where the gifts of a row lie among those that are kept: from `begin` to `end`, up to `middle` of brackets that end at
// the row, then of brackets that begin there.
struct Received {
  int begin, middle, end;
};

// A block's rows and targets in shared memory. Places are those of [B * T].
template <class Compute>
struct GatherShared {
  u64 pivots[PIVOTS];        // of the target times of one row
  u64 nearby[PIVOTS];        // source times from the sample before the block's to the one after them
  Gift<Compute> gifts[KEPT_TARGETS];
  union {
    struct {
      int starts[MAX_ROWS + 2];  // of ascending targets: those before the brackets of the sample before a row
      int begins[MAX_ROWS + 2];  // the same, of those that are kept
    };
    struct {
      // Where brackets begin at the sample before a row, at it, after it.
      i64 before[MAX_ROWS], at[MAX_ROWS], after[MAX_ROWS];
      int of_warp[PLAIN_BLOCK / WARP];
    };
  };
};

// The places that a block reads: those that touch its rows, or all of its rows of the batch where they do not ascend.
struct Places {
  i64 first, count;
  bool ascend;
};

// Samples of which some neighbours are in shared memory.
template <class T>
struct Nearby {
  Samples<T> samples;
  i64 count;
  const T* near;
  i64 first;
  int size;

  __device__ T at(i64 sample) const {
    const i64 place = sample - first;
    return static_cast<u64>(place) < static_cast<u64>(size) ? near[place] : samples.at(sample);
  }
};

// For a time that lies among the neighbours.
template <Side SIDE, class T>
__device__ i64 bound(const Nearby<T>& nearby, T time) {
  return nearby.first + bound_of_pivots<SIDE>(nearby.near, nearby.size, time);
}

// The samples around a block's rows, of one row of the batch, where it has them: one before, and two after.
struct Around {
  i64 first;
  i64 wanted;

  __device__ Around(i64 sample, int rows) : first(sample > 0 ? sample - 1 : 0), wanted(sample + rows + 1 - first) {}
  // How many of them a row of `count` samples has.
  __device__ int size(i64 count) const {
    const i64 left = count - first;
    return static_cast<int>(left < 0 ? 0 : (left < wanted ? left : wanted));
  }
};
static_assert(MAX_ROWS + 2 <= PIVOTS, "what is around a block");

template <class T>
__device__ Nearby<T> nearby_of(const Samples<T>& samples, const Around& around, const T* near) {
  return {samples, samples.count, near, around.first, around.size(samples.count)};
}

template <class T>
__device__ Samples<T> targets_of(const Timeline& times, i64 batch) {
  return {element<T>(times.target_times, batch * times.target_row), times.target_step, times.targets};
}

// Targets that a thread looks at together.
constexpr int LOOKED = 4;

// Whether a target does not come after the one before it.
template <class T>
__device__ bool descends(const Samples<T>& targets, i64 column) {
  const T target = targets.at(column);
  return !((column > 0 ? targets.at(column - 1) : target) <= target);
}

// The same of the column and the next ones that are a block apart, all loaded together; past the last it is the last.
template <int COUNT, class T>
__device__ bool any_descends(const Samples<T>& targets, i64 column) {
  T here[COUNT], before[COUNT];
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
    const i64 next = column + k * PLAIN_BLOCK, at = next < targets.count ? next : targets.count - 1;
    here[k] = targets.at(at);
    before[k] = targets.at(at > 0 ? at - 1 : 0);
  }
  bool found = false;
#pragma unroll
  for (int k = 0; k < COUNT; ++k) found |= !(before[k] <= here[k]);
  return found;
}

// Targets of ascending ones that come before those whose bracket begins at `sample`.
template <class Targets, class Times>
__device__ i64 first_from(const Targets& targets, const Times& samples, i64 sample) {
  if (sample <= 0) return 0;
  return sample >= samples.count ? targets.count : bound<BEFORE>(targets, samples.at(sample));
}

// Whether the targets of a row of the batch do not lie as `first_from` takes it; a thread's part of the answer.
template <class T>
__device__ bool disorder_of_row(const ResampleBackwardParams& p, i64 batch) {
  const i64 targets = p.times.targets;
  bool found = false;
  if (p.disorder != nullptr) {
    const i64 row = p.rows == 1 ? 0 : batch, last = ((row + 1) * targets - 1) / ORDER_TILE;
    for (i64 tile = row * targets / ORDER_TILE + threadIdx.x; tile <= last; tile += PLAIN_BLOCK)
      found |= p.disorder[tile] != 0;
  } else {
    const Samples<T> row = targets_of<T>(p.times, batch);
    i64 begin = 0;
    for (; begin + PLAIN_BLOCK < targets; begin += LOOKED * PLAIN_BLOCK)
      found |= any_descends<LOOKED>(row, begin + threadIdx.x);
    if (begin < targets) found |= any_descends<1>(row, begin + threadIdx.x);
  }
  // Where a line goes on past the last sample, that sample's bracket lies among those of the one before.
  if (p.times.outside == EXTRAPOLATE && targets > 0) {
    const Samples<T> samples = samples_of<T>(p.times, batch);
    found |= !(target_of<T>(p.times, batch, targets - 1) <= samples.at(samples.count - 1));
  }
  return found;
}

// The same of some rows.
template <class T>
__device__ bool disorder_of_rows(const ResampleBackwardParams& p, i64 first, i64 batches) {
  const i64 targets = p.times.targets, all = batches * targets;
  bool found = false;
  if (p.disorder != nullptr || batches == 1 || p.times.outside == EXTRAPOLATE) {
    for (i64 batch = first; batch < first + batches; ++batch) found |= disorder_of_row<T>(p, batch);
    return found;
  }
  for (i64 place = threadIdx.x; place < all; place += PLAIN_BLOCK) {
    const i64 row = quotient(place, targets);
    found |= descends(targets_of<T>(p.times, first + row), place - row * targets);
  }
  return found;
}

// Of the places from `first` on whose gifts are kept.
template <class Compute>
__device__ Received received_by(const GatherShared<Compute>& shared, unsigned row, i64 first, int count) {
  const auto within = [&](i64 place) {
    const i64 at = place - first;
    return static_cast<int>(at < 0 ? 0 : (at > count ? count : at));
  };
  return {within(shared.before[row]), within(shared.at[row]), within(shared.after[row])};
}

// What a block reads of the times of its row of the batch: pivots of the targets, and the samples around its rows.
template <class T>
struct TimesOfBlock {
  Around around;
  int shift;
  TimesToRead<PLAIN_BLOCK, T> pivots, near;

  __device__ TimesOfBlock(const ResampleBackwardParams& p, const BlockShare& share)
      : around(share.first - share.batch * p.times.samples, share.rows), shift(shift_of(p.times.targets, share.alike)),
        pivots(pivots_of<PLAIN_BLOCK>(
            target_at<T>(p.times, share.batch, 0), p.times.target_step, p.times.targets, shift)),
        near(element<T>(p.times.source_times, share.batch * p.times.source_row + around.first * p.times.source_step),
             p.times.source_step, share.alike ? around.size(p.times.samples) : 0) {}

  // All threads, which must meet before the times are used; of `samples` that are valid. Returns what `look` does, whose
  // loads are on their way together with these.
  template <class Shared, class Look>
  __device__ bool read(const ResampleBackwardParams& p, i64 samples, Shared& shared, const Look& look) const {
    T targets[PIVOTS / PLAIN_BLOCK], sources[PIVOTS / PLAIN_BLOCK];
    pivots.load(targets);
    near.load(sources);
    const bool seen = look();
    pivots.keep(targets, static_cast<int>(p.times.targets >> shift), reinterpret_cast<T*>(shared.pivots));
    near.keep(sources, around.size(samples), reinterpret_cast<T*>(shared.nearby));
    return seen;
  }
};

// Finds which places touch which rows of a block.
template <class T, class Compute>
__device__ Places find_places(
    const ResampleBackwardParams& p, const BlockShare& share, GatherShared<Compute>& shared) {
  const int mine = static_cast<int>(threadIdx.x);
  const bool real = mine < share.rows;
  const i64 row = share.first + (real ? mine : 0), targets = p.times.targets;
  const i64 batch = share.alike ? share.batch : quotient(row, p.times.samples), sample = row - batch * p.times.samples;
  const i64 first_batch = share.alike ? batch : quotient(share.first, p.times.samples);
  const i64 batches = share.alike ? 1 : quotient(share.first + share.rows - 1, p.times.samples) + 1 - first_batch;
  const Samples<T> samples = samples_of<T>(p.times, batch), row_targets = targets_of<T>(p.times, batch);
  // Rows of several rows of the batch search in memory, by the same code.
  const TimesOfBlock<T> times(p, share);
  const bool disorder =
      times.read(p, samples.count, shared, [&] { return disorder_of_rows<T>(p, first_batch, batches); });
  const Staged<T> staged = {row_targets, row_targets.count, reinterpret_cast<T*>(shared.pivots), times.shift};
  const bool ascend = __syncthreads_or(disorder) == 0;
  i64* const places[] = {shared.before, shared.at, shared.after};
#pragma unroll 1
  for (int k = 0; k < 3 && ascend && real; ++k)
    places[k][mine] = batch * targets + first_from(staged, samples, sample - 1 + k);
  __syncthreads();
  if (!ascend) return {first_batch * targets, batches * targets, false};
  const i64 first = shared.before[0], end = shared.after[share.rows - 1];
  return {first, end > first ? end - first : 0, true};
}

template <class Compute>
__device__ Gift<Compute> gift_of(const ResampleBackwardParams& p, const Bracket& bracket) {
  const bool slope = p.slope != 0;
  const Compute weight = static_cast<Compute>(slope ? bracket.rate : bracket.weight);
  const unsigned flags = slope ? flags_of<Compute, true>(bracket) : flags_of<Compute, false>(bracket);
  if (p.mode < 0) return {{weight, weight}, flags, 0};
  Gift<Compute> gift = {};
  for (int side = 0; side < 2; ++side) {
    const bool given = part_of(weight, flags, static_cast<Mode>(p.mode), slope, side != 0, &gift.parts[side]);
    gift.flags |= static_cast<unsigned>(given) << side;
  }
  return gift;
}

// Works out what the places `first` to `first + count` give; returns how many are kept: all, or of those that do not
// ascend the ones that touch the block's rows, in their order. All threads come, and meet before and after. Compiled once
// for all widths of vectors.
template <class T, class Compute>
__device__ __noinline__ int keep_places(
    const ResampleBackwardParams& p, BlockShare share, GatherShared<Compute>& shared, Places places, i64 first,
    int count) {
  const i64 targets = p.times.targets;
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const bool is_near = share.alike && places.ascend;
  const Around around(share.first - share.batch * p.times.samples, share.rows);
  const T* near = reinterpret_cast<const T*>(shared.nearby);
  int kept = 0;
  for (int base = 0; base < count; base += PLAIN_BLOCK) {
    const int at = base + static_cast<int>(threadIdx.x);
    const i64 place = first + (at < count ? at : 0), batch = share.alike ? share.batch : quotient(place, targets);
    const Samples<T> samples = samples_of<T>(p.times, batch);
    const T target = target_of<T>(p.times, batch, place - batch * targets);
    Nearby<T> nearby = {samples, samples.count, near, 0, 0};
    if (is_near) nearby = nearby_of(samples, around, near);
    const i64 before = is_near ? bound<UP_TO>(nearby, target) : bound<UP_TO>(samples, target);
    const Bracket bracket = bracket_at(nearby, target, before, p.times.outside, false);
    if (places.ascend) {
      if (at < count) shared.gifts[at] = gift_of<Compute>(p, bracket);
      continue;
    }
    const i64 from = batch * p.times.samples + bracket.left - (share.first - 1);
    const bool touches = at < count && 0 <= from && from <= share.rows;
    const unsigned all = __ballot_sync(ALL_LANES, touches);
    if (lane == 0) shared.of_warp[warp] = __popc(all);
    __syncthreads();
    int index = kept + __popc(all & ((1u << lane) - 1));
    for (int other = 0; other < PLAIN_BLOCK / WARP; ++other) {
      if (other < warp) index += shared.of_warp[other];
      kept += shared.of_warp[other];
    }
    if (touches) {
      shared.gifts[index] = gift_of<Compute>(p, bracket);
      shared.gifts[index].touched = static_cast<unsigned>(from) | static_cast<unsigned>(at) << PLACE_SHIFT;
    }
    __syncthreads();
  }
  return places.ascend ? count : kept;
}

// Targets that ascend, of one row of the batch: those that touch a block's rows, and the samples around these.
template <class T>
struct Touching {
  const Staged<T>& targets;
  const Nearby<T>& nearby;
  int first, count;
};

// What the target at a place of their row gives.
template <class Compute, class T>
__device__ Gift<Compute> find_gift(const ResampleBackwardParams& p, const Touching<T>& touching, int place) {
  const T target = touching.targets.at(place);
  const i64 before = bound<UP_TO>(touching.nearby, target);
  return gift_of<Compute>(p, bracket_at(touching.nearby, target, before, p.times.outside, false));
}

// Asks for a block's part, begins, finds which targets touch its rows of one row of the batch, where these ascend, and
// calls `use` with them and with `shared.starts`, which says of which row; returns what it returns, or else -1.
template <class T, class V, class Use>
__device__ i64 with_touching(
    const ResampleBackwardParams& p, const BlockShare& share, const Vectors& vectors,
    GatherShared<typename Element<V>::Compute>& shared, const Use& use) {
  const i64 sample = share.first - share.batch * p.times.samples;
  const TimesOfBlock<T> times(p, share);
  if (is_nothing(share, vectors, times.pivots.at[0], times.near.at[0])) return -1;
  const V* grad = element<V>(p.grad.data, share.batch * p.grad.batch_step);
  const T* target_times = target_at<T>(p.times, share.batch, 0);
  ask_ahead(p.ahead, share, grad, target_times, p.times.targets, p.grad.row_step, p.last);
  begin();
  const Samples<T> samples = samples_of<T>(p.times, share.batch), targets = targets_of<T>(p.times, share.batch);
  const bool disorder = times.read(p, samples.count, shared, [&] { return disorder_of_row<T>(p, share.batch); });
  const Staged<T> staged = {targets, targets.count, reinterpret_cast<T*>(shared.pivots), times.shift};
  const Nearby<T> nearby = nearby_of(samples, times.around, reinterpret_cast<T*>(shared.nearby));
  if (__syncthreads_or(disorder) != 0) return -1;
  const int last = share.rows + 1;
  for (int at = threadIdx.x; at <= last; at += PLAIN_BLOCK)
    shared.starts[at] = static_cast<int>(first_from(staged, nearby, sample - 1 + at));
  __syncthreads();
  const int first = shared.starts[0], end = shared.starts[last], count = end > first ? end - first : 0;
  return use(Touching<T>{staged, nearby, first, count});
}

// Keeps the gifts of a block's rows, where these are not too many; returns the place of the first among the row's
// targets, or -1.
template <class T, class Compute>
__device__ i64 keep_gifts(
    const ResampleBackwardParams& p, const BlockShare& share, const Touching<T>& touching,
    GatherShared<Compute>& shared) {
  const int first = touching.first, count = touching.count, last = share.rows + 1;
  if (count > KEPT_TARGETS) return -1;
  // Samples that do not ascend may begin anywhere; what is read stays within what is kept.
  for (int at = threadIdx.x; at <= last; at += PLAIN_BLOCK) {
    const int begin = shared.starts[at] - first;
    shared.begins[at] = begin < 0 ? 0 : (begin > count ? count : begin);
  }
  for (int place = threadIdx.x; place < count; place += PLAIN_BLOCK)
    shared.gifts[place] = find_gift<Compute>(p, touching, first + place);
  __syncthreads();
  return first;
}

}  // namespace robocache
