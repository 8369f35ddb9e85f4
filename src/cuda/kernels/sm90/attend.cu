// Attention on Hopper's tensor cores: wgmma, with tiles of K and V that TMA brings from pages.
//
// A thread block takes a tile of rows (query tokens times the heads of a GQA group) of one request
// and KV head, and a split of its keys. Its warpgroups have 64 rows each; four warps more load
// tiles of K and V into rings and inspect the tiles of V at a mask's edge:
//
//   K        loads 0 1 2 3 ...          k_full  ->  S = Q . K^T   k_empty ->
//   V        loads 0 1 2 3 ...          v_full  ->  O += P . V    v_empty ->
//   inspect  edges                      v_clean ->
//
// In a warpgroup the products of one tile run while it computes the softmax of another:
//
//   S(i) = Q . K(i)^T | O += P(i - 1) . V(i - 1)
//     wait for S(i), logits, mask, weights
//     wait for O, O = O * rescale, P(i) in registers
//
// Tiles begin at multiples of kKeys and hidden keys leave a row unchanged, so the order of a row's
// sums follows from the keys' positions alone.
#include "sm90/inspect.h"
#include "sm90/load.h"
#include "sm90/products.h"
#include "sm90/queries.h"
#include "tiled/mask.h"
#include "tiled/output.h"

namespace octavo::cuda {
namespace {

/// The first lane's value, which the compiler then knows to be the same for all.
__device__ int uniform(int value) { return __shfl_sync(kAllLanes, value, 0); }

/// A warpgroup's rows on their way through the keys.
class Walk {
 public:
  __device__ Walk(const TiledParams& p, Shared& shared)
      : p_(p), b_(shared.block), shared_(shared), group_(uniform(warp_of_block() / 4)) {
#pragma unroll
    for (int n = 0; n < kValueTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums_[0][n][i] = 0;
    }
  }

  __device__ void run() {
    if (group_ == kWarpgroups - 1) end_turn();
    const KeyRange seen = SeenKeys(p_, shared_.rows.tile, group_ * kRowsOfGroup, kRowsOfGroup).some;
    int32_t begin = 0;
    int32_t end = 0;
    if (seen.end > max(seen.begin, b_.first)) {
      begin = min(max(seen.begin - b_.first, 0) / kKeys, b_.count);
      end = min(ceil_div(seen.end - b_.first, kKeys), b_.count);
    }
    begin = uniform(begin);
    end = uniform(end);
    int32_t i = 0;
    for (; i < begin; ++i) skip(i);
    if (begin < end) {
      attend(begin, end, shared_address(shared_.q[group_]));
      i = end;
    }
    for (; i < b_.count; ++i) skip(i);
  }

  __device__ const Softmax& softmax() const { return softmax_; }
  __device__ const Sums& sums() const { return sums_; }

 private:
  __device__ void attend(int32_t begin, int32_t end, unsigned queries) {
    Scores scores;
    Weights weights;
    begin_turn();
    score(scores, begin, queries);
    end_turn();
    wait_for_products<0>();
    pin_all(scores);
    release(shared_.k_empty, begin);
    prepare(scores, begin);
    weigh(scores);
    pack_weights(scores, weights);
    settle(begin);
#pragma unroll 1
    for (int32_t i = begin + 1; i < end; ++i) {
      begin_turn();
      score(scores, i, queries);
      add_values(weights, i - 1);
      end_turn();
      wait_for_products<1>();
      pin_all(scores);
      release(shared_.k_empty, i);
      prepare(scores, i);
      const Rescale rescale = weigh(scores);
      pin_all(scores);  // weights are there before the wait, not after
      pin(softmax_.sum[0][0]);
      pin(softmax_.sum[0][1]);
      wait_for_products<0>();
      pin_all(sums_);
      release(shared_.v_empty, i - 1);
      if (rescale.needed()) rescale.apply(sums_);
      pack_weights(scores, weights);
      settle(i);
    }
    add_values(weights, end - 1);
    wait_for_products<0>();
    pin_all(sums_);
    release(shared_.v_empty, end - 1);
  }

  // Warpgroups take turns in issuing products, in their order, so that the softmax of one runs
  // while the tensor cores work for another.
  __device__ void begin_turn() const {
    if constexpr (kWarpgroups == 1) return;
    sync_threads(kFirstTurn + group_, 2 * kGroupThreads);
  }
  __device__ void end_turn() const {
    if constexpr (kWarpgroups == 1) return;
    arrive_threads(kFirstTurn + (group_ + 1 == kWarpgroups ? 0 : group_ + 1), 2 * kGroupThreads);
  }

  __device__ void score(Scores& scores, int32_t i, unsigned queries) {
    const Turn turn(i);
    wait(shared_.k_full[turn.stage], turn.parity);
    fence_products();
    multiply_keys(scores, queries, shared_, turn.stage);
    commit_products();
  }

  __device__ void add_values(const Weights& weights, int32_t i) {
    const Turn turn(i);
    wait(shared_.v_full[turn.stage], turn.parity);
    fence_products();
    multiply_values(sums_, weights, shared_, turn.stage);
    commit_products();
  }

  /// From products to logits, or what the softmax's factor makes logits.
  __device__ void prepare(Scores& scores, int32_t i) const {
    const Rows& rows = shared_.rows;
    if constexpr (kCapped) cap_scores(scores, rows.logit);
    if (rows.logit.alibi) add_alibi(scores, rows, b_.first_of(i));
    if (!b_.is_plain(i)) hide(scores, p_, rows, b_.first_of(i));
  }

  __device__ Rescale weigh(Scores& scores) {
    const float scale = shared_.rows.logit.scale;
    const Rescale rescale(scores, scale, softmax_);
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
      exponentiate(scores[0][n], scale, softmax_.reference[0], softmax_.sum[0]);
    }
    return rescale;
  }

  __device__ void settle(int32_t i) {
    if (!b_.is_plain(i)) settle_specials(p_, shared_, i, inspected_++, sums_);
  }

  __device__ void release(Barrier (&empty)[kStages], int32_t i) const {
    __syncwarp();
    if (lane_of_warp() == 0) arrive(empty[Turn(i).stage]);
  }

  /// A tile that none of the warpgroup's rows sees.
  __device__ void skip(int32_t i) {
    const Turn turn(i);
    begin_turn();
    end_turn();
    wait(shared_.k_full[turn.stage], turn.parity);
    release(shared_.k_empty, i);
    wait(shared_.v_full[turn.stage], turn.parity);
    settle(i);
    release(shared_.v_empty, i);
  }

  const TiledParams& p_;
  const Block& b_;
  Shared& shared_;
  int group_;
  Softmax softmax_;
  Sums sums_;
  int inspected_ = 0;
};

__device__ void init_barriers(const Sm90Params& p, Shared& shared) {
  const int loaders = p.box_rows > 0 ? 1 : kWarp;  // threads that arrive for a tile
  for (int stage = 0; stage < kStages; ++stage) {
    init_barrier(shared.k_full[stage], loaders);
    init_barrier(shared.v_full[stage], loaders);
    init_barrier(shared.k_empty[stage], kWarps);
    init_barrier(shared.v_empty[stage], kWarps + kInspectingWarps);
    init_barrier(shared.v_clean[stage], kInspectors);
  }
  fence_barriers();
}

__device__ void load(const Sm90Params& p, Shared& shared) {
  const AttentionParams& a = p.attention;
  const int warp = warp_of_block() - kWarps;
  if (warp == 0) {
    load_tiles(p, shared,
               {a.k, p.k_map, a.d, kKeySlabs, shared.k[0][0], shared.k_full, shared.k_empty});
  } else if (warp == 1) {
    load_tiles(p, shared,
               {a.v, p.v_map, a.dv, kValueSlabs, shared.v[0][0], shared.v_full, shared.v_empty});
  } else {
    inspect_values(shared, static_cast<int>(threadIdx.x) - kThreads - 2 * kWarp);
  }
}

__device__ void finish(const Sm90Params& p, const Walk& walk, Shared& shared) {
  const RowTile& tile = shared.rows.tile;
  const int32_t kv_head = shared.block.kv_head;
  const Slice slice{0, p.attention.dv};
  if (tile.is_split()) {
    const int64_t index = partials_before<kRows, kKeys>(p, tile.place.request) + tile.place.unit;
    write_partial(tile, walk.softmax(), walk.sums(), slice, partial_at<kRows>(p, index, kv_head));
    return;
  }
  // Its products have read the queries.
  sync_threads(kFirstGroup + warp_of_block() / 4, kGroupThreads);
  write_result(p, tile, kv_head, walk.softmax(), walk.sums(), slice, [&](int row, int byte) {
    return shared.q[row / kRowsOfGroup][byte / kRowBytes] +
           swizzled(row % kRowsOfGroup, byte % kRowBytes);
  });
}

// Registers of a lane: for warps with rows what is left by those that load.
inline constexpr int kLoaderRegisters = kWarpgroups == 3 ? 32 : 40;
inline constexpr int kRowRegisters = kWarpgroups == 3 ? 160 : kWarpgroups == 2 ? 232 : 216;

}  // namespace

/// Grid: units (tiles of rows times splits) that the batch may have, and KV heads; the other way
/// round if p.heads_first.
extern "C" __global__ void __launch_bounds__(kBlockThreads, kWarpgroups == 1 ? 2 : 1)
    octavo_sm90(const __grid_constant__ Sm90Params p) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const Place place = find_place(p.attention, unit_of_block(p), [&](int32_t q_len, int32_t kv_len) {
    return tiling_of<kRows, kKeys>(p, q_len, kv_len).units();
  });
  if (place.request < 0) return;
  const RowTile tile = row_tile<kRows, kKeys>(p, place);
  const int32_t split = place.unit % tile.tiling.splits;
  if (tile.is_split() ? split < tile.first_split || split >= tile.end_split : split > 0) return;
  const int32_t kv_head = head_of_block(p);
  const int thread = static_cast<int>(threadIdx.x);
  const LogitScale logit(p.attention, kv_head);
  describe_rows(p, tile, kv_head, logit, thread, kBlockThreads, shared.rows);
  if (thread == 0) {
    init_barriers(p, shared);
    shared.block = Block(p, tile, kv_head, tile.keys_of_split(split));
  }
  __syncthreads();
  if (warp_of_block() >= kWarps) {
    shrink_registers<kLoaderRegisters>();
    load(p, shared);
    return;
  }
  grow_registers<kRowRegisters>();
  store_queries(p, shared.rows.tile, shared.block.kv_head,
                shared.rows.logit.negative ? 0x80008000u : 0u, shared);
  fence_async_proxy();
  sync_threads(kRowThreads, kThreads);
  Walk walk(p, shared);
  walk.run();
  finish(p, walk, shared);
}

}  // namespace octavo::cuda
