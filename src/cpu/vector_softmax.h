// The softmax of TileMath on vectors. Internal linkage, as in vector.h.
//
// Weights are 2^(score - reference). The reference is a row's largest score when it was last set; a
// larger one takes its place only if it is larger by more than kSlack, because bringing the sum and
// the output of the keys so far to another reference costs more than all else.
#pragma once

#include <cstring>
#include <limits>

#include "cpu/tile_math.h"
#include "cpu/vector.h"

namespace octavo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kSlack = 8;  // in units of log2: weights stay below 2^kSlack

template <typename Words>
constexpr bool kPairs = Words::kPerWord == 2;

/// 2^x for x <= kSlack; exactly 1 at 0, and 0 where it is less than the normal numbers. Polynomials
/// of least relative error on [-1/2, 1/2]: 1e-7, and 3e-6 where the result is rounded to bf16.
template <bool kCoarse>
Vector exp2_bounded(Vector x) {
  // The sum's last bits are the nearest integer and 127, which is 2^n's exponent as a float has it.
  constexpr float kShift = 0x1.8p23f + 127;
  x = most(broadcast(-127.0f), x);  // NaN stays
  const Vector shifted = x + kShift;
  const Vector f = x - (shifted - kShift);
  const auto power = (Vector)((Bits)shifted << 23);
  Vector y;
  if constexpr (kCoarse) {
    y = fma(broadcast(9.58286e-3f), f, broadcast(5.590643e-2f));
    y = fma(y, f, broadcast(2.4024099e-1f));
    y = fma(y, f, broadcast(6.9312419e-1f));
  } else {
    y = fma(broadcast(1.32647e-3f), f, broadcast(9.67151e-3f));
    y = fma(y, f, broadcast(5.550734e-2f));
    y = fma(y, f, broadcast(2.4022242e-1f));
    y = fma(y, f, broadcast(6.9314698e-1f));
  }
  return fma(y, f, broadcast(1.0f)) * power;
}

inline Vector tanh(Vector x) {
  const Bits sign = (Bits)x & 0x80000000u;
  const Vector magnitude = (Vector)((Bits)x ^ sign);
  const Vector e = exp2_bounded<false>(magnitude * static_cast<float>(-2 * kLog2e));
  return (Vector)((Bits)((1.0f - e) / (1.0f + e)) | sign);
}

/// What is the same for all scores of some rows.
struct Scaling {
  Logit logit;
  bool plain;    // dot products are scaled no earlier than their exponentials are taken
  float factor;  // of what the exponentials are taken of
};

inline Scaling scaling_of(const Logit& logit) {
  const bool plain = logit.cap == 0 && !logit.alibi && logit.factor > 0;
  return {logit, plain, plain ? logit.factor * static_cast<float>(kLog2e) : 1};
}

inline Integers lanes_from(std::int64_t first) {
  Integers lanes;
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane;
  return lanes + static_cast<std::int32_t>(first);
}

/// A dot product of the first row as a logit in units of log2. `j` counts keys in the tile.
inline Vector to_logit(const Logit& logit, const SoftmaxRows& row, Vector dot, std::int64_t j) {
  Vector x = dot * logit.factor;
  if (logit.cap != 0) x = tanh(x / logit.cap) * logit.cap;
  if (logit.alibi) {
    const Integers away = lanes_from(row.tile - row.positions[0] + j);
    x = fma(broadcast(row.slopes[0]), __builtin_convertvector(away, Vector), x);
  }
  return x * static_cast<float>(kLog2e);
}

/// -inf in place of the keys that the first row does not see.
inline Vector hide(const SoftmaxRows& row, Vector x, std::int64_t j) {
  if (row.visible != nullptr) {
    return load_vector<Integers>(row.visible + j) != 0 ? x : broadcast(-kInfinity);
  }
  const Integers lanes = lanes_from(j);
  const Integers sees = (lanes >= row.spans[0].begin) & (lanes < row.spans[0].end);
  return sees != 0 ? x : broadcast(-kInfinity);
}

template <typename Words>
void store_weights(float* scores, std::int64_t j, Vector weights) {
  if constexpr (kPairs<Words>) {
    Words::store_rounded(reinterpret_cast<std::uint16_t*>(scores) + j, weights);
  } else {
    store(scores + j, weights);
  }
}
template <typename Words>
void store_two_weights(float* scores, std::int64_t j, Vector first, Vector second) {
  if constexpr (kPairs<Words>) {
    Words::store_two_rounded(reinterpret_cast<std::uint16_t*>(scores) + j, first, second);
  } else {
    store(scores + j, first);
    store(scores + j + kLanes, second);
  }
}

/// Scores [begin, end) become weights; returns their sums.
template <typename Words, typename Weigh>
[[gnu::always_inline]] inline Vector weigh(float* scores, std::int64_t begin, std::int64_t end,
                                           const Weigh& weigh_each) {
  Vector sums = {};
  std::int64_t j = begin;
#pragma GCC unroll 4
  for (; j + 2 * kLanes <= end; j += 2 * kLanes) {
    const Vector first = weigh_each(load(scores + j));
    const Vector second = weigh_each(load(scores + j + kLanes));
    sums += first;
    sums += second;
    store_two_weights<Words>(scores, j, first, second);
  }
  if (j < end) {
    const Vector last = weigh_each(load(scores + j));
    sums += last;
    store_weights<Words>(scores, j, last);
  }
  return sums;
}

/// The reference of a row that has now seen a score so large.
inline float reference(float before, float largest) {
  return largest > before + kSlack ? largest : before;
}

/// The first row's sum and output, and what is added to the sum, come to a reference.
inline void grow(const SoftmaxRows& row, float largest, float sum) {
  if (*row.largest == largest) {
    *row.sum += sum;
    return;
  }
  if (*row.largest == -kInfinity && *row.sum == 0) {  // the first keys
    *row.sum = sum;
    *row.largest = largest;
    return;
  }
  const Vector decay = exp2_bounded<false>(broadcast(*row.largest - largest));
  *row.sum = *row.sum * decay[0] + sum;
  *row.largest = largest;
  // The product may be -0; adding 0 makes it 0.
  for (std::int64_t c = 0; c < row.width; c += kLanes) {
    store(row.out + c, fma(load(row.out + c), decay, Vector{}));
  }
}

/// The first row's dot products [begin, end), of which each largest was found, become weights.
template <typename Words>
[[gnu::always_inline]] inline void weigh_row(const SoftmaxRows& row, Vector largest_each,
                                             float factor, std::int64_t begin, std::int64_t end) {
  const float largest = reference(*row.largest, largest_lane(largest_each) * factor);
  if (largest == -kInfinity) {  // only -inf and NaN so far
    *row.sum += sum_lanes(weigh<Words>(row.scores, begin, end,
                                       [](Vector x) { return x == -kInfinity ? Vector{} : x; }));
    return;
  }
  const Vector less = broadcast(-largest);
  const Vector sums = weigh<Words>(row.scores, begin, end, [&](Vector x) {
    return exp2_bounded<kPairs<Words>>(fma(x, broadcast(factor), less));
  });
  grow(row, largest, sum_lanes(sums));
}

/// The vectors that hold the first row's visible keys: columns [begin, end).
struct Seen {
  std::int64_t begin, end;
  explicit Seen(const SoftmaxRows& row)
      : begin(row.spans->begin / kLanes * kLanes),
        end((row.spans->end + kLanes - 1) / kLanes * kLanes) {}
};

/// The first row's weights outside of the columns are 0, as far as `multiply` takes them.
template <typename Words, std::int64_t kDepthStep>
void clear_unseen(const SoftmaxRows& row, const Seen& seen) {
  constexpr std::int64_t kKeys = kDepthStep * Words::kPerWord;
  const std::int64_t whole = (row.columns + kKeys - 1) / kKeys * kKeys;
  for (std::int64_t j = 0; j < seen.begin; j += kLanes) {
    store_weights<Words>(row.scores, j, Vector{});
  }
  for (std::int64_t j = seen.end; j < whole; j += kLanes) {
    store_weights<Words>(row.scores, j, Vector{});
  }
}

/// The largest scores of the first row, which sees the whole tile.
template <std::int64_t kTile>
Vector largest_of_tile(const SoftmaxRows& row) {
  Vector largest = broadcast(-kInfinity);
#pragma GCC unroll 8
  for (std::int64_t j = 0; j < kTile; j += kLanes) {
    largest = most(load(row.scores + j), largest);  // never NaN
  }
  return largest;
}

/// The first of the rows.
template <typename Words, std::int64_t kTile, std::int64_t kDepthStep>
void soften_row(const Scaling& scaling, const SoftmaxRows& row) {
  const bool all = row.sees_all(0);
  if (scaling.plain && all && row.columns == kTile) {
    return weigh_row<Words>(row, largest_of_tile<kTile>(row), scaling.factor, 0, kTile);
  }
  const Seen seen(row);
  Vector largest_each = broadcast(-kInfinity);
  for (std::int64_t j = seen.begin; j < seen.end; j += kLanes) {
    Vector x = load(row.scores + j);
    if (!scaling.plain) x = to_logit(scaling.logit, row, x, j);
    if (!all) x = hide(row, x, j);
    store(row.scores + j, x);
    largest_each = most(x, largest_each);  // never NaN
  }
  weigh_row<Words>(row, largest_each, scaling.factor, seen.begin, seen.end);
  clear_unseen<Words, kDepthStep>(row, seen);
}

/// The largest scores that the first row sees. Hidden ones in the same vectors become -inf.
inline Vector largest_of_seen(const SoftmaxRows& row) {
  const Seen seen(row);
  Vector largest = broadcast(-kInfinity);
  for (std::int64_t j = seen.begin; j < seen.end; j += kLanes) {
    Vector x = load(row.scores + j);
    if (j < row.spans->begin || j + kLanes > row.spans->end) {
      x = hide(row, x, j);
      store(row.scores + j, x);
    }
    largest = most(x, largest);  // never NaN
  }
  return largest;
}

/// Softens rows in steps that other work can come between. Four rows are taken together where dot
/// products are scaled no earlier, with the bits that each has alone. `kDepthStep`: the words of
/// weights that `multiply` takes at once.
template <typename Words, std::int64_t kTile, std::int64_t kDepthStep>
class Softener {
 public:
  Softener(const Logit& logit, const SoftmaxRows& rows)
      : rows_(rows), scaling_(scaling_of(logit)) {}

  bool done() const { return row_ == rows_.rows; }

  /// One row.
  void step() {
    if (row_ == four_end_ && !begin_four()) {
      soften_row<Words, kTile, kDepthStep>(scaling_, rows_.from(row_++, 1));
      four_end_ = row_;
      return;
    }
    weigh_of_four(static_cast<int>(row_ - (four_end_ - 4)));
    if (++row_ == four_end_) end_four();
  }

 private:
  float* scores(std::int64_t row) const { return rows_.scores + row * rows_.pitch; }

  [[gnu::always_inline]] void weigh_of_four(int i) {
    const Vector less = broadcast(-largest_[i]);
    const auto exponential = [&](Vector x) __attribute__((always_inline)) {
      return exp2_bounded<kPairs<Words>>(fma(x, broadcast(scaling_.factor), less));
    };
    if (whole_) {
      sums_[i] = weigh<Words>(scores(row_), 0, kTile, exponential);
      return;
    }
    const SoftmaxRows row = rows_.from(row_, 1);
    const Seen seen(row);
    sums_[i] = weigh<Words>(row.scores, seen.begin, seen.end, exponential);
    clear_unseen<Words, kDepthStep>(row, seen);
  }

  /// Whether the next four rows are taken together.
  bool begin_four() {
    if (!scaling_.plain || rows_.visible != nullptr || rows_.rows - row_ < 4) return false;
    whole_ = rows_.columns == kTile;
    for (std::int64_t r = row_; r < row_ + 4; ++r) whole_ = whole_ && rows_.sees_all(r);
    Vector largest_each[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const SoftmaxRows row = rows_.from(row_ + i, 1);
      largest_each[i] = whole_ ? largest_of_tile<kTile>(row) : largest_of_seen(row);
    }
    const Four largest = largest_of_four(largest_each) * scaling_.factor;
    before_ = load_vector<Four>(rows_.largest + row_);
    largest_ = largest > before_ + kSlack ? largest : before_;
    for (int i = 0; i < 4; ++i) {
      if (largest_[i] == -kInfinity) return false;
    }
    four_end_ = row_ + 4;
    return true;
  }

  void end_four() {
    const Four sums = sums_of_four(sums_);
    const std::int64_t first = row_ - 4;
    bool grown = false;
    for (int i = 0; i < 4; ++i) grown = grown || largest_[i] != before_[i];
    if (!grown) {
      const Four total = load_vector<Four>(rows_.sum + first) + sums;
      std::memcpy(rows_.sum + first, &total, sizeof total);
      return;
    }
    for (int i = 0; i < 4; ++i) grow(rows_.from(first + i, 1), largest_[i], sums[i]);
  }

  Vector sums_[4];         // of the rows taken together
  Four largest_, before_;  // their new references, and those before
  bool whole_ = false;     // they see the whole tile
  std::int64_t row_ = 0;
  std::int64_t four_end_ = 0;
  const SoftmaxRows& rows_;
  const Scaling scaling_;
};

template <typename Words, std::int64_t kTile, std::int64_t kDepthStep>
void soften(const Logit& logit, const SoftmaxRows& rows) {
  Softener<Words, kTile, kDepthStep> softener(logit, rows);
  while (!softener.done()) softener.step();
}

}  // namespace
}  // namespace octavo
