/* bitsr: binary super-resolution on the CPU. C ABI of the engine; the contract it keeps.
 *
 * Numbers. The engine works on integers alone, so the same image gives the same bytes on every CPU,
 * with every path and every number of threads.
 *   luma      int16, q = round(128 * (Y - 127.5)), Y in [0, 255]: 1/128 of an 8-bit level
 *   stream    int16 fixed point, NHWC; its unit is chosen when the net is packed
 *   bits      bit 1 means -1 (x < threshold), bit 0 means +1;
 *             channel c is bit c % 64 of word c / 64
 *   bytes     int8 from -127 to 127, NHWC; inside the engine 128 more, unsigned
 *   weights   binary: uint64 words in the same order, tensor (Cout, k, k, words);
 *             others int16, or int8 for bytes
 *
 * Rules.
 *   sat(v)       v clipped to [-32768, 32767]
 *   mulh(a, b)   sat((a * b + 2^14) >> 15), the rounding high-half product
 *                (vpmulhrsw, sqrdmulh, q15mulr)
 *   shift(v, s)  (v + 2^(s-1)) >> s, arithmetic, rounding half up
 * 32-bit sums wrap modulo 2^32; the packer sees to it that they do not. Zero padding comes after
 * the sign: taps outside the image count nothing, acc = K_valid - 2 * popcount(activations xor
 * weights).
 *
 * Errors. Functions never abort, print or trust their input: they return NULL or a negative number
 * and write one line into err (always terminated when err_cap > 0).
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

/* Immutable after open: any number of threads may share it. */
typedef struct bitsr_model bitsr_model;
/* One image on its way through; one thread at a time. */
typedef struct bitsr_stream bitsr_stream;

/* Name of the i-th path this CPU can run, best first ("avx512", "avx2", "scalar", ...); NULL past
 * the end. */
BITSR_API const char* bitsr_isa(int i);

/* Open a .bsr file held in memory; the bytes are copied, the caller may free them.
 * isa: a name from bitsr_isa, or NULL for the best. NULL on error. */
BITSR_API bitsr_model* bitsr_model_open(const void* bytes, size_t n, const char* isa, char* err,
                                        size_t err_cap);
BITSR_API void bitsr_model_close(bitsr_model* model);
/* SR pixels an LR pixel, each way. */
BITSR_API int bitsr_model_scale(const bitsr_model* model);
/* LR pixels that an SR pixel sees to each side; -1: the whole image (channel attention). */
BITSR_API int bitsr_model_radius(const bitsr_model* model);
/* What bitsr_merge wants as smooth: 1 where the metadata say "chroma": "smooth", else 0. */
BITSR_API int bitsr_model_smooth(const bitsr_model* model);
BITSR_API const char* bitsr_model_isa(const bitsr_model* model);

/* Begin a image of h x w LR pixels. threads >= 1. pass: LR rows that one operation makes before the
 * next one's turn, for measurements (h: layer by layer); 0 for the engine's choice. NULL on error
 * (impossible size, no memory). */
BITSR_API bitsr_stream* bitsr_stream_open(const bitsr_model* model, int h, int w, int threads,
                                          int pass, char* err, size_t err_cap);
/* Feed the next n LR rows (int16 luma, w values each, contiguous) and take every SR row that they
 * complete: out has room for out_rows rows of scale * w values. Returns the SR rows written (a
 * multiple of scale, possibly 0; after the last LR row nothing is left behind), or a negative
 * number on error (too many rows, no room). Where an SR pixel sees the whole image, all rows come
 * with the last LR row, and memory grows with the image. */
BITSR_API int bitsr_stream_push(bitsr_stream* stream, const int16_t* lr, int n, int16_t* out,
                                int out_rows, char* err, size_t err_cap);
/* SR rows that the next push of n LR rows will write. */
BITSR_API int bitsr_stream_ready(const bitsr_stream* stream, int n);
BITSR_API void bitsr_stream_close(bitsr_stream* stream);

/* ---- Colour (core/colour.cpp)
 * ---------------------------------------------------------------------------------- Pixels are
 * interleaved rows of 8-bit (uint8_t) or 16-bit (uint16_t) samples; channels: 1 grey, 2 grey and
 * alpha, 3 RGB, 4 RGB and alpha. Scratch memory is O(width). Both return 0, or -1 on error. */

/* Luma of n pixels: q = round(128 * (Y - 127.5)), Y of BT.601 as MATLAB's rgb2ycbcr gives it,
 * rounded once. */
BITSR_API int bitsr_luma(const void* pixels, int depth, int channels, size_t n, int16_t* luma);
/* SR rows [y, y + n) of an h x w LR image, in the format of its pixels: luma (scale * w values a
 * row), and the chroma and alpha of the LR pixels upscaled. lr holds LR rows [first, first + rows);
 * needed are four above and below what [y, y + n) covers, folded into [0, h).
 *
 * Let L = 0.299 R + 0.587 G + 0.114 B, C each of R - L and B - L, M the middle of the range,
 * w() the mean of 3x3 LR pixels, weighted 1 2 1 each way, and up() the bicubic (Keys, a = -0.5,
 * symmetric reflection). Around each LR pixel C follows L, in levels of 255, by
 *     cov(p, q) = w(p q) - w(p) w(q)
 *     e = cov(L, C) / (cov(L, L) + 16), times s^4 where smooth is 0; then within [-2, 2]
 *     s = e cov(L, C) / (cov(C, C) + 4), with the e before that
 *     a = w(e)
 *     b = C - a (L - M), or where smooth is not 0, w(w(C) - e (w(L) - M))
 * and the SR pixel of luma L' has C' = up(a) (L' - M) + up(b). smooth takes compression artefacts
 * and noise from chroma, and some of its detail; 0 keeps what each LR pixel has.
 *
 * A channel whose 5x5 LR pixels range from low to high stays above low - 7 - r and below
 * high + 7 + r, where r is the smaller of
 *     4 max(0, 96 - S), S being the largest max(R, G, B) - min(R, G, B) of those pixels
 *     8 times how far the extreme is from that of the 2x2 blocks that reach into the 5x5 pixels:
 *       what the four pixels of a block all reach
 * If it is 0, or full, in all of them it stays so. Alpha is bicubic, rounded half up and clipped.
 * Fixed point and rounding: core/colour_chroma.h, colour_bounds.h and colour_rows.h. */
BITSR_API int bitsr_merge(const void* lr, int depth, int channels, int h, int w, int first,
                          int rows, int scale, int smooth, const int16_t* luma, int y, int n,
                          void* out, char* err, size_t err_cap);

/* ---- Images (core/jpeg_check.cpp) */

/* Whether the n bytes of a JPEG hold all of its pixels: 1 yes, 0 no, with one line in err, -1 where
 * that cannot be told (arithmetic coding, lossless, 12 bit, no sound header). What follows the
 * first image is not looked at. */
BITSR_API int bitsr_jpeg_check(const uint8_t* data, size_t n, char* err, size_t err_cap);

/* Does nothing: a handler of GLib's log for warnings that are not wanted. */
BITSR_API void bitsr_no_log(const char* domain, int level, const char* text, void* data);

#ifdef __cplusplus
}
#endif
#endif
