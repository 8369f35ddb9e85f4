#include "cuda/store/compiler.h"

#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>

#include "core/text.h"
#include "cuda/store/memory_program.h"
#include "cuda/store/process.h"
#include "cuda/store/scratch.h"
#include "octavo/error.h"

namespace octavo::cuda {
namespace {

namespace fs = std::filesystem;

std::vector<std::byte> read_code(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto* const bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
}

bool is_elf(const std::vector<std::byte>& code) {
  return code.size() > 4 && std::string_view(reinterpret_cast<const char*>(code.data()), 4) ==
                                "\x7f"
                                "ELF";
}

void write_sources(std::span<const EmbeddedFile> files, const fs::path& folder) {
  for (const EmbeddedFile& source : files) {
    const fs::path path = folder / source.path;
    std::error_code failed;
    fs::create_directories(path.parent_path(), failed);
    std::ofstream out(path, std::ios::binary);
    out << source.bytes;
    out.close();
    if (!out) throw Error(ErrorCode::unavailable, "cannot write " + path.string());
  }
}

/// A change of these options needs another kFormat in the store.
std::vector<std::string> options(const Variant& variant, const fs::path& folder) {
  std::vector<std::string> words = {"-std=c++20", "-I" + folder.string()};
  for (const auto& [name, value] : variant.definitions)
    words.push_back(concat("-D", name, "=", value));
  return words;
}

ChildEnd run_nvcc(const Compiler& compiler, const Variant& variant, const std::string& target,
                  const fs::path& folder, const fs::path& out, std::chrono::milliseconds limit) {
  // Only device code is made, so that any host compiler will do.
  std::vector<std::string> command = {
      compiler.path, "-cubin", "-arch=" + target, "-allow-unsupported-compiler",     "-Xptxas",
      "-v",          "-o",     out.string(),      (folder / variant.source).string()};
  for (std::string& word : options(variant, folder)) command.push_back(std::move(word));
  return run_child(command, folder, limit);
}

ChildEnd run_nvrtc(const Compiler& compiler, const Variant& variant, const std::string& target,
                   const fs::path& folder, const fs::path& out, std::chrono::milliseconds limit) {
  const MemoryProgram child(nvrtc_child().front().bytes);
  std::vector<std::string> command = {
      child.path(), "compile",         compiler.path,       (folder / variant.source).string(),
      out.string(), "-arch=" + target, "--ptxas-options=-v"};
  for (std::string& word : options(variant, folder)) command.push_back(std::move(word));
  return run_child(command, folder, limit);
}

/// Whether ptxas reports a spill of at least one byte.
bool spills(std::string_view log) {
  constexpr std::string_view kWords = " bytes spill ";
  for (std::size_t at = log.find(kWords); at != std::string_view::npos;
       at = log.find(kWords, at + 1)) {
    std::size_t digit = at;
    for (; digit > 0 && std::isdigit(static_cast<unsigned char>(log[digit - 1])) != 0; --digit) {
      if (log[digit - 1] != '0') return true;
    }
  }
  return false;
}

/// What is wrong with code that the compiler took; empty if nothing is.
std::string_view defect(std::string_view log, const Variant& variant) {
  if (!variant.may_spill && spills(log)) return "registers spill";
  for (const std::string_view sign : {"wgmma.mma_async instructions are serialized", "(C7510)",
                                      "(C7517)", "(C7519)", "(C7520)"}) {
    if (log.find(sign) != std::string_view::npos) return "wgmma instructions are serialised";
  }
  return {};
}

}  // namespace

std::vector<std::byte> compile(const Compiler& compiler, std::span<const EmbeddedFile> files,
                               const Variant& variant, const std::string& target,
                               std::chrono::milliseconds limit) {
  const ScratchFolder scratch;
  write_sources(files, scratch.path());
  const fs::path out = scratch.path() / "code.cubin";
  const ChildEnd end = (compiler.kind == Compiler::Kind::nvcc ? run_nvcc : run_nvrtc)(
      compiler, variant, target, scratch.path(), out, limit);
  std::vector<std::byte> code = read_code(out);
  std::string problem;
  if (!end.good()) {
    problem = end.to_string();
  } else if (!is_elf(code)) {
    problem = "it wrote no code";
  } else {
    problem = defect(end.output, variant);
  }
  if (problem.empty()) return code;
  constexpr std::size_t kShown = 4000;
  throw Error(ErrorCode::unavailable,
              concat(compiler.path, " (", compiler.version, "): ", problem, "\n",
                     end.output.substr(0, kShown), end.output.size() > kShown ? "..." : ""));
}

}  // namespace octavo::cuda
