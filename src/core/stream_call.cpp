#include <algorithm>

#include "core/arguments.h"

namespace octavo {
namespace {

constexpr std::size_t kDeviceAlignment = 256;  // bytes: what the devices' allocators give

void check_workspace(std::span<std::byte> workspace, std::size_t needed) {
  require_argument(workspace.size() >= needed, "workspace has ", workspace.size(),
                   " bytes: the plan needs ", needed, ", and a run on a GPU allocates nothing");
  if (needed == 0) return;
  require_argument(workspace.data() != nullptr, "workspace is a null pointer");
  require_argument(reinterpret_cast<std::uintptr_t>(workspace.data()) % kDeviceAlignment == 0,
                   "workspace is not aligned to ", kDeviceAlignment, " bytes");
}

/// The query tokens that every tensor has room for.
std::int64_t most_rows(const Problem& p, const Arguments& a) {
  std::int64_t rows = std::min({p.total_q(), a.q.shape[0], a.out.shape[0]});
  if (p.lse) rows = std::min(rows, a.lse.shape[0]);
  if (p.mask.kind == MaskKind::bits) rows = std::min(rows, a.mask_bits.rows);
  return rows;
}

}  // namespace

StreamCall make_stream_call(const Problem& p, const Arguments& a, std::size_t workspace,
                            void* stream) {
  check_arguments(p, a);
  check_workspace(a.workspace, workspace);
  const bool has_table = a.page_table.data != nullptr || a.page_table.columns == 0;
  require_argument(p.layout != Layout::paged || a.q_lens.empty() || has_table,
                   "page_table is a null pointer");
  return {p,     a, static_cast<std::int64_t>(a.q_lens.size()), most_rows(p, a), a.workspace.data(),
          stream};
}

}  // namespace octavo
