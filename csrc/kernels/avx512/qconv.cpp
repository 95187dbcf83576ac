/* int8 convolution, AVX-512 with VNNI.
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel): vpdpbusd does 64 MAC, 576 a pixel: 576
 * cycles on Zen 4 (one 512-bit product a cycle, 64 MAC/cycle), 288 on Intel's ports 0 and 5. Twelve
 * pixels of 32 filters are 24 sums in registers; four channels of them take 12 broadcasts and 2
 * vectors of weights (14 loads for 24 products), and 18 KiB of weights stay in L1. Bit planes
 * through the binary kernel would be 8 passes of it: at the 272 MAC/cycle measured there 34, and
 * only for 1-bit weights.
 * Few filters (a tail of 1 or 3 channels) go the other way round: 64 channels are the lanes, 16
 * sums are 16 pixels of one filter or 4 of four. k = 9, 64 -> 1: 81 products, 81 loads and 3
 * instructions of the transposed sum a pixel. Reached on Zen 4: 60 MAC/cycle, 50 in that tail.
 */
#include "common/vnni.h"
#include "kernels/avx2/fused_bytes.h"
#include "kernels/avx512/epilogue.h"
#include "kernels/qconv_chunks.h"

namespace bitsr::avx512 {
namespace {

/* 16 sums to int16 (narrow in kernels.h). */
inline __m256i narrow16(const Qconv& op, V acc) {
  if (op.left) {
    acc = _mm512_max_epi32(_mm512_min_epi32(acc, _mm512_set1_epi32(32767)),
                           _mm512_set1_epi32(-32768));
    acc = _mm512_sll_epi32(acc, _mm_cvtsi32_si128(op.left));
  }
  return _mm512_cvtsepi32_epi16(_mm512_sra_epi32(acc, _mm_cvtsi32_si128(op.right)));
}

/* P pixels from column x on, 16 * B filters. */
template <int P, int B>
inline __attribute__((always_inline)) void lanes(const Qconv& op, const QconvRow& row, int x,
                                                 int filter, int16_t (*sums)[64]) {
  const size_t quads = size_t(op.k) * op.run / 4, stride = size_t(op.stride);
  const V* w = reinterpret_cast<const V*>(op.weight.data()) + size_t(filter / 16) * quads;
  V acc[P][B];
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 2
    for (int b = 0; b < B; b++) acc[p][b] = _mm512_load_si512(op.bias.data() + filter + 16 * b);
  for (int dy = 0; dy < op.k; dy++) {
    const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
    for (int i = 0; i < op.run; i += 4, a += 4, w++) {
      V wb[B];
#pragma GCC unroll 2
      for (int b = 0; b < B; b++) wb[b] = _mm512_load_si512(w + b * quads);
#pragma GCC unroll 16
      for (int p = 0; p < P; p++) {
        int32_t quad;
        std::memcpy(&quad, a + size_t(p) * stride, 4);
        const V v = _mm512_set1_epi32(quad);
#pragma GCC unroll 2
        for (int b = 0; b < B; b++) vpdpbusd(acc[p][b], v, wb[b]);
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 2
    for (int b = 0; b < B; b++)
      _mm256_store_si256(reinterpret_cast<__m256i*>(sums[p] + filter % 64 + 16 * b),
                         narrow16(op, acc[p][b]));
}

template <int B>
__attribute__((noinline)) void lanes_chunk(const Qconv& op, const QconvRow& row, int x, int n,
                                           int filter, int16_t (*sums)[64]) {
  int i = 0;
  for (; i + 12 <= n; i += 12) lanes<12, B>(op, row, x + i, filter, sums + i);
  for (; i + 4 <= n; i += 4) lanes<4, B>(op, row, x + i, filter, sums + i);
  for (; i < n; i++) lanes<1, B>(op, row, x + i, filter, sums + i);
}

/* Lane i of the result is the sum of the lanes of v[i]. */
inline V transposed_sum(const V* v) {
  V a[8], b[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) /* 128-bit lanes: two halves of v[2i], v[2i + 1] side by side */
    a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                            _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) /* 128-bit lanes: parts of v[4i] to v[4i + 3] */
    b[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                            _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
  const auto halves = [](V x, V y) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(x, y, 0x88), _mm512_shuffle_i32x4(x, y, 0xDD));
  };
  return halves(halves(b[0], b[1]), halves(b[2], b[3]));
}

/* P pixels from column x on, C filters; P * C = 16. Sum p * C + c of the result is filter + c of
 * pixel x + p. STRIDE: bytes of a pixel where they are known and all P pixels there (addresses
 * without a register), else 0. */
template <int P, int C, int STRIDE>
inline __attribute__((always_inline)) V dots(const Qconv& op, const QconvRow& row, int x, int last,
                                             int filter) {
  const int wide = round_up(op.run, DOT);
  const int8_t* w = op.weight.data() + size_t(filter) * size_t(op.k * wide);
  V acc[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) acc[i] = _mm512_setzero_si512();
  size_t at[P]; /* columns beyond the last repeat it */
#pragma GCC unroll 16
  for (int p = 0; p < P; p++) at[p] = size_t(x + p < last ? p : last - 1 - x) * size_t(op.stride);
  for (int dy = 0; dy < op.k; dy++) {
    const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
    for (int i = 0; i < op.run; i += 64, a += 64, w += 64) {
      V wc[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) wc[c] = _mm512_load_si512(w + size_t(c) * size_t(op.k * wide));
#pragma GCC unroll 16
      for (int p = 0; p < P; p++) {
        const V v = _mm512_loadu_si512(a + (STRIDE ? size_t(p * STRIDE) : at[p]));
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) vpdpbusd(acc[p * C + c], v, wc[c]);
      }
    }
  }
  return transposed_sum(acc);
}

template <int P, int C>
inline V dots(const Qconv& op, const QconvRow& row, int x, int last, int filter) {
  return op.stride == 64 && x + P <= last ? dots<P, C, 64>(op, row, x, last, filter)
                                          : dots<P, C, 0>(op, row, x, last, filter);
}

__attribute__((noinline)) void dots_plane(const Qconv& op, const QconvRow& row, int x, int n,
                                          int16_t* sums) {
  for (int i = 0; i < n; i += 16)
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums + i),
                       narrow16(op, _mm512_add_epi32(dots<16, 1>(op, row, x + i, x + n, 0),
                                                     _mm512_set1_epi32(op.bias[0]))));
}

__attribute__((noinline)) void dots_chunk(const Qconv& op, const QconvRow& row, int x, int n,
                                          int filter, int16_t (*sums)[64]) {
  const V bias = _mm512_broadcast_i32x4(
      _mm_load_si128(reinterpret_cast<const __m128i*>(op.bias.data() + filter)));
  for (int i = 0; i < n; i += 4) {
    const __m256i four =
        narrow16(op, _mm512_add_epi32(dots<4, 4>(op, row, x + i, x + n, filter), bias));
    alignas(32) uint64_t pixels[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(pixels), four);
    for (int p = 0; p < 4 && i + p < n; p++) std::memcpy(sums[i + p] + filter, &pixels[p], 8);
  }
}

}  // namespace

void qconv(const Qconv& op, const QconvRow& row) {
  qconv_chunks(
      op, row,
      [&](int x, int n, int filter, int filters, int16_t (*sums)[64]) {
        if (op.dots) return dots_chunk(op, row, x, n, filter, sums), 4;
        if (filters > 16) return lanes_chunk<2>(op, row, x, n, filter, sums), 32;
        return lanes_chunk<1>(op, row, x, n, filter, sums), 16;
      },
      [&](int x, int n, int16_t* sums) { dots_plane(op, row, x, n, sums); },
      [&](const EpilogueRow& to, int block, int x, int n, const int16_t (*sums)[64]) {
        finish_channels(op, to, block, x, n,
                        [sums](int i, int half) { return _mm512_load_si512(sums[i] + 32 * half); });
      },
      quant,
      [&](int n, const int16_t (*sums)[64], uint8_t* bytes) {
        return fused_bytes(op, *row.quant, n, sums, bytes);
      });
}

}  // namespace bitsr::avx512
