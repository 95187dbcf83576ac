/* A row of the int8 convolution in chunks of columns: what its paths share. */
#pragma once

#include "kernels/kernels.h"

namespace bitsr {

/* Columns at a time; a multiple of the pixels that any path takes at once. */
constexpr int QCHUNK = 48;
static_assert(QCHUNK * 64 * sizeof(int16_t) <= SCRATCH * 8, "scratch is too small");

/* A row in chunks of columns, whose sums (`a` of the epilogue) lie in scratch.
 *   some(x, n, filter, filters, sums)  the sums of up to `filters` filters for n pixels from column
 *                                      x on, as sums[i][filter % 64 ...]; returns of how many
 *   plane(x, n, sums)                  those of the only filter
 *   finish(to, block, x, n, sums)      the epilogue of 64 channels, for n pixels from column x of
 *                                      `to` on
 *   quant                              Kernels::quant of the path
 *   fused(n, sums, bytes)              epilogue and bytes of n pixels in one, true; or false: it
 *                                      does not for these. Only where nothing else is wanted. */
template <class Some, class Plane, class Finish, class Fused>
static inline void qconv_chunks(const Qconv& op, const QconvRow& row, Some some, Plane plane,
                                Finish finish, decltype(Kernels::quant) quant, Fused fused) {
  for (int x = 0; x < row.w; x += QCHUNK) {
    const int n = row.w - x < QCHUNK ? row.w - x : QCHUNK;
    if (op.cout == 1) {
      auto* sums = reinterpret_cast<int16_t*>(row.scratch);
      plane(x, n, sums);
      for (int i = 0; i < n; i++)
        row.out[x + i] = epilogue(op, 0, sums[i], nullptr, row.skip ? row.skip + x + i : nullptr);
      continue;
    }
    auto* sums = reinterpret_cast<int16_t (*)[64]>(row.scratch);
    for (int block = 0; block < op.cout; block += 64) {
      const int end = block + 64 < op.cout ? block + 64 : op.cout;
      for (int filter = block; filter < end;) filter += some(x, n, filter, end - filter, sums);
      if (!row.quant) {
        finish(row, block / 64, x, n, sums);
        continue;
      }
      uint8_t* bytes = row.bytes + size_t(x) * size_t(row.quant->stride());
      if (!row.skip && !row.out && fused(n, sums, bytes)) continue;
      const size_t at = size_t(x) * 64;
      const EpilogueRow to = {row.skip ? row.skip + at : nullptr, nullptr,
                              row.out ? row.out + at : sums[0], nullptr};
      finish(to, 0, 0, n, sums);
      quant(*row.quant, to.out, n, bytes);
    }
  }
}

template <class Some, class Plane, class Finish>
static inline void qconv_chunks(const Qconv& op, const QconvRow& row, Some some, Plane plane,
                                Finish finish, decltype(Kernels::quant) quant) {
  qconv_chunks(op, row, some, plane, finish, quant,
               [](int, const int16_t (*)[64], uint8_t*) { return false; });
}

}  // namespace bitsr
