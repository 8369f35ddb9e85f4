#include "cuda/store/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace octavo::cuda {
namespace {

bool lock(int file) {
  int result = 0;
  do {
    result = flock(file, LOCK_EX);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

bool is_still_at(const std::filesystem::path& path, int file) {
  struct stat there {};
  struct stat here {};
  return stat(path.c_str(), &there) == 0 && fstat(file, &here) == 0 &&
         there.st_ino == here.st_ino && there.st_dev == here.st_dev;
}

}  // namespace

FileLock::FileLock(const std::filesystem::path& path) : path_(path) {
  for (;;) {
    file_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file_ < 0) return;
    const bool locked = lock(file_);
    if (locked && is_still_at(path, file_)) return;
    close(file_);
    file_ = -1;
    if (!locked) return;
    // Whoever held it before has removed the file, and others lock the next one.
  }
}

FileLock::~FileLock() {
  if (file_ < 0) return;
  unlink(path_.c_str());
  close(file_);
}

}  // namespace octavo::cuda
