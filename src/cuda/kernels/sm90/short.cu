// Attention for batches whose requests have few keys: a thread block has all keys of a request and
// KV head, and its warpgroups take tiles of 64 rows (query tokens times the heads of a GQA group),
// one or more, without waiting for each other.
//
// Nothing is worth a ring here, or warps that only load: a block asks for K and V at once, and a
// warpgroup for Q of a tile before it writes the results of another. What one waits for, others of
// the multiprocessor hide.
//
//   warp 0          finds the block's work
//   warps 0 1       ask for K, V: all tiles        k_full[i]
//   all             clear in V what is not to be read, once it is there
//   each warpgroup  S(i) = Q . K(i)^T, O += P(i) . V(i); results
#include "sm90/pages.h"
#include "sm90/products.h"
#include "sm90/queries.h"
#include "tiled/mask.h"
#include "tiled/output.h"

namespace octavo::cuda {
namespace {

static_assert(kWarpgroups == 1);

constexpr int kTileGroups = OCTAVO_GROUPS;               // warpgroups, each with a tile of rows
constexpr int kBlocksTogether = OCTAVO_BLOCKS;           // of a multiprocessor
constexpr bool kSeveral = OCTAVO_SEVERAL_TILES;          // for a warpgroup
constexpr bool kTogether = kSeveral || kTileGroups > 1;  // a block has more than one
constexpr int kBlockThreads = kTileGroups * kGroupThreads;

constexpr int kKnownTiles = kSeveral ? 2 : 1;  // whose results are written, and the next

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
  alignas(1024) QueryTile q[kTileGroups];
  alignas(1024) unsigned char k[kStages][kKeySlabs * kSlabBytes];
  alignas(1024) unsigned char v[kStages][kValueSlabs * kSlabBytes];
  Work work;
  Rows rows[kTileGroups][kKnownTiles];
  Barrier k_full[kStages];
  Barrier v_full[kStages];
};

/// By warp 0; no request: there is nothing to do.
__device__ void find_work(const Sm90Params& p, Shared& shared) {
  Work& work = shared.work;
  const int32_t each = kTogether ? p.row_tiles : 1;  // a power of two
  const Unit unit = find_unit<kRows, kKeys>(p, 0, unit_of_block(p), [&](const Tiling& tiling) {
    return (tiling.tiles + each - 1) >> (__ffs(each) - 1);
  });
  if (lane_of_warp() != 0) return;
  work.unit = unit;
  if (unit.place.request < 0) return;
  work.begin = unit.place.unit * each;
  work.end = min(work.begin + each, unit.tiling.tiles);
  RowTile& first = shared.rows[0][0].tile;
  first = work.row_tile(p, work.begin);
  work.keys = first.keys;
  if (kTogether && work.end - work.begin > 1) {
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

/// By a warp: all tiles. Those that are copied are there after wait_for_copies.
__device__ void load(const Sm90Params& p, const Work& work, const Source& from) {
  if (p.box_rows > 0) return ask(p, work, from);
  for (int i = 0; i < work.key_tiles(); ++i) {
    copy_rows(p, from, work.unit.place, work.kv_head, work.keys, work.first_key() + i * kKeys,
              from.tile(i));
  }
  commit_copies();
}

/// By all: calls take(key, words) for each 16 bytes of V's tiles, of which a thread has its share.
template <typename Take>
__device__ void for_values(const Sm90Params& p, Shared& shared, const Take& take) {
  constexpr int kChunks = kRowBytes / 16;
  const int32_t first = shared.work.first_key();
  const int tiles = shared.work.key_tiles();
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
#pragma unroll 1
  for (int i = 0; i < tiles; ++i) {
#pragma unroll
    for (int r = 0; r < kKeys; r += kBlockThreads / kChunks) {
      const int row = r + static_cast<int>(threadIdx.x) / kChunks;
#pragma unroll
      for (int slab = 0; slab < kValueSlabs; ++slab) {
        const int at = place_in_tile(p.v.steps, row, slab, chunk * 16);
        take(first + i * kKeys + row, *reinterpret_cast<uint4*>(shared.v[i] + at));
      }
    }
  }
}

/// By all, when V is there or will be: what is not to be read becomes 0, because 0 times garbage is
/// not 0. So do infinite and NaN values, if some rows may not see them: says whether there are any.
__device__ bool make_ready(const Sm90Params& p, Shared& shared) {
  const Work& work = shared.work;
  const int32_t first = work.first_key();
  const int tiles = work.key_tiles();
  for (int i = 0; p.box_rows > 0 && i < tiles; ++i) wait(shared.v_full[i], 0);
  const bool whole = first == work.keys.begin && work.keys.end - first == tiles * kKeys;
  if (!kMasked && whole) return false;
  unsigned carries = 0;
  for_values(p, shared, [&](int32_t key, uint4& words) {
    if (key >= work.keys.begin && key < work.keys.end) {
      carries |= carries_of(words);
    } else {
      words = {0, 0, 0, 0};
    }
  });
  fence_async_proxy();
  if (!__syncthreads_or((carries & kSigns) != 0) || !kMasked) return false;
  for_values(p, shared, [&](int32_t, uint4& words) {
    words = {without_specials(words.x), without_specials(words.y), without_specials(words.z),
             without_specials(words.w)};
  });
  fence_async_proxy();
  __syncthreads();
  return true;
}

/// A warpgroup's tiles of rows, one after another.
class Walk {
 public:
  __device__ Walk(const Sm90Params& p, Shared& shared)
      : p_(p), shared_(shared), group_(warp_of_block() / kWarps) {}

  /// By all threads of a warpgroup that has a tile: describes number `n`, and asks for its Q, which
  /// is there after wait_for_copies. A block of one tile has described all but which keys rows see.
  __device__ void prepare(int n) const {
    Rows& rows = rows_of(n);
    if constexpr (kTogether) {
      const Work& work = shared_.work;
      if (thread() == 0) {
        rows.tile = work.row_tile(p_, work.begin + n * kTileGroups + group_);
        rows.kv_head = work.kv_head;
        rows.logit = work.logit;
      }
      sync();
    }
    QueryTile& q = shared_.q[group_];
    if (!start_queries(p_, rows, q)) store_queries(p_, rows, q);
    describe_keys(p_, rows.tile, thread(), kGroupThreads, rows);
  }

  /// Whether the warpgroup has a tile of that number.
  __device__ bool has(int n) const {
    const Work& work = shared_.work;
    return work.begin + n * kTileGroups + group_ < work.end;
  }

  /// When the first is prepared.
  __device__ void run() {
    if (kTileGroups > 1) special_ = make_ready(p_, shared_);
#pragma unroll 1
    for (int n = 0; has(n); ++n) {
      wait_for_copies<0>();
      fence_async_proxy();
      sync();
      attend(n);
      if (!kSeveral) return;
    }
  }

 private:
  __device__ int thread() const { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  __device__ void sync() const { sync_threads(1 + group_, kGroupThreads); }
  __device__ Rows& rows_of(int n) const { return shared_.rows[group_][n % kKnownTiles]; }

  /// Whether all rows see all of the tile of keys that begins with `first`.
  __device__ bool is_plain(const Rows& rows, int32_t first) const {
    if (masks_by_bits(p_)) return false;
    KeyRange all = rows.tile.keys;
    if constexpr (kMasked) all = {rows.keys[rows.tile.rows - 1].begin, rows.keys[0].end};
    return first >= all.begin && all.end - first >= kKeys;
  }

  __device__ void attend(int n) {
    const Rows& rows = rows_of(n);
    const int32_t first_key = shared_.work.first_key();
    const KeyRange keys = rows.tile.keys;
    Softmax softmax;
    Sums sums;
    if (kStages > 1 || keys.begin == keys.end) clear(sums);
#pragma unroll 1
    for (int i = (keys.begin - first_key) / kKeys; first_key + i * kKeys < keys.end; ++i) {
      const int32_t first = first_key + i * kKeys;
      Scores scores;
      Weights weights;
      if (p_.box_rows > 0) wait(shared_.k_full[i], 0);
      fence_products();
      multiply_keys(scores, shared_address(shared_.q[group_]), shared_address(shared_.k[i]),
                    p_.k.steps);
      commit_products();
      if (kTileGroups == 1 && !ready_) {
        special_ = make_ready(p_, shared_);
        ready_ = true;
      }
      wait_for_products<0>();
      pin_all(scores);
      shape_scores(scores, p_, rows, first);
      if (!is_plain(rows, first)) hide(scores, p_, rows, first);
      const Rescale rescale = weigh(scores, rows.logit.scale, softmax);
      pack_weights(scores, weights);
      if constexpr (kStages == 1) {
        clear(sums);  // here, so that they take no registers before
      } else if (rescale.needed) {
        rescale.apply(sums);
      }
      if (kMasked && special_) add_hidden_specials(rows, i, first, sums);
      pin_all(sums);
      fence_products();
      multiply_values(sums, weights, shared_address(shared_.v[i]), p_.v.steps);
      commit_products();
      wait_for_products<0>();
      pin_all(sums);
    }
    if constexpr (kSeveral) {
      sync();  // nothing reads Q any more
      if (has(n + 1)) prepare(n + 1);
    }
    const RowEnd end = end_row(p_, rows.tile, rows.kv_head, softmax.rows(), true);
    write_result(p_, rows.tile, end, sums, Slice{0, p_.attention.dv});
  }

  /// Those of tile `i` of V, which was cleared of them, to rows that see them: from where they lie.
  /// Inline, as all that has sums: in memory, they would be stored while a product still adds to
  /// them.
  __device__ void add_hidden_specials(const Rows& rows, int i, int32_t first, Sums& sums) const {
    const KvParam& v = p_.attention.v;
    const Work& work = shared_.work;
    add_specials(sums, p_, rows, first, [&](int row, int column) -> const unsigned char* {
      const int32_t key = first + row;
      if (key < work.keys.begin || key >= work.keys.end || column >= p_.attention.dv) {
        return shared_.v[i];  // finite
      }
      const KeySlot at = find_key(p_, work.unit.place, key);
      return static_cast<const unsigned char*>(v.data) +
             (at.page * v.page_stride + at.slot * v.slot_stride + work.kv_head * v.head_stride +
              column) *
                 2;
    });
  }

  const Sm90Params& p_;
  Shared& shared_;
  int group_;
  bool ready_ = false;    ///< V, of a block of one warpgroup: it comes after K
  bool special_ = false;  ///< it has infinite or NaN values, which were cleared
};

}  // namespace

/// Grid: units (p.row_tiles tiles of rows each) that the batch may have, KV heads (or the other way
/// round if p.heads_first).
extern "C" __global__ void __launch_bounds__(kBlockThreads, kBlocksTogether)
    octavo_sm90_short(const __grid_constant__ Sm90Params p) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  Work& work = shared.work;
  const int warp = warp_of_block();
  if (warp == 0) {
    if (p.box_rows > 0 && lane_of_warp() < 2) {
      prefetch_map(lane_of_warp() == 0 ? &p.k.map : &p.v.map);
    }
    find_work(p, shared);
  } else if (warp == 1 && lane_of_warp() == 0) {
    Rows& rows = shared.rows[0][0];
    work.kv_head = rows.kv_head = head_of_block(p);
    work.logit = rows.logit = LogitScale(p.attention, work.kv_head);
  }
  __syncthreads();
  if (work.unit.place.request < 0) return;
  if (warp == 0) load(p, work, keys_of(p, shared));
  if (warp == 1) load(p, work, values_of(p, shared));
  Walk walk(p, shared);
  if (walk.has(0)) walk.prepare(0);
  wait_for_copies<0>();
  fence_async_proxy();
  __syncthreads();
  walk.run();
}

}  // namespace octavo::cuda
