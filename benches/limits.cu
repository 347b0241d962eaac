// Kernels that only move what a case must move, in as many trips to memory as depend on each other, and compute nothing:
// which rows a target takes is plain from its number, where a point lies is a hash of its bits. What does the work of a
// case in the same way can hardly take less; but those of resampling load under branches, for which the compiler waits
// (docs/performance.md), so that a kernel whose loads depend on none can be faster. benches/limits.py runs them.
//
// A kernel begins as RoboCache's do: it works out its share, waits for the launch before it, and lets the next one come
// to that point.

using u64 = unsigned long long;

__device__ inline void begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline unsigned hashed(unsigned x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

struct Nothing {
  int unused;
};
extern "C" __global__ void nothing(const __grid_constant__ Nothing) { begin(); }

// `trips` loads, each at a place that the one before it gave; the numbers there are zero.
struct Chase {
  const unsigned* numbers;
  unsigned* output;
  u64 stride;
  int trips;
};
extern "C" __global__ void chase(const __grid_constant__ Chase p) {
  begin();
  const u64 thread = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
  u64 at = thread;
  for (int trip = 0; trip < p.trips; ++trip) at = thread + p.stride * (trip + 1) + p.numbers[at];
  p.output[thread] = static_cast<unsigned>(at);
}

// A resampling: a block stages source times and its targets, then moves two neighbouring rows for each target; or it is
// told which rows.
struct Stream {
  const uint4* values;       // [batch, samples, vectors]
  const double* times;       // [batch, samples]
  const int* told;           // [batch, targets]: the first of the two rows; or null
  uint4* output;             // [batch, targets, pitch], from the stream's column on
  int samples, vectors, pitch;
  unsigned inverse;          // of `vectors`: a division by it is a multiplication
};
struct Rows {
  Stream streams[3];
  const double* targets;  // [batch, targets]
  int targets_count, rows, blocks;  // blocks of a row of the batch, each of `rows` targets
};
constexpr int BLOCK = 256;
constexpr int PIVOTS = 512;
constexpr int FLIGHT = 4;
__device__ inline void move(
    const Rows& p, const Stream& stream, unsigned batch, unsigned first, int here, const int* first_of) {
  const uint4* values = stream.values + static_cast<u64>(batch) * stream.samples * stream.vectors;
  uint4* output = stream.output + (static_cast<u64>(batch) * p.targets_count + first) * stream.pitch;
  const int all = here * stream.vectors;
  const auto row_of = [&](int item) {
    return stream.vectors == 1 ? item : static_cast<int>(__umulhi(item, stream.inverse));
  };
  for (int base = threadIdx.x; base < all; base += BLOCK * FLIGHT) {
    uint4 left[FLIGHT], right[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const int item = base + k * BLOCK, row = row_of(item);
      if (item >= all) continue;
      const uint4* from = values + static_cast<u64>(first_of[row]) * stream.vectors + (item - row * stream.vectors);
      left[k] = __ldg(from);
      right[k] = __ldg(from + stream.vectors);
    }
#pragma unroll
    for (int k = 0; k < FLIGHT; ++k) {
      const int item = base + k * BLOCK, row = row_of(item);
      if (item >= all) continue;
      output[static_cast<u64>(row) * stream.pitch + (item - row * stream.vectors)] =
          uint4{left[k].x ^ right[k].x, left[k].y ^ right[k].y, left[k].z ^ right[k].z, left[k].w ^ right[k].w};
    }
  }
}
extern "C" __global__ void __launch_bounds__(BLOCK) rows(const __grid_constant__ Rows p) {
  __shared__ double staged[PIVOTS];
  __shared__ int first_of[BLOCK];
  const unsigned batch = blockIdx.x / p.blocks, first = (blockIdx.x - batch * p.blocks) * p.rows;
  const Stream& stream = p.streams[blockIdx.y];
  const int thread = static_cast<int>(threadIdx.x), left_over = p.targets_count - static_cast<int>(first);
  const int here = p.rows < left_over ? p.rows : left_over;
  const int step = (stream.samples + PIVOTS - 1) / PIVOTS;
  const int place = static_cast<int>(static_cast<u64>(first + thread) * (stream.samples - 1) / p.targets_count);
  const int pivot = place / step;
  const double* times = stream.times + static_cast<u64>(batch) * stream.samples;
  // Never so: a branch, before which the compiler cannot put them off.
  if (here <= 0 || place < 0 || pivot < 0) return;
  begin();
  if (stream.told != nullptr) {
    if (thread < here) first_of[thread] = stream.told[static_cast<u64>(batch) * p.targets_count + first + thread];
    __syncthreads();
    return move(p, stream, batch, first, here, first_of);
  }
  double target = 0, read[PIVOTS / BLOCK];
  if (thread < here) target = p.targets[static_cast<u64>(batch) * p.targets_count + first + thread];
#pragma unroll
  for (int k = 0; k < PIVOTS / BLOCK; ++k) {
    const int at = k * BLOCK + thread;
    read[k] = at * step < stream.samples ? times[at * step] : 0;
  }
#pragma unroll
  for (int k = 0; k < PIVOTS / BLOCK; ++k) staged[k * BLOCK + thread] = read[k];
  __syncthreads();
  if (thread < here) {
    // The place depends on what was read, which is never negative.
    double found = target + staged[pivot];
    if (step > 1) found += times[place + (found < 0 ? 1 : 0)];
    first_of[thread] = found < 0 ? 0 : place;
  }
  __syncthreads();
  move(p, stream, batch, first, here, first_of);
}

// Zeros, 16 bytes a thread.
struct Clear {
  uint4* memory;
  u64 count;
};
extern "C" __global__ void __launch_bounds__(256) clear(const __grid_constant__ Clear p) {
  begin();
  const u64 at = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at < p.count) p.memory[at] = uint4{0, 0, 0, 0};
}

// Four points a thread, each of which marks a cell: a byte, or a bit.
struct Scatter {
  const uint4* points;  // 12 bytes each
  unsigned char* bytes;
  unsigned* bits;
  unsigned cells, points_count;
};
template <class Mark>
__device__ void scatter(const Scatter& p, const Mark& mark) {
  begin();
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at * 4 >= p.points_count) return;
  const uint4 a = p.points[at * 3], b = p.points[at * 3 + 1], c = p.points[at * 3 + 2];
  const unsigned numbers[4] = {a.x ^ a.y ^ a.z, a.w ^ b.x ^ b.y, b.z ^ b.w ^ c.x, c.y ^ c.z ^ c.w};
#pragma unroll
  for (int k = 0; k < 4; ++k) mark(__umulhi(hashed(numbers[k] + k), p.cells));
}
extern "C" __global__ void __launch_bounds__(256) scatter_bytes(const __grid_constant__ Scatter p) {
  scatter(p, [&](unsigned cell) { p.bytes[cell] = 1; });
}
extern "C" __global__ void __launch_bounds__(256) scatter_bits(const __grid_constant__ Scatter p) {
  scatter(p, [&](unsigned cell) { atomicOr(&p.bits[cell / 32], 1u << cell % 32); });
}
// Bits to bytes, 16 cells a thread.
struct Expand {
  const unsigned short* bits;
  uint4* bytes;
  unsigned count;
};
extern "C" __global__ void __launch_bounds__(256) expand(const __grid_constant__ Expand p) {
  begin();
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= p.count) return;
  const unsigned bits = p.bits[at];
  const auto four = [](unsigned nibble) { return (nibble * 0x00204081u) & 0x01010101u; };
  p.bytes[at] = uint4{four(bits & 15), four(bits >> 4 & 15), four(bits >> 8 & 15), four(bits >> 12)};
}

// A mean of eight f32 by tiles of 1024 cells: points are read and as many entries written; then a block reads a tile's
// share of the entries, the features of points all over the cloud, and writes its cells.
struct Entries {
  const uint4* points;
  uint4* entries;
  unsigned points_count;
};
extern "C" __global__ void __launch_bounds__(256) entries(const __grid_constant__ Entries p) {
  begin();
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at * 4 >= p.points_count) return;
  const uint4 a = p.points[at * 3], b = p.points[at * 3 + 1], c = p.points[at * 3 + 2];
  p.entries[at] = uint4{a.x ^ a.y ^ a.z, a.w ^ b.x ^ b.y, b.z ^ b.w ^ c.x, c.y ^ c.z ^ c.w};
}
struct Tiles {
  const unsigned* entries;
  const uint4* features;  // two for each point
  uint4* output;          // [8, cells]
  u64 cells;
  unsigned points_count, tiles;
};
constexpr int CELLS = 1024;
extern "C" __global__ void __launch_bounds__(256) tiles(const __grid_constant__ Tiles p) {
  __shared__ uint4 staged[2 * CELLS];
  begin();
  for (int at = threadIdx.x; at < 2 * CELLS; at += blockDim.x) staged[at] = uint4{0, 0, 0, 0};
  __syncthreads();
  const u64 first = static_cast<u64>(blockIdx.x) * p.points_count / p.tiles;
  const int here = static_cast<int>(static_cast<u64>(blockIdx.x + 1) * p.points_count / p.tiles - first);
  for (int at = threadIdx.x; at < 2 * here; at += blockDim.x) {
    const unsigned number = hashed(p.entries[first + at / 2] + static_cast<unsigned>(first) + at / 2);
    staged[2 * (number % CELLS) + at % 2] = __ldg(p.features + 2 * static_cast<u64>(__umulhi(number, p.points_count)) + at % 2);
  }
  __syncthreads();
  for (int at = threadIdx.x; at < 2 * CELLS; at += blockDim.x) {
    const u64 channel = at / (CELLS / 4), four = at % (CELLS / 4);
    p.output[channel * (p.cells / 4) + static_cast<u64>(blockIdx.x) * (CELLS / 4) + four] = staged[at];
  }
}
