#include "core/cascade.h"

#include <algorithm>

#include "core/limits.h"

namespace octavo {
namespace {

constexpr std::size_t kAlignment = 256;  // bytes: of workspaces on a GPU

std::size_t aligned(std::int64_t floats) {
  const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

Problem part_of(const Problem& problem) {
  Problem part = problem;
  part.prefix = 0;
  part.out = DType::f32;
  part.lse = true;
  return part;
}

}  // namespace

Cascade::Cascade(const Problem& problem) : prefix(part_of(problem)), suffix(part_of(problem)) {
  prefix.mask = {};
  prefix.sinks = false;
  prefix.q_len = {problem.total_q()};
  prefix.kv_len = {problem.prefix};
  for (std::int64_t& kv_len : suffix.kv_len) {
    kv_len = std::max<std::int64_t>(0, kv_len - problem.prefix);
  }
}

void require_cascadable(const Problem& p, Support& s) {
  const std::int64_t longest = p.max_kv_len();
  s.require(p.total_q() * p.hq <= kMaxTokens, "q_len times hq must sum to at most ", kMaxTokens,
            ", is ", p.total_q() * p.hq);
  s.require(p.prefix > 0, "needs a prefix that requests share, has prefix=0");
  s.require(!p.invariant, "cannot keep an invariant row's bits: they depend on the prefix");
  s.require(!p.alibi, "cannot do alibi: rows of one request have their positions from its end");
  s.require(p.mask.kind != MaskKind::bits, "cannot do mask=bits: it may hide keys of the prefix");
  s.require(p.mask.kind != MaskKind::window || p.mask.left < 0 || longest <= p.mask.left + 1,
            "the window of ", p.mask.left,
            " keys to the left hides keys of the prefix from rows at ", longest - 1);
  s.require(p.mask.kind != MaskKind::chunked || longest <= p.mask.chunk, "chunks of ", p.mask.chunk,
            " keys hide the prefix from rows at ", longest - 1);
}

CascadeWorkspace::CascadeWorkspace(const Problem& p, std::size_t kernels)
    : hq_(p.hq),
      dv_(p.dv),
      lse_wanted_(p.lse),
      lse_(aligned(2 * p.total_q() * p.hq * p.dv)),
      kernels_(lse_ + aligned(2 * p.total_q() * p.hq)),
      kernels_size_(kernels) {}

Arguments CascadeWorkspace::part(const Arguments& arguments, std::byte* workspace, int index,
                                 std::int64_t rows) const {
  Arguments part = arguments;
  auto* const out = reinterpret_cast<float*>(workspace) + index * rows * hq_ * dv_;
  auto* const lse = reinterpret_cast<float*>(workspace + lse_) + index * rows * hq_;
  part.out = TensorView<3>::dense(out, DType::f32, {rows, hq_, dv_});
  part.lse = TensorView<2>::dense(lse, DType::f32, {rows, hq_});
  part.workspace = {workspace + kernels_, kernels_size_};
  return part;
}

MergeArguments CascadeWorkspace::merge(const Arguments& arguments, std::byte* workspace,
                                       std::int64_t rows) const {
  MergeArguments merge;
  merge.parts = TensorView<4>::dense(workspace, DType::f32, {2, rows, hq_, dv_});
  merge.parts_lse = TensorView<3>::dense(workspace + lse_, DType::f32, {2, rows, hq_});
  merge.out = arguments.out;
  merge.out.shape[0] = rows;
  if (lse_wanted_) {
    merge.lse = arguments.lse;
    merge.lse.shape[0] = rows;
  }
  return merge;
}

}  // namespace octavo
