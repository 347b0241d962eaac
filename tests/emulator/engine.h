// The emulator's engine: runs the threads of a block as fibers that change places at barriers and warp collectives.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace emulator {

// A kernel that the host compiler has built.
struct Kernel {
  const char* name;
  void (*function)();
  void (*call)(void (*function)(), const void* params);
  std::size_t params_bytes;
  int max_threads;  // per block, from __launch_bounds__
  unsigned char* shared_begin;  // the __shared__ variables of its translation unit
  unsigned char* shared_end;
};

std::vector<Kernel>& kernels();

template <class Params>
void add(const char* name, void (*kernel)(Params), int max_threads, unsigned char* shared_begin,
         unsigned char* shared_end) {
  static_assert(std::is_trivially_copyable_v<Params>, "the driver copies a kernel's parameters as bytes");
  auto call = [](void (*function)(), const void* params) {
    reinterpret_cast<void (*)(Params)>(function)(*static_cast<const Params*>(params));
  };
  kernels().push_back(
      {name, reinterpret_cast<void (*)()>(kernel), call, sizeof(Params), max_threads, shared_begin, shared_end});
}

// Runs every block of the grid, one after another; a misuse that a device would answer with a hang or with undefined
// values ends the process with a message.
void launch(const Kernel& kernel, dim3 grid, dim3 block, const void* params);

// Fills the __shared__ variables of the kernel's translation unit with poison.
void poison_shared(const Kernel& kernel);

// Where a kernel calls a built-in: the lanes of a mask must all come to the same call.
struct Site {
  const char* built_in;
  const char* file;
  int line;
};

// Waits until all lanes of `mask` have come with the same site and mask, then gives the value of lane `source` or, for
// a source of BALLOT, the set of lanes whose value is not zero, for one of MATCH, of those whose value is this lane's.
constexpr int BALLOT = -1, MATCH = -2;
std::uint64_t exchange(const Site& site, unsigned mask, std::uint64_t value, int source);

// Waits until all threads of the block have come, then gives the number of them whose value was true.
int synchronize(const Site& site, bool value);

// A point where another thread may run first: with a seed, the order of atomics varies too.
void reorder();

int lane();

}  // namespace emulator
