#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace octavo::cuda {

/// How a child process ended.
struct ChildEnd {
  enum class How { exited, killed, out_of_time } how = How::exited;
  int code = 0;        ///< exit status, or the signal that killed it
  std::string output;  ///< stdout and stderr as they came, at most 1 MiB

  bool good() const { return how == How::exited && code == 0; }
  /// As in "exit status 2", "killed by signal 11 (Segmentation fault)".
  std::string to_string() const;
};

/// Runs a program and waits for it. It gets an empty stdin, this process's environment with
/// `scratch` as its TMPDIR and without options for compilers, and a process group of its own, all
/// of which is killed at the limit. Throws Error(unavailable) if it cannot be started.
ChildEnd run_child(const std::vector<std::string>& command, const std::string& scratch,
                   std::chrono::milliseconds limit);

}  // namespace octavo::cuda
