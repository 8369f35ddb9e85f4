#include "cuda/merge_states.h"

#include <algorithm>
#include <string_view>

#include "core/arguments.h"
#include "cuda/device.h"
#include "cuda/function.h"
#include "cuda/kernels/merge_states/params.h"
#include "cuda/memory.h"

namespace octavo::cuda {
namespace {

constexpr std::int64_t kMostRows = 0x7fffffff;  // of all heads

void check_memory_of(const Device& device, const MergeArguments& a) {
  require_argument(a.out.shape[0] * a.out.shape[1] <= kMostRows, "out has ", a.out.shape[0],
                   " rows of ", a.out.shape[1], " heads: at most ", kMostRows,
                   " rows of all heads merge at once on a GPU");
  Reach reach(device, "states merge");
  const auto check_view = [&](std::string_view name, const auto& view) {
    if (std::ranges::find(view.shape, 0) == view.shape.end()) reach.check(name, view.data);
  };
  check_view("parts", a.parts);
  check_view("parts_lse", a.parts_lse);
  check_view("out", a.out);
  if (a.lse.data != nullptr) check_view("lse", a.lse);
}

}  // namespace

void merge_states(const Device& device, const MergeArguments& a, void* stream) {
  const CurrentContext context(device.ordinal);
  check_stream(device, stream);
  check_memory_of(device, a);
  launch_merge(load(device, merge_states_variant(), 0), a, nullptr, stream);
}

void launch_merge(const Function& function, const MergeArguments& a, const std::int32_t* rows,
                  void* stream) {
  const std::int64_t count = a.out.shape[0] * a.out.shape[1];
  if (count == 0) return;
  MergeStatesParams p{};
  p.parts = a.parts.data;
  p.part_stride = a.parts.stride[0];
  p.row_stride = a.parts.stride[1];
  p.head_stride = a.parts.stride[2];
  p.parts_lse = static_cast<const float*>(a.parts_lse.data);
  p.part_lse_stride = a.parts_lse.stride[0];
  p.row_lse_stride = a.parts_lse.stride[1];
  p.head_lse_stride = a.parts_lse.stride[2];
  p.out = a.out.data;
  p.out_row_stride = a.out.stride[0];
  p.out_head_stride = a.out.stride[1];
  p.lse = static_cast<float*>(a.lse.data);
  p.lse_row_stride = a.lse.stride[0];
  p.lse_head_stride = a.lse.stride[1];
  p.row_count = rows;
  p.parts_count = a.parts.shape[0];
  p.rows = a.out.shape[0];
  p.dv = a.out.shape[2];
  p.heads = static_cast<std::int32_t>(a.out.shape[1]);
  p.part_type = static_cast<std::int32_t>(a.parts.dtype);
  p.out_type = static_cast<std::int32_t>(a.out.dtype);
  const std::int64_t blocks = (count + kMergeWarps - 1) / kMergeWarps;
  const Grid grid{static_cast<std::uint32_t>(blocks)};
  function.launch(grid, kMergeWarps * kWarpThreads, stream, &p);
}

Variant merge_states_variant() {
  return {.source = "merge_states/merge.cu", .entry = "octavo_merge_states", .definitions = {}};
}

}  // namespace octavo::cuda
