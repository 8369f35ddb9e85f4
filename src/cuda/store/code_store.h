#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "cuda/store/compiler.h"
#include "cuda/store/sources.h"
#include "cuda/variant.h"

namespace octavo::cuda {

/// A variant for an architecture in words, as in "portable/attend.cu sm_90 D=64".
std::string describe(const Variant& variant, int architecture);

/// Where device code comes from.
struct StoreSettings {
  std::span<const EmbeddedFile> sources = kernel_sources();
  std::filesystem::path pack;   ///< a folder; empty: none
  std::filesystem::path cache;  ///< a folder, made when needed; empty: none
  CompilerSearch compilers;
  std::chrono::milliseconds limit = std::chrono::minutes(10);  ///< of one compilation

  static StoreSettings from_environment();
};

/// Device code by variant and architecture. Threads and processes may share folders.
class CodeStore {
 public:
  explicit CodeStore(StoreSettings settings) : settings_(std::move(settings)) {}

  /// From the pack, the cache, or compiled now into the cache; see cuda/store.h.
  std::vector<std::byte> cubin(const Variant& variant, int architecture) const;

  /// Compiles the variant into the pack, unless it is there already by the same compiler. Returns
  /// whether it was compiled. Throws as `cubin`, and Error(unavailable) if it cannot be written.
  bool add_to_pack(const Variant& variant, int architecture) const;

  /// The variant's file in the pack.
  std::filesystem::path pack_file(const Variant& variant, int architecture) const;

 private:
  StoreSettings settings_;
};

}  // namespace octavo::cuda
