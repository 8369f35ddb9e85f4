#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "octavo/octavo.h"

namespace octavo::cli {

/// Exit codes.
inline constexpr int kPassed = 0;
inline constexpr int kWrong = 1;
inline constexpr int kRefused = 2;

/// A command line that makes no sense.
struct UsageError {
  std::string message;
};

struct Options {
  std::string command;
  std::string problem;  ///< the words that are not options
  std::string device = "cpu";
  std::string kernel;  ///< a name, `all`, or empty for the selected one
  std::optional<std::uint64_t> seed;
  std::optional<std::uint64_t> random;
  std::string cases;               ///< a file of named problems, see bench/cases.txt
  std::string match;               ///< of these, those with the text in their name
  std::vector<int> architectures;  ///< as in 90; empty: those of the devices
  std::string out;                 ///< a folder for a pack
  std::optional<std::uint64_t> jobs;
  bool limits = false;
  bool json = false;
  bool help = false;
};

Options parse_options(int count, char** words);

int run_verify(const Options& options);
int run_verify_random(const Options& options);
int run_bench(const Options& options);
int run_compile(const Options& options);

/// A JSON string, with its quotes.
std::string json_string(std::string_view text);
/// A JSON number; null if not finite.
std::string number(double value);

}  // namespace octavo::cli
