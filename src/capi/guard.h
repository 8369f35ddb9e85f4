#pragma once

#include <string_view>

#include "core/text.h"
#include "octavo/c.h"
#include "octavo/error.h"

namespace octavo::capi {

/// The code of the exception being handled. Keeps its message for the calling thread.
octavo_code take_exception() noexcept;

/// Keeps the message for the calling thread, and gives the code back.
octavo_code fail(octavo_code code, std::string_view text) noexcept;

/// Runs the body of a function of the C API: an exception becomes a code.
template <typename Body>
octavo_code guard(const Body& body) noexcept {
  try {
    body();
    return OCTAVO_OK;
  } catch (...) {
    return take_exception();
  }
}

/// The message of the calling thread's last error.
const char* last_error() noexcept;

/// Throws Error(invalid_argument) for a null pointer.
void require_pointer(const char* name, const void* pointer);

/// Throws Error(invalid_argument) for a struct of another version of the library.
template <typename Struct>
void require_version(const char* name, const Struct& given) {
  if (given.struct_size != sizeof(Struct)) {
    throw Error(ErrorCode::invalid_argument, concat(name, ".struct_size=", given.struct_size,
                                                    ": this version's is ", sizeof(Struct)));
  }
}

}  // namespace octavo::capi
