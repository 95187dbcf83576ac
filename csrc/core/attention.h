/* Channel attention (squeeze and excitation, Hu et al., CVPR 2018): the gate of one image. */
#pragma once

#include <atomic>
#include <mutex>

#include "common/threads.h"
#include "kernels/kernels.h"

namespace bitsr {

/* Attention of C channels through H: mean over the image, a layer to H with PReLU, a layer to C, a
 * sigmoid. */
struct Attention {
  int channels = 0, hidden = 0, down_shift = 1, up_shift = 1;
  Array<int16_t> down, slope, up; /* (H, C), (H), (C, H) */
  Array<int32_t> down_bias, up_bias;
};

/* Sums of an image's channels, and the gate that is made of them. */
class Gate {
 public:
  explicit Gate(const Attention& attention); /* which outlives it */
  void begin();
  /* A row of w pixels of an h x w image; the last one makes the gate. Any number of threads. */
  void add(const int16_t* x, int h, int w);
  bool done() const { return done_.load(std::memory_order_acquire); }
  const int16_t* values() const { return gate_.data(); } /* a channel each, from 0 to 32767 */

 private:
  void make(int64_t pixels);

  const Attention& a_;
  Mutex mutex_;
  Array<int64_t> sums_;
  Array<int16_t> mean_, hidden_, gate_;
  int rows_ = 0;
  std::atomic<bool> done_{false}; /* the gate is made */
};

}  // namespace bitsr
