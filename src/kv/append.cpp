#include "octavo/append.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/arguments.h"
#include "core/call.h"
#include "cpu/convert.h"
#include "cuda/append.h"
#include "cuda/device.h"
#include "kv/append_checks.h"
#include "kv/rope.h"

namespace octavo {
namespace {

/// Where one request's rows come from and go to.
struct Rows {
  std::int64_t first_row;
  std::int64_t first_token;
  std::int64_t count;
  const std::int32_t* pages;
};

/// One of new K and new V, and the pool it goes to.
struct Side {
  const TensorView<3>& source;
  const KvView& target;
  const Scale& scale;
  const Rope* rope;

  /// Whether bytes are stored as they come.
  bool copies() const {
    return rope == nullptr && source.dtype == target.dtype && scale.values.empty() &&
           scale.value == 1.0f;
  }
};

void write_head(const Side& side, const std::byte* from, std::byte* to, std::int64_t head,
                std::int64_t position, float* scratch) {
  const std::int64_t d = side.target.shape[3];
  load_floats(side.source.dtype, from, scratch, d);
  if (side.rope != nullptr) kv::rotate_head(*side.rope, position, scratch);
  const float scale = scale_of(side.scale, kv::kind_of(side.scale), head);
  for (std::int64_t c = 0; c < d; ++c) scratch[c] /= scale;
  store_floats(side.target.dtype, to, scratch, d);
}

/// Stores one token of all heads.
void write_row(const Side& side, std::int64_t row, std::int64_t page, std::int64_t slot,
               std::int64_t position, float* scratch) {
  const KvView& target = side.target;
  const auto source_size = static_cast<std::int64_t>(size_of(side.source.dtype));
  const auto target_size = static_cast<std::int64_t>(size_of(target.dtype));
  for (std::int64_t head = 0; head < target.shape[2]; ++head) {
    const std::byte* from =
        static_cast<const std::byte*>(side.source.data) +
        (row * side.source.stride[0] + head * side.source.stride[1]) * source_size;
    std::byte* to =
        static_cast<std::byte*>(target.data) +
        (page * target.stride[0] + slot * target.stride[1] + head * target.stride[2]) * target_size;
    if (side.copies()) {
      std::memcpy(to, from, static_cast<std::size_t>(target.shape[3] * target_size));
    } else {
      write_head(side, from, to, head, position, scratch);
    }
  }
}

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
  const Side sides[] = {{a.new_k, a.k, a.k_scale, rope}, {a.new_v, a.v, a.v_scale, nullptr}};
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
      for (const Side& side : sides) {
        write_row(side, row, rows.pages[token / page_size], token % page_size, position,
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
