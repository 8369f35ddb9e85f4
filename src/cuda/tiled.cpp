#include "cuda/tiled.h"

#include <algorithm>
#include <string>

#include "cuda/attention_params.h"

namespace octavo::cuda {
namespace {

constexpr std::int64_t kMostMergeBlocks = 16;      // of a tile of rows
constexpr std::int64_t kMergeBlocksTogether = 16;  // of a multiprocessor
constexpr std::int64_t kMostInSecondAxis = 65535;  // of a grid
constexpr std::int64_t kShort = 512;               // keys: units take about as long as each other

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// That a tile of rows may have.
std::int64_t partial_rows(const Problem& p, const RowClass& row_class) {
  return std::min<std::int64_t>(row_class.tile.rows, p.max_q_len() * p.group());
}

/// Tokens of a split that the problem asks for; 0: none. A row of an invariant problem takes its
/// keys in one go, whatever the rows beside it.
std::int64_t split_of(const Problem& p) { return p.invariant ? 0 : p.split; }

/// KV heads whose long units come before all short ones, so that thread blocks end together: as
/// many as an L2 cache may hold the keys and values of. Without a mask units are as long as each
/// other, and those of one head share the cache best.
std::int32_t heads_together(const Problem& p) {
  constexpr std::int64_t kCached = 24 << 20;  // bytes
  if (!is_masked(p)) return 1;
  const std::int64_t head =
      p.max_kv_len() * (p.d + p.dv) * static_cast<std::int64_t>(size_of(p.kv));
  std::int64_t heads =
      std::clamp<std::int64_t>(kCached / std::max<std::int64_t>(head, 1), 1, p.hkv);
  while (p.hkv % heads != 0) --heads;
  return static_cast<std::int32_t>(heads);
}

}  // namespace

std::vector<RowClass> row_classes(const Problem& p, std::initializer_list<int> rows,
                                  const std::function<TileShape(int rows)>& tile_of) {
  std::vector<RowClass> classes;
  int fewest = 1;
  for (const int count : rows) {
    const TileShape fitting = tile_of(count);
    if (fitting.rows == 0) break;
    classes.push_back({fewest, count, fitting});
    fewest = count + 1;
  }
  if (classes.empty()) return classes;
  classes.back().most_rows = kAnyRows;
  if (p.invariant) return {{1, kAnyRows, classes.back().tile}};
  const std::int64_t most = p.max_q_len() * p.group();
  std::erase_if(classes, [&](const RowClass& c) { return c.fewest_rows > most; });
  return classes;
}

std::optional<DType> multiplied_type(const Problem& p) {
  const auto is_half = [](DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; };
  if (is_half(p.q) && (p.kv == p.q || is_fp8(p.kv))) return p.q;
  if (is_fp8(p.q) && is_half(p.kv)) return p.kv;
  if (is_fp8(p.q) && is_fp8(p.kv)) return DType::f16;
  return std::nullopt;
}

Units Units::of(const Problem& p, const RowClass& row_class, const Splitting& splitting,
                std::int64_t requests, std::int64_t tokens) {
  const std::int64_t rows = tokens * p.group();
  const std::int64_t taken = std::min(requests, rows / row_class.fewest_rows);
  const std::int64_t most_rows =
      std::min<std::int64_t>(row_class.most_rows, p.max_q_len() * p.group());
  const std::int64_t tiles = std::min(rows / row_class.tile.rows + taken,
                                      taken * ceil_div(most_rows, row_class.tile.rows));
  const std::int64_t split = split_of(p);
  const std::int64_t shortest = split != 0 ? split : splitting.shortest;
  if (shortest == 0) return {tiles, 0, 0};
  const auto splits_of = [&](std::int64_t kv_len, std::int64_t length) {
    return ceil_div(kv_len, ceil_div(length, row_class.tile.keys) * row_class.tile.keys);
  };
  std::int64_t splits = splits_of(p.max_kv_len(), shortest);
  if (split == 0 && splitting.short_request > 0) {
    const auto kv_len = std::min<std::int64_t>(p.max_kv_len(), splitting.short_request);
    splits = std::max(splits, splits_of(kv_len, shortest / 2));
  }
  if (splits <= 1) return {tiles, 0, 0};
  if (split != 0) return {tiles * splits, tiles * splits, tiles};
  const std::int64_t tiles_of_request = ceil_div(most_rows, row_class.tile.rows);
  const std::int64_t each =
      std::min(splits * tiles_of_request, splitting.blocks_of_request / p.hkv);
  Units units{
      tiles_of_request == 1 ? taken * std::max<std::int64_t>(each, 1) : tiles + taken * each,
      taken * each, std::min(tiles, taken * each / 2)};
  const std::int64_t keys_of_block =
      requests * p.max_kv_len() * p.hkv / splitting.blocks_of_request;
  units.groups = splitting.groups && keys_of_block + keys_of_block / 4 >= kGroupKeys;
  if (!units.groups) return units;
  // Groups have more than half of kGroupKeys. Where they are too long for items, there are few
  // keys.
  const std::int64_t grouped = taken * ceil_div(p.max_kv_len(), kGroupKeys / 2);
  const std::int64_t keys = kGroupKeys * splitting.blocks_of_request / p.hkv;
  units.partial = std::min(units.partial, grouped + 2 * keys / shortest + taken);
  units.all = std::max(units.partial, tiles);
  return units;
}

std::int64_t partial_bytes(const Problem& p, const RowClass& row_class) {
  const auto whole = [](std::int64_t floats) { return ceil_div(floats, 32) * 32; };
  const std::int64_t rows = partial_rows(p, row_class);
  return p.hkv * (rows * whole(p.dv) + whole(2 * rows)) * static_cast<std::int64_t>(sizeof(float));
}

double tiled_cost_us(const Problem& p, const Device& device, double launches, const Rates& rates) {
  constexpr double kLaunchUs = 5;
  double tokens = 0;
  for (const std::int64_t kv_len : p.kv_len) tokens += static_cast<double>(kv_len);
  const double bytes =
      tokens * static_cast<double>(p.hkv * (p.d + p.dv)) * static_cast<double>(size_of(p.kv));
  const double memory_us = bytes / (rates.memory_share * device.memory_gbs * 1e3);
  const double product_us =
      multiply_adds(p) / (rates.multiply_adds_per_us * device.multiprocessors);
  return launches * kLaunchUs + std::max(memory_us, product_us);
}

std::vector<std::pair<std::string, std::string>> tiled_definitions(const Problem& p,
                                                                   const HeadDims& dims,
                                                                   const TileShape& tile) {
  const auto number = [](auto value) { return std::to_string(static_cast<int>(value)); };
  return {{"OCTAVO_ROWS", number(tile.rows)},
          {"OCTAVO_WARPS", number(tile.warps)},
          {"OCTAVO_KEYS", number(tile.keys)},
          {"OCTAVO_KEY_WARPS", number(tile.key_warps)},
          {"OCTAVO_D", number(dims.d)},
          {"OCTAVO_DV", number(dims.dv)},
          {"OCTAVO_BF16", number(*multiplied_type(p) == DType::bf16)},
          {"OCTAVO_KV_BYTES", number(size_of(p.kv))},
          {"OCTAVO_E5M2", number(p.kv == DType::e5m2)},
          {"OCTAVO_MASKED", number(is_masked(p))},
          {"OCTAVO_CAP_ALIBI_OR_BITS",
           number(p.cap.has_value() || p.alibi || p.mask.kind == MaskKind::bits)}};
}

Variant merge_variant(const TileShape& tile) {
  return {"tiled/merge.cu",
          "octavo_merge_splits",
          {{"OCTAVO_ROWS", std::to_string(tile.rows)}, {"OCTAVO_KEYS", std::to_string(tile.keys)}}};
}

/// For a number below 2^31, with l = ceil(log2(value)): n / value is the product of n and
/// floor(2^(31 + l) / value) + 1, shifted right by 31 + l.
Divisor divisor(std::int64_t value) {
  if (value <= 1) return {1, 0, 0};
  int log = 0;
  while ((std::int64_t{1} << log) < value) ++log;
  const std::uint64_t magic = (std::uint64_t{1} << (31 + log)) / static_cast<std::uint64_t>(value);
  return {static_cast<std::int32_t>(value), static_cast<unsigned>(magic + 1), log - 1};
}

TiledParams tiled_params(const StreamCall& call) {
  const Problem& p = call.problem;
  const Arguments& a = call.arguments;
  TiledParams params{};
  params.attention = attention_params(call);
  params.attention.split = static_cast<std::int32_t>(split_of(p));
  params.q_type = static_cast<std::int32_t>(p.q);
  params.out_type = static_cast<std::int32_t>(p.out);
  params.group = divisor(p.group());
  params.page = divisor(p.page_size);
  params.q_whole = p.q == *multiplied_type(p) && is_whole(a.q) ? 1 : 0;
  params.out_whole = is_whole(a.out) ? 1 : 0;
  return params;
}

TiledLaunch::TiledLaunch(const Problem& p, const Device& device, const RowClass& row_class,
                         const Splitting& splitting, const TiledCode& code)
    : of_(row_class),
      splitting_(splitting),
      threads_(code.threads),
      resident_(code.resident),
      takes_(resident_ > 0 && p.max_kv_len() > kShort),
      multiprocessors_(device.multiprocessors),
      heads_together_(heads_together(p)),
      attend_(cuda::load(device, code.attend, code.shared_bytes)) {
  const Units units = Units::of(p, of_, splitting_, p.batch(), p.total_q());
  partials_ = static_cast<std::size_t>(units.partial * partial_bytes(p, of_));
  if (units.partial > 0) merge_ = cuda::load(device, merge_variant(of_.tile), kMergeBytes);
}

Units TiledLaunch::units(const StreamCall& call) const {
  return Units::of(call.problem, of_, splitting_, call.requests, call.rows);
}

bool TiledLaunch::has_groups(const StreamCall& call) const { return units(call).groups; }

bool TiledLaunch::takes(const StreamCall& call) const {
  return takes_ && units(call).all * call.problem.hkv > resident_;
}

void TiledLaunch::launch(const StreamCall& call, TiledParams& tiled, const void* params, int slices,
                         Begin begin) const {
  const Problem& p = call.problem;
  tiled.fewest_rows = of_.fewest_rows;
  tiled.most_rows = of_.most_rows;
  tiled.blocks_of_request = splitting_.blocks_of_request;
  tiled.shortest_split = splitting_.shortest;
  tiled.short_request = splitting_.short_request;
  tiled.partial_rows = static_cast<std::int32_t>(partial_rows(p, of_));
  const Units units = this->units(call);
  if (units.all == 0) return;
  tiled.item_blocks = units.groups ? splitting_.blocks_of_request : 0;
  constexpr std::int64_t kMergeWarps = kMergeThreads / kWarpThreads;  // which take a row each
  const std::int64_t most_rows = std::min<std::int64_t>(p.max_q_len() * p.group(), of_.tile.rows);
  const std::int64_t fitting =
      kMergeBlocksTogether * multiprocessors_ / (std::max<std::int64_t>(units.merged, 1) * p.hkv);
  tiled.merge_blocks = static_cast<std::int32_t>(std::clamp<std::int64_t>(
      fitting, 1, std::min(ceil_div(most_rows, kMergeWarps), kMostMergeBlocks)));
  // Blocks of few rows wait for memory, where the heads of a token are neighbours. Those of many
  // read the keys of a head again and again, from a cache.
  tiled.heads_first = of_.tile.rows <= 64 && units.all <= kMostInSecondAxis ? 1 : 0;
  const auto grid = [&](std::int64_t x, std::int64_t z) {
    return Grid{static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(p.hkv),
                static_cast<std::uint32_t>(z)};
  };
  Grid attend = grid(units.all, slices);
  if (tiled.heads_first != 0) std::swap(attend.x, attend.y);
  if (resident_ > 0) {
    attend = {static_cast<std::uint32_t>(std::min<std::int64_t>(units.all * p.hkv, resident_))};
    tiled.one_each = units.all * p.hkv <= resident_ ? 1 : 0;
    tiled.heads_together =
        tiled.heads_first != 0 ? static_cast<std::int32_t>(p.hkv) : heads_together_;
  }
  attend_.launch(attend, threads_, call.stream, params, begin);
  if (units.merged == 0 || tiled.arrived != nullptr) return;
  merge_->launch(grid(units.merged, tiled.merge_blocks), kMergeThreads, call.stream, &tiled,
                 Begin::early);
}

}  // namespace octavo::cuda
