#pragma once

#include <cstdint>

#include "octavo/dtype.h"

namespace octavo {

inline constexpr std::int64_t kTile = 64;     // keys of a tile
inline constexpr std::int64_t kStripe = 16;   // rows in scratch are padded to this many floats
inline constexpr std::int64_t kAligned = 64;  // bytes: a vector in scratch lies in one cache line
inline constexpr std::int64_t kAhead = 16;    // rows of K or V are fetched so long before their use

inline constexpr double kLog2e = 1.4426950408889634;

constexpr std::int64_t padded(std::int64_t width) {
  return (width + kStripe - 1) / kStripe * kStripe;
}

/// C [rows, columns] = A [rows, depth] . B [depth, columns], or C += it. Columns are a multiple of
/// kStripe; each sum runs over depth in order.
struct Product {
  std::int64_t rows, columns, depth;
  const float* a;
  std::int64_t lda;
  const float* b;
  std::int64_t ldb;
  float* c;
  std::int64_t ldc;
  bool accumulate;
};

/// How a dot product becomes a logit: scaled, capped, with ALiBi's term.
struct Logit {
  float factor;
  float cap = 0;  ///< 0: none
  bool alibi = false;
};

/// What one tile does to a row of queries.
struct SoftmaxRow {
  float* scores;                ///< [columns]: dot products in, weights out
  std::int64_t columns;         ///< a multiple of kStripe
  const std::int32_t* visible;  ///< [columns]: -1 where the row sees the key, else 0; null: all
  float slope;                  ///< of ALiBi
  std::int64_t distance;        ///< position of the tile's first key less the query's
  float* largest;               ///< so far, in units of log2
  float* sum;                   ///< of the weights so far
  float* out;                   ///< [width]
  std::int64_t width;
};

/// The arithmetic of the portable kernel on tiles in scratch. One instance per instruction set;
/// the bits are the same in all of them.
struct TileMath {
  /// K [count, d] becomes floats [d, kTile]; a null row becomes zeros, and so do the columns up to
  /// the next multiple of kStripe. `keys` [count + kAhead]: the last are those loaded next.
  /// `rows` [kStripe, padded d] is scratch.
  void (*load_keys)(DType dtype, const std::byte* const* keys, std::int64_t count, std::int64_t d,
                    float* rows, float* target);
  /// V [count, dv] becomes floats [count, padded dv]. `values` is as `keys` above.
  void (*load_values)(DType dtype, const std::byte* const* values, std::int64_t count,
                      std::int64_t dv, float* target);
  bool (*all_finite)(const float* values, std::int64_t count);  ///< count: multiple of kStripe
  void (*multiply)(const Product& product);
  /// Scores become weights; the row's sum and output are brought to the new largest score.
  void (*soften)(const Logit& logit, const SoftmaxRow& row);
  /// total = total * before + part * after
  void (*combine)(float* total, float before, const float* part, float after, std::int64_t width);
  void (*store)(DType dtype, void* target, const float* source, std::int64_t count);
  double multiply_adds_per_us;  ///< of a thread on long prompts, to within a factor of 2
};

/// The instance for this processor's widest vectors.
const TileMath& tile_math();

}  // namespace octavo
