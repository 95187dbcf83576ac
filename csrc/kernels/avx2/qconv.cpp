/* int8 convolution, AVX2, and the same with the products of AVX-VNNI.
 *
 * Budget, instructions on 256 bits for 32 MAC, beside the loads, in groups of G fours of channels:
 *   small weights   vpmaddubsw + vpaddw, and vpmaddwd + vpaddd once a group           = 2 + 1/G
 *   other weights   2 (vpmaddwd + vpaddd) + 1 of the activations' halves
 *                   + 0.75 of the weights'                                            = 5.75
 * vpmaddubsw takes the bytes as they are, but adds two products in 16 bits, of which those of two
 * 8-bit weights do not even fit. Small are the weights of 16 filters where two neighbours are at
 * most 128, so 7 bits always. How many results add up in 16 bits before they are widened depends on
 * the weights, which are known (Qconv::groups): of +-1 a tap's row, of 7-bit weights as trained 2.8
 * with 16 channels and 3.6 with 32. A pixel of 16 -> 16 channels, 3x3, then takes 170 instructions,
 * and of 32 -> 32 658: at four a cycle, which Zen 3 has, 54 and 56 MAC/cycle; other weights 22. Bit
 * planes through the binary kernel would be 8 passes of it, 110 / 8 = 14 MAC/cycle. Six pixels of
 * 16 filters have 12 sums of 16 bits in registers: 6 broadcasts and 2 vectors of weights for 24
 * instructions. Each length of a group has code of its own, without a loop over its fours.
 *
 * With AVX-VNNI (path avxvnni) vpdpbusd does 32 MAC in 32-bit sums, whatever the weights: 72 and
 * 288 instructions a pixel, two a cycle on Intel's ports 0 and 1. Six pixels of 16 filters again;
 * neither an unrolled loop nor 3 pixels of 32 filters was faster.
 *
 * Shares of the time of 10 layers of 16 channels and of 8 of 32, on a Xeon, in per cent:
 *                                                           AVX2        AVX-VNNI
 *   products, and their sums to 16 bits                   79   89        69   82
 *   epilogue and bytes (fused_bytes.h)                     4    3         7    4
 *   head and bicubic base, with PReLU and bytes           10    5        15    9
 *   epilogue of the tail, and shuffle                      4    2         6    3
 */
#include <utility>

#include "kernels/avx2/epilogue.h"
#include "kernels/avx2/fused_bytes.h"
#include "kernels/qconv_chunks.h"

namespace bitsr::avx2 {
namespace {

/* 16 sums to int16, in order (narrow in kernels.h). */
inline V narrow16(const Qconv& op, V a, V b) {
  if (op.left) {
    const V most = _mm256_set1_epi32(32767), least = _mm256_set1_epi32(-32768);
    const __m128i up = _mm_cvtsi32_si128(op.left);
    a = _mm256_sll_epi32(_mm256_max_epi32(_mm256_min_epi32(a, most), least), up);
    b = _mm256_sll_epi32(_mm256_max_epi32(_mm256_min_epi32(b, most), least), up);
  }
  const V down = _mm256_set1_epi32(op.right);
  return _mm256_permute4x64_epi64(
      _mm256_packs_epi32(_mm256_srav_epi32(a, down), _mm256_srav_epi32(b, down)), 0xD8);
}

inline V broadcast4(const uint8_t* a) {
  int32_t quad;
  std::memcpy(&quad, a, 4);
  return _mm256_set1_epi32(quad);
}

inline const V* weights(const Qconv& op, int filter) {
  return reinterpret_cast<const V*>(op.weight.data() + size_t(filter) * size_t(op.k * op.run));
}
inline V bias(const Qconv& op, int filter) {
  return _mm256_load_si256(reinterpret_cast<const V*>(op.bias.data() + filter));
}

/* acc + sums of two products of bytes a and signed bytes w. As intrinsics GCC 12 does all products
 * first and spills the sums. */
inline __attribute__((always_inline)) V multiply_add(V acc, V a, V w) {
  V product;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(w));
  return acc;
}

/* acc + products of bytes a and signed bytes w, four in each lane: AVX-VNNI, which this file is not
 * compiled with. Without the prefix an assembler may take the instruction of AVX-512. */
inline __attribute__((always_inline)) V vpdpbusd(V acc, V a, V w) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(w));
  return acc;
}

/* wide + sums of two neighbours in acc. Left to itself GCC 12 keeps wide in registers, which the
 * products need. */
inline __attribute__((always_inline)) void widen(V& wide, V acc, V ones) {
  asm("vpmaddwd %2, %1, %1\n\tvpaddd %0, %1, %1\n\tvmovdqa %1, %0"
      : "+m"(wide), "+x"(acc)
      : "x"(ones));
}

inline const uint16_t* groups(const Qconv& op, int filter) {
  return op.groups.data() + filter / 16 * (op.k * op.run / 4);
}

#define INLINED __attribute__((always_inline))
/* f(0), f(1), ... Of a loop that GCC 12 does not unroll early it keeps the arrays in memory. */
template <class F, int... I>
inline __attribute__((always_inline)) void unrolled(F f, std::integer_sequence<int, I...>) {
  (f(I), ...);
}

/* To the sums of P pixels and 16 filters: a group of N fours of channels, by vpmaddubsw. */
template <int P, int N>
inline __attribute__((always_inline)) void add_group(const uint8_t* a, size_t stride, const V* w,
                                                     V (*wide)[2]) {
  constexpr std::make_integer_sequence<int, P> pixels;
  V acc[P][2];
  const auto first = [&](int p) INLINED {
    const V v = broadcast4(a + size_t(p) * stride);
    acc[p][0] = _mm256_maddubs_epi16(v, w[0]);
    acc[p][1] = _mm256_maddubs_epi16(v, w[1]);
  };
  unrolled(first, pixels);
#pragma GCC unroll 8
  for (int i = 1; i < N; i++) {
    const V w0 = w[2 * i], w1 = w[2 * i + 1];
    const auto more = [&](int p) INLINED {
      const V v = broadcast4(a + size_t(p) * stride + 4 * i);
      acc[p][0] = multiply_add(acc[p][0], v, w0);
      acc[p][1] = multiply_add(acc[p][1], v, w1);
    };
    unrolled(more, pixels);
  }
  /* Volatile: not before the products, which need its register. */
  alignas(32) static const int16_t ONES[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  V ones;
  asm volatile("vmovdqa %1, %0" : "=x"(ones) : "m"(ONES));
  const auto last = [&](int p) INLINED {
    widen(wide[p][0], acc[p][0], ones);
    widen(wide[p][1], acc[p][1], ones);
  };
  unrolled(last, pixels);
}

/* The same for n pixels. */
template <int N>
inline void add_group(const uint8_t* a, size_t stride, const V* w, int n, V (*wide)[2]) {
  const V(*end)[2] = wide + n;
  for (; wide + 6 <= end; wide += 6, a += 6 * stride) add_group<6, N>(a, stride, w, wide);
  for (; wide < end; wide++, a += stride) add_group<1, N>(a, stride, w, wide);
}

/* n pixels from column x on, 16 filters: all of them group by group, since the loops over a group's
 * pixels are as long as each other. */
inline void small_lanes(const Qconv& op, const QconvRow& row, int x, int n, int filter,
                        int16_t (*sums)[64]) {
  const size_t stride = size_t(op.stride);
  const V *w = weights(op, filter), start[2] = {bias(op, filter), bias(op, filter + 8)};
  const uint16_t* group = groups(op, filter);
  V wide[QCHUNK][2];
  for (int i = 0; i < n; i++) wide[i][0] = start[0], wide[i][1] = start[1];
  for (int dy = 0; dy < op.k; dy++) {
    const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
    for (const uint8_t* end = a + op.run; a < end;)
      for (int left = *group++; left;) {
        const int length = left < 6 ? left : 6;
        switch (length) {
          case 1:
            add_group<1>(a, stride, w, n, wide);
            break;
          case 2:
            add_group<2>(a, stride, w, n, wide);
            break;
          case 3:
            add_group<3>(a, stride, w, n, wide);
            break;
          case 4:
            add_group<4>(a, stride, w, n, wide);
            break;
          case 5:
            add_group<5>(a, stride, w, n, wide);
            break;
          default:
            add_group<6>(a, stride, w, n, wide);
        }
        a += 4 * length, w += 2 * length, left -= length;
      }
  }
  for (int i = 0; i < n; i++)
    _mm256_store_si256(reinterpret_cast<V*>(sums[i] + filter % 64),
                       narrow16(op, wide[i][0], wide[i][1]));
}

/* P pixels from column x on, 16 filters, by vpdpbusd. */
template <int P>
inline __attribute__((always_inline)) void vnni_lanes(const Qconv& op, const QconvRow& row, int x,
                                                      int filter, int16_t (*sums)[64]) {
  constexpr std::make_integer_sequence<int, P> pixels;
  const size_t stride = size_t(op.stride);
  const V* w = weights(op, filter);
  const V start[2] = {bias(op, filter), bias(op, filter + 8)};
  V acc[P][2];
  unrolled([&](int p) INLINED { acc[p][0] = start[0], acc[p][1] = start[1]; }, pixels);
  for (int dy = 0; dy < op.k; dy++) {
    const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
    for (const uint8_t* end = a + op.run; a < end; a += 4, w += 2) {
      const V w0 = w[0], w1 = w[1];
      const auto more = [&](int p) INLINED {
        const V v = broadcast4(a + size_t(p) * stride);
        acc[p][0] = vpdpbusd(acc[p][0], v, w0);
        acc[p][1] = vpdpbusd(acc[p][1], v, w1);
      };
      unrolled(more, pixels);
    }
  }
  const auto store = [&](int p) INLINED {
    _mm256_store_si256(reinterpret_cast<V*>(sums[p] + filter % 64),
                       narrow16(op, acc[p][0], acc[p][1]));
  };
  unrolled(store, pixels);
}

/* The same by vpmaddwd: the even and the odd bytes as 16 bits. */
template <int P>
inline __attribute__((always_inline)) void lanes(const Qconv& op, const QconvRow& row, int x,
                                                 int filter, int16_t (*sums)[64]) {
  const V low = _mm256_set1_epi16(0xFF);
  const size_t stride = size_t(op.stride);
  const V* w = weights(op, filter);
  V acc[P][2];
#pragma GCC unroll 4
  for (int p = 0; p < P; p++)
    for (int b = 0; b < 2; b++) acc[p][b] = bias(op, filter + 8 * b);
  for (int dy = 0; dy < op.k; dy++) {
    const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
    for (int i = 0; i < op.run; i += 4, a += 4, w += 2) {
      const V even[2] = {_mm256_srai_epi16(_mm256_slli_epi16(w[0], 8), 8),
                         _mm256_srai_epi16(_mm256_slli_epi16(w[1], 8), 8)};
      const V odd[2] = {_mm256_srai_epi16(w[0], 8), _mm256_srai_epi16(w[1], 8)};
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        const V v = broadcast4(a + size_t(p) * stride);
        const V v0 = _mm256_and_si256(v, low), v1 = _mm256_srli_epi16(v, 8);
#pragma GCC unroll 2
        for (int b = 0; b < 2; b++) {
          acc[p][b] = _mm256_add_epi32(acc[p][b], _mm256_madd_epi16(v0, even[b]));
          acc[p][b] = _mm256_add_epi32(acc[p][b], _mm256_madd_epi16(v1, odd[b]));
        }
      }
    }
  }
  for (int p = 0; p < P; p++)
    _mm256_store_si256(reinterpret_cast<V*>(sums[p] + filter % 64),
                       narrow16(op, acc[p][0], acc[p][1]));
}

template <bool VNNI>
__attribute__((noinline)) void lanes_chunk(const Qconv& op, const QconvRow& row, int x, int n,
                                           int filter, int16_t (*sums)[64]) {
  int i = 0;
  if (VNNI) {
    for (; i + 6 <= n; i += 6) vnni_lanes<6>(op, row, x + i, filter, sums + i);
    for (; i + 2 <= n; i += 2) vnni_lanes<2>(op, row, x + i, filter, sums + i);
    for (; i < n; i++) vnni_lanes<1>(op, row, x + i, filter, sums + i);
  } else if (*groups(op, filter)) {
    small_lanes(op, row, x, n, filter, sums);
  } else {
    for (; i + 4 <= n; i += 4) lanes<4>(op, row, x + i, filter, sums + i);
    for (; i < n; i++) lanes<1>(op, row, x + i, filter, sums + i);
  }
}

/* Lane i of the result is the sum of the lanes of v[i]. */
inline V transposed_sum(const V* v) {
  const V a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
  const V b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
  return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                          _mm256_permute2x128_si256(a, b, 0x31));
}

/* P pixels from column x on, C filters; P * C = 8. Sum p * C + c of the result is filter + c of
 * pixel x + p. */
template <bool VNNI, int P, int C>
inline __attribute__((always_inline)) V dots(const Qconv& op, const QconvRow& row, int x, int last,
                                             int filter) {
  const size_t wide = size_t(op.k * round_up(op.run, DOT));
  const int8_t* w = op.weight.data() + size_t(filter) * wide;
  V acc[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) acc[i] = _mm256_setzero_si256();
  size_t at[P]; /* columns beyond the last repeat it */
#pragma GCC unroll 8
  for (int p = 0; p < P; p++) at[p] = size_t(x + p < last ? p : last - 1 - x) * size_t(op.stride);
  for (int dy = 0; dy < op.k; dy++) {
    const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
    constexpr int STEP = VNNI ? 32 : 16;
    for (int i = 0; i < round_up(op.run, DOT); i += STEP, a += STEP, w += STEP) {
      V wc[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) {
        const void* from = w + size_t(c) * wide;
        wc[c] = VNNI ? _mm256_load_si256(static_cast<const V*>(from))
                     : _mm256_cvtepi8_epi16(_mm_load_si128(static_cast<const __m128i*>(from)));
      }
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) {
        const void* from = a + at[p];
        const V v = VNNI ? _mm256_loadu_si256(static_cast<const V*>(from))
                         : _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(from)));
#pragma GCC unroll 4
        for (int c = 0; c < C; c++)
          acc[p * C + c] = VNNI ? vpdpbusd(acc[p * C + c], v, wc[c])
                                : _mm256_add_epi32(acc[p * C + c], _mm256_madd_epi16(v, wc[c]));
      }
    }
  }
  return transposed_sum(acc);
}

template <bool VNNI>
__attribute__((noinline)) void dots_plane(const Qconv& op, const QconvRow& row, int x, int n,
                                          int16_t* sums) {
  const V b = _mm256_set1_epi32(op.bias[0]);
  for (int i = 0; i < n; i += 16)
    _mm256_store_si256(
        reinterpret_cast<V*>(sums + i),
        narrow16(op, _mm256_add_epi32(dots<VNNI, 8, 1>(op, row, x + i, x + n, 0), b),
                 _mm256_add_epi32(dots<VNNI, 8, 1>(op, row, x + i + 8, x + n, 0), b)));
}

template <bool VNNI>
__attribute__((noinline)) void dots_chunk(const Qconv& op, const QconvRow& row, int x, int n,
                                          int filter, int16_t (*sums)[64]) {
  const V b = _mm256_broadcastsi128_si256(
      _mm_load_si128(reinterpret_cast<const __m128i*>(op.bias.data() + filter)));
  for (int i = 0; i < n; i += 4) {
    alignas(32) uint64_t pixels[4];
    _mm256_store_si256(
        reinterpret_cast<V*>(pixels),
        narrow16(op, _mm256_add_epi32(dots<VNNI, 2, 4>(op, row, x + i, x + n, filter), b),
                 _mm256_add_epi32(dots<VNNI, 2, 4>(op, row, x + i + 2, x + n, filter), b)));
    for (int p = 0; p < 4 && i + p < n; p++) std::memcpy(sums[i + p] + filter, &pixels[p], 8);
  }
}

template <bool VNNI>
inline void qconv_row(const Qconv& op, const QconvRow& row) {
  qconv_chunks(
      op, row,
      [&](int x, int n, int filter, int, int16_t (*sums)[64]) {
        if (op.dots) return dots_chunk<VNNI>(op, row, x, n, filter, sums), 4;
        return lanes_chunk<VNNI>(op, row, x, n, filter, sums), 16;
      },
      [&](int x, int n, int16_t* sums) { dots_plane<VNNI>(op, row, x, n, sums); },
      [&](const EpilogueRow& to, int block, int x, int n, const int16_t (*sums)[64]) {
        finish_channels(op, to, block, x, n,
                        [sums](int i, int q) { return reinterpret_cast<const V*>(sums[i])[q]; });
      },
      quant,
      [&](int n, const int16_t (*sums)[64], uint8_t* bytes) {
        return fused_bytes(op, *row.quant, n, sums, bytes);
      });
}

}  // namespace

void qconv(const Qconv& op, const QconvRow& row) { qconv_row<false>(op, row); }

}  // namespace bitsr::avx2

#if defined(BITSR_AVXVNNI)
namespace bitsr {
void avxvnni::qconv(const Qconv& op, const QconvRow& row) { avx2::qconv_row<true>(op, row); }
}  // namespace bitsr
#endif
