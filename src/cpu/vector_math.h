// TileMath on the vectors of vector.h. Internal linkage, as there.
//
// Products are fused, so the bits differ from the portable kernel's. They still depend only on the
// order of keys and dims: the sums of a row never see how many rows or columns a tile has.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/convert.h"
#include "cpu/tile_math.h"
#include "cpu/vector.h"
#include "cpu/vector_in_place.h"
#include "cpu/vector_softmax.h"

namespace octavo {
namespace {

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

/// `Tokens` rows from `first` on; those that are missing or null are zeros.
template <int Tokens>
struct Rows {
  const std::byte* at[Tokens];
  Rows(const std::byte* const* rows, std::int64_t first, std::int64_t count) {
    for (int i = 0; i < Tokens; ++i) {
      const std::byte* row = first + i < count ? rows[first + i] : nullptr;
      at[i] = row != nullptr ? row : kZeros;
    }
  }
};

template <typename Words, std::int64_t kTile>
void load_keys(DType dtype, const std::byte* const* keys, std::int64_t count, std::int64_t d,
               float*, float* target) {
  constexpr std::int64_t kPer = Words::kPerWord;
  const std::int64_t depth = words(d, kPer);
  with_dtype(dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < padded(count); j += kLanes) {
      const Rows<kLanes> rows(keys, j, count);
      const auto pack = [&](std::int64_t w, std::int64_t end) __attribute__((always_inline)) {
        Vector loaded[kLanes];
        Vector columns[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) loaded[i] = Words::template load<T>(rows.at[i], w, end);
        transpose(loaded, columns);
        float* block = target + panel(j, padded(depth)) + w * kPanel;
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(block + i * kPanel, columns[i]);
      };
      std::int64_t w = 0;
      for (; (w + kLanes) * kPer <= d; w += kLanes) pack(w, (w + kLanes) * kPer);
      if (w < depth) pack(w, d);
    }
  });
}

/// `kDepthStep`: what follows is zeros, up to a multiple of so many words.
template <typename Words, std::int64_t kTile, std::int64_t kDepthStep>
void load_values(DType dtype, const std::byte* const* values, std::int64_t count, std::int64_t dv,
                 float* target) {
  constexpr std::int64_t kPer = Words::kPerWord;
  constexpr std::int64_t kColumns = kPer * kLanes;  // of a vector that is loaded
  static_assert(kPanel % kColumns == 0);
  const std::int64_t end = (count + kPer * kDepthStep - 1) / (kPer * kDepthStep) * kDepthStep;
  with_dtype(dtype, [&]<DType T> {
    for (std::int64_t row = 0; row < end; ++row) {
      const Rows<kPer> rows(values, row * kPer, count);
      const auto pack = [&](std::int64_t c, std::int64_t width) __attribute__((always_inline)) {
        Vector packed[kPer];
        const Vector first = Words::template load<T>(rows.at[0], c / kPer, width);
        if constexpr (kPairs<Words>) {
          Words::interleave(first, Words::template load<T>(rows.at[1], c / kPer, width), packed);
        } else {
          packed[0] = first;
        }
        float* at = target + panel(c, kTile / kPer) + row * kPanel;
        for (int i = 0; i < kPer; ++i) store(at + i * kLanes, packed[i]);
      };
      std::int64_t c = 0;
      for (; c + kColumns <= dv; c += kColumns) pack(c, c + kColumns);
      for (; c < padded(dv); c += kColumns) pack(c, dv);
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
    if constexpr (Vectors == 2) {
      const bool first = p.wants(row, rows, column, kLanes);
      if (!first || !p.wants(row, rows, column + kLanes, kLanes)) {
        return multiply_block<Words, Rows, 1>(p, row, first ? column : column + kLanes, begin, end);
      }
    }
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
