// Runs on streams of a fake GPU: what is refused, and what reaches the driver.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/arguments.h"
#include "cuda/kernels/reference/params.h"
#include "error_of.h"
#include "octavo/c.h"
#include "reserved_case.h"

namespace octavo::cuda {
namespace {

const char kText[] =
    "paged pool=split q=bf16 kv=e4m3 hq=6 hkv=2 d=64 page=16 mask=bits cap=30 scale=0.25 sinks "
    "alibi "
    "lse q_scale=tensor k_scale=head v_scale=head out_scale=tensor q_len=3,2 kv_len=33,9";

Plan plan_on(const char* device, const char* text = kText) {
  return select(Problem::parse(text), Device::parse(device), "cuda_reference").plan();
}

/// The arguments are refused with this in the message, and nothing is launched.
void expect_refusal(const FakeGpu& gpu, const Plan& plan, const Arguments& arguments,
                    const std::string& words, Stream stream = {}) {
  const int launches = gpu.launch().count;
  const std::string message =
      error_of(ErrorCode::invalid_argument, [&] { plan.run(arguments, stream); });
  EXPECT_NE(message.find(words), std::string::npos) << message << "\nlacks: " << words;
  EXPECT_EQ(gpu.launch().count, launches);
  EXPECT_EQ(gpu.depth(), 0);
}

TEST(CudaRun, HandsTheArgumentsToTheKernel) {
  const FakeGpu gpu;
  const Plan plan = plan_on("cuda:0");
  const ReservedCase c(gpu, plan.problem());
  const Arguments& a = c.arguments;
  plan.run(a, Stream{nullptr});

  const FakeLaunch& launch = gpu.launch();
  EXPECT_EQ(launch.count, 1);
  EXPECT_EQ(launch.context, gpu.primary(0));
  EXPECT_EQ(gpu.depth(), 0) << "the caller's context is as it was";
  EXPECT_EQ(launch.grid[0], 5u) << "rows";
  EXPECT_EQ(launch.grid[1], 2u) << "6 heads, 4 in a block";
  EXPECT_EQ(launch.threads, 128u);
  ASSERT_EQ(launch.param_bytes, sizeof(ReferenceParams));
  ReferenceParams params;
  std::memcpy(&params, launch.params, sizeof params);
  EXPECT_EQ(params.q_type, static_cast<int>(DType::bf16));
  EXPECT_EQ(params.kv_type, static_cast<int>(DType::e4m3));
  EXPECT_EQ(params.out_type, static_cast<int>(DType::bf16));
  const AttentionParams& p = params.attention;
  EXPECT_EQ(p.q, a.q.data);
  EXPECT_EQ(p.q_token_stride, 6 * 64);
  EXPECT_EQ(p.q_head_stride, 64);
  EXPECT_EQ(p.k.data, a.k.data);
  EXPECT_EQ(p.v.data, a.v.data);
  EXPECT_EQ(p.v.page_stride, 16 * 2 * 64);
  EXPECT_EQ(p.v.slot_stride, 2 * 64);
  EXPECT_EQ(p.v.head_stride, 64);
  EXPECT_EQ(p.out, a.out.data);
  EXPECT_EQ(p.lse, a.lse.data);
  EXPECT_EQ(p.lse_token_stride, 6);
  EXPECT_EQ(p.page_table, a.page_table.data);
  EXPECT_EQ(p.page_table_stride, 4);
  EXPECT_EQ(p.page_size, 16);
  EXPECT_EQ(p.pages, 8);
  EXPECT_EQ(p.requests, 2);
  EXPECT_EQ(p.q_lens, a.q_lens.data());
  EXPECT_EQ(p.kv_lens, a.kv_lens.data());
  EXPECT_EQ(p.masking, Masking::bits);
  EXPECT_EQ(p.mask_bits, a.mask_bits.data);
  EXPECT_EQ(p.mask_row_bytes, 5);
  EXPECT_EQ(p.softmax_scale, 0.25f);
  EXPECT_EQ(p.cap, 30.0f);
  EXPECT_EQ(p.sinks, a.sinks.data());
  EXPECT_EQ(p.alibi_slopes, a.alibi_slopes.data());
  EXPECT_EQ(p.q_scale.values, a.q_scale.values.data());
  EXPECT_EQ(p.q_scale.per_head, 0);
  EXPECT_EQ(p.k_scale.values, a.k_scale.values.data());
  EXPECT_EQ(p.k_scale.per_head, 1);
}

TEST(CudaRun, RunsOnTheStreamAndTheDeviceOfThePlan) {
  const FakeGpu gpu;
  const Plan plan = plan_on("cuda:1");
  const ReservedCase c(gpu, plan.problem(), 1);
  const CurrentContext other(0);
  StreamHandle stream = nullptr;
  {
    const CurrentContext own(1);
    check(driver().stream_create(&stream, 0), "cuStreamCreate", "in a test");
  }
  plan.run(c.arguments, Stream{stream});
  EXPECT_EQ(gpu.launch().context, gpu.primary(1));
  EXPECT_EQ(gpu.launch().stream, stream);
  EXPECT_EQ(gpu.depth(), 1);
}

TEST(CudaRun, FewerRowsWhereTensorsHaveFewer) {
  const FakeGpu gpu;
  const Plan plan = plan_on("cuda:0");
  ReservedCase c(gpu, plan.problem());
  c.arguments.mask_bits.rows = 4;
  plan.run(c.arguments, Stream{});
  EXPECT_EQ(gpu.launch().grid[0], 4u);
  c.arguments.q.shape[0] = 0;
  plan.run(c.arguments, Stream{});
  c.arguments.q.shape[0] = 5;
  c.arguments.q_lens = c.arguments.kv_lens = {};
  plan.run(c.arguments, Stream{});
  EXPECT_EQ(gpu.launch().count, 1) << "without rows or requests there is nothing to launch";
}

struct Place {
  const char* name;
  std::function<void(Arguments&, void*)> set;
};

std::vector<Place> places() {
  const auto floats = [](void* data) { return static_cast<const float*>(data); };
  const auto ints = [](void* data) { return static_cast<const std::int32_t*>(data); };
  return {
      {"q", [](Arguments& a, void* data) { a.q.data = data; }},
      {"k", [](Arguments& a, void* data) { a.k.data = data; }},
      {"v", [](Arguments& a, void* data) { a.v.data = data; }},
      {"out", [](Arguments& a, void* data) { a.out.data = data; }},
      {"lse", [](Arguments& a, void* data) { a.lse.data = data; }},
      {"page_table", [=](Arguments& a, void* data) { a.page_table.data = ints(data); }},
      {"q_lens",
       [=](Arguments& a, void* data) {
         a.q_lens = {ints(data), 2};
       }},
      {"kv_lens",
       [=](Arguments& a, void* data) {
         a.kv_lens = {ints(data), 2};
       }},
      {"sinks",
       [=](Arguments& a, void* data) {
         a.sinks = {floats(data), 6};
       }},
      {"alibi_slopes",
       [=](Arguments& a, void* data) {
         a.alibi_slopes = {floats(data), 6};
       }},
      {"mask_bits",
       [](Arguments& a, void* data) { a.mask_bits.data = static_cast<std::uint8_t*>(data); }},
      {"q_scale.values",
       [=](Arguments& a, void* data) {
         a.q_scale.values = {floats(data), 1};
       }},
      {"k_scale.values",
       [=](Arguments& a, void* data) {
         a.k_scale.values = {floats(data), 2};
       }},
      {"v_scale.values",
       [=](Arguments& a, void* data) {
         a.v_scale.values = {floats(data), 2};
       }},
      {"out_scale.values",
       [=](Arguments& a, void* data) {
         a.out_scale.values = {floats(data), 1};
       }},
      {"workspace",
       [](Arguments& a, void* data) {
         a.workspace = {static_cast<std::byte*>(data), 256};
       }},
  };
}

TEST(CudaRun, RefusesMemoryThatTheDeviceDoesNotReach) {
  const FakeGpu gpu;
  const Plan plan = plan_on("cuda:0");
  const ReservedCase c(gpu, plan.problem());
  std::vector<std::byte> host(1 << 20);
  for (const Place& place : places()) {
    const std::string name = std::string(place.name) + " at 0x";
    Arguments a = c.arguments;
    place.set(a, host.data());
    expect_refusal(gpu, plan, a, name);
    expect_refusal(gpu, plan, a, "is in host memory: the plan runs on cuda:0");
    place.set(a, gpu.reserve<std::byte>(1 << 20, FakeMemory::device, 1));
    expect_refusal(gpu, plan, a, name);
    expect_refusal(gpu, plan, a, "is in the memory of cuda:1: the plan runs on cuda:0");
    place.set(a, gpu.reserve<std::byte>(1 << 20, FakeMemory::pinned_elsewhere));
    expect_refusal(gpu, plan, a, "is in host memory at another address");
    if (std::string(place.name) == "workspace") continue;  // this plan needs none
    place.set(a, nullptr);
    expect_refusal(gpu, plan, a, place.name);
  }
  EXPECT_EQ(gpu.launch().count, 0);
}

TEST(CudaRun, TakesPinnedAndManagedMemory) {
  const FakeGpu gpu;
  const Plan plan = plan_on("cuda:0");
  int launches = 0;
  for (const Place& place : places()) {
    for (const FakeMemory kind : {FakeMemory::pinned, FakeMemory::managed}) {
      ReservedCase c(gpu, plan.problem());
      place.set(c.arguments, gpu.reserve<std::byte>(1 << 20, kind, 1));
      plan.run(c.arguments, Stream{});
      EXPECT_EQ(gpu.launch().count, ++launches) << place.name;
    }
  }
}

TEST(CudaRun, RefusesWhatDoesNotFitThePlan) {
  const FakeGpu gpu;
  const Plan plan = plan_on("cuda:0");
  const ReservedCase c(gpu, plan.problem());
  const auto refused = [&](const std::string& words, const auto& spoil) {
    Arguments a = c.arguments;
    spoil(a);
    expect_refusal(gpu, plan, a, words);
  };
  refused("q is f32: the plan wants bf16", [](auto& a) { a.q.dtype = DType::f32; });
  refused("k.shape[1] (page size) is 8", [](auto& a) { a.k.shape[1] = a.v.shape[1] = 8; });
  refused("q_lens has 3 requests", [](auto& a) {
    a.q_lens = {a.q_lens.data(), 3};
    a.kv_lens = {a.kv_lens.data(), 3};
  });
  refused("kv_lens has 1 values: q_lens has 2", [](auto& a) { a.kv_lens = a.kv_lens.first(1); });
  refused("page_table has 1 rows", [](auto& a) { a.page_table.requests = 1; });
  refused("page_table.stride=2", [](auto& a) { a.page_table.stride = 2; });
  refused("sinks (size) is 5", [](auto& a) { a.sinks = a.sinks.first(5); });
  refused("k_scale.values has 1 values",
          [](auto& a) { a.k_scale.values = a.k_scale.values.first(1); });
  refused("q is not aligned", [](auto& a) { a.q.data = static_cast<std::byte*>(a.q.data) + 1; });
  refused("out and q may share memory", [](auto& a) { a.out.data = a.q.data; });
  refused("mask_bits.row_bytes=-1", [](auto& a) { a.mask_bits.row_bytes = -1; });
}

TEST(CudaRun, AWorkspaceIsGivenWhereThePlanNeedsOne) {
  const FakeGpu gpu;
  const Problem problem = Problem::parse(kText);
  ReservedCase c(gpu, problem);
  Arguments& a = c.arguments;
  const auto message = [&] {
    return error_of(ErrorCode::invalid_argument,
                    [&] { make_stream_call(problem, a, 512, nullptr); });
  };
  EXPECT_EQ(message(),
            "workspace has 0 bytes: the plan needs 512, and a run on a GPU allocates nothing");
  a.workspace = {gpu.reserve<std::byte>(1024), 511};
  EXPECT_NE(message().find("workspace has 511 bytes: the plan needs 512"), std::string::npos);
  a.workspace = {a.workspace.data() + 128, 512};
  EXPECT_EQ(message(), "workspace is not aligned to 256 bytes");
  a.workspace = {a.workspace.data() + 128, 512};
  EXPECT_EQ(make_stream_call(problem, a, 512, nullptr).workspace, a.workspace.data());
}

TEST(CudaRun, RefusesAStreamOfAnotherContext) {
  const FakeGpu gpu;
  const Plan plan = plan_on("cuda:0");
  const ReservedCase c(gpu, plan.problem());
  expect_refusal(gpu, plan, c.arguments, "is not of the primary context of cuda:0",
                 Stream{gpu.foreign_stream()});
  StreamHandle other = nullptr;
  {
    const CurrentContext context(1);
    check(driver().stream_create(&other, 0), "cuStreamCreate", "in a test");
  }
  expect_refusal(gpu, plan, c.arguments, "is not of the primary context of cuda:0", Stream{other});
  for (std::uintptr_t special = 0; special <= 2; ++special) {  // default streams
    plan.run(c.arguments, Stream{reinterpret_cast<void*>(special)});
  }
  EXPECT_EQ(gpu.launch().count, 3);
}

TEST(CudaRun, ExecutorsAndStreamsBelongToTheirDevices) {
  const FakeGpu gpu;
  const Plan plan = plan_on("cuda:0");
  const ReservedCase c(gpu, plan.problem());
  ThreadPool pool(1);
  EXPECT_EQ(error_of(ErrorCode::invalid_argument, [&] { plan.run(c.arguments, pool); }),
            "an executor is given: the plan runs on cuda:0, which has streams");
  const Plan on_cpu = select(plan.problem(), Device::cpu()).plan();
  EXPECT_EQ(error_of(ErrorCode::invalid_argument, [&] { on_cpu.run(c.arguments, Stream{}); }),
            "a stream is given: the plan runs on cpu, which has none");
  EXPECT_EQ(gpu.launch().count, 0);
  plan.run(c.arguments);
  EXPECT_EQ(gpu.launch().stream, nullptr) << "the default stream";
}

TEST(CudaRun, AFailedLaunchNamesTheCallTheKernelAndTheProblem) {
  const FakeGpu gpu;
  const Plan plan = plan_on("cuda:0");
  const ReservedCase c(gpu, plan.problem());
  gpu.fail_launches(700);
  const std::string message =
      error_of(ErrorCode::device_error, [&] { plan.run(c.arguments, Stream{}); });
  for (const std::string& words :
       {std::string(
            "cuLaunchKernelEx failed with CUDA_ERROR_ILLEGAL_ADDRESS (in the fake's words)"),
        std::string("reference/attend.cu on a grid of 5 x 2 x 1"), std::string("cuda:0"),
        plan.problem().to_string()}) {
    EXPECT_NE(message.find(words), std::string::npos) << message << "\nlacks: " << words;
  }
  EXPECT_EQ(gpu.depth(), 0);
}

TEST(CudaRun, ThreadsLoadCodeOncePerDevice) {
  const FakeGpu gpu;
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&gpu, i] {
      const int ordinal = i % 2;
      const Plan plan = plan_on(ordinal == 0 ? "cuda:0" : "cuda:1");
      const ReservedCase c(gpu, plan.problem(), ordinal);
      for (int run = 0; run < 100; ++run) plan.run(c.arguments, Stream{});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(gpu.loads(), 2);
  EXPECT_EQ(gpu.launch().count, 800);
}

TEST(CudaRun, TheCApiRunsOnStreams) {
  const FakeGpu gpu;
  const char* text = "paged pool=split q=f32 hq=2 hkv=1 d=8 page=4 q_len=2 kv_len=5";
  octavo_plan* plan = nullptr;
  ASSERT_EQ(octavo_plan_create(text, "cuda:0", nullptr, &plan), OCTAVO_OK) << octavo_last_error();
  const ReservedCase c(gpu, Problem::parse(text));
  const Arguments& a = c.arguments;
  octavo_arguments arguments = OCTAVO_ARGUMENTS_INIT;
  arguments.q = octavo_dense(a.q.data, OCTAVO_F32, 3, a.q.shape.data());
  arguments.k = octavo_dense(a.k.data, OCTAVO_F32, 4, a.k.shape.data());
  arguments.v = octavo_dense(a.v.data, OCTAVO_F32, 4, a.v.shape.data());
  arguments.out = octavo_dense(a.out.data, OCTAVO_F32, 3, a.out.shape.data());
  arguments.page_table = {a.page_table.data, 1, 2, 2};
  arguments.requests = 1;
  arguments.q_lens = a.q_lens.data();
  arguments.kv_lens = a.kv_lens.data();
  EXPECT_EQ(octavo_plan_run_on_stream(plan, &arguments, nullptr), OCTAVO_OK) << octavo_last_error();
  EXPECT_EQ(octavo_plan_run(plan, &arguments, nullptr), OCTAVO_OK) << octavo_last_error();
  EXPECT_EQ(gpu.launch().count, 2);
  EXPECT_EQ(octavo_plan_run_on_stream(plan, &arguments, gpu.foreign_stream()),
            OCTAVO_INVALID_ARGUMENT);
  EXPECT_EQ(octavo_plan_run_on_stream(plan, nullptr, nullptr), OCTAVO_INVALID_ARGUMENT);
  gpu.fail_launches(700);
  EXPECT_EQ(octavo_plan_run_on_stream(plan, &arguments, nullptr), OCTAVO_DEVICE_ERROR);
  EXPECT_EQ(octavo_plan_destroy(plan), OCTAVO_OK);
  EXPECT_EQ(octavo_plan_run_on_stream(plan, &arguments, nullptr), OCTAVO_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace octavo::cuda
