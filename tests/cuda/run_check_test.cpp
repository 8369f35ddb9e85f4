// What OCTAVO_CUDA_CHECK=1 does with what the device finds; the finding itself is the GPU's.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "cuda/kernels/check/params.h"
#include "octavo/octavo.h"
#include "reserved_case.h"

namespace octavo::cuda {
namespace {

unsigned long long to_find = kNoFinding;

/// Stands for the check, which is known by its parameters.
void find(const FakeLaunch& launch) {
  if (launch.param_bytes != sizeof(CheckParams) || to_find == kNoFinding) return;
  CheckParams params;
  std::memcpy(&params, launch.params, sizeof params);
  *params.first = to_find;
}

/// A run under check whose lengths and page ids the host may fetch.
class CudaRunCheck : public testing::Test {
 protected:
  CudaRunCheck() {
    setenv("OCTAVO_CUDA_CHECK", "1", 1);
    gpu.on_launch(find);
  }

  std::string message_of(const char* text, Fault fault, std::int64_t column = 0) {
    const Plan plan =
        select(Problem::parse(text), Device::parse("cuda:0"), "cuda_reference").plan();
    ReservedCase c(gpu, plan.problem());
    Arguments& a = c.arguments;
    const Buffer lengths(0, 3 * sizeof(std::int32_t) * 2);
    auto* const q_lens = reinterpret_cast<std::int32_t*>(lengths.data());
    const std::vector<std::int32_t> values = {3, 70, 33, -9, -8, -7};
    std::memcpy(q_lens, values.data(), values.size() * sizeof(std::int32_t));
    a.q_lens = {q_lens, 2};
    a.kv_lens = {q_lens + 2, 2};
    if (plan.problem().layout == Layout::paged) {
      a.page_table = {q_lens + 2, 2, 2, 2};
    } else {
      a.k.shape = a.v.shape = {1, 8, 2, 64};
    }
    to_find = finding(1, fault, column);
    const int launches = gpu.launch().count;
    try {
      plan.run(a, Stream{});
    } catch (const Error& error) {
      EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ErrorCode::invalid_argument));
      EXPECT_EQ(gpu.launch().count, launches + 1) << "only the check";
      return error.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return {};
  }

  FakeGpu gpu;
};

const char kPaged[] = "paged pool=split q=bf16 hq=4 hkv=2 d=64 mask=bits q_len=3,2 kv_len=33,9";

TEST_F(CudaRunCheck, FindingsKeepWhatTheyName) {
  const unsigned long long found = finding((1 << 20) - 1, Fault::kv_total, 0x7fffffff);
  EXPECT_EQ(request_of(found), (1 << 20) - 1);
  EXPECT_EQ(fault_of(found), Fault::kv_total);
  EXPECT_EQ(column_of(found), 0x7fffffff);
  EXPECT_LT(finding(1, Fault::page, 9), finding(2, Fault::q_len, 0));
  EXPECT_LT(found, kNoFinding);
}

TEST_F(CudaRunCheck, NamesTheRequestThePositionAndTheValue) {
  EXPECT_EQ(message_of(kPaged, Fault::q_len), "q_lens[1]=70: must be from 0 to the plan's 3");
  EXPECT_EQ(message_of(kPaged, Fault::kv_len), "kv_lens[1]=-9: must be from 0 to the plan's 33");
  EXPECT_EQ(message_of(kPaged, Fault::columns),
            "page_table has 2 columns: kv_lens[1]=-9 needs more pages of 16");
  EXPECT_EQ(message_of(kPaged, Fault::page, 1),
            "page_table[1][1]=-7: must be from 0 to 7, the pool has 8 pages");
  EXPECT_EQ(message_of(kPaged, Fault::mask_bits),
            "mask_bits.row_bytes=5: too few for kv_lens[1]=-9");
  EXPECT_EQ(message_of(kPaged, Fault::q_total),
            "q_lens sum to more than the 5 rows that the plan and the tensors have room for, with "
            "q_lens[1]=70");
  EXPECT_EQ(message_of("ragged q=bf16 hq=4 hkv=2 d=64 q_len=3,2 kv_len=33,9", Fault::kv_total),
            "k and v have 8 tokens: kv_lens sum to more, with kv_lens[1]=-9");
  EXPECT_EQ(message_of("packed q=bf16 hq=4 hkv=2 d=64 q_len=3,2 kv_len=3,2", Fault::unequal),
            "kv_lens[1]=-9: must equal q_lens[1]=70 in packed layout");
  const char* const prefix =
      "paged pool=split q=bf16 hq=4 hkv=2 d=64 prefix=16 q_len=3,2 kv_len=33,19";
  EXPECT_EQ(message_of(prefix, Fault::prefix),
            "kv_lens[1]=-9 with q_lens[1]=70: queries begin at -79, in the plan's prefix of 16 "
            "tokens");
  EXPECT_EQ(message_of(prefix, Fault::shared),
            "page_table[1][0]=-8: must be the page that all share, 33, in the plan's prefix of 16 "
            "tokens");
}

TEST_F(CudaRunCheck, RunsWhatIsRightAndRefusesCaptures) {
  to_find = kNoFinding;
  const Plan plan =
      select(Problem::parse(kPaged), Device::parse("cuda:0"), "cuda_reference").plan();
  const ReservedCase c(gpu, plan.problem());
  plan.run(c.arguments, Stream{});
  EXPECT_EQ(gpu.launch().count, 2) << "the check and the kernel";
  gpu.capture(true);
  try {
    plan.run(c.arguments, Stream{});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("a graph captures the stream"), std::string::npos);
  }
  EXPECT_EQ(gpu.launch().count, 2);
}

}  // namespace
}  // namespace octavo::cuda
