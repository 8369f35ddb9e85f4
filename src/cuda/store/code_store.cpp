#include "cuda/store/code_store.h"

#include <algorithm>
#include <optional>
#include <system_error>

#include "core/text.h"
#include "cuda/store.h"
#include "cuda/store/entry.h"
#include "cuda/store/file_lock.h"
#include "cuda/store/hash.h"
#include "cuda/store/places.h"
#include "octavo/error.h"

namespace octavo::cuda {
namespace {

namespace fs = std::filesystem;

/// Of what a key says, and of the options that compilers get.
constexpr int kFormat = 1;

std::string target_of(const Variant& variant, int architecture) {
  return concat("sm_", architecture, variant.architecture_specific ? "a" : "");
}

/// What code depends on apart from the compiler.
std::string key_of(const Variant& variant, int architecture, std::span<const EmbeddedFile> files) {
  std::string contents;
  for (const EmbeddedFile& file : files) {
    contents += concat(file.path, " ", file.bytes.size(), "\n", file.bytes);
  }
  return concat(describe(variant, architecture), variant.may_spill ? " may spill" : "",
                " format=", kFormat, " source=", hash_of(contents));
}

/// As in portable-attend-5f0c....cubin: for people the source, and the rest for uniqueness.
std::string file_name(const Variant& variant, const std::string& key) {
  std::string name = fs::path(variant.source).replace_extension().string();
  std::ranges::replace(name, '/', '-');
  return concat(name, "-", hash_of(key), ".cubin");
}

fs::path file_in(const fs::path& folder, const Variant& variant, int architecture,
                 const std::string& key) {
  return folder / concat("sm_", architecture) / file_name(variant, key);
}

void make_folder_of(const fs::path& file) {
  std::error_code ignored;  // whoever writes into it will say
  fs::create_directories(file.parent_path(), ignored);
}

}  // namespace

std::string describe(const Variant& variant, int architecture) {
  std::string text = concat(variant.source, " ", target_of(variant, architecture));
  for (const auto& [name, value] : variant.definitions) text += concat(" ", name, "=", value);
  return text;
}

StoreSettings StoreSettings::from_environment() {
  StoreSettings settings;
  settings.pack = pack_folder();
  settings.cache = cache_folder();
  settings.compilers = CompilerSearch::from_environment();
  return settings;
}

std::vector<std::byte> CodeStore::cubin(const Variant& variant, int architecture) const {
  const std::vector<EmbeddedFile> files = with_includes(settings_.sources, variant.source);
  const std::string key = key_of(variant, architecture, files);
  const fs::path packed = file_in(settings_.pack, variant, architecture, key);
  if (!settings_.pack.empty()) {
    if (std::optional<Entry> entry = read_entry(packed, key)) return std::move(entry->code);
  }
  try {
    const Compiler compiler = find_compiler(settings_.compilers);
    const auto build = [&] {
      return compile(compiler, files, variant, target_of(variant, architecture), settings_.limit);
    };
    if (settings_.cache.empty()) return build();
    const std::string cache_key = concat(key, " compiler=", compiler.version);
    const fs::path cached = file_in(settings_.cache, variant, architecture, cache_key);
    if (std::optional<Entry> entry = read_entry(cached, cache_key)) return std::move(entry->code);
    make_folder_of(cached);
    const FileLock lock(cached.string() + ".lock");
    // Another may have compiled it meanwhile.
    if (std::optional<Entry> entry = read_entry(cached, cache_key)) return std::move(entry->code);
    std::vector<std::byte> code = build();
    try {
      write_entry(cached, {cache_key, compiler.version, code});
    } catch (const Error&) {
      // The code is good although the next process has to compile it again.
    }
    return code;
  } catch (const Error& error) {
    std::error_code ignored;
    throw Error(error.code(),
                concat("device code of ", describe(variant, architecture), " is not in the pack ",
                       settings_.pack.string(),
                       fs::exists(packed, ignored) ? " (its file there is damaged)" : "", ": ",
                       error.what()));
  }
}

bool CodeStore::add_to_pack(const Variant& variant, int architecture) const {
  const std::vector<EmbeddedFile> files = with_includes(settings_.sources, variant.source);
  const std::string key = key_of(variant, architecture, files);
  const fs::path packed = file_in(settings_.pack, variant, architecture, key);
  const Compiler compiler = find_compiler(settings_.compilers);
  make_folder_of(packed);
  const FileLock lock(packed.string() + ".lock");
  const std::optional<Entry> there = read_entry(packed, key);
  if (there && there->compiler == compiler.version) return false;
  write_entry(packed, {key, compiler.version,
                       compile(compiler, files, variant, target_of(variant, architecture),
                               settings_.limit)});
  return true;
}

fs::path CodeStore::pack_file(const Variant& variant, int architecture) const {
  const std::vector<EmbeddedFile> files = with_includes(settings_.sources, variant.source);
  return file_in(settings_.pack, variant, architecture, key_of(variant, architecture, files));
}

std::vector<std::byte> cubin(const Variant& variant, int architecture) {
  return CodeStore(StoreSettings::from_environment()).cubin(variant, architecture);
}

}  // namespace octavo::cuda
