// Attention on Hopper's tensor cores: wgmma, with tiles of K and V that TMA brings from pages.
//
// A thread block takes one item after another: a tile of rows (query tokens times the heads of a
// GQA group) of one request and KV head, and a split of its keys. Its warpgroups have 64 rows each;
// four warps more find items, load Q, and tiles of K and V into rings, and clear in V what is not
// to be read:
//
//   schedule    items 0 1 2 ...          item_full ->              item_empty ->
//   K           loads 0 1 2 3 ...        k_full  ->  S = Q . K^T   k_empty ->
//   V           loads 0 1 2 3 ...        v_full  ->  cleared
//   Q, clear    each item's; 0 1 2 ...   v_ready ->  O += P . V    v_empty ->
//                                        q_full  ->  S             q_empty ->
//
// In a warpgroup the products of one tile run while it computes the softmax of another:
//
//   S(i) = Q . K(i)^T | O += P(i - 1) . V(i - 1)
//     wait for S(i), logits, mask, weights
//     wait for O, O = O * rescale, P(i) in registers
//
// Tiles begin at multiples of kKeys and hidden keys leave a row unchanged, so the order of a row's
// sums follows from the keys' positions alone. Where hidden values are infinite or NaN, though,
// their products with weights of 0 are NaN: such an item is done again, with care.
#include "ptx/grid.h"
#include "ptx/registers.h"
#include "sm90/load.h"
#include "sm90/products.h"
#include "sm90/queries.h"
#include "sm90/ready.h"
#include "sm90/schedule.h"
#include "tiled/mask.h"
#include "tiled/output.h"

namespace octavo::cuda {
namespace {

/// The first lane's value, which the compiler then knows to be the same for all.
__device__ int uniform(int value) { return __shfl_sync(kAllLanes, value, 0); }

__device__ KeyRange uniform(const KeyRange& range) {
  return {uniform(range.begin), uniform(range.end)};
}

/// A warpgroup's rows on their way through the keys, of one item after another.
class Walk {
 public:
  __device__ Walk(const Sm90Params& p, Shared& shared)
      : p_(p), shared_(shared), group_(uniform(warp_of_block() / 4)) {}

  __device__ void run() {
    if (group_ == kWarpgroups - 1) end_turn();
    bool started = false;
    for (int n = 0;; ++n) {
      const Item& item = shared_.items.take(n);
      if (!item.exists) return;
      wait_for_queries(item, n, started);
      started = attend(item, n);
    }
  }

 private:
  /// `started`: they are on their way by copies.
  __device__ void wait_for_queries(const Item& item, int n, bool started) const {
    if constexpr (kWholeGroups) {
      wait(shared_.q_full, n % 2);
      if (are_boxed(p_, item)) return;
      store_queries(p_, item.rows, shared_.q);
    } else if (!started && !start_queries(p_, item.rows, shared_.q)) {
      store_queries(p_, item.rows, shared_.q);
    }
    wait_for_copies<0>();
    fence_async_proxy();
    sync_threads(kFirstGroup + group_, kGroupThreads);
  }

  /// Whether queries of the item after it are on their way by copies.
  __device__ bool attend(const Item& item, int n) {
    Softmax softmax;
    Sums sums;
    clear(sums);
    pin_all(sums);  // or constants are put into registers between products
    const GroupTiles& tiles = item.groups[group_];
    plain_ = uniform(tiles.plain);
    const bool careful = kMasked && item.careful;
    if (careful) {
      pass_keys_carefully(item, softmax, sums);
    } else {
      pass_tiles(item, uniform(tiles.some), softmax, sums);
    }
    // While the last product is under way.
    const RowTile& tile = item.rows.tile;
    const RowStates states = softmax.rows();
    RowEnd end{};
    if (!tile.is_split()) end = end_row(p_, tile, item.rows.kv_head, states, true);
    wait_for_products<0>();
    pin_all(sums);
    if (!careful) {
      const KeyRange& seen = tiles.some;
      if (seen.begin < seen.end) release(shared_.v_empty, seen.end - 1);
      for (int32_t i = seen.end; i < item.end; ++i) skip(i);
      // Weights of 0 do not hide an infinite or NaN value, but its product is NaN.
      if (kMasked && !are_finite(sums) && lane_of_warp() == 0) {
        shared_.items.at(n).again = true;
      }
    }
    const bool started = !kWholeGroups && start_next(n);
    const Slice slice{0, p_.attention.dv};
    if (tile.is_split()) {
      write_partial(tile, states, sums, slice, partial_at(p_, tile.partial(), item.rows.kv_head));
    } else {
      write_result(p_, tile, end, sums, slice);
    }
    shared_.items.release(n);
    return started;
  }

  /// After the item's last tile, if the next is there by then.
  __device__ bool start_next(int n) const {
    sync_threads(kFirstGroup + group_, kGroupThreads);
    const Turn<kItems> turn(n + 1);
    if (!has_ended(shared_.items.full[turn.stage], turn.parity)) return false;
    const Item& next = shared_.items.at(n + 1);
    return next.exists && start_queries(p_, next.rows, shared_.q);
  }

  /// Up to the last of the tiles that some of the warpgroup's rows see, whose values are then being
  /// added.
  __device__ void pass_tiles(const Item& item, const KeyRange& seen, Softmax& softmax, Sums& sums) {
    for (int32_t i = item.begin; i < seen.begin; ++i) skip(i);
    if (seen.begin == seen.end) return release(shared_.q_empty);
    Weights weights;
    pass_keys(item, seen, softmax, sums, weights);
    release(shared_.q_empty);
    add_values(weights, seen.end - 1, sums);
  }

  /// All but the last product.
  __device__ void pass_keys(const Item& item, const KeyRange& tiles, Softmax& softmax, Sums& sums,
                            Weights& weights) {
    Scores scores;
    const unsigned queries = shared_address(shared_.q[group_]);
    int32_t i = tiles.begin;
    begin_turn();
    score(scores, i, queries);
    end_turn();
    wait_for_products<0>();
    pin_all(scores);
    release(shared_.k_empty, i);
    prepare(scores, item, i);
    weigh(scores, item.rows.logit.scale, softmax);
    pack_weights(scores, weights);
    if (++i == tiles.end) return;
    Rescale rescale = weigh_next(item, i, queries, scores, weights, softmax, sums);
#pragma unroll 1
    while (true) {
      // The loop begins here so that weights are there before the wait: no instruction moves
      // across.
      wait_for_products<0>();
      pin_all(sums);
      release(shared_.v_empty, i - 1);
      if (rescale.needed) rescale.apply(sums);
      pack_weights(scores, weights);
      if (++i == tiles.end) return;
      rescale = weigh_next(item, i, queries, scores, weights, softmax, sums);
    }
  }

  /// One tile after another, with whatever hidden keys have.
  __device__ void pass_keys_carefully(const Item& item, Softmax& softmax, Sums& sums) {
    const unsigned queries = shared_address(shared_.q[group_]);
#pragma unroll 1
    for (int32_t i = item.begin; i < item.end; ++i) {
      Scores scores;
      Weights weights;
      score(scores, i, queries);
      wait_for_products<0>();
      pin_all(scores);
      release(shared_.k_empty, i);
      prepare(scores, item, i);
      const Rescale rescale = weigh(scores, item.rows.logit.scale, softmax);
      if (rescale.needed) rescale.apply(sums);
      pack_weights(scores, weights);
      const Turn<> turn(i);
      wait(shared_.v_ready[turn.stage], turn.parity);
      if (shared_.v_special[turn.stage]) {
        settle_specials(p_, shared_.v[turn.stage], item.rows, item.first_of(i), sums);
      }
      add_values(weights, i, sums);
      wait_for_products<0>();
      pin_all(sums);
      release(shared_.v_empty, i);
    }
    release(shared_.q_empty);
  }

  /// Turns scores into those of tile i, and these into weights, while the values of the tile before
  /// are added to the sums.
  __device__ Rescale weigh_next(const Item& item, int32_t i, unsigned queries, Scores& scores,
                                const Weights& weights, Softmax& softmax, Sums& sums) {
    begin_turn();
    score(scores, i, queries);
    add_values(weights, i - 1, sums);
    end_turn();
    wait_for_products<1>();
    pin_all(scores);
    release(shared_.k_empty, i);
    prepare(scores, item, i);
    return weigh(scores, item.rows.logit.scale, softmax);
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

  __device__ void score(Scores& scores, int32_t i, unsigned queries) const {
    const Turn<> turn(i);
    // Anew each time: descriptions of all its parts are too many to keep.
    queries = uniform(queries);
    wait(shared_.k_full[turn.stage], turn.parity);
    fence_products();
    multiply_keys(scores, queries, shared_address(shared_.k[turn.stage]), p_.k.steps);
    commit_products();
  }

  __device__ void add_values(const Weights& weights, int32_t i, Sums& sums) const {
    const Turn<> turn(i);
    wait(shared_.v_ready[turn.stage], turn.parity);
    fence_products();
    multiply_values(sums, weights, shared_address(shared_.v[turn.stage]), p_.v.steps);
    commit_products();
  }

  __device__ void prepare(Scores& scores, const Item& item, int32_t i) const {
    shape_scores(scores, p_, item.rows, item.first_of(i));
    if (!is_plain(i)) hide(scores, p_, item.rows, item.first_of(i));
  }

  __device__ bool is_plain(int32_t i) const { return i >= plain_.begin && i < plain_.end; }

  __device__ void release(Barrier& empty) const {
    __syncwarp();
    if (lane_of_warp() == 0) arrive(empty);
  }
  __device__ void release(Barrier (&empty)[kStages], int32_t i) const {
    release(empty[Turn<>(i).stage]);
  }

  /// A tile that none of the warpgroup's rows sees.
  __device__ void skip(int32_t i) {
    const Turn<> turn(i);
    begin_turn();
    end_turn();
    wait(shared_.k_full[turn.stage], turn.parity);
    release(shared_.k_empty, i);
    wait(shared_.v_ready[turn.stage], turn.parity);
    release(shared_.v_empty, i);
  }

  const Sm90Params& p_;
  Shared& shared_;
  int group_;
  KeyRange plain_;  ///< of the item under way
};

__device__ void init_barriers(const Sm90Params& p, Shared& shared) {
  const int loaders = p.box_rows > 0 ? 1 : kWarp;  // threads that arrive for a tile
  for (int stage = 0; stage < kStages; ++stage) {
    init_barrier(shared.k_full[stage], loaders);
    init_barrier(shared.v_full[stage], loaders);
    init_barrier(shared.k_empty[stage], kWarps);
    init_barrier(shared.v_empty[stage], kWarps);
    init_barrier(shared.v_ready[stage], 1);
  }
  shared.items.init(kWarps + kLoaders - 1);
  init_barrier(shared.q_full, 1);
  init_barrier(shared.q_empty, kWarps);
  fence_barriers();
}

/// `described`: items.
__device__ void load(const Sm90Params& p, Shared& shared, const Tasks& tasks, int described) {
  const AttentionParams& a = p.attention;
  switch (warp_of_block() - kWarps) {
    case 0:
      return load_tiles(p, shared.items,
                        {{a.k, p.k, a.d, kKeySlabs},
                         shared.k[0],
                         shared.k_full,
                         shared.k_empty,
                         &shared.items.late});
    case 1:
      return load_tiles(
          p, shared.items,
          {{a.v, p.v, a.dv, kValueSlabs}, shared.v[0], shared.v_full, shared.v_empty, nullptr});
    case 2:
      return make_ready(p, shared);
    default:
      if (described > 0) arrive(shared.items.full[0]);
      return schedule(p, tasks, shared.items, described);
  }
}

// Registers of a lane: for warps with rows what is left by those that load.
inline constexpr int kLoaderRegisters = kWarpgroups == 3 ? 32 : 40;
inline constexpr int kRowRegisters = kWarpgroups == 3 ? 160 : kWarpgroups == 2 ? 232 : 216;

}  // namespace

/// Grid: as many thread blocks as stay, or as there are items.
extern "C" __global__ void __launch_bounds__(kBlockThreads, kWarpgroups == 1 ? 2 : 1)
    octavo_sm90(const __grid_constant__ Sm90Params p) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  let_next_grid_begin();
  if (threadIdx.x == 0) init_barriers(p, shared);
  const Tasks tasks(p);
  Task first;
  const int described = tasks.find_first(first) ? 1 : 0;
  if (described > 0) {
    describe_first(p, first, shared.items, static_cast<int>(threadIdx.x), kBlockThreads);
  }
  wait_for_grids_before();  // which have the workspace
  __syncthreads();
  if (warp_of_block() >= kWarps) {
    shrink_registers<kLoaderRegisters>();
    load(p, shared, tasks, described);
  } else {
    grow_registers<kRowRegisters>();
    Walk(p, shared).run();
  }
}

}  // namespace octavo::cuda
