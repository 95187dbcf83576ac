/* AVX-512 with BW, DQ, VL, VPOPCNTDQ and VNNI: Intel from Ice Lake, AMD from Zen 4.
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel), instructions on 512 bits:
 *   8 filters   4 carries x (xor + 2 ternlog + popcnt) + parity (xor + popcnt) + 3 adds + 2 adds  = 23
 *   packing     64-bit counts to 16 bits, 6 packs for 32 filters                                  =  1.5 for 8
 *   a pixel     8 x 24.5 + epilogue 2 x 9                                                         = 214
 * At two 512-bit instructions a cycle (ports 0 and 5; Zen 4's four 256-bit pipes) 107 cycles, 345 MAC/cycle;
 * the plain sum (9 x (xor + popcnt) + 8 adds) has 26 for 8 filters and only one port for its popcounts on Intel.
 * Loads: 13 of weights for 8 filters of two pixels; the 26 parts of the activations stay in registers.
 */
#include <immintrin.h>

#include "carry_save.h"

namespace bitsr {
namespace {

using V = __m512i;

bool available() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vpopcntdq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("bmi2");
}

/* Two packs of 64-bit counts to 16 bits put the filters of 4 groups in this order: group g, lane j holds
 * channel 8 (j / 2) + 2 g + j % 2 of 32. */
constexpr int channel_of(int group, int lane) { return 32 * (group / 4) + 8 * (lane / 2) + 2 * (group % 4) + lane % 2; }

/* packed: (cout_pad / 64, words, 8 groups, PARTS or 1, 8 lanes). */
bool prepare(Bconv& op) {
  const int parts = op.k == 3 ? PARTS : 1;
  if (!op.packed.resize(size_t(op.cout_pad) * op.words * parts)) return false;
  uint64_t* out = op.packed.data();
  for (int block = 0; block < op.cout_pad; block += 64)
    for (int word = 0; word < op.words; word++)
      for (int group = 0; group < 8; group++, out += parts * 8)
        for (int lane = 0; lane < 8; lane++) {
          const int filter = block + channel_of(group, lane);
          if (op.k == 3)
            weight_parts(op, filter, word, out + lane, 8);
          else
            out[lane] = op.weight[size_t(filter) * op.words + word];
        }
  return true;
}

inline V broadcast(uint64_t word) { return _mm512_set1_epi64((long long)word); }

/* Four vectors of 64-bit counts to one of 16-bit counts, in channel order. */
inline V pack(const V* n) {
  return _mm512_packus_epi32(_mm512_packus_epi32(n[0], n[1]), _mm512_packus_epi32(n[2], n[3]));
}

/* count[p][half] += disagreements of 64 filters with one word of channels, for P neighbouring pixels. */
template <int P>
inline __attribute__((always_inline)) void count3x3(const Parts& parts, int i, const V* w, V (*count)[2], bool first) {
  V a[P][PARTS];
#pragma GCC unroll 4
  for (int p = 0; p < P; p++) {
#pragma GCC unroll 3
    for (int col = 0; col < 3; col++) {
      a[p][3 * col] = broadcast(parts.a[i + p + col]);
      a[p][3 * col + 1] = broadcast(parts.ab[i + p + col]);
      a[p][3 * col + 2] = broadcast(parts.ac[i + p + col]);
    }
    a[p][9] = broadcast(parts.l[i + p]);
    a[p][10] = broadcast(parts.lm[i + p]);
    a[p][11] = broadcast(parts.lr[i + p]);
    a[p][12] = broadcast(parts.parity[i + p]);
  }
  for (int half = 0; half < 2; half++) {
    V twos[P][4], ones[P][4];
#pragma GCC unroll 4
    for (int group = 0; group < 4; group++, w += PARTS) {
#pragma GCC unroll 4
      for (int triple = 0; triple < 4; triple++) {
        const V wa = w[3 * triple], wab = w[3 * triple + 1], wac = w[3 * triple + 2];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
          V t = _mm512_xor_si512(a[p][3 * triple + 2], wac);
          t = _mm512_ternarylogic_epi64(a[p][3 * triple + 1], wab, t, 0x28); /* (A ^ B) & C */
          t = _mm512_ternarylogic_epi64(t, a[p][3 * triple], wa, 0x96);      /* A ^ B ^ C */
          t = _mm512_popcnt_epi64(t);
          twos[p][group] = triple ? _mm512_add_epi64(twos[p][group], t) : t;
        }
      }
      const V wp = w[12];
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) ones[p][group] = _mm512_popcnt_epi64(_mm512_xor_si512(a[p][12], wp));
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      const V two = pack(twos[p]), n = _mm512_add_epi16(pack(ones[p]), _mm512_add_epi16(two, two));
      count[p][half] = first ? n : _mm512_add_epi16(count[p][half], n);
    }
  }
}

inline void count1x1(const uint64_t* a, const V* w, V* count, bool first) {
  const V word = broadcast(*a);
  for (int half = 0; half < 2; half++) {
    V n[4];
    for (int group = 0; group < 4; group++) n[group] = _mm512_popcnt_epi64(_mm512_xor_si512(word, *w++));
    count[half] = first ? pack(n) : _mm512_add_epi16(count[half], pack(n));
  }
}

/* The epilogue (kernels.h) of one pixel's 64 channels from `block` on. */
template <bool INNER, bool SLOPE>
inline __attribute__((always_inline)) void finish(const Bconv& op, const BconvRow& row, int x, int block,
                                                  const V* count, const int16_t* base) {
  const __m128i up = _mm_cvtsi32_si128(op.shift + 1);
  uint64_t bits = 0;
  const size_t at = size_t(x) * op.cout_pad + block;
  for (int half = 0; half < 2; half++) {
    const int c = block + 32 * half;
    const auto load = [c](const Array<int16_t>& v) { return _mm512_load_si512(v.data() + c); };
    V v = _mm512_sub_epi16(_mm512_load_si512(base + c), _mm512_sll_epi16(count[half], up));
    v = _mm512_adds_epi16(_mm512_mulhrs_epi16(v, load(op.mul)), load(op.add));
    if (INNER) {
      v = _mm512_mask_mulhrs_epi16(v, _mm512_movepi16_mask(v), v, load(op.inner_slope));
      v = _mm512_adds_epi16(v, load(op.inner_add));
    }
    if (row.skip) v = _mm512_adds_epi16(v, _mm512_load_si512(row.skip + at + 32 * half));
    if (SLOPE) v = _mm512_mask_mulhrs_epi16(v, _mm512_movepi16_mask(v), v, load(op.slope));
    if (row.out) _mm512_store_si512(row.out + at + 32 * half, v);
    bits |= uint64_t(_mm512_cmplt_epi16_mask(v, load(op.threshold))) << (32 * half);
  }
  if (row.bits) row.bits[size_t(x) * (op.cout_pad / 64) + block / 64] = bits;
}

template <int P, bool INNER, bool SLOPE>
inline __attribute__((always_inline)) void pixels3x3(const Bconv& op, const BconvRow& row, int x, int i, const Parts* parts) {
  const V* w = reinterpret_cast<const V*>(op.packed.data());
  for (int block = 0; block < op.cout_pad; block += 64) {
    V count[P][2];
    for (int word = 0; word < op.words; word++, w += 8 * PARTS) count3x3<P>(parts[word], i, w, count, word == 0);
#pragma GCC unroll 4
    for (int p = 0; p < P; p++)
      finish<INNER, SLOPE>(op, row, x + p, block, count[p],
                           op.base.data() + size_t(border(row.top, row.bottom, x + p == 0, x + p == row.w - 1)) * op.cout_pad);
  }
}

constexpr int MAX_WORDS = 64; /* model.cpp keeps to it */

template <bool INNER, bool SLOPE>
void row3x3(const Bconv& op, const BconvRow& row) {
  Parts parts[MAX_WORDS];
  for (int from = 0; from < row.w; from += CHUNK) {
    const int n = row.w - from < CHUNK ? row.w - from : CHUNK;
    for (int word = 0; word < op.words; word++)
      parts[word] = activation_parts(row, op.words, word, from, n, row.scratch + size_t(8) * (CHUNK + 8) * word);
    int i = 0;
    for (; i + 2 <= n; i += 2) pixels3x3<2, INNER, SLOPE>(op, row, from + i, i, parts);
    if (i < n) pixels3x3<1, INNER, SLOPE>(op, row, from + i, i, parts);
  }
}

template <bool INNER, bool SLOPE>
void row1x1(const Bconv& op, const BconvRow& row) {
  for (int x = 0; x < row.w; x++) {
    const V* w = reinterpret_cast<const V*>(op.packed.data());
    for (int block = 0; block < op.cout_pad; block += 64) {
      V count[2];
      for (int word = 0; word < op.words; word++, w += 8)
        count1x1(row.rows[1] + size_t(x) * op.words + word, w, count, word == 0);
      finish<INNER, SLOPE>(op, row, x, block, count, op.base.data());
    }
  }
}

template <bool INNER, bool SLOPE>
void run(const Bconv& op, const BconvRow& row) {
  op.k == 3 ? row3x3<INNER, SLOPE>(op, row) : row1x1<INNER, SLOPE>(op, row);
}

void bconv(const Bconv& op, const BconvRow& row) {
  const bool slope = op.slope.size();
  if (op.inner_slope.size())
    slope ? run<true, true>(op, row) : run<true, false>(op, row);
  else
    slope ? run<false, true>(op, row) : run<false, false>(op, row);
}

/* P pixels of 16 outputs at once: a weight vector is loaded once for P dot products (vpdpwssd). */
template <int P>
inline void conv_pixels(const Conv& op, const ConvRow& row, int x) {
  const __m128i s = _mm_cvtsi32_si128(op.shift);
  for (int block = 0; block < op.cout; block += 16) {
    const V bias = _mm512_add_epi32(_mm512_load_si512(op.bias.data() + block), _mm512_set1_epi32(1 << (op.shift - 1)));
    const V* w = reinterpret_cast<const V*>(op.weight.data() + size_t(block) * op.segments * op.run);
    V acc[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) acc[p] = bias;
    for (int seg = 0; seg < op.segments; seg++) {
      const int16_t* a = row.segments[seg] + size_t(x) * row.step;
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

void conv(const Conv& op, const ConvRow& row) {
  int x = 0;
  for (; x + 12 <= row.w; x += 12) conv_pixels<12>(op, row, x);
  for (; x + 4 <= row.w; x += 4) conv_pixels<4>(op, row, x);
  for (; x < row.w; x++) conv_pixels<1>(op, row, x);
}

}  // namespace

const Kernels avx512_kernels = {"avx512", available, prepare, bconv, conv};

}  // namespace bitsr
