// voxelize, occupancy of many points: by bins of voxels, whose marks are made in shared memory.
//
// Two launches, and no atomics outside of shared memory: `voxelize_bins` writes which voxels the points of a chunk lie
// in, bin by bin; a block of `voxelize_bin_marks` marks those of one bin in bits, which become bytes, each written once.
// A bin is every 256th group of 64 neighbouring voxels, so that the points of a crowded place are shared by many blocks.

#include "grid.cuh"

using namespace robocache;

// Grids of at most BINS * 2^16 voxels: a place within a bin has 16 bits.
constexpr int BINS = 256;
constexpr int BIN_BITS = 8;
constexpr int GROUP_BITS = 6;
// A line of the table: where the places of each bin begin in the chunk, where the last ones end, and whole words.
constexpr int PITCH = BINS + 8;

struct VoxelizeBinsParams {
  Clouds clouds;           // its tiles are the chunks
  unsigned short* places;  // [B, chunks, chunk]: within their bins
  unsigned short* table;   // [B, chunks, PITCH]
  int rounds;              // a chunk is so many times four points of each thread of a block
  int pad;
};
static_assert(sizeof(VoxelizeBinsParams) == 176, "mirrors ops::voxelize::params::BinsParams");

struct VoxelizeBinMarksParams {
  const unsigned short* places;
  const unsigned short* table;
  unsigned char* output;  // [B, cells]
  i64 cells;
  int chunks;
  int chunk;  // points
};
static_assert(sizeof(VoxelizeBinMarksParams) == 40, "mirrors ops::voxelize::params::BinMarksParams");

namespace {

constexpr int CHUNK_BLOCK = 512;
constexpr int MOST_ROUNDS = 4;
constexpr int MARK_BLOCK = 1024;
constexpr int WORD = 32;
// Chunks whose lines a block looks at together.
constexpr int LINES = 256;

__device__ int bin_of(int cell) { return cell >> GROUP_BITS & (BINS - 1); }

__device__ int place_in_bin(int cell) {
  return cell >> (GROUP_BITS + BIN_BITS) << GROUP_BITS | (cell & ((1 << GROUP_BITS) - 1));
}

__device__ i64 cell_of_bin(int bin, int place) {
  const i64 group = i64{place >> GROUP_BITS} << BIN_BITS | bin;
  return group << GROUP_BITS | (place & ((1 << GROUP_BITS) - 1));
}

// Threads: a block takes a chunk of a cloud, a thread four neighbouring points in each of some rounds.
template <class P>
__device__ void write_bins(const VoxelizeBinsParams& p) {
  __shared__ int starts[BINS];
  __shared__ int of_warp[CHUNK_BLOCK / WARP];
  __shared__ uint4 sorted[MOST_ROUNDS * CHUNK_BLOCK * FOUR / 8];
  const Tile chunk = tile_of(p.clouds.tiles);
  const int thread = static_cast<int>(threadIdx.x), size = p.rounds * CHUNK_BLOCK * FOUR;
  const i64 start = chunk.index * size, line = chunk.cloud * p.clouds.tiles + chunk.index;
  if (thread < BINS) starts[thread] = 0;
  __syncthreads();
  begin();
  const i64 end = count_of(p.clouds, chunk.cloud);
  int cells[MOST_ROUNDS][FOUR];
  unsigned short ranks[MOST_ROUNDS][FOUR];
#pragma unroll
  for (int round = 0; round < MOST_ROUNDS; ++round) {
    if (round >= p.rounds) break;
    cells_of_four<P>(p.clouds, chunk.cloud, start + (round * CHUNK_BLOCK + thread) * FOUR, end, cells[round]);
#pragma unroll
    for (int k = 0; k < FOUR; ++k) {
      const int cell = cells[round][k];
      if (cell >= 0) ranks[round][k] = static_cast<unsigned short>(atomicAdd(&starts[bin_of(cell)], 1));
    }
  }
  __syncthreads();
  const int mine = thread < BINS ? starts[thread] : 0;
  int all;
  const int before = before_in_block(mine, of_warp, all);
  if (thread < BINS) {
    starts[thread] = before;
    p.table[line * PITCH + thread] = static_cast<unsigned short>(before);
    if (thread == BINS - 1) p.table[line * PITCH + BINS] = static_cast<unsigned short>(all);
  }
  __syncthreads();
  unsigned short* places = reinterpret_cast<unsigned short*>(sorted);
#pragma unroll
  for (int round = 0; round < MOST_ROUNDS; ++round) {
    if (round >= p.rounds) break;
#pragma unroll
    for (int k = 0; k < FOUR; ++k) {
      const int cell = cells[round][k];
      if (cell >= 0) places[starts[bin_of(cell)] + ranks[round][k]] = static_cast<unsigned short>(place_in_bin(cell));
    }
  }
  __syncthreads();
  uint4* to = reinterpret_cast<uint4*>(p.places + line * size);
  for (int eight = thread; eight * 8 < all; eight += CHUNK_BLOCK) to[eight] = sorted[eight];
}

// A word of shared memory that others change by atomics meanwhile, as it was or is.
__device__ unsigned seen(const unsigned* word) {
#if defined(__CUDA_ARCH__)
  unsigned value;
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(word));
  asm volatile("ld.relaxed.cta.shared.u32 %0, [%1];" : "=r"(value) : "r"(address));
  return value;
#else
  return *word;
#endif
}

// In a crowd most find the mark; a thread that does not see it makes it again.
__device__ void mark(unsigned* bits, unsigned place) {
  unsigned* word = bits + place / WORD;
  const unsigned bit = 1u << place % WORD;
  if ((seen(word) & bit) == 0) atomicOr(word, bit);
}

// Marks a warp's places; where there are many, four of each lane are on their way at a time.
__device__ void mark_run(unsigned* bits, const unsigned short* places, int from, int end) {
  constexpr int FLIGHT = 4;
  const int lane = threadIdx.x % WARP;
  if (end - from <= 2 * WARP) {
    for (int at = from + lane; at < end; at += WARP) mark(bits, __ldg(places + at));
    return;
  }
#pragma unroll 1
  for (int at = from + lane; at < end; at += FLIGHT * WARP) {
    unsigned read[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) read[k] = __ldg(places + (at + k * WARP < end ? at + k * WARP : end - 1));
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k)
      if (at + k * WARP < end) mark(bits, read[k]);
  }
}

// Threads: a block takes a bin of a cloud, a warp one chunk's places at a time, then a thread 16 cells.
__device__ void mark_bin(const VoxelizeBinMarksParams& p) {
  __shared__ unsigned bits[(1 << 16) / WORD];
  __shared__ unsigned runs[LINES];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / WARP;
  const i64 cloud = blockIdx.x / BINS;
  const int bin = static_cast<int>(blockIdx.x % BINS);
  for (int word = thread; word < (1 << 16) / WORD; word += MARK_BLOCK) bits[word] = 0;
  begin();
  for (int first = 0; first < p.chunks; first += LINES) {
    const int here = p.chunks - first < LINES ? p.chunks - first : LINES;
    const i64 line = cloud * p.chunks + first;
    __syncthreads();
    for (int chunk = thread; chunk < here; chunk += MARK_BLOCK) {
      const unsigned short* starts = p.table + (line + chunk) * PITCH + bin;
      runs[chunk] = starts[0] | static_cast<unsigned>(starts[1]) << 16;
    }
    __syncthreads();
#pragma unroll 4
    for (int chunk = warp; chunk < here; chunk += MARK_BLOCK / WARP) {
      const unsigned run = runs[chunk];
      mark_run(bits, p.places + (line + chunk) * p.chunk, static_cast<int>(run & 0xffff), static_cast<int>(run >> 16));
    }
  }
  __syncthreads();
  const i64 groups = (p.cells + (1 << GROUP_BITS) - 1) >> GROUP_BITS;
  const int all = static_cast<int>((groups - bin + BINS - 1) / BINS) << GROUP_BITS;
  unsigned char* output = p.output + cloud * p.cells;
  for (int place = thread * MARKS; place < all; place += MARK_BLOCK * MARKS) {
    const i64 cell = cell_of_bin(bin, place);
    write_marks(output + cell, bits[place / WORD] >> place % WORD, p.cells - cell);
  }
}

}  // namespace

#define BINS_OF(NAME, P)                                                                                               \
  extern "C" __global__ void __launch_bounds__(CHUNK_BLOCK, 2)                                                         \
      voxelize_bins_##NAME(const __grid_constant__ VoxelizeBinsParams p) {                                             \
    write_bins<P>(p);                                                                                                  \
  }
BINS_OF(f64, double)
BINS_OF(f32, float)
BINS_OF(f16, __half)
BINS_OF(bf16, __nv_bfloat16)

extern "C" __global__ void __launch_bounds__(MARK_BLOCK)
    voxelize_bin_marks(const __grid_constant__ VoxelizeBinMarksParams p) {
  mark_bin(p);
}
