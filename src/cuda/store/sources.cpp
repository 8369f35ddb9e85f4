#include "cuda/store/sources.h"

#include <algorithm>
#include <filesystem>
#include <string>

#include "core/text.h"
#include "octavo/error.h"

namespace octavo::cuda {
namespace {

const EmbeddedFile* find(std::span<const EmbeddedFile> all, std::string_view path) {
  const auto found = std::ranges::find(all, path, &EmbeddedFile::path);
  return found == all.end() ? nullptr : &*found;
}

/// What stands in quotes after each #include.
std::vector<std::string_view> included(std::string_view text) {
  std::vector<std::string_view> names;
  for (std::size_t line = 0; line < text.size();) {
    const std::size_t end = std::min(text.find('\n', line), text.size());
    const std::string_view words = text.substr(line, end - line);
    const std::size_t open = words.find('"');
    const std::size_t close = words.rfind('"');
    if (words.starts_with("#include") && open < close) {
      names.push_back(words.substr(open + 1, close - open - 1));
    }
    line = end + 1;
  }
  return names;
}

}  // namespace

std::vector<EmbeddedFile> with_includes(std::span<const EmbeddedFile> all, std::string_view name) {
  const EmbeddedFile* const main = find(all, name);
  if (main == nullptr) {
    throw Error(ErrorCode::unavailable, concat("the library holds no kernel source ", name));
  }
  std::vector<EmbeddedFile> files = {*main};
  for (std::size_t i = 0; i < files.size(); ++i) {
    const auto folder = std::filesystem::path(files[i].path).parent_path();
    for (const std::string_view include : included(files[i].bytes)) {
      const EmbeddedFile* file = find(all, (folder / include).lexically_normal().string());
      if (file == nullptr) file = find(all, include);
      // What is nowhere is left to the compiler, which knows whether the line is reached.
      if (file != nullptr && find(files, file->path) == nullptr) files.push_back(*file);
    }
  }
  return files;
}

}  // namespace octavo::cuda
