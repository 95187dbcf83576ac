/* Convolutions by signs for training, and what the fused unit shares with them. */
#pragma once

#include <cstddef>

#include "train/kernels.h"

namespace bitsr::train {

/* Pixels of n images in one line with zeros between them, so that a tap is one distance for all:
 * rows share the zeros at their ends, images those above and below. */
struct PaddedLine {
  int n, h, w, side;
  ptrdiff_t pitch() const { return w + side; }
  ptrdiff_t at(int row) const { /* row: of all images, n * h of them */
    return (side + ptrdiff_t(row / h) * (h + side) + row % h) * pitch() + side;
  }
  ptrdiff_t size() const { return (side + ptrdiff_t(n) * (h + side)) * pitch() + side; }
  ptrdiff_t reach() const { return side * pitch() + side; } /* of the farthest tap */
};

/* The memory of each thread that trains: bytes of a padded line of images, and packed signs. */
extern thread_local Array<uint8_t> bytes_memory;
extern thread_local Array<int8_t> signs_memory;

/* The weights (filters, k, k, channels) with 4 * i + 0 .. 3 of the sums' depth in a lane, forwards
 * or, transposed, from outputs to inputs: depth (k, k, filters), taps in the other order. start:
 * what each sum begins with. */
void pack_weights(const int8_t* w, int filters, int channels, int taps, bool transposed, int lanes,
                  int8_t* to, int32_t* start);

/* One row of the convolution of bytes with the signs of `pack_weights`, c channels to o. */
void sum_row(const TrainKernels& path, const uint8_t* bytes, const int8_t* signs,
             const int32_t* start, const PaddedLine& line, int c, int o, int k, int row,
             int32_t* out);

/* The gradient of the weights: bitsr_sign_conv_weight in bitsr_train.h. -1: no memory. */
int conv_weight(const TrainKernels& path, const int8_t* x, const int8_t* g, int32_t* y,
                const PaddedLine& line, int c, int o, int k, int threads);

/* The kernels of a path by name, or of the best that this CPU has; null: none. */
const TrainKernels* path(const char* isa);

/* f(kernels of the path, line of the images), or -1 for impossible sizes, a path without kernels
 * and no memory. */
template <class F>
int on_path(const char* isa, int n, int h, int w, int c, int o, int k, F f) {
  const TrainKernels* kernels = path(isa);
  if (!kernels || c % 64 || o % 64 || k % 2 == 0) return -1;
  if (n < 1 || h < 1 || w < 1 || c < 1 || o < 1 || k < 1) return -1;
  try {
    return f(*kernels, PaddedLine{n, h, w, k / 2});
  } catch (...) { /* no memory, no thread */
    return -1;
  }
}

}  // namespace bitsr::train
