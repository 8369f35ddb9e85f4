#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <vector>

#include "core/kernel.h"
#include "core/work.h"
#include "cuda/function.h"
#include "cuda/kernels/tiled/params.h"
#include "cuda/variant.h"
#include "octavo/problem.h"
#include "octavo/selection.h"

// What kernels that work by tiles of rows and keys share on the host: kernels/tiled is the same on
// the device. A row is a query token with one of the heads of a GQA group.
namespace octavo::cuda {

/// What a thread block computes at a time.
struct TileShape {
  int rows = 0;       ///< 0: no such tile fits the device
  int warps = 0;      ///< that have rows of their own
  int keys = 0;       ///< of K and V in shared memory at a time
  int key_warps = 1;  ///< that have the same rows, and share the keys
};

/// Rows of a request that a launch takes, and its tile: which one follows from the request's own
/// length.
struct RowClass {
  int fewest_rows;
  int most_rows;
  TileShape tile;
};

inline constexpr int kAnyRows = 0x7fffffff;

/// The widths of Q and K, and of V, that a variant is compiled for.
struct HeadDims {
  int d;
  int dv;          ///< of a slice of V
  int slices = 1;  ///< of V, each for a thread block
};

/// The launches of a problem, of tiles of `rows` rows, rising, as far as `tile_of` has one.
/// Invariant problems have one tile for all rows, the largest.
std::vector<RowClass> row_classes(const Problem& problem, std::initializer_list<int> rows,
                                  const std::function<TileShape(int rows)>& tile_of);

/// What q and kv are converted to before they multiply, without a rounding; empty if there is no
/// such type of 16 bits.
std::optional<DType> multiplied_type(const Problem& problem);

inline bool is_masked(const Problem& problem) { return problem.mask.kind != MaskKind::none; }

/// How the keys of a request are cut for a class's launch.
struct Splitting {
  int blocks_of_request;  ///< that a lone request should have
  int shortest;           ///< tokens of a split; 0: no splits
  int short_request = 0;  ///< tokens: up to so many, splits may be half as short
  bool groups = false;    ///< may be items of thread blocks that have more to do than one split
};

/// How many units, tiles of rows times splits, a class's launch may have, for so many requests with
/// so many query tokens.
struct Units {
  std::int64_t all;
  std::int64_t partial;  ///< that may leave partial results
  std::int64_t merged;   ///< tiles that may have them
  bool groups = false;   ///< of splits may be units

  static Units of(const Problem& problem, const RowClass& row_class, const Splitting& splitting,
                  std::int64_t requests, std::int64_t tokens);
};

/// Of a unit's partial results, for all KV heads.
std::int64_t partial_bytes(const Problem& problem, const RowClass& row_class);

/// What a kernel makes of a device.
struct Rates {
  double multiply_adds_per_us;  ///< of a multiprocessor
  double memory_share;          ///< of the memory's rate
};

/// The launches, and the longer of what tensor cores and memory take. Few query tokens use a part
/// of the tensor cores only, but then memory is the limit.
double tiled_cost_us(const Problem& problem, const Device& device, double launches,
                     const Rates& rates);

/// The macros of kernels/tiled/config.h.
std::vector<std::pair<std::string, std::string>> tiled_definitions(const Problem& problem,
                                                                   const HeadDims& dims,
                                                                   const TileShape& tile);

Variant merge_variant(const TileShape& tile);

/// Whether every row of a view begins at a multiple of 16 bytes.
template <int Rank>
bool is_whole(const TensorView<Rank>& view) {
  const auto bytes = static_cast<std::int64_t>(size_of(view.dtype));
  bool whole = reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0;
  for (int axis = 0; axis + 1 < Rank; ++axis) {
    whole = whole && (view.shape[axis] <= 1 || view.stride[axis] * bytes % 16 == 0);
  }
  return whole;
}

Divisor divisor(std::int64_t value);

/// What all launches of a call have in common.
TiledParams tiled_params(const StreamCall& call);

/// What runs on the device for a class.
struct TiledCode {
  Variant attend;
  int threads;
  int shared_bytes;
  int resident = 0;  ///< thread blocks that take one unit after another; 0: one for each unit
};

/// One class's code, and that which merges its splits.
class TiledLaunch {
 public:
  TiledLaunch(const Problem& problem, const Device& device, const RowClass& row_class,
              const Splitting& splitting, const TiledCode& code);

  /// Bytes of partial results.
  std::size_t workspace() const { return partials_; }

  /// Whether the call may have requests of the class.
  bool has_work(const StreamCall& call) const { return units(call).all > 0; }

  /// Whether groups of splits may be units.
  bool has_groups(const StreamCall& call) const;

  /// Whether thread blocks take units by TiledParams::taken, which is 0 before.
  bool takes(const StreamCall& call) const;

  /// Launches both, if there is work. `params` is for the first, and `tiled` a part of it.
  /// `slices`: of V. `begin`: of the first.
  void launch(const StreamCall& call, TiledParams& tiled, const void* params, int slices,
              Begin begin = Begin::after_all) const;

 private:
  Units units(const StreamCall& call) const;

  RowClass of_;
  Splitting splitting_;
  int threads_;
  int resident_;
  bool takes_;  ///< units as thread blocks get to them, not by their numbers
  int multiprocessors_;
  std::int32_t heads_together_;
  std::size_t partials_ = 0;  ///< bytes
  Function attend_;
  std::optional<Function> merge_;  ///< where there may be partial results
};

}  // namespace octavo::cuda
