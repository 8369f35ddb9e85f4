#include "cpu/schedule.h"

#include <algorithm>

namespace octavo {
namespace {

constexpr std::size_t kLargestWorkspace = 16 << 20;  // bytes: 4000 partial results of 8 rows, d=128
constexpr double kLoadRows = 8;  // loading a key and its value costs as much as so many rows' use
constexpr double kBlocksPerThread = 2;
constexpr double kItemsPerThread = 4;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Later queries see later keys, whatever the mask: the first and last row bound the block's keys.
KeyRange keys_of_rows(const Problem& p, const Request& request, std::int64_t begin,
                      std::int64_t end) {
  const KeyRange first = visible_keys(p.mask, request.position(begin / p.group()), request.kv_len);
  const KeyRange last =
      visible_keys(p.mask, request.position((end - 1) / p.group()), request.kv_len);
  return {first.begin, std::max(first.begin, last.end)};
}

std::int64_t rows_of_blocks(const Call& call, const Tiling& tiling, int threads) {
  std::int64_t rows = tiling.most_rows;
  while (rows / 2 >= tiling.fewest_rows) {
    std::int64_t blocks = 0;
    for (const Request& request : call.requests) {
      blocks += ceil_div(request.q_len * call.problem.group(), rows) * call.problem.hkv;
    }
    if (static_cast<double>(blocks) >= kBlocksPerThread * threads) break;
    rows /= 2;
  }
  return rows;
}

/// Heads of a block of few rows: as many as allowed, or fewer to have enough items for the threads.
std::int64_t heads_of_blocks(const Call& call, const Tiling& tiling, int threads) {
  const Problem& p = call.problem;
  const std::int64_t group = p.group();
  std::int64_t heads = std::min(tiling.most_heads, p.hkv);
  for (; heads > 1; heads = (heads + 1) / 2) {
    std::int64_t items = 0;
    for (const Request& request : call.requests) {
      const bool few = request.q_len * group <= tiling.few_rows;
      items += ceil_div(request.kv_len, tiling.split) * ceil_div(p.hkv, few ? heads : 1);
    }
    if (static_cast<double>(items) >= kItemsPerThread * threads) break;
  }
  return heads;
}

}  // namespace

std::size_t Schedule::workspace(const Problem& p, const Tiling& tiling) {
  const std::int64_t splits = ceil_div(p.max_kv_len(), tiling.split);
  if (splits <= 1) return 0;
  const double rows = static_cast<double>(p.total_q()) * static_cast<double>(p.hq);
  const double bytes = rows * static_cast<double>(splits) *
                       static_cast<double>(tiling.partial_floats) * sizeof(float);
  return bytes < static_cast<double>(kLargestWorkspace) ? static_cast<std::size_t>(bytes)
                                                        : kLargestWorkspace;
}

Schedule::Schedule(const Call& call, const Tiling& tiling, int threads) {
  make_blocks(call, tiling, threads);
  share_long_blocks(call, tiling, threads);
  std::stable_sort(items_.begin(), items_.end(),
                   [](const Item& x, const Item& y) { return x.cost > y.cost; });
}

void Schedule::make_blocks(const Call& call, const Tiling& tiling, int threads) {
  const std::int64_t most_rows = rows_of_blocks(call, tiling, threads);
  const std::int64_t heads = heads_of_blocks(call, tiling, threads);
  for (const Request& request : call.requests) {
    const bool few = request.q_len * call.problem.group() <= tiling.few_rows;
    add_blocks(call, tiling, request, few ? heads : 1, most_rows);
  }
}

void Schedule::add_blocks(const Call& call, const Tiling& tiling, const Request& request,
                          std::int64_t heads, std::int64_t most_rows) {
  const Problem& p = call.problem;
  const std::int64_t rows = request.q_len * p.group();
  for (std::int64_t begin = 0; begin < rows; begin += most_rows) {
    const std::int64_t count = std::min(most_rows, rows - begin);
    const KeyRange keys = keys_of_rows(p, request, begin, begin + count);
    const double cost =
        (static_cast<double>(count) + kLoadRows) * static_cast<double>(keys.end - keys.begin + 1);
    for (std::int64_t head = 0; head < p.hkv; head += heads) {
      const std::int64_t together = std::min(heads, p.hkv - head);
      blocks_.push_back({&request, head, together, begin, count * together, keys,
                         cost * static_cast<double>(together), keys.begin / tiling.split,
                         ceil_div(keys.end, tiling.split)});
    }
  }
}

void Schedule::share_long_blocks(const Call& call, const Tiling& tiling, int threads) {
  double total = 0;
  for (const Block& block : blocks_) total += block.cost;
  const double longest = threads > 1 ? total / (kItemsPerThread * threads) : total;
  missing_ = std::make_unique<std::atomic<std::int64_t>[]>(blocks_.size());
  float* free = reinterpret_cast<float*>(call.workspace);
  std::size_t floats = workspace(call.problem, tiling) / sizeof(float);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    Block& block = blocks_[i];
    const std::int64_t splits = block.split_end - block.split_begin;
    const auto needed = static_cast<std::size_t>(splits * block.rows * tiling.partial_floats);
    if (block.cost <= longest || splits <= 1 || needed > floats) {
      items_.push_back({&block, Item::kAllSplits, block.cost});
      continue;
    }
    block.partials = free;
    block.missing = &missing_[i];
    block.missing->store(splits, std::memory_order_relaxed);
    free += needed;
    floats -= needed;
    for (std::int64_t s = block.split_begin; s < block.split_end; ++s) {
      items_.push_back({&block, s, block.cost / static_cast<double>(splits)});
    }
  }
}

}  // namespace octavo
