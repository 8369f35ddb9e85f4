#pragma once

#include <cstddef>

#include "core/call.h"
#include "core/kernel.h"
#include "core/text.h"
#include "octavo/error.h"

namespace octavo {

/// Throws Error(invalid_argument) with the parts as its message, unless the condition holds.
template <typename... Parts>
void require_argument(bool condition, const Parts&... parts) {
  if (!condition) throw Error(ErrorCode::invalid_argument, concat(parts...));
}

/// The checks that need no value behind a pointer, so that they fit runs on every device: dtypes,
/// shapes, strides, null and misaligned pointers, outputs that share memory. Throws
/// Error(invalid_argument) that names the argument, its value and what would be right.
void check_arguments(const Problem& problem, const Arguments& arguments);

/// Checks the arguments of a run on the CPU, lengths and page ids included, and resolves the
/// requests.
Call make_call(const Problem& problem, const Arguments& arguments, std::byte* workspace);

/// Checks the arguments of a run on a device with streams, whose memory the host does not read.
/// `workspace`: the bytes that the kernel needs.
StreamCall make_stream_call(const Problem& problem, const Arguments& arguments,
                            std::size_t workspace, void* stream);

}  // namespace octavo
