// Online softmax over tiles of keys in fp32, for any architecture.
//
// A task is (request, KV head, block of rows); its rows are the request's query tokens times the
// heads of the GQA group, packed. For each KV split, a fixed number of tokens from an absolute
// position, for each tile of keys in it:
//
//   S [rows, kTile] = Q [rows, d] . K^T [d, kTile]     K converted and transposed into scratch
//   P = exp2(S - max)                                  masked keys are exactly 0
//   O [rows, dv] += P [rows, kTile] . V [kTile, dv]    V converted into scratch
//
// and the splits' (max, sum, O) merge in order. Each row's arithmetic runs in an order that only
// the keys' positions decide, and a tile in which a row sees nothing leaves it unchanged: the bits
// depend neither on the batch nor on the threads nor on how a prompt is cut into chunks.
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/convert.h"
#include "cpu/kernels.h"

namespace octavo {
namespace {

constexpr std::int64_t kTile = 64;   // keys
constexpr std::int64_t kRows = 128;  // rows of a block: a multiple of kStep
constexpr std::int64_t kStep =
    4;  // rows of the micro-kernel: its sums and operands fit 16 registers
constexpr std::int64_t kLanes = 4;  // floats of a vector
constexpr std::int64_t kWide = 2 * kLanes;
constexpr std::int64_t kSplit = 4096;  // tokens
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();
constexpr double kLog2e = 1.4426950408889634;
constexpr double kMultiplyAddsPerUs = 8000;  // one thread, SSE2, measured to within a factor of 2

using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));

Vector load(const float* source) {
  Vector vector;
  std::memcpy(&vector, source, sizeof vector);
  return vector;
}
void store(float* target, Vector vector) { std::memcpy(target, &vector, sizeof vector); }

/// C [Rows, kWide] += A [Rows, depth] . B [depth, kWide]; the sum over depth runs in order.
/// Inlined, it would spill its sums: 42 instead of 50 GFLOP/s on two Zen 4 cores.
template <int Rows>
[[gnu::noinline]] void multiply(const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
                                float* c, std::int64_t ldc, std::int64_t depth) {
  Vector sums[Rows][2];
  for (int r = 0; r < Rows; ++r) {
    sums[r][0] = load(c + r * ldc);
    sums[r][1] = load(c + r * ldc + kLanes);
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    const Vector left = load(b + k * ldb);
    const Vector right = load(b + k * ldb + kLanes);
    for (int r = 0; r < Rows; ++r) {
      const float factor = a[r * lda + k];
      const Vector broadcast = {factor, factor, factor, factor};
      sums[r][0] += broadcast * left;
      sums[r][1] += broadcast * right;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    store(c + r * ldc, sums[r][0]);
    store(c + r * ldc + kLanes, sums[r][1]);
  }
}

/// C [rows, columns] += A [rows, depth] . B [depth, columns]; columns is a multiple of kWide.
void multiply(std::int64_t rows, std::int64_t columns, std::int64_t depth, const float* a,
              std::int64_t lda, const float* b, std::int64_t ldb, float* c, std::int64_t ldc) {
  for (std::int64_t n = 0; n < columns; n += kWide) {
    std::int64_t r = 0;
    for (; r + kStep <= rows; r += kStep) {
      multiply<kStep>(a + r * lda, lda, b + n, ldb, c + r * ldc + n, ldc, depth);
    }
    for (; r + 2 <= rows; r += 2) {
      multiply<2>(a + r * lda, lda, b + n, ldb, c + r * ldc + n, ldc, depth);
    }
    if (r < rows) multiply<1>(a + r * lda, lda, b + n, ldb, c + r * ldc + n, ldc, depth);
  }
}

/// 2^x for x <= 0, relative error about 2e-7; exactly 1 at 0, and 0 below the smallest normal.
float exp2_negative(float x) {
  const float clamped = x < -126.0f ? -126.0f : x;
  const float shifted = clamped + 0x1.8p23f;  // rounds to an integer in the low mantissa bits
  const float f = clamped - (shifted - 0x1.8p23f);
  float y = 1.5403530e-4f;  // Taylor coefficients ln(2)^n / n! on [-1/2, 1/2]
  y = y * f + 1.3333558e-3f;
  y = y * f + 9.6181291e-3f;
  y = y * f + 5.5504109e-2f;
  y = y * f + 2.4022651e-1f;
  y = y * f + 6.9314718e-1f;
  y = y * f + 1.0f;
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(shifted) << 23;
  const float value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(y) + exponent);
  return x < -126.0f ? 0.0f : value;
}

std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

/// Scratch of one thread, kept between tasks.
struct Scratch {
  std::vector<float> q, k, v, scores, split_out, out, row;

  void fit(const Problem& p) {
    const std::int64_t d = p.d;
    const std::int64_t dv = round_up(p.dv, kWide);
    resize(q, kRows * d);
    resize(k, d * kTile);
    resize(v, kTile * dv);
    resize(scores, kRows * kTile);
    resize(split_out, kRows * dv);
    resize(out, kRows * dv);
    resize(row, std::max(d, dv));
  }

 private:
  static void resize(std::vector<float>& buffer, std::int64_t size) {
    if (static_cast<std::int64_t>(buffer.size()) < size) {
      buffer.resize(static_cast<std::size_t>(size));
    }
  }
};

struct Task {
  const Request* request;
  std::int64_t kv_head;
  std::int64_t row_begin;  // packed: token * group + head within the group
  std::int64_t rows;
  double cost;
};

/// Running softmax of a block: the largest score in units of log2, the sum, and O beside it.
struct State {
  float largest[kRows];
  float sum[kRows];
  float* out;

  void clear(std::int64_t rows, std::int64_t width) {
    std::fill_n(largest, rows, kNegativeInfinity);
    std::fill_n(sum, rows, 0.0f);
    std::fill_n(out, rows * width, 0.0f);
  }
};

class Block {
 public:
  Block(const Call& call, const Task& task, Scratch& scratch)
      : call_(call),
        p_(call.problem),
        task_(task),
        request_(*task.request),
        scratch_(scratch),
        width_(round_up(p_.dv, kWide)),
        factor_(p_.softmax_scale() * scale_of(call.arguments.q_scale, p_.q_scale, task.kv_head) *
                scale_of(call.arguments.k_scale, p_.k_scale, task.kv_head)) {
    for (std::int64_t r = 0; r < task_.rows; ++r) {
      ranges_[r] = visible_keys(p_.mask, request_.position(token(r)), request_.kv_len);
      if (ranges_[r].begin >= ranges_[r].end) ranges_[r] = {0, 0};
    }
  }

  void run() {
    load_queries();
    total_.out = scratch_.out.data();
    part_.out = scratch_.split_out.data();
    total_.clear(task_.rows, width_);
    const std::int64_t split = p_.split != 0 ? p_.split : kSplit;
    std::int64_t begin = request_.kv_len;
    std::int64_t end = 0;
    for (std::int64_t r = 0; r < task_.rows; ++r) {
      if (ranges_[r].end == 0) continue;
      begin = std::min(begin, ranges_[r].begin);
      end = std::max(end, ranges_[r].end);
    }
    for (std::int64_t start = begin / split * split; start < end; start += split) {
      part_.clear(task_.rows, width_);
      const std::int64_t stop = std::min(end, start + split);
      const std::int64_t skipped = std::max<std::int64_t>(0, begin - start) / kTile * kTile;
      for (std::int64_t tile = start + skipped; tile < stop; tile += kTile) {
        attend_tile(tile, std::min(kTile, std::min(start + split, request_.kv_len) - tile));
      }
      merge();
    }
    write();
  }

 private:
  std::int64_t token(std::int64_t row) const { return (task_.row_begin + row) / p_.group(); }
  std::int64_t head(std::int64_t row) const {
    return task_.kv_head * p_.group() + (task_.row_begin + row) % p_.group();
  }

  void load_queries() {
    const TensorView<3>& view = call_.arguments.q;
    for (std::int64_t r = 0; r < task_.rows; ++r) {
      const std::int64_t offset =
          (request_.q_begin + token(r)) * view.stride[0] + head(r) * view.stride[1];
      load_floats(p_.q,
                  static_cast<const std::byte*>(view.data) +
                      offset * static_cast<std::int64_t>(size_of(p_.q)),
                  scratch_.q.data() + r * p_.d, p_.d);
    }
  }

  bool sees(std::int64_t row, std::int64_t key) const {
    return key >= ranges_[row].begin && key < ranges_[row].end &&
           (p_.mask.kind != MaskKind::bits ||
            mask_bit(call_.arguments.mask_bits, request_.q_begin + token(row), key));
  }

  /// Fills visible_ and says whether some row sees only part of the tile; nothing if none sees any.
  enum class Sight { nothing, part, all };
  Sight look(std::int64_t tile, std::int64_t keys) {
    bool any = false;
    bool all = keys == kTile && p_.mask.kind != MaskKind::bits;
    std::fill_n(column_seen_, kTile, false);
    for (std::int64_t r = 0; r < task_.rows; ++r) {
      const KeyRange& range = ranges_[r];
      any = any || (range.begin < tile + keys && range.end > tile);
      all = all && range.begin <= tile && range.end >= tile + keys;
    }
    if (!any) return Sight::nothing;
    if (all) {
      std::fill_n(column_seen_, kTile, true);
      return Sight::all;
    }
    any = false;
    for (std::int64_t r = 0; r < task_.rows; ++r) {
      for (std::int64_t j = 0; j < kTile; ++j) {
        const bool seen = j < keys && sees(r, tile + j);
        visible_[r][j] = seen;
        column_seen_[j] = column_seen_[j] || seen;
        any = any || seen;
      }
    }
    return any ? Sight::part : Sight::nothing;
  }

  /// Keys and values that no row sees are never read: they are zero in scratch.
  void load_tile(std::int64_t tile) {
    float* row = scratch_.row.data();
    finite_ = true;
    for (std::int64_t j = 0; j < kTile; ++j) {
      float* v = scratch_.v.data() + j * width_;
      if (!column_seen_[j]) {
        for (std::int64_t i = 0; i < p_.d; ++i) scratch_.k[i * kTile + j] = 0;
        std::fill_n(v, width_, 0.0f);
        continue;
      }
      load_floats(p_.kv, call_.kv_row(call_.arguments.k, request_, tile + j, task_.kv_head), row,
                  p_.d);
      for (std::int64_t i = 0; i < p_.d; ++i) scratch_.k[i * kTile + j] = row[i];
      load_floats(p_.kv, call_.kv_row(call_.arguments.v, request_, tile + j, task_.kv_head), v,
                  p_.dv);
      std::fill_n(v + p_.dv, width_ - p_.dv, 0.0f);
      float nan_if_not_finite = 0;
      for (std::int64_t c = 0; c < p_.dv; ++c) nan_if_not_finite += v[c] * 0.0f;
      finite_ = finite_ && nan_if_not_finite == 0;
    }
  }

  /// Scores of a row become logits in units of log2.
  void scale_row(std::int64_t r, std::int64_t tile, float* scores) const {
    if (!p_.cap && !p_.alibi) {
      const float factor = static_cast<float>(factor_ * kLog2e);
      for (std::int64_t j = 0; j < kTile; ++j) scores[j] *= factor;
      return;
    }
    const float factor = static_cast<float>(factor_);
    for (std::int64_t j = 0; j < kTile; ++j) scores[j] *= factor;
    if (p_.cap) {
      const float cap = static_cast<float>(*p_.cap);
      for (std::int64_t j = 0; j < kTile; ++j) scores[j] = cap * std::tanh(scores[j] / cap);
    }
    if (p_.alibi) {
      const float slope = call_.arguments.alibi_slopes[static_cast<std::size_t>(head(r))];
      const std::int64_t first = tile - request_.position(token(r));
      for (std::int64_t j = 0; j < kTile; ++j) scores[j] += slope * static_cast<float>(first + j);
    }
    for (std::int64_t j = 0; j < kTile; ++j) scores[j] *= static_cast<float>(kLog2e);
  }

  /// Scores become weights; the row's sum and O are brought to the new largest score.
  void soften_row(std::int64_t r, float* scores, bool masked) {
    if (masked) {
      for (std::int64_t j = 0; j < kTile; ++j) {
        scores[j] = visible_[r][j] ? scores[j] : kNegativeInfinity;
      }
    }
    float largest = part_.largest[r];
    for (std::int64_t j = 0; j < kTile; ++j) largest = scores[j] > largest ? scores[j] : largest;
    if (largest == kNegativeInfinity) {  // sees nothing yet, or only -inf and NaN
      for (std::int64_t j = 0; j < kTile; ++j) {
        const bool hidden = masked && !visible_[r][j];
        scores[j] = hidden || scores[j] == kNegativeInfinity ? 0.0f : scores[j];
        part_.sum[r] += scores[j];
      }
      return;
    }
    const float decay =
        part_.largest[r] == kNegativeInfinity ? 0.0f : exp2_negative(part_.largest[r] - largest);
    float sums[kLanes] = {};
    for (std::int64_t j = 0; j < kTile; j += kLanes) {
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        scores[j + lane] = exp2_negative(scores[j + lane] - largest);
        sums[lane] += scores[j + lane];
      }
    }
    part_.sum[r] = part_.sum[r] * decay + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
    part_.largest[r] = largest;
    if (decay != 1.0f) {
      for (std::int64_t c = 0; c < width_; ++c) part_.out[r * width_ + c] *= decay;
    }
  }

  void attend_tile(std::int64_t tile, std::int64_t keys) {
    const Sight sight = look(tile, keys);
    if (sight == Sight::nothing) return;
    load_tile(tile);
    float* scores = scratch_.scores.data();
    std::fill_n(scores, task_.rows * kTile, 0.0f);
    multiply(task_.rows, kTile, p_.d, scratch_.q.data(), p_.d, scratch_.k.data(), kTile, scores,
             kTile);
    for (std::int64_t r = 0; r < task_.rows; ++r) {
      scale_row(r, tile, scores + r * kTile);
      soften_row(r, scores + r * kTile, sight == Sight::part);
    }
    if (sight == Sight::all || finite_) {
      multiply(task_.rows, width_, kTile, scores, kTile, scratch_.v.data(), width_, part_.out,
               width_);
    } else {
      add_visible_values(scores);
    }
  }

  /// O += P . V over each row's visible keys alone: a hidden value may be infinite or NaN, and then
  /// 0 times it is not 0.
  void add_visible_values(const float* scores) {
    for (std::int64_t r = 0; r < task_.rows; ++r) {
      for (std::int64_t j = 0; j < kTile; ++j) {
        if (!visible_[r][j]) continue;
        const float weight = scores[r * kTile + j];
        const float* v = scratch_.v.data() + j * width_;
        for (std::int64_t c = 0; c < width_; ++c) part_.out[r * width_ + c] += weight * v[c];
      }
    }
  }

  /// Adds the split to what the splits before it gave.
  void merge() {
    for (std::int64_t r = 0; r < task_.rows; ++r) {
      if (part_.largest[r] == kNegativeInfinity && part_.sum[r] == 0) continue;
      const float largest = std::max(total_.largest[r], part_.largest[r]);
      const float before = factor_to(total_.largest[r], largest);
      const float after = factor_to(part_.largest[r], largest);
      total_.sum[r] = total_.sum[r] * before + part_.sum[r] * after;
      total_.largest[r] = largest;
      float* total = total_.out + r * width_;
      const float* part = part_.out + r * width_;
      for (std::int64_t c = 0; c < width_; ++c) total[c] = total[c] * before + part[c] * after;
    }
  }

  static float factor_to(float from, float to) {
    return from == to ? 1.0f : exp2_negative(from - to);
  }

  void write() {
    const Arguments& a = call_.arguments;
    const float scale = scale_of(a.v_scale, p_.v_scale, task_.kv_head) *
                        scale_of(a.out_scale, p_.out_scale, task_.kv_head);
    for (std::int64_t r = 0; r < task_.rows; ++r) {
      const std::int64_t row = request_.q_begin + token(r);
      const bool empty = total_.largest[r] == kNegativeInfinity && total_.sum[r] == 0;
      // The sink joins in double: it may be far from the scores on either side.
      double largest = total_.largest[r] / kLog2e;
      double sum = total_.sum[r];
      if (p_.sinks) {
        const double sink = a.sinks[static_cast<std::size_t>(head(r))];
        const double together = std::max(largest, sink);
        sum = (empty ? 0 : sum * std::exp(largest - together)) + std::exp(sink - together);
        const double keep = empty ? 0 : std::exp(largest - together) / sum;
        finish(r, row, static_cast<float>(keep) * scale, empty);
        largest = together;
      } else {
        finish(r, row, static_cast<float>(1 / sum) * scale, empty);
      }
      if (p_.lse) {
        static_cast<float*>(a.lse.data)[row * a.lse.stride[0] + head(r) * a.lse.stride[1]] =
            static_cast<float>(empty && !p_.sinks ? kNegativeInfinity : largest + std::log(sum));
      }
    }
  }

  void finish(std::int64_t r, std::int64_t row, float factor, bool empty) {
    const TensorView<3>& view = call_.arguments.out;
    float* out = total_.out + r * width_;
    for (std::int64_t c = 0; c < p_.dv; ++c) out[c] = empty ? 0.0f : out[c] * factor;
    store_floats(
        p_.out,
        static_cast<std::byte*>(view.data) + (row * view.stride[0] + head(r) * view.stride[1]) *
                                                 static_cast<std::int64_t>(size_of(p_.out)),
        out, p_.dv);
  }

  const Call& call_;
  const Problem& p_;
  const Task& task_;
  const Request& request_;
  Scratch& scratch_;
  const std::int64_t width_;  // of a row of V and O in scratch
  const double factor_;       // softmax scale with q's and k's
  KeyRange ranges_[kRows];
  bool visible_[kRows][kTile];
  bool column_seen_[kTile];
  bool finite_ = true;
  State total_;
  State part_;
};

Support supports(const Problem& p, const Device&) {
  Support s;
  s.require(p.d >= 8 && p.d <= 576, "d must be from 8 to 576, is ", p.d);
  s.require(p.dv >= 8 && p.dv <= 576, "dv must be from 8 to 576, is ", p.dv);
  return s;
}

double cost_us(const Problem& problem, const Device& device) {
  return multiply_adds(problem) / (kMultiplyAddsPerUs * device.threads);
}

void launch(const Call& call, Executor& executor) {
  const Problem& p = call.problem;
  std::vector<Task> tasks;
  for (const Request& request : call.requests) {
    const std::int64_t rows = request.q_len * p.group();
    for (std::int64_t begin = 0; begin < rows; begin += kRows) {
      const std::int64_t count = std::min(kRows, rows - begin);
      const KeyRange last =
          visible_keys(p.mask, request.position((begin + count - 1) / p.group()), request.kv_len);
      const double cost = static_cast<double>(count) *
                          static_cast<double>(std::max<std::int64_t>(1, last.end - last.begin));
      for (std::int64_t head = 0; head < p.hkv; ++head) {
        tasks.push_back({&request, head, begin, count, cost});
      }
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const Task& x, const Task& y) { return x.cost > y.cost; });
  executor.parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i) {
    static thread_local Scratch scratch;
    scratch.fit(p);
    Block(call, tasks[static_cast<std::size_t>(i)], scratch).run();
  });
}

}  // namespace

KernelInfo cpu_portable() {
  return {"cpu_portable", supports, cost_us, [](const Problem&) { return std::size_t{0}; }, launch};
}

}  // namespace octavo
