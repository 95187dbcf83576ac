/* int8 convolution, NEON of every aarch64 CPU.
 *
 * Budget, instructions on 128 bits for 16 MAC: 2 smlal (8 products of bytes each, added in 16
 * bits), and every so many of them (Qconv::singles) 2 sadalp to 32 bits: 258 products of +-1 fit,
 * 36 of 4-bit weights, 2 of 8-bit ones. 64 -> 64 channels, 3x3, 36,864 MAC a pixel: 4608 smlal; 8
 * MAC/cycle at one a cycle, 16 at two (5.3 and 10.7 with 8-bit weights). SDOT of Armv8.2 has 16 MAC
 * an instruction, but is not in the baseline that this path is built for. Bit planes through the
 * binary kernel (8 passes, 157 / 8) would do for 1-bit weights what this does for all. Four pixels
 * share each load of weights; their 16 sums of 16 bits stay in registers.
 */
#include "kernels/neon/epilogue.h"
#include "kernels/qconv_chunks.h"

namespace bitsr::neon {
namespace {

/* 4 sums to int16 (narrow in kernels.h). */
inline int16x4_t narrow4(const Qconv& op, int32x4_t acc) {
  if (op.left) return vqshl_s16(vqmovn_s32(acc), vdup_n_s16(int16_t(op.left)));
  return vqmovn_s32(vshlq_s32(acc, vdupq_n_s32(-op.right)));
}

/* Bytes are q + 128; as signed numbers again, q needs no bias but the rounding of the shift. */
inline int8x16_t signed_bytes(uint8x16_t a) {
  return vreinterpretq_s8_u8(veorq_u8(a, vdupq_n_u8(128)));
}
inline int32x4_t start(const Qconv& op) { return vdupq_n_s32(op.right ? 1 << (op.right - 1) : 0); }

/* Sums of 16 bits of products of weights w and activations a; `low` and `high` halves. */
inline void multiply(int16x8_t* acc, int8x16_t w, int8x16_t a) {
  acc[0] = vmlal_s8(acc[0], vget_low_s8(w), vget_low_s8(a));
  acc[1] = vmlal_high_s8(acc[1], w, a);
}

/* P pixels from column x on, 8 filters: a vector of weights is 4 filters of 4 channels. */
template <int P>
inline __attribute__((always_inline)) void lanes(const Qconv& op, const QconvRow& row, int x,
                                                 int filter, int16_t (*sums)[64]) {
  const size_t stride = size_t(op.stride);
  const int8_t* w =
      op.weight.data() + size_t(filter / 16 * 16) * size_t(op.k * op.run) + filter % 16 * 4;
  int32x4_t wide[P][4]; /* of 2 filters, in 2 parts each */
  int16x8_t acc[P][4];
#pragma GCC unroll 4
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      wide[p][i] = vdupq_n_s32(0);
      acc[p][i] = vdupq_n_s16(0);
    }
  int room = op.singles;
  const auto widen = [&] {
#pragma GCC unroll 4
    for (int p = 0; p < P; p++)
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        wide[p][i] = vpadalq_s16(wide[p][i], acc[p][i]);
        acc[p][i] = vdupq_n_s16(0);
      }
    room = op.singles;
  };
  for (int dy = 0; dy < op.k; dy++) {
    const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
    for (int left = op.run / 4; left;) {
      const int n = left < room ? left : room;
      for (int i = 0; i < n; i++, a += 4, w += 64) {
        const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16);
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
          uint32_t quad;
          std::memcpy(&quad, a + size_t(p) * stride, 4);
          const int8x16_t v = signed_bytes(vreinterpretq_u8_u32(vdupq_n_u32(quad)));
          multiply(acc[p], w0, v);
          multiply(acc[p] + 2, w1, v);
        }
      }
      left -= n;
      room -= n;
      if (!room) widen();
    }
  }
  widen();
#pragma GCC unroll 4
  for (int p = 0; p < P; p++)
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++)
      vst1_s16(
          sums[p] + filter % 64 + 4 * half,
          narrow4(op, vaddq_s32(vpaddq_s32(wide[p][2 * half], wide[p][2 * half + 1]), start(op))));
}

__attribute__((noinline)) void lanes_chunk(const Qconv& op, const QconvRow& row, int x, int n,
                                           int filter, int16_t (*sums)[64]) {
  int i = 0;
  for (; i + 4 <= n; i += 4) lanes<4>(op, row, x + i, filter, sums + i);
  for (; i < n; i++) lanes<1>(op, row, x + i, filter, sums + i);
}

/* Four sums of one pixel with filters `filter` to filter + 3, or of four pixels (FILTERS = 1) with
 * one. */
template <int FILTERS>
inline __attribute__((always_inline)) int32x4_t dots(const Qconv& op, const QconvRow& row, int x,
                                                     int last, int filter) {
  const size_t wide = size_t(op.k * round_up(op.run, DOT));
  const int8_t* w = op.weight.data() + size_t(filter) * wide;
  size_t at[4] = {0, 0, 0, 0};
  if (FILTERS == 1) /* columns beyond the last repeat it */
    for (int p = 0; p < 4; p++) at[p] = size_t(x + p < last ? p : last - 1 - x) * size_t(op.stride);
  int32x4_t acc[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) acc[i] = vdupq_n_s32(0);
  for (int dy = 0; dy < op.k; dy++) {
    const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
    for (int i = 0; i < round_up(op.run, DOT); i += 16, a += 16, w += 16)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        const int8x16_t v = signed_bytes(vld1q_u8(a + at[j]));
        const int8x16_t u = vld1q_s8(w + (FILTERS == 1 ? 0 : size_t(j) * wide));
        acc[j] = vpadalq_s16(acc[j], vmlal_high_s8(vmull_s8(vget_low_s8(v), vget_low_s8(u)), v, u));
      }
  }
  return vaddq_s32(vpaddq_s32(vpaddq_s32(acc[0], acc[1]), vpaddq_s32(acc[2], acc[3])), start(op));
}

}  // namespace

void qconv(const Qconv& op, const QconvRow& row) {
  qconv_chunks(
      op, row,
      [&](int x, int n, int filter, int, int16_t (*sums)[64]) {
        if (!op.dots) return lanes_chunk(op, row, x, n, filter, sums), 8;
        for (int i = 0; i < n; i++)
          vst1_s16(sums[i] + filter, narrow4(op, dots<4>(op, row, x + i, x + n, filter)));
        return 4;
      },
      [&](int x, int n, int16_t* sums) {
        for (int i = 0; i < n; i += 4)
          vst1_s16(sums + i, narrow4(op, dots<1>(op, row, x + i, x + n, 0)));
      },
      [&](const EpilogueRow& to, int block, int x, int n, const int16_t (*sums)[64]) {
        finish_channels(op, to, block, x, n,
                        [sums](int i, int c) { return vld1q_s16(sums[i] + c); });
      },
      quant);
}

}  // namespace bitsr::neon
