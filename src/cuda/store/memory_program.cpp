#include "cuda/store/memory_program.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/text.h"
#include "octavo/error.h"

namespace octavo::cuda {
namespace {

constexpr unsigned kExecutable = 0x10;  // MFD_EXEC, of Linux 6.3

[[noreturn]] void refuse() {
  throw Error(ErrorCode::unavailable,
              concat("cannot hold the program that runs NVRTC in memory: ", std::strerror(errno)));
}

}  // namespace

MemoryProgram::MemoryProgram(std::string_view bytes) {
  file_ = memfd_create("octavo-nvrtc", MFD_CLOEXEC | kExecutable);
  if (file_ < 0) file_ = memfd_create("octavo-nvrtc", MFD_CLOEXEC);  // an older Linux
  if (file_ < 0) refuse();
  while (!bytes.empty()) {
    const ssize_t written = write(file_, bytes.data(), bytes.size());
    if (written < 0) {
      close(file_);
      refuse();
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

MemoryProgram::~MemoryProgram() { close(file_); }

std::string MemoryProgram::path() const { return "/proc/self/fd/" + std::to_string(file_); }

}  // namespace octavo::cuda
