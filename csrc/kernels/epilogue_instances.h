/* From an epilogue's parts to the instance for them: the end of each path's header, after its
 * finish_chunk. */
#pragma once

namespace bitsr {

template <class Sums>
static inline __attribute__((always_inline)) void finish_chunk(const Epilogue& op,
                                                               const EpilogueRow& row, int block,
                                                               int from, int n, Sums sums) {
  if (op.inner_slope.size())
    op.slope_add.size() ? finish_chunk<true, true, true>(op, row, block, from, n, sums)
    : op.slope.size()   ? finish_chunk<true, true, false>(op, row, block, from, n, sums)
                        : finish_chunk<true, false, false>(op, row, block, from, n, sums);
  else
    op.slope_add.size() ? finish_chunk<false, true, true>(op, row, block, from, n, sums)
    : op.slope.size()   ? finish_chunk<false, true, false>(op, row, block, from, n, sums)
                        : finish_chunk<false, false, false>(op, row, block, from, n, sums);
}

}  // namespace bitsr
