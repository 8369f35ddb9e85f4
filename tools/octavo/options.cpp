#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "command.h"
#include "core/text.h"
#include "cuda/pack.h"

namespace octavo::cli {
namespace {

constexpr std::uint64_t kMaxJobs = 1024;

std::uint64_t parse_count(std::string_view option, std::string_view text) {
  std::uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) {
    throw UsageError{std::string(option) + "=" + std::string(text) + ": not a whole number"};
  }
  return value;
}

/// Numbers with commas between them.
std::vector<int> parse_architectures(std::string_view option, std::string_view text) {
  std::vector<int> list;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(','), text.size());
    const std::uint64_t value = parse_count(option, text.substr(0, end));
    const auto known = std::ranges::find(cuda::kArchitectures, value);
    if (known == std::end(cuda::kArchitectures)) {
      std::string all;
      for (const int one : cuda::kArchitectures) all += concat(all.empty() ? "" : ", ", one);
      throw UsageError{concat(option, "=", value, ": one of ", all)};
    }
    if (std::ranges::find(list, *known) == list.end()) list.push_back(*known);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return list;
}

void check(const Options& o) {
  const auto only_for = [&](bool given, std::string_view option, bool fits) {
    if (given && !fits) {
      throw UsageError{"`octavo " + o.command + "` takes no " + std::string(option)};
    }
  };
  const bool verify = o.command == "verify";
  const bool bench = o.command == "bench";
  const bool compile = o.command == "compile";
  only_for(o.seed.has_value(), "--seed", verify || bench);
  only_for(!o.cases.empty(), "--cases", bench);
  only_for(!o.match.empty(), "--match", bench);
  only_for(o.limits, "--limits", bench);
  only_for(o.random.has_value(), "--random", verify);
  only_for(!o.kernel.empty(), "--kernel", o.command != "devices");
  only_for(o.kernel == "all", "--kernel all", verify);
  only_for(!o.problem.empty(), "problem", o.command != "devices");
  only_for(!o.architectures.empty(), "--arch", compile);
  only_for(!o.out.empty(), "--out", compile);
  only_for(o.jobs.has_value(), "--jobs", compile);
  only_for(o.device != "cpu", "--device", !compile);
  if (o.jobs && (*o.jobs == 0 || *o.jobs > kMaxJobs)) {
    throw UsageError{concat("--jobs=", *o.jobs, ": from 1 to ", kMaxJobs)};
  }
  if (o.random && !o.problem.empty()) throw UsageError{"--random draws its own problems"};
  if (o.random && *o.random == 0) throw UsageError{"--random=0: at least 1"};
  if (!o.cases.empty() && !o.problem.empty()) throw UsageError{"--cases reads its own problems"};
  if (!o.match.empty() && o.cases.empty()) throw UsageError{"--match picks from --cases"};
  if (o.limits && (o.seed || !(o.problem + o.cases + o.kernel).empty())) {
    throw UsageError{"--limits stands alone"};
  }
  if (o.limits && o.device != "cpu") {
    throw UsageError{"limits are measured on the device cpu only"};
  }
  if (o.limits || !o.cases.empty()) return;
  if (o.command != "devices" && !compile && o.problem.empty() && !o.random) {
    throw UsageError{"`octavo " + o.command + "` needs a problem"};
  }
}

}  // namespace

Options parse_options(int count, char** words) {
  Options o;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (word == "--help" || word == "-h") {
      o.help = true;
      return o;
    }
    if (word == "--json") {
      o.json = true;
      continue;
    }
    if (word == "--limits") {
      o.limits = true;
      continue;
    }
    if (!word.starts_with("-")) {
      if (o.command.empty()) {
        o.command = word;
      } else {
        if (!o.problem.empty()) o.problem += ' ';
        o.problem += word;
      }
      continue;
    }
    const std::size_t equals = word.find('=');
    const std::string_view option = word.substr(0, equals);
    if (option != "--device" && option != "--kernel" && option != "--seed" &&
        option != "--random" && option != "--cases" && option != "--match" && option != "--arch" &&
        option != "--out" && option != "--jobs") {
      throw UsageError{"unknown option " + std::string(word)};
    }
    if (equals == std::string_view::npos && i + 1 == count) {
      throw UsageError{std::string(option) + " needs a value"};
    }
    const std::string_view value =
        equals == std::string_view::npos ? words[++i] : word.substr(equals + 1);
    if (value.empty()) throw UsageError{std::string(option) + " needs a value"};
    if (option == "--device") o.device = value;
    if (option == "--kernel") o.kernel = value;
    if (option == "--cases") o.cases = value;
    if (option == "--match") o.match = value;
    if (option == "--arch") o.architectures = parse_architectures(option, value);
    if (option == "--out") o.out = value;
    if (option == "--jobs") o.jobs = parse_count(option, value);
    if (option == "--seed") o.seed = parse_count(option, value);
    if (option == "--random") o.random = parse_count(option, value);
  }
  if (o.command.empty()) throw UsageError{"no command"};
  if (o.command != "devices" && o.command != "explain" && o.command != "verify" &&
      o.command != "bench" && o.command != "compile") {
    throw UsageError{"unknown command " + o.command};
  }
  check(o);
  return o;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(c));
      out += code;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

}  // namespace octavo::cli
