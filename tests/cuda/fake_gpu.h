#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cuda/buffer.h"
#include "cuda/device.h"
#include "fake_compiler.h"
#include "fake_driver.h"

namespace octavo::cuda {

/// From here on the process's GPUs are the fake driver's, whose code a fake compiler makes. Before
/// the first use of a GPU in the process; each test runs in its own.
class FakeGpu {
 public:
  FakeGpu() {
    setenv("OCTAVO_LIBCUDA", FAKE_DRIVER_FILE, 1);
    setenv("OCTAVO_NVCC", (compiler_.folder() / "nvcc").c_str(), 1);
    setenv("OCTAVO_CUDA_PACK", (compiler_.folder() / "pack").c_str(), 1);
    setenv("XDG_CACHE_HOME", (compiler_.folder() / "cache").c_str(), 1);
    library_ = dlopen(FAKE_DRIVER_FILE, RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) throw std::runtime_error(dlerror());
  }

  const FakeLaunch& launch() const { return *find<FakeLaunchOf>("fake_launch")(); }
  template <typename T>
  T* reserve(std::size_t count, FakeMemory kind = FakeMemory::device, int ordinal = 0) const {
    return static_cast<T*>(find<FakeReserve>("fake_reserve")(count * sizeof(T), kind, ordinal));
  }
  int loads() const { return find<FakeLoads>("fake_loads")(); }
  void fail_launches(int result) const { find<FakeFailLaunches>("fake_fail_launches")(result); }
  void on_launch(void (*kernel)(const FakeLaunch&)) const {
    find<FakeOnLaunch>("fake_on_launch")(kernel);
  }
  void* primary(int ordinal) const { return find<FakePrimary>("fake_primary")(ordinal); }
  void* foreign_stream() const { return find<FakeForeignStream>("fake_foreign_stream")(); }
  int depth() const { return find<FakeDepth>("fake_depth")(); }
  void capture(bool capturing) const { find<FakeCapture>("fake_capture")(capturing ? 1 : 0); }

 private:
  template <typename Function>
  Function* find(const char* name) const {
    void* symbol = dlsym(library_, name);
    if (symbol == nullptr) throw std::runtime_error(name);
    return reinterpret_cast<Function*>(symbol);
  }

  FakeCompiler compiler_;
  void* library_ = nullptr;
};

}  // namespace octavo::cuda
