/* Rows of what needs no path of its own: plain loops, or the SIMD that every CPU of the platform
 * has. */
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitsr {

/* bits (w, stride / 64): bit c of a pixel is x < threshold[c]. x: w pixels of `stride` channels, a
 * multiple of 64. */
void sign_row(const int16_t* x, const int16_t* threshold, uint64_t* bits, int w, int stride);

/* out = sat(a + b), n values. */
void add_row(const int16_t* a, const int16_t* b, int16_t* out, size_t n);

/* out (w, s): the first s values of each pixel of x (w, stride). */
void interleave_row(const int16_t* x, int stride, int w, int s, int16_t* out);

/* out (w, out_stride): channel c is channel c / times of x (w, stride). */
void repeat_row(const int16_t* x, int16_t* out, int w, int channels, int times, int stride,
                int out_stride);

/* x = x < 0 ? mulh(x, slope) : x over a row of w pixels, of whose channels the first ones count. */
void prelu_row(int16_t* x, const int16_t* slope, int w, int channels, int stride);

/* Adds n pixels of 64 channels to their sums. */
void sum_row(const int16_t* x, size_t n, size_t stride, int64_t* sums);

/* out = mulh(x, gate), n pixels of `stride` channels. A gate is from 0 to 32767. */
void scale_row(const int16_t* x, const int16_t* gate, int16_t* out, size_t n, size_t stride);

}  // namespace bitsr
