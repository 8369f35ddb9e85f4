// Appends and caches on a fake GPU: what is refused, and what reaches the driver.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cuda/kernels/append/params.h"
#include "error_of.h"
#include "fake_gpu.h"
#include "octavo/octavo.h"

namespace octavo::cuda {
namespace {

KvCacheConfig config_on(const char* device) {
  KvCacheConfig config;
  config.pages = 8;
  config.page_size = 4;
  config.layers = 2;
  config.hkv = 2;
  config.d = config.dv = 16;
  config.dtype = DType::e4m3;
  config.device = device;
  return config;
}

/// New K and V of some tokens in memory of the fake GPU, which host code can neither read nor
/// write.
KvAppend step_of(const FakeGpu& gpu, const std::vector<KvRequest>& requests, std::int64_t rows) {
  KvAppend step{.layer = 0, .requests = requests, .k = {}, .v = {}};
  step.k = TensorView<3>::dense(gpu.reserve<std::byte>(4096), DType::bf16, {rows, 2, 16});
  step.v = TensorView<3>::dense(gpu.reserve<std::byte>(4096), DType::bf16, {rows, 2, 16});
  return step;
}

AppendParams params_of(const FakeGpu& gpu) {
  AppendParams params{};
  EXPECT_EQ(gpu.launch().param_bytes, sizeof params);
  std::memcpy(&params, gpu.launch().params, sizeof params);
  return params;
}

TEST(CudaAppend, HandsTheStepToTheKernel) {
  const FakeGpu gpu;
  KvCacheConfig config = config_on("cuda:1");
  {
    const CurrentContext own(1);
    StreamHandle stream = nullptr;
    check(driver().stream_create(&stream, 0), "cuStreamCreate", "in a test");
    config.stream = {stream};
  }
  KvCache cache(config);
  const std::vector<std::int32_t> prompt{1, 2, 3, 4, 5, 6};
  const std::vector<KvRequest> requests{cache.admit(prompt).request};
  KvAppend step = step_of(gpu, requests, 6);
  step.k.data = gpu.reserve<std::byte>(4096, FakeMemory::device, 1);
  step.v.data = gpu.reserve<std::byte>(4096, FakeMemory::device, 1);
  step.k_scale.values = {gpu.reserve<float>(2, FakeMemory::device, 1), 2};
  step.v_scale.value = 0.5f;
  cache.append(step);

  EXPECT_EQ(gpu.launch().count, 1);
  EXPECT_EQ(gpu.launch().context, gpu.primary(1));
  EXPECT_EQ(gpu.launch().stream, config.stream.handle);
  EXPECT_EQ(gpu.launch().grid[0], 2u) << "pages";
  EXPECT_EQ(gpu.launch().grid[1], 2u) << "K and V";
  EXPECT_EQ(gpu.depth(), 0) << "the caller's context is as it was";
  const AppendParams params = params_of(gpu);
  const KvTables tables = cache.tables(requests);
  EXPECT_EQ(params.k.source, step.k.data);
  EXPECT_EQ(params.k.target, cache.k(0).data);
  EXPECT_EQ(params.v.target, cache.v(0).data);
  EXPECT_EQ(params.k.source_type, static_cast<int>(DType::bf16));
  EXPECT_EQ(params.k.target_type, static_cast<int>(DType::e4m3));
  EXPECT_EQ(params.k.scale.values, step.k_scale.values.data());
  EXPECT_EQ(params.k.scale.per_head, 1);
  EXPECT_EQ(params.v.scale.value, 0.5f);
  EXPECT_EQ(params.rotary, 0);
  EXPECT_EQ(params.stretches[1].page, tables.page_ids[1]);
  EXPECT_EQ(params.stretches[1].row, 4);
  EXPECT_EQ(params.stretches[1].position, 4);
  EXPECT_EQ(params.stretches[1].count, 2);
}

TEST(CudaAppend, SharedLastPageIsCopiedInEveryLayer) {
  const FakeGpu gpu;
  KvCache cache(config_on("cuda:0"));
  const std::vector<std::int32_t> prompt{1, 2, 3, 4, 5, 6};
  const KvRequest first = cache.admit(prompt).request;
  cache.mark_written(first, 6);
  const KvRequest fork = cache.fork(first);
  ASSERT_EQ(cache.reserve(fork, std::vector<std::int32_t>{7}), 0);
  EXPECT_EQ(gpu.launch().count, 2);
  const AppendParams params = params_of(gpu);
  const std::vector<KvRequest> requests{first, fork};
  const KvTables tables = cache.tables(requests);
  const auto* pool = static_cast<const std::byte*>(cache.k(1).data);
  EXPECT_EQ(params.k.source, pool + tables.page_ids[1] * cache.k(1).stride[0]);
  EXPECT_EQ(params.k.target, pool);
  EXPECT_EQ(params.k.copied_bytes, 1);
  EXPECT_EQ(params.stretches[0].page, tables.page_ids[3]);
  EXPECT_EQ(params.stretches[0].count, 4);
  EXPECT_NE(tables.page_ids[1], tables.page_ids[3]);
}

TEST(CudaAppend, RefusesMixedDevicesAndChangesNothing) {
  const FakeGpu gpu;
  KvCache cache(config_on("cuda:0"));
  const std::vector<std::int32_t> prompt{1, 2, 3, 4, 5, 6};
  const std::vector<KvRequest> requests{cache.admit(prompt).request};
  std::vector<float> host(4096);
  struct Wrong {
    std::string message;
    std::function<void(KvAppend&)> change;
  };
  const std::vector<Wrong> wrongs = {
      {"is in host memory: the pool is on cuda:0", [&](auto& s) { s.k.data = host.data(); }},
      {"is in the memory of cuda:1: the pool is on cuda:0",
       [&](auto& s) { s.v.data = gpu.reserve<float>(4096, FakeMemory::device, 1); }},
      {"k_scale.values at ",
       [&](auto& s) {
         s.k_scale.values = {host.data(), 2};
       }},
      {"rope.table at ",
       [&](auto& s) {
         s.rope = Rope{RopeStyle::halves, TensorView<2>::dense(host.data(), DType::f32, {9, 16})};
       }},
      {"rope.positions (size) is 2: the number of rows is 6",
       [&](auto& s) {
         static const std::int32_t two[] = {0, 1};
         s.rope = Rope{RopeStyle::halves,
                       TensorView<2>::dense(gpu.reserve<float>(4096), DType::f32, {9, 16}), two};
       }},
      {"kv_lens[0]=6: rope.table has 5 positions",
       [&](auto& s) {
         s.rope = Rope{RopeStyle::halves,
                       TensorView<2>::dense(gpu.reserve<float>(4096), DType::f32, {5, 16})};
       }},
      {"new_k.shape[0] (rows) is 5: the sum of q_lens is 6",
       [](auto& s) { s.k.shape[0] = s.v.shape[0] = 5; }},
  };
  for (const Wrong& wrong : wrongs) {
    KvAppend step = step_of(gpu, requests, 6);
    wrong.change(step);
    const std::string message = error_of(ErrorCode::invalid_argument, [&] { cache.append(step); });
    EXPECT_NE(message.find(wrong.message), std::string::npos) << message;
    EXPECT_EQ(gpu.launch().count, 0);
    EXPECT_EQ(cache.written(requests[0]), 0);
  }
}

TEST(CudaAppend, TablesAreInHostMemory) {
  const FakeGpu gpu;
  const std::int32_t lens[] = {1};
  const auto pool = [&] { return KvView::dense(gpu.reserve<float>(64), DType::f32, {2, 4, 1, 1}); };
  AppendArguments a;
  a.new_k = a.new_v = TensorView<3>::dense(gpu.reserve<float>(1), DType::f32, {1, 1, 1});
  a.k = pool();
  a.v = pool();
  a.page_table = {gpu.reserve<std::int32_t>(1), 1, 1, 1};
  a.q_lens = a.kv_lens = lens;
  const auto message =
      error_of(ErrorCode::invalid_argument, [&] { append(a, Device::parse("cuda:0"), Stream{}); });
  EXPECT_NE(message.find("is in the memory of cuda:0: must be in host memory"), std::string::npos)
      << message;
  EXPECT_EQ(gpu.launch().count, 0);
}

TEST(CudaAppend, RefusesPoolsAndStreamsOfOtherDevices) {
  const FakeGpu gpu;
  const auto message_of = [](const auto& make) {
    return error_of(ErrorCode::invalid_argument, make);
  };
  KvCacheConfig config = config_on("cuda:0");
  std::vector<std::byte> host(8192);
  const auto view = [&](std::byte* data) {
    return KvView::dense(data, DType::e4m3, {8, 4, 2, 16});
  };
  const std::vector<KvView> k(2, view(host.data()));
  const std::vector<KvView> v(2, view(host.data() + 4096));
  EXPECT_NE(
      message_of([&] { KvCache(config, k, v); }).find("is in host memory: the cache is on cuda:0"),
      std::string::npos);
  config.stream = {gpu.foreign_stream()};
  EXPECT_NE(message_of([&] { KvCache{config}; }).find("primary context"), std::string::npos);
  config.device = "cpu";
  EXPECT_NE(message_of([&] { KvCache{config}; }).find("device=cpu has none"), std::string::npos);
}

TEST(CudaAppend, CachesNeedADeviceThatIsThere) {
  const FakeGpu gpu;
  const std::string message =
      error_of(ErrorCode::unavailable, [] { KvCache{config_on("cuda:7")}; });
  EXPECT_NE(message.find("no CUDA device cuda:7"), std::string::npos) << message;
}

}  // namespace
}  // namespace octavo::cuda
