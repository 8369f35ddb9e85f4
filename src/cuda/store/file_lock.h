#pragma once

#include <filesystem>

namespace octavo::cuda {

/// Keeps other threads and processes that lock the same file waiting while it lives. The system
/// lets go of it when its process dies. Where the file cannot be made or the file system knows no
/// locks, it holds nothing, and work may be done twice.
class FileLock {
 public:
  explicit FileLock(const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  std::filesystem::path path_;
  int file_ = -1;
};

}  // namespace octavo::cuda
