// InPlaceMath on vectors. Internal linkage, as in vector.h.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/limits.h"
#include "cpu/convert.h"
#include "cpu/tile_math.h"
#include "cpu/vector.h"

namespace octavo {
namespace {

alignas(64) constexpr std::byte kZeros[kMaxHeadDim * 4] = {};  // a row of the widest dim

/// Whether two vectors of words are loaded together in less time: `Words::load_two<T>(row, word,
/// two)`
template <typename Words, DType T>
constexpr bool kLoadsTwo = requires(Vector* two) {
  Words::template load_two<T>(nullptr, 0, two);
};

constexpr int kMostRows = 2 * kRowsInPlace;  // at once, where half as many others do

// Sums stay in registers if the functions that hold them are not inlined.

/// Scores of four keys and a few rows.
template <typename Words, DType T, int Rows>
[[gnu::noinline]] void score_four(const std::byte* const* keys, const float* q, std::int64_t pitch,
                                  std::int64_t d, float* scores, std::int64_t scores_pitch) {
  constexpr int kSums = (4 * Rows + kLanes - 1) / kLanes * kLanes;
  Vector sums[kSums] = {};
  const auto add = [&](std::int64_t w, const Vector* k) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const Vector query = load(q + r * pitch + w);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        sums[4 * r + j] = Words::multiply_add(sums[4 * r + j], query, k[j]);
      }
    }
  };
  const auto load_and_add = [&](std::int64_t w, std::int64_t end) __attribute__((always_inline)) {
    Vector k[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) k[j] = Words::template load<T>(keys[j], w, end);
    add(w, k);
  };
  constexpr std::int64_t kPer = Words::kPerWord;
  std::int64_t w = 0;
  if constexpr (kLoadsTwo<Words, T>) {
    for (; (w + 2 * kLanes) * kPer <= d; w += 2 * kLanes) {
      Vector k[2][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        Vector two[2];
        Words::template load_two<T>(keys[j], w, two);
        k[0][j] = two[0];
        k[1][j] = two[1];
      }
      add(w, k[0]);
      add(w + kLanes, k[1]);
    }
  }
  for (; (w + kLanes) * kPer <= d; w += kLanes) load_and_add(w, (w + kLanes) * kPer);
  if (w * kPer < d) load_and_add(w, d);
  float all[kSums];
  for (int i = 0; i < kSums; i += kLanes) store(all + i, sum_each(sums + i));
  for (int r = 0; r < Rows; ++r) std::memcpy(scores + r * scores_pitch, all + 4 * r, 16);
}

/// Scores of kLanes keys and a few rows: each sum runs over the dims in order.
template <typename Words, DType T, int Rows>
[[gnu::noinline]] void score_transposed(const std::byte* const* keys, const float* q,
                                        std::int64_t pitch, std::int64_t d, float* scores,
                                        std::int64_t scores_pitch) {
  Vector sums[Rows] = {};
  const auto add = [&](std::int64_t w, std::int64_t end) __attribute__((always_inline)) {
    Vector k[kLanes];
    Vector of_word[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) k[j] = Words::template load<T>(keys[j], w, end);
    transpose(k, of_word);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        sums[r] = Words::multiply_add(sums[r], broadcast(q[r * pitch + w + i]), of_word[i]);
      }
    }
  };
  constexpr std::int64_t kPer = Words::kPerWord;
  std::int64_t w = 0;
  for (; (w + kLanes) * kPer <= d; w += kLanes) add(w, (w + kLanes) * kPer);
  if (w * kPer < d) add(w, d);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) store(scores + r * scores_pitch, sums[r]);
}

/// Calls body.operator()<Rows>(first) for rows in groups of Most and then the rest.
template <int Most, typename Body>
void in_groups(std::int64_t first, std::int64_t rows, const Body& body) {
  for (; rows >= Most; rows -= Most, first += Most) body.template operator()<Most>(first);
  if constexpr (Most > 1) {
    if (rows > 0) in_groups<Most - 1>(first, rows, body);
  }
}

// Tokens are the outer loop, heads the inner: where the heads of a token lie side by side, K and V
// are read from one end to the other.

/// Fetches the rows of a head that come next.
[[gnu::always_inline]] inline void fetch_ahead(const InPlace& rows, std::int64_t first,
                                               std::int64_t count, std::int64_t head) {
  const std::int64_t bytes = rows.width * static_cast<std::int64_t>(size_of(rows.dtype));
  for (std::int64_t i = first; i < std::min(first + count, rows.keys); ++i) {
    const std::byte* token = rows.tokens[i + kAhead];
    if (token != nullptr) fetch(token + head * rows.head_stride, bytes);
  }
}

/// Scores of the first kLanes tokens from `first` on. `body` gets their rows of a head, and the
/// head.
template <int Tokens, typename Body>
[[gnu::always_inline]] inline void for_tokens(const InPlace& rows, std::int64_t first,
                                              std::int64_t count, const Body& body) {
  for (std::int64_t h = 0; h < rows.heads; ++h) {
    fetch_ahead(rows, first, count, h);
    const std::byte* tokens[Tokens];
    for (std::int64_t i = 0; i < Tokens; ++i) {
      const std::byte* token = i < count ? rows.tokens[first + i] : nullptr;
      tokens[i] = token != nullptr ? token + h * rows.head_stride : kZeros;
    }
    body(tokens, h);
  }
}

template <typename Words>
void score_as_packed(const InPlace& keys, const float* q, float* scores,
                     std::int64_t scores_pitch) {
  with_dtype(keys.dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < padded(keys.keys); j += kLanes) {
      const std::int64_t count = std::clamp<std::int64_t>(keys.keys - j, 0, kLanes);
      for_tokens<kLanes>(keys, j, count, [&](const std::byte* const* tokens, std::int64_t head) {
        in_groups<kMostRows>(head * keys.rows, keys.rows, [&]<int Rows>(std::int64_t r) {
          score_transposed<Words, T, Rows>(tokens, q + r * keys.pitch, keys.pitch, keys.width,
                                           scores + r * scores_pitch + j, scores_pitch);
        });
      });
    }
  });
}

template <typename Words>
void score_in_place(const InPlace& keys, const float* q, float* scores, std::int64_t scores_pitch) {
  // Adding up the lanes of a sum for each row and key takes about 3 operations, transposing a
  // vector of a key log2(kLanes).
  constexpr std::int64_t kStages = std::bit_width(unsigned{kLanes}) - 1;
  const std::int64_t vectors = words(words(keys.width, Words::kPerWord), kLanes);
  if (3 * keys.rows > kStages * vectors) {
    return score_as_packed<Words>(keys, q, scores, scores_pitch);
  }
  with_dtype(keys.dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < padded(keys.keys); j += 4) {
      const std::int64_t count = std::clamp<std::int64_t>(keys.keys - j, 0, 4);
      for_tokens<4>(keys, j, count, [&](const std::byte* const* tokens, std::int64_t head) {
        in_groups<kRowsInPlace>(head * keys.rows, keys.rows, [&]<int Rows>(std::int64_t r) {
          score_four<Words, T, Rows>(tokens, q + r * keys.pitch, keys.pitch, keys.width,
                                     scores + r * scores_pitch + j, scores_pitch);
        });
      });
    }
  });
}

inline bool finite_in_place(const InPlace& values) {
  Vector sum = {};  // of zeros, unless some value is not finite
  with_dtype(values.dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < values.keys; ++j) {
      if (values.tokens[j] == nullptr) continue;
      for (std::int64_t h = 0; h < values.heads; ++h) {
        const std::byte* row = values.tokens[j] + h * values.head_stride;
        for (std::int64_t c = 0; c < values.width; c += kLanes) {
          sum = fma(load_as_floats<T>(row, c, values.width), Vector{}, sum);
        }
      }
    }
  });
  return sum_lanes(sum) == 0;
}

/// Some vectors of a few rows, for tokens of one head: several whole ones, or one that may be cut.
/// Tokens and weights are taken a word at a time.
template <typename Words, DType T, int Rows, int Vectors>
[[gnu::noinline]] void add_columns(const std::byte* const* tokens, std::int64_t count,
                                   std::int64_t column, std::int64_t width, const float* weights,
                                   std::int64_t weights_pitch, float* out, std::int64_t pitch) {
  constexpr int kPer = Words::kPerWord;
  constexpr bool kWhole = Vectors > 1;
  Vector sums[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[r][v] = load(out + r * pitch + column + v * kLanes);
  }
  for (std::int64_t j = 0; j < count; j += kPer) {
    Vector values[Vectors + kPer - 1];  // one load of pairs fills two
    if constexpr (Vectors >= 2 * kPer && kLoadsTwo<Words, T>) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v += 2 * kPer) {
        Vector first[2], second[2];
        Words::template load_two<T>(tokens[j], (column + v * kLanes) / kPer, first);
        Words::template load_two<T>(tokens[j + 1], (column + v * kLanes) / kPer, second);
        for (int i = 0; i < 2; ++i) Words::interleave(first[i], second[i], values + v + kPer * i);
      }
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v += kPer) {
        const std::int64_t word = (column + v * kLanes) / kPer;
        const std::int64_t end = kWhole ? (word + kLanes) * kPer : width;
        const Vector first = Words::template load<T>(tokens[j], word, end);
        if constexpr (kPer == 1) {
          values[v] = first;
        } else {
          Words::interleave(first, Words::template load<T>(tokens[j + 1], word, end), values + v);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Vector factor = broadcast(weights[r * weights_pitch + j / kPer]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        sums[r][v] = Words::multiply_add(sums[r][v], factor, values[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(out + r * pitch + column + v * kLanes, sums[r][v]);
  }
}

template <typename Words>
void add_in_place(const InPlace& values, const float* weights, std::int64_t weights_pitch,
                  float* out) {
  constexpr std::int64_t kTokens = 16;  // at once: streams that the processor can follow
  const std::int64_t width = values.width;
  with_dtype(values.dtype, [&]<DType T> {
    for (std::int64_t j = 0; j < values.keys; j += kTokens) {
      const std::int64_t count = std::min(kTokens, values.keys - j);
      for_tokens<kTokens>(values, j, count, [&](const std::byte* const* tokens, std::int64_t head) {
        in_groups<kMostRows>(head * values.rows, values.rows, [&]<int Rows>(std::int64_t r) {
          constexpr int kVectors = Rows > kRowsInPlace ? 2 : 4;
          const float* w = weights + r * weights_pitch + j / Words::kPerWord;
          float* o = out + r * values.pitch;
          std::int64_t c = 0;
          for (; c + kVectors * kLanes <= width; c += kVectors * kLanes) {
            add_columns<Words, T, Rows, kVectors>(tokens, count, c, width, w, weights_pitch, o,
                                                  values.pitch);
          }
          for (; c < width; c += kLanes) {
            add_columns<Words, T, Rows, 1>(tokens, count, c, width, w, weights_pitch, o,
                                           values.pitch);
          }
        });
      });
    }
  });
}

}  // namespace
}  // namespace octavo
