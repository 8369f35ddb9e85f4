#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>

#include "core/arguments.h"
#include "core/footprint.h"

namespace octavo {

inline std::uintptr_t address_of(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data);
}

/// Bytes from `data` on that have an address, in the signed numbers that offsets are.
inline std::int64_t room_at(const void* data) {
  return std::numeric_limits<std::int64_t>::max() - static_cast<std::int64_t>(address_of(data));
}

template <int Rank>
bool is_empty(const TensorView<Rank>& view) {
  return std::find(view.shape.begin(), view.shape.end(), 0) != view.shape.end();
}

/// Memory that holds something: there, and where its elements may be.
inline void check_pointer(std::string_view name, const void* data, std::size_t alignment) {
  require_argument(data != nullptr, name, " is a null pointer");
  require_argument(address_of(data) % alignment == 0, name, " is not aligned to its elements of ",
                   alignment, " bytes");
}

template <typename Value>
void check_values(std::string_view name, std::span<const Value> values) {
  if (!values.empty()) check_pointer(name, values.data(), sizeof(Value));
}

/// What every view must be: non-negative sizes, a dense innermost dimension, memory. Afterwards no
/// offset of an element overflows.
template <int Rank>
void check_view(std::string_view name, const TensorView<Rank>& view) {
  for (int axis = 0; axis < Rank; ++axis) {
    require_argument(view.shape[axis] >= 0, name, ".shape[", axis, "]=", view.shape[axis],
                     ": must be at least 0");
    require_argument(view.stride[axis] >= 0, name, ".stride[", axis, "]=", view.stride[axis],
                     ": must be at least 0");
  }
  if (is_empty(view)) return;
  check_pointer(name, view.data, size_of(view.dtype));
  require_argument(view.shape[Rank - 1] == 1 || view.stride[Rank - 1] == 1, name, ".stride[",
                   Rank - 1, "]=", view.stride[Rank - 1], ": the innermost stride must be 1");
  std::int64_t room = room_at(view.data) / static_cast<std::int64_t>(size_of(view.dtype)) - 1;
  for (int axis = 0; axis < Rank; ++axis) {
    const std::int64_t steps = view.shape[axis] - 1;
    require_argument(steps == 0 || view.stride[axis] <= room / steps, name, ".stride[", axis,
                     "]=", view.stride[axis], ": with shape[", axis, "]=", view.shape[axis],
                     " the tensor ends past the last address");
    room -= steps * view.stride[axis];
  }
}

/// No two elements of an output may share memory.
template <int Rank>
void check_distinct(std::string_view name, const TensorView<Rank>& view) {
  if (is_empty(view)) return;
  std::array<int, Rank> order{};  // axes, from the smallest stride to the largest
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int x, int y) {
    return view.stride[x] != view.stride[y] ? view.stride[x] < view.stride[y] : x < y;
  });
  std::int64_t inner = 1;
  for (int axis : order) {
    if (view.shape[axis] == 1) continue;
    require_argument(view.stride[axis] >= inner, name, ".stride[", axis, "]=", view.stride[axis],
                     ": must be at least ", inner, ", or elements share memory");
    inner += view.stride[axis] * (view.shape[axis] - 1);
  }
}

template <int Rank>
Footprint footprint(std::string_view name, const TensorView<Rank>& view) {
  if (is_empty(view)) return {};
  const auto size = static_cast<std::int64_t>(size_of(view.dtype));
  Footprint bytes{name, address_of(view.data), view.shape[Rank - 1] * size, {}};
  for (int axis = 0; axis < Rank - 1; ++axis) {
    if (view.shape[axis] > 1) bytes.axes[axis] = {view.shape[axis], view.stride[axis] * size};
  }
  return bytes;
}

template <typename Value>
Footprint footprint(std::string_view name, std::span<Value> values) {
  if (values.empty()) return {};
  return {name, address_of(values.data()), static_cast<std::int64_t>(values.size_bytes()), {}};
}

inline Footprint footprint(const PageTable& table, std::int64_t requests) {
  constexpr std::int64_t kSize = sizeof(std::int32_t);
  if (requests == 0) return {};
  Footprint bytes{"page_table", address_of(table.data), table.columns * kSize, {}};
  if (requests > 1) bytes.axes[0] = {requests, table.stride * kSize};
  return bytes;
}

/// What a run writes shares no byte with anything else.
class Outputs {
 public:
  void add(const Footprint& bytes) {
    if (bytes.run == 0) return;
    check(bytes);
    written_[count_] = bytes;
    ends_[count_++] = bytes.end();
  }

  void check(const Footprint& other) const {
    if (other.run == 0) return;
    const std::uintptr_t other_end = other.end();
    for (std::size_t i = 0; i < count_; ++i) {
      if (ends_[i] <= other.begin || other_end <= written_[i].begin) continue;
      require_argument(!may_overlap(written_[i], other), written_[i].name, " and ", other.name,
                       " may share memory");
    }
  }

 private:
  std::array<Footprint, 3> written_;
  std::array<std::uintptr_t, 3> ends_{};
  std::size_t count_ = 0;
};

}  // namespace octavo
