/* AVX-512 with VNNI: the rows of the other operations: int16 convolution, scale maps, int16 to
 * bytes.
 *
 * Budget, instructions on 512 bits; the last two a pixel of 64 channels:
 *   int16 convolution   1 vpdpwssd for 32 MAC; twelve pixels share each load of weights
 *   eight scale maps    about 55
 *   to bytes            2 loads, 4 multiplications, 4 to clip, 2 to pack, 2 xor, 2 stores  = 16
 */
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bitsr::avx512 {
namespace {

using V = __m512i;

/* P pixels of 16 outputs at once: a weight vector is loaded once for P dot products (vpdpwssd). */
template <int P>
inline void conv_pixels(const Conv& op, const ConvRow& row, int x) {
  const __m128i s = _mm_cvtsi32_si128(op.shift);
  for (int block = 0; block < op.cout; block += 16) {
    const V bias = _mm512_add_epi32(_mm512_load_si512(op.bias.data() + block),
                                    _mm512_set1_epi32(1 << (op.shift - 1)));
    const V* w = reinterpret_cast<const V*>(op.weight.data() + size_t(block) * op.k * op.run);
    V acc[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) acc[p] = bias;
    for (int dy = 0; dy < op.k; dy++) {
      const int16_t* a = row.rows[dy] + size_t(x) * row.step;
      for (int i = 0; i < op.run; i += 2, w++) {
        const V wi = _mm512_load_si512(w);
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) {
          int32_t pair;
          std::memcpy(&pair, a + size_t(p) * row.step + i, 4);
          acc[p] = _mm512_dpwssd_epi32(acc[p], _mm512_set1_epi32(pair), wi);
        }
      }
    }
    const int n = op.cout - block < 16 ? op.cout - block : 16;
    const __mmask16 keep = __mmask16((1u << n) - 1);
#pragma GCC unroll 16
    for (int p = 0; p < P; p++)
      _mm256_mask_storeu_epi16(row.out + size_t(x + p) * row.out_stride + block, keep,
                               _mm512_cvtsepi32_epi16(_mm512_sra_epi32(acc[p], s)));
  }
}

/* The sum of the lanes, modulo 2^32; _mm512_reduce_add_epi32 of GCC is plain signed arithmetic,
 * whose overflow is undefined. */
inline uint32_t total(V v) {
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
  return uint32_t(_mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1))));
}

/* P pixels of one output at once: a weight vector is loaded once for P dot products. */
template <int P>
inline void dot_pixels(const Conv& op, const ConvRow& row, int x) {
  V acc[P] = {};
  const V* w = reinterpret_cast<const V*>(op.weight.data());
  for (int dy = 0; dy < op.k; dy++) {
    const int16_t* a = row.rows[dy] + size_t(x) * row.step;
    for (int i = 0; i < op.run; i += 32, w++)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++)
        acc[p] = _mm512_dpwssd_epi32(acc[p], _mm512_loadu_si512(a + size_t(p) * row.step + i),
                                     _mm512_load_si512(w));
  }
  for (int p = 0; p < P; p++)
    row.out[size_t(x + p) * row.out_stride] = narrow(op, 0, total(acc[p]));
}

}  // namespace

void conv(const Conv& op, const ConvRow& row) {
  int x = 0;
  if (op.dots) {
    for (; x + 4 <= row.w; x += 4) dot_pixels<4>(op, row, x);
    for (; x < row.w; x++) dot_pixels<1>(op, row, x);
    return;
  }
  for (; x + 12 <= row.w; x += 12) conv_pixels<12>(op, row, x);
  for (; x + 4 <= row.w; x += 4) conv_pixels<4>(op, row, x);
  for (; x < row.w; x++) conv_pixels<1>(op, row, x);
}

namespace {

/* Sizes of 32 values. */
inline V sizes(V v) { return _mm512_max_epi16(v, _mm512_subs_epi16(_mm512_setzero_si512(), v)); }

/* The 16 sums of four vectors, added up within each 128 bits: lane l of n[0] .. n[3] as lane l of
 * the result. */
inline V add_lanes(const V* n) {
  const V a =
      _mm512_add_epi32(_mm512_unpacklo_epi32(n[0], n[1]), _mm512_unpackhi_epi32(n[0], n[1]));
  const V b =
      _mm512_add_epi32(_mm512_unpacklo_epi32(n[2], n[3]), _mm512_unpackhi_epi32(n[2], n[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* acc (+)= the 16 sums of two of 64 channels of two pixels, for each map. */
template <bool FIRST>
inline __attribute__((always_inline)) void add_maps(const int16_t* x, const int16_t* y, const V* w,
                                                    V (*acc)[MAPS]) {
#pragma GCC unroll 2
  for (int k = 0; k < 2; k++) {
    const V a = sizes(_mm512_load_si512(x + 32 * k)), b = sizes(_mm512_load_si512(y + 32 * k));
#pragma GCC unroll 8
    for (int j = 0; j < MAPS; j++) {
      const V wj = w[2 * j + k];
      acc[0][j] =
          FIRST && k == 0 ? _mm512_madd_epi16(a, wj) : _mm512_dpwssd_epi32(acc[0][j], a, wj);
      acc[1][j] =
          FIRST && k == 0 ? _mm512_madd_epi16(b, wj) : _mm512_dpwssd_epi32(acc[1][j], b, wj);
    }
  }
}

/* Two pixels at a time share the loads of weights and the last steps across lanes: about 55
 * instructions a pixel of 64 channels. */
void several_maps(const ScaleMap& op, const int16_t* x, int w, int16_t* out) {
  const size_t stride = size_t(op.stride);
  const __m128i s = _mm_cvtsi32_si128(op.shift);
  const V half = _mm512_set1_epi32(1 << (op.shift - 1)),
          *weight = reinterpret_cast<const V*>(op.weight.data());
  for (int i = 0; i < w; i += 2) {
    const int16_t *v = x + size_t(i) * stride, *next = i + 1 < w ? v + stride : v;
    V acc[2][MAPS];
    add_maps<true>(v, next, weight, acc);
    for (size_t c = 64; c < stride; c += 64)
      add_maps<false>(v + c, next + c, weight + c / 32 * MAPS, acc);
    V two[2]; /* of a pixel, by 128 bits: maps 0-3, 0-3, 4-7, 4-7 */
#pragma GCC unroll 2
    for (int p = 0; p < 2; p++) {
      const V low = add_lanes(acc[p]), high = add_lanes(acc[p] + 4);
      two[p] = _mm512_add_epi32(_mm512_shuffle_i32x4(low, high, 0x44),
                                _mm512_shuffle_i32x4(low, high, 0xEE));
    }
    const V sum = _mm512_add_epi32(_mm512_shuffle_i32x4(two[0], two[1], 0x88),
                                   _mm512_shuffle_i32x4(two[0], two[1], 0xDD));
    const __m256i both = _mm512_cvtsepi32_epi16(_mm512_sra_epi32(_mm512_add_epi32(sum, half), s));
    _mm256_mask_storeu_epi16(out + size_t(i) * MAPS, __mmask16(i + 1 < w ? 0xFFFF : 0xFF), both);
  }
}

}  // namespace

/* Four pixels at a time: 2 vectors each, whose 16 sums of two are added up across the lanes
 * together. */
void scale_map(const ScaleMap& op, const int16_t* x, int w, int16_t* out) {
  if (op.maps > 1) return several_maps(op, x, w, out);
  const size_t stride = size_t(op.stride);
  const V zero = _mm512_setzero_si512();
  const __m128i s = _mm_cvtsi32_si128(op.shift), half = _mm_set1_epi32(1 << (op.shift - 1));
  for (int i = 0; i < w; i += 4) {
    V acc[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
      const int16_t* v = x + size_t(i + p < w ? i + p : w - 1) * stride;
      acc[p] = zero;
      for (size_t c = 0; c < stride; c += 32)
        acc[p] = _mm512_dpwssd_epi32(acc[p], sizes(_mm512_load_si512(v + c)),
                                     _mm512_load_si512(op.weight.data() + c));
    }
    const V c = add_lanes(acc);
    const __m256i d = _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti64x4_epi64(c, 1));
    const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(d), _mm256_extracti128_si256(d, 1));
    const __m128i v = _mm_sra_epi32(_mm_add_epi32(sum, half), s);
    _mm_mask_storeu_epi16(out + i, __mmask8((1u << (w - i < 4 ? w - i : 4)) - 1),
                          _mm_packs_epi32(v, v));
  }
}

/* 64 channels: 2 loads, 4 multiplications, 4 to clip, 2 to pack, 2 to turn the sign, 2 stores: 7
 * cycles a pixel. */
void quant(const Quant& op, const int16_t* x, int w, uint8_t* out) {
  if (op.channels == 1) return quant_plane(op, x, w, out);
  const V top = _mm512_set1_epi16(int16_t(op.top)), bottom = _mm512_set1_epi16(int16_t(-op.top));
  /* mulh by 2^(15-s) is the shift by s. */
  const V down = _mm512_set1_epi16(int16_t(1 << (15 - op.shift) % 15));
  const int stride = op.stride();
  for (int i = 0; i < w; i++, x += op.mul.size(), out += stride)
    for (int c = 0; c < stride; c += 32) {
      V r = _mm512_mulhrs_epi16(_mm512_load_si512(x + c), _mm512_load_si512(op.mul.data() + c));
      if (op.shift) r = _mm512_mulhrs_epi16(r, down);
      r = _mm512_min_epi16(_mm512_max_epi16(r, bottom), top);
      const __m256i bytes = _mm256_xor_si256(_mm512_cvtepi16_epi8(r), _mm256_set1_epi8(-128));
      const int n = stride - c;
      _mm256_mask_storeu_epi8(out + c, n < 32 ? (1u << n) - 1 : ~0u, bytes);
    }
}

}  // namespace bitsr::avx512
