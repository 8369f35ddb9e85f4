#pragma once

#include <filesystem>

namespace octavo::cuda {

/// A folder below TMPDIR (/tmp) that goes with this object.
class ScratchFolder {
 public:
  /// Throws Error(unavailable).
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace octavo::cuda
