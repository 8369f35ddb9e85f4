#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "cpu/table.h"
#include "cuda/table.h"
#include "device_run.h"
#include "octavo/octavo.h"
#include "verify/case.h"
#include "verify/random.h"

namespace octavo::tests {
namespace {

/// A case of which any part can be run, and the bits that runs gave.
class Subject {
 public:
  Subject(const Problem& problem, std::uint64_t seed)
      : case_(problem, seed),
        arguments_(case_.arguments()),
        out_(static_cast<std::size_t>(case_.total_q() * out_row())),
        lse_(static_cast<std::size_t>(case_.total_q() * problem.hq)) {
    take();
  }

  /// All requests at once.
  void run(const Plan& plan, Executor& executor) {
    Arguments a = arguments_;
    write_from(0, a);
    run_on_device(plan, a, executor);
  }

  /// Query rows [first, first + count) of request r alone, with its first kv_len keys.
  void run_part(const Plan& plan, Executor& executor, std::int64_t r, std::int64_t first,
                std::int64_t count, std::int64_t kv_len) {
    const auto q_lens = {static_cast<std::int32_t>(count)};
    const auto kv_lens = {static_cast<std::int32_t>(kv_len)};
    const std::int64_t row = case_.first_q(r) + first;
    Arguments a = arguments_;
    a.q_lens = {q_lens.begin(), 1};
    a.kv_lens = {kv_lens.begin(), 1};
    a.q.shape[0] = count;
    advance(a.q, row * a.q.stride[0]);
    if (case_.problem().layout == Layout::paged) {
      a.page_table = {a.page_table.data + r * a.page_table.stride, 1, a.page_table.columns, 0};
    } else {
      for (KvView* view : {&a.k, &a.v}) {
        view->shape[1] = kv_len;
        advance(*view, case_.first_kv(r) * view->stride[1]);
      }
    }
    if (a.mask_bits.data != nullptr) {
      a.mask_bits = {a.mask_bits.data + row * a.mask_bits.row_bytes, count, a.mask_bits.row_bytes};
    }
    write_from(row, a);
    run_on_device(plan, a, executor);
  }

  /// From now on the pages lie in the opposite order, and their tokens at other strides.
  void move_pages() {
    Arguments& a = arguments_;
    if (case_.problem().layout != Layout::paged) return;
    table_.assign(a.page_table.data,
                  a.page_table.data + a.page_table.requests * a.page_table.stride);
    for (std::int32_t& id : table_) {
      if (id >= 0 && id < a.k.shape[0]) id = static_cast<std::int32_t>(a.k.shape[0] - 1 - id);
    }
    a.page_table.data = table_.data();
    k_ = moved(a.k);
    v_ = moved(a.v);
  }

  /// The outputs of all rows since the last `take`; the memory is poisoned.
  std::vector<std::byte> take() {
    std::vector<std::byte> bits = out_;
    const std::span<const std::byte> lse = std::as_bytes(std::span(lse_));
    bits.insert(bits.end(), lse.begin(), lse.end());
    std::fill(out_.begin(), out_.end(), std::byte{0xa5});
    std::fill(lse_.begin(), lse_.end(), -1e30f);
    return bits;
  }

 private:
  std::int64_t out_row() const {
    const Problem& p = case_.problem();
    return p.hq * p.dv * static_cast<std::int64_t>(size_of(p.out));
  }

  template <int Rank>
  static void advance(TensorView<Rank>& view, std::int64_t elements) {
    view.data = static_cast<std::byte*>(view.data) +
                elements * static_cast<std::int64_t>(size_of(view.dtype));
  }

  void write_from(std::int64_t row, Arguments& a) {
    const Problem& p = case_.problem();
    const std::int64_t rows = a.q.shape[0];
    a.out = TensorView<3>::dense(out_.data() + row * out_row(), p.out, {rows, p.hq, p.dv});
    if (p.lse) a.lse = TensorView<2>::dense(&lse_[row * p.hq], DType::f32, {rows, p.hq});
  }

  /// A copy of pages in the opposite order, heads before tokens; the view then shows the copy.
  static std::vector<std::byte> moved(KvView& view) {
    const auto [pages, slots, heads, dim] = view.shape;
    const KvView from = view;
    const auto size = static_cast<std::int64_t>(size_of(view.dtype));
    std::vector<std::byte> memory(static_cast<std::size_t>(pages * slots * heads * dim * size));
    view.data = memory.data();
    view.stride = {slots * heads * dim, dim, slots * dim, 1};
    for (std::int64_t page = 0; page < pages; ++page) {
      for (std::int64_t slot = 0; slot < slots; ++slot) {
        for (std::int64_t head = 0; head < heads; ++head) {
          const std::int64_t source =
              page * from.stride[0] + slot * from.stride[1] + head * from.stride[2];
          const std::int64_t target =
              (pages - 1 - page) * view.stride[0] + slot * view.stride[1] + head * view.stride[2];
          std::memcpy(memory.data() + target * size,
                      static_cast<const std::byte*>(from.data) + source * size,
                      static_cast<std::size_t>(dim * size));
        }
      }
    }
    return memory;
  }

  verify::Case case_;
  Arguments arguments_;
  std::vector<std::byte> k_, v_;  // moved pages
  std::vector<std::int32_t> table_;
  std::vector<std::byte> out_;
  std::vector<float> lse_;
};

/// Batches of several layouts, dtypes and masks; lengths beyond a split; many splits.
const char* const kBatches[] = {
    "paged q=bf16 hq=6 hkv=2 d=64 mask=causal lse split=64 q_len=1,40,7 kv_len=500,40,129",
    "paged order=hnd page=7 q=f32 hq=3 hkv=1 d=40 mask=none lse q_len=1,40,7 kv_len=500,40,129",
    "paged pool=split page=5 q=f16 hq=4 hkv=2 d=64 dv=24 mask=window:50,0 sinks split=16 "
    "q_len=1,40,7 kv_len=500,40,129",
    "paged q=f32 hq=4 hkv=1 d=24 mask=causal alibi cap=5 sinks lse invariant split=64 "
    "q_len=1,40,7 kv_len=500,40,129",
    "ragged q=bf16 kv=e4m3 hq=4 hkv=2 d=64 mask=chunked:33 cap=5 k_scale=head v_scale=tensor "
    "q_len=9,40,1 kv_len=300,40,129",
    "ragged q=e4m3 out=f32 hq=5 hkv=1 d=32 mask=bits lse split=32 q_len=9,40,1 kv_len=300,30,129",
    "contiguous q=f32 hq=2 d=72 mask=window:-1,4 alibi split=64 q_len=1,40,7 kv_len=500,40,129",
    "packed q=f16 hq=7 hkv=1 d=64 mask=causal lse q_len=130,1,77 kv_len=130,1,77",
    "paged q=bf16 hq=6 hkv=2 d=64 mask=causal lse split=64 prefix=320 q_len=1,40,7 "
    "kv_len=500,370,329",
    "paged page=7 q=f32 hq=2 hkv=1 d=40 mask=none sinks lse prefix=315 q_len=1,2,1 "
    "kv_len=500,320,315",
    "paged q=bf16 hq=2 hkv=1 d=32 mask=none lse q_len=1,2,1 kv_len=9000,17,5000",
    "paged q=f32 hq=2 hkv=1 d=32 mask=causal lse split=64 q_len=1,2,1 kv_len=9000,17,5000",
};

/// Prompts of one request: a row's keys do not depend on how the prompt is cut. The last ones
/// follow a prefix that is longer than a split.
const char* const kPrompts[] = {
    "paged q=f32 hq=6 hkv=2 d=64 mask=causal lse invariant q_len=300 kv_len=300",
    "paged q=bf16 hq=6 hkv=2 d=64 mask=causal lse invariant split=64 q_len=300 kv_len=300",
    "paged page=7 q=f16 hq=3 hkv=1 d=40 mask=window:100,0 lse invariant q_len=300 kv_len=300",
    "paged order=hnd q=bf16 kv=e4m3 hq=4 hkv=2 d=64 mask=chunked:50 sinks k_scale=head lse "
    "invariant split=32 q_len=300 kv_len=300",
    "ragged q=f32 kv=bf16 hq=2 d=72 dv=24 mask=causal alibi cap=5 lse invariant q_len=300 "
    "kv_len=300",
    "contiguous q=e4m3 out=bf16 hq=5 hkv=1 d=32 mask=window:64,0 lse invariant q_len=300 "
    "kv_len=300",
    "paged q=bf16 hq=2 hkv=1 d=32 mask=causal lse invariant q_len=60 kv_len=9000",
    "paged q=f32 hq=2 hkv=1 d=32 mask=causal lse invariant split=64 q_len=60 kv_len=5000",
    "paged q=f32 hq=2 hkv=1 d=32 mask=window:4500,0 lse invariant split=512 q_len=60 kv_len=9000",
};

/// A kernel that is forced, or with an empty name what `select` picks.
struct Chosen {
  std::string device;
  std::string kernel;
};

class Determinism : public testing::TestWithParam<Chosen> {
 protected:
  void SetUp() override {
    if (GetParam().device != "cpu" && !has_gpu()) GTEST_SKIP() << "there is no GPU";
  }

  /// Calls check(problem, plan) for the problems that the kernel accepts.
  template <std::size_t Count, typename Check>
  static void for_each(const char* const (&texts)[Count], Check check) {
    std::size_t refused = 0;
    for (const char* text : texts) {
      SCOPED_TRACE(text);
      const Problem problem = Problem::parse(text);
      const std::optional<Plan> accepted = plan(problem);
      if (accepted) {
        check(problem, *accepted);
      } else {
        ++refused;
      }
    }
    const std::string& kernel = GetParam().kernel;
    EXPECT_TRUE(refused == 0 || !(kernel.empty() || kernel.ends_with("_reference")));
    if (refused == Count) GTEST_SKIP() << kernel << " refuses all of these problems";
  }

  static std::optional<Plan> plan(const Problem& problem) {
    try {
      return select(problem, Device::parse(GetParam().device), GetParam().kernel).plan();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      return std::nullopt;
    }
  }
};

TEST_P(Determinism, SameBitsEachTimeAndOnAnyNumberOfThreads) {
  for_each(kBatches, [](const Problem& problem, const Plan& bound) {
    Subject subject(problem, 3);
    std::vector<std::byte> first;
    for (const int threads : {1, 1, 2, 3, 8, 8}) {
      ThreadPool pool(threads);
      subject.run(bound, pool);
      const std::vector<std::byte> bits = subject.take();
      if (first.empty()) first = bits;
      EXPECT_TRUE(bits == first) << threads << " threads";
    }
  });
}

TEST_P(Determinism, SameBitsAloneAndInABatch) {
  for_each(kBatches, [](const Problem& problem, const Plan& bound) {
    if (bound.kernel() == "cuda_cascade") return;  // its tile follows from all rows of the batch
    Subject subject(problem, 4);
    ThreadPool pool(3);
    subject.run(bound, pool);
    const std::vector<std::byte> together = subject.take();
    for (std::int64_t r = problem.batch(); r-- > 0;) {
      subject.run_part(bound, pool, r, 0, problem.q_len[r], problem.kv_len[r]);
    }
    EXPECT_TRUE(subject.take() == together);
  });
}

TEST_P(Determinism, SameBitsWhereverThePagesAre) {
  for_each(kBatches, [](const Problem& problem, const Plan& bound) {
    if (problem.layout != Layout::paged) return;
    Subject subject(problem, 5);
    ThreadPool pool(2);
    subject.run(bound, pool);
    const std::vector<std::byte> bits = subject.take();
    subject.move_pages();
    subject.run(bound, pool);
    EXPECT_TRUE(subject.take() == bits);
  });
}

TEST_P(Determinism, SameBitsOfOnePlanInSeveralThreadsAtOnce) {
  for_each(kBatches, [](const Problem& problem, const Plan& bound) {
    Subject alone(problem, 8);
    ThreadPool pool(3);
    alone.run(bound, pool);
    const std::vector<std::byte> bits = alone.take();
    std::vector<std::unique_ptr<Subject>> subjects;
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) {
      subjects.push_back(std::make_unique<Subject>(problem, 8));
      callers.emplace_back([&, subject = subjects.back().get()] { subject->run(bound, pool); });
    }
    for (std::thread& caller : callers) caller.join();
    for (const auto& subject : subjects) EXPECT_TRUE(subject->take() == bits);
  });
}

/// Chunks that add up to `tokens`.
std::vector<std::int64_t> random_chunks(std::int64_t tokens, verify::Random& random) {
  std::vector<std::int64_t> chunks;
  for (std::int64_t left = tokens; left > 0; left -= chunks.back()) {
    chunks.push_back(random.integer(1, std::min<std::int64_t>(left, 90)));
  }
  return chunks;
}

/// The problem of a chunk alone: with bounds of its own, select makes another plan.
Problem chunk_of(Problem problem, std::int64_t q_len, std::int64_t kv_len) {
  problem.q_len = {q_len};
  problem.kv_len = {kv_len};
  return problem;
}

TEST_P(Determinism, InvariantRowsAgreeHoweverThePromptIsCut) {
  for_each(kPrompts, [](const Problem& whole, const Plan& bound) {
    const std::int64_t tokens = whole.total_q();
    const std::int64_t before = whole.max_kv_len() - tokens;
    verify::Random random(5);
    std::vector<std::vector<std::int64_t>> cuts = {
        std::vector<std::int64_t>(static_cast<std::size_t>(tokens), 1), {tokens / 2, tokens / 2}};
    for (int i = 0; i < 4; ++i) cuts.push_back(random_chunks(tokens, random));
    Subject subject(whole, 6);
    ThreadPool pool(2);
    subject.run(bound, pool);
    const std::vector<std::byte> at_once = subject.take();
    for (const auto& cut : cuts) {
      for (const bool own_plan : {false, true}) {
        std::int64_t done = 0;
        for (const std::int64_t chunk : cut) {
          const std::int64_t kv_len = before + done + chunk;
          const Plan part = own_plan ? plan(chunk_of(whole, chunk, kv_len)).value() : bound;
          subject.run_part(part, pool, 0, done, chunk, kv_len);
          done += chunk;
        }
        ASSERT_EQ(done, tokens);
        EXPECT_TRUE(subject.take() == at_once) << cut.size() << " chunks, own plans: " << own_plan;
      }
    }
  });
}

TEST_P(Determinism, InvariantRowsAgreeAfterAPrefixHit) {
  for_each(kPrompts, [](const Problem& whole, const Plan& bound) {
    const std::int64_t tokens = whole.total_q();
    const std::int64_t before = whole.max_kv_len() - tokens;
    ThreadPool pool(2);
    for (const std::int64_t hit : {std::int64_t{1}, std::int64_t{16}, tokens / 2, tokens - 1}) {
      Subject subject(whole, 7);
      subject.run(bound, pool);
      const std::vector<std::byte> at_once = subject.take();
      subject.run_part(bound, pool, 0, 0, hit, before + hit);
      subject.move_pages();  // the pages that were hit are another request's
      subject.run_part(bound, pool, 0, hit, tokens - hit, before + tokens);
      EXPECT_TRUE(subject.take() == at_once) << "hit of " << hit;
    }
  });
}

/// All that can be forced, and what `select` picks: with `invariant`, the same at all lengths.
std::vector<Chosen> kernels(const std::string& device, const std::vector<KernelInfo>& table) {
  std::vector<Chosen> all;
  all.reserve(table.size() + 1);
  for (const KernelInfo& kernel : table) all.push_back({device, std::string(kernel.name)});
  all.push_back({device, ""});
  return all;
}

std::string name_of(const testing::TestParamInfo<Chosen>& chosen) {
  return chosen.param.kernel.empty() ? "selected" : chosen.param.kernel;
}

INSTANTIATE_TEST_SUITE_P(Cpu, Determinism, testing::ValuesIn(kernels("cpu", cpu_kernels())),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Gpu, Determinism, testing::ValuesIn(kernels("cuda:0", cuda::kernels())),
                         name_of);

}  // namespace
}  // namespace octavo::tests
