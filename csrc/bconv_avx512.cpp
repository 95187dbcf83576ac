/* AVX-512 with BW, DQ, VL, VPOPCNTDQ and VNNI: Intel from Ice Lake, AMD from Zen 4.
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel), instructions on 512 bits:
 *   8 filters   4 carries x (xor + 2 ternlog + popcnt) + parity (xor + popcnt) + 3 adds + 2 adds  = 23
 *   packing     64-bit counts to 16 bits, 6 packs for 32 filters                                  =  1.5 for 8
 *   a pixel     8 x 24.5 + epilogue 2 x 9                                                         = 214
 * At two 512-bit instructions a cycle (ports 0 and 5; Zen 4's four 256-bit pipes) 107 cycles, 345 MAC/cycle;
 * the plain sum (9 x (xor + popcnt) + 8 adds) has 26 for 8 filters and only one port for its popcounts on Intel.
 * Loads: 13 of weights for 8 filters of two pixels, 26 broadcasts a pixel. Triple by triple over all 64 filters,
 * two pixels keep 16 sums and 6 parts in registers: no spills (with the 26 parts kept instead it is 1.4 times slower).
 */
#include "carry_save.h"
#include "epilogue_avx512.h"

namespace bitsr {
namespace {

bool available() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("bmi2");
}

/* Two packs of 64-bit counts to 16 bits put the filters of 4 groups in this order: group g, lane j holds
 * channel 8 (j / 2) + 2 g + j % 2 of 32. */
constexpr int channel_of(int group, int lane) { return 32 * (group / 4) + 8 * (lane / 2) + 2 * (group % 4) + lane % 2; }

/* packed, for each 64 filters and each word: 3x3: (4 triples, 8 groups, 3 parts, 8 lanes), then the parities
 * (8 groups, 8 lanes); 1x1: (8 groups, 8 lanes). */
bool prepare(Bconv& op) {
  const int parts = op.k == 3 ? PARTS : 1;
  if (!op.packed.resize(size_t(op.cout_pad) * op.words * parts)) return false;
  uint64_t* out = op.packed.data();
  for (int block = 0; block < op.cout_pad; block += 64)
    for (int word = 0; word < op.words; word++, out += 64 * parts)
      for (int group = 0; group < 8; group++)
        for (int lane = 0; lane < 8; lane++) {
          const int filter = block + channel_of(group, lane);
          uint64_t w[PARTS] = {op.weight[size_t(filter) * op.words + word]};
          if (op.k == 3) weight_parts(op, filter, word, w);
          for (int part = 0; part < parts - 1; part++)
            out[((part / 3 * 8 + group) * 3 + part % 3) * 8 + lane] = w[part];
          out[((parts - 1) * 8 + group) * 8 + lane] = w[parts - 1];
        }
  return true;
}

inline V broadcast(uint64_t word) { return _mm512_set1_epi64((long long)word); }

/* Four vectors of 64-bit counts to one of 16-bit counts, in channel order. */
inline V pack(const V* n) {
  return _mm512_packus_epi32(_mm512_packus_epi32(n[0], n[1]), _mm512_packus_epi32(n[2], n[3]));
}

/* counts[x] (+)= disagreements of 64 filters with one word of channels, for P neighbouring pixels. */
template <int P, bool FIRST>
inline __attribute__((always_inline)) void count3x3(const Parts& parts, int x, const V* w, int16_t (*counts)[64]) {
  V twos[P][8];
#pragma GCC unroll 4
  for (int triple = 0; triple < 4; triple++) {
    V a[P][3];
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      const int at = x + p + (triple < 3 ? triple : 0);
      a[p][0] = broadcast(triple < 3 ? parts.a[at] : parts.l[at]);
      a[p][1] = broadcast(triple < 3 ? parts.ab[at] : parts.lm[at]);
      a[p][2] = broadcast(triple < 3 ? parts.ac[at] : parts.lr[at]);
    }
#pragma GCC unroll 8
    for (int group = 0; group < 8; group++, w += 3) {
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        V t = _mm512_xor_si512(a[p][2], w[2]);
        t = _mm512_ternarylogic_epi64(t, a[p][1], w[1], 0x60); /* A & (B ^ C) */
        t = _mm512_ternarylogic_epi64(t, a[p][0], w[0], 0x96); /* A ^ B ^ C */
        t = _mm512_popcnt_epi64(t);
        twos[p][group] = triple ? _mm512_add_epi64(twos[p][group], t) : t;
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < P; p++) {
    const V parity = broadcast(parts.parity[x + p]);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      V ones[4];
#pragma GCC unroll 4
      for (int group = 0; group < 4; group++)
        ones[group] = _mm512_popcnt_epi64(_mm512_xor_si512(parity, w[4 * half + group]));
      const V two = pack(twos[p] + 4 * half);
      V n = _mm512_add_epi16(pack(ones), _mm512_add_epi16(two, two));
      int16_t* out = counts[x + p] + 32 * half;
      if (!FIRST) n = _mm512_add_epi16(n, _mm512_load_si512(out));
      _mm512_store_si512(out, n);
    }
  }
}

template <bool FIRST>
__attribute__((noinline)) void count_chunk(const Parts& parts, int n, const V* w, int16_t (*counts)[64]) {
  int x = 0;
  for (; x + 2 <= n; x += 2) count3x3<2, FIRST>(parts, x, w, counts);
  if (x < n) count3x3<1, FIRST>(parts, x, w, counts);
}

void count_chunk_1x1(const uint64_t* a, int words, int n, const V* w, int16_t (*counts)[64], bool first) {
  for (int x = 0; x < n; x++) {
    const V word = broadcast(a[ptrdiff_t(x) * words]);
    for (int half = 0; half < 2; half++) {
      V ones[4];
      for (int group = 0; group < 4; group++)
        ones[group] = _mm512_popcnt_epi64(_mm512_xor_si512(word, w[4 * half + group]));
      const V n = pack(ones);
      int16_t* out = counts[x] + 32 * half;
      _mm512_store_si512(out, first ? n : _mm512_add_epi16(n, _mm512_load_si512(out)));
    }
  }
}

/* The sums of 64 channels of n pixels from column `from` on, from their counts. */
__attribute__((noinline)) void finish_counts(const Bconv& op, const BconvRow& row, int block, int from, int n,
                                             const int16_t (*counts)[64]) {
  const __m128i up = _mm_cvtsi32_si128(op.shift + 1);
  const int16_t* base = op.base.data() + 64 * size_t(block);
  finish_chunk(op, row, block, from, n, [=, &op, &row](int i, int half) {
    const int x = from + i;
    const int where = border(row.top, row.bottom, x == 0, x == row.w - 1);
    return _mm512_sub_epi16(_mm512_load_si512(base + size_t(where) * size_t(op.cout_pad) + 32 * half),
                            _mm512_sll_epi16(_mm512_load_si512(counts[i] + 32 * half), up));
  });
}

void bconv(const Bconv& op, const BconvRow& row) {
  const size_t step = 8 * (op.k == 3 ? PARTS : 1);
  chunks(
      op, row,
      [&](ChunkScratch& s, int block, int word, int x, int n) {
        const V* w = reinterpret_cast<const V*>(op.packed.data()) + size_t(block * op.words + word) * step;
        if (op.k == 3)
          word ? count_chunk<false>(s.parts, n, w, s.counts) : count_chunk<true>(s.parts, n, w, s.counts);
        else
          count_chunk_1x1(row.rows[1] + ptrdiff_t(x) * op.words + word, op.words, n, w, s.counts, word == 0);
      },
      [&](ChunkScratch& s, int block, int x, int n) { finish_counts(op, row, block, x, n, s.counts); });
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
