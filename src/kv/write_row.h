#pragma once

#include <cstdint>

#include "octavo/append.h"

namespace octavo::kv {

/// One of new K and new V, and the pool it goes to.
struct Side {
  const TensorView<3>& source;
  const KvView& target;
  const Scale& scale;
  const Rope* rope;

  /// Whether bytes are stored as they come.
  bool copies() const {
    return rope == nullptr && source.dtype == target.dtype && scale.values.empty() &&
           scale.value == 1.0f;
  }
};

/// Stores one token of all heads, on the CPU. `position` is for the rotation, `scratch` has room
/// for a head.
void write_row(const Side& side, std::int64_t row, std::int64_t page, std::int64_t slot,
               std::int64_t position, float* scratch);

}  // namespace octavo::kv
