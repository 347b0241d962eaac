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

// How channels are moved: by element, in vectors of so many bytes, or unit by unit.
enum Access : int { BY_ELEMENT, BY_4_BYTES, BY_8_BYTES, BY_16_BYTES, CURVED };

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
};
static_assert(sizeof(Rows) == 208, "mirrors ops::signal_cuda::Rows");

// The rows and vectors of a block.
struct BlockShare {
  i64 first;  // of its rows of [B * T] or [B * S]
  int rows;
  bool alike;  // all are of one row of the batch
  i64 batch;   // that row
  i64 tile;    // which part of each row
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
  return {(alike ? batch * count : 0) + within, rows, alike, alike ? batch : 0, tile};
}

// Never true of a share that the plan made. A block that asks before it waits (`begin`) has worked out its share by
// then: else the compiler puts that off.
__device__ inline bool is_nothing(const BlockShare& share) {
  return share.rows <= 0 || share.first < 0 || share.batch < 0;
}

}  // namespace robocache
