// Attention on tensor cores by mma.sync, for sm_80 and up.
//
// A thread block takes a tile of rows (query tokens times the heads of a GQA group) of one request
// and KV head, and a split of its keys. Each of its warps has rows of its own:
//
//   for each tile of keys, of which the next is on its way into shared memory:
//     S = Q . K^T                 Q from registers or shared memory
//     S -> logits, masked         only where not every row sees the whole tile
//     P = exp2(S - largest)       16 bits
//     O = O * rescale + P . V     fp32, in registers
//
// Tiles begin at multiples of kKeys and hidden keys leave a row unchanged, so the order of a row's
// sums follows from the keys' positions alone.
#include "portable/output.h"
#include "portable/pages.h"
#include "portable/queries.h"

namespace octavo::cuda {
namespace {

/// Which keys some, and all, of a warp's rows see.
struct WarpKeys {
  KeyRange some;
  KeyRange all;

  __device__ WarpKeys(const PortableParams& p, const RowTile& tile) : some{0, 0}, all{0, 0} {
    const int first = warp_of_block() * kRowsOfWarp;
    const int last = min(first + kRowsOfWarp, tile.rows) - 1;
    if (first > last) return;
    if constexpr (!kMasked) {
      some = all = tile.keys;
      return;
    }
    const Place& place = tile.place;
    const int32_t first_at = place.position(divide(tile.first_row + first, p.group).quotient);
    const int32_t last_at = place.position(divide(tile.first_row + last, p.group).quotient);
    const KeyRange of_first = visible_keys(p.attention, first_at, place.kv_len);
    const KeyRange of_last = visible_keys(p.attention, last_at, place.kv_len);
    some = {of_first.begin, of_last.end};
    all = {of_last.begin, of_first.end};
    if (p.attention.masking == Masking::bits) all = {0, 0};
  }
  __device__ bool sees_some(int32_t first) const {
    return first < some.end && some.begin - first < kKeys;
  }
  __device__ bool sees_all(int32_t first) const {
    return first >= all.begin && all.end - first >= kKeys;
  }
};

__device__ void describe_rows(const PortableParams& p, const RowTile& tile, int32_t kv_head,
                              Shared& shared) {
  const AttentionParams& a = p.attention;
  for (int row = static_cast<int>(threadIdx.x); row < kRows; row += kThreads) {
    const Quotient at = divide(tile.first_row + min(row, tile.rows - 1), p.group);
    const int32_t position = tile.place.position(at.quotient);
    const KeyRange keys = visible_keys(a, position, tile.place.kv_len);
    shared.keys[row] = row < tile.rows ? keys : KeyRange{0, 0};
    shared.positions[row] = position;
    shared.slopes[row] = slope_of(a, kv_head * p.group.value + at.remainder) * kLog2E;
  }
}

struct Block {
  const PortableParams& p;
  const RowTile& tile;
  const LogitScale& logit;
  Shared& shared;
  WarpKeys seen;
  Queries queries;
  Softmax softmax;
  Sums sums;

  __device__ void clear() {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[b][n][i] = 0;
      }
    }
  }

  /// One tile of keys. `special`: some of V is infinite or NaN.
  __device__ void attend(int32_t first, int stage, bool special) {
    if (!seen.sees_some(first)) return;
    Scores scores;
    multiply_keys(scores, queries, query_address(shared), shared.k[stage]);
    if constexpr (kCapped) cap_scores(scores, logit);
    if (logit.alibi) add_alibi(scores, logit, shared, first);
    const bool whole = seen.sees_all(first);
    if (!whole) hide(scores, p, tile, shared, first);
    Weights weights;
    soften(scores, logit.scale, softmax, sums, weights);
    if (!kMasked || whole) {
      multiply_values<false>(sums, weights, shared.v[stage]);
      return;
    }
    multiply_values<true>(sums, weights, shared.v[stage]);
    if (special) add_specials(sums, p, tile, shared, first, shared.v[stage]);
  }
};

}  // namespace

/// Grid: units (tiles of rows times splits) that the batch may have, KV heads, slices of V.
extern "C" __global__ void __launch_bounds__(kThreads)
    octavo_portable(const __grid_constant__ PortableParams p) {
  extern __shared__ __align__(128) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const Place place =
      find_place(p.attention, static_cast<int32_t>(blockIdx.x), [&](int32_t q_len, int32_t kv_len) {
        return tiling_of<kRows, kKeys>(p, q_len, kv_len).units();
      });
  if (place.request < 0) return;
  const RowTile tile = row_tile<kRows, kKeys>(p, place);
  const bool partial = tile.end_split - tile.first_split > 1;
  const int32_t split = place.unit % tile.tiling.splits;
  if (partial ? split < tile.first_split || split >= tile.end_split : split > 0) return;

  const int32_t kv_head = static_cast<int32_t>(blockIdx.y);
  const Slice slice{static_cast<int32_t>(blockIdx.z) * kDv,
                    min(kDv, p.attention.dv - static_cast<int32_t>(blockIdx.z) * kDv)};
  KeyRange keys = tile.keys;
  if (partial) {
    keys.begin = max(keys.begin, split * tile.tiling.split);
    keys.end = keys.end - split * tile.tiling.split > tile.tiling.split
                   ? (split + 1) * tile.tiling.split
                   : keys.end;
  }
  int32_t first = keys.begin / kKeys * kKeys;
  const LogitScale logit(p.attention, kv_head);

  PageLoader loader(p, place, keys, kv_head, slice.first);
  loader.find(first);
  loader.start(shared.k[0], shared.v[0]);
  commit_copies();
  loader.find(first + kKeys);
  store_queries(p, tile, kv_head, logit.negative ? 0x80008000u : 0u, shared);
  describe_rows(p, tile, kv_head, shared);
  __syncthreads();

  Block block{p, tile, logit, shared, WarpKeys(p, tile), {}, {}, {}};
  block.clear();
  load_queries(shared, block.queries);
  const KeyRange whole = WarpKeys(p, tile).all;
  int stage = 0;
  for (int32_t left = keys.end - first; left > 0; left -= kKeys) {
    wait_for_copies<0>();
    __syncthreads();
    if (left > kKeys) loader.start(shared.k[stage ^ 1], shared.v[stage ^ 1]);
    commit_copies();
    loader.find(first + 2 * kKeys);
    bool special = false;
    if (kMasked) {
      const bool masked = !(first >= whole.begin && whole.end - first >= kKeys);
      if (__syncthreads_or(masked)) special = __syncthreads_or(has_special(shared.v[stage]));
    }
    block.attend(first, stage, special);
    first += kKeys;
    stage ^= 1;
  }
  if (partial) {
    const int64_t index = partials_before<kRows, kKeys>(p, place.request) + place.unit;
    write_partial(p, tile, block.softmax, block.sums, slice,
                  partial_at<kRows>(p, index, kv_head));
  } else {
    write_result(p, tile, kv_head, block.softmax, block.sums, slice, shared.q);
  }
}

}  // namespace octavo::cuda
