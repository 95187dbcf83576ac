/* The epilogue (kernels.h) in AVX2. */
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace bitsr {

using V = __m256i;

/* 64 channels of n pixels from column `from` on; sums(i, q) gives `a` of 16 channels of pixel from + i. */
template <bool INNER, bool SLOPE, bool SLOPE_ADD, class Sums>
static inline __attribute__((always_inline)) void finish_chunk(const Epilogue& op, const EpilogueRow& row, int block,
                                                               int from, int n, Sums sums) {
  const V zero = _mm256_setzero_si256();
  const auto leak = [zero](V v, V slope) {
    return _mm256_blendv_epi8(v, _mm256_mulhrs_epi16(v, slope), _mm256_cmpgt_epi16(zero, v));
  };
  const V* v = reinterpret_cast<const V*>(op.values.data()) + 4 * VALUES * block;
  const size_t stride = size_t(op.cout_pad), at = size_t(from) * stride + 64 * size_t(block);
  for (int i = 0; i < n; i++) {
    const V* skip = row.skip ? reinterpret_cast<const V*>(row.skip + at + size_t(i) * stride) : nullptr;
    V* out = row.out ? reinterpret_cast<V*>(row.out + at + size_t(i) * stride) : nullptr;
    V below[4];
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
      V r = _mm256_adds_epi16(_mm256_mulhrs_epi16(sums(i, q), v[q]), v[4 + q]);
      if (INNER) r = _mm256_adds_epi16(leak(r, v[8 + q]), v[12 + q]);
      if (skip) r = _mm256_adds_epi16(r, skip[q]);
      if (SLOPE) r = leak(r, v[16 + q]);
      if (SLOPE_ADD) r = _mm256_adds_epi16(r, v[24 + q]);
      if (out) out[q] = r;
      below[q] = _mm256_cmpgt_epi16(v[20 + q], r);
    }
    if (row.bits) {
      const auto mask = [](V a, V b) {
        const V bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xD8);
        return uint64_t(uint32_t(_mm256_movemask_epi8(bytes)));
      };
      row.bits[size_t(from + i) * (stride / 64) + size_t(block)] = mask(below[0], below[1]) | mask(below[2], below[3])
                                                                                                  << 32;
    }
  }
}

template <class Sums>
static inline __attribute__((always_inline)) void finish_chunk(const Epilogue& op, const EpilogueRow& row, int block,
                                                               int from, int n, Sums sums) {
  if (op.inner_slope.size())
    op.slope_add.size() ? finish_chunk<true, true, true>(op, row, block, from, n, sums)
    : op.slope.size()   ? finish_chunk<true, true, false>(op, row, block, from, n, sums)
                        : finish_chunk<true, false, false>(op, row, block, from, n, sums);
  else
    op.slope_add.size() ? finish_chunk<false, true, true>(op, row, block, from, n, sums)
    : op.slope.size()   ? finish_chunk<false, true, false>(op, row, block, from, n, sums)
                        : finish_chunk<false, false, false>(op, row, block, from, n, sums);
}

}  // namespace bitsr
