/* Rows in the baseline of the platform: SSE2, NEON, or plain C++. */
#include "kernels/rows.h"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include "kernels/neon/bits.h"
#endif

#include "kernels/kernels.h"

namespace bitsr {

namespace {

/* out = mulh(x, factor), of 8 values; only that of negative x where it is a slope. */
template <bool SLOPE>
inline void multiply8(const int16_t* x, const int16_t* factor, int16_t* out) {
#if defined(__SSE2__)
  /* mulh is 2 high + (low >> 14, rounded), of the 32-bit product's halves */
  const __m128i v = _mm_load_si128(reinterpret_cast<const __m128i*>(x));
  const __m128i f = _mm_load_si128(reinterpret_cast<const __m128i*>(factor));
  const __m128i low = _mm_srli_epi16(_mm_mullo_epi16(v, f), 14), high = _mm_mulhi_epi16(v, f);
  const __m128i up = _mm_srli_epi16(_mm_add_epi16(low, _mm_set1_epi16(1)), 1);
  __m128i r = _mm_add_epi16(_mm_add_epi16(high, high), up);
  if (SLOPE) {
    const __m128i negative = _mm_srai_epi16(v, 15);
    r = _mm_or_si128(_mm_and_si128(negative, r), _mm_andnot_si128(negative, v));
  }
  _mm_store_si128(reinterpret_cast<__m128i*>(out), r);
#elif defined(__aarch64__)
  const int16x8_t v = vld1q_s16(x), r = vqrdmulhq_s16(v, vld1q_s16(factor));
  vst1q_s16(out, SLOPE ? vbslq_s16(vcltzq_s16(v), r, v) : r);
#else
  for (int c = 0; c < 8; c++) out[c] = SLOPE && x[c] >= 0 ? x[c] : mulh(x[c], factor[c]);
#endif
}

}  // namespace

void sign_row(const int16_t* x, const int16_t* threshold, uint64_t* bits, int w, int stride) {
  for (int i = 0; i < w; i++)
    for (int block = 0; block < stride; block += 64) {
      uint64_t word = 0;
      const int16_t *v = x + size_t(i) * size_t(stride) + block, *t = threshold + block;
#if defined(__SSE2__)
      for (int c = 0; c < 64; c += 16) {
        const auto less = [&](int at) {
          return _mm_cmplt_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(v + at)),
                                 _mm_load_si128(reinterpret_cast<const __m128i*>(t + at)));
        };
        word |= uint64_t(uint32_t(_mm_movemask_epi8(_mm_packs_epi16(less(c), less(c + 8))))) << c;
      }
#elif defined(__aarch64__)
      uint16x8_t less[8];
#pragma GCC unroll 8
      for (int c = 0; c < 64; c += 8) less[c / 8] = vcltq_s16(vld1q_s16(v + c), vld1q_s16(t + c));
      word = neon_bits(less);
#else
      for (int c = 0; c < 64; c++) word |= uint64_t(v[c] < t[c]) << c;
#endif
      *bits++ = word;
    }
}

void add_row(const int16_t* a, const int16_t* b, int16_t* out, size_t n) {
  size_t i = 0;
#if defined(__SSE2__)
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm_adds_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i)),
                                    _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i))));
#elif defined(__aarch64__)
  for (; i + 8 <= n; i += 8) vst1q_s16(out + i, vqaddq_s16(vld1q_s16(a + i), vld1q_s16(b + i)));
#endif
  for (; i < n; i++) out[i] = sat16(int32_t(a[i]) + b[i]);
}

namespace {

/* S is s, or 0 where it is not known beforehand. */
template <int S>
void interleave(const int16_t* x, int stride, int w, int s, int16_t* out) {
  const size_t n = size_t(S ? S : s);
  for (size_t i = 0; i < size_t(w); i++) std::memcpy(out + i * n, x + i * size_t(stride), n * 2);
}

}  // namespace

void interleave_row(const int16_t* x, int stride, int w, int s, int16_t* out) {
  (s == 2   ? interleave<2>
   : s == 3 ? interleave<3>
   : s == 4 ? interleave<4>
            : interleave<0>)(x, stride, w, s, out);
}

void repeat_row(const int16_t* x, int16_t* out, int w, int channels, int times, int stride,
                int out_stride) {
  for (int i = 0; i < w; i++) {
    int16_t* o = out + size_t(i) * size_t(out_stride);
    for (int c = 0; c < channels; c++) {
      const int16_t v = x[size_t(i) * size_t(stride) + size_t(c)];
      const uint64_t four = uint64_t(uint16_t(v)) * 0x0001000100010001;
      int t = 0;
      for (; t + 4 <= times; t += 4, o += 4) std::memcpy(o, &four, 8);
      for (; t < times; t++) *o++ = v;
    }
  }
}

void prelu_row(int16_t* x, const int16_t* slope, int w, int channels, int stride) {
  if (stride == 1) {
    for (int i = 0; i < w; i++) x[i] = x[i] < 0 ? mulh(x[i], *slope) : x[i];
    return;
  }
  for (int i = 0; i < w; i++, x += stride)
    for (int c = 0; c < channels; c += 8) multiply8<true>(x + c, slope + c, x + c);
}

void sum_row(const int16_t* x, size_t n, size_t stride, int64_t* sums) {
  constexpr size_t MOST = 1 << 15; /* pixels whose sum fits 32 bits */
  for (size_t from = 0; from < n; from += MOST) {
    alignas(16) int32_t sum[64] = {};
    const int16_t* v = x + from * stride;
    size_t i = 0, end = std::min(MOST, n - from);
#if defined(__SSE2__)
    const __m128i ones = _mm_set1_epi16(1);
    for (int c = 0; c < 64; c += 32) {
      __m128i acc[8] = {};
      for (i = 0; i + 2 <= end; i += 2)
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) {
          const __m128i a =
              _mm_load_si128(reinterpret_cast<const __m128i*>(v + i * stride + c + 8 * q));
          const __m128i b =
              _mm_load_si128(reinterpret_cast<const __m128i*>(v + (i + 1) * stride + c + 8 * q));
          acc[2 * q] = _mm_add_epi32(acc[2 * q], _mm_madd_epi16(_mm_unpacklo_epi16(a, b), ones));
          acc[2 * q + 1] =
              _mm_add_epi32(acc[2 * q + 1], _mm_madd_epi16(_mm_unpackhi_epi16(a, b), ones));
        }
      for (int q = 0; q < 8; q++)
        _mm_store_si128(reinterpret_cast<__m128i*>(sum + c + 4 * q), acc[q]);
    }
#endif
    for (; i < end; i++)
      for (size_t c = 0; c < 64; c++) sum[c] += v[i * stride + c];
    for (int c = 0; c < 64; c++) sums[c] += sum[c];
  }
}

void scale_row(const int16_t* x, const int16_t* gate, int16_t* out, size_t n, size_t stride) {
  for (size_t i = 0; i < n; i++)
    for (size_t c = 0; c < stride; c += 8, x += 8, out += 8) multiply8<false>(x, gate + c, out);
}

}  // namespace bitsr
