#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "octavo/dtype.h"

namespace octavo {

inline constexpr std::int64_t kMostTile = 128;  // keys of a tile
inline constexpr std::int64_t kStripe = 16;     // rows in scratch are padded to this many floats
inline constexpr std::int64_t kAligned = 64;    // bytes: a vector in scratch lies in one cache line
inline constexpr std::int64_t kAhead = 16;  // rows of K or V are fetched so long before their use

inline constexpr double kLog2e = 1.4426950408889634;

constexpr std::int64_t padded(std::int64_t width) {
  return (width + kStripe - 1) / kStripe * kStripe;
}

/// That hold `count` elements.
constexpr std::int64_t words(std::int64_t count, std::int64_t per_word) {
  return (count + per_word - 1) / per_word;
}

/// Starts to fetch a row that is loaded soon, into the second cache: more of its lines can be on
/// their way than of the first's. Always inlined, because GCC drops calls of a function that does
/// nothing but prefetch.
[[gnu::always_inline]] inline void fetch(const std::byte* row, std::int64_t bytes) {
  constexpr std::int64_t kCacheLine = 64;
  if (row == nullptr) return;
  for (std::int64_t i = 0; i < bytes; i += kCacheLine) __builtin_prefetch(row + i, 0, 2);
}

/// Fetches some of the rows that are wanted next: what falls to [first, first + count) of so many
/// shares. Null rows are none.
[[gnu::always_inline]] inline void fetch_share(std::span<const std::byte* const> rows,
                                               std::int64_t bytes, std::int64_t first,
                                               std::int64_t count, std::int64_t shares) {
  const auto size = static_cast<std::int64_t>(rows.size());
  for (std::int64_t i = size * first / shares; i < size * (first + count) / shares; ++i) {
    fetch(rows[static_cast<std::size_t>(i)], bytes);
  }
}

/// Keys of a tile: [begin, end).
struct Span {
  std::int32_t begin, end;
};

/// C [rows, columns] = A [rows, depth] . B [depth, columns], or C += it. Columns are a multiple of
/// kStripe; each sum runs over depth in order. A and B are words of 32 bits: a float, or two bf16
/// that are neighbours along the depth.
struct Product {
  std::int64_t rows, columns, depth;
  const float* a;
  std::int64_t lda;
  const float* b;       ///< packed by TileMath
  std::int64_t b_rows;  ///< that it has room for: K's words of d, V's words of a tile
  float* c;
  std::int64_t ldc;
  bool accumulate;
  /// [rows], null for all: the keys that a row sees, which neither begin nor end earlier than those
  /// of the row before. The others are columns of C that nobody reads, or where A is 0.
  const Span* columns_of = nullptr;
  const Span* depth_of = nullptr;

  /// Whether one of the rows [row, row + count) sees one of the columns [column, column + width).
  bool wants(std::int64_t row, std::int64_t count, std::int64_t column, std::int64_t width) const {
    return columns_of == nullptr ||
           (columns_of[row].begin < column + width && columns_of[row + count - 1].end > column);
  }
  /// The words of A that are not 0 in some of the rows: begin and end, multiples of `step`.
  std::pair<std::int64_t, std::int64_t> words(std::int64_t row, std::int64_t count,
                                              std::int64_t per_word, std::int64_t step = 1) const {
    if (depth_of == nullptr) return {0, depth};
    const std::int64_t keys = per_word * step;
    return {depth_of[row].begin / keys * step,
            (depth_of[row + count - 1].end + keys - 1) / keys * step};
  }
};

/// How a dot product becomes a logit: scaled, capped, with ALiBi's term.
struct Logit {
  float factor;
  float cap = 0;  ///< 0: none
  bool alibi = false;
};

/// Rows of K or V of some heads where they lie. Those of a null token are left out: its scores are
/// 0, its values add nothing.
struct InPlace {
  DType dtype;
  const std::byte* const* tokens;  ///< [keys + kAhead]: of the first head; the last come next
  std::int64_t keys;
  std::int64_t heads;
  std::int64_t head_stride;  ///< bytes
  std::int64_t rows;         ///< of queries, for each head
  std::int64_t width;        ///< of a token and head: d or dv
  std::int64_t pitch;        ///< floats from row to row of Q or O
};

/// Rows of queries that stand together, and what one tile does to them.
struct SoftmaxRows {
  std::int64_t rows;
  float* scores;  ///< [rows, pitch]: dot products in, weights out
  std::int64_t pitch;
  std::int64_t columns;           ///< a multiple of kStripe
  const Span* spans;              ///< [rows]: the keys that a row sees, or the bounds of `visible`
  const std::int32_t* visible;    ///< [columns], of a single row: -1 where it sees the key, else 0
  const float* slopes;            ///< [rows]: of ALiBi
  const std::int64_t* positions;  ///< [rows]
  std::int64_t tile;              ///< position of the tile's first key
  float* largest;                 ///< [rows], in units of log2: what scores are taken relative to
  float* sum;                     ///< [rows]: of the weights so far
  float* out;                     ///< [rows, width]
  std::int64_t width;

  /// Whether a row sees every column.
  bool sees_all(std::int64_t row) const {
    return visible == nullptr && spans[row].begin == 0 && spans[row].end == columns;
  }
  SoftmaxRows from(std::int64_t first, std::int64_t count) const {
    SoftmaxRows part = *this;
    part.rows = count;
    part.scores += first * pitch;
    part.spans += first;
    part.slopes += first;
    part.positions += first;
    part.largest += first;
    part.sum += first;
    part.out += first * width;
    return part;
  }
};

/// A tile's keys and values as they come to rows of queries, and the rows of K and V that are
/// fetched meanwhile.
struct Passage {
  Product score;  ///< of Q and K; C is the rows' scores
  Product add;    ///< of the weights, which take the scores' place, and V; C is O
  SoftmaxRows softmax;
  Logit logit;
  std::span<const std::byte* const> next;  ///< rows wanted soon; null where none is
  std::int64_t next_bytes;                 ///< of each
};

/// For few rows: K and V are read where they lie. Rows of Q, weights and O are [heads, rows].
struct InPlaceMath {
  std::int64_t per_word = 0;  ///< as in TileMath, of Q and weights; 0: packing always pays
  void (*load_query)(DType dtype, const std::byte* row, std::int64_t d, float* target) = nullptr;
  /// Scores, `scores_pitch` apart; columns up to the next multiple of kStripe are written.
  void (*score)(const InPlace& keys, const float* q, float* scores,
                std::int64_t scores_pitch) = nullptr;
  /// Likewise, with the bits that TileMath's `multiply` gives. Null if `soften` and `add` do not
  /// give TileMath's.
  void (*score_as_packed)(const InPlace& keys, const float* q, float* scores,
                          std::int64_t scores_pitch) = nullptr;
  void (*soften)(const Logit& logit, const SoftmaxRows& rows) = nullptr;
  bool (*finite)(const InPlace& values) = nullptr;
  /// out += weights . V
  void (*add)(const InPlace& values, const float* weights, std::int64_t weights_pitch,
              float* out) = nullptr;
};

/// The arithmetic on tiles in scratch, one instance per instruction set.
struct TileMath {
  std::int64_t tile;      ///< keys of a tile: a multiple of kStripe, at most kMostTile
  std::int64_t per_word;  ///< 1: scratch holds floats; 2: Q, K, V and weights are pairs of bf16

  /// A row of Q becomes words [padded words(d)], zeros at the end.
  void (*load_query)(DType dtype, const std::byte* row, std::int64_t d, float* target);
  /// K [count, d] becomes words [words(d), tile], in an order of `multiply`'s own; a null row
  /// becomes zeros, and so do the columns up to the next multiple of kStripe. `keys` [count +
  /// kAhead]: the last are those loaded next. `rows` [kStripe, padded d] is scratch.
  void (*load_keys)(DType dtype, const std::byte* const* keys, std::int64_t count, std::int64_t d,
                    float* rows, float* target);
  /// V [count, dv] becomes words [words(count), padded dv], likewise. `values` is as `keys` above.
  void (*load_values)(DType dtype, const std::byte* const* values, std::int64_t count,
                      std::int64_t dv, float* target);
  bool (*all_finite)(const float* values, std::int64_t keys, std::int64_t width);
  void (*multiply)(const Product& product);
  /// out += weights . V over the visible keys alone.
  void (*add_visible)(const float* weights, const std::int32_t* visible, std::int64_t keys,
                      const float* values, float* out, std::int64_t width);
  /// Scores become weights, in words; where a row's largest score grows much, its sum and output
  /// are brought to it.
  void (*soften)(const Logit& logit, const SoftmaxRows& rows);
  /// total = total * before + part * after
  void (*combine)(float* total, float before, const float* part, float after, std::int64_t width);
  void (*store)(DType dtype, void* target, const float* source, std::int64_t count);
  double multiply_adds_per_us;  ///< of a thread on long prompts, to within a factor of 2

  InPlaceMath in_place = {};
  /// `score`, the softmax and `add` of any rows, with the bits that they give one after the other;
  /// null where nothing is gained. Takes `visible` as null, and hidden values as finite.
  void (*pass)(const Passage& passage) = nullptr;
};

/// Of the portable kernel: the instance for this processor's widest vectors. The bits are the same
/// in all of them.
const TileMath& portable_math();

}  // namespace octavo
