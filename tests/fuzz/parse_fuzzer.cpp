// Any text: it parses and prints back, and selects a kernel, or is refused with a message.
#include <cstddef>
#include <cstdint>

#include "fuzzer.h"
#include "octavo/octavo.h"

namespace octavo::tests {
namespace {

void fuzz(std::string_view text) {
  static const Device device = Device::cpu();
  try {
    const Problem problem = Problem::parse(text);
    require(Problem::parse(problem.to_string()) == problem, "printed as " + problem.to_string());
    select(problem, device);
  } catch (const Error& error) {
    require(error.code() == ErrorCode::invalid_problem || error.code() == ErrorCode::unsupported,
            error.what());
    require(*error.what() != '\0', "an error without a message");
  }
}

}  // namespace
}  // namespace octavo::tests

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  octavo::tests::fuzz({reinterpret_cast<const char*>(data), size});
  return 0;
}
