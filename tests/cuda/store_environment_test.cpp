// Which folders and compilers the environment makes the store look at.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "cuda/store/code_store.h"
#include "cuda/store/places.h"

namespace octavo::cuda {
namespace {

/// A variable that has another value for a while; null: none.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* const before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~Variable() { set(before_ ? before_->c_str() : nullptr); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  void set(const char* value) const {
    if (value == nullptr) {
      unsetenv(name_);
    } else {
      setenv(name_, value, 1);
    }
  }
  const char* name_;
  std::optional<std::string> before_;
};

bool holds(const std::vector<std::string>& list, const std::string& value) {
  return std::ranges::find(list, value) != list.end();
}

TEST(CudaStoreEnvironment, TheCacheIsWhereTheDesktopStandardPutsIt) {
  const Variable home("HOME", "/home/someone");
  {
    const Variable cache("XDG_CACHE_HOME", "/caches");
    EXPECT_EQ(cache_folder(), "/caches/octavo/cubins");
  }
  for (const char* const ignored : {static_cast<const char*>(nullptr), "", "not/absolute"}) {
    const Variable cache("XDG_CACHE_HOME", ignored);
    EXPECT_EQ(cache_folder(), "/home/someone/.cache/octavo/cubins");
  }
  const Variable no_home("HOME", nullptr);
  const Variable cache("XDG_CACHE_HOME", nullptr);
  EXPECT_TRUE(cache_folder().empty());
}

TEST(CudaStoreEnvironment, ThePackIsNamedOrBesideTheLibrary) {
  {
    const Variable pack("OCTAVO_CUDA_PACK", "/packs/one");
    EXPECT_EQ(StoreSettings::from_environment().pack, "/packs/one");
  }
  const Variable pack("OCTAVO_CUDA_PACK", nullptr);
  EXPECT_EQ(pack_folder(), library_folder() / "octavo-cubins");
  EXPECT_TRUE(std::filesystem::is_directory(library_folder()));
}

TEST(CudaStoreEnvironment, ANamedCompilerIsTheOnlyOne) {
  {
    const Variable nvcc("OCTAVO_NVCC", "/opt/nvcc");
    const Variable nvrtc("OCTAVO_NVRTC", nullptr);
    const CompilerSearch search = CompilerSearch::from_environment();
    EXPECT_EQ(search.nvcc, std::vector<std::string>{"/opt/nvcc"});
    EXPECT_TRUE(search.nvrtc.empty());
  }
  const Variable nvcc("OCTAVO_NVCC", nullptr);
  const Variable nvrtc("OCTAVO_NVRTC", "libnvrtc.so.99");
  const CompilerSearch search = CompilerSearch::from_environment();
  EXPECT_TRUE(search.nvcc.empty());
  EXPECT_EQ(search.nvrtc, std::vector<std::string>{"libnvrtc.so.99"});
}

TEST(CudaStoreEnvironment, OtherwiseCompilersAreLookedForInTheUsualPlaces) {
  const Variable nvcc("OCTAVO_NVCC", nullptr);
  const Variable nvrtc("OCTAVO_NVRTC", nullptr);
  const Variable path("PATH", "/one::/two");
  const CompilerSearch search = CompilerSearch::from_environment();
  EXPECT_EQ(search.nvcc,
            (std::vector<std::string>{"/one/nvcc", "/two/nvcc", "/usr/local/cuda/bin/nvcc"}));
  const auto packages = library_folder().parent_path();
  EXPECT_TRUE(holds(search.nvrtc, packages / "nvidia/cu13/lib/libnvrtc.so.13"));
  EXPECT_TRUE(holds(search.nvrtc, packages / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"));
  EXPECT_TRUE(holds(search.nvrtc, "libnvrtc.so.13"));
}

}  // namespace
}  // namespace octavo::cuda
