// Attention for batches whose requests have few keys: a thread block has all keys of a request and
// KV head, and takes tiles of its rows (query tokens times the heads of a GQA group), one or more.
//
// Nothing is worth a ring here, or warps that only load: a block asks for K and V at once, and for
// Q of a tile before it computes the one before. What it waits for, other blocks of the
// multiprocessor hide.
//
//   warp 0     finds the block's work
//   warps 0 1  ask for K, V, all tiles           k_full[i] ->  S(i) = Q . K(i)^T
//   all        have 16 rows each of a tile,      v_full[i] ->  O += P(i) . V(i)
//              and copy Q of the next
#include "sm90/pages.h"
#include "sm90/products.h"
#include "sm90/queries.h"
#include "sm90/specials.h"
#include "tiled/output.h"

namespace octavo::cuda {
namespace {

static_assert(kWarpgroups == 1);

constexpr int kBlocksTogether = OCTAVO_BLOCKS;   // of a multiprocessor
constexpr bool kSeveral = OCTAVO_SEVERAL_TILES;  // of rows, for a block: p.row_tiles at most

constexpr int kQueryTiles = kSeveral ? 2 : 1;  // that is computed, and the next
constexpr int kKnownTiles = kSeveral ? 3 : 1;  // whose results are written, too

/// Consecutive tiles of rows of a request and KV head.
struct Work {
  Unit unit;
  int32_t kv_head;
  LogitScale logit;
  int32_t begin;  ///< tiles of rows: the first of the request's last rows, and so on
  int32_t end;
  KeyRange keys;  ///< that some of the rows may see

  __device__ RowTile row_tile(const Sm90Params& p, int32_t index) const {
    Unit at = unit;
    at.place.unit = index;
    return cuda::row_tile<kRows>(p, at);
  }
  /// Tiles of keys.
  __device__ int32_t first_key() const { return keys.begin / kKeys * kKeys; }
  __device__ int key_tiles() const {
    return keys.begin < keys.end ? ceil_div(keys.end - first_key(), kKeys) : 0;
  }
};

struct Shared {
  alignas(1024) QueryTile q[kQueryTiles];
  alignas(1024) unsigned char k[kStages][kKeySlabs * kSlabBytes];
  alignas(1024) unsigned char v[kStages][kValueSlabs * kSlabBytes];
  Work work;
  Rows rows[kKnownTiles];
  SeenKeys seen[kKnownTiles];
  Barrier k_full[kStages];
  Barrier v_full[kStages];
  bool special[kStages];  ///< V has infinite or NaN values
};

/// By warp 0; no request: there is nothing to do. `rows`: described, but for which keys they see.
__device__ void find_work(const Sm90Params& p, Work& work, Rows& rows) {
  const int32_t each = kSeveral ? p.row_tiles : 1;  // a power of two
  const Unit unit = find_unit<kRows, kKeys>(p, 0, unit_of_block(p), [&](const Tiling& tiling) {
    return (tiling.tiles + each - 1) >> (__ffs(each) - 1);
  });
  if (lane_of_warp() != 0) return;
  work.unit = unit;
  if (unit.place.request < 0) return;
  work.begin = unit.place.unit * each;
  work.end = min(work.begin + each, unit.tiling.tiles);
  rows.tile = work.row_tile(p, work.begin);
  work.keys = rows.tile.keys;
  if (kSeveral && work.end - work.begin > 1) {
    work.keys.begin = work.row_tile(p, work.end - 1).keys.begin;
    work.keys.end = max(work.keys.begin, work.keys.end);
  }
}

/// K or V of a block.
struct Source : KvTensor {
  unsigned char* tiles;
  int tile_bytes;
  Barrier* full;  ///< of tiles that come by boxes

  __device__ unsigned char* tile(int i) const { return tiles + i * tile_bytes; }
};

__device__ Source keys_of(const Sm90Params& p, Shared& shared) {
  return {{p.attention.k, p.k, p.attention.d, kKeySlabs},
          shared.k[0],
          sizeof shared.k[0],
          shared.k_full};
}
__device__ Source values_of(const Sm90Params& p, Shared& shared) {
  return {{p.attention.v, p.v, p.attention.dv, kValueSlabs},
          shared.v[0],
          sizeof shared.v[0],
          shared.v_full};
}

/// By a warp: all tiles by boxes of pages. Pages that have no key to be read are left out.
__device__ void ask(const Sm90Params& p, const Work& work, const Source& from) {
  const KeyRange keys = work.keys;
  const int32_t first = work.first_key();
  const int tiles = work.key_tiles();
  const int rows = p.box_rows;  // a power of two
  const int lane = lane_of_warp();
  if (lane == 0) {
    for (int i = 0; i < kStages; ++i) init_barrier(from.full[i], 1);
    fence_barriers();
  }
  __syncwarp();
  if (lane < tiles) {
    const int32_t before = first + lane * kKeys;
    const int32_t begin = max(keys.begin - before, 0) & -rows;
    const int32_t end = (min(keys.end - before, kKeys) + rows - 1) & -rows;
    arrive_expecting(from.full[lane], (end - begin) * kRowBytes * from.slabs);
  }
  __syncwarp();
  for (int row = lane * rows; row < tiles * kKeys; row += kWarp * rows) {
    const int32_t key = first + row;
    if (key >= keys.end || key + rows <= keys.begin) continue;
    const int tile = row / kKeys;
    copy_page_box(p, from, work.kv_head, find_key(p, work.unit.place, key),
                  shared_address(from.tile(tile)) + row % kKeys / 8 * from.boxes.steps.rows,
                  from.full[tile]);
  }
}

/// By a warp: tile `i`, row by row.
__device__ __noinline__ void copy(const Sm90Params& p, const Work& work, const Source& from,
                                  int i) {
  copy_rows(p, from, work.unit.place, work.kv_head, work.keys, work.first_key() + i * kKeys,
            from.tile(i));
  commit_copies();
}

/// By a warp: all tiles. Those that are copied are there after wait_for_copies.
__device__ void load(const Sm90Params& p, const Work& work, const Source& from) {
  if (p.box_rows > 0) return ask(p, work, from);
  for (int i = 0; i < work.key_tiles(); ++i) copy(p, work, from, i);
}

/// By all: of a tile of V, what is not among these keys becomes 0, because 0 times garbage is not
/// 0. Says whether the others have infinite or NaN values.
__device__ bool clear_but(const KeyRange& keys, unsigned char* values, const TileSteps& steps) {
  constexpr int kChunks = kRowBytes / 16;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  unsigned carries = 0;
#pragma unroll
  for (int i = 0; i < kKeys; i += kThreads / kChunks) {
    const int row = i + static_cast<int>(threadIdx.x) / kChunks;
#pragma unroll
    for (int slab = 0; slab < kValueSlabs; ++slab) {
      auto& words = *reinterpret_cast<uint4*>(values + place_in_tile(steps, row, slab, chunk * 16));
      if (row >= keys.begin && row < keys.end) {
        carries |= carries_of(words);
      } else {
        words = {0, 0, 0, 0};
      }
    }
  }
  fence_async_proxy();
  return __syncthreads_or((carries & kSigns) != 0);
}

/// A tile of rows after another.
class Walk {
 public:
  __device__ Walk(const Sm90Params& p, Shared& shared) : p_(p), shared_(shared) {}

  /// When the first tile is described, and its Q on its way.
  __device__ void run() {
    const Work& work = shared_.work;
    const int count = kSeveral ? work.end - work.begin : 1;
#pragma unroll 1
    for (int n = 0; n < count; ++n) {
      const bool is_last = n + 1 == count;
      if (!is_last && warp_of_block() == n % kWarps) describe(n + 1);
      wait_for_copies<0>();
      fence_async_proxy();
      __syncthreads();
      if (!is_last) copy_queries(n + 1);
      attend(n);
    }
  }

  /// By a warp: what the rows of a tile see, which is there.
  __device__ void describe_seen(int n) const {
    Rows& rows = shared_.rows[n % kKnownTiles];
    describe_keys(p_, rows.tile, lane_of_warp(), kWarp, rows);
    if (lane_of_warp() == 0) shared_.seen[n % kKnownTiles] = SeenKeys(p_, rows.tile, 0, kRows);
  }

  /// By all. They are there after wait_for_copies.
  __device__ void copy_queries(int n) const {
    const Rows& rows = shared_.rows[n % kKnownTiles];
    QueryTile& q = shared_.q[n % kQueryTiles];
    if (!start_queries(p_, rows, q)) store_queries(p_, rows, q);
  }

 private:
  /// By a warp: number `n` of the block's tiles of rows.
  __device__ void describe(int n) const {
    Rows& rows = shared_.rows[n % kKnownTiles];
    const Work& work = shared_.work;
    if (lane_of_warp() == 0) {
      rows.tile = work.row_tile(p_, work.begin + n);
      rows.kv_head = work.kv_head;
      rows.logit = work.logit;
    }
    __syncwarp();
    describe_seen(n);
  }

  __device__ void attend(int n) {
    const Rows& rows = shared_.rows[n % kKnownTiles];
    const SeenKeys& seen = shared_.seen[n % kKnownTiles];
    const int32_t first_key = shared_.work.first_key();
    const KeyRange keys = rows.tile.keys;
    Softmax softmax;
    Sums sums;
    if (kStages > 1 || keys.begin == keys.end) clear(sums);
#pragma unroll 1
    for (int i = (keys.begin - first_key) / kKeys; first_key + i * kKeys < keys.end; ++i) {
      pass_tile(rows, shared_.q[n % kQueryTiles], i, seen.sees_all(first_key + i * kKeys), softmax,
                sums);
    }
    const RowEnd end = end_row(p_, rows.tile, rows.kv_head, softmax.rows(), true);
    write_result(p_, rows.tile, end, sums, Slice{0, p_.attention.dv});
  }

  static __device__ void clear(Sums& sums) {
#pragma unroll
    for (int c = 0; c < kValueTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[0][c][i] = 0;
    }
  }

  /// Tile `i` of keys. `plain`: all rows see all of it.
  __device__ void pass_tile(const Rows& rows, const QueryTile& q, int i, bool plain,
                            Softmax& softmax, Sums& sums) {
    const int32_t first = shared_.work.first_key() + i * kKeys;
    Scores scores;
    Weights weights;
    if (p_.box_rows > 0) wait(shared_.k_full[i], 0);
    fence_products();
    multiply_keys(scores, shared_address(q), shared_address(shared_.k[i]), p_.k.steps);
    commit_products();
    const bool special = make_ready(i);
    wait_for_products<0>();
    pin_all(scores);
    shape_scores(scores, p_, rows, first);
    if (!plain) hide(scores, p_, rows, first);
    const Rescale rescale = weigh(scores, rows.logit.scale, softmax);
    pack_weights(scores, weights);
    if constexpr (kStages == 1) {
      clear(sums);  // here, so that they take no registers before
    } else if (rescale.needed) {
      rescale.apply(sums);
    }
    if (special) settle_specials(p_, shared_.v[i], rows, first, sums);
    pin_all(sums);
    fence_products();
    multiply_values(sums, weights, shared_address(shared_.v[i]), p_.v.steps);
    commit_products();
    wait_for_products<0>();
    pin_all(sums);
  }

  /// Tile `i` of V. Says whether it has infinite or NaN values that some rows may not see.
  __device__ bool make_ready(int i) {
    if ((ready_ >> i & 1) != 0) {
      if (!kMasked || !shared_.special[i]) return false;
      restore(i);
      return true;
    }
    ready_ |= 1u << i;
    if (p_.box_rows > 0) wait(shared_.v_full[i], 0);
    const Work& work = shared_.work;
    const int32_t first = work.first_key() + i * kKeys;
    const KeyRange keys{work.keys.begin - first, work.keys.end - first};
    if (!kMasked && keys.begin <= 0 && keys.end >= kKeys) return false;
    const bool special = clear_but(keys, shared_.v[i], p_.v.steps) && kMasked;
    if (threadIdx.x == 0) shared_.special[i] = special;
    return special;
  }

  /// What `settle_specials` cleared for the tile of rows before.
  __device__ void restore(int i) const {
    if (warp_of_block() == 0) {
      copy(p_, shared_.work, values_of(p_, shared_), i);
      wait_for_copies<0>();
    }
    fence_async_proxy();
    __syncthreads();
  }

  const Sm90Params& p_;
  Shared& shared_;
  unsigned ready_ = 0;  ///< a bit for each tile of V
};

}  // namespace

/// Grid: units (p.row_tiles tiles of rows each) that the batch may have, KV heads (or the other way
/// round if p.heads_first).
extern "C" __global__ void __launch_bounds__(kThreads, kBlocksTogether)
    octavo_sm90_short(const __grid_constant__ Sm90Params p) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  Work& work = shared.work;
  const int warp = warp_of_block();
  if (warp == 0) {
    if (p.box_rows > 0 && lane_of_warp() < 2) {
      prefetch_map(lane_of_warp() == 0 ? &p.k.map : &p.v.map);
    }
    find_work(p, work, shared.rows[0]);
  } else if (warp == 1 && lane_of_warp() == 0) {
    work.kv_head = shared.rows[0].kv_head = head_of_block(p);
    work.logit = shared.rows[0].logit = LogitScale(p.attention, head_of_block(p));
  }
  __syncthreads();
  if (work.unit.place.request < 0) return;
  Walk walk(p, shared);
  if (warp == 0) load(p, work, keys_of(p, shared));
  if (warp == 1) load(p, work, values_of(p, shared));
  if (warp == 2) walk.describe_seen(0);
  walk.copy_queries(0);
  walk.run();
}

}  // namespace octavo::cuda
