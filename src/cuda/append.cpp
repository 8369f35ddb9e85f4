#include "cuda/append.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "core/arguments.h"
#include "core/limits.h"
#include "cuda/device.h"
#include "cuda/function.h"
#include "cuda/kernels/append/params.h"
#include "cuda/memory.h"

namespace octavo::cuda {
namespace {

AppendSide side_of(const TensorView<3>& source, const KvView& target, const Scale& scale,
                   bool turned) {
  AppendSide side{};
  side.source = source.data;
  side.source_row_stride = source.stride[0];
  side.source_head_stride = source.stride[1];
  side.target = target.data;
  side.page_stride = target.stride[0];
  side.slot_stride = target.stride[1];
  side.head_stride = target.stride[2];
  side.scale = {scale.values.empty() ? nullptr : scale.values.data(), scale.value,
                scale.values.size() > 1 ? 1 : 0};
  side.source_type = static_cast<std::int32_t>(source.dtype);
  side.target_type = static_cast<std::int32_t>(target.dtype);
  side.d = static_cast<std::int32_t>(target.shape[3]);
  const bool copied =
      !turned && source.dtype == target.dtype && scale.values.empty() && scale.value == 1.0f;
  side.copied_bytes = copied ? static_cast<std::int32_t>(size_of(target.dtype)) : 0;
  return side;
}

AppendParams params_of(const AppendArguments& a) {
  AppendParams params{};
  params.k = side_of(a.new_k, a.k, a.k_scale, a.rope.has_value());
  params.v = side_of(a.new_v, a.v, a.v_scale, false);
  params.heads = static_cast<std::int32_t>(a.k.shape[2]);
  if (a.rope) {
    params.rotary = static_cast<std::int32_t>(a.rope->table.shape[1]);
    params.halves = a.rope->style == RopeStyle::halves ? 1 : 0;
    params.rope_table = static_cast<const float*>(a.rope->table.data);
    params.rope_stride = a.rope->table.stride[0];
    params.positions = a.rope->positions.empty() ? nullptr : a.rope->positions.data();
  }
  return params;
}

/// Collects stretches and launches as many as parameters have room for.
class Launches {
 public:
  Launches(const Device& device, const AppendArguments& a, void* stream)
      : function_(load(device, append_variant(), 0)), params_(params_of(a)), stream_(stream) {}

  void add(const Stretch& stretch) {
    params_.stretches[count_++] = stretch;
    if (count_ == kStretches) flush();
  }
  void flush() {
    if (count_ == 0) return;
    constexpr std::uint32_t kSides = 2;
    function_.launch({count_, kSides}, kAppendWarps * kWarpThreads, stream_, &params_);
    count_ = 0;
  }

 private:
  Function function_;
  AppendParams params_;
  void* stream_;
  std::uint32_t count_ = 0;
};

}  // namespace

void check_append_memory(const Device& device, const AppendArguments& a, void* stream) {
  require_argument(a.k.shape[2] <= kMaxHeads, "k.shape[2] (heads)=", a.k.shape[2],
                   ": must be at most ", kMaxHeads, " on a GPU");
  for (const auto& [name, d] : {std::pair{"k", a.k.shape[3]}, {"v", a.v.shape[3]}}) {
    require_argument(d <= kMaxHeadDim, name, ".shape[3]=", d, ": must be at most ", kMaxHeadDim,
                     " on a GPU");
  }
  const CurrentContext context(device.ordinal);
  check_stream(device, stream);
  Reach reach(device, "the pool is");
  const auto check_view = [&](std::string_view name, const auto& view) {
    if (std::ranges::find(view.shape, 0) == view.shape.end()) reach.check(name, view.data);
  };
  check_view("new_k", a.new_k);
  check_view("new_v", a.new_v);
  check_view("k", a.k);
  check_view("v", a.v);
  const auto check_values = [&](std::string_view name, const auto& values) {
    if (!values.empty()) reach.check(name, values.data());
  };
  check_values("k_scale.values", a.k_scale.values);
  check_values("v_scale.values", a.v_scale.values);
  if (a.rope) {
    check_view("rope.table", a.rope->table);
    check_values("rope.positions", a.rope->positions);
  }
  check_on_host("page_table", a.page_table.data);
  check_on_host("q_lens", a.q_lens.data());
  check_on_host("kv_lens", a.kv_lens.data());
}

void launch_append(const Device& device, const AppendArguments& a, void* stream) {
  Launches launches(device, a, stream);
  const std::int64_t page_size = a.k.shape[1];
  std::int64_t row = 0;
  for (std::size_t r = 0; r < a.q_lens.size(); ++r) {
    const std::int32_t* pages =
        a.page_table.data + static_cast<std::int64_t>(r) * a.page_table.stride;
    const std::int64_t end = a.kv_lens[r];
    for (std::int64_t token = end - a.q_lens[r]; token < end;) {
      const std::int64_t slot = token % page_size;
      const std::int64_t count =
          std::min({std::int64_t{kStretchTokens}, page_size - slot, end - token});
      launches.add({row, pages[token / page_size], static_cast<std::int32_t>(slot),
                    static_cast<std::int32_t>(token), static_cast<std::int32_t>(count)});
      token += count;
      row += count;
    }
  }
  launches.flush();
}

Variant append_variant() {
  return {.source = "append/append.cu", .entry = "octavo_append", .definitions = {}};
}

}  // namespace octavo::cuda
