#include <limits>
#include <vector>

#include "cpu/convert.h"
#include "cpu/kernels.h"

namespace octavo {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLaunchUs = 5;             // too high for the smallest problem: chosen as the last
constexpr double kMultiplyAddsPerUs = 300;  // one thread, scalar, measured to within a factor of 2

Support supports(const Problem&, const Device&) { return {}; }

double cost_us(const Problem& problem, const Device& device) {
  return kLaunchUs + multiply_adds(problem) / (kMultiplyAddsPerUs * device.threads);
}

/// One query token of one head: all scores, then their softmax, then the weighted values.
struct Row {
  const Call& call;
  const Request& request;
  std::int64_t token;
  std::int64_t head;
  std::vector<std::int64_t> keys;
  std::vector<double> scores;

  void find_scores(const float* q, std::int64_t kv_head) {
    const Problem& p = call.problem;
    const Arguments& a = call.arguments;
    const std::int64_t position = request.position(token);
    const double scale = p.softmax_scale() * scale_of(a.q_scale, p.q_scale, kv_head) *
                         scale_of(a.k_scale, p.k_scale, kv_head);
    std::vector<float> key(static_cast<std::size_t>(p.d));
    const KeyRange range = visible_keys(p.mask, position, request.kv_len);
    for (std::int64_t j = range.begin; j < range.end; ++j) {
      if (p.mask.kind == MaskKind::bits && !mask_bit(a.mask_bits, request.q_begin + token, j)) {
        continue;
      }
      load_floats(p.kv, call.kv_row(a.k, request, j, kv_head), key.data(), p.d);
      double score = 0;
      for (std::int64_t i = 0; i < p.d; ++i) score += static_cast<double>(q[i]) * key[i];
      score *= scale;
      if (p.cap) score = *p.cap * std::tanh(score / *p.cap);
      if (p.alibi) score += a.alibi_slopes[head] * static_cast<double>(j - position);
      keys.push_back(j);
      scores.push_back(score);
    }
  }

  void write(std::int64_t kv_head) {
    const Problem& p = call.problem;
    const Arguments& a = call.arguments;
    double largest = p.sinks ? a.sinks[head] : -kInfinity;
    for (double score : scores) largest = std::max(largest, score);
    double sum = p.sinks ? std::exp(a.sinks[head] - largest) : 0;
    std::vector<double> result(static_cast<std::size_t>(p.dv), 0.0);
    std::vector<float> value(static_cast<std::size_t>(p.dv));
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const double weight = std::exp(scores[i] - largest);
      sum += weight;
      load_floats(p.kv, call.kv_row(a.v, request, keys[i], kv_head), value.data(), p.dv);
      for (std::int64_t c = 0; c < p.dv; ++c) result[c] += weight * value[c];
    }
    const double scale = static_cast<double>(scale_of(a.v_scale, p.v_scale, kv_head)) *
                         scale_of(a.out_scale, p.out_scale, kv_head);
    for (std::int64_t c = 0; c < p.dv; ++c) {
      value[c] = keys.empty() ? 0.0f : static_cast<float>(result[c] / sum * scale);
    }
    const std::int64_t row = request.q_begin + token;
    std::byte* out =
        static_cast<std::byte*>(a.out.data) + (row * a.out.stride[0] + head * a.out.stride[1]) *
                                                  static_cast<std::int64_t>(size_of(p.out));
    store_floats(p.out, out, value.data(), p.dv);
    if (p.lse) {
      static_cast<float*>(a.lse.data)[row * a.lse.stride[0] + head * a.lse.stride[1]] =
          static_cast<float>(largest + std::log(sum));
    }
  }
};

void attend(const Call& call, const Request& request, std::int64_t token, std::int64_t head) {
  const Problem& p = call.problem;
  const TensorView<3>& view = call.arguments.q;
  std::vector<float> q(static_cast<std::size_t>(p.d));
  const std::int64_t offset = (request.q_begin + token) * view.stride[0] + head * view.stride[1];
  load_floats(
      p.q,
      static_cast<const std::byte*>(view.data) + offset * static_cast<std::int64_t>(size_of(p.q)),
      q.data(), p.d);
  Row row{call, request, token, head, {}, {}};
  row.find_scores(q.data(), head / p.group());
  row.write(head / p.group());
}

void launch(const Call& call, Executor& executor) {
  struct Item {
    const Request* request;
    std::int64_t token;
  };
  std::vector<Item> items;
  for (const Request& request : call.requests) {
    for (std::int64_t token = 0; token < request.q_len; ++token) items.push_back({&request, token});
  }
  executor.parallel_for(static_cast<std::int64_t>(items.size()), [&](std::int64_t i) {
    const Item& item = items[static_cast<std::size_t>(i)];
    for (std::int64_t head = 0; head < call.problem.hq; ++head) {
      attend(call, *item.request, item.token, head);
    }
  });
}

}  // namespace

KernelInfo cpu_reference() {
  return {"cpu_reference", supports, cost_us, [](const Problem&) { return std::size_t{0}; },
          launch};
}

}  // namespace octavo
