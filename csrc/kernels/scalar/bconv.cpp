/* Plain C++: the reference of the other paths, and the path of CPUs without one of their own. */
#include "kernels/kernels.h"

namespace bitsr::scalar {

bool prepare(Bconv&) { return true; }

void bconv(const Bconv& op, const BconvRow& row) {
  const int side = op.k / 2, taps = op.k * op.k, words = op.words;
  for (int x = 0; x < row.w; x++) {
    const int16_t* base =
        op.base.data() + size_t(border(row.top, row.bottom, x == 0, x == row.w - 1)) * op.cout_pad;
    const int16_t* skip = row.skip ? row.skip + size_t(x) * op.cout_pad : nullptr;
    const int16_t* map = row.map ? row.map + size_t(x) * op.maps : nullptr;
    for (int block = 0; block < op.cout_pad; block += 64) {
      uint64_t bits = 0;
      for (int c = block; c < block + 64; c++) {
        const uint64_t* w = op.weight.data() + size_t(c) * taps * words;
        int count = 0;
        for (int dy = -side; dy <= side; dy++) {
          const uint64_t* a = row.rows[1 + dy] + ptrdiff_t(x - side) * words;
          for (int i = 0; i < op.k * words; i++) count += __builtin_popcountll(a[i] ^ *w++);
        }
        const int16_t v = epilogue(op, c, int16_t(base[c] - (count << (op.shift + 1))), map, skip);
        if (row.out) row.out[size_t(x) * op.cout_pad + c] = v;
        bits |= uint64_t(v < op.threshold[c]) << (c - block);
      }
      if (row.bits) row.bits[size_t(x) * (op.cout_pad / 64) + block / 64] = bits;
    }
  }
}

}  // namespace bitsr::scalar
