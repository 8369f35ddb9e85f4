#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace octavo::kv {

/// Mixes a page's tokens into the hash of all that comes before it.
using TokenHash = std::uint64_t (*)(std::uint64_t before, std::span<const std::int32_t> tokens);

/// A bijection that spreads every bit over all others: the finaliser of SplitMix64.
constexpr std::uint64_t spread(std::uint64_t bits) {
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return bits ^ bits >> 31;
}

inline std::uint64_t hash_tokens(std::uint64_t before, std::span<const std::int32_t> tokens) {
  std::uint64_t hash = before;
  for (const std::int32_t token : tokens) {
    hash = spread(hash + 0x9e3779b97f4a7c15u + static_cast<std::uint32_t>(token));
  }
  return hash;
}

inline std::uint64_t hash_salt(std::string_view salt) {
  std::uint64_t hash = salt.size();
  for (const char c : salt) hash = spread(hash + static_cast<unsigned char>(c));
  return hash;
}

}  // namespace octavo::kv
