// The emulated driver's memory: host memory between guards, filled so that a read before any write shows.
#include "driver.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace {

constexpr std::size_t ALIGNMENT = 256;  // a device's own
constexpr unsigned char UNWRITTEN = 0xA5, GUARD = 0xC7;
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t GUARD_BYTES = 0;  // the sanitizer sees reads past the end too, if nothing lies there
#else
constexpr std::size_t GUARD_BYTES = 4 * ALIGNMENT;
#endif

std::mutex mutex;
std::map<std::uintptr_t, std::size_t> allocations;  // address -> bytes
std::size_t allocated_bytes = 0;

bool intact(std::uintptr_t address, std::size_t bytes) {
  const auto before = reinterpret_cast<const unsigned char*>(address - GUARD_BYTES);
  const auto after = reinterpret_cast<const unsigned char*>(address + bytes);
  for (std::size_t i = 0; i < GUARD_BYTES; i++) {
    if (before[i] != GUARD || after[i] != GUARD) {
      return false;
    }
  }
  return true;
}

// True where one allocation holds the whole range.
bool holds(CUdeviceptr address, std::size_t bytes) {
  const std::lock_guard lock(mutex);
  auto found = allocations.upper_bound(address);
  if (found == allocations.begin()) {
    return bytes == 0;
  }
  --found;
  return address - found->first <= found->second && bytes <= found->second - (address - found->first);
}

void* host(CUdeviceptr address) {
  return reinterpret_cast<void*>(address);
}

CUresult check_range(CUdeviceptr address, std::size_t bytes, CUstream stream) {
  const CUresult found = emulator::check_stream(stream);
  if (found != CUDA_SUCCESS) {
    return found;
  }
  return holds(address, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

void emulator::check_guards(const char* after) {
  const std::lock_guard lock(mutex);
  for (const auto& [address, bytes] : allocations) {
    if (!intact(address, bytes)) {
      std::fprintf(stderr, "emulator: %s: something wrote outside an allocation of %zu bytes\n", after, bytes);
      std::abort();
    }
  }
}

CUresult cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes) {
  const CUresult found = emulator::check_context();
  if (found != CUDA_SUCCESS || bytes == 0) {
    return found != CUDA_SUCCESS ? found : CUDA_ERROR_INVALID_VALUE;
  }
  std::size_t total = 0;
  cuDeviceTotalMem(&total, 0);
  const std::lock_guard lock(mutex);
  void* memory = nullptr;
  if (bytes > total - allocated_bytes || posix_memalign(&memory, ALIGNMENT, bytes + 2 * GUARD_BYTES) != 0) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  const auto start = static_cast<unsigned char*>(memory) + GUARD_BYTES;
  std::memset(memory, GUARD, GUARD_BYTES);
  std::memset(start, UNWRITTEN, bytes);
  std::memset(start + bytes, GUARD, GUARD_BYTES);
  *address = reinterpret_cast<CUdeviceptr>(start);
  allocations[*address] = bytes;
  allocated_bytes += bytes;
  return CUDA_SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr address) {
  if (address == 0) {
    return CUDA_SUCCESS;
  }
  emulator::check_guards("cuMemFree");
  const std::lock_guard lock(mutex);
  const auto found = allocations.find(address);
  if (found == allocations.end()) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  allocated_bytes -= found->second;
  allocations.erase(found);
  std::free(reinterpret_cast<void*>(address - GUARD_BYTES));
  return CUDA_SUCCESS;
}
CUresult cuMemAllocAsync(CUdeviceptr* address, std::size_t bytes, CUstream) {
  return cuMemAlloc(address, bytes);
}
CUresult cuMemFreeAsync(CUdeviceptr address, CUstream) {
  return cuMemFree(address);
}
CUresult cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  cuDeviceTotalMem(total, 0);
  const std::lock_guard lock(mutex);
  *free = *total - allocated_bytes;
  return emulator::check_context();
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream) {
  const CUresult found = check_range(to, bytes, stream);
  if (found == CUDA_SUCCESS && bytes > 0) {
    std::memcpy(host(to), from, bytes);
  }
  return found;
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  const CUresult found = check_range(from, bytes, stream);
  if (found == CUDA_SUCCESS && bytes > 0) {
    std::memcpy(to, host(from), bytes);
  }
  return found;
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  const CUresult found = check_range(from, bytes, stream);
  return found == CUDA_SUCCESS ? cuMemcpyHtoDAsync(to, host(from), bytes, stream) : found;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t bytes, CUstream stream) {
  const CUresult found = check_range(to, bytes, stream);
  if (found == CUDA_SUCCESS && bytes > 0) {
    std::memset(host(to), value, bytes);
  }
  return found;
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
  return cuMemcpyHtoDAsync(to, from, bytes, nullptr);
}
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
  return cuMemcpyDtoHAsync(to, from, bytes, nullptr);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  return cuMemcpyDtoDAsync(to, from, bytes, nullptr);
}
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, std::size_t bytes) {
  return cuMemsetD8Async(to, value, bytes, nullptr);
}
