#include "cuda/attention_params.h"

#include <algorithm>
#include <limits>

namespace octavo::cuda {
namespace {

Masking masking_of(MaskKind kind) {
  switch (kind) {
    case MaskKind::none:
      return Masking::none;
    case MaskKind::causal:
      return Masking::causal;
    case MaskKind::window:
      return Masking::window;
    case MaskKind::chunked:
      return Masking::chunked;
    case MaskKind::bits:
      return Masking::bits;
  }
  return Masking::none;
}

KvParam kv_param(const KvView& view) {
  return {view.data, view.stride[0], view.stride[1], view.stride[2]};
}

ScaleParam scale_param(const Scale& scale, ScaleKind kind) {
  if (kind == ScaleKind::host) return {nullptr, scale.value, 0};
  return {scale.values.data(), 1.0f, kind == ScaleKind::head ? 1 : 0};
}

}  // namespace

AttentionParams attention_params(const StreamCall& call) {
  const Problem& p = call.problem;
  const Arguments& a = call.arguments;
  const auto narrow = [](std::int64_t value) { return static_cast<std::int32_t>(value); };
  AttentionParams params{};
  params.q = a.q.data;
  params.q_token_stride = a.q.stride[0];
  params.q_head_stride = a.q.stride[1];
  params.k = kv_param(a.k);
  params.v = kv_param(a.v);
  params.out = a.out.data;
  params.out_token_stride = a.out.stride[0];
  params.out_head_stride = a.out.stride[1];
  if (p.lse) {
    params.lse = static_cast<float*>(a.lse.data);
    params.lse_token_stride = a.lse.stride[0];
    params.lse_head_stride = a.lse.stride[1];
  }
  if (p.layout == Layout::paged) {
    params.page_table = a.page_table.data;
    params.page_table_stride = a.page_table.stride;
    params.page_size = narrow(p.page_size);
    const std::int64_t most = std::numeric_limits<std::int32_t>::max();  // ids are int32
    params.pages = narrow(std::min(a.k.shape[0], most));
  }
  params.requests = narrow(call.requests);
  params.q_lens = a.q_lens.data();
  params.kv_lens = a.kv_lens.data();
  params.hq = narrow(p.hq);
  params.hkv = narrow(p.hkv);
  params.d = narrow(p.d);
  params.dv = narrow(p.dv);
  params.masking = masking_of(p.mask.kind);
  params.left = narrow(p.mask.left);
  params.right = narrow(p.mask.right);
  params.chunk = narrow(p.mask.chunk);
  params.mask_bits = a.mask_bits.data;
  params.mask_row_bytes = a.mask_bits.row_bytes;
  params.softmax_scale = static_cast<float>(p.softmax_scale());
  params.cap = static_cast<float>(p.cap.value_or(0));
  if (p.sinks) params.sinks = a.sinks.data();
  if (p.alibi) params.alibi_slopes = a.alibi_slopes.data();
  params.q_scale = scale_param(a.q_scale, p.q_scale);
  params.k_scale = scale_param(a.k_scale, p.k_scale);
  params.v_scale = scale_param(a.v_scale, p.v_scale);
  params.out_scale = scale_param(a.out_scale, p.out_scale);
  params.workspace = call.workspace;
  params.split = narrow(p.split);
  return params;
}

}  // namespace octavo::cuda
