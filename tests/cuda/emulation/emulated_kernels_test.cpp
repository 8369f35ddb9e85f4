#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/arguments.h"
#include "cuda/kernels.h"
#include "emulated.h"
#include "problems.h"
#include "verify/case.h"
#include "verify/verify.h"

namespace octavo::emulation {
namespace {

using Texts = std::vector<std::string>;

Device device_with(int shared_kib) {
  Device device;
  device.id = "cuda:0";
  device.name = "Emulated";
  device.capability = 80;
  device.multiprocessors = 132;
  device.shared_per_block = shared_kib * 1024;
  device.l2_bytes = 50 << 20;
  device.memory_gbs = 3350;
  return device;
}

const Device kLarge = device_with(227);
const Device kLittle = device_with(99);

Device hopper() {
  Device device = kLarge;
  device.capability = 90;
  return device;
}

// It encodes tensor maps, which the emulation reads.
const bool kHasDriver = setenv("OCTAVO_LIBCUDA", FAKE_DRIVER_FILE, 1) == 0;

/// Null where the kernel refuses the problem, or a variant that it needs was not emulated.
std::shared_ptr<const StreamKernel> load(const KernelInfo& info, const Problem& problem,
                                         const Device& device) {
  if (!info.supports(problem, device).reasons().empty()) return nullptr;
  try {
    return info.load(problem, device);
  } catch (const NotEmulated&) {
    return nullptr;
  }
}

verify::Workspace workspace_of(const StreamKernel& kernel) {
  return {kernel.workspace(), 256, false};
}

/// Runs a kernel that was loaded for `planned`.
void run(const StreamKernel& kernel, const Problem& planned, const Arguments& arguments) {
  const StreamCall call = make_stream_call(planned, arguments, kernel.workspace(), nullptr);
  if (call.requests > 0 && call.rows > 0) kernel.launch(call);
}

/// How many of the problems were covered: those are right, at the second run too, which finds what
/// the first one left in its workspace.
std::size_t run_all(const KernelInfo& info, const Texts& problems, const Device& device) {
  std::size_t covered = 0;
  for (const std::string& text : problems) {
    const Problem problem = Problem::parse(text);
    const auto kernel = load(info, problem, device);
    if (kernel == nullptr) continue;
    ++covered;
    verify::Case c(problem, 1, workspace_of(*kernel));
    for (int i = 0; i < (kernel->workspace() > 0 ? 2 : 1); ++i) {
      run(*kernel, problem, c.arguments());
      const verify::Result result = verify::compare(c, info.weights);
      EXPECT_TRUE(result.passed) << info.name << ", run " << i << " of " << text << ": "
                                 << result.failure;
    }
  }
  std::cout << info.name << ": " << covered << " problems, " << problems.size() - covered
            << " not covered\n";
  return covered;
}

Texts smoke_and_regressions() {
  Texts problems = tests::smoke();
  const Texts& more = tests::regressions();
  problems.insert(problems.end(), more.begin(), more.end());
  return problems;
}

TEST(EmulatedKernels, ReferenceIsRight) {
  Texts problems = tests::smoke();
  std::erase_if(problems, [](const std::string& text) {  // lanes meet for each element: slow
    return Problem::parse(text).d > 72;
  });
  EXPECT_GE(problems.size(), 50u);
  EXPECT_EQ(run_all(cuda::reference(), problems, kLarge), problems.size());
}

TEST(EmulatedKernels, PortableIsRight) {
  EXPECT_GE(run_all(cuda::portable(), smoke_and_regressions(), kLarge), 52u);
}

TEST(EmulatedKernels, PortableIsRightOnEachTile) {
  const Texts problems = {
      // Requests of 16, 64 and 128 rows in a batch, whole and split.
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal lse q_len=1,30,70 kv_len=129,65,150",
      "paged q=bf16 hq=4 hkv=2 d=64 page=7 mask=causal split=64 lse q_len=70,1,30 kv_len=150,97,70",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=window:70,0 split=64 sinks lse q_len=66,0 kv_len=200,9",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=bits split=64 alibi lse q_len=2,33 kv_len=131,70",
      // Splits that follow from the lengths.
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal lse q_len=1,1,2 kv_len=1100,20,530",
      "paged q=bf16 hq=2 hkv=1 d=64 page=64 mask=causal lse q_len=33 kv_len=2100",
      // A split whose keys only a tile's first rows see.
      "paged q=bf16 hq=2 hkv=2 d=128 mask=window:100,0 split=80 lse q_len=192,200 kv_len=362,290",
      // Invariant ones.
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal invariant lse q_len=1,70 kv_len=90,71",
      "packed q=bf16 hq=4 hkv=2 d=64 mask=chunked:33 invariant lse q_len=65,0,5 kv_len=65,0,5",
      // Other types, caps and dims.
      "paged q=bf16 kv=e4m3 hq=8 hkv=2 d=64 mask=causal split=64 k_scale=head q_len=3 kv_len=150",
      "paged q=e4m3 hq=4 hkv=2 d=64 mask=window:20,0 lse q_len=5 kv_len=70",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=window:40,0 cap=5 sinks alibi lse q_len=7 kv_len=100",
      "paged q=bf16 hq=4 hkv=1 d=128 mask=causal lse q_len=33 kv_len=1200",
      "ragged q=bf16 hq=8 hkv=2 d=64 dv=32 mask=none split=32 lse q_len=4,1 kv_len=75,0",
  };
  EXPECT_EQ(run_all(cuda::portable(), problems, kLarge), problems.size());
}

TEST(EmulatedKernels, HopperIsRight) {
  EXPECT_GE(run_all(cuda::sm90(), smoke_and_regressions(), hopper()), 20u);
}

TEST(EmulatedKernels, FewRowsOnHopperAreRight) {
  const Texts problems = {
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal lse q_len=1,4,8,0 kv_len=129,65,150,9",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=none lse q_len=1,1,2 kv_len=1100,20,530",
      "paged pool=split order=hnd page=32 q=bf16 hq=4 hkv=1 d=64 mask=causal q_len=1 kv_len=700",
      "paged q=bf16 hq=4 hkv=2 d=64 page=7 mask=causal split=64 lse q_len=7,1,3 kv_len=150,97,70",
      "paged q=bf16 hq=4 hkv=2 d=64 page=8 mask=window:70,0 split=64 sinks q_len=6,0 kv_len=200,9",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=bits split=64 alibi lse q_len=2,3 kv_len=131,70",
      "ragged q=bf16 hq=8 hkv=2 d=40 mask=chunked:33 cap=5 lse q_len=4,1 kv_len=275,0",
      "ragged q=bf16 hq=4 hkv=2 d=33 mask=causal q_len=3 kv_len=70",
      // More items than thread blocks that stay.
      "ragged q=bf16 hq=4 hkv=4 d=64 mask=causal split=64 b=12 q_len=1 kv_len=600",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal b=150 q_len=1 kv_len=9",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal split=64 b=37 q_len=1 kv_len=200",
      "paged q=bf16 hq=4 hkv=1 d=128 mask=causal lse q_len=3 kv_len=1200",
      "paged q=bf16 hq=4 hkv=4 d=192 dv=128 mask=causal lse q_len=1,3 kv_len=300,90",
      // fp8.
      "paged q=bf16 kv=e4m3 hq=4 hkv=2 d=128 mask=causal lse q_len=1,4,8,0 kv_len=129,65,1150,9",
      ("paged q=bf16 kv=e4m3 hq=7 hkv=1 d=128 page=7 mask=causal k_scale=head v_scale=head "
       "split=128 q_len=2,1 kv_len=150,300"),
      "paged order=hnd q=bf16 kv=e4m3 hq=4 hkv=2 d=64 mask=causal sinks q_len=3,1 kv_len=700,33",
      "ragged q=bf16 kv=e4m3 hq=8 hkv=2 d=40 mask=window:70,0 split=128 lse q_len=4,1 kv_len=275,0",
      "ragged q=bf16 kv=e4m3 hq=8 hkv=2 d=120 mask=causal v_scale=tensor q_len=4,2 kv_len=275,131",
  };
  EXPECT_EQ(run_all(cuda::sm90(), problems, hopper()), problems.size());
}

TEST(EmulatedKernels, HopperTakesFp8OfFewRowsThatNeedNotBeInvariant) {
  const auto reasons = [](const std::string& rest) {
    const Problem p = Problem::parse("paged q=bf16 hq=8 hkv=2 d=64 mask=causal " + rest);
    return cuda::sm90().supports(p, hopper()).reasons().size();
  };
  EXPECT_EQ(reasons("kv=e4m3 q_len=4 kv_len=100"), 0u);
  EXPECT_EQ(reasons("kv=e4m3 q_len=1,5 kv_len=100,100"), 1u);
  EXPECT_EQ(reasons("kv=e4m3 invariant q_len=1 kv_len=100"), 1u);
  EXPECT_EQ(reasons("kv=bf16 invariant q_len=5 kv_len=100"), 0u);
}

TEST(EmulatedKernels, GroupsOfSplitsHaveTheSameBitsInOneGo) {
  Device device = hopper();
  device.multiprocessors = 4;  // which a request alone fills, and 8 have groups as items
  const Problem problem = Problem::parse(
      "paged q=bf16 out=f32 hq=4 hkv=2 d=64 mask=causal lse q_len=1,1,1,1,1,1,1,1 "
      "kv_len=6100,2000,2000,2000,2000,2000,2000,2000");  // the first: two groups of two splits
  const auto kernel = load(cuda::sm90(), problem, device);
  ASSERT_NE(kernel, nullptr);
  const verify::Case together(problem, 1, workspace_of(*kernel));
  run(*kernel, problem, together.arguments());
  EXPECT_TRUE(verify::compare(together, cuda::sm90().weights).passed);
  const verify::Case alone(problem, 1, workspace_of(*kernel));
  Arguments first = alone.arguments();
  first.q_lens = first.q_lens.first(1);
  first.kv_lens = first.kv_lens.first(1);
  run(*kernel, problem, first);
  for (std::int64_t head = 0; head < problem.hq; ++head) {
    EXPECT_EQ(together.lse(0, head), alone.lse(0, head)) << head;
    for (std::int64_t c = 0; c < problem.dv; ++c) {
      ASSERT_EQ(together.out(0, head, c), alone.out(0, head, c)) << head;
    }
  }
}

TEST(EmulatedKernels, ManyRowsOnHopperAreRight) {
  const Texts problems = {
      // Requests of 16, 64 and 192 rows in a batch, whole and split.
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal lse q_len=1,30,170 kv_len=129,65,350",
      ("paged q=bf16 hq=4 hkv=2 d=64 page=7 mask=causal split=64 lse q_len=70,1,130 "
       "kv_len=150,97,170"),
      "paged q=bf16 hq=4 hkv=2 d=64 mask=window:70,0 split=128 sinks lse q_len=66,0 kv_len=300,9",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=bits alibi lse q_len=2,33,100 kv_len=331,70,140",
      "ragged q=bf16 hq=6 hkv=2 d=64 mask=causal lse q_len=200,20 kv_len=220,300",
      "paged q=bf16 hq=2 hkv=2 d=64 mask=none lse q_len=220,50 kv_len=260,300",
      "paged q=bf16 hq=2 hkv=1 d=128 mask=causal lse q_len=120,20 kv_len=330,97",
      // A split whose keys only a tile's first rows see.
      "paged q=bf16 hq=2 hkv=2 d=128 mask=window:100,0 split=80 lse q_len=192,200 kv_len=362,290",
      // Invariant ones.
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal invariant lse q_len=1,70 kv_len=90,71",
      "packed q=bf16 hq=4 hkv=2 d=64 mask=chunked:33 invariant lse q_len=65,0,5 kv_len=65,0,5",
      // More items than thread blocks that stay.
      "packed q=bf16 hq=4 hkv=4 d=64 mask=causal split=128 b=40 q_len=20 kv_len=20",
  };
  EXPECT_EQ(run_all(cuda::sm90(), problems, hopper()), problems.size());
}

TEST(EmulatedKernels, ShortRequestsOnHopperAreRight) {
  const Texts problems = {
      "paged q=bf16 hq=14 hkv=2 d=64 mask=causal lse q_len=64,9,0,64 kv_len=64,9,0,64",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal lse q_len=1,30,70,12 kv_len=128,65,90,3",
      "paged q=bf16 hq=4 hkv=2 d=64 page=7 mask=causal lse q_len=70,1,30 kv_len=120,97,70",
      "paged pool=split order=hnd page=32 q=bf16 hq=6 hkv=2 d=64 mask=causal q_len=33 kv_len=47",
      "paged q=bf16 hq=4 hkv=2 d=64 page=8 mask=window:20,0 sinks lse q_len=66,17 kv_len=97,9",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=bits alibi lse q_len=2,33,100 kv_len=90,70,117",
      "paged q=bf16 hq=2 hkv=2 d=64 mask=none lse q_len=70,50,3 kv_len=100,128,0",
      "ragged q=bf16 hq=3 hkv=1 d=40 mask=chunked:33 cap=5 lse q_len=7,15,16 kv_len=75,15,33",
      "ragged q=bf16 hq=4 hkv=2 d=33 mask=causal q_len=33 kv_len=65",
      "packed q=bf16 hq=4 hkv=4 d=64 mask=causal b=40 q_len=20 kv_len=20",
      "contiguous q=bf16 out=f32 hq=10 hkv=2 d=64 mask=causal lse q_len=17,5 kv_len=17,200",
      "paged q=bf16 hq=4 hkv=1 d=96 mask=causal lse q_len=33,8 kv_len=120,88",
      "paged q=bf16 hq=4 hkv=4 d=192 dv=128 mask=causal lse q_len=20,3 kv_len=60,9",
  };
  EXPECT_EQ(run_all(cuda::sm90(), problems, hopper()), problems.size());
}

TEST(EmulatedKernels, ThreadBlocksOfShortRequestsTakeSeveralTilesOfRows) {
  Device device = hopper();
  device.multiprocessors = 1;  // so that there is not room for all blocks at a time
  const Texts problems = {
      // One tile for each warpgroup, and more.
      "paged q=bf16 hq=2 hkv=2 d=96 mask=causal lse q_len=100,128,65 kv_len=100,128,99",
      "paged q=bf16 hq=16 hkv=1 d=96 mask=causal lse q_len=64,9,0,64,33 kv_len=64,9,0,128,64",
      "paged q=bf16 hq=4 hkv=2 d=80 page=7 mask=causal lse q_len=199,170,64 kv_len=99,33,128",
      "paged order=hnd q=bf16 hq=8 hkv=2 d=96 page=8 mask=window:20,0 lse b=3 q_len=70 kv_len=97",
      "paged q=bf16 hq=8 hkv=2 d=96 mask=causal lse q_len=220,65,0,170 kv_len=220,33,9,256",
      "ragged q=bf16 hq=6 hkv=3 d=96 mask=none lse q_len=200,165,70 kv_len=110,0,64",
      // Values that no row sees are NaN.
      "paged q=bf16 hq=4 hkv=2 d=96 mask=bits lse q_len=200,165,170 kv_len=120,33,64",
      "paged q=bf16 hq=4 hkv=2 d=96 page=5 mask=bits alibi lse q_len=200,165,170 kv_len=120,33,64",
  };
  EXPECT_EQ(run_all(cuda::sm90(), problems, device), problems.size());
}

TEST(EmulatedKernels, CascadeIsRight) {
  const Texts problems = {
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal lse prefix=32 q_len=1,1,1 kv_len=33,49,64",
      ("paged q=bf16 hq=4 hkv=2 d=64 page=7 mask=causal sinks lse prefix=35 q_len=0,9,2 "
       "kv_len=9,60,36"),
      "paged q=bf16 hq=4 hkv=1 d=64 mask=causal prefix=1040 q_len=1,2,1 kv_len=1100,1060,1040",
      "paged q=f32 hq=3 hkv=1 d=40 mask=none cap=5 prefix=64 q_len=1,0,5 kv_len=64,9,80",
      ("paged order=hnd q=bf16 hq=8 hkv=2 d=64 mask=chunked:90 k_scale=head out_scale=tensor "
       "split=64 prefix=80 q_len=3,1 kv_len=90,83"),
      "paged q=f32 out=e4m3 hq=2 d=24 mask=window:-1,3 lse prefix=16 q_len=0,0 kv_len=16,16",
  };
  EXPECT_EQ(run_all(cuda::cascade(), problems, kLarge), problems.size());
}

TEST(EmulatedKernels, CascadeIsCheaperWhereManyShareMuch) {
  const auto kernels = [](const std::string& rest) {
    const Problem p = Problem::parse("paged q=bf16 hq=32 hkv=8 d=128 mask=causal " + rest);
    return std::pair(cuda::cascade().cost_us(p, kLarge), cuda::portable().cost_us(p, kLarge));
  };
  const auto [cascade, whole] = kernels("b=64 q_len=1 kv_len=8256 prefix=8192");
  EXPECT_LT(cascade, whole / 2);
  const auto [little_cascade, little_whole] = kernels("b=64 q_len=1 kv_len=80 prefix=16");
  EXPECT_GT(little_cascade, little_whole);
}

TEST(EmulatedKernels, PortableIsRightWithLittleSharedMemory) {
  const Texts problems = {
      "paged q=bf16 hq=4 hkv=2 d=128 mask=none invariant lse q_len=1,33 kv_len=70,100"};
  EXPECT_EQ(run_all(cuda::portable(), problems, kLittle), problems.size());
  EXPECT_EQ(run_all(cuda::portable(), problems, kLarge), 0u) << "its tile has more keys there";
}

TEST(EmulatedKernels, InvariantRowsHaveTheSameBitsInChunks) {
  constexpr std::int64_t kBefore = 67;  // query tokens of the first chunk; few are left
  const Problem problem =
      Problem::parse("paged q=bf16 hq=4 hkv=2 d=64 mask=causal invariant lse q_len=73 kv_len=130");
  const auto kernel = load(cuda::portable(), problem, kLarge);
  ASSERT_NE(kernel, nullptr);
  const verify::Case whole(problem, 1, workspace_of(*kernel));
  const verify::Case chunked(problem, 1, workspace_of(*kernel));
  run(*kernel, problem, whole.arguments());

  Arguments chunk = chunked.arguments();
  std::int32_t q_len = kBefore;
  std::int32_t kv_len = 130 - 73 + kBefore;
  chunk.q_lens = {&q_len, 1};
  chunk.kv_lens = {&kv_len, 1};
  run(*kernel, problem, chunk);
  const auto skip = [&](auto& view, std::size_t element_bytes) {
    view.data = reinterpret_cast<std::byte*>(view.data) +
                kBefore * view.stride[0] * static_cast<std::int64_t>(element_bytes);
    view.shape[0] -= kBefore;
  };
  skip(chunk.q, size_of(problem.q));
  skip(chunk.out, size_of(problem.out));
  skip(chunk.lse, sizeof(float));
  q_len = 73 - kBefore;
  kv_len = 130;
  run(*kernel, problem, chunk);
  for (std::int64_t token = 0; token < 73; ++token) {
    for (std::int64_t head = 0; head < problem.hq; ++head) {
      EXPECT_EQ(whole.lse(token, head), chunked.lse(token, head)) << token;
      for (std::int64_t c = 0; c < problem.dv; ++c) {
        ASSERT_EQ(whole.out(token, head, c), chunked.out(token, head, c)) << token;
      }
    }
  }
}

}  // namespace
}  // namespace octavo::emulation
