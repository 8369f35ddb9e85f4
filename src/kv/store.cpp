#include <algorithm>
#include <vector>

#include "core/arguments.h"
#include "kv/append_checks.h"
#include "kv/write_row.h"
#include "octavo/append.h"

namespace octavo {

void store(const StoreArguments& a, Executor& executor) {
  constexpr std::int64_t kRowsOfATask = 16;
  kv::check_store(a);
  const kv::Side sides[] = {{a.new_k, a.k, a.k_scale, nullptr}, {a.new_v, a.v, a.v_scale, nullptr}};
  const auto rows = static_cast<std::int64_t>(a.slots.size());
  const std::int64_t page_size = a.k.shape[1];
  executor.parallel_for((rows + kRowsOfATask - 1) / kRowsOfATask, [&](std::int64_t task) {
    std::vector<float> scratch(static_cast<std::size_t>(std::max(a.k.shape[3], a.v.shape[3])));
    const std::int64_t end = std::min(rows, (task + 1) * kRowsOfATask);
    for (std::int64_t row = task * kRowsOfATask; row < end; ++row) {
      const std::int64_t slot = a.slots[row];
      if (slot < 0) continue;
      for (const kv::Side& side : sides) {
        kv::write_row(side, row, slot / page_size, slot % page_size, 0, scratch.data());
      }
    }
  });
}

void store(const StoreArguments& arguments) { store(arguments, default_executor()); }

}  // namespace octavo
