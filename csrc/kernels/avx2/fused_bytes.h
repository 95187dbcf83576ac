/* The epilogue of an int8 convolution (kernels.h) and the bytes of the next one, in AVX2. A pixel
 * of 16 channels takes 12 instructions, of 32 22. */
#pragma once

#include <immintrin.h>

#include "kernels/kernels.h"

namespace bitsr {
namespace {

/* n pixels of CHANNELS, 16, 32 or 64: two vectors at a time, those of two pixels or of one. */
template <int CHANNELS, bool SLOPE>
void fused_bytes(const Qconv& op, const Quant& quant, int n, const int16_t (*sums)[64],
                 uint8_t* bytes) {
  using V = __m256i;
  constexpr int STEP = CHANNELS == 16 ? 2 : 1, OTHER = CHANNELS == 16 ? 0 : 1;
  const V *values = reinterpret_cast<const V*>(op.values.data()),
          *scale = reinterpret_cast<const V*>(quant.mul.data());
  const V top = _mm256_set1_epi8(char(quant.top)), bottom = _mm256_set1_epi8(char(-quant.top));
  /* mulh by 2^(15-s) is the shift by s. */
  const V down = _mm256_set1_epi16(int16_t(1 << (15 - quant.shift) % 15));
  const V sign = _mm256_set1_epi8(-128);
  for (int at = 0; at < (CHANNELS + 15) / 16; at += 2) {
    const V mul[2] = {values[at], values[at + OTHER]},
            add[2] = {values[4 + at], values[4 + at + OTHER]},
            slope[2] = {values[16 + at], values[16 + at + OTHER]},
            to[2] = {scale[at], scale[at + OTHER]};
    for (int i = 0; i < n; i += STEP) {
      V r[2] = {reinterpret_cast<const V*>(sums[i])[at],
                reinterpret_cast<const V*>(sums[i + STEP - 1])[at + OTHER]};
#pragma GCC unroll 2
      for (int q = 0; q < 2; q++) {
        r[q] = _mm256_adds_epi16(_mm256_mulhrs_epi16(r[q], mul[q]), add[q]);
        /* A slope being within -1 and 1, the larger of the two is the right one. */
        if (SLOPE) r[q] = _mm256_max_epi16(r[q], _mm256_mulhrs_epi16(r[q], slope[q]));
        r[q] = _mm256_mulhrs_epi16(r[q], to[q]);
        if (quant.shift) r[q] = _mm256_mulhrs_epi16(r[q], down);
      }
      V b = _mm256_permute4x64_epi64(_mm256_packs_epi16(r[0], r[1]), 0xD8);
      b = _mm256_xor_si256(_mm256_min_epi8(_mm256_max_epi8(b, bottom), top), sign);
      uint8_t* out = bytes + i * CHANNELS + 16 * at;
      if (i + STEP <= n)
        _mm256_storeu_si256(reinterpret_cast<V*>(out), b);
      else
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(b));
    }
  }
}

/* Whether it did, for qconv_chunks. */
inline bool fused_bytes(const Qconv& op, const Quant& quant, int n, const int16_t (*sums)[64],
                        uint8_t* bytes) {
  const bool slope = op.slope.size();
  if (op.inner_slope.size() || op.slope_add.size()) return false;
  switch (op.cout) {
    case 16:
      (slope ? fused_bytes<16, true> : fused_bytes<16, false>)(op, quant, n, sums, bytes);
      return true;
    case 32:
      (slope ? fused_bytes<32, true> : fused_bytes<32, false>)(op, quant, n, sums, bytes);
      return true;
    case 64:
      (slope ? fused_bytes<64, true> : fused_bytes<64, false>)(op, quant, n, sums, bytes);
      return true;
    default:
      return false;
  }
}

}  // namespace
}  // namespace bitsr
