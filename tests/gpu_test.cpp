// Runs on a real GPU; skipped where there is none.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "core/arguments.h"
#include "cuda/device.h"
#include "cuda/run_check.h"
#include "cuda/table.h"
#include "device_run.h"
#include "octavo/octavo.h"
#include "problems.h"
#include "verify/case.h"
#include "verify/device_copy.h"
#include "verify/verify.h"

namespace octavo::tests {
namespace {

constexpr const char* kDevice = "cuda:0";

/// Problems with one row a request, with a few, with many, with splits, and all at once.
const char* const kMixed[] = {
    "paged q=bf16 hq=14 hkv=2 d=64 mask=causal lse q_len=1,1,1,1 kv_len=9,2000,700,64",
    "paged q=bf16 hq=8 hkv=2 d=128 mask=causal lse split=64 q_len=300,1,0,17 "
    "kv_len=300,3000,40,170",
    "paged pool=split page=5 q=f16 kv=e4m3 hq=6 hkv=3 d=96 mask=window:60,0 sinks k_scale=head "
    "q_len=70,2,9 kv_len=400,2,900",
    "ragged q=f32 hq=3 hkv=1 d=40 dv=24 mask=bits alibi cap=9 q_len=33,1 kv_len=65,129",
};

/// The same for a kernel that shared prefixes are for.
const char* const kShared =
    "paged q=bf16 hq=8 hkv=2 d=64 mask=causal lse prefix=64 q_len=3,1,40 kv_len=90,70,200";

/// A stream of its own.
class OwnStream {
 public:
  OwnStream() {
    const cuda::CurrentContext context(0);
    cuda::check(cuda::driver().stream_create(&handle_, 1), "cuStreamCreate", "in a test");
  }
  ~OwnStream() { cuda::driver().stream_destroy(handle_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;

  Stream stream() const { return {handle_}; }
  cuda::StreamHandle handle() const { return handle_; }
  void wait() const { cuda::check(cuda::driver().stream_wait(handle_), "wait", "in a test"); }

 private:
  cuda::StreamHandle handle_ = nullptr;
};

/// The outputs of a run: rows of out, then rows of lse.
struct Outputs {
  std::vector<std::byte> out, lse;

  explicit Outputs(const verify::Case& c) {
    const Problem& p = c.problem();
    const std::int64_t rows = c.total_q() * p.hq;
    out = bytes_at(c.arguments().out.data, rows * p.dv, size_of(p.out));
    if (p.lse) lse = bytes_at(c.arguments().lse.data, rows, sizeof(float));
  }

  bool operator==(const Outputs&) const = default;

  /// Whether all but a share of the rows at the beginning are the same.
  bool same_from(std::int64_t row, std::int64_t rows, const Outputs& other) const {
    const auto same = [&](const auto& own, const auto& others) {
      const std::size_t begin =
          own.size() / static_cast<std::size_t>(rows) * static_cast<std::size_t>(row);
      return std::equal(own.begin() + static_cast<std::ptrdiff_t>(begin), own.end(),
                        others.begin() + static_cast<std::ptrdiff_t>(begin));
    };
    return same(out, other.out) && same(lse, other.lse);
  }

 private:
  static std::vector<std::byte> bytes_at(const void* data, std::int64_t elements,
                                         std::size_t size) {
    const auto* const bytes = static_cast<const std::byte*>(data);
    return {bytes, bytes + static_cast<std::size_t>(elements) * size};
  }
};

class Gpu : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "there is no GPU";
  }

  /// Calls body(plan) for those of the problems that the kernel accepts.
  static void for_each(const std::vector<std::string>& texts,
                       const std::function<void(const Plan&)>& body) {
    std::size_t ran = 0;
    for (const std::string& text : texts) {
      SCOPED_TRACE(text);
      try {
        const Plan plan = select(Problem::parse(text), Device::parse(kDevice), GetParam()).plan();
        body(plan);
        ++ran;
      } catch (const Error& error) {
        ASSERT_EQ(static_cast<int>(error.code()), static_cast<int>(ErrorCode::unsupported))
            << error.what();
        ASSERT_NE(GetParam(), "cuda_reference") << error.what();
      }
    }
    EXPECT_GT(ran, 0u);
  }
  static std::vector<std::string> mixed() {
    if (GetParam() == "cuda_cascade") return {kShared};
    return {std::begin(kMixed), std::end(kMixed)};
  }
};

void expect_right(const Plan& plan, std::uint64_t seed) {
  const verify::Result result = verify::verify(plan, seed, default_executor());
  EXPECT_TRUE(result.passed) << "seed " << seed << "\n" << result.failure;
}

TEST_P(Gpu, MatchesTheOracle) {
  std::vector<std::string> texts = smoke();
  texts.insert(texts.end(), regressions().begin(), regressions().end());
  for_each(texts, [](const Plan& plan) {
    for (const std::uint64_t seed : {1, 2}) expect_right(plan, seed);
  });
}

TEST_P(Gpu, RepeatsBitForBit) {
  for_each(mixed(), [](const Plan& plan) {
    verify::Case c(plan.problem(), 3, verify::gpu_workspace(plan));
    verify::DeviceCopy copy(c, plan.device());
    plan.run(copy.arguments(), Stream{});
    copy.bring_back();
    const Outputs first(c);
    for (int run = 1; run < 1000; ++run) {
      plan.run(copy.arguments(), Stream{});
      if (run % 9 != 0) continue;
      copy.bring_back();
      ASSERT_TRUE(Outputs(c) == first) << "run " << run;
    }
  });
}

TEST_P(Gpu, TwoStreamsAtOnceGiveTheSameBits) {
  for_each(mixed(), [](const Plan& plan) {
    verify::Case alone(plan.problem(), 4, verify::gpu_workspace(plan));
    verify::DeviceCopy copy(alone, plan.device());
    plan.run(copy.arguments(), Stream{});
    copy.bring_back();
    const Outputs expected(alone);

    std::vector<std::thread> callers;
    std::vector<int> right(2, 0);
    callers.reserve(right.size());
    for (int& is_right : right) {
      callers.emplace_back([&plan, &expected, &is_right] {
        verify::Case c(plan.problem(), 4, verify::gpu_workspace(plan));
        verify::DeviceCopy own(c, plan.device());
        const OwnStream stream;
        for (int run = 0; run < 50; ++run) plan.run(own.arguments(), stream.stream());
        stream.wait();
        own.bring_back();
        is_right = Outputs(c) == expected && c.touched().empty() ? 1 : 0;
      });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(right, (std::vector<int>{1, 1}));
  });
}

/// Other lengths within the bounds of a plan: each request shorter than the one before it was.
void shorten(std::vector<std::int32_t>& q_lens, std::vector<std::int32_t>& kv_lens) {
  for (std::size_t r = 0; r < q_lens.size(); ++r) {
    q_lens[r] = q_lens[r] / 2 + (q_lens[r] % 2);
    kv_lens[r] = kv_lens[r] * 2 / 3;
  }
}

/// Lengths in the memory of a device.
void write_lengths(const Arguments& a, const std::vector<std::int32_t>& q_lens,
                   const std::vector<std::int32_t>& kv_lens) {
  const cuda::CurrentContext context(0);
  const auto write = [](std::span<const std::int32_t> target, const auto& values) {
    cuda::check(cuda::driver().copy_to_device(reinterpret_cast<std::uintptr_t>(target.data()),
                                              values.data(), target.size_bytes()),
                "cuMemcpyHtoD", "in a test");
  };
  write(a.q_lens, q_lens);
  write(a.kv_lens, kv_lens);
  cuda::check(cuda::driver().stream_wait(nullptr), "cuStreamSynchronize", "in a test");
}

/// A run that a CUDA graph captured.
class Captured {
 public:
  Captured(const Plan& plan, const Arguments& arguments, const OwnStream& stream)
      : stream_(stream) {
    const cuda::CurrentContext context(0);
    const cuda::Driver& d = cuda::driver();
    cuda::check(d.capture_begin(stream.handle(), 0), "cuStreamBeginCapture", "in a test");
    plan.run(arguments, stream.stream());
    cuda::check(d.capture_end(stream.handle(), &graph_), "cuStreamEndCapture", "in a test");
    cuda::check(d.graph_instantiate(&exec_, graph_, 0), "cuGraphInstantiate", "in a test");
  }
  ~Captured() {
    cuda::driver().graph_exec_destroy(exec_);
    cuda::driver().graph_destroy(graph_);
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;

  void replay() const {
    cuda::check(cuda::driver().graph_launch(exec_, stream_.handle()), "cuGraphLaunch", "in a test");
    stream_.wait();
  }

 private:
  const OwnStream& stream_;
  cuda::Graph graph_ = nullptr;
  cuda::GraphExec exec_ = nullptr;
};

TEST_P(Gpu, AGraphReplaysWithOtherLengths) {
  for_each(mixed(), [](const Plan& plan) {
    const Problem& p = plan.problem();
    if (p.mask.kind == MaskKind::bits) return;  // bits belong to rows, which other lengths move
    if (p.prefix > 0) return;                   // which shorter requests do not have
    verify::Case eager_case(p, 5, verify::gpu_workspace(plan));
    verify::Case graph_case(p, 5, verify::gpu_workspace(plan));
    verify::DeviceCopy eager(eager_case, plan.device());
    verify::DeviceCopy graph(graph_case, plan.device());
    const OwnStream stream;
    const Captured captured(plan, graph.arguments(), stream);
    std::vector<std::int32_t> q_lens(p.q_len.begin(), p.q_len.end());
    std::vector<std::int32_t> kv_lens(p.kv_len.begin(), p.kv_len.end());
    for (int step = 0; step < 4; ++step) {
      SCOPED_TRACE(step);
      const Outputs before(graph_case);
      captured.replay();
      plan.run(eager.arguments(), Stream{});
      eager.bring_back();
      graph.bring_back();
      const Outputs after(graph_case);
      EXPECT_TRUE(after == Outputs(eager_case));
      EXPECT_EQ(graph_case.touched(), "");
      const std::int64_t used = std::accumulate(q_lens.begin(), q_lens.end(), std::int64_t{0});
      EXPECT_TRUE(after.same_from(used, p.total_q(), before)) << "rows that no request has";
      shorten(q_lens, kv_lens);
      write_lengths(eager.arguments(), q_lens, kv_lens);
      write_lengths(graph.arguments(), q_lens, kv_lens);
    }
  });
}

std::string refusal_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ErrorCode::invalid_argument));
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST_P(Gpu, RefusesBadArgumentsAndGoesOn) {
  const Plan plan = select(Problem::parse(mixed()[0]), Device::parse(kDevice), GetParam()).plan();
  verify::Case c(plan.problem(), 6, verify::gpu_workspace(plan));
  verify::DeviceCopy copy(c, plan.device());
  const Outputs before(c);
  Arguments on_host = copy.arguments();
  on_host.page_table.data = c.arguments().page_table.data;
  EXPECT_NE(refusal_of([&] { plan.run(on_host, Stream{}); }).find("page_table at 0x"),
            std::string::npos);
  Arguments misaligned = copy.arguments();
  misaligned.q.data = static_cast<std::byte*>(misaligned.q.data) + 1;
  EXPECT_NE(refusal_of([&] { plan.run(misaligned, Stream{}); }).find("q is not aligned"),
            std::string::npos);
  copy.bring_back();
  EXPECT_TRUE(Outputs(c) == before) << "nothing was written";
  expect_right(plan, 6);
}

std::vector<std::string> kernels() {
  std::vector<std::string> names;
  for (const KernelInfo& kernel : cuda::kernels()) names.emplace_back(kernel.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Kernels, Gpu, testing::ValuesIn(kernels()),
                         [](const auto& kernel) { return kernel.param; });

/// A case on the GPU whose lengths and page ids a test spoils, and what the check says of it.
class GpuCheck : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "there is no GPU";
  }

  static std::string finding(
      const char* text,
      const std::function<void(std::vector<std::int32_t>&, std::vector<std::int32_t>&)>& spoil,
      std::int32_t page_id = 0) {
    const Problem problem = Problem::parse(text);
    const Device device = Device::parse(kDevice);
    verify::Case c(problem, 7);
    const verify::DeviceCopy copy(c, device);
    std::vector<std::int32_t> q_lens(problem.q_len.begin(), problem.q_len.end());
    std::vector<std::int32_t> kv_lens(problem.kv_len.begin(), problem.kv_len.end());
    spoil(q_lens, kv_lens);
    write_lengths(copy.arguments(), q_lens, kv_lens);
    const cuda::CurrentContext context(0);
    if (page_id != 0) {
      const PageTable& table = copy.arguments().page_table;
      const auto second = reinterpret_cast<std::uintptr_t>(table.data + table.stride + 1);
      cuda::check(cuda::driver().copy_to_device(second, &page_id, sizeof page_id), "cuMemcpyHtoD",
                  "in a test");
    }
    const StreamCall call = make_stream_call(problem, copy.arguments(), 0, nullptr);
    try {
      cuda::check_run(device, call);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(GpuCheck, FindsWhatBreaksTheBounds) {
  using Lens = std::vector<std::int32_t>;
  const auto nothing = [](Lens&, Lens&) {};
  const char* const paged = "paged q=bf16 hq=2 d=64 q_len=3,2,1 kv_len=33,40,9";
  EXPECT_EQ(finding(paged, nothing), "");
  EXPECT_EQ(finding(paged, [](Lens& q, Lens&) { q[1] = 4; }),
            "q_lens[1]=4: must be from 0 to the plan's 3");
  EXPECT_EQ(finding(paged, [](Lens& q, Lens& kv) { kv[1] = q[2] = -1; }),
            "kv_lens[1]=-1: must be from 0 to the plan's 40");
  EXPECT_EQ(finding(paged,
                    [](Lens& q, Lens&) {
                      q = {3, 3, 1};
                    })
                .substr(0, 33),
            "q_lens sum to more than the 6 row");
  for (const std::int32_t id : {-1, 1 << 30}) {
    EXPECT_EQ(finding(paged, nothing, id).find("page_table[1][1]=" + std::to_string(id) + ": must"),
              0u)
        << finding(paged, nothing, id);
  }
  const char* const prefix = "paged q=bf16 hq=2 d=64 prefix=32 q_len=0,2,1 kv_len=3,40,39";
  EXPECT_EQ(finding(prefix, nothing), "");
  EXPECT_EQ(
      finding(prefix, [](Lens&, Lens& kv) { kv[2] = 31; }),
      "kv_lens[2]=31 with q_lens[2]=1: queries begin at 30, in the plan's prefix of 32 tokens");
  const auto is_found = [&](std::int32_t id) {  // unless it is the page that they share
    return finding(prefix, nothing, id).find("page that all share, ") != std::string::npos;
  };
  EXPECT_TRUE(is_found(1) || is_found(2));
  const char* const ragged = "ragged q=bf16 hq=2 d=64 q_len=3,2,1 kv_len=33,40,9";
  EXPECT_EQ(finding(ragged, nothing), "");
  EXPECT_EQ(finding(ragged, [](Lens&, Lens& kv) { kv[2] = 10; }),
            "k and v have 82 tokens: kv_lens sum to more, with kv_lens[2]=10");
  EXPECT_EQ(
      finding("packed q=bf16 hq=2 d=64 q_len=3,4 kv_len=3,4", [](Lens& q, Lens&) { q[1] = 3; }),
      "kv_lens[1]=4: must equal q_lens[1]=3 in packed layout");
}

}  // namespace
}  // namespace octavo::tests
