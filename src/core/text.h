#pragma once

#include <sstream>
#include <string>

namespace octavo {

/// The parts, printed one after another.
template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

}  // namespace octavo
