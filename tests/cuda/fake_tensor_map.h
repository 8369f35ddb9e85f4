#pragma once

#include <array>
#include <cstdint>

/// What the fake libcuda writes into a CUtensorMap: the arguments of its encoding.
struct FakeTensorMap {
  const unsigned char* data;
  int rank;
  std::array<std::uint32_t, 5> shape;
  std::array<std::uint64_t, 4> strides;  ///< bytes, of all axes but the first
  std::array<std::uint16_t, 5> box;
};
