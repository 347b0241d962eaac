// What the parts of the emulated driver share: the real driver's declarations and the checks of handles.
#pragma once

#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

namespace emulator {

// Capability of the device, 90 for 9.0, from ROBOCACHE_EMULATOR_CAPABILITY.
int capability();

// CUDA_SUCCESS where the driver is initialised and this thread has a current context.
CUresult check_context();
// The same, and `stream` is a stream.
CUresult check_stream(CUstream stream);

// Ends the process where a guard around an allocation was written over; `after` names the culprit.
void check_guards(const char* after);

}  // namespace emulator
