#include "capi/guard.h"

#include <new>
#include <string>
#include <string_view>

#include "core/text.h"
#include "octavo/error.h"

namespace octavo::capi {
namespace {

constexpr const char kOutOfMemory[] = "out of memory";  // short enough never to be allocated

thread_local std::string message;

octavo_code code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_problem:
      return OCTAVO_INVALID_PROBLEM;
    case ErrorCode::invalid_argument:
      return OCTAVO_INVALID_ARGUMENT;
    case ErrorCode::unsupported:
      return OCTAVO_UNSUPPORTED;
    case ErrorCode::unavailable:
      return OCTAVO_UNAVAILABLE;
    case ErrorCode::device_error:
      return OCTAVO_DEVICE_ERROR;
  }
  return OCTAVO_INTERNAL;
}

}  // namespace

octavo_code fail(octavo_code code, std::string_view text) noexcept {
  try {
    message = text;
  } catch (...) {
    message = kOutOfMemory;
  }
  return code;
}

octavo_code take_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return fail(code_of(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return fail(OCTAVO_OUT_OF_MEMORY, kOutOfMemory);
  } catch (const std::exception& error) {
    return fail(OCTAVO_INTERNAL, error.what());
  } catch (...) {
    return fail(OCTAVO_INTERNAL, "an exception that says nothing");
  }
}

const char* last_error() noexcept { return message.c_str(); }

void require_pointer(const char* name, const void* pointer) {
  if (pointer == nullptr) {
    throw Error(ErrorCode::invalid_argument, concat(name, " is a null pointer"));
  }
}

}  // namespace octavo::capi
