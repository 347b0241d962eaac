// Tests the emulator itself: what collectives and conversions give, and that it stops at planted bugs.
#include <cuda.h>

#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

struct Params {
  int* ints;
  unsigned short* halves;
  const float* floats;
  uint4* vectors;
  int count;
};

// Threads: one warp; eight numbers for each lane.
extern "C" __global__ void __launch_bounds__(32) shuffles(const __grid_constant__ Params params) {
  const int lane = threadIdx.x, value = 100 + lane;
  int* out = params.ints + lane * 8;
  out[0] = __shfl_sync(0xffffffff, value, (lane + 1) % 32);
  out[1] = __shfl_xor_sync(0xffffffff, value, 16);
  out[2] = __shfl_down_sync(0xffffffff, value, 3, 8);
  out[3] = __shfl_up_sync(0xffffffff, value, 3, 8);
  out[4] = static_cast<int>(__ballot_sync(0xffffffff, lane % 3 == 0));
  // Halves of a warp may go their own ways.
  const unsigned half = lane < 16 ? 0x0000ffff : 0xffff0000;
  out[5] = lane < 16 ? __reduce_add_sync(half, value) : static_cast<int>(__shfl_sync(half, 1ll << lane, 31) >> 31);
  out[6] = __any_sync(0xffffffff, lane == 31) + 2 * __all_sync(0xffffffff, lane < 31);
  out[7] = static_cast<int>(__match_any_sync(half, lane % 5));
}

// Threads: 256 a block, summed pairwise through shared memory; each block first sees poison.
template <int THREADS>
__device__ void sum_block(const Params& params) {
  constexpr int POISON = static_cast<int>(0xA5A5A5A5), EACH = 16;
  __shared__ int sums[THREADS];
  __shared__ int pages[EACH * THREADS];
  bool poisoned = sums[threadIdx.x] == POISON;
  for (int i = 0; i < EACH; i++) {
    int& one = pages[i * THREADS + threadIdx.x];
    poisoned &= one == POISON;
    one = 0;
  }
  sums[threadIdx.x] = static_cast<int>(threadIdx.x + blockIdx.x);
  __syncthreads();
  for (unsigned apart = THREADS / 2; apart > 0; apart /= 2) {
    if (threadIdx.x < apart) {
      sums[threadIdx.x] += sums[threadIdx.x + apart];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    params.ints[blockIdx.x] = sums[0];
  }
  atomicAdd(&params.ints[gridDim.x], poisoned);
}
extern "C" __global__ void __launch_bounds__(256) sum(const __grid_constant__ Params params) {
  sum_block<256>(params);
}

// Threads: one for each number; f16 then bf16, and both back again.
extern "C" __global__ void halves(const __grid_constant__ Params params) {
  const int i = threadIdx.x;
  const __half half = __float2half_rn(params.floats[i]);
  const __nv_bfloat16 brain = __float2bfloat16_rn(params.floats[i]);
  params.halves[2 * i] = __half_as_ushort(half);
  params.halves[2 * i + 1] = __bfloat16_as_ushort(brain);
  params.ints[2 * i] = __float_as_int(__half2float(half));
  params.ints[2 * i + 1] = __float_as_int(__bfloat162float(brain));
}

extern "C" __global__ void copy_vectors(const __grid_constant__ Params params) {
  params.vectors[blockDim.x + threadIdx.x] = __ldg(params.vectors + threadIdx.x);
}

// Planted bugs, one each.
extern "C" __global__ void divergent_shuffles(const __grid_constant__ Params params) {
  if (threadIdx.x < 16) {
    params.ints[threadIdx.x] = __shfl_sync(0xffffffff, 1, 0);
  } else {
    params.ints[threadIdx.x] = __shfl_xor_sync(0xffffffff, 1, 1);
  }
}
extern "C" __global__ void shuffle_after_return(const __grid_constant__ Params params) {
  if (static_cast<int>(threadIdx.x) >= params.count) return;
  params.ints[threadIdx.x] = __shfl_sync(0xffffffff, 1, 0);
}
extern "C" __global__ void missed_barrier(const __grid_constant__ Params params) {
  if (static_cast<int>(threadIdx.x) < params.count) __syncthreads();
}
extern "C" __global__ void barrier_against_shuffle(const __grid_constant__ Params) {
  if (threadIdx.x == 5) {
    __syncthreads();
  }
  __syncwarp();
}
extern "C" __global__ void write_past_end(const __grid_constant__ Params params) {
  params.ints[params.count] = 1;
}
extern "C" __global__ void write_past_shared(const __grid_constant__ Params params) {
  __shared__ int few[8];
  few[params.count] = 1;
  __syncthreads();
  params.ints[0] = few[0];
}
extern "C" __global__ void misaligned_vector(const __grid_constant__ Params params) {
  *reinterpret_cast<uint4*>(params.ints + 1) = make_uint4(1, 2, 3, 4);
}

namespace {

void check(bool holds, const std::string& what) {
  if (!holds) {
    std::fprintf(stderr, "selftest: %s\n", what.c_str());
    std::exit(1);
  }
}

void check(CUresult result, const char* what) {
  const char* name = "an unknown error";
  cuGetErrorName(result, &name);
  check(result == CUDA_SUCCESS, std::string(what) + " gave " + name);
}
#define CHECK(CALL) check(CALL, #CALL)

CUfunction find(const char* name) {
  const std::string ptx = ".version 9.0\n.target sm_80\n.visible .entry " + std::string(name) + "(\n";
  CUlibrary library;
  CUkernel kernel;
  CUfunction function;
  CHECK(cuLibraryLoadData(&library, ptx.c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0));
  check(cuLibraryGetKernel(&kernel, library, "absent") == CUDA_ERROR_NOT_FOUND, "an absent kernel is found");
  CHECK(cuLibraryGetKernel(&kernel, library, name));
  CHECK(cuKernelGetFunction(&function, kernel));
  return function;
}

CUresult launch(const char* name, unsigned grid, unsigned block, Params params) {
  void* arguments[] = {&params};
  return cuLaunchKernel(find(name), grid, 1, 1, block, 1, 1, 0, nullptr, arguments, nullptr);
}

template <class T>
T* allocate(const std::vector<T>& values) {
  CUdeviceptr address;
  CHECK(cuMemAlloc(&address, values.size() * sizeof(T)));
  CHECK(cuMemcpyHtoD(address, values.data(), values.size() * sizeof(T)));
  return reinterpret_cast<T*>(address);
}

template <class T>
std::vector<T> read(const T* from, std::size_t count) {
  std::vector<T> values(count);
  CHECK(cuMemcpyDtoH(values.data(), reinterpret_cast<CUdeviceptr>(from), count * sizeof(T)));
  return values;
}

void test_shuffles() {
  Params params{.ints = allocate(std::vector<int>(32 * 8))};
  CHECK(launch("shuffles", 1, 32, params));
  const std::vector<int> found = read(params.ints, 32 * 8);
  for (int lane = 0; lane < 32; lane++) {
    const int in_segment = lane % 8;
    const unsigned fifths = 0x42108421;
    const int expected[8] = {100 + (lane + 1) % 32,
                             100 + (lane ^ 16),
                             100 + lane + (in_segment + 3 < 8 ? 3 : 0),
                             100 + lane - (in_segment >= 3 ? 3 : 0),
                             0x49249249,
                             lane < 16 ? 16 * 100 + 120 : 1,
                             1,
                             static_cast<int>(fifths << lane % 5 & (lane < 16 ? 0xffffu : 0xffff0000u))};
    check(std::memcmp(&found[lane * 8], expected, sizeof expected) == 0, "shuffles of lane " + std::to_string(lane));
  }
}

void test_sum() {
  constexpr unsigned BLOCKS = 7;
  Params params{.ints = allocate(std::vector<int>(BLOCKS + 1))};
  CHECK(launch("sum", BLOCKS, 256, params));
  const std::vector<int> found = read(params.ints, BLOCKS + 1);
  for (unsigned block = 0; block < BLOCKS; block++) {
    check(found[block] == static_cast<int>(256 * 255 / 2 + 256 * block), "sum of block " + std::to_string(block));
  }
  check(found[BLOCKS] == BLOCKS * 256, "shared memory is poisoned before each block");
}

void test_halves() {
  struct Case {
    unsigned f32;
    unsigned short f16, bf16;
  };
  const std::vector<Case> cases = {
      {0x00000000, 0x0000, 0x0000}, {0x80000000, 0x8000, 0x8000}, {0x7f800000, 0x7c00, 0x7f80},
      {0xff800000, 0xfc00, 0xff80}, {0x7fc00000, 0x7fff, 0x7fff}, {0x3f800000, 0x3c00, 0x3f80},
      {0x3f808000, 0x3c04, 0x3f80},  // a tie in bf16: to even
      {0x3f818000, 0x3c0c, 0x3f82},  // a tie in bf16: to even, upwards
      {0x3f801000, 0x3c00, 0x3f80},  // a tie in f16
      {0x3f803000, 0x3c02, 0x3f80},  // a tie in f16, upwards
      {0x477fefff, 0x7bff, 0x4780},  // the largest f16
      {0x477ff000, 0x7c00, 0x4780},  // the least that overflows f16
      {0x7f7fffff, 0x7c00, 0x7f80},  // the largest f32 overflows both
      {0x33800000, 0x0001, 0x3380},  // the least f16
      {0x33000000, 0x0000, 0x3300},  // half of it: a tie to zero
      {0x33000001, 0x0001, 0x3300},  // just above
      {0x00000001, 0x0000, 0x0000},  // the least f32
      {0x00010000, 0x0000, 0x0001},  // the least bf16
  };
  std::vector<float> floats;
  for (const Case& each : cases) {
    floats.push_back(std::bit_cast<float>(each.f32));
  }
  Params params{.ints = allocate(std::vector<int>(2 * cases.size())),
                .halves = allocate(std::vector<unsigned short>(2 * cases.size())),
                .floats = allocate(floats)};
  CHECK(launch("halves", 1, static_cast<unsigned>(cases.size()), params));
  const auto bits = read(params.halves, 2 * cases.size());
  const auto back = read(params.ints, 2 * cases.size());
  for (std::size_t i = 0; i < cases.size(); i++) {
    char text[80];
    std::snprintf(text, sizeof text, "0x%08x to f16 and bf16 gave 0x%04x and 0x%04x", cases[i].f32, bits[2 * i],
                  bits[2 * i + 1]);
    check(bits[2 * i] == cases[i].f16 && bits[2 * i + 1] == cases[i].bf16, text);
    check(back[2 * i + 1] == cases[i].bf16 << 16, std::string(text) + ", and another f32 came back");
  }
}

void test_vectors() {
  std::vector<uint4> values(64);
  std::memset(values.data(), 0x37, 32 * sizeof(uint4));
  Params params{.vectors = allocate(values)};
  CHECK(launch("copy_vectors", 1, 32, params));
  values = read(params.vectors, 64);
  check(std::memcmp(&values[0], &values[32], 32 * sizeof(uint4)) == 0, "vectors of 16 bytes are copied");
}

void test_refusals() {
  const Params params{};
  check(launch("sum", 1, 257, params) == CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "a block above the launch bounds runs");
  check(launch("halves", 1, 1025, params) == CUDA_ERROR_INVALID_VALUE, "a block of 1025 threads runs");
  check(launch("halves", 0, 32, params) == CUDA_ERROR_INVALID_VALUE, "an empty grid runs");
  CUlibrary library;
  const char image[128] = "no image";
  const CUresult loaded = cuLibraryLoadData(&library, image, nullptr, nullptr, 0, nullptr, nullptr, 0);
  check(loaded == CUDA_ERROR_INVALID_IMAGE, "any text is an image");
}

// The kernel must end the process with a message that holds `says`, or `or_says` where a sanitizer speaks first.
void test_planted(const char* name, unsigned block, int count, const char* says, const char* or_says = nullptr) {
  int ends[2];
  check(pipe(ends) == 0, "a pipe opens");
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    const Params params{.ints = allocate(std::vector<int>(64)), .count = count};
    launch(name, 1, block, params);
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char part[4096];
  for (ssize_t bytes; (bytes = ::read(ends[0], part, sizeof part)) > 0;) {
    text.append(part, static_cast<std::size_t>(bytes));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  const bool stopped = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  const bool said = text.find(says) != text.npos || (or_says != nullptr && text.find(or_says) != text.npos);
  check(stopped && said, std::string(name) + " is not stopped, or its message is another: " + text);
}

}  // namespace

int main() {
  CUcontext context;
  CHECK(cuInit(0));
  CHECK(cuDevicePrimaryCtxRetain(&context, 0));
  CHECK(cuCtxSetCurrent(context));
  test_shuffles();
  test_sum();
  test_halves();
  test_vectors();
  test_refusals();
  test_planted("divergent_shuffles", 32, 0, "waits for this lane in __shfl_");
  test_planted("shuffle_after_return", 32, 31, "returned from the kernel");
  test_planted("shuffle_after_return", 24, 24, "which the block does not have");
  test_planted("missed_barrier", 64, 63, "returned from the kernel");
  test_planted("barrier_against_shuffle", 32, 0, "deadlock");
  test_planted("write_past_end", 1, 64, "write_past_end: something wrote outside", "heap-buffer-overflow");
  test_planted("write_past_shared", 1, 8, "index 8 out of bounds");
  test_planted("misaligned_vector", 1, 0, "misaligned address");
  std::puts("selftest: the emulator behaves");
  return 0;
}
