// A block's work on a tile of neighbouring voxels of a dense grid: the voxels that have points are listed, threads
// reduce them a group of channels at a time, and the result is put together in shared memory, so that all of it is
// written in order.
#pragma once

#include "voxelize_rows.cuh"

namespace robocache {

// Neighbouring rows that a thread lists: its counts are a load of 16 bytes.
constexpr int EACH = 4;
constexpr int TILE_BITS = 10;
constexpr int TILE = 1 << TILE_BITS;
static_assert(TILE == BLOCK * EACH, "a thread lists four rows of the largest tile");

// A multiprocessor that has 100 KB of shared memory and room for 1536 threads, not more and 2048. Compared in steps: the
// build compiles once for all devices that no step lies between.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ >= 860 && __CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
constexpr bool SMALL_MULTIPROCESSOR = true;
#else
constexpr bool SMALL_MULTIPROCESSOR = false;
#endif

// 16 bytes of each row of a tile that are put together at a time: 32 KB where a multiprocessor still holds four blocks,
// half of it where it is small.
constexpr int STAGED = SMALL_MULTIPROCESSOR ? 1 : 2;

// The rows of a tile that have points: those that a thread or a warp takes from the front of `places` on, the long ones
// that take all of the block from its back.
struct List {
  short places[TILE];
  unsigned char occupied[BLOCK];  // a bit for each of four neighbours
  int size, longs;

  // Bits that say which of four neighbouring rows have points.
  __device__ unsigned operator()(int four) const { return occupied[four]; }

  // By one thread, before rows are added.
  __device__ void clear() { size = longs = 0; }

  __device__ int long_place(int index) const { return places[TILE - 1 - index]; }
};

// Adds a thread's four neighbouring rows to a list that is clear, which the block may then read; returns whether some
// row has more points than one thread takes alone.
__device__ inline bool add_rows(List& list, const int (&counts)[EACH], int most_alone) {
  const int lane = threadIdx.x % WARP, first = threadIdx.x * EACH;
  int mine = 0, most = 0;
  unsigned occupied = 0;
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    mine += counts[k] > 0 && counts[k] <= TOGETHER;
    occupied |= static_cast<unsigned>(counts[k] > 0) << k;
    most = counts[k] > most ? counts[k] : most;
  }
  list.occupied[threadIdx.x] = static_cast<unsigned char>(occupied);
  int before = mine;
  for (int step = 1; step < WARP; step *= 2) {
    const int other = __shfl_up_sync(ALL_LANES, before, step);
    if (lane >= step) before += other;
  }
  int base = 0;
  if (lane == WARP - 1 && before != 0) base = atomicAdd(&list.size, before);
  int index = __shfl_sync(ALL_LANES, base, WARP - 1) + before - mine;
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    if (counts[k] <= 0) continue;
    const int at = counts[k] <= TOGETHER ? index++ : TILE - 1 - atomicAdd(&list.longs, 1);
    list.places[at] = static_cast<short>(first + k);
  }
  return __syncthreads_or(most > most_alone) != 0;
}

// Writes the numbers of a thread's four neighbouring rows of a tile, of [B, rows].
template <class Number>
__device__ void write_four(Number* output, const Tile& tile, int bits, i64 rows, const int4& numbers) {
  using Four = Vector<Number, EACH>;
  const int place = threadIdx.x * EACH;
  const i64 row = (tile.index << bits) + place;
  if (place >= 1 << bits || row >= rows) return;
  const auto number = [](int wide) { return static_cast<Number>(wide); };
  const Four four{{number(numbers.x), number(numbers.y), number(numbers.z), number(numbers.w)}};
  Number* to = output + tile.cloud * rows + row;
  if (rows % EACH == 0 && reinterpret_cast<u64>(output) % sizeof(Four) == 0) {
    *reinterpret_cast<Four*>(to) = four;
    return;
  }
#pragma unroll
  for (int k = 0; k < EACH; ++k)
    if (row + k < rows) to[k] = four.at[k];
}

// The same of how many points these have, where somebody asks: the first of the blocks that share a tile's channels.
__device__ inline void write_counts(const VoxelizeRowsParams& p, const Tile& tile, int bits, const int4& counts) {
  if (p.counted != nullptr && blockIdx.y == 0) write_four(p.counted, tile, bits, p.rows, counts);
}

// Writes channels of a tile that begin anywhere: a thread takes the last of the four rows before its own and the first of
// these, as many as make one access, and the first thread the last of the tile for those before. `here` says which of the
// eight have points, `left` how many rows are in the grid. Out of line, since its registers would be the kernels'.
template <class V>
__device__ __noinline__ void write_shifted(
    const V* staged, unsigned here, int bits, int channels, V* to, i64 stride, i64 left) {
  using Four = Vector<V, EACH>;
  const int mask = (1 << bits) - 1, fours = bits - 2, thread = static_cast<int>(threadIdx.x);
  const int four = thread & ((1 << fours) - 1);
  const V zero = narrow_from<V>(0.0);
#pragma unroll 1
  for (int k = thread >> fours; k < channels; k += BLOCK >> fours) {
    V* begin = to + k * stride;
    const int shift = static_cast<int>(reinterpret_cast<u64>(begin) / sizeof(V) % EACH), place = four * EACH - shift;
    Four found;
#pragma unroll
    for (int each = 0; each < EACH; ++each) {
      const V mine = staged[k << bits | ((place + each) & mask)];
      found.at[each] = (here >> (EACH - shift + each) & 1) != 0 ? mine : zero;
    }
    if (place >= 0 && place + EACH <= left) {
      *reinterpret_cast<Four*>(begin + place) = found;
      continue;
    }
#pragma unroll
    for (int each = 0; each < EACH; ++each)
      if (((place + each) & mask) < left) begin[(place + each) & mask] = found.at[each];
  }
}

// A part of a tile's result: its channels from `first` on, staged[channel << bits | place].
template <class V>
struct Part {
  const VoxelizeRowsParams& p;
  i64 cloud, row;  // row: the tile's first
  int bits;        // the tile has 2^bits rows
  i64 first;
  int channels;

  // Neighbouring threads take the 2^group_bits groups of N channels of a row, no more than are there.
  template <int N>
  __device__ int group_bits() const {
    int wide = 0;
    while (N << wide < channels) ++wide;
    return wide;
  }

  // The four neighbouring rows of a thread, the same in all channels.
  __device__ int four() const { return static_cast<int>(threadIdx.x) & ((1 << (bits - 2)) - 1); }

  // Calls `visit(to, at, rows)` for these in each of the thread's channels, of which `rows` are in the grid.
  template <class Visit>
  __device__ void by_fours(const Visit& visit) const {
    const int place = four() * EACH, step = BLOCK >> (bits - 2);
    const i64 left = p.rows - row - place;
    if (left <= 0) return;
    int k = static_cast<int>(threadIdx.x) >> (bits - 2), at = k << bits | place;
    i64 to = cloud * p.strides[0] + (first + k) * p.strides[1] + (row + place) * p.strides[2];
    for (; k < channels; k += step) {
      visit(to, at, left < EACH ? static_cast<int>(left) : EACH);
      at += step << bits;
      to += step * p.strides[1];
    }
  }

  // Four neighbours lie side by side and aligned; a grid then ends with four.
  __device__ bool whole(const void* memory) const {
    return p.strides[2] == 1 && p.rows % EACH == 0 && p.strides[1] % EACH == 0 && p.strides[0] % EACH == 0 &&
           reinterpret_cast<u64>(memory) % sizeof(Vector<V, EACH>) == 0;
  }

  // Writes what is staged, and zero for rows without points, as `occupied` says of four neighbours, to [B, C, rows].
  template <class Occupied>
  __device__ void write(const V* staged, const Occupied& occupied) const {
    using Four = Vector<V, EACH>;
    const int fours = bits - 2, mine = four(), step = BLOCK >> fours;
    const i64 left = p.rows - row;
    V* to = static_cast<V*>(p.output) + (cloud * p.channels + first) * p.rows + row;
    if (p.rows % EACH != 0 || reinterpret_cast<u64>(p.output) % sizeof(Four) != 0) {
      const unsigned here = occupied((mine - 1) & ((1 << fours) - 1)) | occupied(mine) << EACH;
      write_shifted(staged, here, bits, channels, to, p.rows, left);
      return;
    }
    if (mine * EACH >= left) return;
    const unsigned here = occupied(mine);
    const V zero = narrow_from<V>(0.0);
    int k = static_cast<int>(threadIdx.x) >> fours;
    const V* from = staged + (k << bits) + mine * EACH;
    to += k * p.rows + mine * EACH;
#pragma unroll 2
    for (; k < channels; k += step) {
      Four found{{zero, zero, zero, zero}};
      if (here != 0) {
        found = *reinterpret_cast<const Four*>(from);
#pragma unroll
        for (int each = 0; each < EACH; ++each) found.at[each] = (here >> each & 1) != 0 ? found.at[each] : zero;
      }
      *reinterpret_cast<Four*>(to) = found;
      from += step << bits;
      to += step * p.rows;
    }
  }

  // Stages the gradient of four neighbours where some have points.
  __device__ void read(V* staged, const List& list) const {
    using Four = Vector<V, EACH>;
    const V* grad = static_cast<const V*>(p.grad);
    const bool all = whole(grad);
    if (list(four()) == 0) return;
    by_fours([&](i64 from, int at, int rows) {
      if (all && rows == EACH) {
        *reinterpret_cast<Four*>(staged + at) = *reinterpret_cast<const Four*>(grad + from);
        return;
      }
#pragma unroll 1
      for (int k = 0; k < rows; ++k) staged[at + k] = grad[from + k * p.strides[2]];
    });
  }
};

// Which parts of a tile are a block's: each `blocks`th, from that of its own number on.
struct Turn {
  unsigned block, blocks;
};

// Blocks along y take turns.
__device__ inline Turn turn_of_block() { return {blockIdx.y, gridDim.y}; }

// Calls `visit(part)` for the parts of a tile that are a block's.
template <class V, class Visit>
__device__ void by_parts(const VoxelizeRowsParams& p, const Tile& tile, int bits, Turn turn, const Visit& visit) {
  const i64 channels = i64{STAGED * WIDE<V>} << (TILE_BITS - bits);
  for (i64 first = turn.block * channels; first < p.channels; first += turn.blocks * channels) {
    const i64 left = p.channels - first;
    visit(Part<V>{p, tile.cloud, tile.index << bits, bits, first, static_cast<int>(left < channels ? left : channels)});
  }
}

// Stages what a reduction found for a row, or sends the staged gradient to the point that it found.
template <class V, bool SENDS>
struct Stage {
  const VoxelizeRowsParams& p;
  i64 cloud, channel;
  V* staged;
  int at, bits;

  __device__ void operator()(int k, V found) const { staged[at + (k << bits)] = found; }
};
template <class V>
struct Stage<V, true> {
  const VoxelizeRowsParams& p;
  i64 cloud, channel;
  const V* staged;
  int at, bits;

  __device__ void operator()(int k, int point) const {
    static_cast<V*>(p.output)[(cloud * p.points + point) * p.channels + channel + k] = staged[at + (k << bits)];
  }
};

// The long rows of a part, one after the other by the whole block, a channel at a time.
template <class V, class Reduced, class RowOf>
__device__ void reduce_longs(const Part<V>& part, const List& list, V* staged, RowOf row_of) {
  const VoxelizeRowsParams& p = part.p;
  Partials& partials = partials_of_block();
  for (int each = 0; each < list.longs; ++each) {
    const int place = list.long_place(each);
    for (int k = 0; k < part.channels; ++k) {
      const i64 channel = part.first + k;
      const Features<V, 1, true> features(p, part.cloud, channel);
      const Stage<V, Reduced::SENDS> stage{p, part.cloud, channel, staged, k << part.bits | place, part.bits};
      Reduced::by_block(p, row_of(place), channel, features, partials, stage);
    }
  }
}

// Reduces the other listed rows of a part, a group of channels at a time: a row by a thread, those of many points by a
// warp. `row_of(place)` is a row by its place in the tile.
template <class V, class Reduced, bool WHOLE, class RowOf>
__device__ void reduce_part(const Part<V>& part, const List& list, bool many, V* staged, RowOf row_of) {
  constexpr int N = Reduced::N;
  const VoxelizeRowsParams& p = part.p;
  const int bits = part.bits, group_bits = part.template group_bits<N>(), mask = (1 << group_bits) - 1;
  const auto stage_of = [&](int place, int channel) {
    return Stage<V, Reduced::SENDS>{p, part.cloud, part.first + channel, staged, channel << bits | place, bits};
  };
  const auto features_of = [&](int channel) { return Features<V, N, WHOLE>(p, part.cloud, part.first + channel); };
  const int all = list.size << group_bits, lane = threadIdx.x % WARP;
#pragma unroll 1
  for (int each = threadIdx.x; each < all; each += BLOCK) {
    const int place = list.places[each >> group_bits], channel = (each & mask) * N;
    if (channel >= part.channels) continue;
    const Row row = row_of(place);
    if (row.count <= Reduced::MOST_ALONE)
      Reduced::alone(p, row, part.first + channel, features_of(channel), stage_of(place, channel));
  }
  if (!many) return;
#pragma unroll 1
  for (int each = threadIdx.x / WARP; each < all; each += WARPS) {
    const int place = list.places[each >> group_bits], channel = (each & mask) * N;
    if (channel >= part.channels) continue;
    const Row row = row_of(place);
    if (row.count > Reduced::MOST_ALONE)
      Reduced::together(p, row, part.first + channel, features_of(channel), lane, stage_of(place, channel));
  }
}

// Reduces the listed rows and writes all rows of the tile, or sends the gradient of the listed ones, a part of the
// block's that fits `staged` at a time.
template <class V, class Reduced, class RowOf>
__device__ void reduce_list(
    const VoxelizeRowsParams& p, const Tile& tile, int bits, Turn turn, const List& list, bool many, V* staged,
    const RowOf& row_of) {
  if (Reduced::SENDS && list.size + list.longs == 0) return;
  by_parts<V>(p, tile, bits, turn, [&](const Part<V>& part) {
    if constexpr (Reduced::SENDS) {
      part.read(staged, list);
      __syncthreads();
    }
    by_access<V, Reduced::MOST>(p, [&](auto access) {
      using Few = typename Reduced::template Of<access.CHANNELS>;
      reduce_part<V, Few, access.WHOLE>(part, list, many, staged, row_of);
    });
    if (list.longs != 0) reduce_longs<V, typename Reduced::template Of<1>>(part, list, staged, row_of);
    __syncthreads();
    if constexpr (!Reduced::SENDS) {
      part.write(staged, list);
      __syncthreads();
    }
  });
}

}  // namespace robocache
