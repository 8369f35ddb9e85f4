// Attention on tensor cores by mma.sync, for sm_80 and up.
//
// A thread block takes a tile of rows (query tokens times the heads of a GQA group) of one request
// and KV head, and a split of its keys. Each of its warps has rows of its own:
//
//   for each tile of keys:        the next tile of K, and this one of V, are on their way
//     S = Q . K^T                 Q from registers or shared memory
//     S -> logits, masked         only where not every row sees the whole tile
//     O += P . V                  of the tile before, while P = exp2(S - reference)
//     O = O * rescale             seldom: when a logit exceeds the reference by much
//
// Tiles begin at multiples of kKeys and hidden keys leave a row unchanged, so the order of a row's
// sums follows from the keys' positions alone.
#include "portable/output.h"
#include "portable/pages.h"
#include "portable/queries.h"
#include "portable/seen.h"

namespace octavo::cuda {
namespace {

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
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kWarps) shared.seen[thread] = SeenKeys(p, tile, thread * kRowsOfWarp, kRowsOfWarp);
  if (thread == 0) {
    shared.seen_by_all = SeenKeys(p, tile, 0, kRows).all;
    shared.tile = tile;
  }
}

/// A warp's rows on their way through the keys.
struct Walk {
  const PortableParams& p;
  Shared& shared;
  Queries queries;
  Softmax softmax;
  Sums sums;
  Weights weights;       ///< of the tile before
  bool pending = false;  ///< there are such

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

  /// Takes the scores of the tile that begins at `first` and is at `stage`, unless there is none,
  /// and the values of the tile before. `special`: some of these are infinite or NaN.
  __device__ void step(int32_t first, int stage, bool exists, bool special) {
    const unsigned char* values = shared.v[stage ^ 1];
    const SeenKeys seen = shared.seen[warp_of_block()];
    const LogitScale& logit = shared.logit;
    const bool scored = exists && seen.sees_some(first);
    Scores scores;
    if (scored) {
      multiply_keys(scores, queries, query_address(shared), shared.k[stage]);
      if constexpr (kCapped) cap_scores(scores, logit);
      if (logit.alibi) add_alibi(scores, logit, shared, first);
      if (!seen.sees_all(first)) hide(scores, p, shared.tile, shared, first);
    }
    if (pending && (!scored || (kMasked && !seen.sees_all(first - kKeys)))) {
      multiply_values<kMasked>(sums, weights, values);
      if (kMasked && special) {
        add_specials(sums, p, shared.tile, shared, first - kKeys, values);
      }
      pending = false;
    }
    if (!scored) return;
    const Rescale rescale(scores, logit.scale, softmax);
    if (pending) {
      soften_and_multiply(scores, logit.scale, softmax, sums, weights, values);
    } else {
      soften(scores, logit.scale, softmax);
    }
    pack_weights(scores, weights);
    if (rescale.needed()) rescale.apply(sums);
    pending = true;
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
  const int32_t split = place.unit % tile.tiling.splits;
  if (tile.is_split() ? split < tile.first_split || split >= tile.end_split : split > 0) return;
  const KeyRange keys = tile.keys_of_split(split);

  const int32_t kv_head = static_cast<int32_t>(blockIdx.y);
  const int32_t first_column = static_cast<int32_t>(blockIdx.z) * kDv;
  const AttentionParams& a = p.attention;
  if (threadIdx.x == 0) shared.wanted = keys;
  const PageFinder finder(p, place, shared.wanted);
  const KeyLoader k(p, a.k, place, kv_head, 0, a.d);
  const ValueLoader v(p, a.v, place, kv_head, first_column, a.dv);
  int32_t first = keys.begin / kKeys * kKeys;
  __syncthreads();
  Found of_values = finder.find(first);
  k.start(of_values, shared.k[0]);
  commit_copies();
  Found of_keys = finder.find(first + kKeys);

  const LogitScale logit(a, kv_head);
  store_queries(p, tile, kv_head, logit.negative ? 0x80008000u : 0u, shared);
  describe_rows(p, tile, kv_head, shared);
  if (threadIdx.x == 0) shared.logit = logit;
  __syncthreads();

  Walk walk{p, shared};
  walk.clear();
  load_queries(shared, walk.queries);
  const int32_t tiles = ceil_div(keys.end - first, kKeys);
  int stage = 0;
#pragma unroll 1
  for (int32_t i = 0; i <= tiles; ++i) {
    wait_for_copies<0>();
    __syncthreads();
    if (i < tiles) {
      v.start(of_values, shared.v[stage]);
      if (i + 1 < tiles) k.start(of_keys, shared.k[stage ^ 1]);
      commit_copies();
      of_values = of_keys;
      of_keys = finder.find(first + 2 * kKeys);
    }
    bool special = false;
    if (kMasked && i > 0) {
      const int32_t before = first - kKeys;
      const KeyRange all = shared.seen_by_all;
      if (i == tiles || before < all.begin || all.end - before < kKeys) {
        special = __syncthreads_or(has_special(shared.v[stage ^ 1]));
      }
    }
    walk.step(first, stage, i < tiles, special);
    first += kKeys;
    stage ^= 1;
  }

  const Slice slice{first_column, min(kDv, a.dv - first_column)};
  if (shared.tile.is_split()) {
    const int64_t index =
        partials_before<kRows, kKeys>(p, shared.tile.place.request) + shared.tile.place.unit;
    write_partial(p, shared.tile, walk.softmax, walk.sums, slice,
                  partial_at<kRows>(p, index, kv_head));
  } else {
    write_result(p, shared.tile, kv_head, walk.softmax, walk.sums, slice, shared.q);
  }
}

}  // namespace octavo::cuda
