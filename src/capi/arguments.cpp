#include "capi/arguments.h"

#include <algorithm>
#include <span>

#include "capi/guard.h"
#include "core/text.h"
#include "octavo/error.h"

namespace octavo::capi {
namespace {

static_assert(static_cast<octavo_dtype>(DType::f32) == OCTAVO_F32);
static_assert(static_cast<octavo_dtype>(DType::f16) == OCTAVO_F16);
static_assert(static_cast<octavo_dtype>(DType::bf16) == OCTAVO_BF16);
static_assert(static_cast<octavo_dtype>(DType::e4m3) == OCTAVO_E4M3);
static_assert(static_cast<octavo_dtype>(DType::e5m2) == OCTAVO_E5M2);

template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) throw Error(ErrorCode::invalid_argument, concat(parts...));
}

template <int Rank>
TensorView<Rank> to_tensor(const char* name, const octavo_tensor& tensor) {
  require(tensor.rank == Rank, name, ".rank=", tensor.rank, ": must be ", Rank);
  require(tensor.dtype >= OCTAVO_F32 && tensor.dtype <= OCTAVO_E5M2, name, ".dtype=", tensor.dtype,
          ": must be from ", int{OCTAVO_F32}, " to ", int{OCTAVO_E5M2});
  TensorView<Rank> view;
  view.data = tensor.data;
  view.dtype = static_cast<DType>(tensor.dtype);
  std::copy_n(tensor.shape, Rank, view.shape.begin());
  std::copy_n(tensor.stride, Rank, view.stride.begin());
  return view;
}

template <typename Value>
std::span<const Value> to_span(const char* name, const Value* data, std::int64_t count) {
  require(count >= 0, name, " has ", count, " values: must be at least 0");
  return {data, static_cast<std::size_t>(count)};
}

std::span<const float> to_span(const char* name, const octavo_floats& floats) {
  return to_span(name, floats.data, floats.count);
}

Scale to_scale(const char* name, const octavo_scale& scale) {
  return {scale.value, to_span(name, scale.values)};
}

}  // namespace

Arguments to_arguments(const octavo_arguments& c) {
  require_version("arguments", c);
  Arguments a;
  a.q = to_tensor<3>("q", c.q);
  a.k = to_tensor<4>("k", c.k);
  a.v = to_tensor<4>("v", c.v);
  a.page_table = {c.page_table.data, c.page_table.requests, c.page_table.columns,
                  c.page_table.stride};
  a.q_lens = to_span("q_lens", c.q_lens, c.requests);
  a.kv_lens = to_span("kv_lens", c.kv_lens, c.requests);
  a.out = to_tensor<3>("out", c.out);
  if (c.lse.data != nullptr || c.lse.rank != 0) a.lse = to_tensor<2>("lse", c.lse);
  a.sinks = to_span("sinks", c.sinks);
  a.alibi_slopes = to_span("alibi_slopes", c.alibi_slopes);
  a.mask_bits = {c.mask_bits.data, c.mask_bits.rows, c.mask_bits.row_bytes};
  a.q_scale = to_scale("q_scale", c.q_scale);
  a.k_scale = to_scale("k_scale", c.k_scale);
  a.v_scale = to_scale("v_scale", c.v_scale);
  a.out_scale = to_scale("out_scale", c.out_scale);
  a.workspace = {static_cast<std::byte*>(c.workspace), c.workspace_size};
  return a;
}

MergeArguments to_merge(const octavo_merge_arguments& c) {
  require_version("arguments", c);
  MergeArguments a;
  a.parts = to_tensor<4>("parts", c.parts);
  a.parts_lse = to_tensor<3>("parts_lse", c.parts_lse);
  a.out = to_tensor<3>("out", c.out);
  if (c.lse.data != nullptr || c.lse.rank != 0) a.lse = to_tensor<2>("lse", c.lse);
  return a;
}

std::vector<KvView> to_views(const char* name, const octavo_tensor* tensors, std::int64_t count) {
  std::vector<KvView> views;
  for (std::int64_t i = 0; i < count; ++i) views.push_back(to_tensor<4>(name, tensors[i]));
  return views;
}

Rope to_rope(const octavo_rope& c) {
  require(c.style == OCTAVO_ROPE_INTERLEAVED || c.style == OCTAVO_ROPE_HALVES,
          "rope.style=", c.style, ": must be ", int{OCTAVO_ROPE_INTERLEAVED}, " or ",
          int{OCTAVO_ROPE_HALVES});
  Rope rope;
  rope.style = c.style == OCTAVO_ROPE_HALVES ? RopeStyle::halves : RopeStyle::interleaved;
  rope.table = to_tensor<2>("rope.table", c.table);
  rope.positions = to_span("rope.positions", c.positions, c.positions_count);
  return rope;
}

TensorView<3> to_rows(const char* name, const octavo_tensor& c) { return to_tensor<3>(name, c); }

KvAppend to_append(const octavo_kv_append& c) {
  require_version("append", c);
  require(c.requests != nullptr || c.requests_count == 0, "append.requests is a null pointer");
  KvAppend step;
  step.layer = c.layer;
  step.requests = to_span("append.requests", c.requests, c.requests_count);
  step.k = to_tensor<3>("k", c.k);
  step.v = to_tensor<3>("v", c.v);
  step.k_scale = to_scale("k_scale", c.k_scale);
  step.v_scale = to_scale("v_scale", c.v_scale);
  if (c.rope != nullptr) step.rope = to_rope(*c.rope);
  return step;
}

}  // namespace octavo::capi
