#include "cuda/driver.h"

#include <gtest/gtest.h>

#include <string>

#include "error_of.h"
#include "fake_gpu.h"
#include "octavo/octavo.h"

namespace octavo::cuda {
namespace {

std::string refusal() {
  return error_of(ErrorCode::unavailable, [] { Device::parse("cuda:0"); });
}

/// The CPU computes, whatever is wrong with GPUs.
void expect_cpu() {
  EXPECT_EQ(select(Problem::parse("ragged q=f32 hq=1 d=8 q_len=1 kv_len=3"), Device::cpu())
                .plan()
                .device()
                .id,
            "cpu");
}

TEST(CudaDriver, SaysThatTheLibraryIsMissing) {
  setenv("OCTAVO_LIBCUDA", "/no/such/libcuda.so", 1);
  EXPECT_NE(refusal().find("/no/such/libcuda.so"), std::string::npos) << refusal();
  expect_cpu();
}

TEST(CudaDriver, NamesTheFunctionThatALibraryLacks) {
  setenv("OCTAVO_LIBCUDA", "libm.so.6", 1);
  EXPECT_NE(refusal().find("libm.so.6 has no function cuInit"), std::string::npos) << refusal();
  expect_cpu();
}

TEST(CudaDriver, RefusesAnOldDriver) {
  const FakeGpu gpu;
  setenv("FAKE_CUDA_VERSION", "11080", 1);
  EXPECT_NE(refusal().find("CUDA 11.8; Octavo needs one for CUDA 12.0"), std::string::npos)
      << refusal();
  expect_cpu();
}

TEST(CudaDriver, GivesTheDriversWordsWhereItCannotStart) {
  const FakeGpu gpu;
  setenv("FAKE_CUDA_INIT", "100", 1);
  EXPECT_NE(refusal().find("cuInit: CUDA_ERROR_NO_DEVICE (in the fake's words)"), std::string::npos)
      << refusal();
  setenv("FAKE_CUDA_INIT", "0", 1);  // a failed start is tried again
  EXPECT_EQ(Device::parse("cuda:0").name, "Fake H100");
}

TEST(CudaDriver, SaysThatThereAreNoDevices) {
  const FakeGpu gpu;
  setenv("FAKE_CUDA_DEVICES", "0", 1);
  EXPECT_NE(refusal().find("the driver shows none"), std::string::npos) << refusal();
}

TEST(CudaDriver, DescribesDevices) {
  const FakeGpu gpu;
  EXPECT_EQ(gpu_count(), 2);
  const Device device = Device::parse("cuda:0");
  EXPECT_EQ(device.id, "cuda:0");
  EXPECT_EQ(device.capability, 90);
  EXPECT_EQ(device.multiprocessors, 132);
  EXPECT_EQ(device.shared_per_block, 227 << 10);
  EXPECT_EQ(device.l2_bytes, 50 << 20);
  EXPECT_NEAR(device.memory_gbs, 3352, 1);
  EXPECT_EQ(device.to_string(), "Fake H100, compute capability 9.0, 132 multiprocessors");
  EXPECT_EQ(Device::parse("cuda:1").capability, 80);
  EXPECT_GT(Device::parse("cuda:1").memory_gbs, 0) << "where the clock is unknown";
}

TEST(CudaDriver, RefusesDevicesThatAreNotThere) {
  const FakeGpu gpu;
  const auto message = [](const char* id) {
    return error_of(ErrorCode::unavailable, [&] { Device::parse(id); });
  };
  EXPECT_EQ(message("cuda:2"), "no CUDA device cuda:2: the last is cuda:1");
  for (const char* id :
       {"cuda", "cuda:", "cuda:-1", "cuda:0x", "cuda:+0", "cuda:99999999999", "gpu:0", ""}) {
    EXPECT_NE(message(id).find("must be cpu or cuda:N"), std::string::npos) << message(id);
  }
}

}  // namespace
}  // namespace octavo::cuda
