// In place of src/cuda/function.cpp: loads variants that were compiled for the CPU.
#include "cuda/function.h"

#include <stdexcept>
#include <vector>

#include "core/text.h"
#include "emulated.h"

namespace octavo {
namespace emulation {
namespace {

std::vector<Emulated>& all() {
  static std::vector<Emulated> list;
  return list;
}

}  // namespace

bool add(const Emulated& emulated) {
  all().push_back(emulated);
  return true;
}

std::string name_of(const cuda::Variant& variant) {
  std::string name = variant.source;
  for (const auto& [macro, value] : variant.definitions) name += concat(" ", macro, "=", value);
  return name;
}

}  // namespace emulation

namespace cuda {

/// Throws emulation::NotEmulated.
Function load(const Device&, const Variant& variant, int shared_bytes) {
  const std::string name = emulation::name_of(variant);
  for (emulation::Emulated& emulated : emulation::all()) {
    if (emulated.name != name) continue;
    if (emulated.shared_bytes > static_cast<std::size_t>(shared_bytes)) {
      throw std::runtime_error(concat(name, " uses ", emulated.shared_bytes,
                                      " bytes of shared memory, and was given ", shared_bytes));
    }
    Function function;
    function.handle_ = reinterpret_cast<void*>(emulated.run);
    function.source_ = emulated.name.c_str();
    function.shared_bytes_ = shared_bytes;
    function.may_begin_early_ = false;
    return function;
  }
  throw emulation::NotEmulated{name};
}

void Function::launch(Grid grid, int threads, void*, const void* params, Begin) const {
  reinterpret_cast<decltype(emulation::Emulated::run)>(handle_)(grid, threads, params);
}

}  // namespace cuda
}  // namespace octavo
