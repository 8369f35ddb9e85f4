#include "cuda/memory.h"

#include <array>
#include <cstdint>
#include <string_view>

#include "core/arguments.h"
#include "cuda/device.h"

namespace octavo::cuda {
namespace {

/// What the driver says of an address.
struct Where {
  MemoryType type = MemoryType::unknown;
  int ordinal = -1;
  unsigned managed = 0;
  std::uintptr_t device_pointer = 0;  ///< 0 where the device has no access
  std::uintptr_t begin = 0;           ///< of the allocation
  std::size_t size = 0;
};

Where locate(std::uintptr_t address) {
  Where where;
  std::array attributes = {PointerAttribute::memory_type, PointerAttribute::device_ordinal,
                           PointerAttribute::is_managed,  PointerAttribute::device_pointer,
                           PointerAttribute::range_begin, PointerAttribute::range_size};
  std::array<void*, 6> values = {&where.type,           &where.ordinal, &where.managed,
                                 &where.device_pointer, &where.begin,   &where.size};
  const Result result =
      driver().pointer_attributes(attributes.size(), attributes.data(), values.data(), address);
  if (result == kInvalidValue) return {};  // an address that the driver has never seen
  check(result, "cuPointerGetAttributes", "while checking the arguments of a run");
  return where;
}

}  // namespace

void Reach::check(std::string_view name, const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  if (address == 0) return;
  for (const Range& known : known_) {
    if (address - known.begin < known.size) return;
  }
  const Where where = locate(address);
  require_argument(where.type != MemoryType::unknown, name, " at ", pointer,
                   " is in host memory: ", work_, " on ", device_.id);
  const bool mapped = where.managed != 0 || where.device_pointer == address;
  require_argument(where.type != MemoryType::host || mapped, name, " at ", pointer,
                   " is in host memory at another address than ", device_.id, " has for it");
  const bool own = where.type == MemoryType::host || where.managed != 0;
  require_argument(own || where.ordinal == device_.ordinal, name, " at ", pointer,
                   " is in the memory of cuda:", where.ordinal, ": ", work_, " on ", device_.id);
  known_[next_++ % known_.size()] = {where.begin, where.size};
}

void check_on_host(std::string_view name, const void* pointer) {
  if (pointer == nullptr) return;
  const Where where = locate(reinterpret_cast<std::uintptr_t>(pointer));
  require_argument(where.type != MemoryType::device || where.managed != 0, name, " at ", pointer,
                   " is in the memory of cuda:", where.ordinal, ": must be in host memory");
}

void check_memory(const Device& device, const StreamCall& call) {
  const Arguments& a = call.arguments;
  Reach reach(device, "the plan runs");
  const auto check_view = [&](std::string_view name, const auto& view) {
    for (const std::int64_t extent : view.shape) {
      if (extent == 0) return;
    }
    reach.check(name, view.data);
  };
  check_view("q", a.q);
  check_view("k", a.k);
  check_view("v", a.v);
  check_view("out", a.out);
  if (call.problem.lse) check_view("lse", a.lse);
  if (call.problem.layout == Layout::paged) reach.check("page_table", a.page_table.data);
  const auto check_values = [&](std::string_view name, const auto& values) {
    if (!values.empty()) reach.check(name, values.data());
  };
  check_values("q_lens", a.q_lens);
  check_values("kv_lens", a.kv_lens);
  check_values("sinks", a.sinks);
  check_values("alibi_slopes", a.alibi_slopes);
  reach.check("mask_bits", a.mask_bits.data);
  check_values("q_scale.values", a.q_scale.values);
  check_values("k_scale.values", a.k_scale.values);
  check_values("v_scale.values", a.v_scale.values);
  check_values("out_scale.values", a.out_scale.values);
  check_values("workspace", a.workspace);
}

void check_stream(const Device& device, void* stream) {
  constexpr std::uintptr_t kPerThread = 2;  // 0, 1 and 2 name a default stream of any context
  if (reinterpret_cast<std::uintptr_t>(stream) <= kPerThread) return;
  Context context = nullptr;
  check(driver().stream_context(static_cast<StreamHandle>(stream), &context), "cuStreamGetCtx",
        "for the stream ", stream);
  require_argument(context == primary_context(device.ordinal), "the stream ", stream,
                   " is not of the primary context of ", device.id, ", which the plan runs on");
}

}  // namespace octavo::cuda
