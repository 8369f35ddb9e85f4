// TileMath on the vectors of vector.h. Internal linkage, as there.
//
// Products are fused, so the bits differ from the portable kernel's. They still depend only on the
// order of keys and dims: the sums of a row never see how many rows or columns a tile has.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "cpu/convert.h"
#include "cpu/tile_math.h"
#include "cpu/vector.h"
#include "cpu/vector_in_place.h"

namespace octavo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename Words>
constexpr bool kPairs = Words::kPerWord == 2;

template <typename Words>
void load_query(DType dtype, const std::byte* row, std::int64_t d, float* target) {
  with_dtype(dtype, [&]<DType T> {
    for (std::int64_t w = 0; w < padded(words(d, Words::kPerWord)); w += kLanes) {
      store(target + w, Words::template load<T>(row, w, d));
    }
  });
}

// K and V are packed in panels of kPanel columns, each [rows, kPanel]: a block of sums reads one
// panel from end to end. Rows as wide as all columns would lie in few sets of the nearest cache.
constexpr std::int64_t kPanel = kMostVectors * kLanes;

/// Where a column begins, in panels of so many rows.
constexpr std::int64_t panel(std::int64_t column, std::int64_t rows) {
  return column / kPanel * kPanel * rows + column % kPanel;
}

template <typename Words, std::int64_t kTile>
void load_keys(DType dtype, const std::byte* const* keys, std::int64_t count, std::int64_t d,
               float*, float* target) {
  const std::int64_t depth = words(d, Words::kPerWord);
  const std::int64_t bytes = d * static_cast<std::int64_t>(size_of(dtype));
  with_dtype(dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < padded(count); j += kLanes) {
      for (std::int64_t i = j; i < std::min(j + kLanes, count); ++i) fetch(keys[i + kAhead], bytes);
      for (std::int64_t w = 0; w < depth; w += kLanes) {
        Vector rows[kLanes] = {};
        for (int i = 0; i < kLanes; ++i) {
          if (j + i < count && keys[j + i] != nullptr) {
            rows[i] = Words::template load<T>(keys[j + i], w, d);
          }
        }
        Vector columns[kLanes];
        transpose(rows, columns);
        float* block = target + panel(j, padded(depth)) + w * kPanel;
        for (int i = 0; i < kLanes; ++i) store(block + i * kPanel, columns[i]);
      }
    }
  });
}

/// `kDepthStep`: what follows is zeros, up to a multiple of so many words.
template <typename Words, std::int64_t kTile, std::int64_t kDepthStep>
void load_values(DType dtype, const std::byte* const* values, std::int64_t count, std::int64_t dv,
                 float* target) {
  constexpr std::int64_t kStep = Words::kPerWord;
  constexpr std::int64_t kRows = kTile / kStep;
  const std::int64_t bytes = dv * static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t end = (count + kStep * kDepthStep - 1) / (kStep * kDepthStep) * kDepthStep;
  with_dtype(dtype, [&]<DType T> {
    const auto load_or_zero = [&](std::int64_t j, std::int64_t index) {
      const bool has = j < count && values[j] != nullptr;
      return has ? load_as_floats<T>(values[j], index, dv) : Vector{};
    };
    for (std::int64_t row = 0; row < end; ++row) {
      const std::int64_t j = row * kStep;
      for (std::int64_t i = j; i < std::min(j + kStep, count); ++i) {
        fetch(values[i + kAhead], bytes);
      }
      for (std::int64_t c = 0; c < padded(dv); c += kLanes) {
        Vector words = load_or_zero(j, c);
        if constexpr (kPairs<Words>) {  // exact: the upper halves are bf16
          words = (Vector)((Bits)words >> 16 | ((Bits)load_or_zero(j + 1, c) & 0xffff0000u));
        }
        store(target + panel(c, kRows) + row * kPanel, words);
      }
    }
  });
}

template <typename Words, std::int64_t kTile>
bool all_finite(const float* values, std::int64_t keys, std::int64_t width) {
  constexpr std::int64_t kRows = kTile / Words::kPerWord;
  Vector sum = {};  // of zeros, unless some value is not finite
  Vector lower = {};
  for (std::int64_t c = 0; c < width; c += kLanes) {
    for (std::int64_t row = 0; row * Words::kPerWord < keys; ++row) {
      const Vector x = load(values + panel(c, kRows) + row * kPanel);
      sum = fma(x, Vector{}, sum);  // the upper of a pair: the lower only adds to the significand
      if constexpr (kPairs<Words>) lower = fma((Vector)((Bits)x << 16), Vector{}, lower);
    }
  }
  return sum_lanes(sum + lower) == 0;
}

template <typename Words, int Rows, int Vectors>
[[gnu::noinline]] void multiply_block(const Product& p, std::int64_t row, std::int64_t column,
                                      std::int64_t begin, std::int64_t end) {
  const float* a = p.a + row * p.lda;
  const float* b = p.b + panel(column, p.b_rows) + begin * kPanel;
  float* c = p.c + row * p.ldc + column;
  const std::int64_t lda = p.lda;
  const std::int64_t ldc = p.ldc;
  Vector sums[Rows][Vectors] = {};
  if (p.accumulate) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sums[r][v] = load(c + r * ldc + v * kLanes);
    }
  }
  for (std::int64_t k = begin; k < end; ++k, b += kPanel) {
    Vector right[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) right[v] = load(b + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Vector left = broadcast(a[r * lda + k]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        sums[r][v] = Words::multiply_add(sums[r][v], left, right[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(c + r * ldc + v * kLanes, sums[r][v]);
  }
}

/// As many rows as `rows` says, up to Rows.
template <typename Words, int Rows, int Vectors>
void multiply_rows(const Product& p, std::int64_t row, std::int64_t rows, std::int64_t column) {
  if constexpr (Rows > 0) {
    if (rows != Rows) return multiply_rows<Words, Rows - 1, Vectors>(p, row, rows, column);
    if (!p.wants(row, rows, column, Vectors * kLanes)) return;
    const auto [begin, end] = p.words(row, rows, Words::kPerWord);
    multiply_block<Words, Rows, Vectors>(p, row, column, begin, end);
  }
}

/// From a column on, in blocks of so many vectors and then of fewer. All rows of a few columns
/// together, so that these columns of B stay in the nearest cache; the last rows in blocks of about
/// the same height, as low ones are slow.
template <typename Words, int Vectors>
void multiply_columns(const Product& p, std::int64_t column) {
  constexpr std::int64_t kRows = kBlockRows;
  for (; column + Vectors * kLanes <= p.columns; column += Vectors * kLanes) {
    std::int64_t rows;
    for (std::int64_t row = 0; row < p.rows; row += rows) {
      const std::int64_t rest = p.rows - row;
      rows = rest <= kRows ? rest : rest < 2 * kRows ? (rest + 1) / 2 : kRows;
      multiply_rows<Words, kRows, Vectors>(p, row, rows, column);
    }
  }
  if constexpr (Vectors * kLanes > kStripe) multiply_columns<Words, Vectors / 2>(p, column);
}

template <typename Words>
void multiply(const Product& p) {
  multiply_columns<Words, kMostVectors>(p, 0);
}

/// 2^x for x <= 0 but for rounding; exactly 1 at 0. Polynomials of least relative error on [-1/2,
/// 1/2]: 1e-7, and 3e-6 where the result is rounded to bf16.
template <bool kCoarse>
Vector exp2_negative(Vector x) {
  x = most(broadcast(-200.0f), x);  // NaN stays
  const Vector n = round(x);
  const Vector f = x - n;
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
  return scale(fma(y, f, broadcast(1.0f)), n);
}

inline Vector tanh(Vector x) {
  const Bits sign = (Bits)x & 0x80000000u;
  const Vector magnitude = (Vector)((Bits)x ^ sign);
  const Vector e = exp2_negative<false>(magnitude * static_cast<float>(-2 * kLog2e));
  return (Vector)((Bits)((1.0f - e) / (1.0f + e)) | sign);
}

/// A dot product as a logit in units of log2. `j` counts keys in the tile.
inline Vector to_logit(const Logit& logit, const SoftmaxRow& row, Vector dot, std::int64_t j) {
  Vector x = dot * logit.factor;
  if (logit.cap != 0) x = tanh(x / logit.cap) * logit.cap;
  if (logit.alibi) {
    Integers away;
    for (int lane = 0; lane < kLanes; ++lane) away[lane] = lane;
    away += static_cast<std::int32_t>(row.distance + j);
    x = fma(broadcast(row.slope), __builtin_convertvector(away, Vector), x);
  }
  return x * static_cast<float>(kLog2e);
}

template <typename Words>
void store_weights(float* scores, std::int64_t j, Vector weights) {
  if constexpr (kPairs<Words>) {
    Words::store_rounded(reinterpret_cast<std::uint16_t*>(scores) + j, weights);
  } else {
    store(scores + j, weights);
  }
}

/// Scores [begin, end) become weights; returns their sum.
template <typename Words, typename Weigh>
[[gnu::always_inline]] inline float weigh(float* scores, std::int64_t begin, std::int64_t end,
                                          const Weigh& weigh_each) {
  Vector sums = {};
#pragma GCC unroll 8
  for (std::int64_t j = begin; j < end; j += kLanes) {
    const Vector weights = weigh_each(load(scores + j));
    sums += weights;
    store_weights<Words>(scores, j, weights);
  }
  return sum_lanes(sums);
}

/// The sum and the output so far, and what is added to the sum, come to a larger score.
inline void grow(const SoftmaxRow& row, float largest, float sum) {
  if (*row.largest == largest) {
    *row.sum += sum;
    return;
  }
  if (*row.largest == -kInfinity && *row.sum == 0) {  // the first keys
    *row.sum = sum;
    *row.largest = largest;
    return;
  }
  const Vector decay = exp2_negative<false>(broadcast(*row.largest - largest));
  *row.sum = *row.sum * decay[0] + sum;
  *row.largest = largest;
  // The product may be -0; adding 0 makes it 0.
  for (std::int64_t c = 0; c < row.width; c += kLanes) {
    store(row.out + c, fma(load(row.out + c), decay, Vector{}));
  }
}

/// Dot products [begin, end), of which each largest was found, become weights.
template <typename Words>
[[gnu::always_inline]] inline void weigh_row(const SoftmaxRow& row, Vector largest_each,
                                             float factor, std::int64_t begin, std::int64_t end) {
  const float largest = std::max(largest_lane(largest_each) * factor, *row.largest);
  if (largest == -kInfinity) {  // only -inf and NaN so far
    *row.sum += weigh<Words>(row.scores, begin, end,
                             [](Vector x) { return x == -kInfinity ? Vector{} : x; });
    return;
  }
  const Vector less = broadcast(-largest);
  const float sum = weigh<Words>(row.scores, begin, end, [&](Vector x) {
    return exp2_negative<kPairs<Words>>(fma(x, broadcast(factor), less));
  });
  grow(row, largest, sum);
}

/// Dot products are scaled no earlier than their exponentials are taken, where nothing else is done
/// to them. `kDepthStep`: the words of weights that `multiply` takes at once.
template <typename Words, std::int64_t kTile, std::int64_t kDepthStep>
void soften(const Logit& logit, const SoftmaxRow& row) {
  float* scores = row.scores;
  const bool plain = logit.cap == 0 && !logit.alibi && logit.factor > 0;
  const float factor = plain ? logit.factor * static_cast<float>(kLog2e) : 1;
  Vector largest_each = broadcast(-kInfinity);
  if (plain && row.visible == nullptr && row.columns == kTile) {
#pragma GCC unroll 8
    for (std::int64_t j = 0; j < kTile; j += kLanes) {
      largest_each = most(load(scores + j), largest_each);  // never NaN
    }
    return weigh_row<Words>(row, largest_each, factor, 0, kTile);
  }

  const std::int64_t begin = row.span.begin / kLanes * kLanes;
  const std::int64_t end = (row.span.end + kLanes - 1) / kLanes * kLanes;
  for (std::int64_t j = begin; j < end; j += kLanes) {
    Vector x = load(scores + j);
    if (!plain) x = to_logit(logit, row, x, j);
    if (row.visible != nullptr) {
      x = load_vector<Integers>(row.visible + j) != 0 ? x : broadcast(-kInfinity);
    }
    store(scores + j, x);
    largest_each = most(x, largest_each);
  }
  weigh_row<Words>(row, largest_each, factor, begin, end);
  constexpr std::int64_t kKeys = kDepthStep * Words::kPerWord;
  const std::int64_t whole = (row.columns + kKeys - 1) / kKeys * kKeys;
  for (std::int64_t j = 0; j < begin; j += kLanes) store_weights<Words>(scores, j, Vector{});
  for (std::int64_t j = end; j < whole; j += kLanes) store_weights<Words>(scores, j, Vector{});
}

inline void combine(float* total, float before, const float* part, float after,
                    std::int64_t width) {
  for (std::int64_t c = 0; c < width; c += kLanes) {
    store(total + c, fma(load(part + c), broadcast(after), load(total + c) * before));
  }
}

/// Hidden values of a pair become 0, as their weights are, so that the bits are those of
/// `multiply`.
template <typename Words, std::int64_t kTile>
void add_visible(const float* weights, const std::int32_t* visible, std::int64_t keys,
                 const float* values, float* out, std::int64_t width) {
  constexpr std::int64_t kRows = kTile / Words::kPerWord;
  for (std::int64_t row = 0; row * Words::kPerWord < keys; ++row) {
    const std::int64_t j = row * Words::kPerWord;
    std::uint32_t mask = visible[j] != 0 ? 0xffffffffu : 0;
    if constexpr (kPairs<Words>) {
      const bool next = j + 1 < keys && visible[j + 1] != 0;
      mask = (mask & 0xffffu) | (next ? 0xffff0000u : 0);
    }
    if (mask == 0) continue;
    const Vector factor = broadcast(weights[row]);
    for (std::int64_t c = 0; c < width; c += kLanes) {
      const auto words = load_vector<Bits>(values + panel(c, kRows) + row * kPanel);
      store(out + c, Words::multiply_add(load(out + c), factor, (Vector)(words & mask)));
    }
  }
}

inline void store_row(DType dtype, void* target, const float* source, std::int64_t count) {
  store_floats(dtype, target, source, count);
}

/// `kDepthStep`: the words that `multiply_words` takes at once. `InPlaceWords`: in which few rows
/// are computed.
template <typename Words, std::int64_t kTile, std::int64_t kDepthStep = 1,
          typename InPlaceWords = Words>
constexpr TileMath make_math(double multiply_adds_per_us,
                             void (*multiply_words)(const Product&) = multiply<Words>) {
  return {kTile,
          Words::kPerWord,
          load_query<Words>,
          load_keys<Words, kTile>,
          load_values<Words, kTile, kDepthStep>,
          all_finite<Words, kTile>,
          multiply_words,
          add_visible<Words, kTile>,
          soften<Words, kTile, kDepthStep>,
          combine,
          store_row,
          multiply_adds_per_us,
          {InPlaceWords::kPerWord, load_query<InPlaceWords>, score_in_place<InPlaceWords>,
           std::is_same_v<Words, InPlaceWords> ? score_as_packed<Words> : nullptr,
           soften<InPlaceWords, kTile, 1>, finite_in_place, add_in_place<InPlaceWords>}};
}

}  // namespace
}  // namespace octavo
