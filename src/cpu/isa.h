#pragma once

namespace octavo {

// What this processor, and the system's saving of its registers, allow.

inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
inline bool is_amd() { return __builtin_cpu_is("amd"); }

}  // namespace octavo
