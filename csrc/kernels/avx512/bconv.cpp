/* AVX-512 with BW, DQ, VL, VPOPCNTDQ and VNNI: Intel from Ice Lake, AMD from Zen 4.
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel), instructions on 512 bits:
 *   8 filters   4 carries x (xor + 2 ternlog + popcnt) + parity (xor + popcnt) + 5 adds    = 23
 *   packing     64-bit counts to 16 bits, 6 packs for 32 filters: 1.5 for 8
 *   a pixel     8 x 24.5 + epilogue 2 x 9                                                  = 214
 * At two 512-bit instructions a cycle (ports 0 and 5; Zen 4's four 256-bit pipes) 107 cycles, 345
 * MAC/cycle. Reached on Zen 4: 121 cycles, 305 MAC/cycle, 88 %.
 * The plain sum (9 x (xor + popcnt) + 8 adds) has 26 for 8 filters, and only one port for its
 * popcounts on Intel.
 * Loads: 13 of weights for 8 filters of two pixels, 26 broadcasts a pixel. Triple by triple over
 * all 64 filters, two pixels keep 16 sums and 6 parts in registers: no spills. With the 26 parts
 * kept instead it is 1.4 times slower.
 */
#include "kernels/avx512/epilogue.h"
#include "kernels/bconv_chunks.h"

namespace bitsr::avx512 {
namespace {

/* For one filter let x_i = a_i ^ w_i be the nine 64-bit words of one word of channels, a column of
 * taps (above, here, below) being a triple. A full adder turns a triple (x, y, z) into
 *   sum   x ^ y ^ z                       weight 1
 *   carry x ^ ((x ^ y) & (x ^ z))         weight 2 (the majority)
 * The xors split into a part of the activations and a part of the weights, so with a = above, ab =
 * above ^ here, ac = above ^ below and the same of the weights, a carry is three instructions with
 * ternary logic:
 *   carry = a ^ wa ^ ((ab ^ wab) & (ac ^ wac))
 * and the sum s = a ^ ab ^ ac needs none: it is only used through the second level, where the three
 * columns' sums (l, m, r) are a triple again, with activations' parts l, l ^ m, l ^ r and parity l
 * ^ m ^ r. In all
 *   count = pop(parity) + 2 * (pop(carry_left) + pop(carry_mid) + pop(carry_right) +
 * pop(carry_sums)). The activations' parts are shared by all filters, those of a column by three
 * pixels.
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

/* Parts of the activations of one word of channels, for the columns of a chunk: a, ab, ac of
 * columns x-1 .. x+n, l, lm, lr and parity of columns x .. x+n-1; whole vectors, the last ones with
 * columns beyond. */
struct Parts {
  alignas(64) uint64_t a[CHUNK + 8], ab[CHUNK + 8], ac[CHUNK + 8], l[CHUNK + 16], lm[CHUNK],
      lr[CHUNK], parity[CHUNK];
};

void activation_parts(const BconvRow& row, int words, int word, int x, int n, Parts& out) {
  const V step =
      _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(words));
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

/* Two packs of 64-bit counts to 16 bits put the filters of 4 groups in this order: group g, lane j
 * holds channel 8 (j / 2) + 2 g + j % 2 of 32. */
constexpr int channel_of(int group, int lane) {
  return 32 * (group / 4) + 8 * (lane / 2) + 2 * (group % 4) + lane % 2;
}

inline V broadcast(uint64_t word) { return _mm512_set1_epi64((long long)word); }

/* Four vectors of 64-bit counts to one of 16-bit counts, in channel order. */
inline V pack(const V* n) {
  return _mm512_packus_epi32(_mm512_packus_epi32(n[0], n[1]), _mm512_packus_epi32(n[2], n[3]));
}

/* counts[x] (+)= disagreements of 64 filters with one word of channels, for P neighbouring pixels.
 */
template <int P, bool FIRST>
inline __attribute__((always_inline)) void count3x3(const Parts& parts, int x, const V* w,
                                                    int16_t (*counts)[64]) {
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
__attribute__((noinline)) void count_chunk(const Parts& parts, int n, const V* w,
                                           int16_t (*counts)[64]) {
  int x = 0;
  for (; x + 2 <= n; x += 2) count3x3<2, FIRST>(parts, x, w, counts);
  if (x < n) count3x3<1, FIRST>(parts, x, w, counts);
}

void count_chunk_1x1(const uint64_t* a, int words, int n, const V* w, int16_t (*counts)[64],
                     bool first) {
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
__attribute__((noinline)) void finish(const Bconv& op, const BconvRow& row,
                                      const int16_t (*counts)[64], int block, int x, int n,
                                      int where) {
  const __m128i up = _mm_cvtsi32_si128(op.shift + 1);
  const int16_t* at = op.base.data() + size_t(where) * size_t(op.cout_pad) + 64 * size_t(block);
  const V base[2] = {_mm512_load_si512(at), _mm512_load_si512(at + 32)};
  finish_chunk<64>(op, row, block, x, n, [=](int i, int half) {
    return _mm512_sub_epi16(base[half],
                            _mm512_sll_epi16(_mm512_load_si512(counts[i] + 32 * half), up));
  });
}

}  // namespace

/* packed, for each 64 filters and each word: 3x3: (4 triples, 8 groups, 3 parts, 8 lanes), then the
 * parities (8 groups, 8 lanes); 1x1: (8 groups, 8 lanes). */
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

void bconv(const Bconv& op, const BconvRow& row) {
  const size_t step = 8 * (op.k == 3 ? PARTS : 1);
  /* 1x1 reads the bits as they are. */
  const int side = op.k / 2;
  const uint64_t* here = nullptr;
  bconv_chunks<Parts>(
      op, row,
      [&](Parts& parts, int word, int x, int n) {
        if (side)
          activation_parts(row, op.words, word, x, n, parts);
        else
          here = row.rows[1] + ptrdiff_t(x) * op.words + word;
      },
      [&](ChunkScratch<Parts>& s, int block, int word, int n) {
        const V* w =
            reinterpret_cast<const V*>(op.packed.data()) + size_t(block * op.words + word) * step;
        if (side)
          word ? count_chunk<false>(s.parts, n, w, s.counts)
               : count_chunk<true>(s.parts, n, w, s.counts);
        else
          count_chunk_1x1(here, op.words, n, w, s.counts, word == 0);
      },
      [&](const int16_t (*counts)[64], int block, int x, int n, int where) {
        finish(op, row, counts, block, x, n, where);
      });
}

}  // namespace bitsr::avx512
