#pragma once

#include <string>
#include <string_view>

namespace octavo::cuda {

/// A program that can be started though it is no file: its bytes lie in anonymous memory.
class MemoryProgram {
 public:
  /// Throws Error(unavailable).
  explicit MemoryProgram(std::string_view bytes);
  ~MemoryProgram();
  MemoryProgram(const MemoryProgram&) = delete;
  MemoryProgram& operator=(const MemoryProgram&) = delete;
  /// Good in this process and its children, until they start a program.
  std::string path() const;

 private:
  int file_ = -1;
};

}  // namespace octavo::cuda
