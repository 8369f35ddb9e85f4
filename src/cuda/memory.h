#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/kernel.h"
#include "octavo/selection.h"

namespace octavo::cuda {

/// Checks addresses that one piece of work on a device is given. Those in an allocation that was
/// found reachable need no second question: frameworks cut many small tensors from one.
class Reach {
 public:
  /// `work`: what is on the device, for messages, as in "the plan runs".
  Reach(const Device& device, std::string_view work) : device_(device), work_(work) {}

  /// Throws Error(invalid_argument) for memory that the device does not reach, with its address and
  /// where that is: in host memory that is not pinned, or on another device. The device's context
  /// must be current.
  void check(std::string_view name, const void* pointer);

 private:
  struct Range {
    std::uintptr_t begin = 0;
    std::size_t size = 0;
  };
  const Device& device_;
  std::string_view work_;
  std::array<Range, 4> known_{};
  std::size_t next_ = 0;
};

/// Throws Error(invalid_argument) for memory that only a device reaches.
void check_on_host(std::string_view name, const void* pointer);

/// Checks the arguments of a run by Reach.
void check_memory(const Device& device, const StreamCall& call);

/// Throws Error(invalid_argument) for a stream that is not of the device's primary context.
void check_stream(const Device& device, void* stream);

}  // namespace octavo::cuda
