// Rows of an image made smaller, as weighted sums of its pixels along both axes.
//
// All is whole numbers below 2^53, held in double: sums are exact in whatever order and on whatever
// CPU they are made, and there is one rounding at the end.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "bitsr.h"
#include "common/array.h"
#include "core/errors.h"

namespace bitsr {
namespace {

constexpr double ONE = 1 << 14;  // a weight of 1

struct Axis {
  int taps, n;  // samples a result is made of, results
  const int32_t *at, *weights;
};

// Result i along the rows: a row of sums.
template <class S>
void down(const S* rows, size_t pitch, const Axis& y, int i, double* sums) {
  std::fill(sums, sums + pitch, 0.0);
  for (int k = 0; k < y.taps; k++) {
    const double weight = y.weights[size_t(i) * y.taps + k];
    const S* row = rows + size_t(y.at[size_t(i) * y.taps + k]) * pitch;
    if (weight != 0)
      for (size_t x = 0; x < pitch; x++) sums[x] += weight * row[x];
  }
}

// Result i along the columns, of such a row: a pixel.
template <int C>
void across(const double* sums, const Axis& x, int i, double* pixel) {
  double total[C] = {};
  const int32_t *at = x.at + size_t(i) * x.taps, *weights = x.weights + size_t(i) * x.taps;
  for (int k = 0; k < x.taps; k++)
    for (int c = 0; c < C; c++) total[c] += weights[k] * sums[size_t(at[k]) * C + c];
  for (int c = 0; c < C; c++) pixel[c] = total[c];
}

template <class S>
S rounded(double v) {
  const double most = std::numeric_limits<S>::max();
  return S(std::min(std::max(std::floor(v + 0.5), 0.0), most));
}

template <class S, int C>
void reduce(const S* rows, int w, int count, const Axis& y, const Axis& x, S* out) {
  const size_t pitch = size_t(w) * C;
  constexpr bool alpha = C % 2 == 0;
  constexpr uint32_t most = std::numeric_limits<S>::max();
  // Colours times their alpha. Of 16-bit samples the product is brought back to 16 bits: with the
  // weights it would be more than 53.
  constexpr uint32_t unit = most == 255 ? 1 : most;
  Array<double> sums;
  Array<uint16_t> product;
  if (!sums.resize(pitch)) no_memory();
  if (alpha) {
    if (!product.resize(pitch * size_t(count))) no_memory();
    for (size_t p = 0; p < pitch * size_t(count); p += C) {
      const uint32_t a = rows[p + C - 1];
      for (int c = 0; c < C - 1; c++)
        product.data()[p + c] = uint16_t((rows[p + c] * a + unit / 2) / unit);
      product.data()[p + C - 1] = uint16_t(a);
    }
  }
  for (int i = 0; i < y.n; i++) {
    S* line = out + size_t(i) * x.n * C;
    double pixel[C];
    if (!alpha) {
      down(rows, pitch, y, i, sums.data());
      for (int j = 0; j < x.n; j++) {
        across<C>(sums.data(), x, j, pixel);
        for (int c = 0; c < C; c++) line[size_t(j) * C + c] = rounded<S>(pixel[c] / (ONE * ONE));
      }
      continue;
    }
    bool clear = false;
    down(product.data(), pitch, y, i, sums.data());
    for (int j = 0; j < x.n; j++) {
      S* to = line + size_t(j) * C;
      across<C>(sums.data(), x, j, pixel);
      to[C - 1] = rounded<S>(pixel[C - 1] / (ONE * ONE));
      for (int c = 0; c < C - 1; c++)
        to[c] = to[C - 1] ? rounded<S>(pixel[c] * unit / pixel[C - 1]) : S(0);
      clear = clear || !to[C - 1];
    }
    if (!clear) continue;
    // What is clear keeps the colour it has, for programs that blend it in.
    down(rows, pitch, y, i, sums.data());
    for (int j = 0; j < x.n; j++) {
      S* to = line + size_t(j) * C;
      if (to[C - 1]) continue;
      across<C>(sums.data(), x, j, pixel);
      for (int c = 0; c < C - 1; c++) to[c] = rounded<S>(pixel[c] / (ONE * ONE));
    }
  }
}

template <class S>
void reduce_any(const void* rows, int channels, int w, int count, const Axis& y, const Axis& x,
                void* out) {
  const S* in = static_cast<const S*>(rows);
  S* to = static_cast<S*>(out);
  switch (channels) {
    case 1:
      return reduce<S, 1>(in, w, count, y, x, to);
    case 2:
      return reduce<S, 2>(in, w, count, y, x, to);
    case 3:
      return reduce<S, 3>(in, w, count, y, x, to);
    default:
      return reduce<S, 4>(in, w, count, y, x, to);
  }
}

// Every sample that is named is there, and the weights of each result are those of a mean.
bool sound(const Axis& axis, int samples) {
  if (axis.taps < 1 || axis.n < 1 || !axis.at || !axis.weights) return false;
  for (int i = 0; i < axis.n; i++) {
    int64_t size = 0;
    for (int k = 0; k < axis.taps; k++) {
      const size_t at = size_t(i) * axis.taps + k;
      if (axis.at[at] < 0 || axis.at[at] >= samples) return false;
      size += std::abs(int64_t(axis.weights[at]));
    }
    if (size > 2 * int64_t(ONE)) return false;
  }
  return true;
}

}  // namespace
}  // namespace bitsr

int bitsr_reduce(const void* rows, int depth, int channels, int w, int count, int taps_y,
                 const int32_t* at_y, const int32_t* weights_y, int n_y, int taps_x,
                 const int32_t* at_x, const int32_t* weights_x, int n_x, void* out, char* err,
                 size_t err_cap) {
  using namespace bitsr;
  const Axis y = {taps_y, n_y, at_y, weights_y}, x = {taps_x, n_x, at_x, weights_x};
  return guarded(-1, err, err_cap, [&] {
    if (!rows || !out || (depth != 8 && depth != 16) || channels < 1 || channels > 4)
      fail("impossible pixel format");
    if (w < 1 || count < 1 || !sound(y, count) || !sound(x, w)) fail("impossible weights");
    (depth == 8 ? reduce_any<uint8_t> : reduce_any<uint16_t>)(rows, channels, w, count, y, x, out);
    return 0;
  });
}
