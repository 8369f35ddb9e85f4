#include <gtest/gtest.h>

#include <cstdio>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "core/kernel.h"
#include "octavo/octavo.h"
#include "verify/random.h"
#include "verify/verify.h"

namespace octavo::tests {
namespace {

struct Place {
  Layout layout;
  PageOrder order = PageOrder::nhd;
  Pool pool = Pool::joint;
};
constexpr Place kPlaces[] = {
    {Layout::paged, PageOrder::nhd, Pool::joint},
    {Layout::paged, PageOrder::nhd, Pool::split},
    {Layout::paged, PageOrder::hnd, Pool::joint},
    {Layout::paged, PageOrder::hnd, Pool::split},
    {Layout::ragged},
    {Layout::contiguous},
    {Layout::packed},
};
constexpr std::int64_t kPageSizes[] = {1, 7, 16};

struct Types {
  DType q, kv, out;
};
constexpr Types kTypes[] = {
    {DType::f32, DType::f32, DType::f32},    {DType::f16, DType::f16, DType::f16},
    {DType::bf16, DType::bf16, DType::bf16}, {DType::bf16, DType::bf16, DType::f32},
    {DType::f32, DType::bf16, DType::f16},   {DType::bf16, DType::e4m3, DType::bf16},
    {DType::f16, DType::e5m2, DType::f16},   {DType::e4m3, DType::e4m3, DType::bf16},
    {DType::e4m3, DType::e4m3, DType::e4m3}, {DType::e5m2, DType::e5m2, DType::e5m2},
};

struct Heads {
  std::int64_t hq, hkv;
};
constexpr Heads kHeads[] = {{1, 1}, {3, 1}, {4, 2}, {10, 2}, {6, 1}, {14, 2}};

struct Dims {
  std::int64_t d, dv;
};
constexpr Dims kDims[] = {{4, 4}, {8, 8}, {33, 33}, {64, 64}, {128, 128}, {72, 40}, {192, 128}};

constexpr Mask kMasks[] = {
    {MaskKind::none},
    {MaskKind::causal},
    {.kind = MaskKind::window, .left = 7, .right = 0},
    {.kind = MaskKind::window, .left = -1, .right = 3},
    {.kind = MaskKind::chunked, .chunk = 7},
    {MaskKind::bits},
};

void scale_all(Problem& p, ScaleKind kind) {
  p.q_scale = p.k_scale = p.v_scale = p.out_scale = kind;
}

constexpr void (*kFeatures[])(Problem&) = {
    [](Problem&) {},
    [](Problem& p) { p.sinks = true; },
    [](Problem& p) { p.alibi = p.lse = true; },
    [](Problem& p) { p.cap = 5; },
    [](Problem& p) { p.scale = 0.25; },
    [](Problem& p) { scale_all(p, ScaleKind::tensor); },
    [](Problem& p) { scale_all(p, ScaleKind::head); },
    [](Problem& p) { p.lse = p.invariant = true; },
    [](Problem& p) { p.split = 16; },
    [](Problem& p) {
      p.cap = 30;
      p.sinks = p.alibi = p.lse = p.invariant = true;
      p.k_scale = ScaleKind::head;
      p.split = 7;
    },
};

struct Lengths {
  std::vector<std::int64_t> q, kv;
};
const Lengths kLengths[] = {
    {{1}, {9}},
    {{8}, {9}},
    {{17}, {17}},
    {{7}, {0}},
    {{16}, {15}},
    {{1}, {33}},
    {{3, 1, 0}, {3, 17, 5}},
    {{9, 1}, {9, 1}},
};

/// Takes a digit off a mixed-radix number, and with it an element of an axis.
template <typename Axis>
const auto& pick(std::int64_t& index, const Axis& axis) {
  const auto digit = static_cast<std::size_t>(index) % std::size(axis);
  index /= static_cast<std::int64_t>(std::size(axis));
  return axis[digit];
}

/// The index-th combination of all axes.
struct Combination {
  Problem problem;
  bool is_new = true;     ///< not a repetition
  bool has_sense = true;  ///< what `validate` has to say

  explicit Combination(std::int64_t index) {
    Problem& p = problem;
    const Place& place = pick(index, kPlaces);
    const std::int64_t& page_size = pick(index, kPageSizes);
    const Types& types = pick(index, kTypes);
    const Heads& heads = pick(index, kHeads);
    const Dims& dims = pick(index, kDims);
    p.mask = pick(index, kMasks);
    const auto& feature = pick(index, kFeatures);
    const Lengths& lengths = pick(index, kLengths);
    p.layout = place.layout;
    p.order = place.order;
    p.pool = place.pool;
    p.q = types.q;
    p.kv = types.kv;
    p.out = types.out;
    p.hq = heads.hq;
    p.hkv = heads.hkv;
    p.d = dims.d;
    p.dv = dims.dv;
    p.q_len = lengths.q;
    p.kv_len = lengths.kv;
    feature(p);
    if (p.layout == Layout::paged) {
      p.page_size = page_size;
    } else {
      is_new = page_size == kPageSizes[0];
    }
    const bool shared = p.layout == Layout::contiguous || p.layout == Layout::packed ||
                        (p.layout == Layout::paged && p.pool == Pool::joint);
    has_sense = (!shared || p.d == p.dv) &&
                (p.layout != Layout::packed || (p.q == p.kv && p.q_len == p.kv_len));
  }

  static constexpr std::int64_t count() {
    return static_cast<std::int64_t>(
        std::size(kPlaces) * std::size(kPageSizes) * std::size(kTypes) * std::size(kHeads) *
        std::size(kDims) * std::size(kMasks) * std::size(kFeatures) * std::size(kLengths));
  }
};

/// A uniform sample, of fixed size, of the problems that a kernel accepts.
struct Reservoir {
  static constexpr std::size_t kSize = 5000;
  std::string kernel;
  std::int64_t accepted = 0;
  std::vector<std::int64_t> indices;

  void add(std::int64_t index, verify::Random& random) {
    ++accepted;
    if (indices.size() < kSize) {
      indices.push_back(index);
      return;
    }
    const auto slot = static_cast<std::size_t>(random.integer(0, accepted - 1));
    if (slot < kSize) indices[slot] = index;
  }
};

bool is_valid(const Problem& problem) {
  try {
    validate(problem);
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// An invariant problem must have the same kernels, and the same winner, at all lengths.
bool lengths_decide(const Selection& selection, Problem problem, const Device& device) {
  problem.q_len = problem.kv_len = {4096};
  const Selection other = select(problem, device);
  for (std::size_t k = 0; k < selection.candidates().size(); ++k) {
    const bool can = selection.candidates()[k].reasons.empty();
    if (can != other.candidates()[k].reasons.empty()) return true;
  }
  return selection.kernel() != other.kernel();
}

constexpr std::uint64_t kSeed = 20260117;

/// Selects for every combination; fills a reservoir for each kernel of the table.
std::vector<Reservoir> enumerate(const Device& device, std::int64_t& valid) {
  std::vector<Reservoir> reservoirs;
  for (const std::string& kernel : kernel_names(device)) reservoirs.push_back({kernel, 0, {}});
  verify::Random random(kSeed);
  for (std::int64_t index = 0; index < Combination::count(); ++index) {
    const Combination combination(index);
    if (!combination.is_new) continue;
    const Problem& problem = combination.problem;
    if (is_valid(problem) != combination.has_sense) {
      ADD_FAILURE() << "validate is wrong about " << problem.to_string();
      return {};
    }
    if (!combination.has_sense) continue;
    ++valid;
    const Selection selection = select(problem, device);
    const Candidate* best = nullptr;
    for (std::size_t k = 0; k < reservoirs.size(); ++k) {
      const Candidate& candidate = selection.candidates()[k];
      if (!candidate.reasons.empty()) continue;
      reservoirs[k].add(index, random);
      if (best == nullptr || candidate.cost_us < best->cost_us) best = &candidate;
    }
    if (best == nullptr || selection.kernel() != best->kernel->name) {
      ADD_FAILURE() << selection.to_string();
      return {};
    }
    if (problem.invariant && lengths_decide(selection, problem, device)) {
      ADD_FAILURE() << "at other lengths other kernels: " << selection.to_string();
      return {};
    }
  }
  return reservoirs;
}

TEST(Enumeration, EveryValidProblemSelectsAndKernelsAreRightOnASample) {
  const Device device = Device::cpu();
  std::int64_t valid = 0;
  const std::vector<Reservoir> reservoirs = enumerate(device, valid);
  std::printf("%lld valid problems\n", static_cast<long long>(valid));
  EXPECT_GT(valid, 1'000'000);
  ASSERT_FALSE(reservoirs.empty());
  EXPECT_EQ(reservoirs.back().accepted, valid) << reservoirs.back().kernel << " refused some";

  ThreadPool pool(1);
  for (const Reservoir& reservoir : reservoirs) {
    std::printf("%s accepts %lld\n", reservoir.kernel.c_str(),
                static_cast<long long>(reservoir.accepted));
    // A kernel for instructions that this processor lacks refuses everything.
    if (reservoir.accepted == 0) continue;
    EXPECT_EQ(reservoir.indices.size(), Reservoir::kSize) << reservoir.kernel;
    for (const std::int64_t index : reservoir.indices) {
      const Problem problem = Combination(index).problem;
      const auto seed = kSeed + static_cast<std::uint64_t>(index);
      const verify::Result result =
          verify::verify(select(problem, device, reservoir.kernel).plan(), seed, pool);
      ASSERT_TRUE(result.passed) << "octavo verify '" << problem.to_string() << "' --kernel "
                                 << reservoir.kernel << " --seed " << seed << "\n"
                                 << result.failure;
    }
  }
}

}  // namespace
}  // namespace octavo::tests
