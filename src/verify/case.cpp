#include "verify/case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "verify/random.h"

namespace octavo::verify {
namespace {

// A pattern that is NaN in all five dtypes, so that untouched input memory is NaN.
constexpr std::uint8_t kNan = 0xff;
constexpr std::uint8_t kPoison = 0xa5;
constexpr std::size_t kGuard = 256;
constexpr std::int64_t kSpareRows = 3;

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::size_t bytes_of(std::int64_t elements, DType dtype) {
  return static_cast<std::size_t>(elements) * size_of(dtype);
}

}  // namespace

Format format_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return {23, 8, true, std::numeric_limits<float>::max()};
    case DType::f16:
      return {10, 5, true, 65504};
    case DType::bf16:
      return {7, 8, true, std::ldexp(255, 120)};
    case DType::e4m3:
      return {3, 4, false, 448};
    case DType::e5m2:
      return {2, 5, true, 57344};
  }
  return {};
}

std::uint32_t encode(double value, DType dtype) {
  const Format format = format_of(dtype);
  const int m = format.mantissa_bits;
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  const std::uint32_t sign = std::signbit(value) ? 1u << (m + format.exponent_bits) : 0;
  const std::uint32_t ones = (1u << format.exponent_bits) - 1;
  if (std::isnan(value)) return sign | (ones << m) | ((1u << m) - 1);
  double magnitude = std::abs(value);
  if (std::isfinite(magnitude) && magnitude > 0) {
    const double quantum = std::ldexp(1.0, std::max(std::ilogb(magnitude), 1 - bias) - m);
    magnitude = std::nearbyint(magnitude / quantum) * quantum;
  }
  if (magnitude > format.largest) {
    if (!is_fp8(dtype)) return sign | (ones << m);
    magnitude = format.largest;
  }
  if (magnitude == 0) return sign;
  const int exponent = std::ilogb(magnitude);
  if (exponent < 1 - bias) {
    return sign | static_cast<std::uint32_t>(std::ldexp(magnitude, m + bias - 1));
  }
  const auto fraction = static_cast<std::uint32_t>(std::ldexp(magnitude, m - exponent));
  return sign | (static_cast<std::uint32_t>(exponent + bias) << m) | (fraction - (1u << m));
}

double decode(std::uint32_t bits, DType dtype) {
  const Format format = format_of(dtype);
  const int m = format.mantissa_bits;
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  const std::uint32_t ones = (1u << format.exponent_bits) - 1;
  const std::uint32_t exponent = (bits >> m) & ones;
  const std::uint32_t fraction = bits & ((1u << m) - 1);
  const double sign = (bits >> (m + format.exponent_bits)) & 1 ? -1 : 1;
  if (exponent == ones) {
    if (!format.infinities) {
      if (fraction == (1u << m) - 1) return std::numeric_limits<double>::quiet_NaN();
    } else if (fraction != 0) {
      return std::numeric_limits<double>::quiet_NaN();
    } else {
      return sign * std::numeric_limits<double>::infinity();
    }
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - m);
  return sign * std::ldexp(fraction + (1u << m), static_cast<int>(exponent) - bias - m);
}

void store(std::byte* at, double value, DType dtype) {
  const std::uint32_t bits = encode(value, dtype);
  const auto narrow16 = static_cast<std::uint16_t>(bits);
  switch (size_of(dtype)) {
    case 4:
      std::memcpy(at, &bits, 4);
      break;
    case 2:
      std::memcpy(at, &narrow16, 2);
      break;
    default:
      *at = static_cast<std::byte>(bits);
  }
}

double load(const std::byte* at, DType dtype) {
  std::uint32_t bits = 0;
  std::uint16_t narrow16 = 0;
  switch (size_of(dtype)) {
    case 4:
      std::memcpy(&bits, at, 4);
      break;
    case 2:
      std::memcpy(&narrow16, at, 2);
      bits = narrow16;
      break;
    default:
      bits = static_cast<std::uint32_t>(*at);
  }
  return decode(bits, dtype);
}

GuardedBuffer::GuardedBuffer(std::size_t size, std::uint8_t fill, std::size_t alignment)
    : storage_(size + 2 * kGuard + alignment, std::byte{fill}), size_(size), fill_{fill} {
  const auto address = reinterpret_cast<std::uintptr_t>(storage_.data()) + kGuard;
  begin_ = kGuard + (alignment - address % alignment) % alignment;
}

bool GuardedBuffer::untouched_beyond(std::size_t used) const {
  const auto same = [this](std::byte b) { return b == fill_; };
  const auto begin = storage_.begin();
  return std::all_of(begin, begin + static_cast<std::ptrdiff_t>(begin_), same) &&
         std::all_of(begin + static_cast<std::ptrdiff_t>(begin_ + used), storage_.end(), same);
}

double Case::Factor::at(std::int64_t kv_head) const {
  if (kind == ScaleKind::host) return value;
  return values[kind == ScaleKind::head ? kv_head : 0];
}

/// The steps of making a case, in order.
class Case::Maker {
 public:
  Maker(Case& c, std::uint64_t seed, Values values)
      : c_(c), p_(c.problem_), a_(c.arguments_), random_(seed), values_(values) {}

  void lengths() {
    c_.first_q_ = {0};
    c_.first_kv_ = {0};
    for (std::int64_t r = 0; r < p_.batch(); ++r) {
      c_.q_lens_.push_back(static_cast<std::int32_t>(p_.q_len[r]));
      c_.kv_lens_.push_back(static_cast<std::int32_t>(p_.kv_len[r]));
      c_.first_q_.push_back(c_.first_q_.back() + p_.q_len[r]);
      c_.first_kv_.push_back(c_.first_kv_.back() + p_.kv_len[r]);
    }
    a_.q_lens = c_.q_lens_;
    a_.kv_lens = c_.kv_lens_;
  }

  void mask_bits() {
    if (p_.mask.kind != MaskKind::bits) return;
    std::int64_t longest = 0;
    for (const std::int64_t kv_len : p_.kv_len) longest = std::max(longest, kv_len);
    const std::int64_t row_bytes = ceil_div(longest, 8) + random_.integer(0, 2);
    const double density = random_.pick({0.05, 0.5, 0.9});
    c_.bits_.assign(static_cast<std::size_t>(std::max<std::int64_t>(1, c_.total_q() * row_bytes)),
                    0);
    for (std::uint8_t& byte : c_.bits_) {
      for (int bit = 0; bit < 8; ++bit) {
        if (random_.chance(density)) byte = static_cast<std::uint8_t>(byte | (1 << bit));
      }
    }
    a_.mask_bits = {c_.bits_.data(), c_.total_q(), row_bytes};
  }

  void factors() {
    const bool out_factor = random_.chance(0.5);
    factor(c_.q_scale_, p_.q_scale, 1);
    factor(c_.k_scale_, p_.k_scale, 1);
    factor(c_.v_scale_, p_.v_scale, 1);
    // Some results are beyond what fp8 holds: these have to saturate.
    double unit = 1;
    if (is_fp8(p_.out) && out_factor && random_.chance(0.3)) unit = format_of(p_.out).largest;
    factor(c_.out_scale_, p_.out_scale, unit);
    a_.q_scale = c_.q_scale_.scale();
    a_.k_scale = c_.k_scale_.scale();
    a_.v_scale = c_.v_scale_.scale();
    a_.out_scale = c_.out_scale_.scale();
    for (std::int64_t h = 0; h < p_.hq; ++h) {
      if (p_.sinks) c_.sinks_.push_back(static_cast<float>(random_.uniform(-2, 2)));
      if (p_.alibi) c_.slopes_.push_back(static_cast<float>(std::exp2(random_.uniform(-8, -1))));
    }
    a_.sinks = c_.sinks_;
    a_.alibi_slopes = c_.slopes_;
  }

  void queries_and_keys() {
    if (p_.layout == Layout::packed) {
      packed();
    } else {
      c_.q_memory_ = buffer(bytes_of((c_.total_q() + kSpareRows) * p_.hq * p_.d, p_.q), kNan);
      a_.q = TensorView<3>::dense(c_.q_memory_.data(), p_.q, {c_.total_q(), p_.hq, p_.d});
      if (p_.layout == Layout::paged) {
        paged();
      } else {
        flat();
      }
    }
    if (values_ == Values::checked) {
      fill();
    } else {
      repeat_values();
    }
  }

  void outputs(Workspace workspace) {
    const std::int64_t rows = c_.total_q() + kSpareRows;
    c_.out_memory_ = buffer(bytes_of(rows * p_.hq * p_.dv, p_.out), kPoison);
    a_.out = TensorView<3>::dense(c_.out_memory_.data(), p_.out, {c_.total_q(), p_.hq, p_.dv});
    if (p_.lse) {
      c_.lse_memory_ = buffer(bytes_of(rows * p_.hq, DType::f32), kPoison);
      a_.lse = TensorView<2>::dense(c_.lse_memory_.data(), DType::f32, {c_.total_q(), p_.hq});
    }
    if (workspace.size > 0 && (!workspace.optional || random_.chance(0.5))) {
      c_.workspace_memory_ = GuardedBuffer(workspace.size, kNan, workspace.alignment);
      a_.workspace = {c_.workspace_memory_.data(), workspace.size};
    }
  }

 private:
  /// As allocators align; for the checked, as little as callers may.
  GuardedBuffer buffer(std::size_t bytes, std::uint8_t fill) const {
    return {bytes, fill, values_ == Values::timed ? std::size_t{256} : std::size_t{64}};
  }

  void factor(Factor& factor, ScaleKind kind, double unit) {
    const auto draw = [&] { return static_cast<float>(unit * random_.uniform(0.5, 2)); };
    factor.kind = kind;
    if (kind != ScaleKind::host) {
      const std::int64_t count = kind == ScaleKind::head ? p_.hkv : 1;
      for (std::int64_t i = 0; i < count; ++i) factor.values.push_back(draw());
      factor.value = std::numeric_limits<float>::quiet_NaN();  // nobody may use it
    } else if (unit != 1 || random_.chance(0.5)) {
      factor.value = draw();
    }
  }

  KvView kv_view(std::byte* data, std::array<std::int64_t, 4> shape,
                 std::array<std::int64_t, 4> stride) {
    return {data, p_.kv, shape, stride};
  }

  void packed() {
    const std::int64_t total = c_.first_kv_.back();
    const std::int64_t row = (p_.hq + 2 * p_.hkv) * p_.d;
    c_.q_memory_ = buffer(bytes_of((total + kSpareRows) * row, p_.q), kNan);
    std::byte* data = c_.q_memory_.data();
    a_.q = {data, p_.q, {total, p_.hq, p_.d}, {row, p_.d, 1}};
    const std::array<std::int64_t, 4> shape = {1, total, p_.hkv, p_.d};
    const std::array<std::int64_t, 4> stride = {total * row, row, p_.d, 1};
    a_.k = kv_view(data + bytes_of(p_.hq * p_.d, p_.kv), shape, stride);
    a_.v = kv_view(data + bytes_of((p_.hq + p_.hkv) * p_.d, p_.kv), shape, stride);
  }

  void flat() {
    const std::int64_t total = c_.first_kv_.back();
    const std::int64_t k_row = p_.hkv * p_.d;
    const std::int64_t v_row = p_.hkv * p_.dv;
    const std::int64_t rows = total + kSpareRows;
    if (p_.layout == Layout::contiguous) {
      c_.k_memory_ = buffer(bytes_of(rows * 2 * k_row, p_.kv), kNan);
      std::byte* data = c_.k_memory_.data();
      const std::array<std::int64_t, 4> shape = {1, total, p_.hkv, p_.d};
      const std::array<std::int64_t, 4> stride = {total * 2 * k_row, 2 * k_row, p_.d, 1};
      a_.k = kv_view(data, shape, stride);
      a_.v = kv_view(data + bytes_of(k_row, p_.kv), shape, stride);
      return;
    }
    c_.k_memory_ = buffer(bytes_of(rows * k_row, p_.kv), kNan);
    c_.v_memory_ = buffer(bytes_of(rows * v_row, p_.kv), kNan);
    a_.k = KvView::dense(c_.k_memory_.data(), p_.kv, {1, total, p_.hkv, p_.d});
    a_.v = KvView::dense(c_.v_memory_.data(), p_.kv, {1, total, p_.hkv, p_.dv});
  }

  void paged() {
    const std::int64_t page = p_.page_size;
    std::int64_t used = 0;
    std::int64_t columns = 1;
    for (const std::int64_t kv_len : p_.kv_len) {
      used += ceil_div(kv_len, page);
      columns = std::max(columns, ceil_div(kv_len, page));
    }
    columns += random_.integer(0, 2);
    const std::int64_t pages = used + random_.integer(1, 4);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(pages));
    std::iota(ids.begin(), ids.end(), 0);
    for (std::int64_t i = pages; i-- > 1;) std::swap(ids[i], ids[random_.integer(0, i)]);

    const std::int64_t stride = columns + random_.integer(0, 2);
    c_.page_table_.resize(static_cast<std::size_t>(p_.batch() * stride));
    for (std::int32_t& entry : c_.page_table_) {
      entry = random_.pick({-1, 0x7fffffff, static_cast<int>(pages), -0x7fffffff - 1});
    }
    std::size_t next = 0;
    for (std::int64_t r = 0; r < p_.batch(); ++r) {
      for (std::int64_t i = 0; i < ceil_div(p_.kv_len[r], page); ++i) {
        const bool shared = owner(r, i * page) != r;
        c_.page_table_[r * stride + i] =
            shared ? c_.page_table_[owner(r, i * page) * stride + i] : ids[next++];
      }
    }
    a_.page_table = {c_.page_table_.data(), p_.batch(), columns, stride};

    const bool joint = p_.pool == Pool::joint;
    const auto strides = [&](std::int64_t dim) -> std::array<std::int64_t, 4> {
      const std::int64_t step = page * p_.hkv * dim * (joint ? 2 : 1);
      if (p_.order == PageOrder::nhd) return {step, p_.hkv * dim, dim, 1};
      return {step, dim, page * dim, 1};
    };
    const std::int64_t k_size = pages * page * p_.hkv * p_.d;
    c_.k_memory_ = buffer(bytes_of(joint ? 2 * k_size : k_size, p_.kv), kNan);
    std::byte* v_data = c_.k_memory_.data() + bytes_of(page * p_.hkv * p_.d, p_.kv);
    if (!joint) {
      c_.v_memory_ = buffer(bytes_of(pages * page * p_.hkv * p_.dv, p_.kv), kNan);
      v_data = c_.v_memory_.data();
    }
    a_.k = kv_view(c_.k_memory_.data(), {pages, page, p_.hkv, p_.d}, strides(p_.d));
    a_.v = kv_view(v_data, {pages, page, p_.hkv, p_.dv}, strides(p_.dv));
  }

  /// The request whose page holds token j of request r: the first that has as many, in the prefix.
  std::int64_t owner(std::int64_t r, std::int64_t j) const {
    if (j >= p_.prefix) return r;
    const std::int64_t page_end = (j / p_.page_size + 1) * p_.page_size;
    std::int64_t first = 0;
    while (first < r && p_.kv_len[first] < page_end) ++first;
    return first;
  }

  bool is_seen(std::int64_t r, std::int64_t j) const {
    for (std::int64_t i = 0; i < p_.q_len[r]; ++i) {
      if (c_.sees(r, i, j)) return true;
    }
    return false;
  }

  /// Whether some query of the requests whose pages these are sees token j of request r.
  bool is_seen_by_any(std::int64_t r, std::int64_t j) const {
    for (std::int64_t other = r; other < p_.batch(); ++other) {
      if (owner(other, j) == r && is_seen(other, j)) return true;
    }
    return false;
  }

  /// Token j of request r is one of another request.
  void copy_token(std::int64_t r, std::int64_t j) {
    const std::int64_t from = c_.first_kv_[owner(r, j)] + j;
    const std::int64_t to = c_.first_kv_[r] + j;
    std::copy_n(c_.k(from, 0), p_.hkv * p_.d, c_.k_.begin() + to * p_.hkv * p_.d);
    std::copy_n(c_.v(from, 0), p_.hkv * p_.dv, c_.v_.begin() + to * p_.hkv * p_.dv);
  }

  double draw(std::byte* at, DType dtype) {
    store(at, random_.normal(), dtype);
    return load(at, dtype);
  }

  void draw_token(const KvView& view, std::int64_t r, std::int64_t j, std::vector<double>& copy) {
    std::int64_t page = 0;
    std::int64_t slot = c_.first_kv_[r] + j;
    if (p_.layout == Layout::paged) {
      page = c_.page_table_[r * a_.page_table.stride + j / p_.page_size];
      slot = j % p_.page_size;
    }
    const std::int64_t dim = view.shape[3];
    for (std::int64_t h = 0; h < p_.hkv; ++h) {
      const std::int64_t offset =
          page * view.stride[0] + slot * view.stride[1] + h * view.stride[2];
      for (std::int64_t c = 0; c < dim; ++c) {
        copy[((c_.first_kv_[r] + j) * p_.hkv + h) * dim + c] =
            draw(static_cast<std::byte*>(view.data) + bytes_of(offset + c, p_.kv), p_.kv);
      }
    }
  }

  void fill() {
    c_.q_.resize(static_cast<std::size_t>(c_.total_q() * p_.hq * p_.d));
    for (std::int64_t t = 0; t < c_.total_q(); ++t) {
      for (std::int64_t i = 0; i < p_.hq * p_.d; ++i) {
        c_.q_[t * p_.hq * p_.d + i] =
            draw(static_cast<std::byte*>(a_.q.data) + bytes_of(t * a_.q.stride[0] + i, p_.q), p_.q);
      }
    }
    c_.k_.resize(static_cast<std::size_t>(c_.first_kv_.back() * p_.hkv * p_.d));
    c_.v_.resize(static_cast<std::size_t>(c_.first_kv_.back() * p_.hkv * p_.dv));
    for (std::int64_t r = 0; r < p_.batch(); ++r) {
      for (std::int64_t j = 0; j < p_.kv_len[r]; ++j) {
        if (owner(r, j) != r) {
          copy_token(r, j);
          continue;
        }
        if (!is_seen_by_any(r, j)) continue;
        draw_token(a_.k, r, j, c_.k_);
        draw_token(a_.v, r, j, c_.v_);
      }
    }
  }

  void repeat_values() {
    constexpr std::size_t kDrawn = 1 << 16;
    const auto repeat = [&](GuardedBuffer& memory, DType dtype) {
      std::vector<std::byte> values(kDrawn * size_of(dtype));
      for (std::size_t i = 0; i < kDrawn; ++i) draw(&values[i * size_of(dtype)], dtype);
      for (std::size_t at = 0; at < memory.size(); at += values.size()) {
        std::memcpy(memory.data() + at, values.data(), std::min(values.size(), memory.size() - at));
      }
    };
    repeat(c_.q_memory_, p_.q);
    repeat(c_.k_memory_, p_.kv);
    repeat(c_.v_memory_, p_.kv);
  }

  Case& c_;
  const Problem& p_;
  Arguments& a_;
  Random random_;
  Values values_;
};

Case::Case(const Problem& problem, std::uint64_t seed, Workspace workspace, Values values)
    : problem_(problem) {
  Maker maker(*this, seed, values);
  maker.lengths();
  maker.mask_bits();
  maker.factors();
  maker.queries_and_keys();
  maker.outputs(workspace);
}

bool Case::sees(std::int64_t r, std::int64_t i, std::int64_t j) const {
  if (j < 0 || j >= problem_.kv_len[r]) return false;
  const std::int64_t pos = problem_.kv_len[r] - problem_.q_len[r] + i;
  const Mask& mask = problem_.mask;
  switch (mask.kind) {
    case MaskKind::none:
      return true;
    case MaskKind::causal:
      return j <= pos;
    case MaskKind::window:
      return (mask.left < 0 || j >= pos - mask.left) && (mask.right < 0 || j <= pos + mask.right);
    case MaskKind::chunked:
      return j <= pos && j >= floor_div(pos, mask.chunk) * mask.chunk;
    case MaskKind::bits: {
      const std::int64_t row = first_q_[r] + i;
      return (bits_[row * arguments_.mask_bits.row_bytes + j / 8] >> (j % 8)) & 1;
    }
  }
  return false;
}

std::optional<double> Case::sink(std::int64_t head) const {
  if (!problem_.sinks) return std::nullopt;
  return sinks_[head];
}

double Case::slope(std::int64_t head) const { return problem_.alibi ? slopes_[head] : 0; }

double Case::out(std::int64_t token, std::int64_t head, std::int64_t c) const {
  const std::int64_t index = (token * problem_.hq + head) * problem_.dv + c;
  return load(out_memory_.data() + bytes_of(index, problem_.out), problem_.out);
}

double Case::lse(std::int64_t token, std::int64_t head) const {
  const std::int64_t index = token * problem_.hq + head;
  return load(lse_memory_.data() + bytes_of(index, DType::f32), DType::f32);
}

std::vector<Case::Block> Case::blocks() {
  std::vector<Block> all;
  const auto add = [&](auto& values) {
    if (!values.empty()) all.push_back({std::as_writable_bytes(std::span(values)), false});
  };
  add(q_lens_);
  add(kv_lens_);
  add(page_table_);
  add(sinks_);
  add(slopes_);
  add(bits_);
  for (Factor* factor : {&q_scale_, &k_scale_, &v_scale_, &out_scale_}) add(factor->values);
  for (GuardedBuffer* memory : {&q_memory_, &k_memory_, &v_memory_}) {
    if (memory->size() > 0) all.push_back({memory->with_guards(), false});
  }
  for (GuardedBuffer* memory : {&out_memory_, &lse_memory_, &workspace_memory_}) {
    if (memory->size() > 0) all.push_back({memory->with_guards(), true});
  }
  return all;
}

std::string Case::touched() const {
  const std::int64_t rows = total_q() * problem_.hq;
  if (!out_memory_.untouched_beyond(bytes_of(rows * problem_.dv, problem_.out))) return "out";
  if (problem_.lse && !lse_memory_.untouched_beyond(bytes_of(rows, DType::f32))) return "lse";
  if (workspace_memory_.size() > 0 && !workspace_memory_.untouched_beyond(workspace_memory_.size()))
    return "workspace";
  return {};
}

}  // namespace octavo::verify
