/* The 3x3 sum by carry-save addition: 5 popcounts where the plain sum takes 9.
 *
 * For one filter let x_i = a_i ^ w_i be the nine 64-bit words of one word of channels, a column of taps
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
#pragma once

#include "kernels.h"

namespace bitsr {

/* Parts of the weights: (a, ab, ac) of the three columns, (l, lm, lr) of the sums, parity. */
constexpr int PARTS = 13;

static inline void weight_parts(const Bconv& op, int filter, int word, uint64_t* out) {
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
 * l, lm, lr and parity of columns x .. x+n-1. */
struct Parts {
  uint64_t a[CHUNK + 2], ab[CHUNK + 2], ac[CHUNK + 2], l[CHUNK + 2], lm[CHUNK], lr[CHUNK], parity[CHUNK];
};

static inline void activation_parts(const BconvRow& row, int words, int word, int x, int n, Parts& out) {
  const ptrdiff_t from = ptrdiff_t(x - 1) * words + word;
  const uint64_t *r0 = row.rows[0] + from, *r1 = row.rows[1] + from, *r2 = row.rows[2] + from;
  for (int i = 0; i < n + 2; i++) {
    const uint64_t above = r0[i * words], here = r1[i * words], below = r2[i * words];
    out.a[i] = above;
    out.ab[i] = above ^ here;
    out.ac[i] = above ^ below;
    out.l[i] = above ^ here ^ below;
  }
  for (int i = 0; i < n; i++) {
    out.lm[i] = out.l[i] ^ out.l[i + 1];
    out.lr[i] = out.l[i] ^ out.l[i + 2];
    out.parity[i] = out.lm[i] ^ out.l[i + 2];
  }
}

/* A row in chunks of columns: what the paths with a fast count share. count(scratch, block, word, x, n) adds the
 * disagreements of 64 filters with one word of channels to scratch.counts (where word is 0, it sets them), for n
 * pixels from column x on; finish(scratch, block, x, n) is the epilogue. Counting and finishing in loops of their
 * own keeps each in registers. */
struct ChunkScratch {
  alignas(64) int16_t counts[CHUNK][64];
  Parts parts;
};
static_assert(sizeof(ChunkScratch) <= SCRATCH * 8, "scratch is too small");

template <class Count, class Finish>
static inline void chunks(const Bconv& op, const BconvRow& row, Count count, Finish finish) {
  auto* scratch = reinterpret_cast<ChunkScratch*>(row.scratch);
  for (int x = 0; x < row.w; x += CHUNK) {
    const int n = row.w - x < CHUNK ? row.w - x : CHUNK;
    for (int block = 0; block < op.cout_pad / 64; block++) {
      for (int word = 0; word < op.words; word++) {
        if (op.k == 3 && (block == 0 || op.words > 1)) activation_parts(row, op.words, word, x, n, scratch->parts);
        count(*scratch, block, word, x, n);
      }
      finish(*scratch, block, x, n);
    }
  }
}

}  // namespace bitsr
