#pragma once

#include <unistd.h>

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace octavo {

/// Bytes of a core's second cache; where the system does not say, what small ones have.
inline std::int64_t second_cache_bytes() {
  constexpr std::int64_t kSmall = 512 << 10;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const std::int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return kSmall;
}

// What this processor, and the system's saving of its registers, allow.

#if defined(__x86_64__)
/// Clang 14's __builtin_cpu_supports does not know F16C. Leaf 1: ECX bit 29.
inline bool has_avx2() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 29 & 1) != 0;
}
inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
/// With VBMI, which Cooper Lake lacks: its AVX-512 kernel is faster in floats anyway.
inline bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vbmi");
}
/// GCC 12's __builtin_cpu_supports does not know AMX. Leaf 7: EDX bit 22 is AMX-BF16, 24 AMX-TILE.
inline bool has_amx_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx512_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1) != 0 &&
         (d >> 24 & 1) != 0;
}
/// Whether the processor has AMX-BF16 and Linux grants this process its registers, which is asked
/// once.
inline bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  static const bool granted =
      has_amx_bf16() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}
inline bool is_amd() { return __builtin_cpu_is("amd"); }
#elif defined(__aarch64__)
inline bool has_neon_bf16() {
  constexpr unsigned long kBf16 = 1ul << 14;  // HWCAP2_BF16
  return (getauxval(AT_HWCAP2) & kBf16) != 0;
}
#endif

}  // namespace octavo
