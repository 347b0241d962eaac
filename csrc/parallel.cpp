// Torch's thread pool for the rows of Rust's CPU operators.

#include "bridge.h"

#include <ATen/Parallel.h>

#include "robocache/src/ffi.rs.h"

namespace robocache::core {

void parallel_rows(std::size_t items, std::size_t grain, const Rows& rows) {
  at::parallel_for(0, static_cast<int64_t>(items), static_cast<int64_t>(grain), [&](int64_t begin, int64_t end) {
    rows.run(static_cast<std::size_t>(begin), static_cast<std::size_t>(end));
  });
}

} // namespace robocache::core
