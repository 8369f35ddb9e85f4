#pragma once

#include "cuda/driver.h"
#include "octavo/selection.h"

namespace octavo::cuda {

/// How many devices the driver shows. Throws Error(unavailable) that says why there are none.
int device_count();

/// What selection knows of cuda:`ordinal`. Makes no context. Throws Error(unavailable).
Device describe(int ordinal);

/// The device's primary context, which the process retains from first use until it ends.
Context primary_context(int ordinal);

/// Makes the device's primary context the calling thread's current one while it lives.
class CurrentContext {
 public:
  explicit CurrentContext(int ordinal);
  ~CurrentContext();
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  bool pushed_ = false;
};

}  // namespace octavo::cuda
