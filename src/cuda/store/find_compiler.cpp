#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <sstream>

#include "core/text.h"
#include "cuda/store/compiler.h"
#include "cuda/store/memory_program.h"
#include "cuda/store/places.h"
#include "cuda/store/process.h"
#include "cuda/store/scratch.h"
#include "octavo/error.h"

namespace octavo::cuda {
namespace {

constexpr std::chrono::seconds kProbeLimit{30};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

/// Programs that could be nvcc. With those that do not exist, which nobody needs to read about.
std::vector<std::string> existing(std::vector<std::string> paths) {
  std::erase_if(paths, [](const std::string& path) {
    std::error_code ignored;
    return path.find('/') != std::string::npos && !std::filesystem::exists(path, ignored);
  });
  return paths;
}

/// Asks one candidate. Adds to `refusals` what went wrong.
bool probe_nvcc(const std::string& path, const std::string& scratch, Compiler& found,
                std::string& refusals) {
  try {
    const ChildEnd end = run_child({path, "--version"}, scratch, kProbeLimit);
    const std::vector<std::string> lines = lines_of(end.output);
    if (end.good() && !lines.empty()) {
      found = {Compiler::Kind::nvcc, path, "nvcc " + printable(lines.back())};
      return true;
    }
    refusals += concat("\n", path, " --version: ", end.to_string(), " ", printable(end.output));
  } catch (const Error& error) {
    refusals += concat("\n", error.what());
  }
  return false;
}

bool probe_nvrtc(const std::vector<std::string>& libraries, const std::string& scratch,
                 Compiler& found, std::string& refusals) {
  if (libraries.empty()) return false;
  const MemoryProgram child(nvrtc_child().front().bytes);
  std::vector<std::string> command = {child.path(), "probe"};
  command.insert(command.end(), libraries.begin(), libraries.end());
  const ChildEnd end = run_child(command, scratch, kProbeLimit);
  const std::vector<std::string> lines = lines_of(end.output);
  if (!end.good() || lines.size() < 2) {
    refusals += concat("\nNVRTC: ", end.to_string());
    for (const std::string& line : lines) refusals += concat("\n", printable(line));
    return false;
  }
  const std::string& path = lines[lines.size() - 2];
  // NVRTC does not tell its patch release; builds of different ones differ in size.
  std::error_code unknown;
  const auto size = std::filesystem::file_size(path, unknown);
  found = {Compiler::Kind::nvrtc, path,
           concat("nvrtc ", printable(lines.back()), ", ", unknown ? 0 : size, " bytes")};
  return true;
}

Compiler probe(const CompilerSearch& search) {
  const ScratchFolder scratch;
  Compiler found;
  std::string refusals;
  for (const std::string& path : existing(search.nvcc)) {
    if (probe_nvcc(path, scratch.path(), found, refusals)) return found;
  }
  if (probe_nvrtc(existing(search.nvrtc), scratch.path(), found, refusals)) return found;
  std::string looked;
  for (const auto* list : {&search.nvcc, &search.nvrtc}) {
    for (const std::string& candidate : *list)
      looked += concat(looked.empty() ? "" : ", ", candidate);
  }
  throw Error(ErrorCode::unavailable,
              concat("no compiler for device code: install NVRTC (`pip install nvidia-cuda-nvrtc`) "
                     "or NVIDIA's CUDA toolkit (nvcc), or name one by OCTAVO_NVRTC or OCTAVO_NVCC; "
                     "looked for ",
                     looked.empty() ? "none" : looked, refusals));
}

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

CompilerSearch CompilerSearch::from_environment() {
  const std::string nvcc = variable("OCTAVO_NVCC");
  const std::string nvrtc = variable("OCTAVO_NVRTC");
  CompilerSearch search;
  if (!nvcc.empty()) search.nvcc = {nvcc};
  if (!nvrtc.empty()) search.nvrtc = {nvrtc};
  if (!nvcc.empty() || !nvrtc.empty()) return search;

  std::istringstream folders(variable("PATH"));
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (!folder.empty()) search.nvcc.push_back(folder + "/nvcc");
  }
  search.nvcc.emplace_back("/usr/local/cuda/bin/nvcc");
  // The package lies beside ours in site-packages, which the command line sees from one deeper.
  const std::filesystem::path own = library_folder();
  for (const auto& site : {own.parent_path(), own.parent_path().parent_path()}) {
    search.nvrtc.push_back((site / "nvidia/cu13/lib/libnvrtc.so.13").string());
    search.nvrtc.push_back((site / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12").string());
  }
  for (const char* const name : {"libnvrtc.so.13", "libnvrtc.so.12"}) {
    search.nvrtc.emplace_back(name);
    search.nvrtc.push_back(std::string("/usr/local/cuda/lib64/") + name);
  }
  return search;
}

Compiler find_compiler(const CompilerSearch& search) {
  static std::mutex mutex;
  static std::map<std::vector<std::string>, Compiler> known;
  std::vector<std::string> key = search.nvcc;
  key.emplace_back();
  key.insert(key.end(), search.nvrtc.begin(), search.nvrtc.end());
  const std::lock_guard lock(mutex);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  return known.emplace(std::move(key), probe(search)).first->second;
}

}  // namespace octavo::cuda
