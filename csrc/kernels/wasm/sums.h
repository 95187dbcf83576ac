/* What the WebAssembly code of more than one file uses. */
#pragma once

#include <wasm_simd128.h>

namespace bitsr {

/* Lane i of the result is the sum of the lanes of v[i]. */
static inline v128_t transposed_sum(const v128_t* v) {
  const auto halves = [](v128_t a, v128_t b) { /* (a0 + a2, b0 + b2, a1 + a3, b1 + b3) */
                                               return wasm_i32x4_add(
                                                   wasm_i32x4_shuffle(a, b, 0, 4, 1, 5),
                                                   wasm_i32x4_shuffle(a, b, 2, 6, 3, 7));
  };
  const v128_t a = halves(v[0], v[1]), b = halves(v[2], v[3]);
  return wasm_i32x4_add(wasm_i64x2_shuffle(a, b, 0, 2), wasm_i64x2_shuffle(a, b, 1, 3));
}

}  // namespace bitsr
