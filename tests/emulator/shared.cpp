// The __shared__ variables: each block finds poison in them. As in engine.cpp, no sanitizer checks this file.
#include "engine.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr unsigned char POISON = 0xA5;

// A plain loop: the sanitizer's memset would refuse the redzones between the variables.
__attribute__((optimize("no-tree-loop-distribute-patterns"))) void poison(unsigned char* byte, unsigned char* end) {
  while (byte != end) {
    *byte++ = POISON;
  }
}

// The __shared__ variables of a translation unit, of which a block writes few. Their whole pages are private ones of a
// file of poison: to forget what was written brings it back, for the price of the pages that a block touches.
class Shared {
 public:
  explicit Shared(const emulator::Kernel& of) : begin(of.shared_begin), end(of.shared_end) {
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto at = [](std::uintptr_t address) { return reinterpret_cast<unsigned char*>(address); };
    first = std::min(end, at((reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page));
    last = std::max(first, at(reinterpret_cast<std::uintptr_t>(end) / page * page));
    if (first == last) {
      return;
    }
    const std::vector<unsigned char> poisoned(bytes(), POISON);
    const int file = memfd_create("poison", MFD_CLOEXEC);
    bool made = file != -1 && ::write(file, poisoned.data(), bytes()) == static_cast<ssize_t>(bytes());
    // Not by mmap's own name: the sanitizer's would drop the redzones.
    made = made && syscall(SYS_mmap, first, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) != -1;
    if (!made) {
      std::perror("emulator: no memory for shared variables");
      std::abort();
    }
    close(file);
  }
  void poison_all() const {
    poison(begin, first);
    if (first != last && madvise(first, bytes(), MADV_DONTNEED) != 0) {
      std::perror("emulator: shared variables keep what was written");
      std::abort();
    }
    poison(last, end);
  }

  unsigned char *begin, *end;

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(last - first); }
  unsigned char *first, *last;  // its whole pages
};

}  // namespace

void emulator::poison_shared(const Kernel& kernel) {
  static std::vector<Shared> all;
  const auto same = [&](const Shared& one) { return one.begin == kernel.shared_begin; };
  auto found = std::find_if(all.begin(), all.end(), same);
  if (found == all.end()) {
    found = all.emplace(found, kernel);
  }
  found->poison_all();
}
