/* bitsr: binary super-resolution on the CPU. C ABI of the library that makes training faster.
 *
 * Convolutions by signs, and their gradients from gradients rounded to int8, as exact sums. Pixels
 * are (n, h, width, channels), k odd, zero padding k / 2, stride 1; c and o, the input and output
 * channels, are multiples of 64. isa is a name from bitsr_isa (bitsr.h), or NULL for the best path
 * of this CPU. Functions never abort, print or throw: they return 0, or -1 with the results
 * undefined for other sizes, where the path has no such kernels, and for want of memory.
 */
#ifndef BITSR_TRAIN_H
#define BITSR_TRAIN_H

#include <stdint.h>

#if defined(_WIN32)
#define BITSR_TRAIN_API __declspec(dllexport)
#else
#define BITSR_TRAIN_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* y = x * w. x: c channels, -128 to 127; w: (o, k, k, c), each -1, 0 or 1; y: o channels.
 * transposed: not 0 for the gradient of the input, from o channels (x) to c (y). */
BITSR_TRAIN_API int bitsr_sign_conv(const int8_t* x, const int8_t* w, int32_t* y, int n, int h,
                                    int width, int c, int o, int k, int transposed, int threads,
                                    const char* isa);

/* The gradient of the weights: y (o, k, k, c). x: c channels, each -1, 0 or 1; g: o channels, -128
 * to 127. */
BITSR_TRAIN_API int bitsr_sign_conv_weight(const int8_t* x, const int8_t* g, int32_t* y, int n,
                                           int h, int width, int c, int o, int k, int threads,
                                           const char* isa);

/* One unit of a net, y = x + bn(K conv(sign(z), sign(weight))), z = (x - mean) / deviation -
 * threshold, where K = sum of size |x| over the channels of a pixel is the scale map, or there are
 * 8 of them (maps) and channel c has that of number c % 8. mean and deviation are running ones
 * without a gradient, batch norm has those of the batch. Gradients: of the sign max(0, 2 - 2 |z|),
 * of sign(weight) 1; that of the convolution's result is rounded to int8, for z in 127 steps of the
 * largest of all, for weight of each channel's largest. In the comments "c" means c values. Both
 * calls return as above, and -1 where k^2 c is above 32767. */
typedef struct {
  int n, h, w, c, k, maps, threads; /* c in and out; maps: 1 or 8 */
  /* Not 0: batch norm has its running mean and variance too, no running one changes, and there is
   * no backward. */
  int running;
  const float *x, *weight; /* (n, h, w, c), (c, k, k, c) */
  /* c, size (maps, c); the last two are batch norm's. */
  const float *threshold, *size, *scale, *shift;
  /* Running values += weight (the batch's - running). */
  float norm_eps, norm_weight, bn_eps, bn_weight;
  /* c: running, changed by forward; variances are unbiased. */
  float *norm_mean, *norm_variance, *bn_mean, *bn_variance;
  /* c: made by forward for backward; the last is 1 / deviation. */
  float *mean, *deviation, *batch_mean, *batch_inverse;
  float* sizes;   /* (n, h, w, maps): K, likewise */
  int16_t* sums;  /* (n, h, w, c): the convolution's result, likewise */
  float* y;       /* made by forward */
  const float* g; /* gradient of y, and those that backward makes: */
  float *gx, *g_weight, *g_threshold, *g_size, *g_scale, *g_shift;
} bitsr_unit;
BITSR_TRAIN_API int bitsr_unit_forward(const bitsr_unit* unit, const char* isa);
BITSR_TRAIN_API int bitsr_unit_backward(const bitsr_unit* unit, const char* isa);

#ifdef __cplusplus
}
#endif
#endif
