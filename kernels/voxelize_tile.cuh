// What a block makes of a tile once it can walk over the tile's points: it puts them in order by voxel in shared memory
// and reduces them, or sends them their voxel's gradient.
//
// A `Points` says where they come from: `walk(tile, runs, visit)` calls `visit(index, point, cell)` for all of a tile,
// in threads beyond them with a cell of -1, so that whole warps come, and returns their number. `walk<AHEAD>` may look up
// so many of a thread's points before the first is visited, and one that is told `most` may return as soon as it knows of
// more. `Runs` is what it needs in shared memory; `bits` says how many cells a tile has; `room(cloud, number)` gives room
// in memory for the order of those that are too many, which with `KEEPS_ALL` never happens.
#pragma once

#include "voxelize_linked.cuh"

namespace robocache {

// The index among what a block has found of what is this thread's, or -1 where none in its warp has found something.
__device__ inline int found_index(int& found, bool mine) {
  const int lane = threadIdx.x % WARP;
  const unsigned ours = __ballot_sync(ALL_LANES, mine);
  if (ours == 0) return -1;
  int base = 0;
  if (lane == 0) base = atomicAdd(&found, __popc(ours));
  return __shfl_sync(ALL_LANES, base, 0) + __popc(ours & ((1u << lane) - 1));
}

// Points of a thread that are looked up together where a tile has more than a block's threads, so that they do not wait
// for memory one after the other; and in a full tile of a grid whose tiles mostly have few.
constexpr int ROUNDS_AHEAD = 4;
constexpr int FULL_AHEAD = 8;

// Points of a tile that are kept in shared memory.
constexpr int KEPT = 2048;

// What is needed until the points are in order.
template <class Runs>
struct Unsorted {
  Runs runs;
  int points[KEPT];
  short cells[KEPT];
};

// A tile's points by voxel.
struct Sorted {
  List list;
  int order[KEPT];
  alignas(16) int ends[TILE];  // where a voxel's points end
  int* elsewhere;              // the order that is not kept here
};

// Puts the points of a tile in order, where they are not kept in the first of the blocks along y only; returns whether
// some voxel has more than MOST_ALONE.
template <int AHEAD, int MOST_ALONE, class Points>
__device__ bool sort_tile(
    const Points& from, const Tile& tile, Unsorted<typename Points::Runs>& unsorted, Sorted& sorted, bool& kept) {
  reinterpret_cast<int4*>(sorted.ends)[threadIdx.x] = int4{0, 0, 0, 0};
  if (threadIdx.x == 0) sorted.list.clear();
  __syncthreads();
  begin();
  const auto add = [&](int cell, int number) { return atomicAdd(&sorted.ends[cell], number); };
  const int all = from.template walk<AHEAD>(tile, unsorted.runs, [&](int index, int point, int cell) {
    if (cell < 0) return;
    atomicAdd(&sorted.ends[cell], 1);
    if (index >= KEPT) return;
    unsorted.points[index] = point;
    unsorted.cells[index] = static_cast<short>(cell);
  });
  kept = Points::KEEPS_ALL || all <= KEPT;
  if (all == 0) {
    sorted.list.occupied[threadIdx.x] = 0;
    __syncthreads();
    return false;
  }
  const int4 count = reinterpret_cast<const int4*>(sorted.ends)[threadIdx.x];
  const int counts[EACH] = {count.x, count.y, count.z, count.w};
  int total;
  const int start = before_in_block(count.x + count.y + count.z + count.w, unsorted.runs.of_warp, total);
  reinterpret_cast<int4*>(sorted.ends)[threadIdx.x] =
      int4{start, start + count.x, start + count.x + count.y, start + count.x + count.y + count.z};
  if constexpr (!Points::KEEPS_ALL) {
    if (!kept && blockIdx.y != 0) return false;
    if (threadIdx.x == 0 && !kept) sorted.elsewhere = from.room(tile.cloud, all);
  }
  const bool many = add_rows(sorted.list, counts, MOST_ALONE);
  if (kept) {
    for (int first = 0; first < all; first += BLOCK) {
      const int index = first + static_cast<int>(threadIdx.x);
      const int place = count_up(index < all ? unsorted.cells[index] : -1, add);
      if (place >= 0) sorted.order[place] = unsorted.points[index];
    }
  } else if constexpr (!Points::KEEPS_ALL) {
    int* order = sorted.elsewhere;
    from.template walk<AHEAD>(tile, unsorted.runs, [&](int, int point, int cell) {
      const int place = count_up(cell, add);
      if (place >= 0) order[place] = point;
    });
  }
  __syncthreads();
  return many;
}

// What a block keeps of a tile.
template <class Points>
struct TileMemory {
  union {
    uint4 staged[STAGED * TILE];
    Unsorted<typename Points::Runs> unsorted;
  };
  union {
    Sorted sorted;
    Linked linked;
  };
};

// The block's, one for functions that are not inlined.
template <class Points>
__device__ TileMemory<Points>& memory_of_block() {
  __shared__ TileMemory<Points> memory;
  return memory;
}

template <class V, class Reduced, int AHEAD = ROUNDS_AHEAD, class Points>
__device__ void reduce_tile(const VoxelizeRowsParams& p, const Points& from) {
  TileMemory<Points>& memory = memory_of_block<Points>();
  Sorted& sorted = memory.sorted;
  const Tile tile = tile_of(p.tiles);
  bool kept;
  const bool many = sort_tile<AHEAD, Reduced::MOST_ALONE>(from, tile, memory.unsorted, sorted, kept);
  // There is room for one order of a tile's points elsewhere: one block takes all parts.
  if (!kept && blockIdx.y != 0) return;
  const int* order = kept ? sorted.order : sorted.elsewhere;
  const int* ends = sorted.ends;
  if (p.counted != nullptr) {
    const int4 end = reinterpret_cast<const int4*>(ends)[threadIdx.x];
    const int start = threadIdx.x == 0 ? 0 : ends[threadIdx.x * EACH - 1];
    write_counts(p, tile, from.bits, {end.x - start, end.y - end.x, end.z - end.y, end.w - end.z});
  }
  const i64 cloud = tile.cloud, first = tile.index << from.bits;
  const auto row_of = [=](int at) {
    const int start = at == 0 ? 0 : ends[at - 1];
    return Row{cloud, first + at, order + start, ends[at] - start};
  };
  V* staged = reinterpret_cast<V*>(memory.staged);
  const Turn turn = kept ? turn_of_block() : Turn{0, 1};
  reduce_list<V, Reduced>(p, tile, from.bits, turn, sorted.list, many, staged, row_of);
}

// Sums a channel at a time, however these lie, with as many threads as there are: the device waits for such a tile.
template <class V>
struct SummedSingly : Summed<V, 1, false, 4> {
  template <int>
  using Of = SummedSingly;
  static constexpr int MOST_ALONE = 8;
};

// A function of its own and in little code: few tiles need it, and inlined it would take registers from what the kernel
// mostly does.
template <class V, class Points>
__device__ __noinline__ void sum_full_tile(VoxelizeRowsParams p, Points from) {
  reduce_tile<V, SummedSingly<V>, FULL_AHEAD>(p, from);
}

// Sums a tile's points by voxel where most tiles have few.
template <class V, class Points>
__device__ void sum_tile(const VoxelizeRowsParams& p, const Points& from) {
  TileMemory<Points>& memory = memory_of_block<Points>();
  V* staged = reinterpret_cast<V*>(memory.staged);
  if (!sum_linked<V>(p, from, memory.unsorted.runs, memory.linked, staged)) sum_full_tile<V>(p, from);
}

// Groups of channels of a point that neighbouring threads send, so that they fill sectors.
constexpr int MOST_GROUP_BITS = 2;

// The gradient of a tile's voxels, divided by their points for a mean, goes to all of its points. It is read where a
// point needs it: the points of a tile share its sectors in the first-level cache. A thread sends as many channels of a
// point as one store takes.
template <class V, class Points>
__device__ void spread_tile(const VoxelizeRowsParams& p, const Points& from) {
  alignas(16) __shared__ int counts[TILE];
  __shared__ Unsorted<typename Points::Runs> unsorted;
  const Tile tile = tile_of(p.tiles);
  reinterpret_cast<int4*>(counts)[threadIdx.x] = int4{0, 0, 0, 0};
  __syncthreads();
  begin();
  const int all = from.walk(tile, unsorted.runs, [&](int index, int point, int cell) {
    if (cell < 0) return;
    atomicAdd(&counts[cell], 1);
    if (index >= KEPT) return;
    unsorted.points[index] = point;
    unsorted.cells[index] = static_cast<short>(cell);
  });
  const i64 row = tile.cloud * p.points, channels = p.channels;
  const i64 first_cell = tile.index << from.bits;
  const V* grad = element<V>(p.grad, tile.cloud * p.strides[0] + first_cell * p.strides[2]);
  V* output = static_cast<V*>(p.output);
  const auto send_all = [&](auto access) {  // all points, N channels at a time
    constexpr int N = decltype(access)::CHANNELS;
    constexpr bool WHOLE = decltype(access)::WHOLE;
    const i64 groups = (channels + N - 1) / N;
    const auto send = [&](int point, int cell, i64 group) {
      const i64 channel = group * N;
      const V* read = grad + channel * p.strides[1] + cell * p.strides[2];
      V* to = output + (row + point) * channels + channel;
      const int here = WHOLE || channels - channel >= N ? N : static_cast<int>(channels - channel);
      const int count = p.mean != 0 ? counts[cell] : 1;
      Vector<V, N> chunk;
#pragma unroll
      for (int k = 0; k < N; ++k)
        if (WHOLE || k < here) chunk.at[k] = read[k * p.strides[1]];
#pragma unroll
      for (int k = 0; k < N; ++k)
        if ((WHOLE || k < here) && count > 1) chunk.at[k] = divided(chunk.at[k], count);
      if constexpr (WHOLE) {
        Packed<Vector<V, N>> packed;
        packed.pack(chunk);
        packed.store(to);
      } else {
#pragma unroll
        for (int k = 0; k < N; ++k)
          if (k < here) to[k] = chunk.at[k];
      }
    };
    int bits = 0;
    while (bits < MOST_GROUP_BITS && 2 << bits <= groups) ++bits;
    // Blocks along y take turns.
    for (i64 first = i64{blockIdx.y} << bits; first < groups; first += i64{gridDim.y} << bits) {
      if (Points::KEEPS_ALL || all <= KEPT) {
        for (int each = threadIdx.x; each < all << bits; each += BLOCK) {
          const int index = each >> bits;
          const i64 group = first + (each & ((1 << bits) - 1));
          if (group < groups) send(unsorted.points[index], unsorted.cells[index], group);
        }
      } else if constexpr (!Points::KEEPS_ALL) {
        from.walk(tile, unsorted.runs, [&](int, int point, int cell) {
          for (i64 group = first; cell >= 0 && group < groups && group < first + (1 << bits); ++group)
            send(point, cell, group);
        });
      }
    }
  };
  const u64 each = static_cast<u64>(channels) | reinterpret_cast<u64>(output) / sizeof(V);
  constexpr int MOST = WIDE<V>;
  if (each % MOST == 0) send_all(Access<MOST, true>{});
  else if (MOST > TAKEN<V> && each % TAKEN<V> == 0) send_all(Access<TAKEN<V>, true>{});
  else if (MOST > 2 && each % 2 == 0) send_all(Access<2, true>{});
  else send_all(Access<MOST, false>{});
}

// Sets some bytes to zero, of memory and a number of bytes that are multiples of the same.
template <class Word>
__device__ void clear_words(unsigned char* memory, i64 bytes) {
  for (i64 at = 0; at < bytes; at += sizeof(Word)) *reinterpret_cast<Word*>(memory + at) = Word{};
}

// Sets the row of a point to zero that is dropped.
__device__ inline void clear_row(unsigned char* rows, i64 row_bytes, i64 point) {
  unsigned char* row = rows + point * row_bytes;
  const u64 all = reinterpret_cast<u64>(rows) | static_cast<u64>(row_bytes);
  if (all % 16 == 0) clear_words<uint4>(row, row_bytes);
  else if (all % 4 == 0) clear_words<unsigned>(row, row_bytes);
  else clear_words<unsigned short>(row, row_bytes);
}

}  // namespace robocache
