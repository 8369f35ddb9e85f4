#include <array>
#include <limits>
#include <optional>

#include "core/work.h"
#include "cuda/attention_params.h"
#include "cuda/function.h"
#include "cuda/kernels.h"
#include "cuda/kernels/portable/params.h"
#include "cuda/portable_tiles.h"

namespace octavo::cuda {
namespace {

constexpr int kOldestCapability = 80;
constexpr std::int64_t kWidest = 576;
constexpr int kMergeThreads = 128;
constexpr std::int64_t kMostMergeBlocks = 16;  // of a tile of rows
constexpr std::int64_t kMostHeads = 65535;     // of a grid's second axis

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// What q and kv are converted to before they multiply, without a rounding; empty if there is no
/// such type of 16 bits.
std::optional<DType> multiplied_type(const Problem& p) {
  const auto is_half = [](DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; };
  if (is_half(p.q) && (p.kv == p.q || is_fp8(p.kv))) return p.q;
  if (is_fp8(p.q) && is_half(p.kv)) return p.kv;
  if (is_fp8(p.q) && is_fp8(p.kv)) return DType::f16;
  return std::nullopt;
}

bool is_masked(const Problem& p) { return p.mask.kind != MaskKind::none; }

/// The launches of a problem: by the rows of a request, so that its tile follows from its own
/// length. Invariant problems have one tile for all rows.
std::vector<PortableClass> classes_of(const Problem& p, const Device& device) {
  const PortableDims dims = PortableDims::of(p);
  const auto tile = [&](int rows) {
    return portable_tile(rows, dims, static_cast<int>(size_of(p.kv)), is_masked(p),
                         device.shared_per_block);
  };
  std::vector<PortableClass> classes;
  int fewest = 1;
  for (const int rows : {16, 64, 128}) {
    const PortableTile fitting = tile(rows);
    if (fitting.rows == 0) break;
    classes.push_back({fewest, rows, fitting});
    fewest = rows + 1;
  }
  if (classes.empty()) return classes;
  classes.back().most_rows = kAnyRows;
  if (p.invariant) return {{1, kAnyRows, classes.back().tile}};
  const std::int64_t most = p.max_q_len() * p.group();
  std::erase_if(classes, [&](const PortableClass& c) { return c.fewest_rows > most; });
  return classes;
}

Support supports(const Problem& p, const Device& device) {
  Support s;
  s.require(device.capability >= kOldestCapability, "needs compute capability 8.0, the device has ",
            device.capability / 10, ".", device.capability % 10);
  s.require(multiplied_type(p).has_value(), "q and kv must be f16, bf16 or fp8, and not f16 and ",
            "bf16 together: they are ", name(p.q), " and ", name(p.kv));
  s.require(p.d <= kWidest, "d must be at most ", kWidest, ", is ", p.d);
  s.require(p.dv <= kWidest, "dv must be at most ", kWidest, ", is ", p.dv);
  s.require(p.hkv <= kMostHeads, "hkv must be at most ", kMostHeads, ", is ", p.hkv);
  s.require(p.max_q_len() <= kAnyRows / p.group(), "q_len times hq / hkv must be at most ",
            kAnyRows, ", is ", p.max_q_len(), " * ", p.group());
  return s;
}

/// Tokens of a split that the problem asks for; 0: none. A row of an invariant problem takes its
/// keys in one go, whatever the rows beside it.
std::int64_t split_of(const Problem& p) { return p.invariant ? 0 : p.split; }

/// How the keys of a request are cut for a class's launch.
struct Splitting {
  int blocks_of_request;
  int shortest;  ///< tokens; 0: no splits

  static Splitting of(const Problem& p, const PortableClass& c, const Device& device) {
    if (p.invariant) return {0, 0};
    if (c.tile.rows > 64) return {device.multiprocessors, 1024};
    if (c.tile.rows > 16) return {2 * device.multiprocessors, 1024};
    constexpr int kReserved = 1024;      // bytes, of each block and of each multiprocessor
    constexpr int kMostByRegisters = 8;  // blocks of one warp
    const int shared =
        portable_shared_bytes(c.tile, PortableDims::of(p), static_cast<int>(size_of(p.kv)));
    const int blocks = (device.shared_per_block + kReserved) / (shared + kReserved);
    return {std::min(blocks, kMostByRegisters) * device.multiprocessors, 512};
  }
};

/// How many units, tiles of rows times splits, a class's launch may have, for so many requests with
/// so many query tokens.
struct Units {
  std::int64_t all;
  std::int64_t partial;  ///< that may leave partial results
  std::int64_t merged;   ///< tiles that may have them

  static Units of(const Problem& p, const PortableClass& c, const Splitting& splitting,
                  std::int64_t requests, std::int64_t tokens) {
    const std::int64_t rows = tokens * p.group();
    const std::int64_t taken = std::min(requests, rows / c.fewest_rows);
    const std::int64_t most_rows = std::min<std::int64_t>(c.most_rows, p.max_q_len() * p.group());
    const std::int64_t tiles =
        std::min(rows / c.tile.rows + taken, taken * ceil_div(most_rows, c.tile.rows));
    const std::int64_t split = split_of(p);
    const std::int64_t shortest = split != 0 ? split : splitting.shortest;
    if (shortest == 0) return {tiles, 0, 0};
    const std::int64_t splits =
        ceil_div(p.max_kv_len(), ceil_div(shortest, c.tile.keys) * c.tile.keys);
    if (splits <= 1) return {tiles, 0, 0};
    if (split != 0) return {tiles * splits, tiles * splits, tiles};
    const std::int64_t each =
        std::min(splits * ceil_div(most_rows, c.tile.rows), splitting.blocks_of_request / p.hkv);
    return {tiles + taken * each, taken * each, std::min(tiles, taken * each / 2)};
  }
};

/// Its launches, and the longer of what tensor cores and memory take. Few query tokens use a part
/// of the tensor cores only, but then memory is the limit.
double cost_us(const Problem& p, const Device& device) {
  constexpr double kLaunchUs = 5;
  constexpr double kMultiplyAddsPerUs = 0.95e6;  // of a multiprocessor
  constexpr double kMemoryShare = 0.7;
  double launches = 0;
  for (const PortableClass& c : classes_of(p, device)) {
    const Units units = Units::of(p, c, Splitting::of(p, c, device), p.batch(), p.total_q());
    launches += units.partial > 0 ? 2 : 1;
  }
  double tokens = 0;
  for (const std::int64_t kv_len : p.kv_len) tokens += static_cast<double>(kv_len);
  const double bytes =
      tokens * static_cast<double>(p.hkv * (p.d + p.dv)) * static_cast<double>(size_of(p.kv));
  const double memory_us = bytes / (kMemoryShare * device.memory_gbs * 1e3);
  const double product_us = multiply_adds(p) / (kMultiplyAddsPerUs * device.multiprocessors);
  return launches * kLaunchUs + std::max(memory_us, product_us);
}

std::int64_t partial_bytes(const Problem& p, const PortableClass& c) {
  return p.hkv * c.tile.rows * (ceil_div(p.dv, 32) * 32 + 2) *
         static_cast<std::int64_t>(sizeof(float));
}

Variant variant_of(const Problem& p, const PortableDims& dims, const PortableTile& tile) {
  const auto number = [](auto value) { return std::to_string(static_cast<int>(value)); };
  return {"portable/attend.cu",
          "octavo_portable",
          {{"OCTAVO_ROWS", number(tile.rows)},
           {"OCTAVO_WARPS", number(tile.warps)},
           {"OCTAVO_KEYS", number(tile.keys)},
           {"OCTAVO_D", number(dims.d)},
           {"OCTAVO_DV", number(dims.dv)},
           {"OCTAVO_BF16", number(*multiplied_type(p) == DType::bf16)},
           {"OCTAVO_KV_BYTES", number(size_of(p.kv))},
           {"OCTAVO_E5M2", number(p.kv == DType::e5m2)},
           {"OCTAVO_MASKED", number(is_masked(p))},
           {"OCTAVO_CAPPED", number(p.cap.has_value())}},
          // O and S of a warp alone take up to 192 of a lane's 255 registers.
          true};
}

Variant merge_variant_of(const PortableTile& tile) {
  return {"portable/merge.cu",
          "octavo_portable_merge",
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

/// Whether the tokens of a KV head lie within 2^32 times 16 bytes.
bool is_near(const KvView& view) {
  std::int64_t span = 0;
  for (int axis = 0; axis < 2; ++axis) {
    if (view.shape[axis] > 1) span += (view.shape[axis] - 1) * view.stride[axis];
  }
  return span * static_cast<std::int64_t>(size_of(view.dtype)) / 16 <
         std::numeric_limits<std::uint32_t>::max();
}

NearStrides near_strides(const KvView& view) {
  const auto units = [&](int axis) {
    return static_cast<unsigned>(view.stride[axis] *
                                 static_cast<std::int64_t>(size_of(view.dtype)) / 16);
  };
  return {units(0), units(1)};
}

/// One class's code.
struct Launch {
  PortableClass of;
  Splitting splitting;
  Function attend;
  std::optional<Function> merge;  ///< where there may be partial results
};

class Portable final : public StreamKernel {
 public:
  Portable(const Problem& p, const Device& device) : dims_(PortableDims::of(p)) {
    for (const PortableClass& c : classes_of(p, device)) {
      const Splitting splitting = Splitting::of(p, c, device);
      const int shared = portable_shared_bytes(c.tile, dims_, static_cast<int>(size_of(p.kv)));
      Launch launch{c, splitting, cuda::load(device, variant_of(p, dims_, c.tile), shared), {}};
      const Units units = Units::of(p, c, splitting, p.batch(), p.total_q());
      if (units.partial > 0) launch.merge = cuda::load(device, merge_variant_of(c.tile), 0);
      workspace_ =
          std::max(workspace_, static_cast<std::size_t>(units.partial * partial_bytes(p, c)));
      launches_.push_back(launch);
    }
  }

  std::size_t workspace() const override { return workspace_; }

  void launch(const StreamCall& call) const override {
    const Problem& p = call.problem;
    PortableParams params = params_of(call);
    for (const Launch& launch : launches_) {
      params.fewest_rows = launch.of.fewest_rows;
      params.most_rows = launch.of.most_rows;
      params.blocks_of_request = launch.splitting.blocks_of_request;
      params.shortest_split = launch.splitting.shortest;
      params.merge_blocks = static_cast<std::int32_t>(std::min(
          {p.max_q_len() * p.group(), std::int64_t{launch.of.tile.rows}, kMostMergeBlocks}));
      const Units units = Units::of(p, launch.of, launch.splitting, call.requests, call.rows);
      if (units.all == 0) continue;
      const auto grid = [&](std::int64_t x, std::int64_t z) {
        return Grid{static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(p.hkv),
                    static_cast<std::uint32_t>(z)};
      };
      launch.attend.launch(grid(units.all, dims_.slices), launch.of.tile.threads(), call.stream,
                           &params, sizeof params);
      if (units.merged == 0) continue;
      launch.merge->launch(grid(units.merged, params.merge_blocks), kMergeThreads, call.stream,
                           &params, sizeof params);
    }
  }

 private:
  static PortableParams params_of(const StreamCall& call) {
    const Problem& p = call.problem;
    const Arguments& a = call.arguments;
    PortableParams params{};
    params.attention = attention_params(call);
    params.attention.split = static_cast<std::int32_t>(split_of(p));
    params.q_type = static_cast<std::int32_t>(p.q);
    params.out_type = static_cast<std::int32_t>(p.out);
    params.group = divisor(p.group());
    params.page = divisor(p.page_size);
    params.q_whole = p.q == *multiplied_type(p) && is_whole(a.q) ? 1 : 0;
    params.kv_whole = is_whole(a.k) && is_whole(a.v) && is_near(a.k) && is_near(a.v) ? 1 : 0;
    params.k = near_strides(a.k);
    params.v = near_strides(a.v);
    params.out_whole = is_whole(a.out) ? 1 : 0;
    return params;
  }

  PortableDims dims_;
  std::vector<Launch> launches_;
  std::size_t workspace_ = 0;
};

std::shared_ptr<const StreamKernel> load(const Problem& problem, const Device& device) {
  return std::make_shared<Portable>(problem, device);
}

}  // namespace

std::vector<Variant> portable_variants(const Problem& p, const Device& device) {
  const PortableDims dims = PortableDims::of(p);
  std::vector<Variant> variants;
  for (const PortableClass& c : classes_of(p, device)) {
    variants.push_back(variant_of(p, dims, c.tile));
    const Units units = Units::of(p, c, Splitting::of(p, c, device), p.batch(), p.total_q());
    if (units.partial > 0) variants.push_back(merge_variant_of(c.tile));
  }
  return variants;
}

KernelInfo portable() {
  return {.name = "cuda_portable",
          .supports = supports,
          .cost_us = cost_us,
          .weights = DType::bf16,
          .load = load};
}

}  // namespace octavo::cuda
