#pragma once

#include <cstddef>

namespace octavo::cuda {

/// Memory of a device: caches', and that of the library's own tools and checks. Runs of plans
/// allocate nothing.
class Buffer {
 public:
  /// Throws Error(device_error) where there is not enough.
  Buffer(int ordinal, std::size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&&) = delete;

  /// An address of the device, aligned to 256 bytes.
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

  /// Copies `bytes` bytes to or from `offset`, after what the default stream has begun.
  void write(std::size_t offset, const void* source, std::size_t bytes);
  void read(std::size_t offset, void* target, std::size_t bytes) const;

 private:
  int ordinal_;
  std::byte* data_ = nullptr;
  std::size_t size_;
};

}  // namespace octavo::cuda
