#include "cuda/store/places.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <system_error>

namespace octavo::cuda {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPackName = "octavo-cubins";

fs::path from_variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

fs::path library_folder() {
  Dl_info info{};
  void* extra = nullptr;
  // The link map names no file for the program itself.
  if (dladdr1(reinterpret_cast<const void*>(&library_folder), &info, &extra, RTLD_DL_LINKMAP) ==
      0) {
    return {};
  }
  const char* const name = static_cast<const link_map*>(extra)->l_name;
  std::error_code failed;
  const fs::path file = fs::canonical(*name == '\0' ? "/proc/self/exe" : name, failed);
  return failed ? fs::path() : file.parent_path();
}

fs::path pack_folder() {
  fs::path named = from_variable("OCTAVO_CUDA_PACK");
  if (!named.empty()) return named;
  const fs::path own = library_folder();
  if (own.filename() != "bin") return own / kPackName;
  const fs::path libraries = own.parent_path() / OCTAVO_LIBDIR;
  std::error_code ignored;
  return (fs::is_directory(libraries, ignored) ? libraries : own.parent_path()) / kPackName;
}

fs::path cache_folder() {
  const fs::path named = from_variable("XDG_CACHE_HOME");
  if (named.is_absolute()) return named / "octavo/cubins";  // as the specification has it
  const fs::path home = from_variable("HOME");
  return home.empty() ? fs::path() : home / ".cache/octavo/cubins";
}

}  // namespace octavo::cuda
