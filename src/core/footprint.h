#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace octavo {

/// The bytes of a view: dense runs, repeated along up to three axes. Steps are not negative and the
/// last byte has an address.
struct Footprint {
  struct Axis {
    std::int64_t count = 1;
    std::int64_t step = 0;  ///< bytes
  };
  std::string_view name;
  std::uintptr_t begin = 0;
  std::int64_t run = 0;  ///< bytes of a run; 0: no bytes at all
  std::array<Axis, 3> axes{};

  /// Bytes from the first to past the last, without the steps that are multiples of `period`:
  /// modulo that, every byte lies in a stretch of this length.
  std::int64_t stretch(std::int64_t period) const {
    std::int64_t bytes = run;
    for (const Axis& axis : axes) {
      if (axis.count > 1 && axis.step % period != 0) bytes += (axis.count - 1) * axis.step;
    }
    return bytes;
  }
  std::uintptr_t end() const {
    std::int64_t bytes = run;
    for (const Axis& axis : axes) bytes += (axis.count - 1) * axis.step;
    return begin + static_cast<std::uintptr_t>(bytes);
  }
};

/// Whether the bytes of two views lie apart at every multiple of `period`, as two column ranges of
/// one matrix do for the period of a row.
inline bool apart(const Footprint& a, const Footprint& b, std::int64_t period) {
  const std::int64_t a_bytes = a.stretch(period);
  const std::int64_t b_bytes = b.stretch(period);
  if (a_bytes > period || b_bytes > period) return false;
  const auto modulus = static_cast<std::uintptr_t>(period);
  const auto b_after_a =
      static_cast<std::int64_t>((b.begin % modulus + modulus - a.begin % modulus) % modulus);
  return b_after_a >= a_bytes && b_bytes <= period - b_after_a;
}

/// Whether two views may share a byte. Exact for slices of one dense array; where the strides of
/// two overlapping ranges have nothing to do with each other, it says that they may.
inline bool may_overlap(const Footprint& a, const Footprint& b) {
  if (a.run == 0 || b.run == 0) return false;
  if (a.end() <= b.begin || b.end() <= a.begin) return false;
  for (const Footprint* view : {&a, &b}) {
    for (const Footprint::Axis& axis : view->axes) {
      if (axis.count > 1 && axis.step > 0 && apart(a, b, axis.step)) return false;
    }
  }
  return true;
}

}  // namespace octavo
