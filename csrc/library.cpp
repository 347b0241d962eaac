// The library as a whole: what it was built with.

#include <torch/library.h>

#include <string>

#include "robocache/src/ffi.rs.h"

namespace robocache {
namespace {

std::string build_info() {
  return static_cast<std::string>(core::build_info());
}

} // namespace
} // namespace robocache

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def("_build_info() -> str", TORCH_FN(robocache::build_info));
}
