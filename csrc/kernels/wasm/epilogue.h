/* The epilogue (kernels.h) in WebAssembly. */
#pragma once

#include <wasm_simd128.h>

#include "kernels/kernels.h"

namespace bitsr {

static inline v128_t leak(v128_t v, v128_t slope) {
  return wasm_v128_bitselect(wasm_i16x8_q15mulr_sat(v, slope), v, wasm_i16x8_shr(v, 15));
}

/* CHANNELS (16, 32 or 64) of 64 channels of n pixels from column `from` on; sums(i, c) gives `a` of
 * channels c to c + 7 of pixel from + i. q15mulr_sat is mulh: it saturates only where both factors
 * are -32768. */
template <int CHANNELS, bool INNER, bool SLOPE, bool SLOPE_ADD, class Sums>
static inline __attribute__((always_inline)) void finish_chunk(const Epilogue& op,
                                                               const EpilogueRow& row, int block,
                                                               int from, int n, Sums sums) {
  const int16_t* v = op.values.data() + VALUES * 64 * size_t(block);
  const size_t stride = size_t(op.cout_pad), at = size_t(from) * stride + 64 * size_t(block);
  const int16_t* skip = row.skip ? row.skip + at : nullptr;
  int16_t* out = row.out ? row.out + at : nullptr;
  for (int i = 0; i < n; i++) {
    v128_t below[8], map = wasm_i16x8_splat(0);
    if (row.map)
      map = op.maps > 1 ? wasm_v128_load(row.map + MAPS * size_t(from + i))
                        : wasm_v128_load16_splat(row.map + from + i);
#pragma GCC unroll 8
    for (int c = 0; c < CHANNELS; c += 8) {
      v128_t r = wasm_v128_load(v + c);
      if (row.map) r = wasm_i16x8_q15mulr_sat(map, r);
      r = wasm_i16x8_add_sat(wasm_i16x8_q15mulr_sat(sums(i, c), r), wasm_v128_load(v + 64 + c));
      if (INNER)
        r = wasm_i16x8_add_sat(leak(r, wasm_v128_load(v + 128 + c)), wasm_v128_load(v + 192 + c));
      if (skip) r = wasm_i16x8_add_sat(r, wasm_v128_load(skip + c));
      if (SLOPE) r = leak(r, wasm_v128_load(v + 256 + c));
      if (SLOPE_ADD) r = wasm_i16x8_add_sat(r, wasm_v128_load(v + 384 + c));
      if (out) wasm_v128_store(out + c, r);
      below[c / 8] = wasm_i16x8_gt(wasm_v128_load(v + 320 + c), r);
    }
    if (skip) skip += stride;
    if (out) out += stride;
    if (CHANNELS == 64 && row.bits) {
      const auto bits = [&below](int q) {
        return uint64_t(wasm_i8x16_bitmask(wasm_i8x16_narrow_i16x8(below[q], below[q + 1])));
      };
      row.bits[size_t(from + i) * (stride / 64) + size_t(block)] =
          bits(0) | bits(2) << 16 | bits(4) << 32 | bits(6) << 48;
    }
  }
}

}  // namespace bitsr

#include "kernels/epilogue_instances.h"
