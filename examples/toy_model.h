// The weights of a small decoder, drawn at random, and its products. Knows no cache.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "octavo/octavo.h"

namespace toy {

constexpr std::int64_t kLayers = 2, kHidden = 64, kHq = 4, kHkv = 2, kD = 16, kVocabulary = 300;

using Rows = std::vector<float>;  ///< [rows, columns] of one of the matrices

struct Matrix {
  std::int64_t in, out;
  Rows weights;  ///< [in, out]

  Matrix(std::int64_t rows, std::int64_t columns, std::mt19937& random) : in(rows), out(columns) {
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(rows)));
    for (std::int64_t i = 0; i < in * out; ++i) weights.push_back(normal(random));
  }
  /// Row by row in the same order, so that a row's bits do not depend on the batch.
  Rows operator()(const Rows& x) const {
    Rows y(x.size() / in * out, 0.0f);
    for (std::size_t row = 0; row < x.size() / in; ++row) {
      for (std::int64_t i = 0; i < in; ++i) {
        for (std::int64_t o = 0; o < out; ++o)
          y[row * out + o] += x[row * in + i] * weights[i * out + o];
      }
    }
    return y;
  }
};

struct Layer {
  Matrix q, k, v, out;
  explicit Layer(std::mt19937& random)
      : q(kHidden, kHq * kD, random),
        k(kHidden, kHkv * kD, random),
        v(kHidden, kHkv * kD, random),
        out(kHq * kD, kHidden, random) {}
};

/// Rows of `count` heads, as attention takes them.
inline octavo::TensorView<3> heads(Rows& rows, std::int64_t count) {
  const auto tokens = static_cast<std::int64_t>(rows.size()) / (count * kD);
  return octavo::TensorView<3>::dense(rows.data(), octavo::DType::f32, {tokens, count, kD});
}

}  // namespace toy
