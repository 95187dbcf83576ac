/* Training's products, AVX-512 with VNNI.
 *
 * Budget, 64 -> 64 channels, 3x3: vpdpbusd does 64 MAC, 576 of them a pixel; 6 rows of 64 lanes are
 * 24 sums in registers, a step is 24 products, 4 vectors of w and 6 broadcasts. One 512-bit product
 * a cycle on Zen 4 (64 MAC/cycle, where bfloat16 has 32), two on Intel.
 */
#include <immintrin.h>

#include <cstring>

#include "common/vnni.h"
#include "train/kernels.h"

namespace bitsr::train {
namespace {

using V = __m512i;
using F = float __attribute__((vector_size(64)));
using I = int32_t __attribute__((vector_size(64)));

inline I nearest(F v) { return (I)_mm512_cvtps_epi32((__m512)v); }
inline F shorts(const int16_t* p) {
  return (F)_mm512_cvtepi32_ps(
      _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
inline void store_shorts(int16_t* p, I v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((V)v));
}
inline void store_bytes(uint8_t* p, I v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((V)v));
}

template <int P>
inline __attribute__((always_inline)) void tile(const uint8_t* a, size_t stride, const int8_t* w,
                                                int steps, int32_t* out, size_t out_stride) {
  V sum[P][4];
#pragma GCC unroll 6
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++)
      sum[p][v] = _mm512_loadu_si512(out + size_t(p) * out_stride + 16 * v);
  const V* b = reinterpret_cast<const V*>(w);
  for (int i = 0; i < steps; i++, a += 4, b += 4) {
    V four[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) four[v] = _mm512_load_si512(b + v);
#pragma GCC unroll 6
    for (int p = 0; p < P; p++) {
      int32_t bytes;
      std::memcpy(&bytes, a + size_t(p) * stride, 4);
      const V quad = _mm512_set1_epi32(bytes);
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) vpdpbusd(sum[p][v], quad, four[v]);
    }
  }
#pragma GCC unroll 6
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++)
      _mm512_storeu_si512(out + size_t(p) * out_stride + 16 * v, sum[p][v]);
}

void dot(const uint8_t* a, size_t stride, int rows, const int8_t* w, int steps, int32_t* out,
         size_t out_stride) {
  int r = 0;
  for (; r + 6 <= rows; r += 6, a += 6 * stride, out += 6 * out_stride)
    tile<6>(a, stride, w, steps, out, out_stride);
  for (; r + 2 <= rows; r += 2, a += 2 * stride, out += 2 * out_stride)
    tile<2>(a, stride, w, steps, out, out_stride);
  if (r < rows) tile<1>(a, stride, w, steps, out, out_stride);
}

}  // namespace
}  // namespace bitsr::train

#include "train/unit_loops.h"

namespace bitsr::train {

const TrainKernels avx512_kernels = {64, dot, measure, binarize, round, LOOPS<1>, LOOPS<8>};

}  // namespace bitsr::train
