/* NEON: every aarch64 CPU.
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel), instructions on 128 bits:
 *   2 filters   9 x (eor + cnt) + 8 adds of bytes                              = 26
 *   to 16 bits  8 filters: 2 addp of bytes (9 x 8 x 2 = 144 fits), 2 uaddlp, addp = 5
 *   a pixel     32 x 26 + 8 x 5 + epilogue 8 x 7 + bits 12                     = 940
 * At four a cycle (Apple's big cores, Cortex-X, Neoverse V) 235 cycles, 157 MAC/cycle; at two (Cortex-A76 to
 * A78, Neoverse N1) 470. Where cnt is one instruction the carry-save form (bconv_avx512.cpp) gains nothing: a carry
 * is 3 eor and a bsl, so it needs 4 x 4 + 1 to get five words, 5 cnt and 5 adds: 27, and 13 loads of weights
 * where this takes 9. EOR3 and BCAX of SHA3 do not shorten a carry either.
 * Two pixels share each load of weights, and their 4 x 3 activations stay in registers.
 */
#include "epilogue_neon.h"
#include "qconv.h"

namespace bitsr {
namespace {

bool available() { return true; }

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

/* counts[p] (+)= disagreements of 64 filters with one word of channels, for the P pixels from column x on. */
template <int K, int P, bool FIRST>
inline __attribute__((always_inline)) void count(const BconvRow& row, int words, int word, int x, const uint64_t* w,
                                                 int16_t (*counts)[64]) {
  uint64x2_t a[K][P + K - 1];
#pragma GCC unroll 3
  for (int dy = 0; dy < K; dy++)
#pragma GCC unroll 4
    for (int dx = 0; dx < P + K - 1; dx++)
      a[dy][dx] = vld1q_dup_u64(row.rows[K == 3 ? dy : 1] + ptrdiff_t(x - K / 2 + dx) * words + word);
  for (int eight = 0; eight < 64; eight += 8) {
    uint8x16_t n[P][4]; /* each 2 filters x 8 bytes */
#pragma GCC unroll 4
    for (int pair = 0; pair < 4; pair++)
#pragma GCC unroll 9
      for (int tap = 0; tap < K * K; tap++, w += 2) {
        const uint64x2_t weight = vld1q_u64(w);
#pragma GCC unroll 2
        for (int p = 0; p < P; p++) {
          const uint8x16_t c = vcntq_u8(vreinterpretq_u8_u64(veorq_u64(a[tap / K][p + tap % K], weight)));
          n[p][pair] = tap ? vaddq_u8(n[p][pair], c) : c;
        }
      }
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) {
      const uint16x8_t sum =
          vpaddq_u16(vpaddlq_u8(vpaddq_u8(n[p][0], n[p][1])), vpaddlq_u8(vpaddq_u8(n[p][2], n[p][3])));
      const int16x8_t s = vreinterpretq_s16_u16(sum);
      int16_t* out = counts[p] + eight;
      vst1q_s16(out, FIRST ? s : vaddq_s16(s, vld1q_s16(out)));
    }
  }
}

template <int K, bool FIRST>
__attribute__((noinline)) void count_chunk(const BconvRow& row, int words, int word, int from, int n, const uint64_t* w,
                                           int16_t (*counts)[64]) {
  int i = 0;
  for (; i + 2 <= n; i += 2) count<K, 2, FIRST>(row, words, word, from + i, w, counts + i);
  if (i < n) count<K, 1, FIRST>(row, words, word, from + i, w, counts + i);
}

/* These wrap: vsubq_s16 and vaddq_s32 are plain signed arithmetic to GCC, whose overflow is undefined. */
inline int16x8_t sub(int16x8_t a, int16x8_t b) {
  return vreinterpretq_s16_u16(vsubq_u16(vreinterpretq_u16_s16(a), vreinterpretq_u16_s16(b)));
}
inline int32x4_t add(int32x4_t a, int32x4_t b) {
  return vreinterpretq_s32_u32(vaddq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}

/* The sums of 64 channels of n pixels from column `from` on, from their counts. */
__attribute__((noinline)) void finish_counts(const Bconv& op, const BconvRow& row, int block, int from, int n,
                                             const int16_t (*counts)[64]) {
  const int16x8_t up = vdupq_n_s16(int16_t(op.shift + 1));
  finish_chunk(op, row, block, from, n, [=, &op, &row](int i, int c) {
    const int x = from + i;
    const size_t where = size_t(border(row.top, row.bottom, x == 0, x == row.w - 1));
    const int16_t* base = op.base.data() + where * size_t(op.cout_pad) + 64 * size_t(block);
    return sub(vld1q_s16(base + c), vshlq_s16(vld1q_s16(counts[i] + c), up));
  });
}

/* In chunks of columns, as the other paths: counting and finishing each keep their values in registers. */
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

/* Values LANE and LANE + 1 of P patches times their weights: 16 outputs each. */
template <int LANE, int P>
inline __attribute__((always_inline)) void add_pair(int32x4_t (*acc)[4], const int16x8_t* a, const int16_t* w) {
#pragma GCC unroll 2
  for (int h = 0; h < 2; h++) {
    const int16x8x2_t wh = vld2q_s16(w + 16 * h);
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      int32x4_t *lo = &acc[p][2 * h], *hi = &acc[p][2 * h + 1];
      *lo = vmlal_laneq_s16(*lo, vget_low_s16(wh.val[0]), a[p], LANE);
      *hi = vmlal_high_laneq_s16(*hi, wh.val[0], a[p], LANE);
      *lo = vmlal_laneq_s16(*lo, vget_low_s16(wh.val[1]), a[p], LANE + 1);
      *hi = vmlal_high_laneq_s16(*hi, wh.val[1], a[p], LANE + 1);
    }
  }
}

/* P pixels of 16 outputs at once: P = 4 has 16 sums, 4 vectors of values and 2 of weights in registers. */
template <int P>
inline void conv_pixels(const Conv& op, const ConvRow& row, int x) {
  const int32x4_t down = vdupq_n_s32(-op.shift), half = vdupq_n_s32(1 << (op.shift - 1));
  for (int block = 0; block < op.cout; block += 16) {
    int32x4_t acc[P][4];
#pragma GCC unroll 4
    for (int p = 0; p < P; p++)
      for (int q = 0; q < 4; q++) acc[p][q] = add(vld1q_s32(op.bias.data() + block + 4 * q), half);
    const int16_t* w = op.weight.data() + size_t(block) * op.k * op.run;
    for (int dy = 0; dy < op.k; dy++) {
      const int16_t* a = row.rows[dy] + size_t(x) * row.step;
      int16x8_t v[P];
      int i = 0;
      for (; i + 8 <= op.run; i += 8, w += 128) {
        for (int p = 0; p < P; p++) v[p] = vld1q_s16(a + size_t(p) * row.step + i);
        add_pair<0, P>(acc, v, w);
        add_pair<2, P>(acc, v, w + 32);
        add_pair<4, P>(acc, v, w + 64);
        add_pair<6, P>(acc, v, w + 96);
      }
      for (; i < op.run; i += 2, w += 32) {
        for (int p = 0; p < P; p++) {
          int32_t pair;
          std::memcpy(&pair, a + size_t(p) * row.step + i, 4);
          v[p] = vreinterpretq_s16_s32(vdupq_n_s32(pair));
        }
        add_pair<0, P>(acc, v, w);
      }
    }
    const int n = op.cout - block < 16 ? op.cout - block : 16;
    for (int p = 0; p < P; p++) {
      int16_t lanes[16];
      for (int q = 0; q < 4; q++) vst1_s16(lanes + 4 * q, vqmovn_s32(vshlq_s32(acc[p][q], down)));
      std::memcpy(row.out + size_t(x + p) * row.out_stride + block, lanes, size_t(n) * 2);
    }
  }
}

/* P pixels of one output at once: a weight vector is loaded once for P dot products. */
template <int P>
inline void dot_pixels(const Conv& op, const ConvRow& row, int x) {
  int32x4_t low[P], high[P];
  for (int p = 0; p < P; p++) low[p] = high[p] = vdupq_n_s32(0);
  const int16_t* w = op.weight.data();
  for (int dy = 0; dy < op.k; dy++) {
    const int16_t* a = row.rows[dy] + size_t(x) * row.step;
    for (int i = 0; i < op.run; i += 8, w += 8) {
      const int16x8_t wi = vld1q_s16(w);
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        const int16x8_t v = vld1q_s16(a + size_t(p) * row.step + i);
        low[p] = vmlal_s16(low[p], vget_low_s16(v), vget_low_s16(wi));
        high[p] = vmlal_high_s16(high[p], v, wi);
      }
    }
  }
  for (int p = 0; p < P; p++)
    row.out[size_t(x + p) * row.out_stride] = narrow(op, 0, uint32_t(vaddvq_s32(add(low[p], high[p]))));
}

void conv(const Conv& op, const ConvRow& row) {
  int x = 0;
  if (op.dots) {
    for (; x + 4 <= row.w; x += 4) dot_pixels<4>(op, row, x);
    for (; x < row.w; x++) dot_pixels<1>(op, row, x);
    return;
  }
  for (; x + 4 <= row.w; x += 4) conv_pixels<4>(op, row, x);
  for (; x < row.w; x++) conv_pixels<1>(op, row, x);
}

/* The sums of the maps are added up across the lanes as a matrix of 4 x 4 is transposed. */
void maps(const Map& op, const int16_t* x, int w, int16_t* out) {
  const int32x4_t down = vdupq_n_s32(-op.shift);
  const uint32x4_t half = vdupq_n_u32(uint32_t(1) << (op.shift - 1));
  for (int i = 0; i < w; i++, out += MAPS) {
    uint32x4_t acc[MAPS]; /* unsigned, for their sums may wrap */
#pragma GCC unroll 8
    for (int j = 0; j < MAPS; j++) acc[j] = vdupq_n_u32(0);
    const int16_t* weight = op.weight.data();
    for (int block = 0; block < op.stride; block += 64, weight += 64 * MAPS)
      for (int c = 0; c < 64; c += 8, x += 8) {
        const int16x8_t size = vqabsq_s16(vld1q_s16(x));
#pragma GCC unroll 8
        for (int j = 0; j < MAPS; j++) {
          const int16x8_t wj = vld1q_s16(weight + 64 * j + c);
          acc[j] = vaddq_u32(acc[j], vreinterpretq_u32_s32(vmull_s16(vget_low_s16(size), vget_low_s16(wj))));
          acc[j] = vaddq_u32(acc[j], vreinterpretq_u32_s32(vmull_high_s16(size, wj)));
        }
      }
    int16x4_t four[2];
#pragma GCC unroll 2
    for (int k = 0; k < 2; k++) {
      const uint32x4_t* a = acc + 4 * k;
      const uint32x4_t sum = vpaddq_u32(vpaddq_u32(a[0], a[1]), vpaddq_u32(a[2], a[3]));
      four[k] = vqmovn_s32(vshlq_s32(vreinterpretq_s32_u32(vaddq_u32(sum, half)), down));
    }
    vst1q_s16(out, vcombine_s16(four[0], four[1]));
  }
}

void map(const Map& op, const int16_t* x, int w, int16_t* out) {
  if (op.maps > 1) return maps(op, x, w, out);
  const int32x4_t down = vdupq_n_s32(-op.shift);
  for (int i = 0; i < w; i++) {
    uint32x4_t low = vdupq_n_u32(0), high = low; /* unsigned, for their sums may wrap */
    for (int c = 0; c < op.stride; c += 8, x += 8) {
      const int16x8_t size = vqabsq_s16(vld1q_s16(x)), weight = vld1q_s16(op.weight.data() + c);
      low = vaddq_u32(low, vreinterpretq_u32_s32(vmull_s16(vget_low_s16(size), vget_low_s16(weight))));
      high = vaddq_u32(high, vreinterpretq_u32_s32(vmull_high_s16(size, weight)));
    }
    const uint32_t sum = vaddvq_u32(vaddq_u32(low, high)) + (uint32_t(1) << (op.shift - 1));
    out[i] = vget_lane_s16(vqmovn_s32(vshlq_s32(vdupq_n_s32(int32_t(sum)), down)), 0);
  }
}

}  // namespace

const Kernels neon_kernels = {"neon", available, prepare, bconv, conv, map, neon_quant, neon_qconv, nullptr, nullptr};

}  // namespace bitsr
