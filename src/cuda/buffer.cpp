#include "cuda/buffer.h"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <utility>

#include "core/text.h"
#include "cuda/device.h"

namespace octavo::cuda {
namespace {

DevicePointer address(const std::byte* data, std::size_t offset) {
  return reinterpret_cast<std::uintptr_t>(data) + offset;
}

}  // namespace

Buffer::Buffer(int ordinal, std::size_t bytes) : ordinal_(ordinal), size_(bytes) {
  const CurrentContext context(ordinal);
  DevicePointer pointer = 0;
  check(driver().allocate(&pointer, std::max<std::size_t>(1, bytes)), "cuMemAlloc", "for ", bytes,
        " bytes on cuda:", ordinal);
  data_ = reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(pointer));
}

Buffer::Buffer(Buffer&& other) noexcept
    : ordinal_(other.ordinal_), data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  try {
    const CurrentContext context(ordinal_);
    driver().free(address(data_, 0));
  } catch (const std::exception&) {  // the context is lost, and the memory with it
    data_ = nullptr;
  }
}

void Buffer::write(std::size_t offset, const void* source, std::size_t bytes) {
  const CurrentContext context(ordinal_);
  check(driver().copy_to_device(address(data_, offset), source, bytes), "cuMemcpyHtoD", "for ",
        bytes, " bytes to cuda:", ordinal_);
}

void Buffer::read(std::size_t offset, void* target, std::size_t bytes) const {
  const CurrentContext context(ordinal_);
  check(driver().copy_to_host(target, address(data_, offset), bytes), "cuMemcpyDtoH", "for ", bytes,
        " bytes from cuda:", ordinal_);
}

}  // namespace octavo::cuda
