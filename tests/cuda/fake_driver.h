#pragma once

#include <cstddef>
#include <cstdint>

// What tests ask of the fake libcuda beside the driver's own functions. The library reads the
// environment when it is initialised: FAKE_CUDA_DEVICES (2), FAKE_CUDA_VERSION (13000) and
// FAKE_CUDA_INIT (0), the result of cuInit.

/// The last launch, and how many there were.
struct FakeLaunch {
  int count;
  void* context;  ///< that was current
  void* stream;
  unsigned grid[3];
  unsigned threads;
  unsigned shared_bytes;
  std::size_t param_bytes;
  unsigned char params[4096];
};

/// Kinds of memory.
enum class FakeMemory : int { device, managed, pinned, pinned_elsewhere };

extern "C" {
using FakeLaunchOf = const FakeLaunch*();
/// Addresses that no host code may read or write.
using FakeReserve = void*(std::size_t bytes, FakeMemory kind, int ordinal);
/// How often code was loaded.
using FakeLoads = int();
/// The result of every launch from now on.
using FakeFailLaunches = void(int result);
/// The primary context of a device, once it was retained.
using FakePrimary = void*(int ordinal);
/// A stream of a context that is no device's primary one.
using FakeForeignStream = void*();
/// How many contexts are pushed in the calling thread.
using FakeDepth = int();
/// Stands for the kernels: called at each launch.
using FakeOnLaunch = void(void (*kernel)(const FakeLaunch&));
/// Whether streams say that a graph captures them.
using FakeCapture = void(int capturing);
}
