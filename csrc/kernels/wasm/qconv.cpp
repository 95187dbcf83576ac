/* int8 convolution, WebAssembly.
 *
 * Budget, operations on 128 bits for 32 MAC of two pixels and 4 filters of 4 channels, beside the
 * loads: 4 (dot + add), 3 to widen the weights, 2 x 2 / 4 the activations = 12; 2.7 MAC each.
 * There is no product of bytes that adds up in 16 bits but i16x8.extmul, which needs as many
 * additions as it saves products.
 */
#include "kernels/qconv_chunks.h"
#include "kernels/wasm/epilogue.h"
#include "kernels/wasm/sums.h"

namespace bitsr::wasm {
namespace {

/* 4 sums to int16, widened again (narrow in kernels.h). */
inline v128_t narrow4(const Qconv& op, v128_t acc) {
  const auto saturate = [](v128_t v) {
    return wasm_i32x4_min(wasm_i32x4_max(v, wasm_i32x4_splat(-32768)), wasm_i32x4_splat(32767));
  };
  if (op.left) return saturate(wasm_i32x4_shl(saturate(acc), uint32_t(op.left)));
  return saturate(wasm_i32x4_shr(acc, uint32_t(op.right)));
}

/* P pixels from column x on, 16 filters. */
template <int P>
inline __attribute__((always_inline)) void lanes(const Qconv& op, const QconvRow& row, int x,
                                                 int filter, int16_t (*sums)[64]) {
  const v128_t low = wasm_i16x8_splat(0xFF);
  const int8_t* w = op.weight.data() + size_t(filter) * size_t(op.k * op.run);
  v128_t acc[P][4];
#pragma GCC unroll 2
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) acc[p][q] = wasm_v128_load(op.bias.data() + filter + 4 * q);
  for (int dy = 0; dy < op.k; dy++) {
    const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
    for (int i = 0; i < op.run; i += 4, a += 4, w += 64) {
      v128_t even[P], odd[P];
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) {
        const v128_t v = wasm_v128_load32_splat(a + size_t(p) * size_t(op.stride));
        even[p] = wasm_v128_and(v, low);
        odd[p] = wasm_u16x8_shr(v, 8);
      }
#pragma GCC unroll 4
      for (int q = 0; q < 4; q++) {
        const v128_t v = wasm_v128_load(w + 16 * q);
        const v128_t w0 = wasm_i16x8_shr(wasm_i16x8_shl(v, 8), 8), w1 = wasm_i16x8_shr(v, 8);
#pragma GCC unroll 2
        for (int p = 0; p < P; p++)
          acc[p][q] = wasm_i32x4_add(acc[p][q], wasm_i32x4_add(wasm_i32x4_dot_i16x8(even[p], w0),
                                                               wasm_i32x4_dot_i16x8(odd[p], w1)));
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < P; p++)
#pragma GCC unroll 2
    for (int q = 0; q < 4; q += 2)
      wasm_v128_store(sums[p] + filter % 64 + 4 * q,
                      wasm_i16x8_narrow_i32x4(narrow4(op, acc[p][q]), narrow4(op, acc[p][q + 1])));
}

__attribute__((noinline)) void lanes_chunk(const Qconv& op, const QconvRow& row, int x, int n,
                                           int filter, int16_t (*sums)[64]) {
  int i = 0;
  for (; i + 2 <= n; i += 2) lanes<2>(op, row, x + i, filter, sums + i);
  if (i < n) lanes<1>(op, row, x + i, filter, sums + i);
}

/* Four sums of one pixel with filters `filter` to filter + 3, or of four pixels (FILTERS = 1) with
 * one, to out. */
template <int FILTERS>
inline __attribute__((always_inline)) void dots(const Qconv& op, const QconvRow& row, int x,
                                                int last, int filter, int16_t* out) {
  const size_t wide = size_t(op.k * round_up(op.run, DOT));
  const int8_t* w = op.weight.data() + size_t(filter) * wide;
  size_t at[4] = {0, 0, 0, 0};
  if (FILTERS == 1) /* columns beyond the last repeat it */
    for (int p = 0; p < 4; p++) at[p] = size_t(x + p < last ? p : last - 1 - x) * size_t(op.stride);
  v128_t acc[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) acc[i] = wasm_i32x4_splat(0);
  for (int dy = 0; dy < op.k; dy++) {
    const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
    for (int i = 0; i < round_up(op.run, DOT); i += 8, a += 8, w += 8)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++)
        acc[j] = wasm_i32x4_add(
            acc[j],
            wasm_i32x4_dot_i16x8(wasm_u16x8_load8x8(a + at[j]),
                                 wasm_i16x8_load8x8(w + (FILTERS == 1 ? 0 : size_t(j) * wide))));
  }
  const v128_t bias = FILTERS == 1 ? wasm_v128_load32_splat(op.bias.data() + filter)
                                   : wasm_v128_load(op.bias.data() + filter);
  const v128_t sums = narrow4(op, wasm_i32x4_add(transposed_sum(acc), bias));
  const int64_t four = wasm_i64x2_extract_lane(wasm_i16x8_narrow_i32x4(sums, sums), 0);
  std::memcpy(out, &four, sizeof four);
}

}  // namespace

void qconv(const Qconv& op, const QconvRow& row) {
  qconv_chunks(
      op, row,
      [&](int x, int n, int filter, int, int16_t (*sums)[64]) {
        if (!op.dots) return lanes_chunk(op, row, x, n, filter, sums), 16;
        for (int i = 0; i < n; i++) dots<4>(op, row, x + i, x + n, filter, sums[i] + filter);
        return 4;
      },
      [&](int x, int n, int16_t* sums) {
        for (int i = 0; i < n; i += 4) dots<1>(op, row, x + i, x + n, 0, sums + i);
      },
      [&](const EpilogueRow& to, int block, int x, int n, const int16_t (*sums)[64]) {
        finish_channels(op, to, block, x, n,
                        [sums](int i, int c) { return wasm_v128_load(sums[i] + c); });
      },
      quant);
}

}  // namespace bitsr::wasm
