// Real compilers on the kernels' real sources. Skipped where there is none.
#include <gtest/gtest.h>

#include <iterator>
#include <map>

#include "core/text.h"
#include "cuda/pack.h"
#include "cuda/table.h"
#include "fake_compiler.h"
#include "octavo/executor.h"

namespace octavo::cuda {

namespace {

/// A store with an empty pack and cache, and compilers of one kind as the environment has them.
class RealCompiler {
 public:
  /// Of nvcc or nvrtc.
  explicit RealCompiler(const std::string& kind) {
    settings_.pack = folder_.path() / "pack";
    settings_.cache = folder_.path() / "cache";
    (kind == "nvcc" ? settings_.compilers.nvrtc : settings_.compilers.nvcc).clear();
  }
  /// Why there is no compiler; empty if there is.
  std::string missing() const {
    try {
      find_compiler(settings_.compilers);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  CodeStore store() const { return CodeStore(settings_); }
  CodeStore store_of(std::span<const EmbeddedFile> sources) const {
    StoreSettings settings = settings_;
    settings.sources = sources;
    return CodeStore(settings);
  }

 private:
  ScratchFolder folder_;
  StoreSettings settings_ = StoreSettings::from_environment();
};

class CudaCompile : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (const std::string why = compiler.missing(); !why.empty()) GTEST_SKIP() << why;
  }
  const RealCompiler compiler{GetParam()};
};

/// Of each source one variant. Those of all architectures and both compilers, which are numbered
/// `turn`, are spread from the first to the last.
std::vector<Variant> spread(std::size_t turn, int architecture) {
  constexpr std::size_t kLastTurn = 2 * std::size(kArchitectures) - 1;
  std::map<std::string, std::vector<Variant>> by_source;
  for (const Variant& variant : default_variants(architecture)) {
    by_source[variant.source].push_back(variant);
  }
  std::vector<Variant> some;
  some.reserve(by_source.size());
  for (const auto& [source, variants] : by_source) {
    some.push_back(variants[turn * (variants.size() - 1) / kLastTurn]);
  }
  return some;
}

TEST_P(CudaCompile, EveryKernelForEveryArchitecture) {
  std::vector<std::pair<Variant, int>> jobs;
  std::size_t turn = GetParam() == "nvcc" ? 0 : 1;
  for (const int architecture : kArchitectures) {
    for (const Variant& variant : spread(turn, architecture)) {
      jobs.emplace_back(variant, architecture);
    }
    turn += 2;
  }
  const CodeStore store = compiler.store();
  default_executor().parallel_for(static_cast<std::int64_t>(jobs.size()), [&](std::int64_t i) {
    const auto& [variant, architecture] = jobs[i];
    const std::string code = text_of(store.cubin(variant, architecture));
    EXPECT_NE(code.find(variant.entry), std::string::npos)
        << describe(variant, architecture) << " has no entry " << variant.entry;
  });
}

TEST_P(CudaCompile, TheSameSourceMakesTheSameCode) {
  const std::string code = text_of(compiler.store_of(kToySources).cubin(toy(), 90));
  EXPECT_EQ(text_of(RealCompiler(GetParam()).store_of(kToySources).cubin(toy(), 90)), code);
  EXPECT_NE(text_of(compiler.store_of(kToySources).cubin(toy("3"), 90)), code);
}

TEST_P(CudaCompile, ItsErrorsAreQuoted) {
  const std::string why = refusal(compiler.store_of(kToySources), toy("nothing"));
  EXPECT_NE(why.find("\"nothing\" is undefined"), std::string::npos) << why;
  EXPECT_NE(why.find("factor.h"), std::string::npos) << why;
}

TEST_P(CudaCompile, AnArchitectureThatItDoesNotKnowIsAnError) {
  EXPECT_THROW(compiler.store_of(kToySources).cubin(toy(), 30), Error);
}

/// Keeps more values alive than a thread has registers.
constexpr EmbeddedFile kSpilling[] = {
    {"toy/spill.cu",
     "extern \"C\" __global__ __launch_bounds__(1024, 2) void spill(float* p, int n) {\n"
     "  float values[64];\n"
     "#pragma unroll\n"
     "  for (int i = 0; i < 64; ++i) values[i] = p[i * n];\n"
     "  __syncthreads();\n"
     "#pragma unroll\n"
     "  for (int i = 0; i < 64; ++i) p[(63 - i) * n] = values[i] * values[(i + 17) % 64];\n"
     "}\n"}};

TEST_P(CudaCompile, SpillsAreSeen) {
  const CodeStore store = compiler.store_of(kSpilling);
  Variant variant{.source = "toy/spill.cu", .entry = "spill", .definitions = {}};
  const std::string why = refusal(store, variant);
  EXPECT_NE(why.find("registers spill"), std::string::npos) << why;
  variant.may_spill = true;
  EXPECT_EQ(refusal(store, variant), "");
}

INSTANTIATE_TEST_SUITE_P(, CudaCompile, testing::Values("nvcc", "nvrtc"),
                         [](const auto& kind) { return kind.param; });

TEST(CudaPack, HoldsVariantsOfEveryKernel) {
  for (const int architecture : kArchitectures) {
    for (const KernelInfo& kernel : kernels()) {
      const bool exists = kernel.name != "cuda_sm90" || architecture == 90;
      EXPECT_EQ(!default_variants(architecture, kernel.name).empty(), exists)
          << kernel.name << " on sm_" << architecture;
    }
  }
}

TEST(CudaPack, OfAProblemHoldsWhatTheNamedKernelNeeds) {
  const Problem problem = Problem::parse("paged q=bf16 kv=bf16 hq=2 hkv=1 d=64 q_len=9 kv_len=9");
  const std::vector<Variant> variants = needed_variants(problem, 90, "cuda_reference");
  ASSERT_EQ(variants.size(), 1u);
  EXPECT_EQ(variants[0].source, "reference/attend.cu");
  EXPECT_THROW(needed_variants(problem, 90, "cuda_none"), Error);
  EXPECT_THROW(needed_variants(problem, 70, "cuda_reference"), Error);
}

}  // namespace
}  // namespace octavo::cuda
