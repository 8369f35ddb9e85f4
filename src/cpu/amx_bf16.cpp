// Products of bf16 pairs on AMX tiles. Few rows are computed in floats, everything else as in
// avx512_bf16.cpp.
//
// A tile holds 16 rows of 16 words: A straight from rows of Q or weights, B from packed K or V,
// whose words are the pairs that tdpbf16ps wants. Rows beyond the last are computed and dropped, so
// that each row's sums run in the same order whatever rows stand beside it.
#include "cpu/amx_tiles.h"
#include "cpu/arithmetic.h"
#include "cpu/vector_math.h"

namespace octavo {
namespace {

constexpr std::int64_t kSide = 16;  // rows, and words of a row, of a tile
static_assert(kPanel == 2 * kSide);

/// The tiles, for as long as this lives.
class Tiles {
 public:
  Tiles() { _tile_loadconfig(&kFullTiles); }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

/// Keeps reads and writes of memory on their side. GCC's _tile_loadd does not say what it reads.
inline void settle() { asm volatile("" : : : "memory"); }

constexpr auto kNothingBetween = [] {};

/// Up to two tiles of rows by two of columns. `c` may lie outside of the product. `between` is
/// called after each few products and works while they are under way.
template <int Rows, int Columns, typename Between>
[[gnu::always_inline]] inline void multiply_tiles(const Product& p, std::int64_t row,
                                                  std::int64_t rows, std::int64_t column, float* c,
                                                  std::int64_t ldc, Between& between) {
  const auto [begin, end] = p.words(row, rows, Bf16Pairs::kPerWord, kSide);
  const float* a = p.a + row * p.lda;
  const float* b = p.b + panel(column, p.b_rows);
  const std::int64_t a_pitch = p.lda * 4;  // bytes
  const std::int64_t b_pitch = kPanel * 4;
  const std::int64_t c_pitch = ldc * 4;
  settle();
  if (p.accumulate) {
    _tile_loadd(0, c, c_pitch);
    if constexpr (Columns > 1) _tile_loadd(1, c + kSide, c_pitch);
    if constexpr (Rows > 1) _tile_loadd(2, c + kSide * ldc, c_pitch);
    if constexpr (Rows > 1 && Columns > 1) _tile_loadd(3, c + kSide * ldc + kSide, c_pitch);
  } else {
    _tile_zero(0);
    if constexpr (Columns > 1) _tile_zero(1);
    if constexpr (Rows > 1) _tile_zero(2);
    if constexpr (Rows > 1 && Columns > 1) _tile_zero(3);
  }
  for (std::int64_t k = begin; k < end; k += kSide) {
    _tile_loadd(4, a + k, a_pitch);
    _tile_loadd(6, b + k * kPanel, b_pitch);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Columns > 1) {
      _tile_loadd(7, b + k * kPanel + kSide, b_pitch);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (Rows > 1) {
      _tile_loadd(5, a + kSide * p.lda + k, a_pitch);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (Columns > 1) _tile_dpbf16ps(3, 5, 7);
    }
    settle();
    between();
    settle();
  }
  _tile_stored(0, c, c_pitch);
  if constexpr (Columns > 1) _tile_stored(1, c + kSide, c_pitch);
  if constexpr (Rows > 1) _tile_stored(2, c + kSide * ldc, c_pitch);
  if constexpr (Rows > 1 && Columns > 1) _tile_stored(3, c + kSide * ldc + kSide, c_pitch);
}

/// Fewer rows than a tile has: C is computed beside its place.
template <int Columns, typename Between>
void multiply_last_tile(const Product& p, std::int64_t row, std::int64_t column, Between& between) {
  constexpr std::int64_t kWidth = kSide * Columns;
  alignas(64) float c[kSide * kWidth] = {};
  const auto place = [&](std::int64_t r) { return p.c + (row + r) * p.ldc + column; };
  for (std::int64_t r = 0; p.accumulate && r < p.rows - row; ++r) {
    std::copy_n(place(r), kWidth, c + r * kWidth);
  }
  multiply_tiles<1, Columns>(p, row, p.rows - row, column, c, kWidth, between);
  for (std::int64_t r = 0; r < p.rows - row; ++r) std::copy_n(c + r * kWidth, kWidth, place(r));
}

template <int Columns, typename Between>
void multiply_column(const Product& p, std::int64_t row, std::int64_t rows, std::int64_t column,
                     Between& between) {
  if (!p.wants(row, std::min(rows, p.rows - row), column, kSide * Columns)) return;
  float* c = p.c + row * p.ldc + column;
  if (p.rows - row < kSide) {
    multiply_last_tile<Columns>(p, row, column, between);
  } else if (rows == kSide) {
    multiply_tiles<1, Columns>(p, row, rows, column, c, p.ldc, between);
  } else {
    multiply_tiles<2, Columns>(p, row, rows, column, c, p.ldc, between);
  }
}

/// All columns of a few rows, then the next: A and C pass once.
template <typename Between>
void multiply_with(const Product& p, Between& between) {
  std::int64_t rows;
  for (std::int64_t row = 0; row < p.rows; row += rows) {
    rows = p.rows - row >= 2 * kSide ? 2 * kSide : kSide;
    std::int64_t column = 0;
    for (; column + 2 * kSide <= p.columns; column += 2 * kSide) {
      multiply_column<2>(p, row, rows, column, between);
    }
    if (column < p.columns) multiply_column<1>(p, row, rows, column, between);
  }
}

void multiply_on_tiles(const Product& p) {
  const Tiles tiles;
  multiply_with(p, kNothingBetween);
}

constexpr std::int64_t kTile = 128;
constexpr std::int64_t kGroup = 2 * kSide;  // rows that go from Q to O together

Product part_of(Product p, std::int64_t first, float* c) {
  p.rows = std::min(kGroup, p.rows - first);
  p.a += first * p.lda;
  p.c = c;
  if (p.columns_of != nullptr) p.columns_of += first;
  if (p.depth_of != nullptr) p.depth_of += first;
  return p;
}

/// About how often multiply_with calls `between` for up to kGroup rows.
std::int64_t steps_of(const Product& p) {
  return words(p.columns, 2 * kSide) * words(p.depth, kSide);
}

/// What the vectors do while the tiles multiply: the softmax of a group of rows, spread over so
/// many calls, and the rows of K and V that are wanted next are fetched.
class Meanwhile {
 public:
  Meanwhile(const Passage& p, const SoftmaxRows& rows, std::int64_t first, std::int64_t calls)
      : passage_(p), rows_(rows.rows), row_(first), calls_(calls), softener_(p.logit, rows) {}

  void operator()() {
    for (due_ += rows_; due_ >= calls_ && !softener_.done(); due_ -= calls_) soften_row();
  }
  void finish() {
    while (!softener_.done()) soften_row();
  }

 private:
  [[gnu::noinline]] void soften_row() {
    fetch_share(passage_.next, passage_.next_bytes, row_, 1, passage_.score.rows);
    for (std::int64_t c = 0; c < passage_.add.columns; c += kSide) {  // added to after this group
      __builtin_prefetch(passage_.add.c + row_ * passage_.add.ldc + c);
    }
    softener_.step();
    ++row_;
  }

  const Passage& passage_;
  const std::int64_t rows_;
  std::int64_t row_;
  const std::int64_t calls_;
  std::int64_t due_ = 0;
  Softener<Bf16Pairs, kTile, kSide> softener_;
};

/// Groups of rows pass three stations, each a group behind the one before: scores, softmax, output.
/// Scores become weights in their place, so three groups have places in turn.
void pass_on_tiles(const Passage& p) {
  const Tiles tiles;
  const std::int64_t groups = words(p.score.rows, kGroup);
  const auto place = [&](std::int64_t g) { return p.score.c + g % 3 * kGroup * p.score.ldc; };
  for (std::int64_t g = 0; g < groups + 2; ++g) {
    const bool scores = g < groups;
    const bool adds = g >= 2;
    const std::int64_t softened = std::clamp<std::int64_t>(g - 1, 0, groups) * kGroup;
    const std::int64_t rows =
        g == 0 ? 0 : std::min(kGroup, std::max<std::int64_t>(0, p.score.rows - softened));
    SoftmaxRows softmax = p.softmax.from(softened, rows);
    softmax.scores = place(g + 2);
    Meanwhile meanwhile(p, softmax, softened,
                        (scores ? steps_of(p.score) : 0) + (adds ? steps_of(p.add) : 0));
    if (scores) multiply_with(part_of(p.score, g * kGroup, place(g)), meanwhile);
    if (adds) {
      const std::int64_t first = (g - 2) * kGroup;
      Product add = part_of(p.add, first, p.add.c + first * p.add.ldc);
      add.a = place(g + 1);
      multiply_with(add, meanwhile);
    }
    meanwhile.finish();
  }
}

}  // namespace

constinit const TileMath kAmxBf16Math = [] {
  TileMath math = make_math<Bf16Pairs, kTile, kSide, Floats>(200000, multiply_on_tiles);
  math.pass = pass_on_tiles;
  return math;
}();

}  // namespace octavo
