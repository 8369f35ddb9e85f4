#pragma once

#include <vector>

#include "cuda/buffer.h"
#include "octavo/octavo.h"
#include "verify/case.h"

namespace octavo::verify {

/// The memory of a case on a GPU, byte for byte, with its guards and its alignment.
class DeviceCopy {
 public:
  DeviceCopy(Case& c, const Device& device);
  DeviceCopy(const DeviceCopy&) = delete;
  DeviceCopy& operator=(const DeviceCopy&) = delete;

  /// The case's, with addresses of the GPU.
  const Arguments& arguments() const { return arguments_; }

  /// Waits for the default stream and copies what runs write back into the case. Throws
  /// Error(device_error) where a run failed.
  void bring_back();

 private:
  struct Twin {
    Case::Block host;
    cuda::Buffer memory;
    std::size_t offset;  ///< of the block in its memory

    std::byte* data() const { return memory.data() + offset; }
  };
  void wait() const;
  template <typename Value>
  Value* twin_of(Value* host) const;

  int ordinal_;
  std::vector<Twin> twins_;
  Arguments arguments_;
};

/// A plan's workspace on its GPU.
Workspace gpu_workspace(const Plan& plan);

}  // namespace octavo::verify
