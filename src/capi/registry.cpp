#include "capi/registry.h"

#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "capi/guard.h"
#include "octavo/error.h"

namespace octavo::capi {
namespace {

struct Registry {
  std::shared_mutex mutex;
  std::uintptr_t last = 0;
  std::unordered_map<std::uintptr_t, std::shared_ptr<const Plan>> plans;
};

Registry& registry() {
  static Registry* const instance =
      new Registry;  // outlives threads that run while the process ends
  return *instance;
}

std::uintptr_t number_of(const octavo_plan* handle) {
  return reinterpret_cast<std::uintptr_t>(handle);
}

[[noreturn]] void refuse(const octavo_plan* handle) {
  require_pointer("plan", handle);
  throw Error(ErrorCode::invalid_argument, "plan was destroyed, or is no plan");
}

}  // namespace

octavo_plan* add_plan(Plan plan) {
  auto shared = std::make_shared<const Plan>(std::move(plan));
  Registry& all = registry();
  std::unique_lock lock(all.mutex);
  all.plans.emplace(++all.last, std::move(shared));
  return reinterpret_cast<octavo_plan*>(all.last);
}

std::shared_ptr<const Plan> find_plan(const octavo_plan* handle) {
  Registry& all = registry();
  std::shared_lock lock(all.mutex);
  const auto found = all.plans.find(number_of(handle));
  if (found == all.plans.end()) refuse(handle);
  return found->second;
}

void remove_plan(const octavo_plan* handle) {
  Registry& all = registry();
  std::unique_lock lock(all.mutex);
  if (all.plans.erase(number_of(handle)) == 0) refuse(handle);
}

}  // namespace octavo::capi
