// Runs NVRTC in a process of its own, so that its crash is not the caller's. The library holds this
// program and starts it from memory.
//
//   probe LIBRARY...                           prints the path and version of the first that loads
//   compile LIBRARY SOURCE OUTPUT OPTION...    writes a cubin; the log goes to stderr
#include <dlfcn.h>
#include <link.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

using Program = void*;

template <typename Function>
Function* entry(void* library, const char* name) {
  void* const found = dlsym(library, name);
  if (found == nullptr) std::fprintf(stderr, "%s\n", dlerror());
  return reinterpret_cast<Function*>(found);
}

void* open_library(const char* path) {
  void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) std::fprintf(stderr, "%s\n", dlerror());
  return library;
}

int probe(int count, char** candidates) {
  for (int i = 0; i < count; ++i) {
    void* const library = open_library(candidates[i]);
    if (library == nullptr) continue;
    const auto version = entry<int(int*, int*)>(library, "nvrtcVersion");
    int major = 0;
    int minor = 0;
    link_map* map = nullptr;
    if (version == nullptr || version(&major, &minor) != 0) continue;
    if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) continue;
    std::printf("%s\n%d.%d\n", map->l_name, major, minor);
    return 0;
  }
  return 1;
}

int compile(const char* path, const char* source, const char* output, int count, char** options) {
  void* const library = open_library(path);
  if (library == nullptr) return 1;
  const auto create =
      entry<int(Program*, const char*, const char*, int, const char* const*, const char* const*)>(
          library, "nvrtcCreateProgram");
  const auto build = entry<int(Program, int, const char* const*)>(library, "nvrtcCompileProgram");
  const auto log_size = entry<int(Program, std::size_t*)>(library, "nvrtcGetProgramLogSize");
  const auto get_log = entry<int(Program, char*)>(library, "nvrtcGetProgramLog");
  const auto code_size = entry<int(Program, std::size_t*)>(library, "nvrtcGetCUBINSize");
  const auto get_code = entry<int(Program, char*)>(library, "nvrtcGetCUBIN");
  const auto describe = entry<const char*(int)>(library, "nvrtcGetErrorString");
  if (create == nullptr || build == nullptr || log_size == nullptr || get_log == nullptr ||
      code_size == nullptr || get_code == nullptr || describe == nullptr) {
    return 1;
  }

  std::ifstream file(source, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  Program program = nullptr;
  if (const int error = create(&program, text.c_str(), source, 0, nullptr, nullptr)) {
    std::fprintf(stderr, "nvrtcCreateProgram: %s\n", describe(error));
    return 1;
  }
  const int error = build(program, count, options);
  std::size_t size = 0;
  if (log_size(program, &size) == 0 && size > 1) {
    std::string log(size, '\0');
    get_log(program, log.data());
    std::fprintf(stderr, "%s\n", log.c_str());
  }
  if (error != 0) {
    std::fprintf(stderr, "nvrtcCompileProgram: %s\n", describe(error));
    return 1;
  }
  std::vector<char> code;
  if (code_size(program, &size) == 0) code.resize(size);
  if (code.empty() || get_code(program, code.data()) != 0) {
    std::fprintf(stderr, "nvrtcGetCUBIN: no code\n");
    return 1;
  }
  std::ofstream out(output, std::ios::binary);
  out.write(code.data(), static_cast<std::streamsize>(code.size()));
  out.close();
  return out ? 0 : 1;
}

int run(int count, char** words) {
  const std::string command = count > 1 ? words[1] : "";
  if (command == "probe") return probe(count - 2, words + 2);
  if (command == "compile" && count >= 5) {
    return compile(words[2], words[3], words[4], count - 5, words + 5);
  }
  return 2;
}

}  // namespace

int main(int count, char** words) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int code = run(count, words);
  std::fflush(stdout);
  _exit(code);  // without what NVRTC's destructors may do
}
