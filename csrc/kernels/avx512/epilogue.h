/* The epilogue (kernels.h) in AVX-512BW. */
#pragma once

#include <immintrin.h>

#include "kernels/kernels.h"

namespace bitsr {

using V = __m512i;

/* CHANNELS (16, 32 or 64) of 64 channels of n pixels from column `from` on; sums(i, half) gives `a`
 * of 32 channels of pixel from + i. */
template <int CHANNELS, bool INNER, bool SLOPE, bool SLOPE_ADD, class Sums>
static inline __attribute__((always_inline)) void finish_chunk(const Epilogue& op,
                                                               const EpilogueRow& row, int block,
                                                               int from, int n, Sums sums) {
  /* Copies, for stores to out might change the array. */
  V v[2 * VALUES];
#pragma GCC unroll 14
  for (int i = 0; i < 2 * VALUES; i++)
    v[i] = _mm512_load_si512(op.values.data() + 32 * (2 * VALUES * block + i));
  const size_t stride = size_t(op.cout_pad), at = size_t(from) * stride + 64 * size_t(block);
  const int16_t* skip = row.skip ? row.skip + at : nullptr;
  int16_t* out = row.out ? row.out + at : nullptr;
  uint64_t* bits = row.bits ? row.bits + size_t(from) * (stride / 64) + block : nullptr;
  const bool several = op.maps > 1;
  for (int i = 0; i < n; i++) {
    __mmask32 below[2];
    V map = _mm512_setzero_si512();
    if (row.map)
      map = several ? _mm512_broadcast_i32x4(reinterpret_cast<const __m128i*>(row.map)[from + i])
                    : _mm512_set1_epi16(row.map[from + i]);
#pragma GCC unroll 2
    for (int half = 0; half < (CHANNELS + 31) / 32; half++) {
      V r = row.map ? _mm512_mulhrs_epi16(map, v[half]) : v[half];
      r = _mm512_adds_epi16(_mm512_mulhrs_epi16(sums(i, half), r), v[2 + half]);
      if (INNER) {
        r = _mm512_mask_mulhrs_epi16(r, _mm512_movepi16_mask(r), r, v[4 + half]);
        r = _mm512_adds_epi16(r, v[6 + half]);
      }
      if (skip) r = _mm512_adds_epi16(r, _mm512_load_si512(skip + 32 * half));
      if (SLOPE) r = _mm512_mask_mulhrs_epi16(r, _mm512_movepi16_mask(r), r, v[8 + half]);
      if (SLOPE_ADD) r = _mm512_adds_epi16(r, v[12 + half]);
      if (out) _mm512_store_si512(out + 32 * half, r);
      below[half] = _mm512_cmplt_epi16_mask(r, v[10 + half]);
    }
    if (skip) {
      /* The next chunk's sums take about a microsecond: time for its skip to come from any cache.
       */
      _mm_prefetch(reinterpret_cast<const char*>(skip + CHUNK * stride), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(skip + CHUNK * stride + 32), _MM_HINT_T0);
      skip += stride;
    }
    if (out) out += stride;
    if (CHANNELS == 64 && bits) {
      /* GCC 12 widens a spilled mask wrongly: no uint64_t(mask). */
      *bits = _mm512_kunpackd(below[1], below[0]);
      bits += stride / 64;
    }
  }
}

}  // namespace bitsr

#include "kernels/epilogue_instances.h"
