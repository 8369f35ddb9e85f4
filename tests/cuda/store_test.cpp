// The store of device code with a made-up library and shell scripts for compilers: nothing here
// needs a GPU or a toolkit.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "cuda/store/entry.h"
#include "cuda/store/file_lock.h"
#include "fake_compiler.h"

namespace octavo::cuda {
namespace {

namespace fs = std::filesystem;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Starts a child process that succeeds if the function returns true.
template <typename Function>
pid_t start_child(const Function& function) {
  const pid_t child = fork();
  if (child == 0) _exit(function() ? 0 : 1);
  return child;
}

bool succeeds(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(CudaStore, CompilesOnceIntoTheCache) {
  const FakeCompiler compiler;
  const std::string code = text_of(compiler.store().cubin(toy(), 90));
  EXPECT_TRUE(contains(code, "-arch=sm_90")) << code;
  EXPECT_TRUE(contains(code, "-DFACTOR=2")) << code;
  EXPECT_EQ(text_of(compiler.store().cubin(toy(), 90)), code);
  EXPECT_EQ(compiler.calls(), 1);
  EXPECT_EQ(files_below(compiler.folder() / "cache").size(), 1u);  // no lock, nothing half written
}

TEST(CudaStore, KeysTellApartWhatChangesCode) {
  const FakeCompiler compiler;
  Variant spilling = toy();
  spilling.may_spill = true;
  compiler.store().cubin(toy(), 90);
  compiler.store().cubin(toy("3"), 90);
  compiler.store().cubin(toy(), 80);
  compiler.store().cubin(spilling, 90);
  EXPECT_EQ(compiler.calls(), 4);

  std::vector<EmbeddedFile> sources(std::begin(kToySources), std::end(kToySources));
  StoreSettings settings = compiler.settings();
  settings.sources = sources;
  sources[3].bytes = "#error never included either\n";
  CodeStore(settings).cubin(toy(), 90);
  EXPECT_EQ(compiler.calls(), 4) << "a file that is not included";
  sources[2].bytes = "using Number = double;\n";
  CodeStore(settings).cubin(toy(), 90);
  EXPECT_EQ(compiler.calls(), 5) << "a file that is included at second hand";
}

TEST(CudaStore, AnotherCompilerCompilesAgain) {
  const FakeCompiler compiler;
  const FakeCompiler newer(FakeCompiler::kGood, "fake 2");
  compiler.store().cubin(toy(), 90);
  StoreSettings settings = newer.settings();
  settings.cache = compiler.settings().cache;
  CodeStore(settings).cubin(toy(), 90);
  EXPECT_EQ(newer.calls(), 1);
}

TEST(CudaStore, ThePackComesFirstAndNeedsNoCompiler) {
  const FakeCompiler compiler;
  EXPECT_TRUE(compiler.store().add_to_pack(toy(), 90));
  EXPECT_FALSE(compiler.store().add_to_pack(toy(), 90));
  EXPECT_TRUE(fs::exists(compiler.store().pack_file(toy(), 90)));

  StoreSettings alone = compiler.settings();
  alone.compilers = {};
  EXPECT_TRUE(contains(text_of(CodeStore(alone).cubin(toy(), 90)), "-DFACTOR=2"));
  compiler.store().cubin(toy(), 90);
  EXPECT_EQ(compiler.calls(), 1);
  EXPECT_TRUE(files_below(compiler.folder() / "cache").empty());
}

TEST(CudaStore, AnotherCompilerMakesThePackAnew) {
  const FakeCompiler compiler;
  const FakeCompiler newer(FakeCompiler::kGood, "fake 2");
  StoreSettings settings = newer.settings();
  settings.pack = compiler.settings().pack;
  EXPECT_TRUE(compiler.store().add_to_pack(toy(), 90));
  EXPECT_TRUE(CodeStore(settings).add_to_pack(toy(), 90));
  EXPECT_EQ(files_below(settings.pack).size(), 1u);
}

TEST(CudaStore, DamagedEntriesAreMadeAnew) {
  const FakeCompiler compiler;
  const std::string code = text_of(compiler.store().cubin(toy(), 90));
  const fs::path entry = files_below(compiler.folder() / "cache").at(0);
  const std::string whole = read_file(entry);
  std::string flipped = whole;
  flipped.back() ^= 1;
  std::string other_key = whole;
  other_key[whole.find("FACTOR=2") + 7] = '3';
  std::ptrdiff_t calls = 1;
  for (const std::string& damaged :
       {std::string(), whole.substr(0, 20), whole.substr(0, whole.size() - 1), flipped, whole + "x",
        other_key, "octavo cubin 0" + whole.substr(14)}) {
    std::ofstream(entry, std::ios::binary) << damaged;
    EXPECT_EQ(text_of(compiler.store().cubin(toy(), 90)), code);
    EXPECT_EQ(compiler.calls(), ++calls);
    EXPECT_EQ(read_file(entry), whole);
  }
}

TEST(CudaStore, ADamagedPackIsPassedByOrNamed) {
  const FakeCompiler compiler;
  compiler.store().add_to_pack(toy(), 90);
  std::ofstream(compiler.store().pack_file(toy(), 90)) << "octavo";
  compiler.store().cubin(toy(), 90);
  EXPECT_EQ(compiler.calls(), 2);
  StoreSettings alone = compiler.settings();
  alone.compilers = {};
  EXPECT_TRUE(contains(refusal(CodeStore(alone)), "its file there is damaged"));
}

TEST(CudaStore, WithoutACompilerItSaysWhatToInstall) {
  const FakeCompiler compiler;
  StoreSettings settings = compiler.settings();
  settings.compilers = {.nvcc = {"/nowhere/nvcc"}, .nvrtc = {"/nowhere/libnvrtc.so"}};
  const std::string why = refusal(CodeStore(settings));
  for (const char* const part :
       {"toy/scale.cu sm_90 FACTOR=2", "pip install nvidia-cuda-nvrtc", "CUDA toolkit",
        "OCTAVO_NVCC", "OCTAVO_NVRTC", "/nowhere/nvcc", "/nowhere/libnvrtc.so"}) {
    EXPECT_TRUE(contains(why, part)) << part << " in:\n" << why;
  }
}

TEST(CudaStore, ACompilerThatDoesNotAnswerIsQuoted) {
  const FakeCompiler compiler;
  const fs::path broken = compiler.folder() / "broken";
  std::ofstream(broken) << "#!/bin/sh\necho no licence >&2; exit 3\n";
  fs::permissions(broken, fs::perms::owner_all);
  std::ofstream(compiler.folder() / "libnvrtc.so") << "no library";
  StoreSettings settings = compiler.settings();
  settings.compilers = {.nvcc = {broken.string()},
                        .nvrtc = {(compiler.folder() / "libnvrtc.so").string()}};
  const std::string why = refusal(CodeStore(settings));
  EXPECT_TRUE(contains(why, "exit status 3")) << why;
  EXPECT_TRUE(contains(why, "no licence")) << why;
  EXPECT_TRUE(contains(why, "libnvrtc.so: file too short")) << why;
}

TEST(CudaStore, AFailingCompilerIsQuoted) {
  const FakeCompiler compiler("echo 'scale.cu(1): error: no such thing' >&2; exit 2");
  const std::string why = refusal(compiler.store());
  EXPECT_TRUE(contains(why, "exit status 2")) << why;
  EXPECT_TRUE(contains(why, "no such thing")) << why;
  EXPECT_TRUE(contains(why, "fake 1")) << why;
  EXPECT_TRUE(files_below(compiler.folder() / "cache").empty());
}

TEST(CudaStore, ACrashingCompilerIsAnError) {
  const FakeCompiler compiler("printf '\\177ELF half' >\"$out\"; kill -SEGV $$");
  const std::string why = refusal(compiler.store());
  EXPECT_TRUE(contains(why, "killed by signal 11")) << why;
  EXPECT_TRUE(files_below(compiler.folder() / "cache").empty());
}

TEST(CudaStore, ACompilerThatWritesNothingIsAnError) {
  EXPECT_TRUE(contains(refusal(FakeCompiler(":").store()), "wrote no code"));
  EXPECT_TRUE(contains(refusal(FakeCompiler("echo text >\"$out\"").store()), "wrote no code"));
}

/// Whether a process runs; one that only waits for its parent to look does not.
bool runs(const std::string& process) {
  const std::string stat = read_file("/proc/" + process + "/stat");
  const std::size_t name_end = stat.rfind(')');
  return name_end != std::string::npos && stat.at(name_end + 2) != 'Z';
}

TEST(CudaStore, AHangingCompilerIsStoppedWithItsChildren) {
  const FakeCompiler compiler("sleep 600 & echo $! >\"$(dirname \"$0\")/child\"; wait");
  StoreSettings settings = compiler.settings();
  settings.limit = std::chrono::milliseconds(500);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(contains(refusal(CodeStore(settings)), "time limit"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
  std::string child = read_file(compiler.folder() / "child");
  ASSERT_FALSE(child.empty());
  child.pop_back();
  for (int i = 0; i < 100 && runs(child); ++i) usleep(50'000);
  EXPECT_FALSE(runs(child));
}

constexpr const char* kSpills =
    "echo '    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads'\n"
    "echo '    40 bytes stack frame, 40 bytes spill stores, 0 bytes spill loads'\n";

TEST(CudaStore, SpillsFailUnlessTheVariantMaySpill) {
  const FakeCompiler compiler(std::string(kSpills) + FakeCompiler::kGood);
  EXPECT_TRUE(contains(refusal(compiler.store()), "registers spill"));
  Variant spilling = toy();
  spilling.may_spill = true;
  EXPECT_EQ(refusal(compiler.store(), spilling), "");
}

TEST(CudaStore, NoSpillsAreFine) {
  const FakeCompiler compiler(
      std::string("echo '  0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads'\n") +
      FakeCompiler::kGood);
  EXPECT_EQ(refusal(compiler.store()), "");
}

TEST(CudaStore, SerialisedWgmmaFails) {
  const FakeCompiler compiler(
      std::string("echo 'ptxas info : (C7510) Potential Performance Loss: wgmma.mma_async "
                  "instructions are serialized due to ...'\n") +
      FakeCompiler::kGood);
  EXPECT_TRUE(contains(refusal(compiler.store()), "serialised"));
}

TEST(CudaStore, CompilersSeeNoFlagsOfTheEnvironment) {
  setenv("NVCC_APPEND_FLAGS", "-G", 1);
  const FakeCompiler compiler("printf '\\177ELF <%s>' \"$NVCC_APPEND_FLAGS\" >\"$out\"");
  EXPECT_TRUE(contains(text_of(compiler.store().cubin(toy(), 90)), "<>"));
  unsetenv("NVCC_APPEND_FLAGS");
}

TEST(CudaStore, ThreadsCompileOnce) {
  const FakeCompiler compiler(std::string("sleep 0.3; ") + FakeCompiler::kGood);
  std::vector<std::thread> threads;
  std::vector<std::string> codes(4);
  threads.reserve(codes.size());
  for (std::string& code : codes) {
    threads.emplace_back([&] { code = text_of(compiler.store().cubin(toy(), 90)); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& code : codes) EXPECT_TRUE(contains(code, "FACTOR=2"));
  EXPECT_EQ(compiler.calls(), 1);
}

TEST(CudaStore, ProcessesCompileOnce) {
  const FakeCompiler compiler(std::string("sleep 0.3; ") + FakeCompiler::kGood);
  std::vector<pid_t> children(4);
  for (pid_t& child : children) {
    child = start_child(
        [&] { return contains(text_of(compiler.store().cubin(toy(), 90)), "FACTOR=2"); });
  }
  for (const pid_t child : children) EXPECT_TRUE(succeeds(child));
  EXPECT_EQ(compiler.calls(), 1);
}

TEST(CudaStore, ALockIsHeldWhileItsProcessLives) {
  const FakeCompiler compiler;
  const fs::path path = compiler.folder() / "a.lock";
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t holder = start_child([&] {
    const FileLock lock(path);
    if (write(ready[1], "x", 1) != 1) return false;
    for (;;) pause();
  });
  char x = 0;
  ASSERT_EQ(read(ready[0], &x, 1), 1);
  std::atomic<bool> entered = false;
  std::thread waiter([&] {
    const FileLock lock(path);
    entered = true;
  });
  usleep(200'000);
  EXPECT_FALSE(entered);
  EXPECT_TRUE(fs::exists(path));
  kill(holder, SIGKILL);
  waitpid(holder, nullptr, 0);
  waiter.join();
  EXPECT_TRUE(entered);
  EXPECT_FALSE(fs::exists(path));
  close(ready[0]);
  close(ready[1]);
}

TEST(CudaStore, WhereTheCacheCannotBeMadeItStillCompiles) {
  const FakeCompiler compiler;
  std::ofstream(compiler.folder() / "file") << "no folder";
  StoreSettings settings = compiler.settings();
  for (const fs::path& cache : {compiler.folder() / "file/cache", fs::path("/proc/octavo"), {}}) {
    settings.cache = cache;
    EXPECT_TRUE(contains(text_of(CodeStore(settings).cubin(toy(), 90)), "FACTOR=2")) << cache;
  }
}

TEST(CudaStore, AReadOnlyCacheIsReadButNotWritten) {
  const FakeCompiler compiler;
  compiler.store().cubin(toy(), 90);
  const fs::path folder = compiler.folder() / "cache/sm_90";
  fs::permissions(folder, fs::perms(0555));
  // Root may write anywhere, so that it looks through the eyes of another user.
  fs::permissions(compiler.folder(), fs::perms(0755));
  fs::permissions(compiler.folder() / "calls", fs::perms(0666));
  EXPECT_TRUE(succeeds(start_child([&] {
    constexpr uid_t kNobody = 65534;
    if (geteuid() == 0 && setuid(kNobody) != 0) return false;
    return access(folder.c_str(), W_OK) != 0 && refusal(compiler.store()).empty() &&
           refusal(compiler.store(), toy("3")).empty();
  })));
  EXPECT_EQ(compiler.calls(), 2);
  EXPECT_EQ(files_below(folder).size(), 1u);
  fs::permissions(folder, fs::perms(0755));
}

TEST(CudaStore, APackThatCannotBeWrittenIsAnError) {
  const FakeCompiler compiler;
  StoreSettings settings = compiler.settings();
  settings.pack = "/proc/octavo";
  EXPECT_THROW(CodeStore(settings).add_to_pack(toy(), 90), Error);
}

TEST(CudaStore, ASourceThatTheLibraryDoesNotHoldIsAnError) {
  const FakeCompiler compiler;
  Variant variant = toy();
  variant.source = "toy/none.cu";
  EXPECT_TRUE(contains(refusal(compiler.store(), variant), "toy/none.cu"));
}

}  // namespace
}  // namespace octavo::cuda
