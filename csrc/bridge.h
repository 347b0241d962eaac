// What Rust calls in C++: torch's thread pool. src/ffi.rs includes this header.
#pragma once

#include <cstddef>

namespace robocache::core {

struct Rows;

// Runs `rows` over [0, items) in parts of at least `grain` on torch's own thread pool.
void parallel_rows(std::size_t items, std::size_t grain, const Rows& rows);

} // namespace robocache::core
