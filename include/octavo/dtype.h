#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace octavo {

/// Element types. The fp8 types are OCP e4m3fn (no infinities) and e5m2.
enum class DType : std::uint8_t { f32, f16, bf16, e4m3, e5m2 };

inline constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16, DType::e4m3, DType::e5m2};

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::e4m3:
    case DType::e5m2:
      return 1;
  }
  return 0;
}

constexpr bool is_fp8(DType dtype) { return size_of(dtype) == 1; }

/// The name in the text form of a problem: f32, f16, bf16, e4m3, e5m2.
std::string_view name(DType dtype);
std::optional<DType> parse_dtype(std::string_view text);

}  // namespace octavo
