#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/call.h"

namespace octavo {

/// Some rows of one request and KV head, or all rows of several heads. The rows of a head are query
/// tokens times the heads of its GQA group, packed: row = token * group + head within the group.
struct Block {
  const Request* request;
  std::int64_t kv_head;  ///< the first
  std::int64_t heads;
  std::int64_t row_begin;
  std::int64_t rows;  ///< of all heads
  KeyRange keys;      ///< what its rows see together
  double cost;
  std::int64_t split_begin, split_end;  ///< those that have some of its keys
  /// Where its splits are items of their own: their partial results, and how many are missing.
  float* partials = nullptr;
  std::atomic<std::int64_t>* missing = nullptr;
};

/// What one call of the executor's task does: a block's splits in order, or one of them.
struct Item {
  static constexpr std::int64_t kAllSplits = -1;
  const Block* block;
  std::int64_t split;
  double cost;
};

struct Tiling {
  std::int64_t few_rows;        ///< of a request and KV head: up to so many, heads share a block
  std::int64_t most_heads;      ///< of such a block
  std::int64_t most_rows;       ///< of a block
  std::int64_t fewest_rows;     ///< of a block that was made smaller to have one for each thread
  std::int64_t split;           ///< tokens in a KV split
  std::int64_t partial_floats;  ///< a row's partial result of one split
};

/// The work of a run, longest items first.
///
/// A block's splits are computed one after the other and merged in order, unless the block is so
/// long that threads would wait for it: then each split is an item, writes its partial result to
/// the workspace, and the last to finish merges them in the same order. So the bits do not depend
/// on the choice, and where the workspace has no room left the block stays whole.
class Schedule {
 public:
  Schedule(const Call& call, const Tiling& tiling, int threads);
  const std::vector<Item>& items() const { return items_; }

  /// Bytes for any run within the problem's bounds.
  static std::size_t workspace(const Problem& problem, const Tiling& tiling);

 private:
  void make_blocks(const Call& call, const Tiling& tiling, int threads);
  void add_blocks(const Call& call, const Tiling& tiling, const Request& request,
                  std::int64_t heads, std::int64_t most_rows);
  void share_long_blocks(const Call& call, const Tiling& tiling, int threads);

  std::vector<Block> blocks_;
  std::vector<Item> items_;
  std::unique_ptr<std::atomic<std::int64_t>[]> missing_;
};

}  // namespace octavo
