#include "cuda/store/entry.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>

#include "core/text.h"
#include "cuda/store/hash.h"
#include "octavo/error.h"

namespace octavo::cuda {
namespace {

constexpr std::string_view kMagic = "octavo cubin 1";

std::string_view text_of(const std::vector<std::byte>& code) {
  return {reinterpret_cast<const char*>(code.data()), code.size()};
}

std::string seal(std::string_view code) { return concat(code.size(), " ", hash_of(code)); }

}  // namespace

std::optional<Entry> read_entry(const std::filesystem::path& path, const std::string& key) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  std::string sealed;
  Entry entry;
  std::getline(file, magic);
  std::getline(file, entry.key);
  std::getline(file, entry.compiler);
  std::getline(file, sealed);
  if (!file || magic != kMagic || entry.key != key) return {};
  const std::string code{std::istreambuf_iterator<char>(file), {}};
  if (sealed != seal(code)) return {};
  const auto* const bytes = reinterpret_cast<const std::byte*>(code.data());
  entry.code.assign(bytes, bytes + code.size());
  return entry;
}

void write_entry(const std::filesystem::path& path, const Entry& entry) {
  const std::filesystem::path temporary = path.string() + ".new";
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  const std::string_view code = text_of(entry.code);
  file << kMagic << '\n' << entry.key << '\n' << entry.compiler << '\n' << seal(code) << '\n';
  file << code;
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    throw Error(ErrorCode::unavailable,
                concat("cannot write ", path.string(), ": ", std::strerror(errno)));
  }
}

}  // namespace octavo::cuda
