// Append and the cache on a real GPU, against the CPU; skipped where there is none.
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <random>
#include <vector>

#include "cuda/buffer.h"
#include "cuda/device.h"
#include "device_run.h"
#include "kv/append_sample.h"
#include "octavo/octavo.h"

namespace octavo::tests {
namespace {

/// Memory of cuda:0 that tests copy to and from.
class GpuMemory {
 public:
  template <typename Value>
  Value* copy(Value* host, std::size_t count) {
    buffers_.emplace_back(0, count * sizeof(Value));
    buffers_.back().write(0, host, count * sizeof(Value));
    return reinterpret_cast<Value*>(buffers_.back().data());
  }
  /// Of a view without gaps.
  template <int Rank>
  void move(TensorView<Rank>& view) {
    std::size_t bytes = size_of(view.dtype);
    for (const std::int64_t extent : view.shape) bytes *= static_cast<std::size_t>(extent);
    view.data = copy(static_cast<std::byte*>(view.data), bytes);
  }
  template <typename Value>
  void move(std::span<Value>& values) {
    if (!values.empty()) values = {copy(values.data(), values.size()), values.size()};
  }
  /// What an address that `copy` gave holds now.
  std::vector<std::byte> read(const void* data) const {
    for (const cuda::Buffer& buffer : buffers_) {
      if (buffer.data() != data) continue;
      std::vector<std::byte> bytes(buffer.size());
      buffer.read(0, bytes.data(), bytes.size());
      return bytes;
    }
    return {};
  }

 private:
  std::deque<cuda::Buffer> buffers_;
};

class KvGpuAppend : public testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "there is no GPU";
  }
};

TEST_P(KvGpuAppend, StoresTheBitsOfTheCpu) {
  const Device gpu = Device::parse("cuda:0");
  for (const auto& [d, dv] : {std::pair{16, 16}, std::pair{200, 96}, std::pair{3, 1}}) {
    Sample on_cpu(GetParam(), d, dv);
    append(on_cpu.arguments());
    Sample sample(GetParam(), d, dv);
    AppendArguments a = sample.arguments();
    GpuMemory memory;
    memory.move(a.new_k);
    memory.move(a.new_v);
    memory.move(a.k);
    memory.move(a.v);
    memory.move(a.k_scale.values);
    memory.move(a.v_scale.values);
    if (a.rope) {
      memory.move(a.rope->table);
      memory.move(a.rope->positions);
    }
    append(a, gpu, Stream{});
    wait(gpu, Stream{});
    EXPECT_EQ(memory.read(a.k.data), on_cpu.k());
    EXPECT_EQ(memory.read(a.v.data), on_cpu.v());
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, KvGpuAppend, testing::ValuesIn(forms()),
                         [](const auto& info) { return name_of(info.param); });

/// A cache in memory of the CPU or the GPU, and the same tokens for both.
class Side {
 public:
  Side(const KvCacheConfig& config, const char* device)
      : config_(with(config, device)), cache_(config_), table_(rope_table(200, config.d)) {}

  KvCache& cache() { return cache_; }

  /// `rows` rows of every layer, of random numbers of the seed.
  void append(const std::vector<KvRequest>& requests, std::int64_t rows, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 20);
    const auto count = static_cast<std::size_t>(rows * config_.hkv);
    std::vector<float> k(count * static_cast<std::size_t>(config_.d));
    std::vector<float> v(count * static_cast<std::size_t>(config_.dv));
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      for (float& x : k) x = normal(random);
      for (float& x : v) x = normal(random);
      KvAppend step{.layer = layer, .requests = requests, .k = {}, .v = {}};
      step.k = TensorView<3>::dense(k.data(), DType::f32, {rows, config_.hkv, config_.d});
      step.v = TensorView<3>::dense(v.data(), DType::f32, {rows, config_.hkv, config_.dv});
      step.k_scale.value = 0.3f;
      step.rope = Rope{RopeStyle::halves,
                       TensorView<2>::dense(table_.data(), DType::f32, {200, config_.d})};
      GpuMemory memory;
      if (on_gpu()) {
        memory.move(step.k);
        memory.move(step.v);
        memory.move(step.rope->table);
      }
      cache_.append(step);
      if (on_gpu()) wait(Device::parse(config_.device), config_.stream);
    }
  }

  /// K, then V, of a request's tokens in all layers.
  std::vector<std::byte> contents(KvRequest request) {
    const std::vector<KvRequest> requests{request};
    const KvTables tables = cache_.tables(requests);
    std::vector<std::byte> all;
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      for (const KvView& view : {cache_.k(layer), cache_.v(layer)}) {
        for (std::int32_t token = 0; token < tables.kv_lens[0]; ++token) {
          const std::int64_t page = tables.page_ids[token / config_.page_size];
          for (std::int64_t head = 0; head < config_.hkv; ++head) {
            add(all, view,
                page * view.stride[0] + token % config_.page_size * view.stride[1] +
                    head * view.stride[2]);
          }
        }
      }
    }
    return all;
  }

 private:
  static KvCacheConfig with(KvCacheConfig config, const char* device) {
    config.device = device;
    return config;
  }
  bool on_gpu() const { return config_.device != "cpu"; }
  void add(std::vector<std::byte>& all, const KvView& view, std::int64_t offset) const {
    const std::size_t size = size_of(view.dtype);
    const std::size_t bytes = static_cast<std::size_t>(view.shape[3]) * size;
    all.resize(all.size() + bytes);
    const void* from =
        static_cast<const std::byte*>(view.data) + static_cast<std::size_t>(offset) * size;
    copy_to_host(all.data() + all.size() - bytes, from, bytes);
  }
  void copy_to_host(void* to, const void* from, std::size_t bytes) const {
    if (!on_gpu()) {
      std::memcpy(to, from, bytes);
      return;
    }
    const cuda::CurrentContext context(0);
    cuda::check(cuda::driver().copy_to_host(to, reinterpret_cast<std::uintptr_t>(from), bytes),
                "cuMemcpyDtoH", "in a test");
  }

  KvCacheConfig config_;
  KvCache cache_;
  std::vector<float> table_;
};

struct Pools {
  const char* name;
  PageOrder order;
  Pool pool;
  DType dtype;
};

class KvGpuCache : public testing::TestWithParam<Pools> {};

TEST_P(KvGpuCache, HoldsWhatTheCpuHolds) {
  if (!has_gpu()) GTEST_SKIP() << "there is no GPU";
  KvCacheConfig config;
  config.pages = 30;
  config.page_size = 5;
  config.layers = 2;
  config.hkv = 3;
  config.d = 24;
  config.dv = GetParam().pool == Pool::joint ? 24 : 40;
  config.dtype = GetParam().dtype;
  config.order = GetParam().order;
  config.pool = GetParam().pool;
  Side on_cpu(config, "cpu");
  Side on_gpu(config, "cuda:0");
  std::vector<KvRequest> requests;
  for (Side* side : {&on_cpu, &on_gpu}) {
    KvCache& cache = side->cache();
    std::vector<std::int32_t> prompt(23);
    for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<std::int32_t>(i);
    const KvRequest first = cache.admit(prompt).request;
    side->append({first}, 23, 1);
    const KvAdmission second = cache.admit(prompt);
    EXPECT_EQ(second.cached, 20);
    const KvRequest fork = cache.fork(first);
    EXPECT_EQ(cache.reserve(fork, std::vector<std::int32_t>{7, 8, 9, 10}), 0);
    EXPECT_EQ(cache.statistics().copies, 1);
    side->append({second.request, fork}, 3 + 4, 2);
    EXPECT_EQ(cache.reserve(first, std::vector<std::int32_t>{70, 80}), 0);
    side->append({first}, 2, 3);
    cache.truncate(fork, 24);
    requests = {first, second.request, fork};
  }
  for (const KvRequest request : requests) {
    EXPECT_EQ(on_gpu.contents(request), on_cpu.contents(request)) << request;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Pools, KvGpuCache,
    testing::Values(Pools{"joint_bf16", PageOrder::nhd, Pool::joint, DType::bf16},
                    Pools{"joint_hnd_e4m3", PageOrder::hnd, Pool::joint, DType::e4m3},
                    Pools{"split_f16", PageOrder::nhd, Pool::split, DType::f16},
                    Pools{"split_hnd_e5m2", PageOrder::hnd, Pool::split, DType::e5m2}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace octavo::tests
