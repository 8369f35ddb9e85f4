#include "octavo/append.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "octavo/octavo.h"
#include "verify/case.h"

namespace octavo::tests {
namespace {

constexpr std::byte kUntouched{0xa5};

struct Form {
  DType source;
  DType target;
  PageOrder order = PageOrder::nhd;
  ScaleKind scales = ScaleKind::host;
  std::optional<RopeStyle> rope = std::nullopt;
  bool positions = false;  ///< of tokens, instead of their places
};

std::string name_of(const Form& form) {
  std::string text = std::string(name(form.source)) + "_to_" + std::string(name(form.target));
  if (form.order == PageOrder::hnd) text += "_hnd";
  if (form.scales == ScaleKind::tensor) text += "_tensor";
  if (form.scales == ScaleKind::head) text += "_head";
  if (form.rope) text += form.rope == RopeStyle::halves ? "_halves" : "_interleaved";
  return text + (form.positions ? "_positions" : "");
}

/// Three requests of 5, 0 and 7 tokens, of which 4, 0 and 7 are new, in pages of 3.
class Sample {
 public:
  static constexpr std::int64_t kPages = 9;
  static constexpr std::int64_t kPageSize = 3;
  static constexpr std::int64_t kHeads = 2;
  static constexpr std::int64_t kRows = 11;

  Sample(const Form& form, std::int64_t d, std::int64_t dv);
  AppendArguments arguments();
  /// Compares a pool with what it should hold.
  void check(bool is_k) const;

 private:
  KvView pool(std::vector<std::byte>& bytes, std::int64_t d) const;
  double source(bool is_k, std::int64_t row, std::int64_t head, std::int64_t c) const;
  double expected(bool is_k, std::int64_t row, std::int64_t head, std::int64_t c) const;
  double scale(bool is_k, std::int64_t head) const;

  Form form_;
  std::int64_t d_, dv_, rotary_;
  std::vector<std::byte> new_k_, new_v_, k_, v_;
  std::vector<std::int32_t> table_{7, 1, -5, /**/ -5, -5, -5, /**/ 0, 8, 3};
  std::vector<std::int32_t> q_lens_{4, 0, 7};
  std::vector<std::int32_t> kv_lens_{5, 0, 7};
  std::vector<std::int32_t> positions_;
  std::vector<float> rope_, k_scales_, v_scales_;
};

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

class Append : public testing::TestWithParam<Form> {};

TEST_P(Append, StoresWhatItSays) {
  for (const auto& [d, dv] : {std::pair{16, 16}, std::pair{6, 10}, std::pair{3, 1}}) {
    Sample sample(GetParam(), d, dv);
    append(sample.arguments());
    sample.check(true);
    sample.check(false);
  }
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

INSTANTIATE_TEST_SUITE_P(Forms, Append, testing::ValuesIn(forms()),
                         [](const auto& info) { return name_of(info.param); });

TEST(Rope, TableAndStyles) {
  const std::vector<float> table = rope_table(3, 4, 100);
  const std::vector<double> expected = {
      1, 1, 0, 0, std::cos(1), std::cos(0.1), std::sin(1), std::sin(0.1)};
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_FLOAT_EQ(table[i], expected[i]);

  const std::vector<std::int32_t> positions{1};
  std::vector<float> cosines = table;
  Rope rope{RopeStyle::interleaved, TensorView<2>::dense(cosines.data(), DType::f32, {3, 4}),
            positions};
  std::vector<float> x{1, 0, 0, 1, 7};
  rotate(rope, TensorView<3>::dense(x.data(), DType::f32, {1, 1, 5}));
  EXPECT_EQ(x, (std::vector{table[4], table[6], -table[7], table[5], 7.0f}));

  x = {1, 0, 0, 1, 7};
  rope.style = RopeStyle::halves;
  rotate(rope, TensorView<3>::dense(x.data(), DType::f32, {1, 1, 5}));
  EXPECT_EQ(x, (std::vector{table[4], -table[7], table[6], table[5], 7.0f}));
}

TEST(Append, RefusesAndTouchesNothing) {
  struct Wrong {
    std::string message;
    std::function<void(AppendArguments&)> change;
  };
  static const std::int32_t bad_page[] = {7, 9, 0, 0, 0, 0, 0, 8, 3};
  static const std::int32_t same_page[] = {7, 8, 0, 0, 0, 0, 0, 8, 3};
  static const std::int32_t negative[] = {-1, 0, 7};
  static const std::int32_t too_new[] = {6, 0, 5};
  static const std::int32_t long_lens[] = {5, 0, 10};
  static const std::int32_t few[] = {4, 0, 6};
  static const std::int32_t far[] = {9, 3, 3, 0, 40, 5, 6, 7, 8, 20, 11};
  static const float three[] = {1, 1, 1};
  static const float zero[] = {0.0f, 1.0f};
  const std::vector<Wrong> wrongs = {
      {"page_table[0][1]=9: must be from 0 to 8", [](auto& a) { a.page_table.data = bad_page; }},
      {"page 8: requests 0 and 2 both write", [](auto& a) { a.page_table.data = same_page; }},
      {"q_lens[0]=-1: must be from 0 to kv_lens[0]=5", [](auto& a) { a.q_lens = negative; }},
      {"q_lens[0]=6: must be from 0 to kv_lens[0]=5", [](auto& a) { a.q_lens = too_new; }},
      {"kv_lens[2]=10: page_table has 3 columns, pages of 3",
       [](auto& a) { a.kv_lens = long_lens; }},
      {"new_k.shape[0] (rows) is 11: the sum of q_lens is 10", [](auto& a) { a.q_lens = few; }},
      {"new_k.shape[1] (heads) is 1: k's is 2", [](auto& a) { a.new_k.shape[1] = 1; }},
      {"new_v.shape[2] (dv) is 5: v's is 16", [](auto& a) { a.new_v.shape[2] = 5; }},
      {"new_v.shape[0] (rows) is 12: new_k's is 11", [](auto& a) { a.new_v.shape[0] = 12; }},
      {"v.shape[0] (pages) is 4: k's is 9", [](auto& a) { a.v.shape[0] = 4; }},
      {"k and v may share memory", [](auto& a) { a.v = a.k; }},
      {"v and new_k may share memory", [](auto& a) { a.new_k.data = a.v.data; }},
      {"kv_lens (size) is 2: q_lens' size is 3", [](auto& a) { a.kv_lens = a.kv_lens.first(2); }},
      {"page_table has 2 rows", [](auto& a) { a.page_table.requests = 2; }},
      {"k_scale=0: must be finite and not 0",
       [](auto& a) {
         a.k_scale = {0.0f, {}};
       }},
      {"v_scale.values has 3 values: must have 1, or one for each of 2 heads",
       [](auto& a) { a.v_scale.values = three; }},
      {"v_scale.values[0]=0: must be finite and not 0", [](auto& a) { a.v_scale.values = zero; }},
      {"rope.positions[4]=40: must be from 0 to 39", [](auto& a) { a.rope->positions = far; }},
      {"kv_lens[2]=7: rope.table has 6 positions", [](auto& a) { a.rope->table.shape[0] = 6; }},
      {"rope.table.shape[1] (rotary)=18: must be even, from 2 to the head's 16",
       [](auto& a) { a.rope->table.shape[1] = 18, a.rope->table.stride[0] = 18; }},
      {"rope.table is f16: must be f32", [](auto& a) { a.rope->table.dtype = DType::f16; }},
  };
  for (const Wrong& wrong : wrongs) {
    Sample sample({DType::f32, DType::f32, PageOrder::nhd, ScaleKind::head, RopeStyle::halves}, 16,
                  16);
    AppendArguments a = sample.arguments();
    const std::span k{static_cast<std::byte*>(a.k.data), 64};
    wrong.change(a);
    try {
      append(a);
      FAIL() << "not refused: " << wrong.message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_NE(std::string(error.what()).find(wrong.message), std::string::npos)
          << error.what() << "\nshould say " << wrong.message;
    }
    for (const std::byte byte : k) ASSERT_EQ(byte, kUntouched);
  }
}

}  // namespace
}  // namespace octavo::tests
