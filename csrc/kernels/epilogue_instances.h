/* From an epilogue's parts to the instance for them: the end of each path's header, after its
 * finish_chunk. */
#pragma once

namespace bitsr {

template <int CHANNELS, class Sums>
static inline __attribute__((always_inline)) void finish_chunk(const Epilogue& op,
                                                               const EpilogueRow& row, int block,
                                                               int from, int n, Sums sums) {
  if (op.inner_slope.size())
    op.slope_add.size() ? finish_chunk<CHANNELS, true, true, true>(op, row, block, from, n, sums)
    : op.slope.size()   ? finish_chunk<CHANNELS, true, true, false>(op, row, block, from, n, sums)
                        : finish_chunk<CHANNELS, true, false, false>(op, row, block, from, n, sums);
  else
    op.slope_add.size() ? finish_chunk<CHANNELS, false, true, true>(op, row, block, from, n, sums)
    : op.slope.size() ? finish_chunk<CHANNELS, false, true, false>(op, row, block, from, n, sums)
                      : finish_chunk<CHANNELS, false, false, false>(op, row, block, from, n, sums);
}

/* The same for those of 64 channels from 64 * block on that there are, or a few more. */
template <class Sums>
static inline __attribute__((always_inline)) void finish_channels(const Qconv& op,
                                                                  const EpilogueRow& row, int block,
                                                                  int from, int n, Sums sums) {
  const int channels = op.cout - 64 * block;
  channels <= 16   ? finish_chunk<16>(op, row, block, from, n, sums)
  : channels <= 32 ? finish_chunk<32>(op, row, block, from, n, sums)
                   : finish_chunk<64>(op, row, block, from, n, sums);
}

}  // namespace bitsr
