/* The epilogue (kernels.h) in AVX2. */
#pragma once

#include <immintrin.h>

#include "kernels/kernels.h"

namespace bitsr {

using V = __m256i;

/* v < 0 ? mulh(v, slope) : v. A slope being within -1 and 1, the larger of the two is the right
 * one.
 */
static inline V leak(V v, V slope) { return _mm256_max_epi16(v, _mm256_mulhrs_epi16(v, slope)); }

/* CHANNELS (16, 32 or 64) of 64 channels of n pixels from column `from` on; sums(i, q) gives `a` of
 * 16 channels of pixel from
 * + i. */
template <int CHANNELS, bool INNER, bool SLOPE, bool SLOPE_ADD, class Sums>
static inline __attribute__((always_inline)) void finish_chunk(const Epilogue& op,
                                                               const EpilogueRow& row, int block,
                                                               int from, int n, Sums sums) {
  const V* values = reinterpret_cast<const V*>(op.values.data()) + 4 * VALUES * block;
  const size_t stride = size_t(op.cout_pad);
  const bool several = op.maps > 1;
  /* 32 channels at a time, so that their values stay in registers; copies, for stores to out might
   * change the array. */
  for (int half = 0; half < (CHANNELS + 31) / 32; half++) {
    V v[VALUES][2];
#pragma GCC unroll 7
    for (int i = 0; i < VALUES; i++)
      v[i][0] = values[4 * i + 2 * half], v[i][1] = values[4 * i + 2 * half + 1];
    const size_t at = size_t(from) * stride + 64 * size_t(block) + 32 * size_t(half);
    for (int i = 0; i < n; i++) {
      const V* skip =
          row.skip ? reinterpret_cast<const V*>(row.skip + at + size_t(i) * stride) : nullptr;
      V* out = row.out ? reinterpret_cast<V*>(row.out + at + size_t(i) * stride) : nullptr;
      V below[2], map = _mm256_setzero_si256();
      if (row.map)
        map = several
                  ? _mm256_broadcastsi128_si256(reinterpret_cast<const __m128i*>(row.map)[from + i])
                  : _mm256_set1_epi16(row.map[from + i]);
#pragma GCC unroll 2
      for (int q = 0; q < (CHANNELS == 16 ? 1 : 2); q++) {
        V r = row.map ? _mm256_mulhrs_epi16(map, v[0][q]) : v[0][q];
        r = _mm256_adds_epi16(_mm256_mulhrs_epi16(sums(i, 2 * half + q), r), v[1][q]);
        if (INNER) r = _mm256_adds_epi16(leak(r, v[2][q]), v[3][q]);
        if (skip) r = _mm256_adds_epi16(r, skip[q]);
        if (SLOPE) r = leak(r, v[4][q]);
        if (SLOPE_ADD) r = _mm256_adds_epi16(r, v[6][q]);
        if (out) out[q] = r;
        below[q] = _mm256_cmpgt_epi16(v[5][q], r);
      }
      if (CHANNELS == 64 && row.bits) {
        const V bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(below[0], below[1]), 0xD8);
        const int32_t mask = _mm256_movemask_epi8(bytes);
        auto* word =
            reinterpret_cast<char*>(row.bits + size_t(from + i) * (stride / 64) + size_t(block));
        std::memcpy(word + 4 * half, &mask, 4);
      }
    }
  }
}

}  // namespace bitsr

#include "kernels/epilogue_instances.h"
