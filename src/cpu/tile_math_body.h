// The functions of TileMath for one instruction set. tile_math.cpp includes this file once for
// each, in a namespace with
//
//   OCTAVO_TARGET   the attribute that lets a function use the instruction set
//   kLanes          floats of a vector
//   kSums           vectors of the micro-kernel's sums: with its operands they fill the registers
//
// Nothing in here may make the bits depend on kLanes. Products and sums round apart, so machines
// with fused operations agree with others. Weights are summed in kStripe interleaved partial sums
// on every instruction set. A zero that a hidden key adds changes nothing, because no sum is -0.

using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));
using Integers = std::int32_t __attribute__((vector_size(kLanes * sizeof(float))));
using Bits = std::uint32_t __attribute__((vector_size(kLanes * sizeof(float))));
using Lanes = std::make_integer_sequence<int, kLanes>;

constexpr int kVectors = kStripe / kLanes;  // of a stripe
constexpr std::int64_t kMostRows = 4;       // of the micro-kernel

template <typename T>
OCTAVO_TARGET inline T load_as(const void* source) {
  T vector;
  std::memcpy(&vector, source, sizeof vector);
  return vector;
}
OCTAVO_TARGET inline Vector load(const float* source) { return load_as<Vector>(source); }
OCTAVO_TARGET inline void store(float* target, Vector vector) {
  std::memcpy(target, &vector, sizeof vector);
}

/// Rows and columns whose sums stay in registers. Inlined, they would not.
template <int Rows, int Vectors>
OCTAVO_TARGET [[gnu::noinline]] void multiply_block(const Product& p, std::int64_t row,
                                                    std::int64_t column) {
  const float* a = p.a + row * p.lda;
  const float* b = p.b + column;
  float* c = p.c + row * p.ldc + column;
  const std::int64_t lda = p.lda;
  const std::int64_t ldb = p.ldc;  // B is packed as wide as C
  Vector sums[Rows][Vectors];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) {
      sums[r][v] = p.accumulate ? load(c + r * p.ldc + v * kLanes) : Vector{};
    }
  }
  for (std::int64_t k = 0; k < p.depth; ++k) {
    Vector right[Vectors];
    for (int v = 0; v < Vectors; ++v) right[v] = load(b + k * ldb + v * kLanes);
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < Vectors; ++v) sums[r][v] += a[r * lda + k] * right[v];
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) store(c + r * p.ldc + v * kLanes, sums[r][v]);
  }
}

template <int Rows, int Vectors>
OCTAVO_TARGET void multiply_last_rows(const Product& p, std::int64_t row, std::int64_t column) {
  if constexpr (Rows > 0) {
    if (p.rows - row == Rows) {
      multiply_block<Rows, Vectors>(p, row, column);
    } else {
      multiply_last_rows<Rows - 1, Vectors>(p, row, column);
    }
  }
}

/// All rows of a few columns, so that these columns of B stay in the nearest cache.
template <int Vectors>
OCTAVO_TARGET void multiply_columns(const Product& p, std::int64_t column) {
  constexpr int kRows = std::min<int>(kMostRows, kSums / Vectors);
  std::int64_t row = 0;
  for (; row + kRows <= p.rows; row += kRows) multiply_block<kRows, Vectors>(p, row, column);
  multiply_last_rows<kRows - 1, Vectors>(p, row, column);
}

OCTAVO_TARGET void multiply(const Product& p) {
  std::int64_t column = 0;
  if (std::min(p.rows, kMostRows) * 4 <= kSums) {
    for (; column + 4 * kLanes <= p.columns; column += 4 * kLanes) multiply_columns<4>(p, column);
  }
  for (; column + 2 * kLanes <= p.columns; column += 2 * kLanes) multiply_columns<2>(p, column);
  if (column < p.columns) multiply_columns<1>(p, column);
}

/// Lane l becomes lane Pick::lane(l) of a, then b.
template <typename Pick, int... Lane>
OCTAVO_TARGET inline Vector shuffle(Vector a, Vector b, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(a, b, Pick::lane(Lane)...);
}
template <typename Pick>
OCTAVO_TARGET inline Vector shuffle(Vector a, Vector b) {
  return shuffle<Pick>(a, b, Lanes{});
}

/// In each group of four lanes: a0 b0 a1 b1, or from lane 2 on.
template <int First>
struct Interleaved {
  static constexpr int lane(int l) { return l / 4 * 4 + First + l % 4 / 2 + l % 2 * kLanes; }
};
/// In each group of four lanes: a0 a1 b0 b1, or from lane 2 on.
template <int First>
struct Joined {
  static constexpr int lane(int l) { return l / 4 * 4 + First + l % 2 + l % 4 / 2 * kLanes; }
};
/// Of each two groups of Size lanes: the first of a and of b, or the second.
template <int Size, bool Second>
struct Exchanged {
  static constexpr int lane(int l) {
    return l / (2 * Size) * 2 * Size + l % Size + (Second ? Size : 0) + l / Size % 2 * kLanes;
  }
};
/// Lanes at a distance change places.
template <int Distance>
struct Swapped {
  static constexpr int lane(int l) { return l ^ Distance; }
};

template <int Size>
OCTAVO_TARGET inline void exchange_groups(Vector* rows) {
  if constexpr (Size < kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      if (i & Size) continue;
      const Vector a = rows[i];
      const Vector b = rows[i + Size];
      rows[i] = shuffle<Exchanged<Size, false>>(a, b);
      rows[i + Size] = shuffle<Exchanged<Size, true>>(a, b);
    }
    exchange_groups<2 * Size>(rows);
  }
}

/// target [kLanes, kTile] = the transpose of source [kLanes, stride].
OCTAVO_TARGET void transpose(const float* source, std::int64_t stride, float* target) {
  Vector rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load(source + i * stride);
  for (int i = 0; i < kLanes; i += 4) {
    const Vector low01 = shuffle<Interleaved<0>>(rows[i], rows[i + 1]);
    const Vector high01 = shuffle<Interleaved<2>>(rows[i], rows[i + 1]);
    const Vector low23 = shuffle<Interleaved<0>>(rows[i + 2], rows[i + 3]);
    const Vector high23 = shuffle<Interleaved<2>>(rows[i + 2], rows[i + 3]);
    rows[i] = shuffle<Joined<0>>(low01, low23);
    rows[i + 1] = shuffle<Joined<2>>(low01, low23);
    rows[i + 2] = shuffle<Joined<0>>(high01, high23);
    rows[i + 3] = shuffle<Joined<2>>(high01, high23);
  }
  exchange_groups<4>(rows);
  for (int i = 0; i < kLanes; ++i) store(target + i * kTile, rows[i]);
}

/// Loads a row as [padded width]; a null row is zeros.
OCTAVO_TARGET inline void load_row(DType dtype, const std::byte* row, float* target,
                                   std::int64_t width) {
  const std::int64_t filled = row != nullptr ? width : 0;
  if (filled != 0) load_floats(dtype, row, target, width);
  std::fill(target + filled, target + padded(width), 0.0f);
}

OCTAVO_TARGET void load_keys(DType dtype, const std::byte* const* keys, std::int64_t count,
                             std::int64_t d, float* rows, float* target) {
  const std::int64_t bytes = d * static_cast<std::int64_t>(size_of(dtype));
  for (std::int64_t j = 0; j < padded(count); j += kLanes) {
    for (std::int64_t i = 0; i < kLanes; ++i) {
      const bool inside = j + i < count;
      if (inside) fetch(keys[j + i + kAhead], bytes);
      load_row(dtype, inside ? keys[j + i] : nullptr, rows + i * padded(d), d);
    }
    for (std::int64_t c = 0; c < d; c += kLanes) {
      transpose(rows + c, padded(d), target + c * kTile + j);
    }
  }
}

OCTAVO_TARGET void load_values(DType dtype, const std::byte* const* values, std::int64_t count,
                               std::int64_t dv, float* target) {
  const std::int64_t bytes = dv * static_cast<std::int64_t>(size_of(dtype));
  for (std::int64_t j = 0; j < count; ++j) {
    fetch(values[j + kAhead], bytes);
    load_row(dtype, values[j], target + j * padded(dv), dv);
  }
}

OCTAVO_TARGET bool all_finite(const float* values, std::int64_t keys, std::int64_t width) {
  Vector nan_if_not = {};
  for (std::int64_t i = 0; i < keys * width; i += kLanes) nan_if_not += load(values + i) * 0.0f;
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += nan_if_not[lane];
  return sum == 0;
}

/// 2^x for x <= 0, relative error about 2e-7; exactly 1 at 0, and 0 below the smallest normal.
OCTAVO_TARGET inline Vector exp2_negative(Vector x) {
  const Vector clamped = x < -126.0f ? Vector{} - 126.0f : x;
  const Vector shifted = clamped + 0x1.8p23f;  // rounds to an integer in the low mantissa bits
  const Vector f = clamped - (shifted - 0x1.8p23f);
  Vector y = f * 1.5403530e-4f + 1.3333558e-3f;  // Taylor: ln(2)^n / n! on [-1/2, 1/2]
  y = y * f + 9.6181291e-3f;
  y = y * f + 5.5504109e-2f;
  y = y * f + 2.4022651e-1f;
  y = y * f + 6.9314718e-1f;
  y = y * f + 1.0f;
  const Vector power = (Vector)(((Bits)shifted + 127) << 23);
  return x < -126.0f ? Vector{} : y * power;
}

/// Error about 2e-7, absolute.
OCTAVO_TARGET inline Vector tanh(Vector x) {
  const Bits sign = (Bits)x & 0x80000000u;
  const Vector magnitude = (Vector)((Bits)x ^ sign);
  const Vector e = exp2_negative(magnitude * static_cast<float>(-2 * kLog2e));
  return (Vector)((Bits)((1.0f - e) / (1.0f + e)) | sign);
}

template <int... Lane>
OCTAVO_TARGET inline Integers lane_numbers(std::integer_sequence<int, Lane...>) {
  return Integers{Lane...};
}

/// A dot product as a logit in units of log2. `j` counts keys in the tile.
OCTAVO_TARGET inline Vector to_logit(const Logit& logit, const SoftmaxRows& row, Vector dot,
                                     std::int64_t j) {
  if (logit.cap == 0 && !logit.alibi) {
    return dot * static_cast<float>(static_cast<double>(logit.factor) * kLog2e);
  }
  Vector x = dot * logit.factor;
  if (logit.cap != 0) x = logit.cap * tanh(x / logit.cap);
  if (logit.alibi) {
    const std::int64_t first = row.tile - row.positions[0] + j;
    const Integers away = lane_numbers(Lanes{}) + static_cast<std::int32_t>(first);
    x += row.slopes[0] * __builtin_convertvector(away, Vector);
  }
  return x * static_cast<float>(kLog2e);
}

template <int Distance>
OCTAVO_TARGET inline float largest_lane(Vector x) {
  if constexpr (Distance == 0) {
    return x[0];
  } else {
    const Vector other = shuffle<Swapped<Distance>>(x, x);
    return largest_lane<Distance / 2>(x > other ? x : other);
  }
}

/// Adds kStripe partial sums: halves of the stripe, then their halves.
template <int Distance>
OCTAVO_TARGET inline float sum_lanes(Vector x) {
  if constexpr (Distance == 0) {
    return x[0];
  } else {
    return sum_lanes<Distance / 2>(x + shuffle<Swapped<Distance>>(x, x));
  }
}
template <int Vectors>
OCTAVO_TARGET inline float sum_stripe(Vector* sums) {
  if constexpr (Vectors > 1) {
    for (int v = 0; v < Vectors / 2; ++v) sums[v] += sums[v + Vectors / 2];
    return sum_stripe<Vectors / 2>(sums);
  } else {
    return sum_lanes<kLanes / 2>(sums[0]);
  }
}

/// Only -inf and NaN so far: weights are 0 where the score is -inf.
OCTAVO_TARGET [[gnu::noinline]] void soften_without_largest(const SoftmaxRows& row) {
  for (std::int64_t j = 0; j < row.columns; ++j) {
    if (row.scores[j] == -kInfinity) row.scores[j] = 0;
    *row.sum += row.scores[j];
  }
}

/// -inf in place of the keys that the first row does not see.
OCTAVO_TARGET inline Vector hide(const SoftmaxRows& row, Vector x, std::int64_t j) {
  if (row.visible != nullptr) {
    return load_as<Integers>(row.visible + j) != 0 ? x : Vector{} - kInfinity;
  }
  const Integers lanes = lane_numbers(Lanes{}) + static_cast<std::int32_t>(j);
  const Integers sees = (lanes >= row.spans[0].begin) & (lanes < row.spans[0].end);
  return sees != 0 ? x : Vector{} - kInfinity;
}

/// The first of the rows.
OCTAVO_TARGET void soften_row(const Logit& logit, const SoftmaxRows& row) {
  float* scores = row.scores;
  const bool sees_all = row.sees_all(0);
  Vector most = Vector{} + *row.largest;
  for (std::int64_t j = 0; j < row.columns; j += kLanes) {
    Vector x = to_logit(logit, row, load(scores + j), j);
    if (!sees_all) x = hide(row, x, j);
    most = x > most ? x : most;  // never NaN
    store(scores + j, x);
  }
  const float largest = largest_lane<kLanes / 2>(most);
  if (largest == -kInfinity) return soften_without_largest(row);

  Vector sums[kVectors] = {};
  for (std::int64_t j = 0; j < row.columns; j += kStripe) {
    for (int v = 0; v < kVectors; ++v) {
      const Vector weights = exp2_negative(load(scores + j + v * kLanes) - largest);
      sums[v] += weights;
      store(scores + j + v * kLanes, weights);
    }
  }
  const float sum = sum_stripe<kVectors>(sums);
  if (*row.largest == largest) {
    *row.sum += sum;
    return;
  }
  const float decay = exp2_negative(Vector{} + (*row.largest - largest))[0];
  *row.sum = *row.sum * decay + sum;
  *row.largest = largest;
  // The product may be -0; adding 0 makes it 0.
  for (std::int64_t c = 0; c < row.width; c += kLanes) {
    store(row.out + c, load(row.out + c) * decay + 0.0f);
  }
}

OCTAVO_TARGET void soften(const Logit& logit, const SoftmaxRows& rows) {
  for (std::int64_t r = 0; r < rows.rows; ++r) soften_row(logit, rows.from(r, 1));
}

OCTAVO_TARGET void combine(float* total, float before, const float* part, float after,
                           std::int64_t width) {
  for (std::int64_t c = 0; c < width; c += kLanes) {
    store(total + c, load(total + c) * before + load(part + c) * after);
  }
}

OCTAVO_TARGET void store_row(DType dtype, void* target, const float* source, std::int64_t count) {
  store_floats(dtype, target, source, count);
}

OCTAVO_TARGET void load_query(DType dtype, const std::byte* row, std::int64_t d, float* target) {
  load_row(dtype, row, target, d);
}

OCTAVO_TARGET void add_visible(const float* weights, const std::int32_t* visible, std::int64_t keys,
                               const float* values, float* out, std::int64_t width) {
  for (std::int64_t j = 0; j < keys; ++j) {
    if (visible[j] != 0) combine(out, 1.0f, values + j * width, weights[j], width);
  }
}

constexpr TileMath make_math(double multiply_adds_per_us) {
  return {kTile,    1,           load_query, load_keys, load_values, all_finite,
          multiply, add_visible, soften,     combine,   store_row,   multiply_adds_per_us};
}
