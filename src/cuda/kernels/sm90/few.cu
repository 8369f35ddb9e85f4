// Attention for few rows, where memory is the limit: mma.sync, with tiles of K and V that TMA
// brings from pages.
//
// A thread block takes one item after another, as octavo_sm90 does: the rows of a request and KV
// head, up to 16 (query tokens times the heads of a GQA group), and a split of its keys. Four warps
// have the same rows, and a quarter of each tile of keys; three more load:
//
//   finds items   0 1 2 ...           full ->                     empty ->
//   K             loads 0 1 2 3 ...   k_full ->  S = Q . K^T      k_empty ->
//   V             loads 0 1 2 3 ...   v_full ->  O += P . V       v_empty ->
//
// The four do not wait for each other but at an item's end, when the first adds up what they have,
// in their order. Loads go on meanwhile: the ring of tiles is longer than what memory needs under
// way.
#include "ptx/grid.h"
#include "ptx/registers.h"
#include "sm90/load.h"
#include "sm90/schedule.h"
#include "tiled/mask.h"
#include "tiled/mma.h"
#include "tiled/output.h"

namespace octavo::cuda {
namespace {

static_assert(kWarps == 1 && kBlocks == 1 && kKvBytes == 2);

constexpr int kBlocksTogether = OCTAVO_BLOCKS;  // of a multiprocessor

constexpr int kLoadWarps = 4;  // of K, of V, one that finds items, and one of no use
constexpr int kBlockThreads = (kKeyWarps + kLoadWarps) * kWarp;

struct Shared {
  alignas(1024) unsigned char k[kStages][kKeySlabs * kSlabBytes];
  alignas(1024) unsigned char v[kStages][kValueSlabs * kSlabBytes];
  float4 sums[kValueTiles][kWarp];  ///< a warp's, for the first
  float4 softmax[kWarp];            ///< references and sums of a lane's two rows
  Items items;
  Barrier k_full[kStages];
  Barrier k_empty[kStages];
  Barrier v_full[kStages];
  Barrier v_empty[kStages];
  Barrier sums_wanted[kKeyWarps];  ///< of this warp's, the first reads next
  Barrier sums_full;
};

/// Where matrices begin in a tile of slabs.
struct SlabRows {
  unsigned lane;       ///< where the lane's first row begins
  unsigned lane_byte;  ///< its first byte, permuted
  TileSteps steps;

  __device__ SlabRows(const unsigned char* tile, const TileSteps& tile_steps, int row, int byte)
      : lane(shared_address(tile) + row / 8 * tile_steps.rows + row % 8 * kRowBytes),
        lane_byte(static_cast<unsigned>(byte ^ row % 8 << 4)),
        steps(tile_steps) {}

  __device__ unsigned address(int row, int byte) const {
    return lane + row / 8 * steps.rows + byte / kRowBytes * steps.slab +
           (lane_byte ^ static_cast<unsigned>(byte % kRowBytes));
  }
};

/// The rows on their way through a warp's share of the keys, of one item after another.
class Walk {
 public:
  __device__ Walk(const Sm90Params& p, Shared& shared) : p_(p), shared_(shared) {}

  __device__ void run() {
    for (int n = 0;; ++n) {
      const Item& item = shared_.items.take(n);
      if (!item.exists) return;
      attend(item, n);
      shared_.items.release(n);
    }
  }

 private:
  /// This lane's elements of Q, two at a time, straight from memory.
  __device__ void load_fragments(const Item& item) {
    const unsigned flip = item.rows.logit.negative ? 0x80008000u : 0;
    const int32_t d = p_.attention.d;
    unsigned converted[kD / 4];
    const bool pairs = p_.q_whole && d % 2 == 0;
    if (!pairs) convert_fragments(p_, item, converted);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(0, half);
      const bool exists = row < item.rows.tile.rows;
      const int64_t offset = exists ? query_offset(p_, item.rows.tile, item.rows.kv_head, row) : 0;
#pragma unroll
      for (int i = 0; i < kD / 8; ++i) {
        const int column = i * 8 + lane_of_warp() % 4 * 2;
        unsigned pair = 0;
        if (!pairs) {
          pair = converted[2 * i + half];
        } else if (exists && column < d) {
          pair = *reinterpret_cast<const unsigned*>(
              static_cast<const unsigned short*>(p_.attention.q) + offset + column);
        }
        queries_[0][i / 2][i % 2 * 2 + half] = pair ^ flip;
      }
    }
  }

  /// The same of any type and alignment, without the sign.
  static __device__ __noinline__ void convert_fragments(const Sm90Params& p, const Item& item,
                                                        unsigned (&pairs)[kD / 4]) {
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(0, half);
      const bool exists = row < item.rows.tile.rows;
      const int64_t offset = exists ? query_offset(p, item.rows.tile, item.rows.kv_head, row) : 0;
#pragma unroll 1
      for (int i = 0; i < kD / 8; ++i) {
        const int column = i * 8 + lane_of_warp() % 4 * 2;
        const int count = exists ? max(min(p.attention.d - column, 2), 0) : 0;
        pairs[2 * i + half] = convert_queries(p, offset + column, count).x;
      }
    }
  }

  __device__ void attend(const Item& item, int n) {
    load_fragments(item);
    Softmax softmax;
    Sums sums;
#pragma unroll
    for (int c = 0; c < kValueTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[0][c][i] = 0;
    }
    const int32_t end = item.end;
    const KeyRange plain = item.plain;
    const float scale = item.rows.logit.scale;
    int32_t first = item.first_of(item.begin) + warp_of_block() * kWarpKeys;
#pragma unroll 1
    for (int32_t i = item.begin; i < end; ++i, first += kKeys) {
      if (i >= plain.begin && i < plain.end) {
        take<true>(item, i, first, scale, softmax, sums);
      } else {
        take<false>(item, i, first, scale, softmax, sums);
      }
    }
    if (warp_of_block() > 0) {
      hand_over(n, softmax, sums);
      return;
    }
#pragma unroll 1
    for (int other = 1; other < kKeyWarps; ++other) take_over(n, other, softmax, sums);
    finish(item, softmax, sums);
  }

  /// The warp's share of tile `i`, from key `first` on. `Plain`: every row sees all of the tile.
  template <bool Plain>
  __device__ void take(const Item& item, int32_t i, int32_t first, float scale, Softmax& softmax,
                       Sums& sums) {
    const Turn<> turn(i);
    const int own = warp_of_block() * kWarpKeys;
    Scores scores;
    wait(shared_.k_full[turn.stage], turn.parity);
    multiply_keys(scores, queries_, 0,
                  SlabRows(shared_.k[turn.stage], p_.k.steps, own + key_row(), key_byte()));
    release(shared_.k_empty[turn.stage]);
    shape_scores(scores, p_, item.rows, first);
    if constexpr (!Plain) hide(scores, p_, item.rows, first);
    soften(scores, scale, softmax, sums);
    Weights weights;
    pack_weights(scores, weights);
    const unsigned char* values = shared_.v[turn.stage];
    wait(shared_.v_full[turn.stage], turn.parity);
    multiply_values<!Plain>(sums, weights,
                            SlabRows(values, p_.v.steps, own + value_row(), value_byte()));
    if (!Plain && has_specials(values)) {
      add_specials(sums, p_, item.rows, first, [&](int key, int column) {
        return values + place_in_tile(p_.v.steps, own + key, column * kKvBytes / kRowBytes,
                                      column * kKvBytes % kRowBytes);
      });
    }
    release(shared_.v_empty[turn.stage]);
  }

  /// Whether a tile of V has infinite or NaN values, or what is not to be read has.
  static __device__ bool has_specials(const unsigned char* values) {
    unsigned carries = 0;
#pragma unroll 4
    for (int at = lane_of_warp(); at < kValueSlabs * kSlabBytes / 16; at += kWarp) {
      carries |= carries_of(reinterpret_cast<const uint4*>(values)[at]);
    }
    return __any_sync(kAllLanes, (carries & kSigns) != 0);
  }

  /// A tile that boxes fill next by one lane for all; one that other lanes write, by each that has
  /// read.
  __device__ void release(Barrier& empty) const {
    if (p_.box_rows > 0) {
      __syncwarp();
      if (lane_of_warp() != 0) return;
    }
    arrive(empty);
  }

  // The others' sums go to the first warp through one place: it asks for them one by one.

  __device__ void hand_over(int n, const Softmax& softmax, const Sums& sums) const {
    const int lane = lane_of_warp();
    wait(shared_.sums_wanted[warp_of_block()], n % 2);
#pragma unroll
    for (int c = 0; c < kValueTiles; ++c) {
      const float(&x)[4] = sums[0][c];
      shared_.sums[c][lane] = {x[0], x[1], x[2], x[3]};
    }
    shared_.softmax[lane] = {softmax.reference[0][0], softmax.reference[0][1], softmax.sum[0][0],
                             softmax.sum[0][1]};
    arrive(shared_.sums_full);
  }

  __device__ void take_over(int n, int other, Softmax& softmax, Sums& sums) const {
    const int lane = lane_of_warp();
    arrive(shared_.sums_wanted[other]);
    wait(shared_.sums_full, (n * (kKeyWarps - 1) + other - 1) % 2);
    const float4 theirs = shared_.softmax[lane];
    const float references[2] = {theirs.x, theirs.y};
    const float their_sums[2] = {theirs.z, theirs.w};
    float own_factor[2];
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& reference = softmax.reference[0][half];
      const float common = fmaxf(reference, references[half]);
      own_factor[half] = exp2_fast(reference - base_of(common));
      factor[half] = exp2_fast(references[half] - base_of(common));
      softmax.sum[0][half] =
          softmax.sum[0][half] * own_factor[half] + their_sums[half] * factor[half];
      reference = common;
    }
#pragma unroll
    for (int c = 0; c < kValueTiles; ++c) {
      const float4 x = shared_.sums[c][lane];
      const float added[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[0][c][i] = sums[0][c][i] * own_factor[i / 2] + added[i] * factor[i / 2];
      }
    }
  }

  __device__ void finish(const Item& item, const Softmax& softmax, const Sums& sums) const {
    const RowTile& tile = item.rows.tile;
    const Slice slice{0, p_.attention.dv};
    if (tile.is_split()) {
      write_partial(tile, softmax, sums, slice,
                    partial_at<kRows>(p_, item.partial, item.rows.kv_head));
    } else {
      write_result(p_, tile, item.rows.kv_head, softmax, sums, slice);
    }
  }

  const Sm90Params& p_;
  Shared& shared_;
  Queries queries_;
};

__device__ void init_barriers(const Sm90Params& p, Shared& shared) {
  const int lanes = p.box_rows > 0 ? 1 : kWarp;  // of a warp that arrive for a tile
  for (int stage = 0; stage < kStages; ++stage) {
    init_barrier(shared.k_full[stage], lanes);
    init_barrier(shared.v_full[stage], lanes);
    init_barrier(shared.k_empty[stage], kKeyWarps * lanes);
    init_barrier(shared.v_empty[stage], kKeyWarps * lanes);
  }
  for (int warp = 1; warp < kKeyWarps; ++warp) init_barrier(shared.sums_wanted[warp], kWarp);
  init_barrier(shared.sums_full, kWarp);
  shared.items.init(kKeyWarps + 2);
  fence_barriers();
}

/// `described`: items.
__device__ void load(const Sm90Params& p, Shared& shared, const Tasks& tasks, int described) {
  const AttentionParams& a = p.attention;
  switch (warp_of_block() - kKeyWarps) {
    case 0:
      return load_tiles(p, shared.items,
                        {a.k, p.k, a.d, kKeySlabs, shared.k[0], shared.k_full, shared.k_empty,
                         &shared.items.late});
    case 1:
      return load_tiles(
          p, shared.items,
          {a.v, p.v, a.dv, kValueSlabs, shared.v[0], shared.v_full, shared.v_empty, nullptr});
    case 2:
      return schedule(p, tasks, shared.items, described);
    default:
      return;
  }
}

// Registers of a lane: what those that load leave is for the others.
constexpr int kLoadRegisters = kBlocksTogether == 2 ? 104 : 128;
constexpr int kKeyRegisters = kBlocksTogether == 2 ? 152 : 240;

}  // namespace

/// Grid: as many thread blocks as stay, or as there are items.
extern "C" __global__ void __launch_bounds__(kBlockThreads, kBlocksTogether)
    octavo_sm90_few(const __grid_constant__ Sm90Params p) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  let_next_grid_begin();
  if (threadIdx.x == 0) init_barriers(p, shared);
  const Tasks tasks(p);
  const int described = describe_first(p, tasks, shared.items, kBlockThreads);
  wait_for_grids_before();  // which have the workspace
  __syncthreads();
  if (warp_of_block() >= kKeyWarps) {
    shrink_registers<kLoadRegisters>();
    load(p, shared, tasks, described);
  } else {
    grow_registers<kKeyRegisters>();
    Walk(p, shared).run();
  }
}

}  // namespace octavo::cuda
