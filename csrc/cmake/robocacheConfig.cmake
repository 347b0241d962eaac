# find_package(robocache): the target robocache::robocache, with the headers, the library and the torch it runs on.
#
#   find_package(robocache REQUIRED)
#   target_link_libraries(my_robot PRIVATE robocache::robocache)
#
#   cmake -S . -B build -DCMAKE_PREFIX_PATH="$(python -m robocache --cmake-prefix)"
#
# torch is looked for, first hit wins: a target `torch` that find_package(Torch) has made before; Torch_DIR; the
# environment variable LIBTORCH; CMAKE_PREFIX_PATH; beside this package in site-packages; the `python3` on PATH.
# It must be the torch that the library was built with: torch's C++ interface changes with every minor version.
#
# find_package(Torch) is not called from here. With a CUDA build of torch it demands a CUDA toolkit with nvcc, which
# neither this library nor a program in plain C++ needs, and it stops where there is none. A program that compiles its own
# CUDA code calls find_package(Torch) before find_package(robocache), and its targets are used.

if(TARGET robocache::robocache)
  return()
endif()

# <package>/lib/cmake/robocache/robocacheConfig.cmake
get_filename_component(_robocache_package "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(_robocache_library "${_robocache_package}/lib/librobocache.so")
if(DEFINED ENV{ROBOCACHE_LIBRARY})
  # The same override as in Python.
  get_filename_component(_robocache_library "$ENV{ROBOCACHE_LIBRARY}" ABSOLUTE)
endif()
if(NOT EXISTS "${_robocache_library}")
  set(robocache_FOUND FALSE)
  set(robocache_NOT_FOUND_MESSAGE "robocache: ${_robocache_library} must exist; build it with `make build`")
  return()
endif()

# Sets robocache_TORCH_ROOT to the folder of torch that holds include/ and lib/, or leaves it unset.
function(_robocache_find_torch)
  set(_candidates "")
  if(Torch_DIR)
    list(APPEND _candidates "${Torch_DIR}/../../..")
  endif()
  if(DEFINED ENV{LIBTORCH})
    list(APPEND _candidates "$ENV{LIBTORCH}")
  endif()
  foreach(_prefix IN LISTS CMAKE_PREFIX_PATH)
    # torch.utils.cmake_prefix_path is torch/share/cmake; an unpacked libtorch is its own prefix.
    list(APPEND _candidates "${_prefix}" "${_prefix}/../..")
  endforeach()
  list(APPEND _candidates "${_robocache_package}/../torch")
  foreach(_candidate IN LISTS _candidates)
    if(EXISTS "${_candidate}/lib/libtorch_cpu.so" AND EXISTS "${_candidate}/include/ATen/ATen.h")
      get_filename_component(_root "${_candidate}" ABSOLUTE)
      set(robocache_TORCH_ROOT "${_root}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  find_program(_python NAMES python3 python NO_CACHE)
  if(_python)
    # find_spec finds torch without the seconds that importing it takes.
    execute_process(
      COMMAND "${_python}" -c
        "import importlib.util as u, pathlib as p; print(p.Path(u.find_spec('torch').origin).parent.as_posix())"
      OUTPUT_VARIABLE _root
      OUTPUT_STRIP_TRAILING_WHITESPACE
      ERROR_QUIET)
    if(_root AND EXISTS "${_root}/lib/libtorch_cpu.so")
      set(robocache_TORCH_ROOT "${_root}" PARENT_SCOPE)
    endif()
  endif()
endfunction()

add_library(robocache::robocache SHARED IMPORTED)
set_target_properties(
  robocache::robocache
  PROPERTIES IMPORTED_LOCATION "${_robocache_library}"
             # Else the linker would write the full path of the library into the program.
             IMPORTED_NO_SONAME TRUE
             INTERFACE_INCLUDE_DIRECTORIES "${_robocache_package}/include")
# torch's own headers ask for C++17.
target_compile_features(robocache::robocache INTERFACE cxx_std_17)
# No symbol of librobocache.so (nor of libtorch.so, which brings the CUDA backend) is named by a program: loading them
# registers the operators, so the linker must keep them.
target_link_options(robocache::robocache INTERFACE "LINKER:--no-as-needed")

if(TARGET torch)
  set_property(TARGET robocache::robocache PROPERTY INTERFACE_LINK_LIBRARIES torch)
else()
  _robocache_find_torch()
  if(NOT robocache_TORCH_ROOT)
    set(robocache_FOUND FALSE)
    set(robocache_NOT_FOUND_MESSAGE
        "robocache: torch must be found, got none; activate its virtual environment, or set LIBTORCH or Torch_DIR")
    return()
  endif()
  add_library(robocache::torch INTERFACE IMPORTED)
  set_target_properties(
    robocache::torch
    PROPERTIES INTERFACE_INCLUDE_DIRECTORIES
               "${robocache_TORCH_ROOT}/include;${robocache_TORCH_ROOT}/include/torch/csrc/api/include")
  # libtorch.so is an empty library that depends on the backends: torch_cpu, and torch_cuda in a CUDA build.
  # Since torch 2.7 all builds use the C++11 ABI, the compilers' default, so no definition is needed here.
  foreach(_library IN ITEMS c10 torch_cpu torch)
    add_library(robocache::${_library}_library SHARED IMPORTED)
    set_target_properties(
      robocache::${_library}_library PROPERTIES IMPORTED_LOCATION "${robocache_TORCH_ROOT}/lib/lib${_library}.so")
    set_property(
      TARGET robocache::torch
      APPEND
      PROPERTY INTERFACE_LINK_LIBRARIES robocache::${_library}_library)
  endforeach()
  set_property(TARGET robocache::robocache PROPERTY INTERFACE_LINK_LIBRARIES robocache::torch)
endif()

set(robocache_FOUND TRUE)
