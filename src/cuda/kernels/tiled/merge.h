// Merges the partial results of a tile of rows: those of a group in their order, and then the
// groups'. It runs once where memory may be busy: short code, and all loads at once.
#pragma once

#include "ptx/cp_async.h"
#include "ptx/ldmatrix.h"
#include "tiled/result.h"

namespace octavo::cuda {

/// Partial results of a row, as many as `Parts` at a time.
template <int Parts>
struct alignas(16) MergeSpace {
  float sums[Parts][kMergeThreads];
  RowState states[Parts];
};

/// A column of a row.
struct Merged {
  RowState state{-infinity(), 0};
  float sum = 0;

  __device__ void add(const RowState& part, float part_sum) {
    const RowSum added(state, part);
    state = added.state;
    sum = added.of(sum, part_sum);
  }
};

/// One of kMergeThreads threads that merge a tile's rows. `sync()` waits for all of them.
template <int Parts, typename Sync>
class Merge {
 public:
  /// `tile`: of any unit.
  __device__ Merge(const TiledParams& p, const RowTile& tile, int32_t kv_head, int thread,
                   MergeSpace<Parts>& space, const Sync& sync)
      : p_(p),
        tile_(tile),
        kv_head_(kv_head),
        thread_(thread),
        space_(space),
        sync_(sync),
        item_0_(partial_at(
            p, tile.partials + tile.place.unit / tile.tiling.items * tile.tiling.items, kv_head)),
        group_items_(tile.tiling.group / tile.tiling.together) {}

  __device__ void merge_row(int row) const {
    const AttentionParams& a = p_.attention;
#pragma unroll 1
    for (int first_column = 0; first_column < a.dv; first_column += kMergeThreads) {
      const Merged merged = merge_columns(row, first_column);
      const int column = first_column + thread_;
      if (column >= a.dv) continue;
      const RowHead to(p_, tile_, kv_head_, row);
      const float factor = finish_row(a, to, merged.state, value_factor(a, kv_head_), column == 0);
      store(Type{p_.out_type}, a.out, to.out_offset(a) + column, merged.sum * factor);
    }
  }

 private:
  __device__ Merged merge_columns(int row, int first_column) const {
    Merged merged;
    Merged group;
    int32_t left = group_items_ - tile_.first_item % group_items_;  // of the group
#pragma unroll 1
    for (int32_t item = tile_.first_item; item < tile_.end_item; item += Parts) {
      const int parts = min(Parts, tile_.end_item - item);
      sync_();  // those before are read
      load(item, parts, row, first_column);
      sync_();
#pragma unroll 1
      for (int i = 0; i < parts; ++i) {
        group.add(space_.states[i], space_.sums[i][thread_]);
        if (--left > 0 && item + i + 1 < tile_.end_item) continue;
        merged.add(group.state, group.sum);
        group = {};
        left = group_items_;
      }
    }
    return merged;
  }

  __device__ void load(int32_t item, int parts, int row, int first_column) const {
    const int32_t columns = min(kMergeThreads, item_0_.pitch - first_column);
    const float* sums = item_0_.sums + int64_t{row} * item_0_.pitch + first_column;
#pragma unroll 1
    for (int i = thread_; i < parts * (kMergeThreads / 4); i += kMergeThreads) {
      const int part = i / (kMergeThreads / 4);
      const int column = i % (kMergeThreads / 4) * 4;
      if (column >= columns) continue;
      copy_async_16(shared_address(&space_.sums[part][column]),
                    sums + int64_t{item + part} * item_0_.unit_floats + column, 16);
    }
    commit_copies();
#pragma unroll 1
    for (int part = thread_; part < parts; part += kMergeThreads) {
      // Past L1, as copies are: other thread blocks wrote it.
      const float2 state = __ldcg(reinterpret_cast<const float2*>(
          item_0_.states + int64_t{item + part} * item_0_.unit_floats / 2 + row));
      space_.states[part] = {state.x, state.y};
    }
    wait_for_copies<0>();
  }

  const TiledParams& p_;
  const RowTile& tile_;
  int32_t kv_head_;
  int thread_;
  MergeSpace<Parts>& space_;
  const Sync& sync_;
  Partial item_0_;
  int32_t group_items_;
};

}  // namespace octavo::cuda
