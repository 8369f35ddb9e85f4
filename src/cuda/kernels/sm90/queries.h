// A tile of Q into shared memory, as the type that is multiplied: by boxes, which a loading warp
// asks for; or by the threads that have the rows, in copies that come while they do something else,
// or element by element.
#pragma once

#include "ptx/cp_async.h"
#include "ptx/tma.h"
#include "sm90/params.h"
#include "sm90/shared.h"
#include "tiled/queries.h"

namespace octavo::cuda {

/// Whether a tile can be taken as it is.
__device__ inline bool are_whole(const Sm90Params& p, const Item& item) {
  return p.q_whole && p.attention.d % 8 == 0 && !item.rows.logit.negative;
}
__device__ inline bool are_boxed(const Sm90Params& p, const Item& item) {
  return kWholeGroups && p.q.exist && are_whole(p, item);
}

/// By a warp, when nothing reads the item's before any more: a box for each warpgroup that has rows
/// and each slab.
__device__ inline void load_queries(const Sm90Params& p, const Item& item, Shared& shared) {
  const RowTile& tile = item.rows.tile;
  const int lane = lane_of_warp();
  const int groups = are_boxed(p, item) ? ceil_div(tile.rows, kRowsOfGroup) : 0;
  if (lane == 0) arrive_expecting(shared.q_full, groups * kKeySlabs * kGroupSlabBytes);
  __syncwarp();
  if (lane >= groups * kKeySlabs) return;
  const int group = lane / kKeySlabs;
  const int slab = lane % kKeySlabs;
  const int32_t token = divide(tile.first_row + group * kRowsOfGroup, p.group).quotient;
  copy_box(&p.q.map, slab * kSlabColumns, item.rows.kv_head * p.group.value,
           tile.place.q_begin + token, shared_address(shared.q[group][slab]), shared.q_full);
}

/// Calls take(row, column, to) for each eight columns of the rows of the calling thread's
/// warpgroup, of which this thread has every kGroupThreads-th: `to` is where they stand.
template <typename Take>
__device__ inline void for_queries(Shared& shared, const Take& take) {
  constexpr int kChunks = kD / 8;  // of a row
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads;
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x) % kGroupThreads; at < kRowsOfGroup * kChunks;
       at += kGroupThreads) {
    const int byte = at % kChunks * 16;
    take(group * kRowsOfGroup + at / kChunks, at % kChunks * 8,
         shared.q[group][byte / kRowBytes] + swizzled(at / kChunks, byte % kRowBytes));
  }
}

/// Those of a tile that is whole come until wait_for_copies. False: it is not.
__device__ inline bool start_queries(const Sm90Params& p, const Item& item, Shared& shared) {
  if (!are_whole(p, item)) return false;
  const RowTile& tile = item.rows.tile;
  for_queries(shared, [&](int row, int column, unsigned char* to) {
    const bool exists = row < tile.rows && column < p.attention.d;
    const int64_t at = exists ? query_offset(p, tile, item.rows.kv_head, row) + column : 0;
    copy_async_16(shared_address(to), static_cast<const unsigned short*>(p.attention.q) + at,
                  exists ? 16 : 0);
  });
  commit_copies();
  return true;
}

/// Any, and with the sign of their factor.
__device__ __noinline__ void store_queries(const Sm90Params& p, const Item& item, Shared& shared) {
  const RowTile& tile = item.rows.tile;
  const unsigned flip = item.rows.logit.negative ? 0x80008000u : 0;
  for_queries(shared, [&](int row, int column, unsigned char* to) {
    uint4 q{0, 0, 0, 0};
    if (row < tile.rows) {
      q = load_queries(p, query_offset(p, tile, item.rows.kv_head, row), column);
    }
    *reinterpret_cast<uint4*>(to) = {q.x ^ flip, q.y ^ flip, q.z ^ flip, q.w ^ flip};
  });
}

}  // namespace octavo::cuda
