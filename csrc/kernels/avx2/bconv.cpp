/* AVX2: Intel from Haswell, AMD from Zen.
 *
 * Disagreements are looked up, four channels at a time: a nibble of activations picks one of 16
 * tables, a nibble of weights the entry popcount(activations ^ weights) of it, 32 filters in one
 * vpshufb. The weights are the indices, so they need no masks and no shifts, and the bytes add up
 * by filter: nothing is gathered across lanes.
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel), instructions on 256 bits:
 *   a nibble    2 x (vpshufb + vpaddb)                                              = 4
 *   a tap row   48 nibbles, and its bytes to 16 bits: 2 x (and, shift, 2 adds)      = 200
 *   a pixel     3 x 200 + epilogue 4 x 8                                            = 632
 * At four a cycle 158 cycles, 233 MAC/cycle; the 288 vpshufb alone take 144 at two a cycle (Zen,
 * Intel from Ice Lake) and 288 at one (before). Loads a nibble: 2 of weights for P pixels, its own
 * offset and its table. Reached on Zen 4: 222 cycles, 166 MAC/cycle (the carry-save form 113): adds
 * take turns on the two shuffle ports. The carry-save form (avx512/bconv.cpp) takes 880: AVX2 has
 * neither its popcounts nor its ternary logic.
 */
#include "kernels/avx2/epilogue.h"
#include "kernels/bconv_chunks.h"

namespace bitsr::avx2 {
namespace {

/* 32 filters as bytes, so that the even bytes are 16 channels in order, and the odd ones the next
 * 16. */
constexpr int channel_of(int byte) { return byte / 32 * 32 + byte % 2 * 16 + byte % 32 / 2; }

/* TABLES[16 a + w] = popcount(a ^ w). */
struct Tables {
  alignas(64) uint8_t at[256] = {};
  constexpr Tables() {
    for (int i = 0; i < 256; i++)
      for (int x = i / 16 ^ i % 16; x; x /= 2) at[i] = uint8_t(at[i] + x % 2);
  }
};
constexpr Tables TABLES;

/* One word of channels of the columns x - 1 .. x + n of k rows: for each nibble, where its table
 * begins. */
struct Nibbles {
  uint8_t at[3][CHUNK + 2][16];
};

void nibbles(const Bconv& op, const BconvRow& row, int word, int x, int n, Nibbles& out) {
  const int side = op.k / 2;
  const __m128i high = _mm_set1_epi8(char(0xF0));
  for (int r = 0; r < op.k; r++) {
    const uint64_t* a = row.rows[1 - side + r] + ptrdiff_t(x - side) * op.words + word;
    for (int i = 0; i < n + 2 * side; i++, a += op.words) {
      const __m128i v = _mm_cvtsi64_si128((long long)*a);
      _mm_store_si128(
          reinterpret_cast<__m128i*>(out.at[r][i]),
          _mm_unpacklo_epi8(_mm_and_si128(_mm_slli_epi16(v, 4), high), _mm_and_si128(v, high)));
    }
  }
}

/* Hides where x comes from: the compiler reloads it for every use, or regroups sums, and runs out
 * of registers. */
inline void keep(V& x) { asm("" : "+x"(x)); }

/* counts[x + p] (+)= disagreements of 64 filters with one word of channels, for P neighbouring
 * pixels. */
template <int K, int P>
inline __attribute__((always_inline)) void count(const Nibbles& a, int x, const V* w,
                                                 int16_t (*counts)[64], bool add) {
  for (int r = 0; r < K; r++, add = true) {
    V sum[P][2];
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) sum[p][0] = sum[p][1] = _mm256_setzero_si256();
    const uint8_t* at = a.at[r][x];
    for (int i = 0; i < 16 * K; i++, at++, w += 2) { /* at most 48 x 4: the bytes do not overflow */
      V low = w[0], high = w[1];
      keep(low);
      keep(high);
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) {
        const V table =
            _mm256_broadcastsi128_si256(*reinterpret_cast<const __m128i*>(TABLES.at + at[16 * p]));
        sum[p][0] = _mm256_add_epi8(sum[p][0], _mm256_shuffle_epi8(table, low));
        sum[p][1] = _mm256_add_epi8(sum[p][1], _mm256_shuffle_epi8(table, high));
        keep(sum[p][0]);
        keep(sum[p][1]);
      }
    }
    const V even = _mm256_set1_epi16(255);
#pragma GCC unroll 8
    for (int p = 0; p < P; p++)
#pragma GCC unroll 2
      for (int half = 0; half < 2; half++) {
        V* n = reinterpret_cast<V*>(counts[x + p]) + 2 * half;
        const V first = _mm256_and_si256(sum[p][half], even),
                second = _mm256_srli_epi16(sum[p][half], 8);
        n[0] = add ? _mm256_add_epi16(n[0], first) : first;
        n[1] = add ? _mm256_add_epi16(n[1], second) : second;
      }
  }
}

template <int K>
__attribute__((noinline)) void count_chunk(const Nibbles& a, int n, const V* w,
                                           int16_t (*counts)[64], bool add) {
  int x = 0;
  for (; x + 4 <= n; x += 4) count<K, 4>(a, x, w, counts, add);
  for (; x < n; x++) count<K, 1>(a, x, w, counts, add);
}

/* The epilogue of n pixels from column x on, whose missing taps are `where`, from their counts. */
__attribute__((noinline)) void finish(const Bconv& op, const BconvRow& row,
                                      const int16_t (*counts)[64], int block, int x, int n,
                                      int where) {
  const __m128i up = _mm_cvtsi32_si128(op.shift + 1);
  const V* base = reinterpret_cast<const V*>(op.base.data() + size_t(where) * size_t(op.cout_pad) +
                                             64 * size_t(block));
  finish_chunk<64>(op, row, block, x, n, [=](int i, int q) {
    return _mm256_sub_epi16(base[q],
                            _mm256_sll_epi16(reinterpret_cast<const V*>(counts[i])[q], up));
  });
}

}  // namespace

/* packed, in bytes: (cout_pad / 64, words, k * k, 16 nibbles, 64 filters). */
bool prepare(Bconv& op) {
  const int taps = op.k * op.k;
  if (!op.packed.resize(2 * op.weight.size())) return false;
  auto* out = reinterpret_cast<uint8_t*>(op.packed.data());
  for (int block = 0; block < op.cout_pad; block += 64)
    for (int word = 0; word < op.words; word++)
      for (int tap = 0; tap < taps; tap++)
        for (int nibble = 0; nibble < 16; nibble++)
          for (int byte = 0; byte < 64; byte++) {
            const size_t filter = size_t(block + channel_of(byte));
            *out++ = op.weight[(filter * taps + tap) * op.words + word] >> (4 * nibble) & 15;
          }
  return true;
}

void bconv(const Bconv& op, const BconvRow& row) {
  const size_t step = size_t(op.k * op.k) * 32;
  bconv_chunks<Nibbles>(
      op, row, [&](Nibbles& a, int word, int x, int n) { nibbles(op, row, word, x, n, a); },
      [&](ChunkScratch<Nibbles>& s, int block, int word, int n) {
        const V* w =
            reinterpret_cast<const V*>(op.packed.data()) + size_t(block * op.words + word) * step;
        op.k == 3 ? count_chunk<3>(s.parts, n, w, s.counts, word)
                  : count_chunk<1>(s.parts, n, w, s.counts, word);
      },
      [&](const int16_t (*counts)[64], int block, int x, int n, int where) {
        finish(op, row, counts, block, x, n, where);
      });
}

}  // namespace bitsr::avx2
