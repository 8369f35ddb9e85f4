#include "verify/oracle.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace octavo::verify {
namespace {

// The bounds. A kernel adds in fp32 with unit roundoff u. Rounding errors of a sum of n terms
// behave like a random walk: with lambda = 8 the probability that they exceed lambda * sqrt(n) * u
// times the sum of the terms' magnitudes is negligible, for any order of the additions.
//
// - A score's error `ds` comes from the dot product (d terms of total magnitude A), from a few
//   products with factors and ALiBi's term, from tanh (relative to the cap) and from the argument
//   of the exponential (relative to the largest score).
// - A weight then has relative error ds, and so has the denominator: twice ds for the result,
//   relative to W = sum_j p_j |v_j|. To it add the sum over n keys, the exponential's own error and
//   the few operations after it (32 u), and half a unit in the last place of a weight, where the
//   kernel rounds weights to a smaller format.
// - Storing the result adds half a unit in the last place of the output's dtype.
constexpr double kUnit = 0x1p-24;
constexpr double kLambda = 8;
constexpr double kFewOperations = 32;
constexpr double kSlack = 1.01;

double storing_error(double magnitude, DType dtype) {
  const Format format = format_of(dtype);
  const int smallest = 2 - (1 << (format.exponent_bits - 1)) - format.mantissa_bits;
  return std::ldexp(magnitude, -(format.mantissa_bits + 1)) + std::ldexp(0.5, smallest);
}

struct Score {
  std::int64_t token;
  double value;
};

}  // namespace

Row oracle_row(const Case& c, std::int64_t request, std::int64_t query, std::int64_t head,
               DType weights) {
  const Problem& p = c.problem();
  const std::int64_t kv_head = head / (p.hq / p.hkv);
  const std::int64_t pos = p.kv_len[request] - p.q_len[request] + query;
  const double softmax_scale = p.scale.value_or(1 / std::sqrt(static_cast<double>(p.d)));
  const double factor = softmax_scale * c.q_scale(kv_head) * c.k_scale(kv_head);
  const double* q = c.q(c.first_q(request) + query, head);
  const std::optional<double> sink = c.sink(head);

  std::vector<Score> scores;
  double amplitude = 0;  // A: the largest total magnitude of what is added up to a score
  double largest = sink ? *sink : -std::numeric_limits<double>::infinity();
  double magnitude = sink ? std::abs(*sink) : 0;
  for (std::int64_t j = 0; j < p.kv_len[request]; ++j) {
    if (!c.sees(request, query, j)) continue;
    const std::int64_t token = c.first_kv(request) + j;
    const double* k = c.k(token, kv_head);
    double dot = 0;
    double terms = 0;
    for (std::int64_t i = 0; i < p.d; ++i) {
      dot += q[i] * k[i];
      terms += std::abs(q[i] * k[i]);
    }
    double s = factor * dot;
    if (p.cap) s = *p.cap * std::tanh(s / *p.cap);
    const double bias = c.slope(head) * static_cast<double>(j - pos);
    s += bias;
    scores.push_back({token, s});
    amplitude = std::max(amplitude, std::abs(factor) * terms + std::abs(bias));
    largest = std::max(largest, s);
    magnitude = std::max(magnitude, std::abs(s));
  }

  Row row;
  row.out.assign(static_cast<std::size_t>(p.dv), 0);
  row.out_bound.assign(static_cast<std::size_t>(p.dv), 0);
  if (scores.empty() && !sink) {
    row.lse = -std::numeric_limits<double>::infinity();
    return row;
  }

  double denominator = sink ? std::exp(*sink - largest) : 0;
  for (const Score& score : scores) denominator += std::exp(score.value - largest);
  row.lse = largest + std::log(denominator);

  const double n = static_cast<double>(scores.size());
  const double walk = kLambda * std::sqrt(static_cast<double>(p.d));
  const double ds = kUnit * ((walk + 16) * amplitude + 8 * p.cap.value_or(0) + 8 * (magnitude + 1));
  const double sum_error = kUnit * (kLambda * std::sqrt(n) + kFewOperations);
  row.lse_bound = kSlack * (ds + sum_error + kUnit * std::abs(row.lse));
  if (scores.empty()) return row;  // nothing but a sink: exactly 0

  std::vector<double> weighted(static_cast<std::size_t>(p.dv), 0);  // W
  std::vector<double> magnitudes(static_cast<std::size_t>(p.dv), 0);
  for (const Score& score : scores) {
    const double weight = std::exp(score.value - largest) / denominator;
    const double* v = c.v(score.token, kv_head);
    for (std::int64_t i = 0; i < p.dv; ++i) {
      row.out[i] += weight * v[i];
      weighted[i] += weight * std::abs(v[i]);
      magnitudes[i] += std::abs(v[i]);
    }
  }
  const double out_factor = c.v_scale(kv_head) * c.out_scale(kv_head);
  const double rounded =
      weights == DType::f32 ? 0 : std::ldexp(1.0, -(format_of(weights).mantissa_bits + 1));
  // Weights below fp32's normal numbers may become 0; those of f16, which GPUs multiply where
  // neither q nor KV is bf16, are multiples of 2^-24 of a weight that is not above the largest.
  const bool halves = weights != DType::f32 && p.q != DType::bf16 && p.kv != DType::bf16;
  const double least = std::abs(out_factor) * (halves ? 0x1p-25 : 0x1p-126);
  for (std::int64_t i = 0; i < p.dv; ++i) {
    const double exact = row.out[i] * out_factor;
    const double error = weighted[i] * std::abs(out_factor) * (2.2 * ds + sum_error + rounded) +
                         magnitudes[i] * least;
    row.out_bound[i] = kSlack * (error + storing_error(std::abs(exact) + error, p.out));
    const double limit = format_of(p.out).largest;
    row.out[i] = is_fp8(p.out) ? std::clamp(exact, -limit, limit) : exact;
  }
  return row;
}

}  // namespace octavo::verify
