/* The kernels of one path (ISA) for training: products of bytes with signs, and the loops around
 * them. */
#pragma once

#include "common/array.h"

namespace bitsr::train {

/* Most steps of one call of dot: sums of two products of a byte, 64 of them, fit 16 bits. */
constexpr int STEPS = 64;
static_assert(STEPS * 2 * 255 <= 32767, "16-bit sums overflow");

/* What a unit with so many maps, 1 or 8, needs of them: see TrainKernels. */
struct MapLoops {
  /* out = sums, in 16 bits; u = sizes sums: sum += u, square += u^2 */
  void (*collect)(const int32_t* sums, const float* sizes, int pixels, int c, int16_t* out,
                  float* sum, float* square);
  /* y = x + scale u + shift */
  void (*finish)(const int16_t* sums, const float* sizes, const float* x, const float* scale,
                 const float* shift, int pixels, int c, float* y);
  /* sum += g, product += g u */
  void (*correlate)(const float* g, const int16_t* sums, const float* sizes, int pixels, int c,
                    float* sum, float* product);
  /* d = a g + b u + e, the gradient of u: out = sizes d, top = max(top, |out|),
   * g_sizes[pixel, map] = sum of d sums */
  void (*descend)(const float* g, const int16_t* sums, const float* sizes, const float* a,
                  const float* b, const float* e, int pixels, int c, float* out, float* top,
                  float* g_sizes);
  /* z = (x - mean) / deviation - threshold, q = max(0, 2 - 2 |z|) step sums, the gradient of z:
   * gx = g + q / deviation + sum of g_sizes v sign(x), g_threshold -= q, g_v += g_sizes |x|;
   * v and g_v: (maps, c) */
  void (*enter)(const int32_t* sums, float step, const float* x, const float* g,
                const float* g_sizes, const float* mean, const float* inverse,
                const float* threshold, const float* v, int pixels, int c, float* gx,
                float* g_threshold, float* g_v);
};

/* The loops over `pixels` pixels of c channels, c a multiple of 64, are those of a unit (bitsr_unit
 * in bitsr_train.h); what has no pixel in its name has c values, and sums are added to. sizes and
 * g_sizes have the maps of a pixel side by side; the size of channel c is that of map c % maps. */
struct TrainKernels {
  int lanes; /* of dot: 32 or 64 */

  /* out[r][lane] += sum over i < 4 * steps of a[r * stride + i] * w[i / 4][lane][i % 4], r < rows,
   * lane < lanes. a: bytes; w: +-1 or 0, 64-byte aligned; steps: a multiple of 4. */
  void (*dot)(const uint8_t* a, size_t stride, int rows, const int8_t* w, int steps, int32_t* out,
              size_t out_stride);

  /* sum += x, square += x^2, sizes[pixel, map] = sum of v |x|; v: (c, maps) */
  void (*measure)(const float* x, const float* v, int maps, int pixels, int c, float* sizes,
                  float* sum, float* square);
  /* out = (x >= threshold ? 1 : -1) + offset */
  void (*binarize)(const float* x, const float* threshold, int offset, int pixels, int c,
                   uint8_t* out);
  /* out = round(x scale) + offset */
  void (*round)(const float* x, const float* scale, int offset, int pixels, int c, uint8_t* out);
  MapLoops one, eight;
  BITSR_INLINE const MapLoops& with(int maps) const { return maps == 8 ? eight : one; }
};

extern const TrainKernels avx2_kernels, avx512_kernels;

}  // namespace bitsr::train
