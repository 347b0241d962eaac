// Every RoboCache operator as a typed C++ function: include this file, link the CMake target robocache::robocache.
//
// The functions are header-only and call the registered operators through the dispatcher, so autograd, CUDA, Meta
// tensors and TorchScript tracing treat them as they treat ATen's own functions. The operators themselves live in
// librobocache.so, of which these headers name no symbol: a linker that drops unused libraries (`--as-needed`, the
// default on Ubuntu) would drop it. The CMake target keeps it; by hand, link with `-Wl,--no-as-needed -lrobocache`.

#pragma once

#include <robocache/fuse.h>
#include <robocache/resample.h>
#include <robocache/resample_mask.h>
#include <robocache/voxelize.h>
#include <robocache/voxelize_sparse.h>
