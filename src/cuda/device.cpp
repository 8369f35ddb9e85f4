#include "cuda/device.h"

#include <mutex>
#include <vector>

#include "core/text.h"
#include "octavo/error.h"

namespace octavo::cuda {
namespace {

constexpr double kUnknownMemoryGbs = 200;  // of devices that do not tell their memory's clock

int count_devices() {
  int count = 0;
  check(driver().device_count(&count), "cuDeviceGetCount", "while looking for devices");
  if (count == 0) throw Error(ErrorCode::unavailable, "no CUDA device: the driver shows none");
  return count;
}

DeviceHandle handle_of(int ordinal) {
  DeviceHandle handle = 0;
  check(driver().device_get(&handle, ordinal), "cuDeviceGet", "for cuda:", ordinal);
  return handle;
}

int attribute(DeviceHandle handle, DeviceAttribute which) {
  int value = 0;
  check(driver().device_attribute(&value, which, handle), "cuDeviceGetAttribute", "for attribute ",
        static_cast<int>(which));
  return value;
}

double memory_gbs(DeviceHandle handle) {
  const double transfers = 2e3 * attribute(handle, DeviceAttribute::memory_clock_khz);
  const double bytes = attribute(handle, DeviceAttribute::memory_bus_bits) / 8.0;
  return transfers > 0 && bytes > 0 ? transfers * bytes * 1e-9 : kUnknownMemoryGbs;
}

/// One device's context, retained once.
struct Primary {
  std::once_flag retained;
  Context context = nullptr;
};

}  // namespace

int device_count() {
  static const int count = count_devices();
  return count;
}

Device describe(int ordinal) {
  const int count = device_count();
  if (ordinal < 0 || ordinal >= count) {
    throw Error(ErrorCode::unavailable,
                concat("no CUDA device cuda:", ordinal, ": the last is cuda:", count - 1));
  }
  const DeviceHandle handle = handle_of(ordinal);
  char name[256] = "";
  check(driver().device_name(name, sizeof name, handle), "cuDeviceGetName", "for cuda:", ordinal);
  Device device;
  device.id = concat("cuda:", ordinal);
  device.name = name;
  device.ordinal = ordinal;
  device.capability = 10 * attribute(handle, DeviceAttribute::capability_major) +
                      attribute(handle, DeviceAttribute::capability_minor);
  device.multiprocessors = attribute(handle, DeviceAttribute::multiprocessors);
  device.shared_per_block = attribute(handle, DeviceAttribute::shared_per_block);
  device.l2_bytes = attribute(handle, DeviceAttribute::l2_bytes);
  device.memory_gbs = memory_gbs(handle);
  return device;
}

Context primary_context(int ordinal) {
  static std::vector<Primary> all(static_cast<std::size_t>(device_count()));
  Primary& primary = all.at(static_cast<std::size_t>(ordinal));
  std::call_once(primary.retained, [&] {
    check(driver().primary_context(&primary.context, handle_of(ordinal)),
          "cuDevicePrimaryCtxRetain", "for cuda:", ordinal);
  });
  return primary.context;
}

CurrentContext::CurrentContext(int ordinal) {
  auto* const wanted = primary_context(ordinal);
  Context current = nullptr;
  check(driver().current_context(&current), "cuCtxGetCurrent", "for cuda:", ordinal);
  if (current == wanted) return;
  check(driver().push_context(wanted), "cuCtxPushCurrent", "for cuda:", ordinal);
  pushed_ = true;
}

CurrentContext::~CurrentContext() {
  Context popped = nullptr;
  if (pushed_) driver().pop_context(&popped);
}

}  // namespace octavo::cuda
