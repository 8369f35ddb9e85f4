#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cuda/buffer.h"
#include "octavo/kv_cache.h"
#include "octavo/selection.h"

namespace octavo::kv {

/// The memory of a cache: K and V of each layer.
class Storage {
 public:
  /// Allocates it. What it holds first is undefined. Throws Error(invalid_argument) for a config
  /// that makes no sense.
  explicit Storage(const KvCacheConfig& config);
  /// Uses the caller's. Throws Error(invalid_argument) for views that do not fit the config.
  Storage(const KvCacheConfig& config, std::span<const KvView> k, std::span<const KvView> v);

  const KvView& k(std::int64_t layer) const { return k_[layer]; }
  const KvView& v(std::int64_t layer) const { return v_[layer]; }

  /// Copies a page, in all layers; on a GPU its stream does.
  void copy_page(std::int32_t from, std::int32_t to) const;
  /// The GPU that holds it, if one does.
  const std::optional<Device>& gpu() const { return gpu_; }

 private:
  struct FreeAligned {
    void operator()(std::byte* data) const;
  };
  using Memory = std::unique_ptr<std::byte[], FreeAligned>;
  std::byte* allocate(std::int64_t bytes);
  void prepare_gpu(const KvCacheConfig& config);

  std::optional<Device> gpu_;
  Stream stream_;
  std::vector<Memory> owned_;
  std::vector<cuda::Buffer> owned_by_gpu_;
  std::vector<KvView> k_, v_;
};

}  // namespace octavo::kv
