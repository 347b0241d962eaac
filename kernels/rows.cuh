// What the operators that resample read and write: signals, and how a launch divides their rows.
//
// `plain_rows` (rows_plain.cuh) copies samples and draws lines, a block at a time; `curved_rows` (rows_curved.cuh) also
// turns, slerps and bends, a warp at a time.
#pragma once

#include "interpolate.cuh"

namespace robocache {

// Source values and where the channels of a launch lie.
struct Channels {
  const void* data;  // [B, S, D] or [B, T, D]
  i64 batch_step, row_step, channel_step;
};

// Threads of a block that works together: `PLAIN_BLOCK` in the plan.
constexpr int PLAIN_BLOCK = 256;
// Rows of a block are at most its threads: one finds the bracket of one row.
constexpr int MAX_ROWS = PLAIN_BLOCK;

enum TimeType : int { F64_TIMES, F32_TIMES, I64_TIMES };

// How channels are moved: by element, in vectors of so many bytes, unit by unit, or (of a gradient) several elements at a
// time that lie apart.
enum Access : int { BY_ELEMENT, BY_4_BYTES, BY_8_BYTES, BY_16_BYTES, CURVED, APART };

// Elements of a vector of an access.
template <class V>
__device__ int elements_of(int access) {
  return access == BY_ELEMENT ? 1 : (2 << access) / static_cast<int>(sizeof(V));
}

// Bytes that each share of a row of the batch asks for before it waits, of the rows that it reads and of the times: all
// shares together for all of these, wherever their own rows turn out to lie.
struct Ahead {
  int rows, times;
};

// A signal, where its channels go, and how its rows are shared out: to blocks of a plain launch, to warps of a curved.
struct Rows {
  Timeline times;
  Channels values;    // [B, S, D]
  void* output;       // [B, T, width]
  i64 width, column;  // channels of a row of the output, and which of them takes channel 0
  i64 first, last;    // the channels of this launch; units of a curved one
  i64 tile, tiles;    // vectors (or units) of a row in one share, and how many such parts a row has
  int rows_per_share;
  int chunks;         // shares of the targets of one row of the batch; 0: rows of [B * T] are cut as if it had one row
  int time_type;      // a TimeType
  int access;         // an Access
  int mode;           // that of all channels, or -1: it is in the groups
  int store_bytes;    // what the output takes in one store of a wider vector
  Ahead ahead;        // of a plain launch
};
static_assert(sizeof(Rows) == 216, "mirrors ops::signal_cuda::Rows");

// The rows and vectors of a block.
struct BlockShare {
  i64 first;  // of its rows of [B * T] or [B * S]
  int rows;
  bool alike;  // all are of one row of the batch
  i64 batch;   // that row
  i64 tile;    // which part of each row
  unsigned part;  // which of the shares of that row of the batch
};

// Of a launch whose rows are those of [batch * count].
template <class Params>
__device__ BlockShare block_share(const Params& p, i64 count, unsigned block) {
  const unsigned tiles = static_cast<unsigned>(p.tiles), part = block / tiles, tile = block - part * tiles;
  const bool alike = p.chunks > 0;
  const unsigned chunks = alike ? static_cast<unsigned>(p.chunks) : 1u;
  const unsigned batch = part / chunks;
  const i64 within = i64{alike ? part - batch * chunks : part} * p.rows_per_share;
  const i64 all = alike ? count : p.times.batch * count;
  const int rows = static_cast<int>(all - within < p.rows_per_share ? all - within : p.rows_per_share);
  return {(alike ? batch * count : 0) + within, rows, alike, alike ? batch : 0, tile, block - batch * chunks * tiles};
}

// The vectors of a block's rows, laid end to end.
struct Vectors {
  unsigned across;    // of a row
  unsigned inverse;   // item / across is a multiplication: exact, as items are below 2^18 and across is at most 2^10
  unsigned rows, total;
  i64 first_channel;  // of all channels

  // Of so many channels each.
  template <class Params>
  __device__ Vectors(const Params& p, const BlockShare& share, int channels) {
    const i64 first = share.tile * p.tile, left = (p.last - p.first) / channels - first;
    across = static_cast<unsigned>(left < p.tile ? left : p.tile);
    inverse = 0x7fffffffu / across + 1;
    rows = static_cast<unsigned>(share.rows);
    total = across * rows;
    first_channel = p.first + first * channels;
  }

  // Of `count` of a row, `tile` of these in one share; the share's first begins at `channel`.
  __device__ Vectors(const BlockShare& share, i64 tile, i64 count, i64 channel) {
    const i64 left = count - share.tile * tile;
    across = static_cast<unsigned>(left < tile ? left : tile);
    inverse = 0x7fffffffu / across + 1;
    rows = static_cast<unsigned>(share.rows);
    total = across * rows;
    first_channel = channel;
  }

  __device__ unsigned row(unsigned item) const { return __umulhi(2 * item, inverse); }
  // The first channel of an item of N channels.
  template <int N>
  __device__ i64 channel(unsigned item) const {
    return first_channel + (item - row(item) * across) * N;
  }
};

// Asks for a share's part of `count` rows of `channels`, `row_step` apart, and of as many times: one code for both, by a
// thread of a warp each.
template <class V, class T>
__device__ void ask_ahead(
    const Ahead& ahead, const BlockShare& share, const V* rows, const T* times, i64 count, i64 row_step, i64 channels) {
  if (threadIdx.x % WARP != 0 || threadIdx.x > WARP) return;
  const bool of_rows = threadIdx.x == 0;
  const i64 row_bytes = ((count - 1) * row_step + channels) * static_cast<i64>(sizeof(V));
  const i64 time_bytes = count * static_cast<i64>(sizeof(T));
  ask_for_part(of_rows ? static_cast<const void*>(rows) : times, of_rows ? row_bytes : time_bytes,
               of_rows ? ahead.rows : ahead.times, share.part);
}

// Never true of a share that the plan made, nor of the addresses of its data: without targets, whose address is null,
// nothing is launched, or the threads of a block would go apart. A block that asks before it waits (`begin`) has worked
// out all of it by then: else the compiler puts that off, which takes as long as a trip to memory.
template <class... Pointers>
__device__ bool is_nothing(const BlockShare& share, const Vectors& vectors, const Pointers*... addresses) {
  return share.rows <= 0 || share.first < 0 || share.batch < 0 || vectors.inverse == 0 ||
         (... || (addresses == nullptr));
}

}  // namespace robocache
