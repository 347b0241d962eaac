// The emulated driver's libraries, kernels and launches: an image only says which kernels it holds and for which
// device; the code that runs is what the host compiler made of kernels/*.cu.
#include "driver.h"
#include "engine.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>

#include <elf.h>

namespace {

struct Function {
  const emulator::Kernel* kernel;
  int dynamic_shared_bytes = 48 << 10;  // the most that a launch may ask for
};

struct Library {
  std::string image;
  std::list<Function> functions;
};

std::mutex mutex;
std::set<Library*> libraries;

// A cubin's sections: the driver is given no length.
std::size_t elf_bytes(const Elf64_Ehdr* elf) {
  std::size_t end = elf->e_shoff + std::size_t{elf->e_shnum} * elf->e_shentsize;
  const auto sections = reinterpret_cast<const Elf64_Shdr*>(reinterpret_cast<const char*>(elf) + elf->e_shoff);
  for (int i = 0; i < elf->e_shnum; i++) {
    if (sections[i].sh_type != SHT_NOBITS) {
      end = std::max<std::size_t>(end, sections[i].sh_offset + sections[i].sh_size);
    }
  }
  return end;
}

CUresult read_image(const void* data, std::string* image) {
  const auto text = static_cast<const char*>(data);
  if (std::memcmp(text, ELFMAG, SELFMAG) != 0) {
    // PTX: the lines before .version are comments.
    const std::string_view ptx(text);
    *image = ptx;
    const bool is_ptx = ptx.find(".version") != ptx.npos && ptx.find(".target") != ptx.npos;
    return is_ptx ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
  }
  constexpr int EM_CUDA_MACHINE = 190, NEW_ABI = 8;
  Elf64_Ehdr elf;
  std::memcpy(&elf, data, sizeof elf);
  if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_machine != EM_CUDA_MACHINE) {
    return CUDA_ERROR_INVALID_IMAGE;
  }
  const int sm = static_cast<int>(elf.e_ident[EI_ABIVERSION] >= NEW_ABI ? elf.e_flags >> 8 & 0xff : elf.e_flags & 0xff);
  const int device = emulator::capability();
  // A cubin runs on devices of its major capability whose minor one is no smaller.
  if (sm / 10 != device / 10 || sm % 10 > device % 10) {
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  image->assign(text, elf_bytes(static_cast<const Elf64_Ehdr*>(data)));
  return CUDA_SUCCESS;
}

bool has_entry(const std::string& image, const std::string& name) {
  if (image.starts_with(ELFMAG)) {
    return image.find(".text." + name + '\0') != image.npos;
  }
  return image.find(".entry " + name + "(") != image.npos;
}

// Null where `handle` names no function of a loaded library.
Function* find_function(const void* handle) {
  const std::lock_guard lock(mutex);
  for (Library* library : libraries) {
    for (Function& function : library->functions) {
      if (&function == handle) {
        return &function;
      }
    }
  }
  return nullptr;
}

CUresult get_attribute(int* value, CUfunction_attribute attribute, const Function* function) {
  if (function == nullptr) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = function->kernel->max_threads;
      break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      *value = 32;
      break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      *value = emulator::capability();
      break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      *value = function->dynamic_shared_bytes;
      break;
    default:
      *value = 0;
  }
  return CUDA_SUCCESS;
}

CUresult set_attribute(CUfunction_attribute attribute, int value, Function* function) {
  if (function == nullptr) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    int most = 0;
    cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0);
    if (value < 0 || value > most) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    function->dynamic_shared_bytes = value;
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult cuLibraryLoadData(CUlibrary* handle, const void* data, CUjit_option*, void**, unsigned, CUlibraryOption*,
                           void**, unsigned) {
  auto library = std::make_unique<Library>();
  const CUresult found = read_image(data, &library->image);
  if (found == CUDA_SUCCESS) {
    const std::lock_guard lock(mutex);
    *handle = reinterpret_cast<CUlibrary>(library.get());
    libraries.insert(library.release());
  }
  return found;
}
CUresult cuLibraryUnload(CUlibrary handle) {
  const auto library = reinterpret_cast<Library*>(handle);
  const std::lock_guard lock(mutex);
  if (libraries.erase(library) == 0) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  delete library;
  return CUDA_SUCCESS;
}
CUresult cuLibraryGetKernel(CUkernel* handle, CUlibrary library_handle, const char* name) {
  const auto library = reinterpret_cast<Library*>(library_handle);
  const std::lock_guard lock(mutex);
  if (!libraries.contains(library)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  for (Function& function : library->functions) {
    if (std::strcmp(function.kernel->name, name) == 0) {
      *handle = reinterpret_cast<CUkernel>(&function);
      return CUDA_SUCCESS;
    }
  }
  for (const emulator::Kernel& kernel : emulator::kernels()) {
    if (std::strcmp(kernel.name, name) == 0 && has_entry(library->image, name)) {
      library->functions.push_back({&kernel});
      *handle = reinterpret_cast<CUkernel>(&library->functions.back());
      return CUDA_SUCCESS;
    }
  }
  return CUDA_ERROR_NOT_FOUND;
}
CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  *function = reinterpret_cast<CUfunction>(kernel);
  return find_function(kernel) == nullptr ? CUDA_ERROR_INVALID_HANDLE : emulator::check_context();
}
CUresult cuKernelGetName(const char** name, CUkernel kernel) {
  const Function* function = find_function(kernel);
  if (function == nullptr) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  *name = function->kernel->name;
  return CUDA_SUCCESS;
}
CUresult cuKernelGetParamInfo(CUkernel kernel, std::size_t index, std::size_t* offset, std::size_t* bytes) {
  const Function* function = find_function(kernel);
  if (function == nullptr || index > 0) {
    return function == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE;
  }
  *offset = 0;
  if (bytes != nullptr) {
    *bytes = function->kernel->params_bytes;
  }
  return CUDA_SUCCESS;
}
CUresult cuFuncGetParamInfo(CUfunction function, std::size_t index, std::size_t* offset, std::size_t* bytes) {
  return cuKernelGetParamInfo(reinterpret_cast<CUkernel>(function), index, offset, bytes);
}
CUresult cuKernelGetAttribute(int* value, CUfunction_attribute attribute, CUkernel kernel, CUdevice) {
  return get_attribute(value, attribute, find_function(kernel));
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  return get_attribute(value, attribute, find_function(function));
}
CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice) {
  return set_attribute(attribute, value, find_function(kernel));
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  return set_attribute(attribute, value, find_function(function));
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads, std::size_t) {
  if (find_function(function) == nullptr || threads < 1 || threads > 1024) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *blocks = std::min(2048 / ((threads + 31) / 32 * 32), 32);
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned dynamic_shared_bytes, CUstream stream,
                        void** params, void** extra) {
  const Function* function = find_function(handle);
  if (function == nullptr) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  const CUresult found = emulator::check_stream(stream);
  if (found != CUDA_SUCCESS) {
    return found;
  }
  constexpr unsigned MOST_X = 0x7fffffff, MOST_YZ = 0xffff, MOST_THREADS = 1024, MOST_THREADS_Z = 64;
  const bool grid_fits = grid_x >= 1 && grid_x <= MOST_X && grid_y >= 1 && grid_y <= MOST_YZ && grid_z >= 1 &&
                         grid_z <= MOST_YZ;
  const bool block_fits = block_x >= 1 && block_x <= MOST_THREADS && block_y >= 1 && block_y <= MOST_THREADS &&
                          block_z >= 1 && block_z <= MOST_THREADS_Z && block_x * block_y * block_z <= MOST_THREADS;
  const bool shared_fits = dynamic_shared_bytes <= static_cast<unsigned>(function->dynamic_shared_bytes);
  if (!grid_fits || !block_fits || !shared_fits || params == nullptr || params[0] == nullptr || extra != nullptr) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (block_x * block_y * block_z > static_cast<unsigned>(function->kernel->max_threads)) {
    return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  }
  static const bool listed = std::getenv("ROBOCACHE_EMULATOR_LAUNCHES") != nullptr;
  if (listed) {
    std::fprintf(stderr, "emulator: launch %s\n", function->kernel->name);
  }
  // Copied, as a driver does, to where the sanitizer sees a struct that the caller's side made too short.
  const auto copy = std::make_unique<std::uint64_t[]>((function->kernel->params_bytes + 63) / 64 * 8);
  std::memcpy(copy.get(), params[0], function->kernel->params_bytes);
  emulator::launch(*function->kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, copy.get());
  emulator::check_guards(function->kernel->name);
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** params, void** extra) {
  for (unsigned i = 0; i < config->numAttrs; i++) {
    const CUlaunchAttributeID id = config->attrs[i].id;
    if (id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION || id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
      return CUDA_ERROR_NOT_SUPPORTED;
    }
  }
  return cuLaunchKernel(function, config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX,
                        config->blockDimY, config->blockDimZ, config->sharedMemBytes, config->hStream, params, extra);
}
