#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "octavo/error.h"

namespace octavo::cuda {

/// The message of the error of this kind that the body throws; the test fails if it does not.
inline std::string error_of(ErrorCode code, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

}  // namespace octavo::cuda
