#include "capi/registry.h"

#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <utility>

#include "capi/guard.h"
#include "core/text.h"
#include "octavo/error.h"

namespace octavo::capi {
namespace {

/// The living things of one kind, by number.
template <typename Thing>
class Registry {
 public:
  explicit Registry(const char* kind) : kind_(kind) {}

  std::uintptr_t add(std::shared_ptr<Thing> thing) {
    const std::unique_lock lock(mutex_);
    things_.emplace(++last_, std::move(thing));
    return last_;
  }

  std::shared_ptr<Thing> find(const void* handle) {
    const std::shared_lock lock(mutex_);
    const auto found = things_.find(reinterpret_cast<std::uintptr_t>(handle));
    if (found == things_.end()) refuse(handle);
    return found->second;
  }

  void remove(const void* handle) {
    std::shared_ptr<Thing> removed;  // goes when the lock is free again
    const std::unique_lock lock(mutex_);
    const auto found = things_.find(reinterpret_cast<std::uintptr_t>(handle));
    if (found == things_.end()) refuse(handle);
    removed = std::move(found->second);
    things_.erase(found);
  }

 private:
  [[noreturn]] void refuse(const void* handle) const {
    require_pointer(kind_, handle);
    throw Error(ErrorCode::invalid_argument, concat(kind_, " was destroyed, or is no ", kind_));
  }

  const char* kind_;
  std::shared_mutex mutex_;
  std::uintptr_t last_ = 0;
  std::unordered_map<std::uintptr_t, std::shared_ptr<Thing>> things_;
};

// They outlive threads that run while the process ends.

Registry<const Plan>& plans() {
  static auto* const instance = new Registry<const Plan>("plan");
  return *instance;
}

Registry<KvCache>& caches() {
  static auto* const instance = new Registry<KvCache>("cache");
  return *instance;
}

}  // namespace

octavo_plan* add_plan(Plan plan) {
  return reinterpret_cast<octavo_plan*>(plans().add(std::make_shared<const Plan>(std::move(plan))));
}

std::shared_ptr<const Plan> find_plan(const octavo_plan* handle) { return plans().find(handle); }

void remove_plan(const octavo_plan* handle) { plans().remove(handle); }

octavo_kv_cache* add_kv_cache(KvCache cache) {
  return reinterpret_cast<octavo_kv_cache*>(
      caches().add(std::make_shared<KvCache>(std::move(cache))));
}

std::shared_ptr<KvCache> find_kv_cache(const octavo_kv_cache* handle) {
  return caches().find(handle);
}

void remove_kv_cache(const octavo_kv_cache* handle) { caches().remove(handle); }

}  // namespace octavo::capi
