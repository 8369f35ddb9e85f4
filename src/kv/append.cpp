#include "octavo/append.h"

#include <algorithm>
#include <vector>

#include "core/arguments.h"
#include "cuda/append.h"
#include "cuda/device.h"
#include "kv/append_checks.h"
#include "kv/write_row.h"

namespace octavo {
namespace {

/// Where one request's rows come from and go to.
struct Rows {
  std::int64_t first_row;
  std::int64_t first_token;
  std::int64_t count;
  const std::int32_t* pages;
};

std::vector<Rows> rows_of(const AppendArguments& a) {
  constexpr std::int64_t kRowsOfATask = 16;
  std::vector<Rows> tasks;
  std::int64_t row = 0;
  for (std::size_t r = 0; r < a.q_lens.size(); ++r) {
    const std::int64_t begin = a.kv_lens[r] - a.q_lens[r];
    for (std::int64_t i = 0; i < a.q_lens[r]; i += kRowsOfATask) {
      tasks.push_back({row + i, begin + i, std::min(kRowsOfATask, a.q_lens[r] - i),
                       a.page_table.data + static_cast<std::int64_t>(r) * a.page_table.stride});
    }
    row += a.q_lens[r];
  }
  return tasks;
}

}  // namespace

void append(const AppendArguments& a, Executor& executor) {
  kv::check_append(a);
  kv::check_append_tables(a);
  kv::check_append_values(a);
  const Rope* rope = a.rope ? &*a.rope : nullptr;
  const kv::Side sides[] = {{a.new_k, a.k, a.k_scale, rope}, {a.new_v, a.v, a.v_scale, nullptr}};
  const std::vector<Rows> tasks = rows_of(a);
  const std::int64_t page_size = a.k.shape[1];
  executor.parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t index) {
    const Rows& rows = tasks[index];
    std::vector<float> scratch(static_cast<std::size_t>(std::max(a.k.shape[3], a.v.shape[3])));
    for (std::int64_t i = 0; i < rows.count; ++i) {
      const std::int64_t token = rows.first_token + i;
      const std::int64_t row = rows.first_row + i;
      const std::int64_t position =
          rope != nullptr && !rope->positions.empty() ? rope->positions[row] : token;
      for (const kv::Side& side : sides) {
        kv::write_row(side, row, rows.pages[token / page_size], token % page_size, position,
                      scratch.data());
      }
    }
  });
}

void append(const AppendArguments& arguments) { append(arguments, default_executor()); }

void append(const AppendArguments& a, const Device& device, Stream stream) {
  require_argument(!device.is_cpu(), "device is ", device.id, ": streams are of a GPU");
  kv::check_append(a);
  cuda::check_append_memory(device, a, stream.handle);
  kv::check_append_tables(a);
  const cuda::CurrentContext context(device.ordinal);
  cuda::launch_append(device, a, stream.handle);
}

}  // namespace octavo
