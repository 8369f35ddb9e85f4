// Attention on tensor cores by mma.sync, for sm_80 and up.
//
// A thread block takes a tile of rows (query tokens times the heads of a GQA group) of one request
// and KV head, and a split of its keys. Each of its warps has rows of its own:
//
//   for each tile of keys, while the next is on its way into shared memory:
//     S = Q . K^T                 Q from registers or shared memory
//     S -> logits, masked         only where not every row sees the whole tile
//     P = exp2(S - reference)     16 bits
//     O = O * rescale             seldom: when a logit exceeds the reference by much
//     O += P . V                  fp32, in registers
//
// Tiles begin at multiples of kKeys and hidden keys leave a row unchanged, so the order of a row's
// sums follows from the keys' positions alone.
#include "portable/pages.h"
#include "portable/products.h"
#include "ptx/grid.h"
#include "tiled/mask.h"
#include "tiled/output.h"

namespace octavo::cuda {
namespace {

/// A warp's rows on their way through the keys.
struct Walk {
  const PortableParams& p;
  Shared& shared;
  Queries queries;
  Softmax softmax;
  Sums sums;

  /// Takes a tile of keys, all of which every row sees.
  __device__ void step(int32_t first, int stage) {
    Scores scores;
    score(scores, first, stage);
    Weights weights;
    weigh(scores, weights);
    multiply_values<false>(sums, weights, value_rows(shared.v[stage]));
  }

  /// Takes the tile of keys that begins at `first`. `special`: some of its values are infinite or
  /// NaN.
  __device__ void masked_step(int32_t first, int stage, bool special) {
    const SeenKeys seen = shared.seen[warp_of_block()];
    if (!seen.sees_some(first)) return;
    Scores scores;
    score(scores, first, stage);
    if (!seen.sees_all(first)) hide(scores, p, shared.rows, first);
    Weights weights;
    weigh(scores, weights);
    multiply_values<kMasked>(sums, weights, value_rows(shared.v[stage]));
    if (special) {
      add_specials(sums, p, shared.rows, first, [&](int key, int column) {
        return shared.v[stage] + key * kVPitch + column * kKvBytes;
      });
    }
  }

 private:
  __device__ void score(Scores& scores, int32_t first, int stage) const {
    multiply_keys(scores, queries, query_address(shared.q), key_rows(shared.k[stage]));
    shape_scores(scores, p, shared.rows, first);
  }

  __device__ void weigh(Scores& scores, Weights& weights) {
    soften(scores, shared.rows.logit.scale, softmax, sums);
    pack_weights(scores, weights);
  }
};

}  // namespace

/// Grid: units (tiles of rows times splits) that the batch may have, KV heads (or the other way
/// round if p.heads_first), slices of V.
extern "C" __global__ void __launch_bounds__(kThreads)
    octavo_portable(const __grid_constant__ PortableParams p) {
  extern __shared__ __align__(128) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  let_next_grid_begin();
  const Unit unit = find_unit<kRows, kKeys>(p, 0, unit_of_block(p),
                                            [](const Tiling& tiling) { return tiling.units(); });
  const Place& place = unit.place;
  if (place.request < 0) return;
  const RowTile tile = row_tile<kRows>(p, unit);
  const int32_t item = place.unit % tile.tiling.items;
  if (tile.is_split() ? item < tile.first_item || item >= tile.end_item : item > 0) return;
  const KeyRange keys = tile.keys_of_item(item);

  const int32_t kv_head = head_of_block(p);
  const int32_t first_column = static_cast<int32_t>(blockIdx.z) * kDv;
  const AttentionParams& a = p.attention;
  if (threadIdx.x == 0) {
    shared.wanted = keys;
    shared.pages = a.page_table + place.request * a.page_table_stride;
    shared.k_from = KeyLoader::begin(p, a.k, place, kv_head, 0);
    shared.v_from = ValueLoader::begin(p, a.v, place, kv_head, first_column);
  }
  const PageFinder finder(p, shared);
  const KeyLoader k(p, a.k, p.k, shared.k_from, a.d * kKvBytes);
  const ValueLoader v(p, a.v, p.v, shared.v_from, (a.dv - first_column) * kKvBytes);
  int32_t first = keys.begin / kKeys * kKeys;
  __syncthreads();
  Found found = finder.find(first);
  k.start(found, shared.k[0]);
  v.start(found, shared.v[0]);
  commit_copies();
  found = finder.find(first + kKeys);

  const LogitScale logit(a, kv_head);
  store_queries(p, tile, kv_head, logit.negative ? 0x80008000u : 0u, static_cast<int>(threadIdx.x),
                kThreads, shared.q);
  describe_rows(p, tile, kv_head, logit, static_cast<int>(threadIdx.x), kThreads, shared.rows);
  if (threadIdx.x < kWarps) {
    const int warp = static_cast<int>(threadIdx.x);
    shared.seen[warp] = SeenKeys(p, tile, warp * kRowsOfWarp, kRowsOfWarp);
  }
  __syncthreads();

  const SeenKeys seen_by_all(p, tile, 0, kRows);
  Walk walk{p, shared};
  clear(walk.sums);
  load_queries(query_address(shared.q), walk.queries);
  int stage = 0;
#pragma unroll 1
  for (int32_t left = ceil_div(keys.end - first, kKeys); left > 0; --left) {
    wait_for_copies<0>();
    __syncthreads();
    if (left > 1) {
      k.start(found, shared.k[stage ^ 1]);
      v.start(found, shared.v[stage ^ 1]);
      commit_copies();
      found = finder.find(first + 2 * kKeys);
    }
    if (kMasked && seen_by_all.sees_all(first)) {
      walk.step(first, stage);
    } else {
      const bool special = kMasked && __syncthreads_or(has_special(shared.v[stage]));
      walk.masked_step(first, stage, special);
    }
    first += kKeys;
    stage ^= 1;
  }

  const Slice slice{first_column, min(kDv, a.dv - first_column)};
  if (shared.rows.tile.is_split()) {
    write_partial(shared.rows.tile, walk.softmax.rows(), walk.sums, slice,
                  partial_at(p, shared.rows.tile.partial(), kv_head));
  } else {
    const RowEnd end = end_row(p, shared.rows.tile, kv_head, walk.softmax.rows(), slice.is_first());
    write_result(p, shared.rows.tile, end, walk.sums, slice);
  }
}

}  // namespace octavo::cuda
