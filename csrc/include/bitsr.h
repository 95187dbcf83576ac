/* bitsr: binary super-resolution on the CPU. C ABI of the engine; the contract it keeps.
 *
 * Numbers. The engine works on integers alone, so the same picture gives the same bytes on every CPU, with
 * every path and every number of threads.
 *   luma      int16, q = round(128 * (Y - 127.5)), Y in [0, 255]: 1/128 of an 8-bit level
 *   stream    int16 fixed point, NHWC; its unit is chosen when the net is packed
 *   bits      bit 1 means -1 (x < threshold), bit 0 means +1; channel c is bit c % 64 of word c / 64
 *   bytes     int8 from -127 to 127, NHWC; inside the engine 128 more, unsigned
 *   weights   binary: uint64 words in the same order, tensor (Cout, k, k, words); others int16, or int8 for bytes
 * Rules.
 *   sat(v)       v clipped to [-32768, 32767]
 *   mulh(a, b)   sat((a * b + 2^14) >> 15), the rounding high-half product (vpmulhrsw, sqrdmulh, q15mulr)
 *   shift(v, s)  (v + 2^(s-1)) >> s, arithmetic, rounding half up
 *   32-bit sums wrap modulo 2^32; the packer sees to it that they do not.
 * Zero padding comes after the sign: taps outside the picture count nothing,
 *   acc = K_valid - 2 * popcount(activations xor weights).
 * Errors. Functions never abort, print or trust their input: they return NULL or a negative number and
 * write one line into err (always terminated when err_cap > 0).
 */
#ifndef BITSR_H
#define BITSR_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define BITSR_API __declspec(dllexport)
#else
#define BITSR_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bitsr_model bitsr_model;   /* immutable after open: any number of threads may share it */
typedef struct bitsr_stream bitsr_stream; /* one picture on its way through; one thread at a time */

/* Name of the i-th path this CPU can run, best first ("avx512", "avx2", "scalar", ...); NULL past the end. */
BITSR_API const char* bitsr_isa(int i);

/* Open a .bsr file held in memory; the bytes are copied, the caller may free them.
 * isa: a name from bitsr_isa, or NULL for the best. NULL on error. */
BITSR_API bitsr_model* bitsr_model_open(const void* bytes, size_t n, const char* isa, char* err, size_t err_cap);
BITSR_API void bitsr_model_close(bitsr_model* model);
BITSR_API int bitsr_model_scale(const bitsr_model* model);  /* SR pixels an LR pixel, each way */
BITSR_API int bitsr_model_radius(const bitsr_model* model); /* LR pixels that an SR pixel sees to each side;
                                                              -1: the whole picture (channel attention) */
BITSR_API const char* bitsr_model_isa(const bitsr_model* model);

/* Begin a picture of h x w LR pixels. threads >= 1. pass: LR rows that one operation makes before the next one's turn,
 * for measurements (h: layer by layer); 0 for the engine's choice. NULL on error (impossible size, no memory). */
BITSR_API bitsr_stream* bitsr_stream_open(const bitsr_model* model, int h, int w, int threads, int pass, char* err,
                                          size_t err_cap);
/* Feed the next n LR rows (int16 luma, w values each, contiguous) and take every SR row that they complete:
 * out has room for out_rows rows of scale * w values. Returns the SR rows written (a multiple of scale, possibly
 * 0; after the last LR row nothing is left behind), or a negative number on error (too many rows, no room). Where an
 * SR pixel sees the whole picture, all rows come with the last LR row, and memory grows with the picture. */
BITSR_API int bitsr_stream_push(bitsr_stream* stream, const int16_t* lr, int n, int16_t* out, int out_rows, char* err,
                                size_t err_cap);
/* SR rows that the next push of n LR rows will write. */
BITSR_API int bitsr_stream_ready(const bitsr_stream* stream, int n);
BITSR_API void bitsr_stream_close(bitsr_stream* stream);

/* ---- Colour (colour.cpp) ----------------------------------------------------------------------------------
 * Pixels are interleaved rows of 8-bit (uint8_t) or 16-bit (uint16_t) samples; channels: 1 grey, 2 grey and
 * alpha, 3 RGB, 4 RGB and alpha. Scratch memory is O(width). Both return 0, or -1 on error. */

/* Luma of n pixels: q = round(128 * (Y - 127.5)), Y of BT.601 as MATLAB's rgb2ycbcr gives it, rounded once. */
BITSR_API int bitsr_luma(const void* pixels, int depth, int channels, size_t n, int16_t* luma);
/* SR rows [y, y + n) of an h x w LR picture: their luma (scale * w values a row), chroma and alpha of the LR
 * pixels upscaled by bicubic (Keys, a = -0.5, symmetric reflection), written to out in the format of the LR
 * pixels. lr holds LR rows [first, first + rows); needed are two above and below what [y, y + n) covers, folded
 * into [0, h); grey needs none. */
BITSR_API int bitsr_merge(const void* lr, int depth, int channels, int h, int w, int first, int rows, int scale,
                          const int16_t* luma, int y, int n, void* out, char* err, size_t err_cap);

/* ---- Training (signs.cpp, winograd.cpp) -------------------------------------------------------------------
 * Convolutions of signs, and their gradients from gradients rounded to int8, as exact sums. Pixels are (n, h, width,
 * channels), k odd, zero padding k / 2, stride 1; c and o are multiples of 64. Both return 0, or -1, with y undefined,
 * for other sizes, where the path (isa, NULL: the best) has no such products, and for want of memory.
 *   conv          x: c channels, -128 to 127; w: (o, k, k, c), each -1, 0 or 1; y: o channels
 *                 turned: its transpose, from o channels (x) to c (y), the gradient of its input
 *   conv_weight   x: c channels, each -1, 0 or 1; g: o channels, -128 to 127; y: (o, k, k, c), the gradient of w */
BITSR_API int bitsr_sign_conv(const int8_t* x, const int8_t* w, int32_t* y, int n, int h, int width, int c, int o,
                              int k, int turned, int threads, const char* isa);
BITSR_API int bitsr_sign_conv_weight(const int8_t* x, const int8_t* g, int32_t* y, int n, int h, int width, int c,
                                     int o, int k, int threads, const char* isa);

/* One unit of a net, y = x + bn(K conv(sign(z), sign(weight))), z = (x - mean) / deviation - threshold, K = sum of
 * size |x| over the channels of a pixel, or of 8 such sums (maps) for channel c that of number c % 8; mean and
 * deviation are running ones without a gradient, batch norm has those of the batch. Gradients: of the sign max(0, 2 -
 * 2|z|), of sign(weight) 1; that of the convolution's result is rounded to int8, for z in 127 steps of the largest of
 * all, for weight of each channel's largest. "c" is c values. Both return as above, and -1 where k^2 c is above 32767.
 */
typedef struct {
  int n, h, w, c, k, maps, threads; /* c in and out; maps: 1 or 8 */
  int running; /* not 0: batch norm has its running mean and variance too, no running one changes, and no backward */
  const float *x, *weight;                                  /* (n, h, w, c), (c, k, k, c) */
  const float *threshold, *size, *scale, *shift;            /* c, size (maps, c); the last two are batch norm's */
  float norm_eps, norm_weight, bn_eps, bn_weight;           /* running values += weight (the batch's - running) */
  float *norm_mean, *norm_variance, *bn_mean, *bn_variance; /* c: running, changed by forward; variances unbiased */
  float *mean, *deviation, *batch_mean, *batch_inverse; /* c: made by forward for backward; the last is 1 / deviation */
  float* sizes;                                         /* (n, h, w, maps): K, likewise */
  int16_t* sums;                                        /* (n, h, w, c): the convolution's result, likewise */
  float* y;                                             /* made by forward */
  const float* g;                                       /* gradient of y, and those that backward makes: */
  float *gx, *g_weight, *g_threshold, *g_size, *g_scale, *g_shift;
} bitsr_unit;
BITSR_API int bitsr_unit_forward(const bitsr_unit* unit, const char* isa);
BITSR_API int bitsr_unit_backward(const bitsr_unit* unit, const char* isa);

/* Convolutions of 3x3 in float32, zero padding 1 (winograd.cpp). Pixels are (n, h, w, channels); c and o are multiples
 * of 32. Filters are (36, c, o), G f G^T of each 3x3 f (winograd.h). Both return as above.
 *   conv          x: c channels; bias: o; y: o channels
 *   conv_weight   x: c channels; g: o channels, the gradient of y; filters: their gradient */
BITSR_API int bitsr_float_conv(const float* x, const float* filters, const float* bias, float* y, int n, int h, int w,
                               int c, int o, int threads, const char* isa);
BITSR_API int bitsr_float_conv_weight(const float* x, const float* g, float* filters, int n, int h, int w, int c, int o,
                                      int threads, const char* isa);

#ifdef __cplusplus
}
#endif
#endif
