/* NEON: the rows of the other operations: int16 convolution, scale maps, int16 to bytes.
 *
 * Budget, instructions on 128 bits, beside the loads; the last two a pixel of 64 channels:
 *   int16 convolution   2 smlal for 8 MAC; four pixels share each load of weights
 *   eight scale maps    8 x (1 sqabs + 8 x (2 smull + 2 adds)) + 14 across the lanes       = 278
 *   to bytes            8 x (sqrdmulh, srshl, min, max, xtn) + 4 eor                       = 44
 */
#include <arm_neon.h>

#include "kernels/kernels.h"

namespace bitsr::neon {
namespace {

/* Wraps: vaddq_s32 is plain signed arithmetic to GCC, whose overflow is undefined. */
inline int32x4_t add(int32x4_t a, int32x4_t b) {
  return vreinterpretq_s32_u32(vaddq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}

/* Values LANE and LANE + 1 of P patches times their weights: 16 outputs each. */
template <int LANE, int P>
inline __attribute__((always_inline)) void add_pair(int32x4_t (*acc)[4], const int16x8_t* a,
                                                    const int16_t* w) {
#pragma GCC unroll 2
  for (int h = 0; h < 2; h++) {
    const int16x8x2_t wh = vld2q_s16(w + 16 * h);
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      int32x4_t *lo = &acc[p][2 * h], *hi = &acc[p][2 * h + 1];
      *lo = vmlal_laneq_s16(*lo, vget_low_s16(wh.val[0]), a[p], LANE);
      *hi = vmlal_high_laneq_s16(*hi, wh.val[0], a[p], LANE);
      *lo = vmlal_laneq_s16(*lo, vget_low_s16(wh.val[1]), a[p], LANE + 1);
      *hi = vmlal_high_laneq_s16(*hi, wh.val[1], a[p], LANE + 1);
    }
  }
}

/* P pixels of 16 outputs at once: P = 4 has 16 sums, 4 vectors of values and 2 of weights in
 * registers. */
template <int P>
inline void conv_pixels(const Conv& op, const ConvRow& row, int x) {
  const int32x4_t down = vdupq_n_s32(-op.shift), half = vdupq_n_s32(1 << (op.shift - 1));
  for (int block = 0; block < op.cout; block += 16) {
    int32x4_t acc[P][4];
#pragma GCC unroll 4
    for (int p = 0; p < P; p++)
      for (int q = 0; q < 4; q++) acc[p][q] = add(vld1q_s32(op.bias.data() + block + 4 * q), half);
    const int16_t* w = op.weight.data() + size_t(block) * op.k * op.run;
    for (int dy = 0; dy < op.k; dy++) {
      const int16_t* a = row.rows[dy] + size_t(x) * row.step;
      int16x8_t v[P];
      int i = 0;
      for (; i + 8 <= op.run; i += 8, w += 128) {
        for (int p = 0; p < P; p++) v[p] = vld1q_s16(a + size_t(p) * row.step + i);
        add_pair<0, P>(acc, v, w);
        add_pair<2, P>(acc, v, w + 32);
        add_pair<4, P>(acc, v, w + 64);
        add_pair<6, P>(acc, v, w + 96);
      }
      for (; i < op.run; i += 2, w += 32) {
        for (int p = 0; p < P; p++) {
          int32_t pair;
          std::memcpy(&pair, a + size_t(p) * row.step + i, 4);
          v[p] = vreinterpretq_s16_s32(vdupq_n_s32(pair));
        }
        add_pair<0, P>(acc, v, w);
      }
    }
    const int n = op.cout - block < 16 ? op.cout - block : 16;
    for (int p = 0; p < P; p++) {
      int16_t lanes[16];
      for (int q = 0; q < 4; q++) vst1_s16(lanes + 4 * q, vqmovn_s32(vshlq_s32(acc[p][q], down)));
      std::memcpy(row.out + size_t(x + p) * row.out_stride + block, lanes, size_t(n) * 2);
    }
  }
}

/* P pixels of one output at once: a weight vector is loaded once for P dot products. */
template <int P>
inline void dot_pixels(const Conv& op, const ConvRow& row, int x) {
  int32x4_t low[P], high[P];
  for (int p = 0; p < P; p++) low[p] = high[p] = vdupq_n_s32(0);
  const int16_t* w = op.weight.data();
  for (int dy = 0; dy < op.k; dy++) {
    const int16_t* a = row.rows[dy] + size_t(x) * row.step;
    for (int i = 0; i < op.run; i += 8, w += 8) {
      const int16x8_t wi = vld1q_s16(w);
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        const int16x8_t v = vld1q_s16(a + size_t(p) * row.step + i);
        low[p] = vmlal_s16(low[p], vget_low_s16(v), vget_low_s16(wi));
        high[p] = vmlal_high_s16(high[p], v, wi);
      }
    }
  }
  for (int p = 0; p < P; p++)
    row.out[size_t(x + p) * row.out_stride] =
        narrow(op, 0, uint32_t(vaddvq_s32(add(low[p], high[p]))));
}

}  // namespace

void conv(const Conv& op, const ConvRow& row) {
  int x = 0;
  if (op.dots) {
    for (; x + 4 <= row.w; x += 4) dot_pixels<4>(op, row, x);
    for (; x < row.w; x++) dot_pixels<1>(op, row, x);
    return;
  }
  for (; x + 4 <= row.w; x += 4) conv_pixels<4>(op, row, x);
  for (; x < row.w; x++) conv_pixels<1>(op, row, x);
}

namespace {

/* The sums of the maps are added up across the lanes as a matrix of 4 x 4 is transposed. */
void several_maps(const ScaleMap& op, const int16_t* x, int w, int16_t* out) {
  const int32x4_t down = vdupq_n_s32(-op.shift);
  const uint32x4_t half = vdupq_n_u32(uint32_t(1) << (op.shift - 1));
  for (int i = 0; i < w; i++, out += MAPS) {
    uint32x4_t acc[MAPS]; /* unsigned, for their sums may wrap */
#pragma GCC unroll 8
    for (int j = 0; j < MAPS; j++) acc[j] = vdupq_n_u32(0);
    const int16_t* weight = op.weight.data();
    for (int block = 0; block < op.stride; block += 64, weight += 64 * MAPS)
      for (int c = 0; c < 64; c += 8, x += 8) {
        const int16x8_t size = vqabsq_s16(vld1q_s16(x));
#pragma GCC unroll 8
        for (int j = 0; j < MAPS; j++) {
          const int16x8_t wj = vld1q_s16(weight + 64 * j + c);
          acc[j] = vaddq_u32(
              acc[j], vreinterpretq_u32_s32(vmull_s16(vget_low_s16(size), vget_low_s16(wj))));
          acc[j] = vaddq_u32(acc[j], vreinterpretq_u32_s32(vmull_high_s16(size, wj)));
        }
      }
    int16x4_t four[2];
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
      const uint32x4_t* a = acc + 4 * k;
      const uint32x4_t sum = vpaddq_u32(vpaddq_u32(a[0], a[1]), vpaddq_u32(a[2], a[3]));
      four[k] = vqmovn_s32(vshlq_s32(vreinterpretq_s32_u32(vaddq_u32(sum, half)), down));
    }
    vst1q_s16(out, vcombine_s16(four[0], four[1]));
  }
}

}  // namespace

void scale_map(const ScaleMap& op, const int16_t* x, int w, int16_t* out) {
  if (op.maps > 1) return several_maps(op, x, w, out);
  const int32x4_t down = vdupq_n_s32(-op.shift);
  for (int i = 0; i < w; i++) {
    uint32x4_t low = vdupq_n_u32(0), high = low; /* unsigned, for their sums may wrap */
    for (int c = 0; c < op.stride; c += 8, x += 8) {
      const int16x8_t size = vqabsq_s16(vld1q_s16(x)), weight = vld1q_s16(op.weight.data() + c);
      low = vaddq_u32(low,
                      vreinterpretq_u32_s32(vmull_s16(vget_low_s16(size), vget_low_s16(weight))));
      high = vaddq_u32(high, vreinterpretq_u32_s32(vmull_high_s16(size, weight)));
    }
    const uint32_t sum = vaddvq_u32(vaddq_u32(low, high)) + (uint32_t(1) << (op.shift - 1));
    out[i] = vget_lane_s16(vqmovn_s32(vshlq_s32(vdupq_n_s32(int32_t(sum)), down)), 0);
  }
}

void quant(const Quant& op, const int16_t* x, int w, uint8_t* out) {
  if (op.channels == 1) return quant_plane(op, x, w, out);
  const int16x8_t top = vdupq_n_s16(int16_t(op.top)), bottom = vdupq_n_s16(int16_t(-op.top));
  const int16x8_t down = vdupq_n_s16(int16_t(-op.shift));
  const int stride = op.stride();
  for (int i = 0; i < w; i++, x += op.mul.size(), out += stride)
    for (int c = 0; c < stride; c += 16) {
      const auto half = [&](int at) {
        const int16x8_t r =
            vrshlq_s16(vqrdmulhq_s16(vld1q_s16(x + at), vld1q_s16(op.mul.data() + at)), down);
        return vmovn_s16(vminq_s16(vmaxq_s16(r, bottom), top));
      };
      const uint8x16_t bytes =
          veorq_u8(vreinterpretq_u8_s8(vcombine_s8(half(c), half(c + 8))), vdupq_n_u8(128));
      if (stride - c >= 16) {
        vst1q_u8(out + c, bytes);
      } else {
        uint8_t lanes[16];
        vst1q_u8(lanes, bytes);
        std::memcpy(out + c, lanes, size_t(stride - c));
      }
    }
}

}  // namespace bitsr::neon
