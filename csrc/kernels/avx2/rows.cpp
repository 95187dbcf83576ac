/* AVX2: the rows of the other operations: int16 convolution, scale maps, int16 to bytes.
 *
 * Budget, instructions on 256 bits, beside the loads; the last two a pixel of 64 channels:
 *   int16 convolution   2 (vpmaddwd + vpaddd) + 1 broadcast for 32 MAC, six pixels at a time
 *   eight scale maps    32 x vpmaddwd, 8 for the sizes, 24 adds, 22 across the lanes       = 86
 *   to bytes            4 x (2 vpmulhrsw, min, max), 2 packs, 2 permutations, 2 xor        = 22
 */
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bitsr::avx2 {
namespace {

using V = __m256i;

template <int P>
inline void conv_pixels(const Conv& op, const ConvRow& row, int x) {
  const __m128i s = _mm_cvtsi32_si128(op.shift);
  for (int block = 0; block < op.cout; block += 16) {
    V acc[P][2];
    const V* w = reinterpret_cast<const V*>(op.weight.data() + size_t(block) * op.k * op.run);
#pragma GCC unroll 8
    for (int p = 0; p < P; p++)
      for (int h = 0; h < 2; h++)
        acc[p][h] = _mm256_add_epi32(
            _mm256_load_si256(reinterpret_cast<const V*>(op.bias.data() + block + 8 * h)),
            _mm256_set1_epi32(1 << (op.shift - 1)));
    for (int dy = 0; dy < op.k; dy++) {
      const int16_t* a = row.rows[dy] + size_t(x) * row.step;
      for (int i = 0; i < op.run; i += 2, w += 2)
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
          int32_t pair;
          std::memcpy(&pair, a + size_t(p) * row.step + i, 4);
          const V v = _mm256_set1_epi32(pair);
          acc[p][0] = _mm256_add_epi32(acc[p][0], _mm256_madd_epi16(v, w[0]));
          acc[p][1] = _mm256_add_epi32(acc[p][1], _mm256_madd_epi16(v, w[1]));
        }
    }
    const int n = op.cout - block < 16 ? op.cout - block : 16;
    for (int p = 0; p < P; p++) {
      const V v = _mm256_permute4x64_epi64(
          _mm256_packs_epi32(_mm256_sra_epi32(acc[p][0], s), _mm256_sra_epi32(acc[p][1], s)), 0xD8);
      alignas(32) int16_t lanes[16];
      _mm256_store_si256(reinterpret_cast<V*>(lanes), v);
      std::memcpy(row.out + size_t(x + p) * row.out_stride + block, lanes, size_t(n) * 2);
    }
  }
}

/* P pixels of one output at once: a weight vector is loaded once for P dot products. */
template <int P>
inline void dot_pixels(const Conv& op, const ConvRow& row, int x) {
  V acc[P] = {};
  const V* w = reinterpret_cast<const V*>(op.weight.data());
  for (int dy = 0; dy < op.k; dy++) {
    const int16_t* a = row.rows[dy] + size_t(x) * row.step;
    for (int i = 0; i < op.run; i += 16, w++)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++)
        acc[p] = _mm256_add_epi32(
            acc[p],
            _mm256_madd_epi16(
                _mm256_loadu_si256(reinterpret_cast<const V*>(a + size_t(p) * row.step + i)), *w));
  }
  for (int p = 0; p < P; p++) {
    __m128i sum =
        _mm_add_epi32(_mm256_castsi256_si128(acc[p]), _mm256_extracti128_si256(acc[p], 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1));
    row.out[size_t(x + p) * row.out_stride] = narrow(op, 0, uint32_t(_mm_cvtsi128_si32(sum)));
  }
}

}  // namespace

void conv(const Conv& op, const ConvRow& row) {
  int x = 0;
  if (op.dots) {
    for (; x + 4 <= row.w; x += 4) dot_pixels<4>(op, row, x);
    for (; x < row.w; x++) dot_pixels<1>(op, row, x);
    return;
  }
  for (; x + 6 <= row.w; x += 6) conv_pixels<6>(op, row, x);
  for (; x < row.w; x++) conv_pixels<1>(op, row, x);
}

namespace {

/* Sizes of 16 values. */
inline V sizes(V v) { return _mm256_max_epi16(v, _mm256_subs_epi16(_mm256_setzero_si256(), v)); }

/* acc (+)= the 8 sums of two of 64 channels, for each map: 32 x vpmaddwd, 8 for the sizes, 32 adds
 * or 24. */
template <bool FIRST>
inline __attribute__((always_inline)) void add_maps(const int16_t* x, const V* w, V* acc) {
  V a[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) a[i] = sizes(reinterpret_cast<const V*>(x)[i]);
#pragma GCC unroll 8
  for (int j = 0; j < MAPS; j++) {
    const V sum = _mm256_add_epi32(
        _mm256_add_epi32(_mm256_madd_epi16(a[0], w[4 * j]), _mm256_madd_epi16(a[1], w[4 * j + 1])),
        _mm256_add_epi32(_mm256_madd_epi16(a[2], w[4 * j + 2]),
                         _mm256_madd_epi16(a[3], w[4 * j + 3])));
    acc[j] = FIRST ? sum : _mm256_add_epi32(acc[j], sum);
  }
}

/* The sums of the maps are added up across the lanes as a matrix of 8 x 8 is transposed: 7 adds of
 * two halves. A pixel of 64 channels takes 86 instructions. */
void several_maps(const ScaleMap& op, const int16_t* x, int w, int16_t* out) {
  const __m128i s = _mm_cvtsi32_si128(op.shift);
  const V half = _mm256_set1_epi32(1 << (op.shift - 1)),
          *weight = reinterpret_cast<const V*>(op.weight.data());
  for (int i = 0; i < w; i++, x += op.stride, out += MAPS) {
    V acc[MAPS];
    add_maps<true>(x, weight, acc);
    for (int block = 1; block < op.stride / 64; block++)
      add_maps<false>(x + 64 * block, weight + 4 * MAPS * block, acc);
    V four[2]; /* maps 4 k .. 4 k + 3 of the lower channels, then of the higher */
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++)
      four[k] = _mm256_hadd_epi32(_mm256_hadd_epi32(acc[4 * k], acc[4 * k + 1]),
                                  _mm256_hadd_epi32(acc[4 * k + 2], acc[4 * k + 3]));
    const V sum = _mm256_add_epi32(_mm256_permute2x128_si256(four[0], four[1], 0x20),
                                   _mm256_permute2x128_si256(four[0], four[1], 0x31));
    const V v = _mm256_sra_epi32(_mm256_add_epi32(sum, half), s);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
  }
}

}  // namespace

/* Four pixels at a time: 4 vectors each, whose 8 sums of two are added up across the lanes
 * together. */
void scale_map(const ScaleMap& op, const int16_t* x, int w, int16_t* out) {
  if (op.maps > 1) return several_maps(op, x, w, out);
  const size_t stride = size_t(op.stride);
  const V zero = _mm256_setzero_si256();
  const __m128i s = _mm_cvtsi32_si128(op.shift), half = _mm_set1_epi32(1 << (op.shift - 1));
  const V* weight = reinterpret_cast<const V*>(op.weight.data());
  for (int i = 0; i < w; i += 4) {
    V acc[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
      const V* v = reinterpret_cast<const V*>(x + size_t(i + p < w ? i + p : w - 1) * stride);
      acc[p] = zero;
      for (size_t c = 0; c < stride / 16; c++)
        acc[p] = _mm256_add_epi32(acc[p], _mm256_madd_epi16(sizes(v[c]), weight[c]));
    }
    const V sums =
        _mm256_hadd_epi32(_mm256_hadd_epi32(acc[0], acc[1]), _mm256_hadd_epi32(acc[2], acc[3]));
    const __m128i sum =
        _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    const __m128i v = _mm_sra_epi32(_mm_add_epi32(sum, half), s);
    const int64_t four = _mm_cvtsi128_si64(_mm_packs_epi32(v, v));
    std::memcpy(out + i, &four, size_t(w - i < 4 ? w - i : 4) * 2);
  }
}

void quant(const Quant& op, const int16_t* x, int w, uint8_t* out) {
  if (op.channels == 1) return quant_plane(op, x, w, out);
  const V top = _mm256_set1_epi16(int16_t(op.top)), bottom = _mm256_set1_epi16(int16_t(-op.top));
  /* mulh by 2^(15-s) is the shift by s. */
  const V down = _mm256_set1_epi16(int16_t(1 << (15 - op.shift) % 15));
  const auto half = [&](int at) {
    V r = _mm256_mulhrs_epi16(_mm256_load_si256(reinterpret_cast<const V*>(x + at)),
                              _mm256_load_si256(reinterpret_cast<const V*>(op.mul.data() + at)));
    if (op.shift) r = _mm256_mulhrs_epi16(r, down);
    return _mm256_min_epi16(_mm256_max_epi16(r, bottom), top);
  };
  const V sign = _mm256_set1_epi8(-128);
  const int stride = op.stride();
  for (int i = 0; i < w; i++, x += op.mul.size(), out += stride) {
    int c = 0;
    for (; c + 32 <= stride; c += 32) {
      const V packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(half(c), half(c + 16)), 0xD8);
      _mm256_storeu_si256(reinterpret_cast<V*>(out + c), _mm256_xor_si256(packed, sign));
    }
    for (; c < stride; c += 16) {
      const V r = half(c);
      const __m128i bytes =
          _mm_xor_si128(_mm_packs_epi16(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)),
                        _mm256_castsi256_si128(sign));
      if (stride - c >= 16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + c), bytes);
      } else {
        alignas(16) uint8_t lanes[16];
        _mm_store_si128(reinterpret_cast<__m128i*>(lanes), bytes);
        std::memcpy(out + c, lanes, size_t(stride - c));
      }
    }
  }
}

}  // namespace bitsr::avx2
