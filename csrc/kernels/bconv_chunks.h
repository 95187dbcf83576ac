/* A row in chunks of columns: what the paths with a fast count share. */
#pragma once

#include "kernels/kernels.h"

namespace bitsr {

/* Parts: what a path makes of one word of the activations of a chunk, for all its filters. */
template <class Parts>
struct ChunkScratch {
  alignas(64) int16_t counts[CHUNK][64];
  alignas(64) Parts parts;
};

/* prepare(parts, word, x, n) makes the parts of n pixels from column x on; count(scratch, block,
 * word, n) adds the disagreements of 64 filters with one word of channels to scratch.counts (where
 * word is 0, it sets them); finish(counts, block, x, n, where) is the epilogue of pixels with the
 * same taps missing. Counting and finishing in loops of their own keeps each in registers. */
template <class Parts, class Prepare, class Count, class Finish>
static inline void bconv_chunks(const Bconv& op, const BconvRow& row, Prepare prepare, Count count,
                                Finish finish) {
  static_assert(sizeof(ChunkScratch<Parts>) <= SCRATCH * 8, "scratch is too small");
  auto& s = *reinterpret_cast<ChunkScratch<Parts>*>(row.scratch);
  for (int x = 0; x < row.w; x += CHUNK) {
    const int n = row.w - x < CHUNK ? row.w - x : CHUNK;
    for (int block = 0; block < op.cout_pad / 64; block++) {
      for (int word = 0; word < op.words; word++) {
        if (block == 0 || op.words > 1) prepare(s.parts, word, x, n);
        count(s, block, word, n);
      }
      for (int i = 0; i < n;) {
        const bool left = x + i == 0, right = x + i == row.w - 1;
        const int to = left || right ? i + 1 : x + n == row.w ? n - 1 : n;
        finish(s.counts + i, block, x + i, to - i, border(row.top, row.bottom, left, right));
        i = to;
      }
    }
  }
}

}  // namespace bitsr
