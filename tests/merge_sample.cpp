#include "merge_sample.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/text.h"
#include "verify/case.h"
#include "verify/random.h"

namespace octavo::tests {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kUnit = 0x1p-24;  // of fp32's roundings
constexpr std::int64_t kGap = 5;   // elements after a head's

std::size_t size(std::int64_t elements) { return static_cast<std::size_t>(elements); }

}  // namespace

std::string name_of(const MergeForm& f) {
  return concat(name(f.from), "_", name(f.to), "_", f.parts, "x", f.rows, "x", f.heads, "x", f.dv,
                f.strided ? "_strided" : "");
}

std::vector<MergeForm> merge_forms() {
  constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16, DType::e4m3, DType::e5m2};
  std::vector<MergeForm> forms;
  for (const DType from : kTypes) {
    for (const DType to : kTypes) forms.push_back({from, to, 3, 5, 2, 40});
  }
  const auto add = [&](std::int64_t parts, std::int64_t rows, std::int64_t heads, std::int64_t dv) {
    forms.push_back({DType::f32, DType::bf16, parts, rows, heads, dv});
    forms.push_back({DType::bf16, DType::f32, parts, rows, heads, dv, true});
  };
  add(1, 7, 3, 64);
  add(2, 1, 1, 1);
  add(2, 33, 5, 7);
  add(17, 9, 1, 300);
  add(2, 4, 2, 576);
  add(2, 0, 2, 8);
  add(2, 3, 2, 0);
  return forms;
}

MergeSample::MergeSample(const MergeForm& form) : form_(form) {
  const auto& [from, to, parts, rows, heads, dv, strided] = form;
  const std::int64_t head = strided ? dv + kGap : dv;
  parts_view_ = {
      nullptr, from, {parts, rows, heads, dv}, {rows * heads * head, heads * head, head, 1}};
  if (strided) std::swap(parts_view_.stride[0], parts_view_.stride[1]);
  if (strided) parts_view_.stride = {heads * head, parts * heads * head, head, 1};
  parts_.resize(size(parts * rows * heads * head + 1) * size_of(from), std::byte{0xff});
  out_.resize(size(rows * heads * dv + 1) * size_of(to));
  lse_.resize(size(rows * heads + 1));
  parts_lse_.resize(size(parts * rows * heads + 1));
  verify::Random random(11);
  for (std::int64_t p = 0; p < parts; ++p) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t h = 0; h < heads; ++h) {
        const bool empty = r == 1 || (p > 0 && random.chance(0.3));
        const double far = r == 2 ? 9000 : 0;
        parts_lse_[size((p * rows + r) * heads + h)] =
            empty ? -kInfinity : static_cast<float>(far + 3 * random.normal());
        for (std::int64_t c = 0; c < dv; ++c) {
          verify::store(&parts_[size(part_offset(p, r, h) + c) * size_of(from)],
                        empty ? kNan : random.normal(), from);
        }
      }
    }
  }
}

std::int64_t MergeSample::part_offset(std::int64_t part, std::int64_t row,
                                      std::int64_t head) const {
  const auto& stride = parts_view_.stride;
  return part * stride[0] + row * stride[1] + head * stride[2];
}

float MergeSample::lse(std::int64_t part, std::int64_t row, std::int64_t head) const {
  return parts_lse_[size((part * form_.rows + row) * form_.heads + head)];
}

MergeArguments MergeSample::arguments() {
  MergeArguments a;
  a.parts = parts_view_;
  a.parts.data = parts_.data();
  a.parts_lse =
      TensorView<3>::dense(parts_lse_.data(), DType::f32, {form_.parts, form_.rows, form_.heads});
  a.out = TensorView<3>::dense(out_.data(), form_.to, {form_.rows, form_.heads, form_.dv});
  a.lse = TensorView<2>::dense(lse_.data(), DType::f32, {form_.rows, form_.heads});
  return a;
}

std::vector<std::byte> MergeSample::bits() const {
  std::vector<std::byte> bits = out_;
  const auto lse = std::as_bytes(std::span(lse_));
  bits.insert(bits.end(), lse.begin(), lse.end());
  return bits;
}

void MergeSample::check() const {
  for (std::int64_t r = 0; r < form_.rows; ++r) {
    for (std::int64_t h = 0; h < form_.heads; ++h) check_row(r, h);
  }
}

void MergeSample::check_row(std::int64_t row, std::int64_t head) const {
  double largest = -kInfinity;
  for (std::int64_t p = 0; p < form_.parts; ++p) {
    largest = std::max<double>(largest, lse(p, row, head));
  }
  double total = 0;
  for (std::int64_t p = 0; p < form_.parts; ++p) {
    if (lse(p, row, head) != -kInfinity) total += std::exp(lse(p, row, head) - largest);
  }
  const double expected_lse = total == 0 ? -kInfinity : largest + std::log(total);
  const double got_lse = lse_[size(row * form_.heads + head)];
  if (total == 0) {
    EXPECT_EQ(got_lse, expected_lse) << row;
  } else {
    EXPECT_NEAR(got_lse, expected_lse, 4 * kUnit * (1 + std::abs(expected_lse))) << row;
  }
  const verify::Format format = verify::format_of(form_.to);
  for (std::int64_t c = 0; c < form_.dv; ++c) {
    double expected = 0;
    double magnitude = 0;
    for (std::int64_t p = 0; p < form_.parts; ++p) {
      if (lse(p, row, head) == -kInfinity) continue;
      const double value =
          verify::load(&parts_[size(part_offset(p, row, head) + c) * size_of(form_.from)],
                       form_.from) *
          std::exp(lse(p, row, head) - largest) / total;
      expected += value;
      magnitude += std::abs(value);
    }
    // Of a weight: its exponential's argument, exact but for what fp32's exponentials lose, and a
    // quotient; then a product and a sum for each part. Storing adds half a unit in the last place.
    const double error = kUnit * static_cast<double>(form_.parts + 12) * magnitude;
    const int smallest = 2 - (1 << (format.exponent_bits - 1)) - format.mantissa_bits;
    const double bound = error +
                         std::ldexp(std::abs(expected) + error, -(format.mantissa_bits + 1)) +
                         std::ldexp(0.5, smallest);
    const std::int64_t at = (row * form_.heads + head) * form_.dv + c;
    EXPECT_NEAR(verify::load(&out_[size(at) * size_of(form_.to)], form_.to), expected, bound)
        << "row " << row << ", head " << head << ", dim " << c;
  }
}

}  // namespace octavo::tests
