#include <algorithm>
#include <numeric>
#include <optional>

#include "cuda/driver.h"
#include "cuda/kernels.h"
#include "cuda/sm90_tiles.h"
#include "cuda/tensor_map.h"

namespace octavo::cuda {
namespace {

constexpr int kCapability = 90;
constexpr std::int64_t kMostHeads = 65535;       // of a grid's second axis
constexpr std::int64_t kMostSlots = 0x7fffffff;  // which boxes begin at
constexpr std::int64_t kMostTasks = 1 << 30;     // which thread blocks count
constexpr int kFewestBoxRows = 8;  // rows of 128 bytes among which chunks are permuted
constexpr int kMostBoxes = 32;     // of a tile: a lane finds each

/// One launch: which requests it takes, and by what.
struct Part {
  RowClass rows;
  Sm90Tile tile;

  bool is(Sm90Source source) const { return tile.source == source; }
  /// Tiles of rows that a thread block takes.
  int row_tiles() const { return rows.tile.rows / tile.shape.rows; }
};

/// Of a batch in which no request has many keys, but some have more rows than few, if that fits.
/// How many tiles of rows a thread block takes does not matter to a row's bits: several load keys
/// once for all, but where the device has room for all blocks at a time one is soonest done.
std::optional<Part> short_part(const Problem& p, const Device& device) {
  constexpr double kBegin = 1.5;  // of a block, in tiles of rows
  const std::int64_t most_rows = p.max_q_len() * p.group();
  if (p.invariant || p.split != 0 || size_of(p.kv) != 2 || most_rows <= kSm90FewRows) {
    return std::nullopt;
  }
  std::optional<Part> best;
  double least = 0;
  for (const int count : {1, 2, 4, 8, 16}) {
    const Sm90Tile tile =
        sm90_short_requests(p.max_kv_len(), count, sm90_dims(p), device.shared_per_block);
    const bool fits = tile.shape.rows != 0;
    if (!fits || most_rows <= (tile.groups - 1) * tile.shape.rows) continue;
    RowClass rows{1, kAnyRows, tile.shape};
    rows.tile.rows *= count;
    const std::int64_t blocks = Units::of(p, rows, {0, 0}, p.batch(), p.total_q()).all * p.hkv;
    const std::int64_t together = std::int64_t{tile.blocks} * device.multiprocessors;
    // A lone warpgroup of a multiprocessor has nothing to hide its waits.
    if (tile.blocks * tile.groups == 1 && blocks > together) continue;
    const std::int64_t rounds = (blocks + together - 1) / together;
    const int of_group = (count + tile.groups - 1) / tile.groups;
    const double time = static_cast<double>(rounds) * (of_group + kBegin);
    if (best && time >= least) continue;
    best = {rows, tile};
    least = time;
  }
  return best;
}

std::vector<Part> parts_of(const Problem& p, const Device& device) {
  if (const auto part = short_part(p, device)) return {*part};
  const auto tile_of = [&](int rows) {
    return sm90_tile(rows, sm90_dims(p), static_cast<int>(size_of(p.kv)), device.shared_per_block);
  };
  std::vector<Part> parts;
  for (const RowClass& rows : row_classes(p, {kSm90FewRows, 64, kSm90Rows},
                                          [&](int most) { return tile_of(most).shape; })) {
    parts.push_back({rows, tile_of(rows.tile.rows)});
  }
  return parts;
}

Splitting splitting_of(const Problem& p, const Part& part, const Device& device) {
  if (p.invariant || part.is(Sm90Source::short_ones)) return {0, 0};
  if (part.is(Sm90Source::few_rows)) {
    return {part.tile.blocks * device.multiprocessors, 512, 2048, true};
  }
  // Of 64 rows, shorter splits cost more than they give.
  return {device.multiprocessors, part.tile.shape.rows > 64 ? 1024 : 4096};
}

Units units_of(const Problem& p, const Part& part, const Device& device) {
  return Units::of(p, part.rows, splitting_of(p, part, device), p.batch(), p.total_q());
}

Support supports(const Problem& p, const Device& device) {
  Support s;
  s.require(device.capability == kCapability, "needs compute capability 9.0, the device has ",
            device.capability / 10, ".", device.capability % 10);
  s.require(p.kv == DType::f16 || p.kv == DType::bf16 || is_fp8(p.kv),
            "kv must be f16, bf16, e4m3 or e5m2, is ", name(p.kv));
  if (is_fp8(p.kv)) {
    s.require(multiplied_type(p).has_value(), "q must have 16 bits or 8, is ", name(p.q));
    s.require(p.max_q_len() * p.group() <= kSm90FewRows, "with fp8 kv, q_len times hq / hkv must ",
              "be at most ", kSm90FewRows, ", is ", p.max_q_len(), " * ", p.group());
    // Another kernel would compute the prompt.
    s.require(!p.invariant, "with fp8 kv, invariant is not supported");
  } else {
    s.require(p.q == p.kv, "q must be of kv's type, ", name(p.kv), ", is ", name(p.q));
  }
  s.require(p.d <= kSm90Widest, "d must be at most ", kSm90Widest, ", is ", p.d);
  s.require(p.dv <= kSm90Widest, "dv must be at most ", kSm90Widest, ", is ", p.dv);
  s.require(p.hkv <= kMostHeads, "hkv must be at most ", kMostHeads, ", is ", p.hkv);
  const std::int64_t tokens = std::accumulate(p.kv_len.begin(), p.kv_len.end(), std::int64_t{0});
  s.require(p.layout == Layout::paged || tokens <= kMostSlots, "kv_len of all requests together ",
            "must be at most ", kMostSlots, ", is ", tokens);
  s.require(p.max_q_len() <= kAnyRows / p.group(), "q_len times hq / hkv must be at most ",
            kAnyRows, ", is ", p.max_q_len(), " * ", p.group());
  std::int64_t tasks = 0;
  for (const Part& part : parts_of(p, device)) {
    tasks = std::max(tasks, units_of(p, part, device).all * p.hkv);
  }
  s.require(tasks <= kMostTasks, "tiles of rows, times their splits and hkv, must be at most ",
            kMostTasks, ", are ", tasks);
  return s;
}

double cost_us(const Problem& p, const Device& device) {
  double launches = 0;
  for (const Part& part : parts_of(p, device)) {
    launches += units_of(p, part, device).partial > 0 ? 2 : 1;
  }
  return tiled_cost_us(p, device, launches, {.multiply_adds_per_us = 1.9e6, .memory_share = 0.8});
}

Variant variant_of(const Problem& p, const Part& part) {
  const auto with = [&](const char* source, const char* entry) {
    Variant variant{source, entry, tiled_definitions(p, sm90_dims(p), part.tile.shape), true, true};
    variant.definitions.emplace_back("OCTAVO_STAGES", std::to_string(part.tile.stages));
    return variant;
  };
  const auto define = [](Variant& variant, const char* macro, int value) {
    variant.definitions.emplace_back(macro, std::to_string(value));
  };
  if (part.is(Sm90Source::many_rows)) {
    Variant variant = with("sm90/attend.cu", "octavo_sm90");
    define(variant, "OCTAVO_WHOLE_GROUPS", has_whole_groups(p.group()) ? 1 : 0);
    return variant;
  }
  const bool few = part.is(Sm90Source::few_rows);
  Variant variant =
      few ? with("sm90/few.cu", "octavo_sm90_few") : with("sm90/short.cu", "octavo_sm90_short");
  define(variant, "OCTAVO_BLOCKS", part.tile.blocks);
  if (!few) {
    define(variant, "OCTAVO_GROUPS", part.tile.groups);
    define(variant, "OCTAVO_SEVERAL_TILES", part.row_tiles() > part.tile.groups ? 1 : 0);
  }
  return variant;
}

bool have_counters(const std::vector<Part>& parts) {
  return !parts.empty() && !parts.front().is(Sm90Source::short_ones);
}

Variant clear_variant() {
  return {.source = "sm90/clear.cu", .entry = "octavo_sm90_clear", .definitions = {}};
}

TiledLaunch launch_of(const Problem& p, const Device& device, const Part& part) {
  const Sm90Tile& tile = part.tile;
  const int resident = part.is(Sm90Source::short_ones) ? 0 : tile.blocks * device.multiprocessors;
  return {p,
          device,
          part.rows,
          splitting_of(p, part, device),
          {variant_of(p, part), tile.threads, tile.shared_bytes, resident}};
}

/// Of a tile of keys, the rows that are one box; 0: no boxes.
int box_rows(const Problem& p, const Arguments& a, int keys) {
  const auto page = p.layout == Layout::paged
                        ? static_cast<int>(std::min<std::int64_t>(p.page_size, 1 << 20))
                        : keys;
  const int rows = std::gcd(page, keys);
  const bool fits = rows % kFewestBoxRows == 0 && keys / rows <= kMostBoxes;
  return fits && has_boxes(a.k) && has_boxes(a.v) ? rows : 0;
}

class Sm90 final : public StreamKernel {
 public:
  Sm90(const Problem& p, const Device& device)
      : parts_(parts_of(p, device)), batch_(p.batch()), hkv_(p.hkv) {
    for (const Part& part : parts_) {
      launches_.push_back(launch_of(p, device, part));
      partials_ = std::max(partials_, launches_.back().workspace());
    }
    if (have_counters(parts_)) clear_ = cuda::load(device, clear_variant(), 0);
  }

  std::size_t workspace() const override {
    return partials_ + counters_of(batch_) * sizeof *TiledParams::taken;
  }

  void launch(const StreamCall& call) const override {
    const Arguments& a = call.arguments;
    Sm90Params params{};
    static_cast<TiledParams&>(params) = tiled_params(call);
    params.kv_whole = is_whole(a.k) && is_whole(a.v) ? 1 : 0;
    params.folded =
        call.problem.layout == Layout::paged && has_folded_boxes(a.k) && has_folded_boxes(a.v) ? 1
                                                                                               : 0;
    Begin begin = clear_counters(call) ? Begin::early : Begin::after_all;
    Boxing boxing;
    // Those of many rows first: beside their last blocks the others begin, or end if they have
    // none.
    for (std::size_t i = launches_.size(); i-- > 0;) {
      if (!launches_[i].has_work(call)) continue;
      const bool takes = launches_[i].takes(call);
      params.taken = takes ? counters(call) + i : nullptr;
      // Of groups there are few partial results. With many, a launch of its own is faster.
      params.arrived =
          takes && launches_[i].has_groups(call) ? counters(call) + launches_.size() : nullptr;
      if (parts_[i].is(Sm90Source::many_rows) && params.q_whole != 0 && params.q.exist == 0) {
        params.q = query_boxes(a.q, call.problem.group());
      }
      boxing = set_boxes(params, call, parts_[i].tile.shape, boxing);
      params.row_tiles = parts_[i].row_tiles();
      launches_[i].launch(call, params, &params, 1, begin);
      begin = Begin::early;
    }
  }

 private:
  /// What is taken of each class, and the parts that arrived of each request and KV head.
  std::size_t counters_of(std::int64_t requests) const {
    return launches_.size() + static_cast<std::size_t>(requests * hkv_);
  }
  /// Behind the partial results, which classes share.
  unsigned* counters(const StreamCall& call) const {
    return reinterpret_cast<unsigned*>(call.workspace + partials_);
  }

  /// If the call needs them: by a kernel, because the one after it begins meanwhile.
  bool clear_counters(const StreamCall& call) const {
    constexpr std::size_t kMostBlocks = 64;
    const auto takes = [&](const TiledLaunch& launch) { return launch.takes(call); };
    if (std::ranges::none_of(launches_, takes)) return false;
    const std::size_t count = counters_of(call.requests);
    const CounterParams params{counters(call), static_cast<unsigned>(count)};
    const std::size_t blocks = std::min((count + kClearThreads - 1) / kClearThreads, kMostBlocks);
    clear_->launch({static_cast<std::uint32_t>(blocks)}, kClearThreads, call.stream, &params);
    return true;
  }

  /// Maps that were made for `before` stay if such boxes are wanted.
  static Boxing set_boxes(Sm90Params& params, const StreamCall& call, const TileShape& tile,
                          const Boxing& before) {
    const Arguments& a = call.arguments;
    const Boxing boxing{box_rows(call.problem, a, tile.keys), params.folded != 0};
    if (boxing.rows > 0 && boxing != before) {
      params.k = boxed_view(a.k, boxing);
      params.v = boxed_view(a.v, boxing);
    }
    params.box_rows = boxing.rows;
    if (params.folded == 0) params.k.steps = params.v.steps = steps_of_slabs(tile.keys);
    return boxing;
  }

  std::vector<Part> parts_;
  std::vector<TiledLaunch> launches_;
  std::optional<Function> clear_;  ///< where there may be counters
  std::int64_t batch_;
  std::int64_t hkv_;
  std::size_t partials_ = 0;  ///< bytes
};

std::shared_ptr<const StreamKernel> load(const Problem& problem, const Device& device) {
  return std::make_shared<Sm90>(problem, device);
}

}  // namespace

std::vector<Variant> sm90_variants(const Problem& p, const Device& device) {
  std::vector<Variant> variants;
  const std::vector<Part> parts = parts_of(p, device);
  if (have_counters(parts)) variants.push_back(clear_variant());
  for (const Part& part : parts) {
    variants.push_back(variant_of(p, part));
    if (units_of(p, part, device).partial > 0) variants.push_back(merge_variant(part.rows.tile));
  }
  return variants;
}

KernelInfo sm90() {
  return {.name = "cuda_sm90",
          .supports = supports,
          .cost_us = cost_us,
          .weights = DType::bf16,
          .load = load};
}

}  // namespace octavo::cuda
