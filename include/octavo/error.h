#pragma once

#include <stdexcept>
#include <string>

namespace octavo {

enum class ErrorCode {
  invalid_problem,   ///< text that does not parse, or a problem that makes no sense
  invalid_argument,  ///< arguments of a run that do not fit the plan
  unsupported,       ///< no kernel, or not the forced one, can compute the problem
  unavailable,       ///< the device or backend is not there
  device_error,      ///< the device's driver refused or failed a call
};

/// The only exception the library throws on purpose. The message names the field, its value and the
/// limit.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace octavo
