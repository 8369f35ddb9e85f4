#pragma once

#include "fake_gpu.h"
#include "octavo/octavo.h"

namespace octavo::cuda {

/// Arguments of a problem in memory of a fake GPU, which host code can neither read nor
/// write.
class ReservedCase {
 public:
  ReservedCase(const FakeGpu& gpu, const Problem& problem, int ordinal = 0)
      : gpu_(gpu), ordinal_(ordinal) {
    const Problem& p = problem;
    constexpr std::int64_t kPages = 8;
    const std::int64_t columns = (p.max_kv_len() + p.page_size - 1) / p.page_size;
    Arguments& a = arguments;
    a.q = TensorView<3>::dense(bytes(), p.q, {p.total_q(), p.hq, p.d});
    const bool paged = p.layout == Layout::paged;
    const std::int64_t pages = paged ? kPages : 1;
    const std::int64_t slots = paged ? p.page_size : kPages * p.page_size;
    a.k = KvView::dense(bytes(), p.kv, {pages, slots, p.hkv, p.d});
    a.v = KvView::dense(bytes(), p.kv, {pages, slots, p.hkv, p.dv});
    if (paged) a.page_table = {some<std::int32_t>(), p.batch(), columns, columns + 1};
    a.q_lens = {some<std::int32_t>(), p.q_len.size()};
    a.kv_lens = {some<std::int32_t>(), p.kv_len.size()};
    a.out = TensorView<3>::dense(bytes(), p.out, {p.total_q(), p.hq, p.dv});
    if (p.lse) a.lse = TensorView<2>::dense(bytes(), DType::f32, {p.total_q(), p.hq});
    const auto heads = static_cast<std::size_t>(p.hq);
    if (p.sinks) a.sinks = {some<float>(), heads};
    if (p.alibi) a.alibi_slopes = {some<float>(), heads};
    if (p.mask.kind == MaskKind::bits) {
      a.mask_bits = {some<std::uint8_t>(), p.total_q(), (p.max_kv_len() + 7) / 8};
    }
    scale(a.q_scale, p.q_scale, p.hkv);
    scale(a.k_scale, p.k_scale, p.hkv);
    scale(a.v_scale, p.v_scale, p.hkv);
    scale(a.out_scale, p.out_scale, p.hkv);
  }

  Arguments arguments;

 private:
  template <typename T>
  T* some() const {
    return gpu_.reserve<T>(1 << 20, FakeMemory::device, ordinal_);
  }
  std::byte* bytes() const { return some<std::byte>(); }
  void scale(Scale& scale, ScaleKind kind, std::int64_t heads) const {
    if (kind == ScaleKind::host) return;
    scale.values = {some<float>(), static_cast<std::size_t>(kind == ScaleKind::head ? heads : 1)};
  }

  const FakeGpu& gpu_;
  int ordinal_;
};

}  // namespace octavo::cuda
