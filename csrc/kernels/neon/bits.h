/* What the NEON code of more than one file uses. */
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace bitsr {

/* Eight comparisons of 8 channels each, as the 64 bits of a word. */
inline uint64_t neon_bits(const uint16x8_t* less) {
  const uint8x16_t place = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  /* 16 channels: 0 or the channel's bit in its byte of the word */
  const auto bytes = [&](int i) {
    return vandq_u8(vuzp1q_u8(vreinterpretq_u8_u16(less[i]), vreinterpretq_u8_u16(less[i + 1])),
                    place);
  };
  const uint8x16_t sum = vpaddq_u8(vpaddq_u8(bytes(0), bytes(2)), vpaddq_u8(bytes(4), bytes(6)));
  return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(sum, sum)), 0);
}

}  // namespace bitsr
