// How the typed functions of this folder find their operators in torch's dispatcher.

#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

namespace robocache::detail {

// The operator `name`, for a function with the C++ signature `Signature`.
// Throws c10::NotImplementedError where librobocache.so is not loaded: torch's own text would not say how to mend it.
template <typename Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  const auto handle = c10::Dispatcher::singleton().findSchema({name, ""});
  TORCH_CHECK_NOT_IMPLEMENTED(
      handle.has_value(),
      name,
      ": librobocache.so must be loaded, got no such operator; link robocache::robocache (CMake) or "
      "-Wl,--no-as-needed -lrobocache");
  return handle->typed<Signature>();
}

} // namespace robocache::detail
