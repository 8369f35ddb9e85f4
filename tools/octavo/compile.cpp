#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <set>
#include <vector>

#include "command.h"
#include "core/text.h"
#include "cuda/device.h"
#include "cuda/pack.h"
#include "cuda/store/code_store.h"

namespace octavo::cli {
namespace {

namespace fs = std::filesystem;

struct Job {
  cuda::Variant variant;
  int architecture = 0;
};

struct Failure {
  std::string what;
  std::string why;
};

struct Tally {
  std::size_t compiled = 0;
  std::size_t kept = 0;
  std::vector<Failure> failures;

  std::size_t done() const { return compiled + kept + failures.size(); }
};

// Compilers that run when the user interrupts come to their end, so that nothing of them stays.
volatile std::sig_atomic_t interrupted = 0;

void interrupt(int) {
  interrupted = 1;
  std::signal(SIGINT, SIG_DFL);  // the second time ends at once
}

/// Those of the devices, each once; all that the kernels know where there are none.
std::vector<int> present_architectures() {
  std::set<int> found;
  try {
    for (int i = cuda::device_count(); i-- > 0;) found.insert(cuda::describe(i).capability);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unavailable) throw;
  }
  if (found.empty()) return {std::begin(cuda::kArchitectures), std::end(cuda::kArchitectures)};
  return {found.begin(), found.end()};
}

std::vector<Job> jobs_of(const Options& options, const std::vector<int>& architectures) {
  std::vector<Job> jobs;
  for (const int architecture : architectures) {
    const std::vector<cuda::Variant> variants =
        options.problem.empty()
            ? cuda::default_variants(architecture, options.kernel)
            : cuda::needed_variants(Problem::parse(options.problem), architecture, options.kernel);
    for (const cuda::Variant& variant : variants) jobs.push_back({variant, architecture});
  }
  return jobs;
}

void compile_one(const cuda::CodeStore& store, const Job& job, std::mutex& mutex, Tally& tally) {
  try {
    const bool compiled = store.add_to_pack(job.variant, job.architecture);
    const std::lock_guard lock(mutex);
    ++(compiled ? tally.compiled : tally.kept);
  } catch (const std::exception& error) {
    const std::lock_guard lock(mutex);
    tally.failures.push_back({cuda::describe(job.variant, job.architecture), error.what()});
  }
}

Tally compile_all(const cuda::CodeStore& store, const std::vector<Job>& jobs, int workers) {
  const bool progress = isatty(STDERR_FILENO) != 0;
  std::mutex mutex;
  Tally tally;
  ThreadPool(workers).parallel_for(static_cast<std::int64_t>(jobs.size()), [&](std::int64_t i) {
    if (interrupted != 0) return;
    compile_one(store, jobs[i], mutex, tally);
    const std::lock_guard lock(mutex);
    if (progress) std::fprintf(stderr, "\r%zu / %zu", tally.done(), jobs.size());
  });
  if (progress) std::fprintf(stderr, "\n");
  return tally;
}

/// Code of other sources or variants goes from the folders of the architectures.
void remove_others(const cuda::CodeStore& store, const std::vector<Job>& jobs) {
  std::set<fs::path> wanted;
  std::set<fs::path> folders;
  for (const Job& job : jobs) {
    const fs::path file = store.pack_file(job.variant, job.architecture);
    wanted.insert(file);
    folders.insert(file.parent_path());
  }
  for (const fs::path& folder : folders) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".cubin" && !wanted.contains(entry.path())) {
        fs::remove(entry.path());
      }
    }
  }
}

std::string json(const Tally& tally, const std::vector<int>& architectures, const fs::path& out,
                 double seconds) {
  std::string names;
  for (const int one : architectures) names += concat(names.empty() ? "" : ",", one);
  std::string failures;
  for (const Failure& failure : tally.failures) {
    failures += concat(failures.empty() ? "" : ",", "{\"variant\":", quoted(failure.what),
                       ",\"why\":", quoted(failure.why), "}");
  }
  return concat("{\"out\":", quoted(out.string()), ",\"architectures\":[", names,
                "],\"compiled\":", tally.compiled, ",\"kept\":", tally.kept,
                ",\"failed\":", tally.failures.size(),
                ",\"interrupted\":", interrupted != 0 ? "true" : "false",
                ",\"seconds\":", number(seconds), ",\"failures\":[", failures, "]}");
}

}  // namespace

int run_compile(const Options& options) {
  cuda::StoreSettings settings = cuda::StoreSettings::from_environment();
  if (!options.out.empty()) settings.pack = options.out;
  const std::vector<int> architectures =
      options.architectures.empty() ? present_architectures() : options.architectures;
  const std::vector<Job> jobs = jobs_of(options, architectures);
  cuda::find_compiler(settings.compilers);  // one refusal rather than one a job
  const cuda::CodeStore store(settings);

  std::signal(SIGINT, interrupt);
  const auto start = std::chrono::steady_clock::now();
  const Tally tally =
      compile_all(store, jobs, static_cast<int>(options.jobs.value_or(Device::cpu().threads)));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const bool whole = interrupted == 0 && tally.failures.empty();
  if (whole && options.kernel.empty() && options.problem.empty()) remove_others(store, jobs);

  if (options.json) std::printf("%s\n", json(tally, architectures, settings.pack, seconds).c_str());
  for (const Failure& failure : tally.failures) {
    std::fprintf(stderr, "octavo: %s: %s\n", failure.what.c_str(), failure.why.c_str());
  }
  if (!options.json) {
    std::printf("%s: %zu compiled, %zu there already, %zu failed%s, in %.1f s\n",
                settings.pack.c_str(), tally.compiled, tally.kept, tally.failures.size(),
                interrupted != 0 ? ", interrupted" : "", seconds);
  }
  return whole ? kPassed : kWrong;
}

}  // namespace octavo::cli
