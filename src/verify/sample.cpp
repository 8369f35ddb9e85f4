#include <algorithm>
#include <utility>

#include "verify/random.h"
#include "verify/verify.h"

namespace octavo::verify {
namespace {

constexpr double kLargestCost = 5e6;

double cost(const Problem& p) {
  double sum = 0;
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    sum += static_cast<double>(p.q_len[r]) * static_cast<double>(p.kv_len[r]);
  }
  return sum * static_cast<double>(p.hq * std::max(p.d, p.dv));
}

bool is_valid(const Problem& p) {
  try {
    validate(p);
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::int64_t sample_dim(Random& random) {
  if (random.chance(0.03)) return 576;
  if (random.chance(0.05)) return random.integer(1, 300);
  return random.pick<std::int64_t>({8, 16, 20, 24, 33, 40, 64, 64, 72, 96, 128, 128, 192, 256});
}

std::int64_t sample_length(Random& random) {
  if (random.chance(0.2)) return random.integer(0, 300);
  return random.pick<std::int64_t>({0, 1, 7, 8, 9, 15, 16, 17, 33, 64, 65, 100, 130, 257});
}

Mask sample_mask(Random& random) {
  Mask mask;
  mask.kind = random.pick({MaskKind::none, MaskKind::causal, MaskKind::causal, MaskKind::window,
                           MaskKind::chunked, MaskKind::bits});
  if (mask.kind == MaskKind::window) {
    mask.left = random.pick<std::int64_t>({-1, 0, 1, 7, 16, 31, 64, 100});
    mask.right = random.pick<std::int64_t>({-1, 0, 0, 0, 1, 5, 32});
  } else if (mask.kind == MaskKind::chunked) {
    mask.chunk = random.pick<std::int64_t>({1, 3, 16, 17, 64, 100});
  }
  return mask;
}

ScaleKind sample_scale(Random& random) {
  return random.pick({ScaleKind::host, ScaleKind::host, ScaleKind::tensor, ScaleKind::head});
}

DType sample_dtype(Random& random) {
  return random.pick({DType::f32, DType::f16, DType::bf16, DType::bf16, DType::e4m3, DType::e5m2});
}

void sample_lengths(Random& random, Problem& p) {
  const std::int64_t requests = random.integer(1, 5);
  const bool decode = random.chance(0.3);
  for (std::int64_t r = 0; r < requests; ++r) {
    const std::int64_t kv_len = sample_length(random);
    std::int64_t q_len = kv_len;
    if (p.layout != Layout::packed) {
      if (decode || random.chance(0.2)) {
        q_len = 1;
      } else if (!random.chance(0.3)) {
        q_len = sample_length(random);
        if (random.chance(0.8)) q_len = std::min(q_len, kv_len);
      }
    }
    p.q_len.push_back(q_len);
    p.kv_len.push_back(kv_len);
  }
  while (cost(p) > kLargestCost) {
    const bool equal = p.layout == Layout::packed;
    const auto longest = std::max_element(p.q_len.begin(), p.q_len.end());
    if (*longest > 1) {
      *longest = *longest * 2 / 3;
      if (equal) p.kv_len[longest - p.q_len.begin()] = *longest;
    } else {
      const auto longest_kv = std::max_element(p.kv_len.begin(), p.kv_len.end());
      *longest_kv /= 2;
      if (equal) p.q_len[longest_kv - p.kv_len.begin()] = *longest_kv;
    }
  }
}

/// Puts the same tokens before those of all requests.
void sample_prefix(Random& random, Problem& p) {
  p.prefix = p.page_size * random.integer(1, std::max<std::int64_t>(1, 100 / p.page_size));
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    p.q_len[r] = std::min(p.q_len[r], p.kv_len[r] + 1);
    p.kv_len[r] += p.prefix;
  }
}

Problem draw(Random& random) {
  Problem p;
  p.layout = random.pick({Layout::paged, Layout::paged, Layout::paged, Layout::ragged,
                          Layout::contiguous, Layout::packed});
  if (p.layout == Layout::paged) {
    p.order = random.pick({PageOrder::nhd, PageOrder::hnd});
    p.pool = random.pick({Pool::joint, Pool::split});
    p.page_size = random.pick<std::int64_t>({1, 2, 3, 5, 8, 16, 16, 32, 33, 64});
  }
  p.q = sample_dtype(random);
  p.kv = p.layout == Layout::packed || random.chance(0.5) ? p.q : sample_dtype(random);
  p.out = random.chance(0.5) ? p.q : sample_dtype(random);
  p.hkv = random.integer(1, 3);
  p.hq = p.hkv * random.integer(1, 8);
  p.d = sample_dim(random);
  const bool apart =
      p.layout == Layout::ragged || (p.layout == Layout::paged && p.pool == Pool::split);
  p.dv = apart && random.chance(0.4) ? sample_dim(random) : p.d;
  p.mask = sample_mask(random);
  if (random.chance(0.2)) p.cap = random.pick({1.0, 5.0, 30.0, 50.0});
  if (random.chance(0.2)) p.scale = random.pick({0.0625, 0.125, 0.3, 0.5});
  if (random.chance(0.4)) {
    p.q_scale = sample_scale(random);
    p.k_scale = sample_scale(random);
    p.v_scale = sample_scale(random);
    p.out_scale = sample_scale(random);
  }
  p.sinks = random.chance(0.25);
  p.alibi = random.chance(0.25);
  p.lse = random.chance(0.5);
  p.invariant = random.chance(0.25);
  if (random.chance(0.3)) p.split = random.pick<std::int64_t>({1, 7, 16, 32, 33, 64});
  sample_lengths(random, p);
  if (p.layout == Layout::paged && random.chance(0.3)) sample_prefix(random, p);
  return p;
}

/// Problems that are simpler than this one in one way each, the largest steps first.
std::vector<Problem> simpler(const Problem& p) {
  std::vector<Problem> out;
  const auto add = [&](auto change) {
    Problem next = p;
    change(next);
    if (next != p && is_valid(next)) out.push_back(std::move(next));
  };
  for (std::int64_t r = 0; r < p.batch() && p.batch() > 1; ++r) {
    add([&](Problem& n) {
      n.q_len.erase(n.q_len.begin() + r);
      n.kv_len.erase(n.kv_len.begin() + r);
    });
  }
  const Problem plain;
  add([&](Problem& n) { n.invariant = false; });
  add([&](Problem& n) { n.alibi = false; });
  add([&](Problem& n) { n.sinks = false; });
  add([&](Problem& n) { n.lse = false; });
  add([&](Problem& n) { n.cap.reset(); });
  add([&](Problem& n) { n.scale.reset(); });
  add([&](Problem& n) { n.q_scale = ScaleKind::host; });
  add([&](Problem& n) { n.k_scale = ScaleKind::host; });
  add([&](Problem& n) { n.v_scale = ScaleKind::host; });
  add([&](Problem& n) { n.out_scale = ScaleKind::host; });
  add([&](Problem& n) { n.split = 0; });
  add([&](Problem& n) { n.prefix = 0; });
  add([&](Problem& n) { n.prefix -= std::min(n.prefix, n.page_size); });
  add([&](Problem& n) { n.mask = {}; });
  add([&](Problem& n) {
    if (n.mask.kind != MaskKind::none) n.mask = {MaskKind::causal, -1, -1, 0};
  });
  add([&](Problem& n) { n.order = PageOrder::nhd; });
  add([&](Problem& n) { n.pool = Pool::joint; });
  add([&](Problem& n) { n.page_size = plain.page_size; });
  add([&](Problem& n) {
    n.layout = Layout::ragged;
    n.order = plain.order;
    n.pool = plain.pool;
    n.page_size = plain.page_size;
    n.prefix = 0;
  });
  add([&](Problem& n) { n.q = n.kv = n.out = DType::f32; });
  add([&](Problem& n) { n.out = n.q; });
  add([&](Problem& n) { n.kv = n.q; });
  add([&](Problem& n) { n.hq = n.hkv = 1; });
  add([&](Problem& n) { n.hq = n.hkv; });
  add([&](Problem& n) { n.hq = n.group(), n.hkv = 1; });
  for (const std::int64_t dim : {std::int64_t{8}, std::int64_t{64}, p.d / 2}) {
    add([&](Problem& n) {
      if (dim < n.d) n.dv = n.dv == n.d ? dim : n.dv, n.d = dim;
    });
    add([&](Problem& n) {
      if (dim < n.dv) n.dv = dim;
    });
  }
  add([&](Problem& n) { n.dv = n.d; });
  const auto shorter = [&](std::int64_t r, std::int64_t q_len, std::int64_t kv_len) {
    add([&](Problem& n) {
      n.q_len[r] = std::max<std::int64_t>(0, std::min(q_len, p.q_len[r]));
      n.kv_len[r] = std::max<std::int64_t>(0, std::min(kv_len, p.kv_len[r]));
    });
  };
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    const std::int64_t q_len = p.q_len[r];
    const std::int64_t kv_len = p.kv_len[r];
    shorter(r, 1, 1);
    shorter(r, q_len / 2, kv_len / 2);
    shorter(r, 1, kv_len);
    shorter(r, q_len / 2, kv_len);
    shorter(r, q_len, kv_len / 2);
    shorter(r, q_len - 1, kv_len - 1);
    shorter(r, q_len - 1, kv_len);
    shorter(r, q_len, kv_len - 1);
  }
  return out;
}

}  // namespace

Problem sample(std::uint64_t seed) {
  Random random(seed);
  for (int tries = 0; tries < 1000; ++tries) {
    Problem p = draw(random);
    if (is_valid(p)) return p;
  }
  throw Error(ErrorCode::invalid_problem,
              "no valid problem drawn from seed " + std::to_string(seed) + " in 1000 tries");
}

Problem shrink(const Problem& failing, const std::function<bool(const Problem&)>& fails) {
  Problem best = failing;
  int left = 2000;  // so that a slow failure does not shrink for ever
  for (bool progress = true; progress && left > 0;) {
    progress = false;
    for (const Problem& next : simpler(best)) {
      if (--left <= 0) break;
      if (!fails(next)) continue;
      best = next;
      progress = true;
      break;
    }
  }
  return best;
}

}  // namespace octavo::verify
