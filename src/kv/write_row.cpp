#include "kv/write_row.h"

#include <cstddef>
#include <cstring>

#include "core/call.h"
#include "cpu/convert.h"
#include "kv/append_checks.h"
#include "kv/rope.h"

namespace octavo::kv {
namespace {

void write_head(const Side& side, const std::byte* from, std::byte* to, std::int64_t head,
                std::int64_t position, float* scratch) {
  const std::int64_t d = side.target.shape[3];
  load_floats(side.source.dtype, from, scratch, d);
  if (side.rope != nullptr) rotate_head(*side.rope, position, scratch);
  const float scale = scale_of(side.scale, kind_of(side.scale), head);
  for (std::int64_t c = 0; c < d; ++c) scratch[c] /= scale;
  store_floats(side.target.dtype, to, scratch, d);
}

}  // namespace

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

}  // namespace octavo::kv
