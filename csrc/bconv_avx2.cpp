/* AVX2: Intel from Haswell, AMD from Zen.
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel), instructions on 256 bits for 4 filters:
 *   4 carries x 5 (4 xor, 1 and) + parity 1                                       = 21
 *   carries c0 c1 c2 to one sum and one carry of weight 4                         =  5
 *   4 words (weights 1, 2, 2, 4) counted by nibbles: 4 x (2 and, shift, 2 pshufb) = 20
 *   bytes: 7 adds (look-up tables hold the weighted counts), vpsadbw              =  8
 *   packing 64 -> 16 bits                                                         =  0.75
 * 55 for 4 filters, 880 a pixel: 293 cycles at three a cycle (125 MAC/cycle), 220 at four (167).
 * The nine plain popcounts by nibble look-up would take 9 x 7 + 9 + 8 = 80 for 4 filters.
 */
#include "carry_save.h"
#include "epilogue_avx2.h"

namespace bitsr {
namespace {

bool available() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi2");
}

/* As in the AVX-512 path, with 4 lanes: group g, lane j holds channel 8 (j / 2) + 2 g + j % 2 of 16. */
constexpr int channel_of(int group, int lane) { return 16 * (group / 4) + 8 * (lane / 2) + 2 * (group % 4) + lane % 2; }

/* packed: (cout_pad / 64, words, 16 groups, PARTS or 1, 4 lanes). */
bool prepare(Bconv& op) {
  const int parts = op.k == 3 ? PARTS : 1;
  if (!op.packed.resize(size_t(op.cout_pad) * op.words * parts)) return false;
  uint64_t* out = op.packed.data();
  for (int block = 0; block < op.cout_pad; block += 64)
    for (int word = 0; word < op.words; word++)
      for (int group = 0; group < 16; group++, out += parts * 4)
        for (int lane = 0; lane < 4; lane++) {
          const int filter = block + channel_of(group, lane);
          uint64_t w[PARTS] = {op.weight[size_t(filter) * op.words + word]};
          if (op.k == 3) weight_parts(op, filter, word, w);
          for (int part = 0; part < parts; part++) out[part * 4 + lane] = w[part];
        }
  return true;
}

inline V broadcast(uint64_t word) { return _mm256_set1_epi64x((long long)word); }

inline V pack(const V* n) {
  return _mm256_packus_epi32(_mm256_packus_epi32(n[0], n[1]), _mm256_packus_epi32(n[2], n[3]));
}

/* times * popcount of each byte. */
template <int TIMES>
inline __attribute__((always_inline)) V count_bytes(V x) {
  constexpr char t = TIMES;
  const V table =
      _mm256_setr_epi8(0, t, t, 2 * t, t, 2 * t, 2 * t, 3 * t, t, 2 * t, 2 * t, 3 * t, 2 * t, 3 * t, 3 * t, 4 * t, 0, t,
                       t, 2 * t, t, 2 * t, 2 * t, 3 * t, t, 2 * t, 2 * t, 3 * t, 2 * t, 3 * t, 3 * t, 4 * t);
  const V nibble = _mm256_set1_epi8(15);
  return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble)),
                         _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble)));
}

/* Disagreements of 4 filters with one word of channels, as four 64-bit counts. a: the 13 broadcast parts. */
inline __attribute__((always_inline)) V count4(const V* a, const V* w) {
  V c[4];
#pragma GCC unroll 4
  for (int triple = 0; triple < 4; triple++) {
    const V ab = _mm256_xor_si256(a[3 * triple + 1], w[3 * triple + 1]);
    const V ac = _mm256_xor_si256(a[3 * triple + 2], w[3 * triple + 2]);
    c[triple] = _mm256_xor_si256(_mm256_xor_si256(a[3 * triple], w[3 * triple]), _mm256_and_si256(ab, ac));
  }
  const V u = _mm256_xor_si256(c[0], c[1]);
  const V sum = _mm256_xor_si256(u, c[2]);
  const V four = _mm256_or_si256(_mm256_and_si256(c[0], c[1]), _mm256_and_si256(u, c[2]));
  const V one = _mm256_xor_si256(a[12], w[12]);
  const V bytes = _mm256_add_epi8(_mm256_add_epi8(count_bytes<1>(one), count_bytes<2>(sum)),
                                  _mm256_add_epi8(count_bytes<2>(c[3]), count_bytes<4>(four)));
  return _mm256_sad_epu8(bytes, _mm256_setzero_si256());
}

template <bool FIRST>
__attribute__((noinline)) void count_chunk(const Parts& s, int n, const V* weights, int16_t (*counts)[64]) {
  for (int x = 0; x < n; x++) {
    const V* w = weights;
    const V a[PARTS] = {broadcast(s.a[x]),      broadcast(s.ab[x]),     broadcast(s.ac[x]),    broadcast(s.a[x + 1]),
                        broadcast(s.ab[x + 1]), broadcast(s.ac[x + 1]), broadcast(s.a[x + 2]), broadcast(s.ab[x + 2]),
                        broadcast(s.ac[x + 2]), broadcast(s.l[x]),      broadcast(s.lm[x]),    broadcast(s.lr[x]),
                        broadcast(s.parity[x])};
    for (int quarter = 0; quarter < 4; quarter++) {
      V n4[4];
      for (int g = 0; g < 4; g++, w += PARTS) n4[g] = count4(a, w);
      V* out = reinterpret_cast<V*>(counts[x]) + quarter;
      *out = FIRST ? pack(n4) : _mm256_add_epi16(*out, pack(n4));
    }
  }
}

void count_chunk_1x1(const uint64_t* a, int words, int n, const V* weights, int16_t (*counts)[64], bool first) {
  for (int x = 0; x < n; x++) {
    const V word = broadcast(a[ptrdiff_t(x) * words]);
    const V* w = weights;
    for (int quarter = 0; quarter < 4; quarter++) {
      V n4[4];
      for (int g = 0; g < 4; g++)
        n4[g] = _mm256_sad_epu8(count_bytes<1>(_mm256_xor_si256(word, *w++)), _mm256_setzero_si256());
      V* out = reinterpret_cast<V*>(counts[x]) + quarter;
      *out = first ? pack(n4) : _mm256_add_epi16(*out, pack(n4));
    }
  }
}

/* The sums of 64 channels of n pixels from column `from` on, from their counts. */
__attribute__((noinline)) void finish_counts(const Bconv& op, const BconvRow& row, int block, int from, int n,
                                             const int16_t (*counts)[64]) {
  const __m128i up = _mm_cvtsi32_si128(op.shift + 1);
  finish_chunk(op, row, block, from, n, [=, &op, &row](int i, int q) {
    const int x = from + i;
    const size_t where = size_t(border(row.top, row.bottom, x == 0, x == row.w - 1));
    const V* base = reinterpret_cast<const V*>(op.base.data() + where * size_t(op.cout_pad) + 64 * size_t(block));
    return _mm256_sub_epi16(base[q], _mm256_sll_epi16(reinterpret_cast<const V*>(counts[i])[q], up));
  });
}

void bconv(const Bconv& op, const BconvRow& row) {
  const size_t step = 16 * (op.k == 3 ? PARTS : 1);
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

template <int P>
inline void conv_pixels(const Conv& op, const ConvRow& row, int x) {
  const __m128i s = _mm_cvtsi32_si128(op.shift);
  for (int block = 0; block < op.cout; block += 16) {
    V acc[P][2];
    const V* w = reinterpret_cast<const V*>(op.weight.data() + size_t(block) * op.segments * op.run);
#pragma GCC unroll 8
    for (int p = 0; p < P; p++)
      for (int h = 0; h < 2; h++)
        acc[p][h] = _mm256_add_epi32(_mm256_load_si256(reinterpret_cast<const V*>(op.bias.data() + block + 8 * h)),
                                     _mm256_set1_epi32(1 << (op.shift - 1)));
    for (int seg = 0; seg < op.segments; seg++) {
      const int16_t* a = row.segments[seg] + size_t(x) * row.step;
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

void conv(const Conv& op, const ConvRow& row) {
  int x = 0;
  for (; x + 6 <= row.w; x += 6) conv_pixels<6>(op, row, x);
  for (; x < row.w; x++) conv_pixels<1>(op, row, x);
}

}  // namespace

const Kernels avx2_kernels = {"avx2", available, prepare, bconv, conv};

}  // namespace bitsr
