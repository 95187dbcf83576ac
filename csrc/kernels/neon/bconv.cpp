/* NEON: every aarch64 CPU.
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel), instructions on 128 bits:
 *   2 filters   9 x (eor + cnt) + 8 adds of bytes                              = 26
 *   to 16 bits  8 filters: 2 addp of bytes (9 x 8 x 2 = 144 fits), 2 uaddlp, addp = 5
 *   a pixel     32 x 26 + 8 x 5 + epilogue 8 x 7 + bits 12                     = 940
 * At four a cycle (Apple's big cores, Cortex-X, Neoverse V) 235 cycles, 157 MAC/cycle; at two
 * (Cortex-A76 to A78, Neoverse N1) 470. Where cnt is one instruction the carry-save form
 * (avx512/bconv.cpp) gains nothing: a carry is 3 eor and a bsl, so it needs 4 x 4 + 1 to get five
 * words, 5 cnt and 5 adds: 27, and 13 loads of weights where this takes 9. EOR3 and BCAX of SHA3 do
 * not shorten a carry either. Two pixels share each load of weights, and their 4 x 3 activations
 * stay in registers.
 */
#include "kernels/neon/epilogue.h"

namespace bitsr::neon {
namespace {

/* counts[p] (+)= disagreements of 64 filters with one word of channels, for the P pixels from
 * column x on. */
template <int K, int P, bool FIRST>
inline __attribute__((always_inline)) void count(const BconvRow& row, int words, int word, int x,
                                                 const uint64_t* w, int16_t (*counts)[64]) {
  uint64x2_t a[K][P + K - 1];
#pragma GCC unroll 3
  for (int dy = 0; dy < K; dy++)
#pragma GCC unroll 4
    for (int dx = 0; dx < P + K - 1; dx++)
      a[dy][dx] =
          vld1q_dup_u64(row.rows[K == 3 ? dy : 1] + ptrdiff_t(x - K / 2 + dx) * words + word);
  for (int eight = 0; eight < 64; eight += 8) {
    uint8x16_t n[P][4]; /* each 2 filters x 8 bytes */
#pragma GCC unroll 4
    for (int pair = 0; pair < 4; pair++)
#pragma GCC unroll 9
      for (int tap = 0; tap < K * K; tap++, w += 2) {
        const uint64x2_t weight = vld1q_u64(w);
#pragma GCC unroll 2
        for (int p = 0; p < P; p++) {
          const uint8x16_t c =
              vcntq_u8(vreinterpretq_u8_u64(veorq_u64(a[tap / K][p + tap % K], weight)));
          n[p][pair] = tap ? vaddq_u8(n[p][pair], c) : c;
        }
      }
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) {
      const uint16x8_t sum = vpaddq_u16(vpaddlq_u8(vpaddq_u8(n[p][0], n[p][1])),
                                        vpaddlq_u8(vpaddq_u8(n[p][2], n[p][3])));
      const int16x8_t s = vreinterpretq_s16_u16(sum);
      int16_t* out = counts[p] + eight;
      vst1q_s16(out, FIRST ? s : vaddq_s16(s, vld1q_s16(out)));
    }
  }
}

template <int K, bool FIRST>
__attribute__((noinline)) void count_chunk(const BconvRow& row, int words, int word, int from,
                                           int n, const uint64_t* w, int16_t (*counts)[64]) {
  int i = 0;
  for (; i + 2 <= n; i += 2) count<K, 2, FIRST>(row, words, word, from + i, w, counts + i);
  if (i < n) count<K, 1, FIRST>(row, words, word, from + i, w, counts + i);
}

/* These wrap: vsubq_s16 and vaddq_s32 are plain signed arithmetic to GCC, whose overflow is
 * undefined. */
inline int16x8_t sub(int16x8_t a, int16x8_t b) {
  return vreinterpretq_s16_u16(vsubq_u16(vreinterpretq_u16_s16(a), vreinterpretq_u16_s16(b)));
}

/* The sums of 64 channels of n pixels from column `from` on, from their counts. */
__attribute__((noinline)) void finish_counts(const Bconv& op, const BconvRow& row, int block,
                                             int from, int n, const int16_t (*counts)[64]) {
  const int16x8_t up = vdupq_n_s16(int16_t(op.shift + 1));
  finish_chunk<64>(op, row, block, from, n, [=, &op, &row](int i, int c) {
    const int x = from + i;
    const size_t where = size_t(border(row.top, row.bottom, x == 0, x == row.w - 1));
    const int16_t* base = op.base.data() + where * size_t(op.cout_pad) + 64 * size_t(block);
    return sub(vld1q_s16(base + c), vshlq_s16(vld1q_s16(counts[i] + c), up));
  });
}

}  // namespace

/* packed: (cout_pad / 64, words, 32 pairs of filters, k * k, 2 lanes). */
bool prepare(Bconv& op) {
  const int taps = op.k * op.k;
  if (!op.packed.resize(op.weight.size())) return false;
  uint64_t* out = op.packed.data();
  for (int block = 0; block < op.cout_pad; block += 64)
    for (int word = 0; word < op.words; word++)
      for (int filter = block; filter < block + 64; filter += 2)
        for (int tap = 0; tap < taps; tap++)
          for (int lane = 0; lane < 2; lane++)
            *out++ = op.weight[(size_t(filter + lane) * taps + tap) * op.words + word];
  return true;
}

/* In chunks of columns, as the other paths: counting and finishing each keep their values in
 * registers. */
void bconv(const Bconv& op, const BconvRow& row) {
  const auto first = op.k == 3 ? count_chunk<3, true> : count_chunk<1, true>;
  const auto more = op.k == 3 ? count_chunk<3, false> : count_chunk<1, false>;
  static_assert(CHUNK * 64 * sizeof(int16_t) <= SCRATCH * 8, "scratch is too small");
  auto* counts = reinterpret_cast<int16_t (*)[64]>(row.scratch);
  const size_t step = 64 * size_t(op.k * op.k);
  for (int x = 0; x < row.w; x += CHUNK) {
    const int n = row.w - x < CHUNK ? row.w - x : CHUNK;
    const uint64_t* w = op.packed.data();
    for (int block = 0; block < op.cout_pad / 64; block++) {
      for (int word = 0; word < op.words; word++, w += step)
        (word ? more : first)(row, op.words, word, x, n, w, counts);
      finish_counts(op, row, block, x, n, counts);
    }
  }
}

}  // namespace bitsr::neon
