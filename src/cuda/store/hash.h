#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace octavo::cuda {

/// 32 hexadecimal digits that tell contents apart: FNV-1a of 128 bits. No defence against forgery.
inline std::string hash_of(std::string_view bytes) {
  using Word = unsigned __int128;
  constexpr Word kPrime = (Word{1} << 88) + 0x13b;
  Word state = (Word{0x6c62272e07bb0142} << 64) + 0x62b821756295c58d;
  for (const char c : bytes) state = (state ^ static_cast<unsigned char>(c)) * kPrime;
  std::string digits(32, '0');
  for (auto digit = digits.rbegin(); digit != digits.rend(); ++digit, state >>= 4) {
    *digit = "0123456789abcdef"[static_cast<unsigned>(state & 15)];
  }
  return digits;
}

}  // namespace octavo::cuda
