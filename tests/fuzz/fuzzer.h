#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

namespace octavo::tests {

/// Stops the fuzzer, which then keeps the input.
inline void require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

}  // namespace octavo::tests
