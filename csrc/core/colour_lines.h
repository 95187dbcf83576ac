// Numbers and lines of pixels that colour_rows.h, colour_chroma.h and colour_bounds.h share.
//
// These files are compiled twice on x86-64, plainly (colour.cpp) and with AVX2 (colour_avx2.cpp).
// All of them have internal linkage, so neither build's code can stand in for the other's. Plain
// loops on contiguous rows: the compiler makes the SIMD, and integers make every build give the
// same bytes.

#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <type_traits>

namespace {

constexpr int MAX_SCALE = 16;

// Diff is a sample, or a difference of two, in units of 2^-FRAC of a step. 8 bit: int16 holds it
// (see STEEPEST), and 14-bit taps sum in int32. 16 bit: int32, 20-bit taps sum in int64. QUARTER:
// bits to drop for units of about a quarter of an 8-bit level.
struct Depth8 {
  using Pixel = uint8_t;
  using Diff = int16_t;
  using Sum = int32_t;
  static constexpr int FRAC = 5, TAP_BITS = 14, LUMA_BITS = 16, GREEN_BITS = 15, MAX = 255,
                       LEVEL = 1, QUARTER = 3;
};
struct Depth16 {
  using Pixel = uint16_t;
  using Diff = int32_t;
  using Sum = int64_t;
  static constexpr int FRAC = 6, TAP_BITS = 20, LUMA_BITS = 20, GREEN_BITS = 20, MAX = 65535,
                       LEVEL = 257, QUARTER = 12;
};

int fail(char* err, size_t cap, const char* text) {
  if (err && cap) std::snprintf(err, cap, "%s", text);
  return -1;
}

template <class T>
constexpr T floor_div(T a, T b) {
  return a / b - (a % b < 0);
}
// a / b to the nearest, half up; b > 0.
template <class T>
constexpr T round_div(T a, T b) {
  return floor_div<T>(2 * a + b, 2 * b);
}
template <class T>
constexpr T least(T a, T b) {
  return a < b ? a : b;
}
template <class T>
constexpr T most(T a, T b) {
  return a > b ? a : b;
}

// Index folded into [0, n) by symmetric reflection (-1 is 0, n is n - 1), from any distance.
int reflect(int64_t i, int n) {
  const int64_t period = 2 * int64_t(n);
  i = (i % period + period) % period;
  return int(i < n ? i : period - 1 - i);
}

// Lines of T that are kept for a while: N of them, each of some planes of w values with MARGIN more
// to either side. A line is known by its row, which may lie outside the image.
template <class T, int N, int MARGIN>
class Ring {
 public:
  bool init(int planes, int w) {
    pitch_ = size_t(w) + 2 * MARGIN;
    planes_ = size_t(planes);
    for (int64_t& row : rows_) row = std::numeric_limits<int64_t>::min();
    if (!planes) return true;
    const size_t line = N * planes_ * sizeof(T);
    if (pitch_ <= SIZE_MAX / line) values_.reset(static_cast<T*>(std::malloc(line * pitch_)));
    return values_ != nullptr;
  }
  // Whether the row is there; if not it takes the place of another, and is to be filled.
  bool has(int64_t row) {
    int64_t& held = rows_[size_t(row) % N];
    const bool there = held == row;
    held = row;
    return there;
  }
  T* line(int64_t row, int plane) const {
    return values_.get() + (size_t(row) % N * planes_ + size_t(plane)) * pitch_ + MARGIN;
  }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  static_assert((N & (N - 1)) == 0, "rows below 0 need a power of two");
  std::unique_ptr<T, Free> values_;
  size_t planes_ = 0, pitch_ = 0;
  int64_t rows_[N] = {};
};

// n values more on either side of a line, by reflection.
template <class T>
void pad(T* x, int w, int n) {
  for (int k = 1; k <= n; k++) {
    x[-k] = x[reflect(-k, w)];
    x[w - 1 + k] = x[reflect(int64_t(w) - 1 + k, w)];
  }
}

// LR rows as planes: their pixels and, of colours, L, R - L and B - L.
template <class D>
class Source {
  using Pixel = typename D::Pixel;
  using Diff = typename D::Diff;
  using Sum = typename D::Sum;

 public:
  static constexpr int MARGIN = 3;

  bool init(const void* lr, int channels, int h, int w, int first) {
    lr_ = static_cast<const Pixel*>(lr);
    channels_ = channels, h_ = h, w_ = w, first_ = first;
    coloured_ = channels > 2;
    return pixels_.init(channels, w) && diffs_.init(coloured_ ? 3 : 0, w);
  }
  // Channel c of a row.
  const Pixel* pixels(int64_t row, int c) {
    take(row);
    return pixels_.line(row, c);
  }
  // 0: L, 1: R - L, 2: B - L.
  const Diff* diffs(int64_t row, int which) {
    take(row);
    return diffs_.line(row, which);
  }

 private:
  template <int STEP>
  static void every(const Pixel* __restrict in, int w, Pixel* __restrict out) {
    for (int i = 0; i < w; i++) out[i] = in[STEP * i];
  }

  void take(int64_t row) {
    if (pixels_.has(row)) return;
    const int w = w_;
    const Pixel* px = lr_ + size_t(reflect(row, h_) - first_) * size_t(w) * channels_;
    for (int c = 0; c < channels_; c++) {
      Pixel* out = pixels_.line(row, c);
      switch (channels_) {
        case 1:
          every<1>(px + c, w, out);
          break;
        case 2:
          every<2>(px + c, w, out);
          break;
        case 3:
          every<3>(px + c, w, out);
          break;
        default:
          every<4>(px + c, w, out);
      }
      pad(out, w, MARGIN);
    }
    if (!coloured_) return;
    const Pixel *red = pixels_.line(row, 0), *green = pixels_.line(row, 1),
                *blue = pixels_.line(row, 2);
    Diff* __restrict luma = diffs_.line(row, 0);
    Diff* __restrict red_diff = diffs_.line(row, 1);
    Diff* __restrict blue_diff = diffs_.line(row, 2);
    constexpr Sum unit = Sum(1) << D::FRAC;
    for (int i = -MARGIN; i < w + MARGIN; i++) {
      const Sum r = red[i], g = green[i], b = blue[i];
      luma[i] = Diff(round_div<Sum>((299 * r + 587 * g + 114 * b) * unit, 1000));
      red_diff[i] = Diff(round_div<Sum>((701 * r - 587 * g - 114 * b) * unit, 1000));
      blue_diff[i] = Diff(round_div<Sum>((886 * b - 587 * g - 299 * r) * unit, 1000));
    }
  }

  const Pixel* lr_ = nullptr;
  int channels_ = 0, h_ = 0, w_ = 0, first_ = 0;
  bool coloured_ = false;
  Ring<Pixel, 8, MARGIN> pixels_;
  Ring<Diff, 8, MARGIN> diffs_;
};

}  // namespace
