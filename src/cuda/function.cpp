#include "cuda/function.h"

#include <memory>
#include <mutex>
#include <vector>

#include "cuda/device.h"
#include "cuda/store.h"

namespace octavo::cuda {
namespace {

/// A variant on a device, with a lock of its own: compiling may take seconds.
struct Entry {
  int ordinal;
  Variant variant;
  std::mutex mutex;
  FunctionHandle handle = nullptr;
  int shared_bytes = 0;  ///< that the function was given room for
};

Entry& entry_of(int ordinal, const Variant& variant) {
  static std::mutex mutex;
  static auto& entries = *new std::vector<std::unique_ptr<Entry>>;  // functions point into it
  const std::lock_guard lock(mutex);
  for (const auto& entry : entries) {
    if (entry->ordinal == ordinal && entry->variant == variant) return *entry;
  }
  entries.push_back(std::make_unique<Entry>());
  entries.back()->ordinal = ordinal;
  entries.back()->variant = variant;
  return *entries.back();
}

FunctionHandle load_code(const Device& device, const Variant& variant) {
  const std::vector<std::byte> code = cubin(variant, device.capability);
  const std::string doing = concat("while loading ", variant.source, " on ", device.id);
  Module module = nullptr;
  FunctionHandle function = nullptr;
  check(driver().module_load(&module, code.data()), "cuModuleLoadData", doing);
  check(driver().module_function(&function, module, variant.entry.c_str()), "cuModuleGetFunction",
        doing);
  return function;
}

/// Programmatic dependent launch: of cards since 9.0; in graphs, since CUDA 12.3.
bool has_early_grids(const Device& device) {
  int version = 0;
  return device.capability >= 90 && driver().driver_version(&version) == kSuccess &&
         version >= 12030;
}

}  // namespace

Function load(const Device& device, const Variant& variant, int shared_bytes) {
  Entry& entry = entry_of(device.ordinal, variant);
  const std::lock_guard lock(entry.mutex);
  const CurrentContext context(device.ordinal);
  if (entry.handle == nullptr) entry.handle = load_code(device, variant);
  if (shared_bytes > entry.shared_bytes) {
    check(
        driver().function_set(entry.handle, FunctionAttribute::dynamic_shared_bytes, shared_bytes),
        "cuFuncSetAttribute", "for ", shared_bytes, " bytes of shared memory of ", variant.source,
        " on ", device.id);
    entry.shared_bytes = shared_bytes;
  }
  Function function;
  function.handle_ = entry.handle;
  function.source_ = entry.variant.source.c_str();  // entries live while the process does
  function.shared_bytes_ = shared_bytes;
  function.may_begin_early_ = has_early_grids(device);
  return function;
}

void Function::launch(Grid grid, int threads, void* stream, const void* params, Begin begin) const {
  void* arguments[] = {const_cast<void*>(params)};
  LaunchAttribute early{LaunchAttribute::kProgrammaticSerialization, 1, {}};
  const LaunchConfig config{grid.x,
                            grid.y,
                            grid.z,
                            static_cast<unsigned>(threads),
                            1,
                            1,
                            static_cast<unsigned>(shared_bytes_),
                            static_cast<StreamHandle>(stream),
                            &early,
                            begin == Begin::early && may_begin_early_ ? 1u : 0u};
  const Result result =
      driver().launch(&config, static_cast<FunctionHandle>(handle_), arguments, nullptr);
  check(result, "cuLaunchKernelEx", "for ", source_, " on a grid of ", grid.x, " x ", grid.y, " x ",
        grid.z, " blocks of ", threads, " threads with ", shared_bytes_, " bytes of shared memory");
}

}  // namespace octavo::cuda
