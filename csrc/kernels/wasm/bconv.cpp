/* WebAssembly with SIMD128.
 *
 * Disagreements are looked up as in AVX2 (avx2/bconv.cpp), but for two neighbouring pixels at once:
 * the entry of a nibble of weights is the count of one pixel, plus 16 times that of the other. The
 * table is picked by both pixels' nibbles, one of 256. Three entries add up without a carry between
 * the counts, each at most 12. Every three, `low` takes the sum modulo 256 and `high` its halves
 * shifted together, and the counts of a row of taps are taken apart at its end:
 *
 *   in 16 bits, of bytes (b', b) and counts A, B:   low  = (A' + 16 B', A + 16 B)
 *                                                   high = (B',         B + 16 A')      modulo 256
 *
 * Budget, 64 -> 64 channels, 3x3 (36,864 MAC a pixel), operations on 128 bits:
 *   3 nibbles of 2 pixels   4 x (3 swizzles + 5)                                     = 32
 *   a row of taps           16 x 32, and 4 x 15 to take it apart                     = 572
 *   a pixel                 3 x 572 / 2 + epilogue 8 x 8                             = 922
 * On x86-64 a swizzle takes 2 instructions and q15mulr_sat 3: 1,240 a pixel, 310 cycles at four a
 * cycle, where AVX2 takes 222. So 0.72 of its speed is the ceiling; a binary layer reaches 0.38 to
 * 0.46 in V8 and 0.45 to 0.52 in Cranelift (python -m bench wasm). The rest are loads, moves and
 * constants that native code folds. Half of the filters at a time, for their sums, tables and
 * weights fit 16 registers; those of all 64 are spilt. i8x16.popcnt is 8 instructions on x86-64,
 * and 288 of them a pixel are more than all of this. On ARM, where it is one, the two are equal.
 */
#include "kernels/bconv_chunks.h"
#include "kernels/wasm/epilogue.h"

namespace bitsr::wasm {
namespace {

/* 16 filters as bytes, so that the even bytes are 8 channels in order, and the odd ones the next 8.
 */
constexpr int channel_of(int byte) { return byte / 16 * 16 + byte % 2 * 8 + byte % 16 / 2; }

/* TABLES[16 (a + 16 b) + w] = popcount(a ^ w) + 16 popcount(b ^ w). */
struct Tables {
  alignas(16) uint8_t at[256 * 16] = {};
  constexpr Tables() {
    for (int i = 0; i < 256 * 16; i++) {
      for (int x = (i / 16 ^ i) % 16; x; x /= 2) at[i] = uint8_t(at[i] + x % 2);
      for (int x = i / 256 ^ i % 16; x; x /= 2) at[i] = uint8_t(at[i] + 16 * (x % 2));
    }
  }
};
constexpr Tables TABLES;

/* One word of channels of the columns x - 1 .. x + n of k rows: for each nibble of a column and of
 * the next, where their table begins. The last column has no next one, and stands for a pixel that
 * nobody reads. */
struct Nibbles {
  alignas(16) uint16_t at[3][CHUNK + 2][16];
};

void nibbles(const Bconv& op, const BconvRow& row, int word, int x, int n, Nibbles& out) {
  const int side = op.k / 2, columns = n + 2 * side;
  const v128_t nibble = wasm_i8x16_splat(15);
  for (int r = 0; r < op.k; r++) {
    const uint64_t* a = row.rows[1 - side + r] + ptrdiff_t(x - side) * op.words + word;
    v128_t next = wasm_v128_load64_zero(a);
    for (int i = 0; i < columns; i++) {
      const v128_t now = next;
      a += op.words;
      next = i + 1 < columns ? wasm_v128_load64_zero(a) : wasm_i8x16_splat(0);
      /* of each byte the low nibbles of both columns, and the high ones */
      const v128_t low =
          wasm_v128_or(wasm_v128_and(now, nibble), wasm_i8x16_shl(wasm_v128_and(next, nibble), 4));
      const v128_t high = wasm_v128_or(wasm_u8x16_shr(now, 4), wasm_v128_andnot(next, nibble));
      const v128_t both =
          wasm_i8x16_shuffle(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      wasm_v128_store(out.at[r][i], wasm_i16x8_shl(wasm_u16x8_extend_low_u8x16(both), 4));
      wasm_v128_store(out.at[r][i] + 8, wasm_i16x8_shl(wasm_u16x8_extend_high_u8x16(both), 4));
    }
  }
}

/* Hides where a pointer comes from: else the compiler computes the address of every load. */
template <class T>
inline void keep(const T*& p) {
  asm("" : "+r"(p));
}

/* N nibbles of two pixels with 32 filters. */
template <int N>
inline __attribute__((always_inline)) void add_group(const uint16_t* at, const v128_t* w,
                                                     v128_t* low, v128_t* high) {
  v128_t table[N];
#pragma GCC unroll 3
  for (int i = 0; i < N; i++) table[i] = wasm_v128_load(TABLES.at + at[i]);
#pragma GCC unroll 2
  for (int q = 0; q < 2; q++) {
    v128_t sum = wasm_i8x16_swizzle(table[0], w[q]);
#pragma GCC unroll 2
    for (int i = 1; i < N; i++)
      sum = wasm_i8x16_add(sum, wasm_i8x16_swizzle(table[i], w[2 * i + q]));
    low[q] = wasm_i8x16_add(low[q], sum);
    high[q] = wasm_i8x16_add(high[q], wasm_u16x8_shr(sum, 4));
  }
}

/* counts[0] and counts[1] (+)= disagreements of 64 filters with one word of channels, of the pixels
 * whose nibbles begin at column x. */
template <int K>
inline __attribute__((always_inline)) void count(const Nibbles& a, int x, const v128_t* w,
                                                 int16_t (*counts)[64], bool add) {
  const v128_t byte = wasm_i16x8_splat(255);
  for (int r = 0; r < 2 * K; r++) { /* rows of taps, and halves of the filters */
    v128_t low[2], high[2];
#pragma GCC unroll 2
    for (int q = 0; q < 2; q++) low[q] = high[q] = wasm_i8x16_splat(0);
    const uint16_t* at = a.at[r / 2][x];
    for (int i = 0; i < 16 * K / 3; i++, at += 3, w += 6) {
      keep(at);
      keep(w);
      add_group<3>(at, w, low, high);
    }
    if (16 * K % 3) add_group<1>(at, w, low, high), w += 2;
#pragma GCC unroll 2
    for (int q = 0; q < 2; q++) {
      const auto less = [byte](v128_t v, v128_t counts) {
        return wasm_v128_and(wasm_i16x8_sub(v, wasm_i16x8_shl(counts, 4)), byte);
      };
      const v128_t second1 = wasm_u16x8_shr(high[q], 8);
      const v128_t second0 = less(wasm_u16x8_shr(low[q], 8), second1);
      const v128_t first1 = less(high[q], second0), first0 = less(low[q], first1);
      const auto store = [=](int16_t* n, v128_t first, v128_t second) {
        if (add || r > 1) {
          first = wasm_i16x8_add(first, wasm_v128_load(n));
          second = wasm_i16x8_add(second, wasm_v128_load(n + 8));
        }
        wasm_v128_store(n, first);
        wasm_v128_store(n + 8, second);
      };
      store(counts[0] + 32 * (r % 2) + 16 * q, first0, second0);
      store(counts[1] + 32 * (r % 2) + 16 * q, first1, second1);
    }
  }
}

template <int K>
__attribute__((noinline)) void count_chunk(const Nibbles& a, int n, const v128_t* w,
                                           int16_t (*counts)[64], bool add) {
  for (int x = 0; x < n; x += 2) count<K>(a, x, w, counts + x, add);
}
static_assert(CHUNK % 2 == 0, "the counts of a last pixel without a neighbour have room");

/* The epilogue of n pixels from column x on, whose missing taps are `where`, from their counts. */
__attribute__((noinline)) void finish(const Bconv& op, const BconvRow& row,
                                      const int16_t (*counts)[64], int block, int x, int n,
                                      int where) {
  const v128_t up = wasm_i16x8_splat(int16_t(1u << (op.shift + 1)));
  const int16_t* base = op.base.data() + size_t(where) * size_t(op.cout_pad) + 64 * size_t(block);
  finish_chunk<64>(op, row, block, x, n, [=](int i, int c) {
    return wasm_i16x8_sub(wasm_v128_load(base + c),
                          wasm_i16x8_mul(wasm_v128_load(counts[i] + c), up));
  });
}

}  // namespace

/* packed, in bytes: (cout_pad / 64, words, k, 2 halves of the filters, k * 16 nibbles, 32 filters).
 */
bool prepare(Bconv& op) {
  const size_t taps = size_t(op.k * op.k), words = size_t(op.words);
  if (!op.packed.resize(2 * op.weight.size())) return false;
  auto* out = reinterpret_cast<uint8_t*>(op.packed.data());
  for (int block = 0; block < op.cout_pad; block += 64)
    for (int word = 0; word < op.words; word++)
      for (int r = 0; r < 2 * op.k; r++)
        for (int nibble = 0; nibble < 16 * op.k; nibble++)
          for (int byte = 0; byte < 32; byte++) {
            const size_t filter = size_t(block + r % 2 * 32 + channel_of(byte));
            const size_t tap = size_t(r / 2 * op.k + nibble / 16);
            *out++ =
                op.weight[(filter * taps + tap) * words + size_t(word)] >> (nibble % 16 * 4) & 15;
          }
  return true;
}

void bconv(const Bconv& op, const BconvRow& row) {
  const size_t step = size_t(op.k * op.k) * 64;
  bconv_chunks<Nibbles>(
      op, row, [&](Nibbles& a, int word, int x, int n) { nibbles(op, row, word, x, n, a); },
      [&](ChunkScratch<Nibbles>& s, int block, int word, int n) {
        const v128_t* w = reinterpret_cast<const v128_t*>(op.packed.data()) +
                          size_t(block * op.words + word) * step;
        op.k == 3 ? count_chunk<3>(s.parts, n, w, s.counts, word)
                  : count_chunk<1>(s.parts, n, w, s.counts, word);
      },
      [&](const int16_t (*counts)[64], int block, int x, int n, int where) {
        finish(op, row, counts, block, x, n, where);
      });
}

}  // namespace bitsr::wasm
