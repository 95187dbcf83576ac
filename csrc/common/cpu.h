/* What the running CPU must have for a path: the instructions that its files are compiled for. */
#pragma once

namespace bitsr {
namespace cpu {

#if defined(__x86_64__) || defined(_M_X64)
#define BITSR_X86_64
static inline bool avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("bmi2");
}
static inline bool avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt") &&
         __builtin_cpu_supports("bmi2");
}
static inline bool scalar() { return __builtin_cpu_supports("popcnt"); }
#else
#if defined(__aarch64__)
static inline bool neon() { return true; }
#elif defined(__wasm_simd128__)
static inline bool wasm() { return true; }
#endif
static inline bool scalar() { return true; }
#endif

}  // namespace cpu
}  // namespace bitsr
