#include "octavo/merge_states.h"

#include <string_view>

#include "core/limits.h"
#include "core/view_checks.h"
#include "cpu/merge_states.h"
#include "cuda/merge_states.h"

namespace octavo {
namespace {

void require_same(std::string_view name, std::int64_t value, std::int64_t expected) {
  require_argument(value == expected, name, " is ", value, ": must be as parts', ", expected);
}

template <int Rank>
void check_f32(std::string_view name, const TensorView<Rank>& view) {
  require_argument(view.dtype == DType::f32, name, " is ", octavo::name(view.dtype),
                   ": must be f32");
  check_view(name, view);
}

void check(const MergeArguments& a) {
  const auto [parts, rows, heads, dv] = a.parts.shape;
  check_view("parts", a.parts);
  check_f32("parts_lse", a.parts_lse);
  check_view("out", a.out);
  require_argument(parts >= 1, "parts.shape[0]=", parts, ": must be at least 1");
  require_argument(rows <= kMaxTokens, "parts.shape[1] (rows)=", rows, ": must be at most ",
                   kMaxTokens);
  require_argument(heads <= kMaxHeads, "parts.shape[2] (heads)=", heads, ": must be at most ",
                   kMaxHeads);
  require_same("parts_lse.shape[0]", a.parts_lse.shape[0], parts);
  require_same("parts_lse.shape[1] (rows)", a.parts_lse.shape[1], rows);
  require_same("parts_lse.shape[2] (heads)", a.parts_lse.shape[2], heads);
  require_same("out.shape[0] (rows)", a.out.shape[0], rows);
  require_same("out.shape[1] (heads)", a.out.shape[1], heads);
  require_same("out.shape[2] (dv)", a.out.shape[2], dv);
  check_distinct("out", a.out);
  Outputs outputs;
  outputs.add(footprint("out", a.out));
  if (a.lse.data != nullptr) {
    check_f32("lse", a.lse);
    require_same("lse.shape[0] (rows)", a.lse.shape[0], rows);
    require_same("lse.shape[1] (heads)", a.lse.shape[1], heads);
    check_distinct("lse", a.lse);
    outputs.add(footprint("lse", a.lse));
  }
  outputs.check(footprint("parts", a.parts));
  outputs.check(footprint("parts_lse", a.parts_lse));
}

}  // namespace

void merge_states(const MergeArguments& arguments, Executor& executor) {
  check(arguments);
  merge_rows(arguments, executor);
}

void merge_states(const MergeArguments& arguments) { merge_states(arguments, default_executor()); }

void merge_states(const MergeArguments& arguments, const Device& device, Stream stream) {
  require_argument(!device.is_cpu(), "device is ", device.id, ": streams are of a GPU");
  check(arguments);
  cuda::merge_states(device, arguments, stream.handle);
}

}  // namespace octavo
