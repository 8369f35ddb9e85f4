#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "cuda/store/code_store.h"
#include "cuda/store/scratch.h"
#include "octavo/error.h"

namespace octavo::cuda {

/// Kernel sources of a made-up library.
inline constexpr EmbeddedFile kToySources[] = {
    {"toy/scale.cu",
     "#include \"toy/factor.h\"\n"
     "extern \"C\" __global__ void scale(float* p) { p[threadIdx.x] *= kFactor; }\n"},
    {"toy/factor.h", "#include \"../common/number.h\"\nconstexpr Number kFactor = FACTOR;\n"},
    {"common/number.h", "using Number = float;\n"},
    {"toy/other.h", "#error never included\n"},
};

inline Variant toy(std::string factor = "2") {
  return {.source = "toy/scale.cu", .entry = "scale", .definitions = {{"FACTOR", factor}}};
}

/// A folder with a pack, a cache and a shell script that stands for nvcc.
class FakeCompiler {
 public:
  /// Makes code; the definitions and the architecture show in it.
  static constexpr const char* kGood =
      "for word; do case $word in -arch=*|-D*) made=\"$made $word\";; esac; done\n"
      "printf '\\177ELF%s' \"$made\" >\"$out\"";

  /// `action` is run for a compilation, with $out the file to write and $* all arguments.
  explicit FakeCompiler(const std::string& action = kGood, const std::string& version = "fake 1") {
    std::ofstream(script()) << "#!/bin/sh\n"
                            << "if [ \"$1\" = --version ]; then echo '" << version
                            << "'; exit; fi\n"
                            << "echo >>'" << calls_file().string() << "'\n"
                            << "seen= out=\n"
                            << "for word; do [ \"$seen\" = -o ] && out=$word; seen=$word; done\n"
                            << action << "\n";
    std::filesystem::permissions(script(), std::filesystem::perms(0755));
  }

  /// A store with the toy sources and this compiler only.
  StoreSettings settings() const {
    StoreSettings settings;
    settings.sources = kToySources;
    settings.pack = folder_.path() / "pack";
    settings.cache = folder_.path() / "cache";
    settings.compilers.nvcc = {script().string()};
    settings.limit = std::chrono::minutes(1);
    return settings;
  }
  CodeStore store() const { return CodeStore(settings()); }

  /// How often it has compiled.
  std::ptrdiff_t calls() const {
    std::ifstream file(calls_file());
    return std::count(std::istreambuf_iterator<char>(file), {}, '\n');
  }

  const std::filesystem::path& folder() const { return folder_.path(); }

 private:
  std::filesystem::path script() const { return folder_.path() / "nvcc"; }
  std::filesystem::path calls_file() const { return folder_.path() / "calls"; }

  ScratchFolder folder_;
};

/// The files below a folder that are no folders.
inline std::vector<std::filesystem::path> files_below(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  if (!std::filesystem::exists(folder)) return files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_directory()) files.push_back(entry.path());
  }
  return files;
}

inline std::string text_of(const std::vector<std::byte>& code) {
  return {reinterpret_cast<const char*>(code.data()), code.size()};
}

/// The message of the error that a variant of the store ends in; empty if it does not.
inline std::string refusal(const CodeStore& store, const Variant& variant = toy()) {
  try {
    store.cubin(variant, 90);
    return "";
  } catch (const Error& error) {
    return error.code() == ErrorCode::unavailable ? error.what() : "of another code";
  }
}

}  // namespace octavo::cuda
