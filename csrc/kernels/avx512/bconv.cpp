/* AVX-512 with BW, DQ, VL, VPOPCNTDQ and VNNI: Intel from Ice Lake, AMD from Zen 4.
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel), instructions on 512 bits:
 *   8 filters   4 carries x (xor + 2 ternlog + popcnt) + parity (xor + popcnt) + 3 adds + 2 adds  = 23
 *   packing     64-bit counts to 16 bits, 6 packs for 32 filters                                  =  1.5 for 8
 *   a pixel     8 x 24.5 + epilogue 2 x 9                                                         = 214
 * At two 512-bit instructions a cycle (ports 0 and 5; Zen 4's four 256-bit pipes) 107 cycles, 345 MAC/cycle;
 * reached on Zen 4: 121 cycles, 305 MAC/cycle, 88 %;
 * the plain sum (9 x (xor + popcnt) + 8 adds) has 26 for 8 filters and only one port for its popcounts on Intel.
 * Loads: 13 of weights for 8 filters of two pixels, 26 broadcasts a pixel. Triple by triple over all 64 filters,
 * two pixels keep 16 sums and 6 parts in registers: no spills (with the 26 parts kept instead it is 1.4 times slower).
 */
#include "chunks.h"
#include "epilogue_avx512.h"
#include "qconv.h"
#include "signs.h"
#include "winograd.h"

namespace bitsr {
namespace {

bool available() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("bmi2");
}

/* For one filter let x_i = a_i ^ w_i be the nine 64-bit words of one word of channels, a column of taps
 * (above, here, below) being a triple. A full adder turns a triple (x, y, z) into
 *   sum   x ^ y ^ z                       weight 1
 *   carry x ^ ((x ^ y) & (x ^ z))         weight 2 (the majority)
 * The xors split into a part of the activations and a part of the weights, so with a = above, ab = above ^ here,
 * ac = above ^ below and the same of the weights, a carry is three instructions with ternary logic:
 *   carry = a ^ wa ^ ((ab ^ wab) & (ac ^ wac))
 * and the sum s = a ^ ab ^ ac needs none: it is only used through the second level, where the three columns'
 * sums (l, m, r) are a triple again, with activations' parts l, l ^ m, l ^ r and parity l ^ m ^ r. In all
 *   count = pop(parity) + 2 * (pop(carry_left) + pop(carry_mid) + pop(carry_right) + pop(carry_sums)).
 * The activations' parts are shared by all filters, those of a column by three pixels.
 */

/* Parts of the weights: (a, ab, ac) of the three columns, (l, lm, lr) of the sums, parity. */
constexpr int PARTS = 13;

void weight_parts(const Bconv& op, int filter, int word, uint64_t* out) {
  uint64_t sum[3];
  for (int col = 0; col < 3; col++) {
    const uint64_t* w = op.weight.data() + (size_t(filter) * 9 + col) * op.words + word;
    const uint64_t above = w[0], here = w[3 * op.words], below = w[6 * op.words];
    out[3 * col] = above;
    out[3 * col + 1] = above ^ here;
    out[3 * col + 2] = above ^ below;
    sum[col] = above ^ here ^ below;
  }
  out[9] = sum[0];
  out[10] = sum[0] ^ sum[1];
  out[11] = sum[0] ^ sum[2];
  out[12] = sum[0] ^ sum[1] ^ sum[2];
}

/* Parts of the activations of one word of channels, for the columns of a chunk: a, ab, ac of columns x-1 .. x+n,
 * l, lm, lr and parity of columns x .. x+n-1; whole vectors, the last ones with columns beyond. */
struct Parts {
  alignas(64) uint64_t a[CHUNK + 8], ab[CHUNK + 8], ac[CHUNK + 8], l[CHUNK + 16], lm[CHUNK], lr[CHUNK], parity[CHUNK];
};

void activation_parts(const BconvRow& row, int words, int word, int x, int n, Parts& out) {
  const V step = _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(words));
  for (int i = 0; i < n + 2; i += 8) {
    const __mmask8 in = __mmask8((1u << (n + 2 - i < 8 ? n + 2 - i : 8)) - 1);
    V r[3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
      const uint64_t* from = row.rows[j] + ptrdiff_t(x - 1 + i) * words + word;
      r[j] = words == 1 ? _mm512_maskz_loadu_epi64(in, from)
                        : _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), in, step, from, 8);
    }
    const V ab = _mm512_xor_si512(r[0], r[1]);
    _mm512_store_si512(out.a + i, r[0]);
    _mm512_store_si512(out.ab + i, ab);
    _mm512_store_si512(out.ac + i, _mm512_xor_si512(r[0], r[2]));
    _mm512_store_si512(out.l + i, _mm512_xor_si512(ab, r[2]));
  }
  for (int i = 0; i < n; i += 8) {
    const V l = _mm512_load_si512(out.l + i), m = _mm512_loadu_si512(out.l + i + 1),
            r = _mm512_loadu_si512(out.l + i + 2);
    const V lm = _mm512_xor_si512(l, m);
    _mm512_store_si512(out.lm + i, lm);
    _mm512_store_si512(out.lr + i, _mm512_xor_si512(l, r));
    _mm512_store_si512(out.parity + i, _mm512_xor_si512(lm, r));
  }
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

/* The epilogue of n pixels from column x on, whose missing taps are `where`, from their counts. */
__attribute__((noinline)) void finish(const Bconv& op, const BconvRow& row, const int16_t (*counts)[64], int block,
                                      int x, int n, int where) {
  const __m128i up = _mm_cvtsi32_si128(op.shift + 1);
  const int16_t* at = op.base.data() + size_t(where) * size_t(op.cout_pad) + 64 * size_t(block);
  const V base[2] = {_mm512_load_si512(at), _mm512_load_si512(at + 32)};
  finish_chunk(op, row, block, x, n, [=](int i, int half) {
    return _mm512_sub_epi16(base[half], _mm512_sll_epi16(_mm512_load_si512(counts[i] + 32 * half), up));
  });
}

void bconv(const Bconv& op, const BconvRow& row) {
  const size_t step = 8 * (op.k == 3 ? PARTS : 1);
  /* 1x1 reads the bits as they are. */
  const int side = op.k / 2;
  const uint64_t* here = nullptr;
  chunks<Parts>(
      op, row,
      [&](Parts& parts, int word, int x, int n) {
        if (side)
          activation_parts(row, op.words, word, x, n, parts);
        else
          here = row.rows[1] + ptrdiff_t(x) * op.words + word;
      },
      [&](ChunkScratch<Parts>& s, int block, int word, int n) {
        const V* w = reinterpret_cast<const V*>(op.packed.data()) + size_t(block * op.words + word) * step;
        if (side)
          word ? count_chunk<false>(s.parts, n, w, s.counts) : count_chunk<true>(s.parts, n, w, s.counts);
        else
          count_chunk_1x1(here, op.words, n, w, s.counts, word == 0);
      },
      [&](const int16_t (*counts)[64], int block, int x, int n, int where) {
        finish(op, row, counts, block, x, n, where);
      });
}

/* P pixels of 16 outputs at once: a weight vector is loaded once for P dot products (vpdpwssd). */
template <int P>
inline void conv_pixels(const Conv& op, const ConvRow& row, int x) {
  const __m128i s = _mm_cvtsi32_si128(op.shift);
  for (int block = 0; block < op.cout; block += 16) {
    const V bias = _mm512_add_epi32(_mm512_load_si512(op.bias.data() + block), _mm512_set1_epi32(1 << (op.shift - 1)));
    const V* w = reinterpret_cast<const V*>(op.weight.data() + size_t(block) * op.k * op.run);
    V acc[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) acc[p] = bias;
    for (int dy = 0; dy < op.k; dy++) {
      const int16_t* a = row.rows[dy] + size_t(x) * row.step;
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

/* P pixels of one output at once: a weight vector is loaded once for P dot products. */
template <int P>
inline void dot_pixels(const Conv& op, const ConvRow& row, int x) {
  V acc[P] = {};
  const V* w = reinterpret_cast<const V*>(op.weight.data());
  for (int dy = 0; dy < op.k; dy++) {
    const int16_t* a = row.rows[dy] + size_t(x) * row.step;
    for (int i = 0; i < op.run; i += 32, w++)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++)
        acc[p] = _mm512_dpwssd_epi32(acc[p], _mm512_loadu_si512(a + size_t(p) * row.step + i), _mm512_load_si512(w));
  }
  for (int p = 0; p < P; p++)
    row.out[size_t(x + p) * row.out_stride] = narrow(op, 0, uint32_t(_mm512_reduce_add_epi32(acc[p])));
}

void conv(const Conv& op, const ConvRow& row) {
  int x = 0;
  if (op.dots) {
    for (; x + 4 <= row.w; x += 4) dot_pixels<4>(op, row, x);
    for (; x < row.w; x++) dot_pixels<1>(op, row, x);
    return;
  }
  for (; x + 12 <= row.w; x += 12) conv_pixels<12>(op, row, x);
  for (; x + 4 <= row.w; x += 4) conv_pixels<4>(op, row, x);
  for (; x < row.w; x++) conv_pixels<1>(op, row, x);
}

/* Sizes of 32 values. */
inline V sizes(V v) { return _mm512_max_epi16(v, _mm512_subs_epi16(_mm512_setzero_si512(), v)); }

/* The 16 sums of four vectors, added up within each 128 bits: lane l of n[0] .. n[3] as lane l of the result. */
inline V add_lanes(const V* n) {
  const V a = _mm512_add_epi32(_mm512_unpacklo_epi32(n[0], n[1]), _mm512_unpackhi_epi32(n[0], n[1]));
  const V b = _mm512_add_epi32(_mm512_unpacklo_epi32(n[2], n[3]), _mm512_unpackhi_epi32(n[2], n[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* acc (+)= the 16 sums of two of 64 channels of two pixels, for each map. */
template <bool FIRST>
inline __attribute__((always_inline)) void add_maps(const int16_t* x, const int16_t* y, const V* w, V (*acc)[MAPS]) {
#pragma GCC unroll 2
  for (int k = 0; k < 2; k++) {
    const V a = sizes(_mm512_load_si512(x + 32 * k)), b = sizes(_mm512_load_si512(y + 32 * k));
#pragma GCC unroll 8
    for (int j = 0; j < MAPS; j++) {
      const V wj = w[2 * j + k];
      acc[0][j] = FIRST && k == 0 ? _mm512_madd_epi16(a, wj) : _mm512_dpwssd_epi32(acc[0][j], a, wj);
      acc[1][j] = FIRST && k == 0 ? _mm512_madd_epi16(b, wj) : _mm512_dpwssd_epi32(acc[1][j], b, wj);
    }
  }
}

/* Two pixels at a time share the loads of weights and the last steps across lanes: about 55 instructions a pixel of 64
 * channels. */
void maps(const Map& op, const int16_t* x, int w, int16_t* out) {
  const size_t stride = size_t(op.stride);
  const __m128i s = _mm_cvtsi32_si128(op.shift);
  const V half = _mm512_set1_epi32(1 << (op.shift - 1)), *weight = reinterpret_cast<const V*>(op.weight.data());
  for (int i = 0; i < w; i += 2) {
    const int16_t *v = x + size_t(i) * stride, *next = i + 1 < w ? v + stride : v;
    V acc[2][MAPS];
    add_maps<true>(v, next, weight, acc);
    for (size_t c = 64; c < stride; c += 64) add_maps<false>(v + c, next + c, weight + c / 32 * MAPS, acc);
    V two[2]; /* of a pixel, by 128 bits: maps 0-3, 0-3, 4-7, 4-7 */
#pragma GCC unroll 2
    for (int p = 0; p < 2; p++) {
      const V low = add_lanes(acc[p]), high = add_lanes(acc[p] + 4);
      two[p] = _mm512_add_epi32(_mm512_shuffle_i32x4(low, high, 0x44), _mm512_shuffle_i32x4(low, high, 0xEE));
    }
    const V sum =
        _mm512_add_epi32(_mm512_shuffle_i32x4(two[0], two[1], 0x88), _mm512_shuffle_i32x4(two[0], two[1], 0xDD));
    const __m256i both = _mm512_cvtsepi32_epi16(_mm512_sra_epi32(_mm512_add_epi32(sum, half), s));
    _mm256_mask_storeu_epi16(out + size_t(i) * MAPS, __mmask16(i + 1 < w ? 0xFFFF : 0xFF), both);
  }
}

/* Four pixels at a time: 2 vectors each, whose 16 sums of two are added up across the lanes together. */
void map(const Map& op, const int16_t* x, int w, int16_t* out) {
  if (op.maps > 1) return maps(op, x, w, out);
  const size_t stride = size_t(op.stride);
  const V zero = _mm512_setzero_si512();
  const __m128i s = _mm_cvtsi32_si128(op.shift), half = _mm_set1_epi32(1 << (op.shift - 1));
  for (int i = 0; i < w; i += 4) {
    V acc[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
      const int16_t* v = x + size_t(i + p < w ? i + p : w - 1) * stride;
      acc[p] = zero;
      for (size_t c = 0; c < stride; c += 32)
        acc[p] = _mm512_dpwssd_epi32(acc[p], sizes(_mm512_load_si512(v + c)), _mm512_load_si512(op.weight.data() + c));
    }
    const V c = add_lanes(acc);
    const __m256i d = _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti64x4_epi64(c, 1));
    const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(d), _mm256_extracti128_si256(d, 1));
    const __m128i v = _mm_sra_epi32(_mm_add_epi32(sum, half), s);
    _mm_mask_storeu_epi16(out + i, __mmask8((1u << (w - i < 4 ? w - i : 4)) - 1), _mm_packs_epi32(v, v));
  }
}

}  // namespace

const Kernels avx512_kernels = {"avx512", available,    prepare,      bconv,         conv,
                                map,      avx512_quant, avx512_qconv, &avx512_signs, &avx2_winograd};

}  // namespace bitsr
