// Fibers, the scheduler and the collectives of the emulator: see engine.h.
#include "engine.h"

#include "switch.h"

#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>

#include <sys/mman.h>
#include <unistd.h>

// No sanitizer checks this file, whatever checks the kernels: it runs at every change of threads, and the frames that
// fibers are left in must have no redzones.
#ifdef EMULATOR_ADDRESS
#include <sanitizer/common_interface_defs.h>
constexpr std::size_t STACK_BYTES = 256 << 10;  // redzones make frames larger
#else
constexpr std::size_t STACK_BYTES = 64 << 10;
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {
namespace {

constexpr unsigned WARP = 32, MAX_THREADS = 1024;

enum class State : unsigned char { READY, AT_WARP, AT_BLOCK, RETURNED };

struct Thread {
  void* stack_pointer = nullptr;
  unsigned number = 0;  // within the block
  uint3 index{};
  State state = State::READY;
  Site site{};
  unsigned mask = 0;
  int source = 0;
  std::uint64_t value = 0, result = 0;
};

struct Warp {
  unsigned present, waiting, returned;  // sets of lanes
};

const Kernel* kernel;
const void* params;
Thread threads[MAX_THREADS], host;
Warp warps[MAX_THREADS / WARP];
unsigned ready[MAX_THREADS + 1];  // a stack, so that a warp runs on until its threads wait for other warps
unsigned thread_count, ready_count, returned_count, at_block_count;
Thread* current = &host;
std::uint64_t seed, random_state;

std::uint64_t random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

void describe(const Thread& thread) {
  std::fprintf(stderr, "thread (%u, %u, %u) [warp %u, lane %u]", thread.index.x, thread.index.y, thread.index.z,
               thread.number / WARP, thread.number % WARP);
  if (thread.state == State::RETURNED) {
    std::fprintf(stderr, " has returned");
  } else if (thread.site.built_in != nullptr) {
    std::fprintf(stderr, " in %s at %s:%d", thread.site.built_in, thread.site.file, thread.site.line);
    if (thread.mask != 0) {
      std::fprintf(stderr, " with mask 0x%08x", thread.mask);
    }
  }
}

[[noreturn]] void fail(const Thread& thread, const char* format, ...) __attribute__((format(printf, 2, 3)));
[[noreturn]] void fail(const Thread& thread, const char* format, ...) {
  std::fprintf(stderr, "emulator: kernel %s, block (%u, %u, %u), ", kernel->name, blockIdx.x, blockIdx.y, blockIdx.z);
  describe(thread);
  std::fprintf(stderr, ": ");
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n");
  std::abort();
}

[[noreturn]] void fail_deadlocked() {
  constexpr int SHOWN = 40;
  int shown = 0;
  for (unsigned n = 0; n < thread_count && shown < SHOWN; n++, shown++) {
    std::fprintf(stderr, "emulator: ");
    describe(threads[n]);
    std::fprintf(stderr, "\n");
  }
  unsigned first = 0;
  while (threads[first].state == State::RETURNED) {
    first++;
  }
  fail(threads[first], "deadlock: every thread that has not returned waits (the first %d are listed above)", shown);
}

void make_ready(Thread& thread) {
  thread.state = State::READY;
  ready[ready_count++] = thread.number;
}

Thread& next() {
  if (ready_count == 0) {
    if (returned_count == thread_count) {
      return host;
    }
    fail_deadlocked();
  }
  if (seed != 0) {
    std::swap(ready[random() % ready_count], ready[ready_count - 1]);
  }
  return threads[ready[--ready_count]];
}

void resume(Thread& thread) {
  Thread& from = *current;
  if (&thread == &from) {
    return;
  }
  current = &thread;
  threadIdx = thread.index;
  emulator_switch(&from.stack_pointer, thread.stack_pointer);
}

void leave() {
  Thread& self = *current;
  Warp& warp = warps[self.number / WARP];
  const unsigned lane = self.number % WARP;
  self.state = State::RETURNED;
  warp.returned |= 1u << lane;
  returned_count++;
  for (unsigned lanes = warp.waiting; lanes != 0; lanes &= lanes - 1) {
    const Thread& other = threads[self.number - lane + std::countr_zero(lanes)];
    if (other.mask >> lane & 1) {
      fail(other, "lane %u returned from the kernel instead of coming", lane);
    }
  }
  if (at_block_count > 0) {
    for (unsigned n = 0; n < thread_count; n++) {
      if (threads[n].state == State::AT_BLOCK) {
        fail(threads[n], "thread (%u, %u, %u) returned from the kernel instead of coming", self.index.x, self.index.y,
             self.index.z);
      }
    }
  }
  resume(next());
}

void enter() {
  kernel->call(kernel->function, params);
  leave();
  __builtin_unreachable();
}

// All stacks lie side by side, the first thread's highest, below each a page that stops an overflow.
struct Stacks {
  std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), each = STACK_BYTES + page;
  char* first;

  Stacks() {
    constexpr int FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, FLAGS, -1, 0);
    first = static_cast<char*>(memory);
    bool made = memory != MAP_FAILED;
    for (unsigned n = 0; made && n < MAX_THREADS; n++) {
      made = mprotect(first + n * each, page, PROT_NONE) == 0;
    }
    if (!made) {
      std::perror("emulator: no memory for the fibers' stacks");
      std::abort();
    }
  }
  std::size_t bytes() const { return MAX_THREADS * each; }
  char* top(unsigned number) const { return first + (MAX_THREADS - number) * each; }
};

const Stacks& stacks() {
  static const Stacks all;
  return all;
}

// While it lives, AddressSanitizer takes all fibers' stacks for this thread's one, and need not hear of each change.
class KnownStacks {
#ifdef EMULATOR_ADDRESS
 public:
  KnownStacks() {
    __sanitizer_start_switch_fiber(&fake_stack, stacks().first, stacks().bytes());
    __sanitizer_finish_switch_fiber(nullptr, &own, &bytes);
  }
  ~KnownStacks() {
    __sanitizer_start_switch_fiber(nullptr, own, bytes);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
  }

 private:
  void* fake_stack;
  const void* own;
  std::size_t bytes;
#endif
};

void start(unsigned number) {
  Thread& thread = threads[number];
  // Stacks start at different offsets in their pages: otherwise all their tops would share a few cache sets.
  char* top = stacks().top(number) - number % 32 * 128;
  auto saved = reinterpret_cast<void**>(top) - SAVED_WORDS;
  std::memset(saved, 0, SAVED_WORDS * sizeof(void*));
  saved[RETURN_WORD] = reinterpret_cast<void*>(&enter);
  thread.stack_pointer = saved;
  thread.number = number;
  thread.index = {number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
  thread.site = {};
  warps[number / WARP].present |= 1u << number % WARP;
}

void run_block() {
  poison_shared(*kernel);
  returned_count = at_block_count = ready_count = 0;
  std::memset(warps, 0, sizeof warps);
  for (unsigned n = 0; n < thread_count; n++) {
    start(n);
  }
  for (unsigned n = thread_count; n-- > 0;) {
    make_ready(threads[n]);
  }
  resume(next());
}

bool same(const Thread& a, const Thread& b) {
  // A string's address differs where the linker has not merged it.
  const auto equal = [](const char* x, const char* y) { return x == y || std::strcmp(x, y) == 0; };
  return a.mask == b.mask && a.site.line == b.site.line && equal(a.site.built_in, b.site.built_in) &&
         equal(a.site.file, b.site.file);
}

// False where a lane of the mask waits elsewhere and can still come.
bool has_come(const Thread& self, const Thread& other) {
  if (same(self, other)) {
    return true;
  }
  if (other.mask >> self.number % WARP & 1) {
    fail(self, "lane %u waits for this lane in %s at %s:%d with mask 0x%08x", other.number % WARP, other.site.built_in,
         other.site.file, other.site.line, other.mask);
  }
  return false;
}

bool all_have_come(const Thread& self, const Warp& warp) {
  const Thread* first = &self - self.number % WARP;
  unsigned waiting = self.mask & warp.waiting & ~(1u << self.number % WARP);
  if ((self.mask & ~warp.waiting) != 0) {
    waiting &= -waiting;  // one lane is enough while others are to come
  }
  bool all = (self.mask & ~warp.waiting) == 0;
  for (; waiting != 0; waiting &= waiting - 1) {
    all &= has_come(self, first[std::countr_zero(waiting)]);
  }
  return all;
}

}  // namespace

std::vector<Kernel>& kernels() {
  static std::vector<Kernel> all;
  return all;
}

int lane() {
  return static_cast<int>(current->number % WARP);
}

void reorder() {
  if (seed != 0) {
    make_ready(*current);
    resume(next());
  }
}

std::uint64_t exchange(const Site& site, unsigned mask, std::uint64_t value, int source) {
  Thread& self = *current;
  Warp& warp = warps[self.number / WARP];
  const unsigned lane = self.number % WARP;
  self.site = site;
  self.mask = mask;
  self.value = value;
  self.source = source;
  if ((mask >> lane & 1) == 0) {
    fail(self, "the mask lacks the calling lane %u", lane);
  }
  if ((mask & ~warp.present) != 0) {
    fail(self, "the mask names lane %d, which the block does not have", std::countr_zero(mask & ~warp.present));
  }
  if ((mask & warp.returned) != 0) {
    fail(self, "the mask names lane %d, which has returned from the kernel", std::countr_zero(mask & warp.returned));
  }
  if (source >= 0 && (mask >> source & 1) == 0) {
    fail(self, "it reads lane %d, which the mask lacks", source);
  }
  warp.waiting |= 1u << lane;
  if (!all_have_come(self, warp)) {
    self.state = State::AT_WARP;
    resume(next());
    return self.result;
  }
  warp.waiting &= ~mask;
  Thread* first = &self - lane;
  const auto lanes_where = [&](auto holds) {
    std::uint64_t found = 0;
    for (unsigned lanes = mask; lanes != 0; lanes &= lanes - 1) {
      const int i = std::countr_zero(lanes);
      found |= static_cast<std::uint64_t>(holds(first[i].value)) << i;
    }
    return found;
  };
  const std::uint64_t ballot = source == BALLOT ? lanes_where([](std::uint64_t other) { return other != 0; }) : 0;
  for (unsigned lanes = mask; lanes != 0; lanes &= lanes - 1) {
    Thread& thread = first[std::countr_zero(lanes)];
    switch (thread.source) {
      case BALLOT:
        thread.result = ballot;
        break;
      case MATCH:
        thread.result = lanes_where([&](std::uint64_t other) { return other == thread.value; });
        break;
      default:
        thread.result = first[thread.source].value;
    }
  }
  for (unsigned lanes = mask & ~(1u << lane); lanes != 0; lanes &= lanes - 1) {
    make_ready(first[std::countr_zero(lanes)]);
  }
  reorder();
  return self.result;
}

int synchronize(const Site& site, bool value) {
  Thread& self = *current;
  self.site = site;
  self.mask = 0;
  self.value = value;
  if (returned_count > 0) {
    fail(self, "%u threads of the block have returned from the kernel", returned_count);
  }
  static Thread* leader;  // the first to come
  static int sum;
  if (at_block_count == 0) {
    leader = &self;
    sum = 0;
  }
  if (!same(self, *leader)) {
    fail(self, "thread (%u, %u, %u) waits in %s at %s:%d", leader->index.x, leader->index.y, leader->index.z,
         leader->site.built_in, leader->site.file, leader->site.line);
  }
  sum += value;
  self.state = State::AT_BLOCK;
  if (++at_block_count < thread_count) {
    resume(next());
    return static_cast<int>(self.result);
  }
  at_block_count = 0;
  const int total = sum;
  for (unsigned n = thread_count; n-- > 0;) {
    threads[n].result = static_cast<std::uint64_t>(total);
    make_ready(threads[n]);
  }
  resume(next());
  return total;
}

void launch(const Kernel& which, dim3 grid, dim3 block, const void* argument) {
  static std::mutex mutex;  // __shared__ variables are static: one launch at a time
  const std::lock_guard lock(mutex);
  const char* text = std::getenv("ROBOCACHE_EMULATOR_SEED");
  seed = text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
  random_state = seed * 0x9E3779B97F4A7C15u | 1;
  kernel = &which;
  params = argument;
  gridDim = grid;
  blockDim = block;
  thread_count = block.x * block.y * block.z;
  [[maybe_unused]] const KnownStacks known;

  // The seed also permutes the blocks: a step that shares no factor with their count visits each once.
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  std::uint64_t step = 1, at = 0;
  if (seed != 0) {
    at = random() % blocks;
    do {
      step = random() % blocks + 1;
    } while (std::gcd(step, blocks) != 1);
  }
  for (std::uint64_t n = 0; n < blocks; n++, at = (at + step) % blocks) {
    blockIdx = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                static_cast<unsigned>(at / grid.x / grid.y)};
    run_block();
  }
}

}  // namespace emulator
