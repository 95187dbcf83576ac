/* The epilogue (kernels.h) in NEON. */
#pragma once

#include "kernels/kernels.h"
#include "kernels/neon/bits.h"

namespace bitsr {

static inline int16x8_t leak(int16x8_t v, int16x8_t slope) {
  return vbslq_s16(vcltzq_s16(v), vqrdmulhq_s16(v, slope), v);
}

/* CHANNELS (16, 32 or 64) of 64 channels of n pixels from column `from` on; sums(i, c) gives `a` of
 * channels c to c + 7 of pixel from + i. vqrdmulh is mulh: it saturates only where both factors are
 * -32768. */
template <int CHANNELS, bool INNER, bool SLOPE, bool SLOPE_ADD, class Sums>
static inline __attribute__((always_inline)) void finish_chunk(const Epilogue& op,
                                                               const EpilogueRow& row, int block,
                                                               int from, int n, Sums sums) {
  const int16_t* v = op.values.data() + VALUES * 64 * size_t(block);
  const size_t stride = size_t(op.cout_pad), at = size_t(from) * stride + 64 * size_t(block);
  const int16_t* skip = row.skip ? row.skip + at : nullptr;
  int16_t* out = row.out ? row.out + at : nullptr;
  for (int i = 0; i < n; i++) {
    uint16x8_t below[8];
    int16x8_t map = vdupq_n_s16(0);
    if (row.map)
      map = op.maps > 1 ? vld1q_s16(row.map + MAPS * size_t(from + i))
                        : vld1q_dup_s16(row.map + from + i);
#pragma GCC unroll 8
    for (int c = 0; c < CHANNELS; c += 8) {
      int16x8_t r = vld1q_s16(v + c);
      if (row.map) r = vqrdmulhq_s16(r, map);
      r = vqaddq_s16(vqrdmulhq_s16(sums(i, c), r), vld1q_s16(v + 64 + c));
      if (INNER) r = vqaddq_s16(leak(r, vld1q_s16(v + 128 + c)), vld1q_s16(v + 192 + c));
      if (skip) r = vqaddq_s16(r, vld1q_s16(skip + c));
      if (SLOPE) r = leak(r, vld1q_s16(v + 256 + c));
      if (SLOPE_ADD) r = vqaddq_s16(r, vld1q_s16(v + 384 + c));
      if (out) vst1q_s16(out + c, r);
      below[c / 8] = vcgtq_s16(vld1q_s16(v + 320 + c), r);
    }
    if (skip) skip += stride;
    if (out) out += stride;
    if (CHANNELS == 64 && row.bits)
      row.bits[size_t(from + i) * (stride / 64) + size_t(block)] = neon_bits(below);
  }
}

}  // namespace bitsr

#include "kernels/epilogue_instances.h"
