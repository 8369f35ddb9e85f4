#include <algorithm>
#include <limits>

#include "cuda/kernels.h"
#include "cuda/kernels/portable/params.h"
#include "cuda/portable_tiles.h"

namespace octavo::cuda {
namespace {

constexpr int kOldestCapability = 80;
constexpr std::int64_t kWidest = 576;
constexpr std::int64_t kMostHeads = 65535;  // of a grid's second axis

TileShape tile_of(const Problem& p, const Device& device, int rows) {
  return portable_tile(rows, portable_dims(p), static_cast<int>(size_of(p.kv)), is_masked(p),
                       device.shared_per_block);
}

std::vector<RowClass> classes_of(const Problem& p, const Device& device) {
  return row_classes(p, {16, 64, 128}, [&](int rows) { return tile_of(p, device, rows); });
}

int shared_bytes(const Problem& p, const TileShape& tile) {
  return portable_shared_bytes(tile, portable_dims(p), static_cast<int>(size_of(p.kv)));
}

Splitting portable_splitting(const Problem& p, const RowClass& row_class, const Device& device) {
  if (p.invariant) return {0, 0};
  if (row_class.tile.rows > 64) return {device.multiprocessors, 1024};
  if (row_class.tile.rows > 16) return {2 * device.multiprocessors, 1024};
  constexpr int kReserved = 1024;      // bytes, of each block and of each multiprocessor
  constexpr int kMostByRegisters = 8;  // blocks of one warp
  const int blocks =
      (device.shared_per_block + kReserved) / (shared_bytes(p, row_class.tile) + kReserved);
  return {std::min(blocks, kMostByRegisters) * device.multiprocessors, 512};
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

double cost_us(const Problem& p, const Device& device) {
  double launches = 0;
  for (const RowClass& c : classes_of(p, device)) {
    const Units units = Units::of(p, c, portable_splitting(p, c, device), p.batch(), p.total_q());
    launches += units.partial > 0 ? 2 : 1;
  }
  return tiled_cost_us(p, device, launches, {.multiply_adds_per_us = 0.95e6, .memory_share = 0.7});
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

Variant portable_variant(const Problem& p, const TileShape& tile) {
  // O and S of a warp alone take up to 192 of a lane's 255 registers.
  return {"portable/attend.cu", "octavo_portable", tiled_definitions(p, portable_dims(p), tile),
          true};
}

TiledLaunch portable_launch(const Problem& p, const Device& device, const RowClass& row_class) {
  return {p,
          device,
          row_class,
          portable_splitting(p, row_class, device),
          {portable_variant(p, row_class.tile), row_class.tile.warps * 32,
           shared_bytes(p, row_class.tile)}};
}

PortableParams portable_params(const StreamCall& call) {
  const Arguments& a = call.arguments;
  PortableParams params{tiled_params(call), 0, near_strides(a.k), near_strides(a.v)};
  params.kv_whole = is_whole(a.k) && is_whole(a.v) && is_near(a.k) && is_near(a.v) ? 1 : 0;
  return params;
}

class Portable final : public StreamKernel {
 public:
  Portable(const Problem& p, const Device& device) : slices_(portable_dims(p).slices) {
    for (const RowClass& c : classes_of(p, device)) {
      launches_.push_back(portable_launch(p, device, c));
      workspace_ = std::max(workspace_, launches_.back().workspace());
    }
  }

  std::size_t workspace() const override { return workspace_; }

  void launch(const StreamCall& call) const override {
    PortableParams params = portable_params(call);
    for (const TiledLaunch& launch : launches_) launch.launch(call, params, &params, slices_);
  }

 private:
  int slices_;
  std::vector<TiledLaunch> launches_;
  std::size_t workspace_ = 0;
};

std::shared_ptr<const StreamKernel> load(const Problem& problem, const Device& device) {
  return std::make_shared<Portable>(problem, device);
}

}  // namespace

std::vector<Variant> portable_variants(const Problem& p, const Device& device) {
  std::vector<Variant> variants;
  for (const RowClass& c : classes_of(p, device)) {
    variants.push_back(portable_variant(p, c.tile));
    const Units units = Units::of(p, c, portable_splitting(p, c, device), p.batch(), p.total_q());
    if (units.partial > 0) variants.push_back(merge_variant(c.tile));
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
