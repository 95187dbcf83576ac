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

inline void weight_parts(const Bconv& op, int filter, int word, uint64_t* out, int step) {
  uint64_t sum[3];
  for (int col = 0; col < 3; col++) {
    const uint64_t* w = op.weight.data() + (size_t(filter) * 9 + col) * op.words + word;
    const uint64_t above = w[0], here = w[3 * op.words], below = w[6 * op.words];
    out[(3 * col) * step] = above;
    out[(3 * col + 1) * step] = above ^ here;
    out[(3 * col + 2) * step] = above ^ below;
    sum[col] = above ^ here ^ below;
  }
  out[9 * step] = sum[0];
  out[10 * step] = sum[0] ^ sum[1];
  out[11 * step] = sum[0] ^ sum[2];
  out[12 * step] = sum[0] ^ sum[1] ^ sum[2];
}

/* Parts of the activations of columns x-1 .. x+n for one word: arrays of n + 2 entries (a, ab, ac) and of n
 * entries (l, lm, lr, parity) at stride CHUNK + 8. */
struct Parts {
  const uint64_t *a, *ab, *ac, *l, *lm, *lr, *parity;
};

inline Parts activation_parts(const BconvRow& row, int words, int word, int x, int n, uint64_t* scratch) {
  uint64_t *a = scratch, *ab = a + CHUNK + 8, *ac = ab + CHUNK + 8, *sum = ac + CHUNK + 8, *lm = sum + CHUNK + 8,
           *lr = lm + CHUNK + 8, *parity = lr + CHUNK + 8;
  const ptrdiff_t from = ptrdiff_t(x - 1) * words + word;
  const uint64_t *r0 = row.rows[0] + from, *r1 = row.rows[1] + from, *r2 = row.rows[2] + from;
  for (int i = 0; i < n + 2; i++) {
    const uint64_t above = r0[i * words], here = r1[i * words], below = r2[i * words];
    a[i] = above;
    ab[i] = above ^ here;
    ac[i] = above ^ below;
    sum[i] = above ^ here ^ below;
  }
  for (int i = 0; i < n; i++) {
    lm[i] = sum[i] ^ sum[i + 1];
    lr[i] = sum[i] ^ sum[i + 2];
    parity[i] = lm[i] ^ sum[i + 2];
  }
  return {a, ab, ac, sum, lm, lr, parity};
}

}  // namespace bitsr
