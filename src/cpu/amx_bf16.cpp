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

/// Up to two tiles of rows by two of columns. `c` may lie outside of the product.
template <int Rows, int Columns>
void multiply_tiles(const Product& p, std::int64_t row, std::int64_t rows, std::int64_t column,
                    float* c, std::int64_t ldc) {
  const auto [begin, end] = p.words(row, rows, Bf16Pairs::kPerWord, kSide);
  const float* a = p.a + row * p.lda;
  const float* b = p.b + panel(column, p.b_rows);
  const std::int64_t a_pitch = p.lda * 4;  // bytes
  const std::int64_t b_pitch = kPanel * 4;
  const std::int64_t c_pitch = ldc * 4;
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
  }
  _tile_stored(0, c, c_pitch);
  if constexpr (Columns > 1) _tile_stored(1, c + kSide, c_pitch);
  if constexpr (Rows > 1) _tile_stored(2, c + kSide * ldc, c_pitch);
  if constexpr (Rows > 1 && Columns > 1) _tile_stored(3, c + kSide * ldc + kSide, c_pitch);
}

/// Fewer rows than a tile has: C is computed beside its place.
template <int Columns>
void multiply_last_tile(const Product& p, std::int64_t row, std::int64_t column) {
  constexpr std::int64_t kWidth = kSide * Columns;
  alignas(64) float c[kSide * kWidth] = {};
  const auto place = [&](std::int64_t r) { return p.c + (row + r) * p.ldc + column; };
  for (std::int64_t r = 0; p.accumulate && r < p.rows - row; ++r) {
    std::copy_n(place(r), kWidth, c + r * kWidth);
  }
  multiply_tiles<1, Columns>(p, row, p.rows - row, column, c, kWidth);
  for (std::int64_t r = 0; r < p.rows - row; ++r) std::copy_n(c + r * kWidth, kWidth, place(r));
}

template <int Columns>
void multiply_column(const Product& p, std::int64_t row, std::int64_t rows, std::int64_t column) {
  if (!p.wants(row, std::min(rows, p.rows - row), column, kSide * Columns)) return;
  float* c = p.c + row * p.ldc + column;
  if (p.rows - row < kSide) {
    multiply_last_tile<Columns>(p, row, column);
  } else if (rows == kSide) {
    multiply_tiles<1, Columns>(p, row, rows, column, c, p.ldc);
  } else {
    multiply_tiles<2, Columns>(p, row, rows, column, c, p.ldc);
  }
}

/// All columns of a few rows, then the next: B stays in the nearest caches, A and C pass once.
void multiply_on_tiles(const Product& p) {
  const Tiles tiles;
  std::int64_t rows;
  for (std::int64_t row = 0; row < p.rows; row += rows) {
    rows = p.rows - row >= 2 * kSide ? 2 * kSide : kSide;
    std::int64_t column = 0;
    for (; column + 2 * kSide <= p.columns; column += 2 * kSide) {
      multiply_column<2>(p, row, rows, column);
    }
    if (column < p.columns) multiply_column<1>(p, row, rows, column);
  }
}

}  // namespace

constinit const TileMath kAmxBf16Math =
    make_math<Bf16Pairs, 128, kSide, Floats>(200000, multiply_on_tiles);

}  // namespace octavo
