/* What the running CPU must have for a path: the instructions that its files are compiled for. */
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace bitsr {
namespace cpu {

#if defined(__x86_64__)
#define BITSR_X86_64
struct Features {
  bool popcnt, avx2, avxvnni, avx512;
};

/* By CPUID itself: in what zig links for Windows, __builtin_cpu_supports is false for everything.
 */
static inline Features detect() {
  Features has = {};
  unsigned a, b, c, d, saved = 0;
  const auto bits = [](unsigned word, unsigned wanted) { return (word & wanted) == wanted; };
  if (!__get_cpuid(1, &a, &b, &c, &d)) return has;
  has.popcnt = bits(c, 1u << 23);
  /* The registers that the system saves: it says so itself. */
  if (bits(c, 1u << 27)) asm("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
  if (!has.popcnt || !bits(saved, 0x6) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return has;
  const bool more = a >= 1;
  has.avx2 = bits(b, 1u << 5 | 1u << 8); /* and BMI2 */
#if defined(__APPLE__)
  saved |= 0xe0; /* those of AVX-512 once they are used */
#endif
  /* F, DQ, BW, VL; VNNI, VPOPCNTDQ */
  has.avx512 = has.avx2 && bits(saved, 0xe0) &&
               bits(b, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) && bits(c, 1u << 11 | 1u << 14);
  if (more && __get_cpuid_count(7, 1, &a, &b, &c, &d)) has.avxvnni = has.avx2 && bits(a, 1u << 4);
  return has;
}
static inline const Features& features() {
  static const Features has = detect();
  return has;
}
static inline bool avx512() { return features().avx512; }
static inline bool avxvnni() { return features().avxvnni; }
static inline bool avx2() { return features().avx2; }
static inline bool scalar() { return features().popcnt; }
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
