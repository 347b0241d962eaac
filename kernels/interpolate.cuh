// Where a target falls and which mode a channel has: the device half of src/ops/interpolate.rs and src/ops/modes.rs.
#pragma once

#include "common.cuh"

namespace robocache {

enum Mode : int { LINEAR, PREVIOUS, NEXT, NEAREST, ANGLE, SLERP, PCHIP };
enum Outside : int { HOLD, FILL_NAN, FILL_ZERO, EXTRAPOLATE };
enum Fill : unsigned { NONE, ZERO, NOT_A_NUMBER };

struct alignas(16) Bracket {
  i64 left;       // the last sample at or before the target, or the one that stands for it
  double weight;  // (t - time[left]) / (time[left + 1] - time[left])
  double rate;    // 1 / (time[left + 1] - time[left]); 0 where the result does not move with the times
  unsigned fill;
  unsigned pad;
  double before, after;  // spans beside the bracket, in its own; 0 where a curve ends there, or none is asked
};
static_assert(sizeof(Bracket) == 48, "mirrors ops::interpolate::Bracket");

struct Timeline {
  const void* source_times;    // [B, S]
  const void* target_times;    // [B, T]
  const void* source_lengths;  // [B] or null
  i64 source_row, source_step;
  i64 target_row, target_step;
  i64 lengths_step;
  i64 batch, samples, targets;
  int lengths_bytes;  // 4 or 8
  int outside;
};
static_assert(sizeof(Timeline) == 96, "mirrors ops::timeline_cuda::Times");

constexpr int MAX_GROUPS = 16;

struct Groups {
  i64 ends[MAX_GROUPS];    // one past the last channel of each; of curved launches, one past its last unit
  i64 starts[MAX_GROUPS];  // the first channel of each
  int modes[MAX_GROUPS];
  int count;
  int pad;

  __device__ i64 end(int group) const { return ends[group]; }
  __device__ i64 start(int group) const { return starts[group]; }
  __device__ Mode mode(int group) const { return static_cast<Mode>(modes[group]); }
};
static_assert(sizeof(Groups) == 328, "mirrors ops::timeline_cuda::Groups");

template <class Groups>
__device__ Mode mode_of(const Groups& groups, i64 channel) {
  int group = 0;
  while (group + 1 < groups.count && channel >= groups.end(group)) ++group;
  return groups.mode(group);
}

// Channels that are blended together: a quaternion, or one.
struct Unit {
  Mode mode;
  i64 channel;
};

template <class Groups>
__device__ Unit unit_of(const Groups& groups, i64 unit) {
  int group = 0;
  while (group + 1 < groups.count && unit >= groups.end(group)) ++group;
  const Mode mode = groups.mode(group);
  const i64 place = unit - (group == 0 ? 0 : groups.end(group - 1));
  return {mode, groups.start(group) + (mode == SLERP ? 4 * place : place)};
}

// `later - earlier` in the times' type, integers exactly (a span of more than 2^63 ticks too).
__device__ inline double since(i64 later, i64 earlier) {
  return static_cast<double>(static_cast<u64>(later) - static_cast<u64>(earlier));
}
__device__ inline double since(double later, double earlier) { return later - earlier; }
__device__ inline double since(float later, float earlier) { return static_cast<double>(later - earlier); }

__device__ inline bool is_finite(i64) { return true; }
__device__ inline bool is_finite(double t) { return (__double2hiint(t) & 0x7ff00000) != 0x7ff00000; }
__device__ inline bool is_finite(float t) { return (__float_as_int(t) & 0x7f800000) != 0x7f800000; }

// The valid source times of one row.
template <class T>
struct Samples {
  const T* first;
  i64 step;
  i64 count;

  __device__ T at(i64 sample) const { return __ldg(first + sample * step); }
};

// How many source times of a row are valid.
__device__ inline i64 count_of(const Timeline& times, i64 row) {
  i64 count = times.samples;
  if (times.source_lengths != nullptr) {
    const i64 offset = row * times.lengths_step;
    const i64 stated = times.lengths_bytes == 4 ? *element<int>(times.source_lengths, offset)
                                                : *element<i64>(times.source_lengths, offset);
    count = stated < 1 ? 1 : (stated < count ? stated : count);
  }
  return count;
}

template <class T>
__device__ Samples<T> samples_of(const Timeline& times, i64 row) {
  return {element<T>(times.source_times, row * times.source_row), times.source_step, count_of(times, row)};
}

template <class T>
__device__ const T* target_at(const Timeline& times, i64 batch, i64 target) {
  return element<T>(times.target_times, batch * times.target_row + target * times.target_step);
}

template <class T>
__device__ T target_of(const Timeline& times, i64 batch, i64 target) {
  return __ldg(target_at<T>(times, batch, target));
}

// Which samples a search counts: those at or before a time, or those before it.
enum Side { UP_TO, BEFORE };

template <Side SIDE, class T>
__device__ bool counts(T sample, T time) {
  return SIDE == UP_TO ? sample <= time : sample < time;
}

// Samples up to or before `time`, found by one thread, of which at least `low` and at most `low + length` are: in steps
// of 8 that wait for one load, where halving three times waits for three. No load depends on a branch: one that may not
// happen makes the compiler wait for those before it.
template <Side SIDE, class T>
__device__ i64 bound_between(const Samples<T>& samples, T time, i64 low, i64 length) {
  constexpr int PARTS = 8;
  while (length > 0) {
    const i64 step = (length + PARTS - 1) / PARTS;
    T read[PARTS];
#pragma unroll
    for (int k = 0; k < PARTS; ++k) {
      const i64 pivot = (k + 1) * step - 1;
      read[k] = samples.at(low + (pivot < length ? pivot : length - 1));
    }
    int passed = 0;
#pragma unroll
    for (int k = 0; k < PARTS; ++k) passed += (k + 1) * step <= length && counts<SIDE>(read[k], time);
    low += passed * step;
    length = length - passed * step < step ? length - passed * step : step - 1;
  }
  return low;
}

// The same in the fewest loads.
template <Side SIDE, class T>
__device__ i64 bound_by_halves(const Samples<T>& samples, T time, i64 low, i64 length) {
  while (length > 0) {
    const i64 half = length >> 1;
    const bool passed = counts<SIDE>(samples.at(low + half), time);
    low = passed ? low + half + 1 : low;
    length = passed ? length - half - 1 : half;
  }
  return low;
}

template <Side SIDE, class T>
__device__ i64 bound(const Samples<T>& samples, T time) {
  return bound_between<SIDE>(samples, time, 0, samples.count);
}

// Times that a block has in shared memory, of which `count` are a row's; those after them come after every time.
constexpr int PIVOTS = 512;

__device__ inline double after_all(double) { return __longlong_as_double(0x7ff8000000000000ll); }
__device__ inline float after_all(float) { return __int_as_float(0x7fc00000); }
__device__ inline i64 after_all(i64) { return 0x7fffffffffffffffll; }

// How many of seven times, `apart` from each other, are up to or before `time`: all are loaded at once, and the answers
// of those that halving looks at are put together.
template <Side SIDE, class T>
__device__ int bound_of_seven(const T* times, int apart, T time, bool* all) {
  bool c[8];
#pragma unroll
  for (int k = 1; k < 8; ++k) c[k] = counts<SIDE>(times[k * apart - 1], time);
  const bool four = c[4], two = four ? c[6] : c[2];
  const bool one = two ? (four ? c[7] : c[3]) : (four ? c[5] : c[1]);
  *all = four && two && one;
  return (four ? 4 : 0) + (two ? 2 : 0) + (one ? 1 : 0);
}

// How many of them are up to or before `time`: three steps of loads that wait for nothing but the step before.
template <Side SIDE, class T>
__device__ int bound_of_pivots(const T* pivots, int count, T time) {
  bool all;
  int low = bound_of_seven<SIDE>(pivots, 64, time, &all) * 64;
  low += bound_of_seven<SIDE>(pivots + low, 8, time, &all) * 8;
  const bool eighth = counts<SIDE>(pivots[low + 7], time);
  low += bound_of_seven<SIDE>(pivots + low, 1, time, &all);
  low += all && eighth ? 1 : 0;
  // A time that is the largest of its type passes what comes after every time.
  return low < count ? low : count;
}
static_assert(PIVOTS == 8 * 8 * 8, "three steps");

// A shift of which no row has a pivot.
constexpr int NOT_STAGED = 62;

// Source times of a block: all of a short row, of a long one the last of every 2^shift.
template <class T>
struct Staged {
  Samples<T> samples;
  i64 count;
  const T* pivots;
  int shift;
  bool crowded = false;  // most threads search: their loads fill the multiprocessor, so the fewer the better

  __device__ T at(i64 sample) const { return shift == 0 ? pivots[sample] : samples.at(sample); }
};

// The times that a thread of a block reads for all of it. Where they are is known before the block waits, and before it
// knows how many of them are valid.
template <int BLOCK, class T>
struct TimesToRead {
  static constexpr int EACH = PIVOTS / BLOCK;
  const T* at[EACH];
  i64 most;

  // Times that lie `apart` from `first` on, at most PIVOTS.
  __device__ TimesToRead(const T* first, i64 apart, i64 count) : most(count) {
#pragma unroll
    for (int k = 0; k < EACH; ++k) at[k] = first + (k * BLOCK + static_cast<int>(threadIdx.x)) * apart;
  }

  __device__ void load(T (&times)[EACH]) const {
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
      times[k] = after_all(T{});
      if (k * BLOCK + static_cast<int>(threadIdx.x) < most) times[k] = __ldg(at[k]);
    }
  }

  // Of which `count` are valid.
  __device__ void keep(const T (&times)[EACH], int count, T* shared) const {
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
      const int place = k * BLOCK + static_cast<int>(threadIdx.x);
      shared[place] = place < count ? times[k] : after_all(T{});
    }
  }
};

// Of a short row all samples are pivots, of a long one the last of every 2^shift; of one that is not `staged`, none.
__device__ inline int shift_of(i64 samples, bool staged) {
  int shift = 0;
  while (samples >> shift > PIVOTS) ++shift;
  return staged ? shift : NOT_STAGED;
}

template <int BLOCK, class T>
__device__ TimesToRead<BLOCK, T> pivots_of(const T* first, i64 step, i64 samples, int shift) {
  const i64 apart = step << (shift == NOT_STAGED ? 0 : shift);
  return {first + apart - step, apart, samples >> shift};
}

template <Side SIDE, class T>
__device__ i64 bound(const Staged<T>& staged, T time) {
  const int count = static_cast<int>(staged.count >> staged.shift);
  const int low = count > 0 ? bound_of_pivots<SIDE>(staged.pivots, count, time) : 0;
  if (staged.shift == 0) return low;
  const i64 start = i64{low} << staged.shift, rest = staged.count - start, most = (i64{1} << staged.shift) - 1;
  const i64 length = rest < most ? rest : most;
  return staged.crowded ? bound_by_halves<SIDE>(staged.samples, time, start, length)
                        : bound_between<SIDE>(staged.samples, time, start, length);
}

// Where a time falls among a row's samples: how many are at or before it, and where it lies between two, those.
template <class T>
struct Place {
  i64 count;
  T from, to;
  bool inside;
};

template <class T>
__device__ Place<T> place_of(const Staged<T>& staged, T time) {
  const bool finite = is_finite(time);
  if (staged.shift == 0) {
    const int count = bound_of_pivots<UP_TO>(staged.pivots, static_cast<int>(staged.count), time);
    const T from = staged.pivots[count > 0 ? count - 1 : 0], to = staged.pivots[count < PIVOTS ? count : PIVOTS - 1];
    return {count, from, to, finite && 0 < count && count < static_cast<int>(staged.count)};
  }
  const i64 count = bound<UP_TO>(staged, time);
  const bool inside = finite && 0 < count && count < staged.count;
  return {count, staged.samples.at(inside ? count - 1 : 0), staged.samples.at(inside ? count : 0), inside};
}

__device__ inline Bracket between(i64 left, double weight, double rate) {
  // Only garbage times give other rates; they move nothing. (1e308 * 10 is how a kernel spells infinity's neighbour.)
  const bool usable = rate > 0.0 && rate <= 1.7976931348623157e308;
  return {left, weight, usable ? rate : 0.0, NONE, 0, 0.0, 0.0};
}

__device__ inline Bracket filled(i64 left, Fill fill) { return {left, 0.0, 0.0, fill, 0, 0.0, 0.0}; }

// The span of neighbouring samples in spans of the bracket; equal times split a curve, so there it ends.
template <class T>
__device__ double span_ratio(T from, T to, double span) {
  constexpr double LONGEST = 1267650600228229401496703205376.0;  // 2^100: a number that an f32 holds
  if (!(from < to)) return 0.0;
  const double ratio = since(to, from) / span;
  return ratio < 1.0 / LONGEST ? 1.0 / LONGEST : (ratio > LONGEST ? LONGEST : ratio);
}

// The end bracket's line; an end bracket of no length, or a single sample, holds.
template <class Times, class T>
__device__ Bracket extended(const Times& samples, T target, i64 end) {
  const i64 left = end > 0 ? end - 1 : 0;
  if (samples.count < 2) return between(end, 0.0, 0.0);
  const T from = samples.at(left), to = samples.at(left + 1);
  if (from == to) return between(end, 0.0, 0.0);
  const double span = since(to, from);
  const double distance = end == 0 ? -since(from, target) : since(target, from);
  return between(left, distance / span, 1.0 / span);
}

// The bracket of a target of which `count` samples are at or before it; `spans` also asks for the spans beside it.
template <class Times, class T>
__device__ Bracket bracket_at(const Times& samples, T target, i64 count, int outside, bool spans) {
  const i64 last = samples.count - 1;
  const bool finite = is_finite(target);
  if (!finite) {
    if (target != target) return filled(last, NOT_A_NUMBER);
    count = target > T(0) ? samples.count : 0;
  }
  if (0 < count && count <= last) {
    const T from = samples.at(count - 1), to = samples.at(count);
    const double span = since(to, from);
    Bracket bracket = between(count - 1, since(target, from) / span, 1.0 / span);
    if (spans) {
      bracket.before = count > 1 ? span_ratio(samples.at(count - 2), from, span) : 0.0;
      bracket.after = count < last ? span_ratio(to, samples.at(count + 1), span) : 0.0;
    }
    return bracket;
  }
  const i64 end = count == 0 ? 0 : last;
  if (target == samples.at(end) && finite) return between(end, 0.0, 0.0);
  if (outside == EXTRAPOLATE) return extended(samples, target, end);
  if (outside == FILL_NAN) return filled(end, NOT_A_NUMBER);
  return outside == FILL_ZERO ? filled(end, ZERO) : between(end, 0.0, 0.0);
}

// The sample that a mode which does not blend copies.
__device__ inline i64 copied(const Bracket& bracket, Mode mode) {
  const bool right = (mode == NEXT && bracket.weight != 0.0) || (mode == NEAREST && !(bracket.weight <= 0.5));
  return bracket.left + (right ? 1 : 0);
}

// Rows that a warp searches in lockstep, so that their loads are in flight together.
constexpr int LOCKSTEP = 4;
// Up to here the warp searches a row together, in 32-ary steps; above, each lane searches its own row.
constexpr int TOGETHER = 8;

// A lane's target, its row's samples, and how many of them are at or before it.
template <class T>
struct Found {
  Samples<T> samples;
  T target;
  i64 count;
};

// Searches for the rows `first_row + r` of [B * T], r < rows <= 32: lane r returns what was found for row r.
template <class T>
__device__ Found<T> search(const Timeline& times, i64 first_row, int rows, int lane) {
  const i64 all = times.batch * times.targets;
  const i64 mine = first_row + lane;
  const bool real = lane < rows && mine < all;
  const i64 row = real ? mine : (first_row < all ? first_row : 0);
  const i64 batch = quotient(row, times.targets);
  const Samples<T> samples = samples_of<T>(times, batch);
  const T target = target_of<T>(times, batch, row - batch * times.targets);
  i64 found = 0;
  if (rows > TOGETHER) {
    found = bound<UP_TO>(samples, target);
  } else {
    for (int base = 0; base < rows; base += LOCKSTEP) {
      i64 low[LOCKSTEP], length[LOCKSTEP];
      Samples<T> shared[LOCKSTEP];
      T wanted[LOCKSTEP];
#pragma unroll
      for (int r = 0; r < LOCKSTEP; ++r) {
        const u64 address = __shfl_sync(ALL_LANES, reinterpret_cast<u64>(samples.first), base + r);
        shared[r] = {reinterpret_cast<const T*>(address), samples.step,
                     __shfl_sync(ALL_LANES, samples.count, base + r)};
        wanted[r] = __shfl_sync(ALL_LANES, target, base + r);
        low[r] = 0;
        length[r] = shared[r].count;
      }
      bool open = true;
      while (open) {
        open = false;
        bool before[LOCKSTEP];
        i64 stride[LOCKSTEP];
#pragma unroll
        for (int r = 0; r < LOCKSTEP; ++r) {
          stride[r] = (length[r] + WARP - 1) / WARP;
          const i64 pivot = (lane + 1) * stride[r] - 1;
          // Unsigned: the pivot of a row that is found already, while others are not, is -1.
          const bool within = static_cast<u64>(pivot) < static_cast<u64>(length[r]);
          before[r] = within && shared[r].at(low[r] + pivot) <= wanted[r];
        }
#pragma unroll
        for (int r = 0; r < LOCKSTEP; ++r) {
          const i64 passed = __popc(__ballot_sync(ALL_LANES, before[r])) * stride[r];
          const i64 rest = length[r] - passed;
          low[r] += passed;
          length[r] = rest < stride[r] ? rest : stride[r] - 1;
          length[r] = length[r] > 0 ? length[r] : 0;
          open |= length[r] > 0;
        }
      }
#pragma unroll
      for (int r = 0; r < LOCKSTEP; ++r) found = lane == base + r ? low[r] : found;
    }
  }
  return {samples, target, found};
}

// Brackets of the rows `first_row + r` of [B * T], r < rows <= 32: lane r returns that of row r.
template <class T>
__device__ Bracket find_brackets(const Timeline& times, i64 first_row, int rows, int lane, bool spans = false) {
  const Found<T> found = search<T>(times, first_row, rows, lane);
  return bracket_at(found.samples, found.target, found.count, times.outside, spans);
}

__device__ inline Bracket bracket_of_lane(const Bracket& bracket, int lane) {
  return {__shfl_sync(ALL_LANES, bracket.left, lane), __shfl_sync(ALL_LANES, bracket.weight, lane),
          __shfl_sync(ALL_LANES, bracket.rate, lane), __shfl_sync(ALL_LANES, bracket.fill, lane), 0,
          __shfl_sync(ALL_LANES, bracket.before, lane), __shfl_sync(ALL_LANES, bracket.after, lane)};
}

}  // namespace robocache
