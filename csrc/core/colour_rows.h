// The arithmetic of colour around the luma net: pixels to luma, and SR luma plus bicubic chroma
// back to pixels.
//
// With L = 0.299 R + 0.587 G + 0.114 B the studio luma of the nets is Y = 16 + 219/255 L (8-bit
// levels), and the chroma planes of BT.601 are multiples of R - L and B - L. So
//   R' = L' + up(R - L)
//   B' = L' + up(B - L)
//   G' = L' - (0.299 up(R - L) + 0.114 up(B - L)) / 0.587
// where L' is the SR luma and up() the bicubic; no YCbCr image is ever rounded on the way. Equal R,
// G and B have differences of exactly 0, so grey stays grey; the taps sum to exactly 1, so flat
// chroma stays flat.
//
// The nets overshoot at edges, and chroma does not follow: red letters would turn pink inside. So
// where colours are strong, COLOURED levels apart somewhere in the 5x5 LR pixels around, no channel
// leaves the range of those pixels, or its own bicubic where that goes further, by more than SLACK
// levels. Where they are weaker there is more room: four levels for each level less. A channel at
// the same end of its range in all of those pixels stays there: white paper is white.
//
// up() is Keys' cubic (a = -0.5) at half-pixel centres with symmetric reflection: one LR row is
// widened when it is first needed, four widened rows are kept, and each SR row is one weighted sum
// of them. Plain loops on contiguous rows: the compiler makes the SIMD, and integers make every
// build give the same bytes.
//
// This file is compiled twice on x86-64, plainly (colour.cpp) and with AVX2 (colour_avx2.cpp). All
// of it has internal linkage, so neither build's code can stand in for the other's.

#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <type_traits>

namespace {

constexpr int MAX_SCALE = 16;
constexpr int SLACK = 7, COLOURED = 96;  // 8-bit levels; rounding makes 8 of 7

// 8 bit: differences in 1/32 level are int16 (|R - L| <= 226, twice 1.25 by the kernel's overshoot)
// and 14-bit taps sum in int32. 16 bit: 1/64 level in int32, 20-bit taps sum in int64.
struct Depth8 {
  using Pixel = uint8_t;
  using Diff = int16_t;
  using Sum = int32_t;
  static constexpr int FRAC = 5, TAP_BITS = 14, LUMA_BITS = 16, GREEN_BITS = 15, MAX = 255,
                       LEVEL = 1;
};
struct Depth16 {
  using Pixel = uint16_t;
  using Diff = int32_t;
  using Sum = int64_t;
  static constexpr int FRAC = 6, TAP_BITS = 20, LUMA_BITS = 20, GREEN_BITS = 20, MAX = 65535,
                       LEVEL = 257;
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

// q = round(128 (Y - 127.5)) = round(128 * 219/255 * L) - 14272, exactly: 128 * 219 / 255000 = 1168
// / 10625.
template <class D, int STEP>
void luma_row(const typename D::Pixel* __restrict px, size_t n, int16_t* __restrict q) {
  using Sum = typename D::Sum;
  for (size_t i = 0; i < n; i++) {
    const typename D::Pixel* p = px + STEP * i;
    const Sum r = p[0], g = p[STEP > 2 ? 1 : 0], b = p[STEP > 2 ? 2 : 0];
    const Sum L = 299 * r + 587 * g + 114 * b;
    q[i] = int16_t((L * 2336 + 10625 * D::LEVEL) / (21250 * D::LEVEL) - 14272);
  }
}

template <class D>
void luma(const void* px, int channels, size_t n, int16_t* q) {
  const auto* p = static_cast<const typename D::Pixel*>(px);
  switch (channels) {
    case 1:
      return luma_row<D, 1>(p, n, q);
    case 2:
      return luma_row<D, 2>(p, n, q);
    case 3:
      return luma_row<D, 3>(p, n, q);
    default:
      return luma_row<D, 4>(p, n, q);
  }
}

// Index folded into [0, n) by symmetric reflection (-1 is 0, n is n - 1), from any distance.
int reflect(int64_t i, int n) {
  const int64_t period = 2 * int64_t(n);
  i = (i % period + period) % period;
  return int(i < n ? i : period - 1 - i);
}

// The first tap's LR offset of phase p, and the four taps in units of 2^-bits; they sum to 2^bits.
// An SR sample s i + p lies at LR i + t + (p < s/2 ? -1 : 0) with t = ((2p + 1) / 2s + 1/2) mod 1;
// over the common denominator (2s)^3 the taps are whole numbers (twice them, for Keys' halves), so
// nothing here is floating.
struct Phase {
  int first;
  int64_t tap[4];
};
Phase phase(int scale, int p, int bits) {
  const int64_t u = 2 * scale, t = (2 * p + 1 + scale) % u;
  const int64_t cubic[4] = {
      -t * t * t + 2 * t * t * u - t * u * u,
      3 * t * t * t - 5 * t * t * u + 2 * u * u * u,
      -3 * t * t * t + 4 * t * t * u + t * u * u,
      t * t * t - t * t * u,
  };
  Phase out{};
  out.first = (2 * p + 1 < scale ? -1 : 0) - 1;
  int64_t sum = 0;
  int peak = 1;
  for (int k = 0; k < 4; k++) {
    out.tap[k] = round_div<int64_t>(cubic[k] * (int64_t(1) << bits), 2 * u * u * u);
    sum += out.tap[k];
    if (out.tap[k] > out.tap[peak]) peak = k;
  }
  out.tap[peak] += (int64_t(1) << bits) - sum;
  return out;
}

template <class D>
class Merger {
  using Pixel = typename D::Pixel;
  using Diff = typename D::Diff;
  using Sum = typename D::Sum;
  // Taps as narrow as they come, so that 8-bit products are int16 x int16 -> int32.
  using Tap = typename std::conditional<(D::TAP_BITS < 15), int16_t, int32_t>::type;
  static constexpr int PAD = 2;

 public:
  bool init(const void* lr, int channels, int h, int w, int first, int scale) {
    lr_ = static_cast<const Pixel*>(lr);
    channels_ = channels, h_ = h, w_ = w, first_ = first, scale_ = scale;
    colours_ = channels > 2 ? 3 : 1;
    planes_ = colours_ + (channels % 2 == 0);
    wide_ = size_t(w) * scale;
    for (int p = 0; p < scale; p++) {
      const Phase f = phase(scale, p, D::TAP_BITS);
      offset_[p] = f.first;
      for (int k = 0; k < 4; k++) tap_[p][k] = Tap(f.tap[k]);
    }
    const size_t narrow = size_t(w) + 2 * PAD;
    const size_t diffs = (5 * wide_ + narrow) * planes_ + 2 * wide_ * colours_ + size_t(w);
    const size_t pixels = 2 * wide_ * colours_ + 2 * narrow * channels + 5 * size_t(w) + narrow;
    memory_.reset(static_cast<Diff*>(std::malloc(diffs * sizeof(Diff))));
    pixels_.reset(static_cast<Pixel*>(std::malloc(pixels * sizeof(Pixel))));
    if (!memory_ || !pixels_) return false;
    low_ = memory_.get() + (5 * wide_ + narrow) * planes_;
    room_ = low_ + 2 * wide_ * colours_;
    white_ = pixels_.get();
    column_ = white_ + 2 * wide_ * colours_;
    spreads_ = column_ + 2 * narrow * channels;
    widest_ = spreads_ + 5 * size_t(w);
    for (int64_t& row : spread_of_) row = -1;
    for (int i = 0; i < w; i++) room_[i] = Diff(ROOM + GATE * GREYEST);
    for (int64_t& row : kept_) row = std::numeric_limits<int64_t>::min();
    bounded_ = -1;
    return true;
  }

  void row(const int16_t* q, int y, Pixel* out) {
    const int p = y % scale_;
    const int64_t top = int64_t(y / scale_) + offset_[p];
    Diff* d = memory_.get() + size_t(planes_) * 4 * wide_;
    for (int k = 0; k < 4; k++) widen(top + k);
    for (int plane = 0; plane < planes_; plane++) {
      blend(slot(top) + plane * wide_, slot(top + 1) + plane * wide_, slot(top + 2) + plane * wide_,
            slot(top + 3) + plane * wide_, tap_[p], d + plane * wide_);
    }
    bounds(y / scale_);
    switch (channels_) {
      case 1:
        return grey<1>(q, d, out);
      case 2:
        return grey<2>(q, d, out);
      case 3:
        return rgb<3>(q, d, out);
      default:
        return rgb<4>(q, d, out);
    }
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };

  Diff* slot(int64_t row) const {
    return memory_.get() + size_t(planes_) * wide_ * size_t(((row % 4) + 4) % 4);
  }

  // Differences of one LR row, widened by the scale, into the row's slot.
  void widen(int64_t row) {
    int64_t& held = kept_[((row % 4) + 4) % 4];
    if (held == row) return;
    held = row;
    const Pixel* px = lr_ + size_t(reflect(row, h_) - first_) * size_t(w_) * channels_;
    Diff* narrow = memory_.get() + size_t(planes_) * 5 * wide_ + PAD;
    const size_t pitch = size_t(w_) + 2 * PAD;
    if (channels_ > 2) {
      for (int i = 0; i < w_; i++) {
        const Sum r = px[channels_ * i], g = px[channels_ * i + 1], b = px[channels_ * i + 2];
        const Sum unit = Sum(1) << D::FRAC;
        narrow[i] = Diff(round_div<Sum>((299 * r + 587 * g + 114 * b) * unit, 1000));
        narrow[pitch + i] = Diff(round_div<Sum>((701 * r - 587 * g - 114 * b) * unit, 1000));
        narrow[2 * pitch + i] = Diff(round_div<Sum>((886 * b - 587 * g - 299 * r) * unit, 1000));
      }
    } else {
      for (int i = 0; i < w_; i++) narrow[i] = Diff(Sum(px[channels_ * i]) << D::FRAC);
    }
    if (channels_ % 2 == 0) {
      Diff* alpha = narrow + pitch * (planes_ - 1);
      for (int i = 0; i < w_; i++)
        alpha[i] = Diff(Sum(px[channels_ * i + channels_ - 1]) << D::FRAC);
    }
    for (int plane = 0; plane < planes_; plane++) {
      Diff* x = narrow + pitch * plane;
      for (int k = 1; k <= PAD; k++) {
        x[-k] = x[reflect(-k, w_)];
        x[w_ - 1 + k] = x[reflect(int64_t(w_) - 1 + k, w_)];
      }
      Diff* out = slot(row) + plane * wide_;
      switch (scale_) {
        case 2:
          widen_plane<2>(x, out);
          break;
        case 3:
          widen_plane<3>(x, out);
          break;
        case 4:
          widen_plane<4>(x, out);
          break;
        default:
          widen_plane<0>(x, out);
      }
    }
  }

  template <int S>
  void widen_plane(const Diff* __restrict x, Diff* __restrict out) const {
    const int s = S ? S : scale_;
    for (int i = 0; i < w_; i++) {
      for (int p = 0; p < s; p++) {
        const Diff* v = x + i + offset_[p];
        const Tap* t = tap_[p];
        const Sum sum = Sum(t[0]) * v[0] + Sum(t[1]) * v[1] + Sum(t[2]) * v[2] + Sum(t[3]) * v[3];
        out[size_t(i) * s + p] = Diff((sum + HALF) >> D::TAP_BITS);
      }
    }
  }

  void blend(const Diff* __restrict a, const Diff* __restrict b, const Diff* __restrict c,
             const Diff* __restrict e, const Tap* t, Diff* __restrict out) const {
    const Tap t0 = t[0], t1 = t[1], t2 = t[2], t3 = t[3];
    for (size_t i = 0; i < wide_; i++) {
      const Sum sum = Sum(t0) * a[i] + Sum(t1) * b[i] + Sum(t2) * c[i] + Sum(t3) * e[i];
      out[i] = Diff((sum + HALF) >> D::TAP_BITS);
    }
  }

  // L' in 1/2^FRAC level from luma: (q / 128 + 111.5) * 255 / 219 levels.
  static Sum level(int16_t q) {
    constexpr double unit = double(D::LEVEL) * (1 << D::FRAC) * 255 / 219;
    constexpr Sum gain = Sum(unit / 128 * double(Sum(1) << D::LUMA_BITS) + 0.5);
    constexpr Sum bias = Sum((unit * 111.5 + 0.5) * double(Sum(1) << D::LUMA_BITS));
    return (q * gain + bias) >> D::LUMA_BITS;
  }
  // Half a level is added, then the fraction cut off: rounding half up.
  static Pixel pixel(Sum v) {
    v = (v + (1 << (D::FRAC - 1))) >> D::FRAC;
    return Pixel(v < 0 ? 0 : v > D::MAX ? Sum(D::MAX) : v);
  }

  // What the SR pixels of one LR row may be, every LR pixel widened by the scale.
  void bounds(int row) {
    if (bounded_ == row) return;
    bounded_ = row;
    const size_t n = size_t(w_) * channels_;
    Pixel* low = column_ + PAD * channels_;
    Pixel* high = low + n + 2 * PAD * channels_;
    const Pixel* px[5];
    for (int k = 0; k < 5; k++)
      px[k] = lr_ + size_t(reflect(int64_t(row) + k - 2, h_) - first_) * n;
    column(px, n, low, high);
    pad(low, channels_);
    pad(high, channels_);
    if (colours_ == 3) make_room(px, row);
    for (int c = 0; c < colours_; c++) {
      switch (scale_) {
        case 2:
          across<2>(low, high, c);
          break;
        case 3:
          across<3>(low, high, c);
          break;
        case 4:
          across<4>(low, high, c);
          break;
        default:
          across<0>(low, high, c);
      }
    }
  }

  template <class T>
  static T least(T a, T b) {
    return a < b ? a : b;
  }
  template <class T>
  static T most(T a, T b) {
    return a > b ? a : b;
  }

  // Two pixels on either side, by reflection.
  void pad(Pixel* x, int channels) const {
    for (int k = 1; k <= PAD; k++) {
      for (int c = 0; c < channels; c++) {
        x[c - k * channels] = x[reflect(-k, w_) * channels + c];
        x[(w_ - 1 + k) * channels + c] = x[reflect(int64_t(w_) - 1 + k, w_) * channels + c];
      }
    }
  }

  static void column(const Pixel* const* px, size_t n, Pixel* __restrict low,
                     Pixel* __restrict high) {
    const Pixel *a = px[0], *b = px[1], *c = px[2], *d = px[3], *e = px[4];
    for (size_t i = 0; i < n; i++) {
      low[i] = least(least(least(a[i], b[i]), least(d[i], e[i])), c[i]);
      high[i] = most(most(most(a[i], b[i]), most(d[i], e[i])), c[i]);
    }
  }

  // SLACK where colours are strong, more where they are weak: there overshoot is sharpness.
  void make_room(const Pixel* const* px, int64_t row) {
    for (int k = 0; k < 5; k++) {
      if (spread_of_[(row + k) % 5] == row + k) continue;
      spread_of_[(row + k) % 5] = row + k;
      Pixel* __restrict out = spreads_ + size_t((row + k) % 5) * w_;
      for (int i = 0; i < w_; i++) {
        const Pixel* p = px[k] + channels_ * i;
        out[i] = Pixel(most(most(p[0], p[1]), p[2]) - least(least(p[0], p[1]), p[2]));
      }
    }
    const Pixel* rows[5];
    for (int k = 0; k < 5; k++) rows[k] = spreads_ + size_t(k) * w_;
    Pixel* x = widest_ + PAD;
    for (int i = 0; i < w_; i++)
      x[i] = most(most(most(rows[0][i], rows[1][i]), most(rows[2][i], rows[3][i])), rows[4][i]);
    pad(x, 1);
    for (int i = 0; i < w_; i++) {
      const Sum far = most(most(most(x[i - 2], x[i - 1]), most(x[i + 1], x[i + 2])), x[i]);
      room_[i] = Diff(ROOM + GATE * most(Sum(0), GREYEST - far));
    }
  }

  template <int S>
  void across(const Pixel* low, const Pixel* high, int c) const {
    const int s = S ? S : scale_, step = channels_;
    Diff* __restrict from = low_ + 2 * c * wide_, * __restrict to = from + wide_;
    Pixel* __restrict white = white_ + 2 * c * wide_, * __restrict coloured = white + wide_;
    for (int i = 0; i < w_; i++) {
      const Pixel *l = low + i * step + c, *h = high + i * step + c;
      const Pixel l5 =
          least(least(least(l[-2 * step], l[-step]), least(l[step], l[2 * step])), l[0]);
      const Pixel h5 = most(most(most(h[-2 * step], h[-step]), most(h[step], h[2 * step])), h[0]);
      const Diff least_level = Diff((l5 - room_[i]) * (1 << D::FRAC));
      const Diff most_level = Diff((h5 + room_[i]) * (1 << D::FRAC));
      const Pixel full = l5 == D::MAX ? Pixel(D::MAX) : Pixel(0);
      const Pixel some = h5 ? Pixel(D::MAX) : Pixel(0);
      for (int p = 0; p < s; p++) {
        from[i * size_t(s) + p] = least_level, to[i * size_t(s) + p] = most_level;
        white[i * size_t(s) + p] = full, coloured[i * size_t(s) + p] = some;
      }
    }
  }

  // A sample within its bounds, those of its LR pixels or b, its bicubic. white: all ones where it
  // is full. coloured: zero where it is.
  static Pixel bounded(Sum v, Sum b, Diff low, Diff high, Pixel white, Pixel coloured) {
    constexpr Sum room = ROOM * (1 << D::FRAC);
    v = most(v, least<Sum>(low, b - room));
    v = least(v, most<Sum>(high, b + room));
    return Pixel((pixel(v) | white) & coloured);
  }

  template <int STEP>
  void grey(const int16_t* __restrict q, const Diff* __restrict d, Pixel* __restrict out) const {
    const Diff *low = low_, *high = low_ + wide_, *alpha = d + wide_;
    const Pixel *white = white_, *coloured = white_ + wide_;
    for (size_t i = 0; i < wide_; i++) {
      out[STEP * i] = bounded(level(q[i]), d[i], low[i], high[i], white[i], coloured[i]);
      if (STEP == 2) out[STEP * i + 1] = pixel(alpha[i]);
    }
  }

  template <int STEP>
  void rgb(const int16_t* __restrict q, const Diff* __restrict d, Pixel* __restrict out) const {
    constexpr Sum from_red = Sum(299.0 / 587 * double(Sum(1) << D::GREEN_BITS) + 0.5);
    constexpr Sum from_blue = Sum(114.0 / 587 * double(Sum(1) << D::GREEN_BITS) + 0.5);
    constexpr Sum half = Sum(1) << (D::GREEN_BITS - 1);
    const size_t n = wide_;
    const Diff *red = d + n, *blue = d + 2 * n, *alpha = d + 3 * n, *low = low_;
    const Pixel* white = white_;
    for (size_t i = 0; i < n; i++) {
      const Sum l = level(q[i]), r = red[i], b = blue[i], bicubic = d[i];
      const Sum g = -((from_red * r + from_blue * b + half) >> D::GREEN_BITS);
      out[STEP * i] = bounded(l + r, bicubic + r, low[i], low[n + i], white[i], white[n + i]);
      out[STEP * i + 1] = bounded(l + g, bicubic + g, low[2 * n + i], low[3 * n + i],
                                  white[2 * n + i], white[3 * n + i]);
      out[STEP * i + 2] = bounded(l + b, bicubic + b, low[4 * n + i], low[5 * n + i],
                                  white[4 * n + i], white[5 * n + i]);
      if (STEP == 4) out[STEP * i + 3] = pixel(alpha[i]);
    }
  }

  static constexpr Sum GATE = 4, GREYEST = Sum(COLOURED) * D::LEVEL;
  static constexpr Sum ROOM = Sum(SLACK) * D::LEVEL;
  static constexpr Sum HALF = Sum(1) << (D::TAP_BITS - 1);

  const Pixel* lr_ = nullptr;
  int channels_ = 0, h_ = 0, w_ = 0, first_ = 0, scale_ = 0, colours_ = 0, planes_ = 0,
      bounded_ = -1;
  size_t wide_ = 0;
  int offset_[MAX_SCALE] = {};
  Tap tap_[MAX_SCALE][4] = {};
  // Rows of 4 slots, then the blended SR row, then one padded LR row; `planes_` planes each: luma,
  // R - L and B - L, alpha. Then the bounds of an SR row, low and high of each colour, and the room
  // of each LR pixel.
  std::unique_ptr<Diff, Free> memory_;
  Diff *low_ = nullptr, *room_ = nullptr;
  // White and coloured of each colour of an SR row; least and most of five LR rows, padded; how far
  // apart the colours are in five LR rows, and in their widest, padded.
  std::unique_ptr<Pixel, Free> pixels_;
  Pixel *white_ = nullptr, *column_ = nullptr, *spreads_ = nullptr, *widest_ = nullptr;
  int64_t spread_of_[5] = {};
  int64_t kept_[4] = {};
};

template <class D>
int merge(const void* lr, int channels, int h, int w, int first, int scale, const int16_t* q, int y,
          int n, void* out, char* err, size_t cap) {
  Merger<D> merger;
  if (!merger.init(lr, channels, h, w, first, scale))
    return fail(err, cap, "no memory for the chroma rows");
  const size_t wide = size_t(w) * scale;
  auto* to = static_cast<typename D::Pixel*>(out);
  for (int i = 0; i < n; i++) merger.row(q + i * wide, y + i, to + i * wide * channels);
  return 0;
}

}  // namespace

namespace bitsr {

// One build of the arithmetic above.
struct Colour {
  void (*luma8)(const void*, int, size_t, int16_t*);
  void (*luma16)(const void*, int, size_t, int16_t*);
  int (*merge8)(const void*, int, int, int, int, int, const int16_t*, int, int, void*, char*,
                size_t);
  int (*merge16)(const void*, int, int, int, int, int, const int16_t*, int, int, void*, char*,
                 size_t);
};
extern const Colour colour_avx2;

}  // namespace bitsr
