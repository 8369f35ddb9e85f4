#include "core/work.h"

#include <algorithm>

namespace octavo {

double visible_pairs(const Problem& problem, std::int64_t request) {
  const auto q = static_cast<double>(problem.q_len[request]);
  const auto kv = static_cast<double>(problem.kv_len[request]);
  const Mask& mask = problem.mask;
  const double rows = std::min(q, kv);  // those at a position of at least 0
  const double causal = rows * kv - rows * (rows - 1) / 2;
  switch (mask.kind) {
    case MaskKind::none:
    case MaskKind::bits:
      break;
    case MaskKind::causal:
      return causal;
    case MaskKind::window: {
      const double all = mask.right < 0 ? q * kv : std::min(q * kv, causal + q * mask.right);
      return mask.left < 0 ? all
                           : std::min(all, q * (mask.left + 1 + std::max<double>(0, mask.right)));
    }
    case MaskKind::chunked:
      return std::min(causal, rows * (static_cast<double>(mask.chunk) + 1) / 2);
  }
  return q * kv;
}

double multiply_adds(const Problem& problem) {
  double pairs = 0;
  for (std::int64_t r = 0; r < problem.batch(); ++r) pairs += visible_pairs(problem, r);
  return pairs * static_cast<double>(problem.hq * (problem.d + problem.dv));
}

}  // namespace octavo
