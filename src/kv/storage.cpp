#include "kv/storage.h"

#include <cstring>
#include <limits>
#include <new>

#include "core/view_checks.h"
#include "cuda/append.h"
#include "cuda/device.h"
#include "cuda/function.h"
#include "cuda/memory.h"
#include "kv/config.h"

namespace octavo::kv {
namespace {

constexpr std::size_t kAlignment = 64;

/// Bytes of K or V of one layer.
std::int64_t pool_bytes(const KvCacheConfig& config, std::int64_t d) {
  const auto token = config.hkv * d * static_cast<std::int64_t>(size_of(config.dtype));
  const std::int64_t most = std::numeric_limits<std::int64_t>::max() / 2 / token;
  require_argument(config.pages <= most / config.page_size, "pages=", config.pages, ": so many of ",
                   config.page_size, " tokens are more than memory has addresses");
  return config.pages * config.page_size * token;
}

/// K or V in memory whose pages lie `page_stride` elements apart.
KvView view_of(const KvCacheConfig& config, std::byte* data, std::int64_t d,
               std::int64_t page_stride) {
  KvView view{data, config.dtype, {config.pages, config.page_size, config.hkv, d}, {}};
  const bool nhd = config.order == PageOrder::nhd;
  view.stride = {page_stride, nhd ? config.hkv * d : d, nhd ? d : config.page_size * d, 1};
  return view;
}

void check_view_of(const char* name, const KvCacheConfig& config, const KvView& view,
                   std::int64_t d) {
  require_argument(view.dtype == config.dtype, name, " is ", octavo::name(view.dtype),
                   ": dtype=", octavo::name(config.dtype));
  const std::array<std::int64_t, 4> shape{config.pages, config.page_size, config.hkv, d};
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    require_argument(view.shape[axis] == shape[axis], name, ".shape[", axis, "]=", view.shape[axis],
                     ": the cache's is ", shape[axis]);
  }
  check_view(name, view);
  check_distinct(name, view);
}

void copy_page_of(const KvView& view, std::int32_t from, std::int32_t to) {
  const auto size = static_cast<std::int64_t>(size_of(view.dtype));
  auto* data = static_cast<std::byte*>(view.data);
  for (std::int64_t slot = 0; slot < view.shape[1]; ++slot) {
    for (std::int64_t head = 0; head < view.shape[2]; ++head) {
      const std::int64_t within = slot * view.stride[1] + head * view.stride[2];
      std::memcpy(data + (to * view.stride[0] + within) * size,
                  data + (from * view.stride[0] + within) * size,
                  static_cast<std::size_t>(view.shape[3] * size));
    }
  }
}

void check_reached(const Device& gpu, const KvView& k, const KvView& v) {
  const cuda::CurrentContext context(gpu.ordinal);
  cuda::Reach reach(gpu, "the cache is");
  reach.check("k", k.data);
  reach.check("v", v.data);
}

/// A page as new tokens of another.
void copy_page_on_gpu(const Device& gpu, Stream stream, const KvView& k, const KvView& v,
                      std::int32_t from, std::int32_t to) {
  const auto rows = [&](const KvView& view) {
    const auto size = static_cast<std::int64_t>(size_of(view.dtype));
    return TensorView<3>{static_cast<std::byte*>(view.data) + from * view.stride[0] * size,
                         view.dtype,
                         {view.shape[1], view.shape[2], view.shape[3]},
                         {view.stride[1], view.stride[2], view.stride[3]}};
  };
  const auto tokens = static_cast<std::int32_t>(k.shape[1]);
  AppendArguments a;
  a.new_k = rows(k);
  a.new_v = rows(v);
  a.k = k;
  a.v = v;
  a.page_table = {&to, 1, 1, 1};
  a.q_lens = a.kv_lens = {&tokens, 1};
  cuda::launch_append(gpu, a, stream.handle);
}

}  // namespace

void Storage::FreeAligned::operator()(std::byte* data) const {
  ::operator delete (data, std::align_val_t{kAlignment});
}

std::byte* Storage::allocate(std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  if (gpu_) return owned_by_gpu_.emplace_back(gpu_->ordinal, size).data();
  owned_.emplace_back(static_cast<std::byte*>(::operator new (size, std::align_val_t{kAlignment})));
  return owned_.back().get();
}

/// Loads code now, so that no step has to.
void Storage::prepare_gpu(const KvCacheConfig& config) {
  const Device device = Device::parse(config.device);
  if (device.is_cpu()) {
    require_argument(config.stream.handle == nullptr, "stream is given: device=cpu has none");
    return;
  }
  gpu_ = device;
  stream_ = config.stream;
  const cuda::CurrentContext context(device.ordinal);
  cuda::check_stream(device, config.stream.handle);
  cuda::load(device, cuda::append_variant(), 0);
}

Storage::Storage(const KvCacheConfig& config) {
  checked(config);
  prepare_gpu(config);
  const bool joint = config.pool == Pool::joint;
  require_argument(!joint || config.d == config.dv, "dv=", config.dv, ": must equal d=", config.d,
                   " in pool=joint; use pool=split");
  const std::int64_t k_bytes = pool_bytes(config, config.d);
  const std::int64_t v_bytes = pool_bytes(config, config.dv);
  const std::int64_t k_page = config.page_size * config.hkv * config.d;
  const std::int64_t v_page = config.page_size * config.hkv * config.dv;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    std::byte* k = allocate(joint ? k_bytes + v_bytes : k_bytes);
    std::byte* v = joint ? k + k_bytes / config.pages : allocate(v_bytes);
    k_.push_back(view_of(config, k, config.d, joint ? 2 * k_page : k_page));
    v_.push_back(view_of(config, v, config.dv, joint ? 2 * v_page : v_page));
  }
}

Storage::Storage(const KvCacheConfig& config, std::span<const KvView> k, std::span<const KvView> v)
    : k_(k.begin(), k.end()), v_(v.begin(), v.end()) {
  checked(config);
  prepare_gpu(config);
  const auto layers = static_cast<std::size_t>(config.layers);
  require_argument(k.size() == layers, "k has ", k.size(), " views: layers=", layers);
  require_argument(v.size() == layers, "v has ", v.size(), " views: layers=", layers);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    check_view_of("k", config, k[layer], config.d);
    check_view_of("v", config, v[layer], config.dv);
    Outputs outputs;
    outputs.add(footprint("k", k[layer]));
    outputs.add(footprint("v", v[layer]));
    if (gpu_) check_reached(*gpu_, k[layer], v[layer]);
  }
}

void Storage::copy_page(std::int32_t from, std::int32_t to) const {
  std::optional<cuda::CurrentContext> context;
  if (gpu_) context.emplace(gpu_->ordinal);
  for (std::size_t layer = 0; layer < k_.size(); ++layer) {
    if (gpu_) {
      copy_page_on_gpu(*gpu_, stream_, k_[layer], v_[layer], from, to);
    } else {
      copy_page_of(k_[layer], from, to);
      copy_page_of(v_[layer], from, to);
    }
  }
}

}  // namespace octavo::kv
