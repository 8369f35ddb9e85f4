// Attention for few rows, where memory is the limit: mma.sync, with tiles of K and V that TMA
// brings from pages.
//
// A thread block takes one item after another, as octavo_sm90 does: the rows of a request and KV
// head, up to 16 (query tokens times the heads of a GQA group), and a split of its keys, or
// several. Four warps have the same rows, and a quarter of each tile of keys; four more load:
//
//   finds items   0 1 2 ...           full ->                     empty ->
//   Q             of items 0 1 2 ...  q_full ->                   q_empty ->
//   K             loads 0 1 2 3 ...   k_full ->  S = Q . K^T      k_empty ->
//   V             loads 0 1 2 3 ...   v_full ->  O += P . V       v_empty ->
//
// The four do not wait for each other but at a split's end, when each adds up what they all have
// for a part of V's columns, and that to the splits before. Loads go on meanwhile: the ring of
// tiles is longer than what memory needs under way. What else an item needs is asked for before the
// item begins, because memory that is busy answers late, after 4 to 8 us.
#include "ptx/grid.h"
#include "ptx/registers.h"
#include "sm90/load.h"
#include "sm90/schedule.h"
#include "tiled/mask.h"
#include "tiled/merge.h"
#include "tiled/mma.h"
#include "tiled/output.h"

namespace octavo::cuda {
namespace {

static_assert(kWarps == 1 && kBlocks == 1);

constexpr int kBlocksTogether = OCTAVO_BLOCKS;  // of a multiprocessor

constexpr int kMergedParts = kDv / 32 - 1;  // at a time: what `sums` has room for
constexpr int kLoadWarps = 4;               // of K, of V, of Q, and one that finds items
constexpr int kBlockThreads = (kKeyWarps + kLoadWarps) * kWarp;

struct Shared {
  alignas(1024) unsigned char k[kStages][kKeySlabs * kSlabBytes];
  alignas(1024) unsigned char v[kStages][kValueSlabs * kSlabBytes];
  union {
    float4 sums[kValueTiles][kWarp];  ///< of splits that are done; or on their way between warps
    MergeSpace<kMergedParts, kKeyWarps * kWarp> merged;
  };
  float4 states[kKeyWarps][kWarp];  ///< the same, of a lane's two rows
  uint4 queries[kD / 16][kWarp];    ///< a lane's elements, of 16 columns
  bool is_last;                     ///< of a tile's partial results
  Items items;
  Barrier q_full;   ///< of items, in their order
  Barrier q_empty;  ///< the same, when its last split has begun
  Barrier k_full[kStages];
  Barrier k_empty[kStages];
  Barrier v_full[kStages];
  Barrier v_empty[kStages];
};

// Of what is added up, a warp has every fourth of the groups of 32 columns.
constexpr int kGroupTiles = 4;
constexpr int kColumnGroups = kValueTiles / kGroupTiles;
constexpr int kOwnGroups = (kColumnGroups + kKeyWarps - 1) / kKeyWarps;

/// Of a group.
struct GroupSums {
  float of[kBlocks][kGroupTiles][4];

  __device__ void add(int tile, const float4& x) {
    float(&to)[4] = of[0][tile];
    to[0] += x.x;
    to[1] += x.y;
    to[2] += x.z;
    to[3] += x.w;
  }
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

__device__ void wait_for_key_warps() { sync_threads(1, kKeyWarps * kWarp); }

/// Whether a warp's share of tile `i` of V has infinite or NaN values among keys that are read.
/// What stands for the others may be anything. Not inline, to leave registers to the loop.
__device__ __noinline__ bool has_specials(const TileSteps& steps, const Item& item, int32_t i,
                                          const unsigned char* values) {
  constexpr int kChunks = kRowBytes / 16;
  const int lane = lane_of_warp();
  const int own = warp_of_block() * kWarpKeys;
  const int begin = max(own, item.keys.begin - item.first_of(i));
  const int end = min(own + kWarpKeys, item.keys.end - item.first_of(i));
  unsigned carries = 0;
#pragma unroll 1
  for (int key = own + lane / kChunks; key < end; key += kWarp / kChunks) {
    if (key < begin) continue;
#pragma unroll
    for (int slab = 0; slab < kValueSlabs; ++slab) {
      const int at = place_in_tile(steps, key, slab, lane % kChunks * 16);
      carries |= carries_of(*reinterpret_cast<const uint4*>(values + at));
    }
  }
  return __any_sync(kAllLanes, (carries & kSigns) != 0);
}

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
  __device__ void load_queries(Queries& queries) const {
#pragma unroll
    for (int step = 0; step < kD / 16; ++step) {
      const uint4 q = shared_.queries[step][lane_of_warp()];
      queries[0][step][0] = q.x;
      queries[0][step][1] = q.y;
      queries[0][step][2] = q.z;
      queries[0][step][3] = q.w;
    }
  }

  __device__ void attend(const Item& item, int n) {
    forget();
    int32_t i = item.begin;
    int32_t split_end = item.split_end;
#pragma unroll 1
    do {
      Softmax softmax;
      Sums sums;
      Queries queries;
      if (i == item.begin) wait(shared_.q_full, n % 2);
      load_queries(queries);
      if (split_end >= item.end) arrive(shared_.q_empty);
      take_split(item, i, min(item.end, split_end), queries, softmax, sums);
      add_split(softmax.rows(), sums);
      i = split_end;
      split_end += item.split_tiles;
    } while (i < item.end);
    finish(item);
  }

  /// Tiles [i, end).
  __device__ void take_split(const Item& item, int32_t i, int32_t end, const Queries& queries,
                             Softmax& softmax, Sums& sums) {
    clear(sums);
    const KeyRange plain = item.groups[0].plain;
    const float scale = item.rows.logit.scale;
    int32_t first = item.first_of(i) + warp_of_block() * kWarpKeys;
#pragma unroll 1
    for (; i < end; ++i, first += kKeys) {
      if (i >= plain.begin && i < plain.end) {
        take<true>(item, i, first, scale, queries, softmax, sums);
      } else {
        take<false>(item, i, first, scale, queries, softmax, sums);
      }
    }
  }

  /// The warp's share of tile `i`, from key `first` on. `Plain`: every row sees all of the tile.
  template <bool Plain>
  __device__ void take(const Item& item, int32_t i, int32_t first, float scale,
                       const Queries& queries, Softmax& softmax, Sums& sums) {
    const Turn<> turn(i);
    const int own = warp_of_block() * kWarpKeys;
    Scores scores;
    wait(shared_.k_full[turn.stage], turn.parity);
    multiply_keys(scores, queries, 0,
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
    if (!Plain && has_specials(p_.v.steps, item, i, values)) {
      add_specials(sums, p_, item.rows, first, [&](int key, int column) {
        return values + place_in_tile(p_.v.steps, own + key, column * kKvBytes / kRowBytes,
                                      column * kKvBytes % kRowBytes);
      });
    }
    release(shared_.v_empty[turn.stage]);
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

  // What a warp has of splits that are done lies where others hand it theirs, while they do not.

  __device__ float4& own_states() const { return shared_.states[warp_of_block()][lane_of_warp()]; }

  __device__ void keep(const RowStates& states) const {
    const RowState(&rows)[2] = states.of[0];
    own_states() = {rows[0].reference, rows[0].sum, rows[1].reference, rows[1].sum};
  }
  __device__ RowStates kept_states() const {
    const float4 rows = own_states();
    return {{{{rows.x, rows.y}, {rows.z, rows.w}}}};
  }

  /// Where a tile of a group of columns is.
  __device__ float4& place_of(int group, int tile) const {
    return shared_.sums[group * kGroupTiles + tile][lane_of_warp()];
  }
  /// This warp's group `g`; beyond the last, none.
  static __device__ int own_group(int g) { return g * kKeyWarps + warp_of_block(); }

  __device__ void keep(int g, const GroupSums& sums) const {
    if (own_group(g) >= kColumnGroups) return;
#pragma unroll
    for (int t = 0; t < kGroupTiles; ++t) place_of(own_group(g), t) = values_of(sums.of[0][t]);
  }
  __device__ GroupSums kept_sums(int g) const {
    GroupSums sums{};
    if (own_group(g) >= kColumnGroups) return sums;
#pragma unroll
    for (int t = 0; t < kGroupTiles; ++t) sums.add(t, place_of(own_group(g), t));
    return sums;
  }
  static __device__ float4 values_of(const float (&x)[4]) { return {x[0], x[1], x[2], x[3]}; }

  __device__ void forget() const {
    keep({{{{-infinity(), 0}, {-infinity(), 0}}}});
    for (int g = 0; g < kOwnGroups; ++g) keep(g, {});
  }

  /// `split`: of this warp's keys, as `sums`, which are spoiled.
  __device__ void add_split(const RowStates& split, Sums& sums) const {
    const RowStates before = kept_states();
    GroupSums done = kept_sums(0);
    const RowStates all = unite(split, sums);
    const RowSum rows[2] = {{before.of[0][0], all.of[0][0]}, {before.of[0][1], all.of[0][1]}};
#pragma unroll
    for (int g = 0; g < kOwnGroups; ++g) {
      if (g > 0) {
        done = kept_sums(g);
        wait_for_key_warps();
      }
      const GroupSums added = exchange(g, sums);
#pragma unroll
      for (int t = 0; t < kGroupTiles; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          done.of[0][t][e] = rows[e / 2].of(done.of[0][t][e], added.of[0][t][e]);
        }
      }
      keep(g, done);
    }
    keep({{{rows[0].state, rows[1].state}}});
  }

  /// The rows' states over the keys of all warps, and this warp's sums in the same units.
  __device__ RowStates unite(const RowStates& own, Sums& sums) const {
    const int lane = lane_of_warp();
    const RowState(&rows)[2] = own.of[0];
    keep(own);
    wait_for_key_warps();
    float4 states[kKeyWarps];
#pragma unroll
    for (int w = 0; w < kKeyWarps; ++w) states[w] = shared_.states[w][lane];
    RowStates all;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto state = [&](int w) -> RowState {
        return half == 0 ? RowState{states[w].x, states[w].y} : RowState{states[w].z, states[w].w};
      };
      RowState& united = all.of[0][half];
      united = {-infinity(), 0};
#pragma unroll
      for (int w = 0; w < kKeyWarps; ++w) {
        united.reference = fmaxf(united.reference, state(w).reference);
      }
      const float base = base_of(united.reference);
#pragma unroll
      for (int w = 0; w < kKeyWarps; ++w) {
        united.sum = fmaf(state(w).sum, exp2_fast(state(w).reference - base), united.sum);
      }
      const float factor = exp2_fast(rows[half].reference - base);
#pragma unroll
      for (int c = 0; c < kValueTiles; ++c) {
        sums[0][c][2 * half] *= factor;
        sums[0][c][2 * half + 1] *= factor;
      }
    }
    return all;
  }

  /// Every warp's sums of this warp's group `g`, added up: its own, then those of the warp before
  /// it, and so on.
  __device__ GroupSums exchange(int g, const Sums& sums) const {
    const int warp = warp_of_block();
    GroupSums own{};
#pragma unroll
    for (int step = 0; step < kKeyWarps; ++step) {
      if (step > 1) wait_for_key_warps();  // those before are read
      const int owner = (warp + step) % kKeyWarps;
#pragma unroll
      for (int group = g * kKeyWarps; group < min((g + 1) * kKeyWarps, kColumnGroups); ++group) {
        if (group % kKeyWarps != owner) continue;
#pragma unroll
        for (int t = 0; t < kGroupTiles; ++t) {
          const float4 x = values_of(sums[0][group * kGroupTiles + t]);
          if (step == 0) {
            own.add(t, x);
          } else {
            place_of(group, t) = x;
          }
        }
      }
      if (step == 0) continue;
      wait_for_key_warps();
      if (own_group(g) >= kColumnGroups) continue;
#pragma unroll
      for (int t = 0; t < kGroupTiles; ++t) own.add(t, place_of(own_group(g), t));
    }
    return own;
  }

  __device__ void finish(const Item& item) const {
    const RowTile& tile = item.rows.tile;
    const int32_t kv_head = item.rows.kv_head;
    const RowStates states = kept_states();
    RowEnd end{};
    if (!tile.is_split()) end = end_row(p_, tile, kv_head, states, own_group(0) == 0);
#pragma unroll 1
    for (int g = 0; g < kOwnGroups; ++g) {
      const int column = own_group(g) * kGroupTiles * 8;
      const Slice slice{column, min(kGroupTiles * 8, p_.attention.dv - column)};
      if (slice.columns <= 0) break;
      const GroupSums sums = kept_sums(g);
      if (tile.is_split()) {
        write_partial(tile, states, sums.of, slice, partial_at(p_, tile.partial(), kv_head));
      } else {
        write_result(p_, tile, end, sums.of, slice);
      }
    }
    if (p_.arrived != nullptr && tile.is_split()) merge_if_last(tile, kv_head);
  }

  /// The partial result is written: the last of the tile's to come merges them.
  __device__ void merge_if_last(const RowTile& tile, int32_t kv_head) const {
    __threadfence();
    wait_for_key_warps();
    if (threadIdx.x == 0) {
      unsigned& arrived = p_.arrived[tile.place.request * p_.attention.hkv + kv_head];
      const int parts = tile.end_item - tile.first_item;
      shared_.is_last = atomicAdd(&arrived, 1u) + 1 == static_cast<unsigned>(parts);
      __threadfence();
    }
    wait_for_key_warps();
    if (!shared_.is_last) return;
#pragma unroll 1
    for (int row = warp_of_block(); row < tile.rows; row += kKeyWarps) {
      merge_row(p_, tile, kv_head, row, shared_.merged);
    }
    wait_for_key_warps();  // what is merged lies where sums are next
  }

  const Sm90Params& p_;
  Shared& shared_;
};

// Q of items, by a warp. Of each 16 columns a lane has the pairs that products take, of row l / 4
// and 8 rows further.

/// The column of the second of a lane's pairs, or the first, in products' step `step`. Of fp8 K a
/// lane has four neighbours in a load.
__device__ int column_of_pair(int step, int pair) {
  const int lane = lane_of_warp() % 4;
  return step * 16 + (kKvBytes == 2 ? pair * 8 + lane * 2 : pair * 2 + lane * 4);
}

/// Two elements of a row from `column` on, zeros beyond it.
__device__ unsigned query_pair(const Sm90Params& p, int64_t row_offset, int column) {
  const int count = max(min(p.attention.d - column, 2), 0);
  return convert_queries(p, row_offset + column, count).x;
}

__device__ void store_queries(const Sm90Params& p, Shared& shared, const Item& item, int n) {
  constexpr int kSteps = kD / 16;
  const int lane = lane_of_warp();
  const RowTile& tile = item.rows.tile;
  const unsigned flip = item.rows.logit.negative ? 0x80008000u : 0;
  const int32_t d = p.attention.d;
  int64_t offset[2];
  bool exists[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 8 + lane / 4;
    exists[half] = row < tile.rows;
    offset[half] = exists[half] ? query_offset(p, tile, item.rows.kv_head, row) : 0;
  }
  if (p.q_whole && d % 2 == 0) {
    unsigned q[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = column_of_pair(step, i / 2);
        q[step][i] = 0;
        if (!exists[i % 2] || column >= d) continue;
        q[step][i] = *reinterpret_cast<const unsigned*>(
            static_cast<const unsigned short*>(p.attention.q) + offset[i % 2] + column);
      }
    }
    if (n > 0) wait(shared.q_empty, (n - 1) % 2);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      shared.queries[step][lane] = {q[step][0] ^ flip, q[step][1] ^ flip, q[step][2] ^ flip,
                                    q[step][3] ^ flip};
    }
    return;
  }
  if (n > 0) wait(shared.q_empty, (n - 1) % 2);
#pragma unroll 1
  for (int step = 0; step < kSteps; ++step) {
    unsigned q[4];
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
      q[i] = exists[i % 2] ? query_pair(p, offset[i % 2], column_of_pair(step, i / 2)) ^ flip : 0;
    }
    shared.queries[step][lane] = {q[0], q[1], q[2], q[3]};
  }
}

__device__ void bring_queries(const Sm90Params& p, Shared& shared) {
  for (int n = 0;; ++n) {
    const Item& item = shared.items.take(n);
    if (!item.exists) return;
    store_queries(p, shared, item, n);
    arrive(shared.q_full);
    shared.items.release(n);
  }
}

__device__ void init_barriers(const Sm90Params& p, Shared& shared) {
  const int lanes = p.box_rows > 0 ? 1 : kWarp;  // of a warp that arrive for a tile
  for (int stage = 0; stage < kStages; ++stage) {
    init_barrier(shared.k_full[stage], lanes);
    init_barrier(shared.v_full[stage], lanes);
    init_barrier(shared.k_empty[stage], kKeyWarps * lanes);
    init_barrier(shared.v_empty[stage], kKeyWarps * lanes);
  }
  init_barrier(shared.q_full, kWarp);
  init_barrier(shared.q_empty, kKeyWarps * kWarp);
  shared.items.init(kKeyWarps + kLoadWarps - 1);
  fence_barriers();
}

/// `described`: items, which others describe.
__device__ void load(const Sm90Params& p, Shared& shared, const Tasks& tasks, int described) {
  const AttentionParams& a = p.attention;
  switch (warp_of_block() - kKeyWarps) {
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
      return bring_queries(p, shared);
    default:
      wait_for_grids_before();  // which have the workspace
      return schedule(p, tasks, shared.items, described);
  }
}

// Registers of a lane: what those that load leave is for the others.
constexpr int kLoadRegisters = kBlocksTogether == 2 ? 104 : 128;
constexpr int kKeyRegisters = kBlocksTogether == 2 ? 152 : 256;

}  // namespace

/// Grid: as many thread blocks as stay, or as there are items.
extern "C" __global__ void __launch_bounds__(kBlockThreads, kBlocksTogether)
    octavo_sm90_few(const __grid_constant__ Sm90Params p) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  let_next_grid_begin();
  if (threadIdx.x == 0) init_barriers(p, shared);
  const Tasks tasks(p);
  Task first;
  const bool is_first = tasks.find_first(first);
  __syncthreads();
  if (warp_of_block() >= kKeyWarps) {
    shrink_registers<kLoadRegisters>();
    load(p, shared, tasks, is_first ? 1 : 0);
    return;
  }
  grow_registers<kKeyRegisters>();
  if (is_first && warp_of_block() == 0) {
    describe_first(p, first, shared.items, lane_of_warp(), kWarp);
    arrive(shared.items.full[0]);
  }
  wait_for_grids_before();
  Walk(p, shared).run();
}

}  // namespace octavo::cuda
