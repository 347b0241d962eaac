// The emulated driver's device, context, streams, events and errors; memory.cpp and module.cpp hold the rest.
#include "driver.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <string>

#include <dlfcn.h>
#include <unistd.h>

namespace {

std::atomic<bool> initialised = false;
std::atomic<int> retained = 0;  // of the primary context
thread_local CUcontext current = nullptr;
char primary;

CUcontext primary_context() {
  return reinterpret_cast<CUcontext>(&primary);
}

std::mutex mutex;
std::set<CUstream> streams;
struct Event {
  std::chrono::steady_clock::time_point time;
  bool recorded = false;
};

CUresult check_device(CUdevice device) {
  if (!initialised) {
    return CUDA_ERROR_NOT_INITIALIZED;
  }
  return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

struct Error {
  CUresult code;
  const char *name, *text;
};
#define ERROR(CODE, TEXT) \
  { CODE, #CODE, TEXT }
constexpr Error ERRORS[] = {
    ERROR(CUDA_SUCCESS, "no error"),
    ERROR(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    ERROR(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    ERROR(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    ERROR(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    ERROR(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    ERROR(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    ERROR(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"),
    ERROR(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    ERROR(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    ERROR(CUDA_ERROR_NOT_READY, "device not ready"),
    ERROR(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    ERROR(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    ERROR(CUDA_ERROR_UNKNOWN, "unknown error"),
};

CUresult find_error(CUresult code, const char* Error::*field, const char** text) {
  for (const Error& error : ERRORS) {
    if (error.code == code) {
      *text = error.*field;
      return CUDA_SUCCESS;
    }
  }
  *text = nullptr;
  return CUDA_ERROR_INVALID_VALUE;
}

int shared_bytes_opt_in() {
  switch (emulator::capability()) {
    case 80:
    case 87:
      return 163 << 10;
    case 86:
    case 89:
    case 120:
    case 121:
      return 99 << 10;
    default:
      return 227 << 10;
  }
}

}  // namespace

namespace emulator {

int capability() {
  const char* text = std::getenv("ROBOCACHE_EMULATOR_CAPABILITY");
  int major = 9, minor = 0;
  if (text != nullptr && std::sscanf(text, "%d.%d", &major, &minor) != 2) {
    std::fprintf(stderr, "emulator: ROBOCACHE_EMULATOR_CAPABILITY must look like 9.0, got %s\n", text);
    std::abort();
  }
  return major * 10 + minor;
}

CUresult check_context() {
  if (!initialised) {
    return CUDA_ERROR_NOT_INITIALIZED;
  }
  return current != nullptr && retained > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult check_stream(CUstream stream) {
  const std::lock_guard lock(mutex);
  const bool known = stream == nullptr || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD ||
                     streams.contains(stream);
  return known ? check_context() : CUDA_ERROR_INVALID_HANDLE;
}

}  // namespace emulator

using emulator::check_context;
using emulator::check_stream;

CUresult cuInit(unsigned flags) {
  initialised = true;
  return flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** text) {
  return find_error(error, &Error::name, text);
}
CUresult cuGetErrorString(CUresult error, const char** text) {
  return find_error(error, &Error::text, text);
}
CUresult cuGetProcAddress_v2(const char* symbol, void** address, int, cuuint64_t,
                             CUdriverProcAddressQueryResult* status) {
  // This library's own handle, whatever other libcuda the process may hold.
  Dl_info here;
  dladdr(reinterpret_cast<void*>(&cuInit), &here);
  void* self = dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  *address = self == nullptr ? nullptr : dlsym(self, (std::string(symbol) + "_v2").c_str());
  if (self != nullptr && *address == nullptr) {
    *address = dlsym(self, symbol);
  }
  if (status != nullptr) {
    *status = *address == nullptr ? CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND : CU_GET_PROC_ADDRESS_SUCCESS;
  }
  return *address == nullptr ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  *count = 1;
  return check_device(0);
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return check_device(ordinal);
}
CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  std::snprintf(name, static_cast<std::size_t>(length), "RoboCache emulator");
  return check_device(device);
}
CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  std::memset(uuid, 0xEE, sizeof *uuid);
  return check_device(device);
}
CUresult cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device) {
  *bytes = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) / 2;
  return check_device(device);
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      *value = emulator::capability() / 10;
      break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      *value = emulator::capability() % 10;
      break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      *value = 32;
      break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      *value = emulator::capability() == 80 ? 108 : 132;  // an A100's, an H100's
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      *value = 1024;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      *value = 64;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      *value = 0x7fffffff;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      *value = 0xffff;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      *value = 2048;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
      *value = 32;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
      *value = 65536;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      *value = 48 << 10;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      *value = shared_bytes_opt_in();
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      *value = shared_bytes_opt_in() + (1 << 10);
      break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      *value = 50 << 20;
      break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
      *value = 1000000;
      break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
      *value = 1;
      break;
    default:
      *value = 0;
  }
  return check_device(device);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  const CUresult found = check_device(device);
  if (found == CUDA_SUCCESS) {
    retained++;
    *context = primary_context();
  }
  return found;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  const CUresult found = check_device(device);
  if (found == CUDA_SUCCESS && retained-- == 0) {
    retained++;
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  return found;
}
CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  *flags = 0;
  *active = retained > 0;
  return check_device(device);
}
CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = current;
  return initialised ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}
CUresult cuCtxSetCurrent(CUcontext context) {
  if (context != nullptr && context != primary_context()) {
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  current = context;
  return initialised ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}
CUresult cuCtxGetDevice(CUdevice* device) {
  *device = 0;
  return check_context();
}
CUresult cuCtxSynchronize() {
  return check_context();
}

// A stream's work is done when its call returns.
CUresult cuStreamCreate(CUstream* stream, unsigned) {
  const CUresult found = check_context();
  if (found == CUDA_SUCCESS) {
    const std::lock_guard lock(mutex);
    *stream = reinterpret_cast<CUstream>(new char);
    streams.insert(*stream);
  }
  return found;
}
CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) {
  return cuStreamCreate(stream, flags);
}
CUresult cuStreamDestroy_v2(CUstream stream) {
  const std::lock_guard lock(mutex);
  if (streams.erase(stream) == 0) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  delete reinterpret_cast<char*>(stream);
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
  return check_stream(stream);
}
CUresult cuStreamQuery(CUstream stream) {
  return check_stream(stream);
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent, unsigned) {
  return check_stream(stream);
}
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return check_stream(stream);
}
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  thread_local CUstreamCaptureMode now = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::swap(now, *mode);
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned) {
  *event = reinterpret_cast<CUevent>(new Event);
  return check_context();
}
CUresult cuEventDestroy_v2(CUevent event) {
  delete reinterpret_cast<Event*>(event);
  return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  *reinterpret_cast<Event*>(event) = {std::chrono::steady_clock::now(), true};
  return check_stream(stream);
}
CUresult cuEventQuery(CUevent) {
  return check_context();
}
CUresult cuEventSynchronize(CUevent) {
  return check_context();
}
CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  const auto from = reinterpret_cast<Event*>(start), to = reinterpret_cast<Event*>(end);
  if (!from->recorded || !to->recorded) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return CUDA_SUCCESS;
}
