#include "kv/append_sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "verify/case.h"

namespace octavo::tests {

std::string name_of(const Form& form) {
  std::string text = std::string(name(form.source)) + "_to_" + std::string(name(form.target));
  if (form.order == PageOrder::hnd) text += "_hnd";
  if (form.scales == ScaleKind::tensor) text += "_tensor";
  if (form.scales == ScaleKind::head) text += "_head";
  if (form.rope) text += form.rope == RopeStyle::halves ? "_halves" : "_interleaved";
  return text + (form.positions ? "_positions" : "");
}

Sample::Sample(const Form& form, std::int64_t d, std::int64_t dv)
    : form_(form), d_(d), dv_(dv), rotary_(d / 2 * 2 - (d > 4 ? 2 : 0)) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal(0, 30);  // some saturate in e4m3
  const auto fill = [&](std::vector<std::byte>& bytes, std::int64_t count) {
    bytes.resize(count * size_of(form.source));
    for (std::int64_t i = 0; i < count; ++i) {
      verify::store(&bytes[i * size_of(form.source)], normal(random), form.source);
    }
  };
  fill(new_k_, kRows * kHeads * d);
  fill(new_v_, kRows * kHeads * dv);
  k_.resize(kPages * kPageSize * kHeads * d * size_of(form.target), kUntouched);
  v_.resize(kPages * kPageSize * kHeads * dv * size_of(form.target), kUntouched);
  rope_ = rope_table(40, rotary_, 100);
  if (form.positions) positions_ = {9, 3, 3, 0, 39, 5, 6, 7, 8, 20, 11};
  if (form.scales == ScaleKind::host) k_scales_ = v_scales_ = {0.25f};
  if (form.scales == ScaleKind::tensor) k_scales_ = {0.3f}, v_scales_ = {1.7f};
  if (form.scales == ScaleKind::head) k_scales_ = {0.3f, 5}, v_scales_ = {1, 0.07f};
}

KvView Sample::pool(std::vector<std::byte>& bytes, std::int64_t d) const {
  if (form_.order == PageOrder::nhd) {
    return KvView::dense(bytes.data(), form_.target, {kPages, kPageSize, kHeads, d});
  }
  KvView view = KvView::dense(bytes.data(), form_.target, {kPages, kHeads, kPageSize, d});
  std::swap(view.shape[1], view.shape[2]);
  std::swap(view.stride[1], view.stride[2]);
  return view;
}

AppendArguments Sample::arguments() {
  AppendArguments a;
  a.new_k = TensorView<3>::dense(new_k_.data(), form_.source, {kRows, kHeads, d_});
  a.new_v = TensorView<3>::dense(new_v_.data(), form_.source, {kRows, kHeads, dv_});
  a.k = pool(k_, d_);
  a.v = pool(v_, dv_);
  a.page_table = {table_.data(), 3, 3, 3};
  a.q_lens = q_lens_;
  a.kv_lens = kv_lens_;
  if (form_.scales == ScaleKind::host) {
    a.k_scale.value = k_scales_[0];
    a.v_scale.value = v_scales_[0];
  } else {
    a.k_scale.values = k_scales_;
    a.v_scale.values = v_scales_;
  }
  if (form_.rope) {
    a.rope = Rope{*form_.rope, TensorView<2>::dense(rope_.data(), DType::f32, {40, rotary_}),
                  positions_};
  }
  return a;
}

double Sample::source(bool is_k, std::int64_t row, std::int64_t head, std::int64_t c) const {
  const std::int64_t index = (row * kHeads + head) * (is_k ? d_ : dv_) + c;
  return verify::load(&(is_k ? new_k_ : new_v_)[index * size_of(form_.source)], form_.source);
}

double Sample::scale(bool is_k, std::int64_t head) const {
  const std::vector<float>& scales = is_k ? k_scales_ : v_scales_;
  return scales[form_.scales == ScaleKind::head ? head : 0];
}

/// In double precision, but with the table's cos and sin.
double Sample::expected(bool is_k, std::int64_t row, std::int64_t head, std::int64_t c) const {
  const double x = source(is_k, row, head, c);
  if (!is_k || !form_.rope || c >= rotary_) return x / scale(is_k, head);
  const std::int64_t place = row < 4 ? row + 1 : row - 4;
  const std::int64_t position = form_.positions ? positions_[row] : place;
  const std::int64_t pairs = rotary_ / 2;
  const bool halves = form_.rope == RopeStyle::halves;
  const std::int64_t pair = halves ? c % pairs : c / 2;
  const bool first = halves ? c < pairs : c % 2 == 0;
  const std::int64_t other = halves ? (first ? c + pairs : c - pairs) : (first ? c + 1 : c - 1);
  const double cosine = rope_[position * rotary_ + pair];
  const double sine = rope_[position * rotary_ + pairs + pair];
  const double y = source(is_k, row, head, other);
  return (x * cosine + (first ? -y : y) * sine) / scale(is_k, head);
}

void Sample::check(bool is_k) const {
  const std::int64_t d = is_k ? d_ : dv_;
  const std::size_t size = size_of(form_.target);
  std::vector<std::byte> rest = is_k ? k_ : v_;
  for (std::int64_t row = 0; row < kRows; ++row) {
    const std::int64_t token = row < 4 ? row + 1 : row - 4;
    const std::int64_t page = table_[(row < 4 ? 0 : 6) + token / kPageSize];
    const std::int64_t slot = token % kPageSize;
    for (std::int64_t head = 0; head < kHeads; ++head) {
      for (std::int64_t c = 0; c < d; ++c) {
        const std::int64_t index = form_.order == PageOrder::nhd
                                       ? ((page * kPageSize + slot) * kHeads + head) * d + c
                                       : ((page * kHeads + head) * kPageSize + slot) * d + c;
        std::byte* at = &rest[index * size];
        // Rounding is monotonic, so the result lies between those of the bounds of the fp32 value.
        const double value = expected(is_k, row, head, c);
        const double error = (is_k && form_.rope ? 400.0 : std::abs(value)) * 0x1p-22;
        const auto rounded = [&](double v) {
          return verify::decode(verify::encode(v, form_.target), form_.target);
        };
        const double stored = verify::load(at, form_.target);
        ASSERT_GE(stored, rounded(value - error)) << row << " " << head << " " << c;
        ASSERT_LE(stored, rounded(value + error)) << row << " " << head << " " << c;
        std::fill_n(at, size, kUntouched);
      }
    }
  }
  ASSERT_TRUE(std::ranges::all_of(rest, [](std::byte b) { return b == kUntouched; }));
}

std::vector<Form> forms() {
  std::vector<Form> all;
  for (const DType source : kDTypes) {
    for (const DType target : kDTypes) {
      all.push_back({source, target});
      all.push_back({source, target, PageOrder::hnd, ScaleKind::head, RopeStyle::halves});
    }
  }
  for (const RopeStyle style : {RopeStyle::halves, RopeStyle::interleaved}) {
    for (const bool positions : {false, true}) {
      all.push_back(
          {DType::bf16, DType::bf16, PageOrder::nhd, ScaleKind::tensor, style, positions});
    }
  }
  return all;
}

}  // namespace octavo::tests
