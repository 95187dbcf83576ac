/* Training's products, AVX2.
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel): vpmaddubsw and vpaddw for 32 MAC, for as
 * long as 16 bits hold the sum, which signs allow for 64 of them. 2 rows of 32 lanes are 8 sums in
 * registers; a step is 16 of these instructions with 4 vectors of w and 2 broadcasts: 4 cycles on
 * Zen (two products a cycle), 64 MAC/cycle, where float32 has 16. Reached on Zen 3: 43 MAC/cycle,
 * where a chain of the two instructions alone does 50.
 */
#include <immintrin.h>

#include <cstring>

#include "train/kernels.h"

namespace bitsr::train {
namespace {

using V = __m256i;
using F = float __attribute__((vector_size(32)));
using I = int32_t __attribute__((vector_size(32)));

inline I nearest(F v) { return (I)_mm256_cvtps_epi32((__m256)v); }
inline F shorts(const int16_t* p) {
  return (F)_mm256_cvtepi32_ps(
      _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline void store_shorts(int16_t* p, I v) {
  const __m128i low = _mm256_castsi256_si128((V)v), high = _mm256_extracti128_si256((V)v, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi32(low, high));
}
inline void store_bytes(uint8_t* p, I v) {
  const V low = _mm256_shuffle_epi8((V)v, _mm256_set1_epi32(0x0C080400));
  const int32_t half[2] = {_mm256_extract_epi32(low, 0), _mm256_extract_epi32(low, 4)};
  std::memcpy(p, half, 8);
}

/* acc + the products of bytes a and signs w, two in each lane; as intrinsics GCC copies sums and
 * reloads w. */
inline __attribute__((always_inline)) void dot2(V& acc, V a, V w) {
  V products;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(products) : "x"(a), "x"(w));
}

template <int P>
inline __attribute__((always_inline)) void tile(const uint8_t* a, size_t stride, const int8_t* w,
                                                int steps, int32_t* out, size_t out_stride) {
  V sum[P][4];
#pragma GCC unroll 2
  for (int p = 0; p < P; p++)
    sum[p][0] = sum[p][1] = sum[p][2] = sum[p][3] = _mm256_setzero_si256();
  const V* b = reinterpret_cast<const V*>(w);
  for (int i = 0; i < steps; i += 4)
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++, a += 4, b += 4) {
      V quad[P];
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) {
        int32_t bytes;
        std::memcpy(&bytes, a + size_t(p) * stride, 4);
        quad[p] = _mm256_set1_epi32(bytes);
      }
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        const V four = _mm256_load_si256(b + v);
#pragma GCC unroll 2
        for (int p = 0; p < P; p++) dot2(sum[p][v], quad[p], four);
      }
    }
  const V ones = _mm256_set1_epi16(1);
#pragma GCC unroll 2
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
      V* to = reinterpret_cast<V*>(out + size_t(p) * out_stride) + v;
      _mm256_storeu_si256(
          to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_madd_epi16(sum[p][v], ones)));
    }
}

void dot(const uint8_t* a, size_t stride, int rows, const int8_t* w, int steps, int32_t* out,
         size_t out_stride) {
  int r = 0;
  for (; r + 2 <= rows; r += 2, a += 2 * stride, out += 2 * out_stride)
    tile<2>(a, stride, w, steps, out, out_stride);
  if (r < rows) tile<1>(a, stride, w, steps, out, out_stride);
}

}  // namespace
}  // namespace bitsr::train

#include "train/unit_loops.h"

namespace bitsr::train {

const TrainKernels avx2_kernels = {32, dot, measure, binarize, round, LOOPS<1>, LOOPS<8>};

}  // namespace bitsr::train
