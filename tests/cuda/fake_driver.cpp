// A libcuda on host memory: it hands out contexts, code and addresses, and notes launches instead
// of running them.
#include "fake_driver.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <string_view>
#include <vector>

#include "cuda/driver.h"
#include "cuda/kernels/append/params.h"
#include "cuda/kernels/cascade/params.h"
#include "cuda/kernels/check/params.h"
#include "cuda/kernels/merge_states/params.h"
#include "cuda/kernels/portable/params.h"
#include "cuda/kernels/reference/params.h"
#include "cuda/kernels/sm90/params.h"
#include "fake_tensor_map.h"

namespace {

constexpr int kSuccess = 0;
constexpr int kNotFound = 500;
constexpr int kInvalidValue = 1;
constexpr int kInvalidDevice = 101;
constexpr int kMostDevices = 8;

int number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::atoi(text) : otherwise;
}

int devices() { return number("FAKE_CUDA_DEVICES", 2); }

struct Range {
  std::size_t bytes;
  FakeMemory kind;
  int ordinal;
};

struct Driver {
  std::mutex mutex;
  std::map<std::uintptr_t, Range> memory;  // by where it begins
  FakeLaunch launch{};
  int launch_result = kSuccess;
  void (*kernel)(const FakeLaunch&) = nullptr;
  std::atomic<int> loads{0};
  std::atomic<int> capturing{0};
};

Driver& fake() {
  static auto& driver = *new Driver;
  return driver;
}

// Handles are addresses of these.
char primary[kMostDevices];
char foreign_context;
char foreign_stream;
char own_streams[kMostDevices];
char code;

/// A kernel, and how many bytes its parameter has.
struct FakeFunction {
  std::string_view name;
  std::size_t param_bytes;
};
constexpr FakeFunction kFunctions[] = {
    {"octavo_append", sizeof(octavo::cuda::AppendParams)},
    {"octavo_cascade_split", sizeof(octavo::cuda::CascadeParams)},
    {"octavo_check_arguments", sizeof(octavo::cuda::CheckParams)},
    {"octavo_merge_states", sizeof(octavo::cuda::MergeStatesParams)},
    {"octavo_merge_splits", sizeof(octavo::cuda::TiledParams)},
    {"octavo_portable", sizeof(octavo::cuda::PortableParams)},
    {"octavo_reference", sizeof(octavo::cuda::ReferenceParams)},
    {"octavo_sm90", sizeof(octavo::cuda::Sm90Params)},
    {"octavo_sm90_few", sizeof(octavo::cuda::Sm90Params)},
};
char event;

thread_local std::vector<void*> contexts;

void* current() { return contexts.empty() ? nullptr : contexts.back(); }

int ordinal_of(const void* context) {
  return static_cast<int>(static_cast<const char*>(context) - primary);
}

void* reserve(std::size_t bytes, FakeMemory kind, int ordinal, int protection) {
  void* data = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  const std::lock_guard lock(fake().mutex);
  fake().memory[reinterpret_cast<std::uintptr_t>(data)] = {bytes, kind, ordinal};
  return data;
}

/// One attribute of an address, as the driver's documentation has them.
void write_attribute(int attribute, void* value, std::uintptr_t address, std::uintptr_t begin,
                     const Range* range) {
  const bool pinned = range != nullptr && (range->kind == FakeMemory::pinned ||
                                           range->kind == FakeMemory::pinned_elsewhere);
  const auto write = [&](auto number) { std::memcpy(value, &number, sizeof number); };
  switch (attribute) {
    case 2:  // memory type
      return write(range == nullptr ? 0u : pinned ? 1u : 2u);
    case 3:  // device pointer
      return write(range == nullptr ? std::uintptr_t{0}
                                    : address + (range->kind == FakeMemory::pinned_elsewhere));
    case 8:  // managed
      return write(range != nullptr && range->kind == FakeMemory::managed ? 1u : 0u);
    case 9:  // device ordinal
      return write(range == nullptr ? -2 : range->ordinal);
    case 11:  // begin of the allocation
      return write(range == nullptr ? std::uintptr_t{0} : begin);
    case 12:  // its size
      return write(range == nullptr ? std::size_t{0} : range->bytes);
    default:
      std::abort();
  }
}

}  // namespace

extern "C" {

const FakeLaunch* fake_launch() { return &fake().launch; }
void* fake_reserve(std::size_t bytes, FakeMemory kind, int ordinal) {
  return reserve(bytes, kind, ordinal, PROT_NONE);
}
int fake_loads() { return fake().loads; }
void fake_fail_launches(int result) { fake().launch_result = result; }
void fake_on_launch(void (*kernel)(const FakeLaunch&)) { fake().kernel = kernel; }
void* fake_primary(int ordinal) { return &primary[ordinal]; }
void* fake_foreign_stream() { return &foreign_stream; }
int fake_depth() { return static_cast<int>(contexts.size()); }
void fake_capture(int capturing) { fake().capturing = capturing; }

int cuInit(unsigned) { return number("FAKE_CUDA_INIT", kSuccess); }
int cuDriverGetVersion(int* version) {
  *version = number("FAKE_CUDA_VERSION", 13000);
  return kSuccess;
}
int cuGetErrorName(int result, const char** text) {
  *text = result == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_NO_DEVICE";
  return kSuccess;
}
int cuGetErrorString(int, const char** text) {
  *text = "in the fake's words";
  return kSuccess;
}

int cuDeviceGetCount(int* count) {
  *count = devices();
  return kSuccess;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal < devices() ? kSuccess : kInvalidDevice;
}
int cuDeviceGetName(char* name, int size, int device) {
  std::strncpy(name, device == 0 ? "Fake H100" : "Fake A100", static_cast<std::size_t>(size));
  return kSuccess;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const std::map<int, int> numbers = {
      {16, 132},       {36, device == 0 ? 2619000 : 0}, {37, 5120},
      {38, 50 << 20},  {75, device == 0 ? 9 : 8},       {76, 0},
      {97, 227 << 10},
  };
  const auto found = numbers.find(attribute);
  if (found == numbers.end()) return kInvalidValue;
  *value = found->second;
  return kSuccess;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = &primary[device];
  return kSuccess;
}
int cuCtxGetCurrent(void** context) {
  *context = current();
  return kSuccess;
}
int cuCtxPushCurrent_v2(void* context) {
  contexts.push_back(context);
  return kSuccess;
}
int cuCtxPopCurrent_v2(void** context) {
  if (contexts.empty()) return kInvalidValue;
  *context = contexts.back();
  contexts.pop_back();
  return kSuccess;
}

int cuModuleLoadData(void** module, const void*) {
  *module = &code;
  ++fake().loads;
  return current() != nullptr ? kSuccess : kInvalidValue;
}
int cuModuleGetFunction(const void** handle, void*, const char* name) {
  const auto* const found = std::ranges::find(kFunctions, name, &FakeFunction::name);
  if (found == std::end(kFunctions)) return kNotFound;
  *handle = found;
  return kSuccess;
}
int cuFuncSetAttribute(void*, int, int) { return kSuccess; }
int cuLaunchKernelEx(const octavo::cuda::LaunchConfig* config, const FakeFunction* function,
                     void** params, void**) {
  const std::lock_guard lock(fake().mutex);
  if (fake().launch_result != kSuccess) return fake().launch_result;
  FakeLaunch& launch = fake().launch;
  launch = {launch.count + 1,
            current(),
            config->stream,
            {config->grid_x, config->grid_y, config->grid_z},
            config->block_x,
            config->shared_bytes,
            0,
            {}};
  launch.param_bytes = function->param_bytes;
  std::memcpy(launch.params, params[0], launch.param_bytes);
  if (fake().kernel != nullptr) fake().kernel(launch);
  return kSuccess;
}

int cuPointerGetAttributes(unsigned count, const int* attributes, void** values,
                           unsigned long long pointer) {
  const std::lock_guard lock(fake().mutex);
  const auto& memory = fake().memory;
  auto found = memory.upper_bound(pointer);
  const Range* range = nullptr;
  std::uintptr_t begin = 0;
  if (found != memory.begin()) {
    --found;
    begin = found->first;
    if (pointer - begin < found->second.bytes) range = &found->second;
  }
  for (unsigned i = 0; i < count; ++i) {
    write_attribute(attributes[i], values[i], pointer, begin, range);
  }
  return kSuccess;
}

int cuMemAlloc_v2(unsigned long long* pointer, std::size_t bytes) {
  void* data = reserve(bytes, FakeMemory::device, ordinal_of(current()), PROT_READ | PROT_WRITE);
  *pointer = reinterpret_cast<std::uintptr_t>(data);
  return data != nullptr ? kSuccess : 2;
}
int cuMemFree_v2(unsigned long long pointer) {
  const std::lock_guard lock(fake().mutex);
  const auto found = fake().memory.find(pointer);
  if (found == fake().memory.end()) return kInvalidValue;
  munmap(reinterpret_cast<void*>(pointer), found->second.bytes);
  fake().memory.erase(found);
  return kSuccess;
}
int cuMemcpyHtoD_v2(unsigned long long target, const void* source, std::size_t bytes) {
  std::memcpy(reinterpret_cast<void*>(target), source, bytes);
  return kSuccess;
}
int cuMemcpyDtoH_v2(void* target, unsigned long long source, std::size_t bytes) {
  std::memcpy(target, reinterpret_cast<const void*>(source), bytes);
  return kSuccess;
}
int cuMemsetD8Async(unsigned long long target, unsigned char value, std::size_t bytes, void*) {
  std::memset(reinterpret_cast<void*>(target), value, bytes);
  return kSuccess;
}

int cuTensorMapEncodeTiled(void* map, int, unsigned rank, const unsigned char* data,
                           const std::uint64_t* shape, const std::uint64_t* strides,
                           const std::uint32_t* box, const std::uint32_t*, int, int, int, int) {
  static_assert(sizeof(FakeTensorMap) <= sizeof(octavo::cuda::TensorMap));
  FakeTensorMap fake{data, static_cast<int>(rank), {}, {}, {}};
  for (unsigned axis = 0; axis < rank; ++axis) {
    fake.shape[axis] = static_cast<std::uint32_t>(shape[axis]);
    fake.box[axis] = static_cast<std::uint16_t>(box[axis]);
    if (axis > 0) fake.strides[axis - 1] = strides[axis - 1];
  }
  std::memset(map, 0, sizeof(octavo::cuda::TensorMap));
  std::memcpy(map, &fake, sizeof fake);
  return kSuccess;
}

int cuStreamCreate(void** stream, unsigned) {
  *stream = &own_streams[ordinal_of(current())];
  return kSuccess;
}
int cuStreamDestroy_v2(void*) { return kSuccess; }
int cuStreamGetCtx(void* stream, void** context) {
  *context = stream == &foreign_stream ? &foreign_context
                                       : &primary[static_cast<const char*>(stream) - own_streams];
  return kSuccess;
}
int cuStreamSynchronize(void*) { return kSuccess; }
int cuStreamIsCapturing(void*, int* status) {
  *status = fake().capturing;
  return kSuccess;
}

int cuEventCreate(void** handle, unsigned) {
  *handle = &event;
  return kSuccess;
}
int cuEventDestroy_v2(void*) { return kSuccess; }
int cuEventRecord(void*, void*) { return kSuccess; }
int cuEventSynchronize(void*) { return kSuccess; }
int cuEventElapsedTime(float* milliseconds, void*, void*) {
  *milliseconds = 1;
  return kSuccess;
}

int cuStreamBeginCapture_v2(void*, int) { return kSuccess; }
int cuStreamEndCapture(void*, void** graph) {
  *graph = &event;
  return kSuccess;
}
int cuGraphInstantiateWithFlags(void** exec, void*, unsigned long long) {
  *exec = &event;
  return kSuccess;
}
int cuGraphLaunch(void*, void*) { return kSuccess; }
int cuGraphDestroy(void*) { return kSuccess; }
int cuGraphExecDestroy(void*) { return kSuccess; }

}  // extern "C"
