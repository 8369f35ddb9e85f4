#include "cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "octavo/error.h"

namespace octavo::cuda {
namespace {

constexpr int kOldestVersion = 12000;  // CUDA 12.0

[[noreturn]] void unavailable(const std::string& why) {
  throw Error(ErrorCode::unavailable, "no CUDA device: " + why);
}

std::string library_name() {
  const char* name = std::getenv("OCTAVO_LIBCUDA");
  return name != nullptr && *name != '\0' ? name : "libcuda.so.1";
}

/// Looks functions up in an open library.
struct Loader {
  void* library;
  std::string name;

  template <typename Function>
  void find(Function*& function, const char* symbol) const {
    function = reinterpret_cast<Function*>(dlsym(library, symbol));
    if (function == nullptr) {
      unavailable(concat(printable(name), " has no function ", symbol,
                         "; Octavo needs a driver for CUDA 12.0 or later"));
    }
  }
};

/// "CUDA_ERROR_INVALID_VALUE (invalid argument)".
std::string words_for(const Driver& driver, Result result) {
  const char* name = nullptr;
  const char* text = nullptr;
  if (driver.error_name(result, &name) != kSuccess || name == nullptr) {
    return concat("error ", result);
  }
  if (driver.error_string(result, &text) != kSuccess || text == nullptr) return name;
  return concat(name, " (", text, ")");
}

void find_all(const Loader& loader, Driver& d) {
  loader.find(d.init, "cuInit");
  loader.find(d.driver_version, "cuDriverGetVersion");
  loader.find(d.error_name, "cuGetErrorName");
  loader.find(d.error_string, "cuGetErrorString");
  loader.find(d.device_count, "cuDeviceGetCount");
  loader.find(d.device_get, "cuDeviceGet");
  loader.find(d.device_name, "cuDeviceGetName");
  loader.find(d.device_attribute, "cuDeviceGetAttribute");
  loader.find(d.primary_context, "cuDevicePrimaryCtxRetain");
  loader.find(d.current_context, "cuCtxGetCurrent");
  loader.find(d.push_context, "cuCtxPushCurrent_v2");
  loader.find(d.pop_context, "cuCtxPopCurrent_v2");
  loader.find(d.module_load, "cuModuleLoadData");
  loader.find(d.module_function, "cuModuleGetFunction");
  loader.find(d.function_set, "cuFuncSetAttribute");
  loader.find(d.launch, "cuLaunchKernelEx");
  loader.find(d.pointer_attributes, "cuPointerGetAttributes");
  loader.find(d.allocate, "cuMemAlloc_v2");
  loader.find(d.free, "cuMemFree_v2");
  loader.find(d.copy_to_device, "cuMemcpyHtoD_v2");
  loader.find(d.copy_to_host, "cuMemcpyDtoH_v2");
  loader.find(d.set_bytes, "cuMemsetD8Async");
  loader.find(d.encode_tensor_map, "cuTensorMapEncodeTiled");
  loader.find(d.stream_create, "cuStreamCreate");
  loader.find(d.stream_destroy, "cuStreamDestroy_v2");
  loader.find(d.stream_context, "cuStreamGetCtx");
  loader.find(d.stream_wait, "cuStreamSynchronize");
  loader.find(d.stream_capture_status, "cuStreamIsCapturing");
  loader.find(d.event_create, "cuEventCreate");
  loader.find(d.event_destroy, "cuEventDestroy_v2");
  loader.find(d.event_record, "cuEventRecord");
  loader.find(d.event_wait, "cuEventSynchronize");
  loader.find(d.event_milliseconds, "cuEventElapsedTime");
  loader.find(d.capture_begin, "cuStreamBeginCapture_v2");
  loader.find(d.capture_end, "cuStreamEndCapture");
  loader.find(d.graph_instantiate, "cuGraphInstantiateWithFlags");
  loader.find(d.graph_launch, "cuGraphLaunch");
  loader.find(d.graph_destroy, "cuGraphDestroy");
  loader.find(d.graph_exec_destroy, "cuGraphExecDestroy");
}

Driver open_driver() {
  Loader loader{nullptr, library_name()};
  loader.library = dlopen(loader.name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (loader.library == nullptr) {
    const char* reason = dlerror();
    unavailable(concat("the driver's library cannot be opened: ",
                       printable(reason != nullptr ? reason : loader.name)));
  }
  Driver driver{};
  find_all(loader, driver);
  int version = 0;
  if (const Result result = driver.driver_version(&version); result != kSuccess) {
    unavailable(concat("cuDriverGetVersion: ", words_for(driver, result)));
  }
  if (version < kOldestVersion) {
    unavailable(concat("the driver is for CUDA ", version / 1000, ".", version % 1000 / 10,
                       "; Octavo needs one for CUDA 12.0 or later"));
  }
  if (const Result result = driver.init(0); result != kSuccess) {
    unavailable(concat("cuInit: ", words_for(driver, result)));
  }
  return driver;
}

}  // namespace

const Driver& driver() {
  static const Driver instance = open_driver();  // tried again by the next call if it throws
  return instance;
}

void fail(Result result, std::string_view call, const std::string& doing) {
  throw Error(ErrorCode::device_error,
              concat(call, " failed with ", words_for(driver(), result), " ", doing));
}

}  // namespace octavo::cuda
