#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace octavo::cuda {

/// A cubin in a file of a pack or a cache:
///
///     octavo cubin 1
///     portable/attend.cu sm_90 D=64 ... source=5f0c...    the key
///     nvcc Build cuda_13.0.r13.0/compiler.36424714_0      the compiler
///     53120 8d2e...                                       bytes and hash of what follows
///     (the cubin)
struct Entry {
  std::string key;       ///< one line
  std::string compiler;  ///< one line
  std::vector<std::byte> code;
};

/// Nothing if the file is missing, damaged or of another key.
std::optional<Entry> read_entry(const std::filesystem::path& path, const std::string& key);

/// Makes or replaces the file at once: readers see all of it or nothing. One writer at a time.
/// Throws Error(unavailable).
void write_entry(const std::filesystem::path& path, const Entry& entry);

}  // namespace octavo::cuda
