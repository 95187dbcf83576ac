// The arithmetic of colour around the luma net: pixels to luma, and SR luma plus the chroma and
// alpha of the LR image back to pixels.
//
// With L = 0.299 R + 0.587 G + 0.114 B the studio luma of the nets is Y = 16 + 219/255 L (8-bit
// levels), and the chroma planes of BT.601 are multiples of R - L and B - L. Around each LR pixel
// these follow luma as a (L - MIDDLE) + b (colour_chroma.h). So with up() the bicubic and L' the SR
// luma
//   R' = L' + r        r = up(a_r) (L' - MIDDLE) + up(b_r)
//   B' = L' + b        b = up(a_b) (L' - MIDDLE) + up(b_b)
//   G' = L' - (0.299 r + 0.114 b) / 0.587
// each kept within its bounds (colour_bounds.h); no YCbCr image is ever rounded on the way.
//
// up() is Keys' cubic (a = -0.5) at half-pixel centres with symmetric reflection: one LR row is
// widened when it is first needed, four widened rows are kept, and each SR row is one weighted sum
// of them. The taps sum to exactly 1, so what is flat stays flat.

#pragma once

#include "core/colour_bounds.h"
#include "core/colour_chroma.h"
#include "core/colour_lines.h"

namespace {

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

 public:
  bool init(const void* lr, int channels, int h, int w, int first, int scale, bool smooth) {
    channels_ = channels, w_ = w, scale_ = scale;
    coloured_ = channels > 2, alpha_ = channels % 2 == 0;
    planes_ = (coloured_ ? 4 : 0) + alpha_;
    wide_ = size_t(w) * scale;
    for (int p = 0; p < scale; p++) {
      const Phase f = phase(scale, p, D::TAP_BITS);
      offset_[p] = f.first;
      for (int k = 0; k < 4; k++) tap_[p][k] = Tap(f.tap[k]);
    }
    return source_.init(lr, channels, h, w, first) &&
           (!coloured_ || chroma_.init(source_, w, smooth)) &&
           bounds_.init(source_, coloured_ ? 3 : 1, w, scale) && narrow_.init(planes_, w) &&
           widened_.init(planes_, int(wide_)) && blended_.init(planes_, int(wide_));
  }

  void row(const int16_t* q, int y, Pixel* out) {
    const int p = y % scale_;
    const int64_t top = int64_t(y / scale_) + offset_[p];
    for (int k = 0; k < 4; k++) widen(top + k);
    for (int plane = 0; plane < planes_; plane++) blend(top, plane, tap_[p]);
    bounds_.go_to(y / scale_);
    switch (channels_) {
      case 1:
        return grey<1>(q, out);
      case 2:
        return grey<2>(q, out);
      case 3:
        return rgb<3>(q, out);
      default:
        return rgb<4>(q, out);
    }
  }

 private:
  // The planes of one LR row, widened by the scale.
  void widen(int64_t row) {
    if (widened_.has(row)) return;
    if (coloured_) {
      Diff* const planes[4] = {narrow_.line(0, 0), narrow_.line(0, 1), narrow_.line(0, 2),
                               narrow_.line(0, 3)};
      chroma_.line(row, planes);
    }
    if (alpha_) {
      const Pixel* px = source_.pixels(row, channels_ - 1);
      Diff* alpha = narrow_.line(0, planes_ - 1);
      for (int i = 0; i < w_; i++) alpha[i] = Diff(Sum(px[i]) << D::FRAC);
    }
    for (int plane = 0; plane < planes_; plane++) {
      Diff *x = narrow_.line(0, plane), *out = widened_.line(row, plane);
      pad(x, w_, 2);
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

  void blend(int64_t top, int plane, const Tap* t) {
    const Diff *const a = widened_.line(top, plane), *const b = widened_.line(top + 1, plane),
                      *const c = widened_.line(top + 2, plane),
                      *const d = widened_.line(top + 3, plane);
    Diff* __restrict out = blended_.line(0, plane);
    const Tap t0 = t[0], t1 = t[1], t2 = t[2], t3 = t[3];
    for (size_t i = 0; i < wide_; i++) {
      const Sum sum = Sum(t0) * a[i] + Sum(t1) * b[i] + Sum(t2) * c[i] + Sum(t3) * d[i];
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
  static Sum round(Sum v) { return (v + (1 << (D::FRAC - 1))) >> D::FRAC; }
  // The bounds lie within the range of a sample.
  static Pixel bounded(Sum v, Diff low, Diff high) {
    return Pixel(round(least<Sum>(most<Sum>(v, low), high)));
  }
  static Pixel clipped(Sum v) { return Pixel(least<Sum>(most<Sum>(round(v), 0), D::MAX)); }

  template <int STEP>
  void grey(const int16_t* __restrict q, Pixel* __restrict out) const {
    const Diff *low = bounds_.lowest(0), *high = bounds_.highest(0), *alpha = blended_.line(0, 0);
    for (size_t i = 0; i < wide_; i++) {
      out[STEP * i] = bounded(level(q[i]), low[i], high[i]);
      if (STEP == 2) out[STEP * i + 1] = clipped(alpha[i]);
    }
  }

  template <int STEP>
  void rgb(const int16_t* __restrict q, Pixel* __restrict out) const {
    constexpr Sum from_red = Sum(299.0 / 587 * double(Sum(1) << D::GREEN_BITS) + 0.5);
    constexpr Sum from_blue = Sum(114.0 / 587 * double(Sum(1) << D::GREEN_BITS) + 0.5);
    constexpr Sum half = Sum(1) << (D::GREEN_BITS - 1), half_step = Sum(1) << (STEEP_BITS - 1);
    const Diff *red_a = blended_.line(0, 0), *red_b = blended_.line(0, 1),
               *blue_a = blended_.line(0, 2), *blue_b = blended_.line(0, 3),
               *alpha = blended_.line(0, STEP == 4 ? 4 : 0);
    const Diff *red_low = bounds_.lowest(0), *red_high = bounds_.highest(0),
               *green_low = bounds_.lowest(1), *green_high = bounds_.highest(1),
               *blue_low = bounds_.lowest(2), *blue_high = bounds_.highest(2);
    for (size_t i = 0; i < wide_; i++) {
      const Sum l = level(q[i]);
      const Diff off = Diff(l - Chroma<D>::MIDDLE);
      const Sum r = red_b[i] + ((Sum(red_a[i]) * off + half_step) >> STEEP_BITS);
      const Sum b = blue_b[i] + ((Sum(blue_a[i]) * off + half_step) >> STEEP_BITS);
      const Sum g = -((from_red * r + from_blue * b + half) >> D::GREEN_BITS);
      out[STEP * i] = bounded(l + r, red_low[i], red_high[i]);
      out[STEP * i + 1] = bounded(l + g, green_low[i], green_high[i]);
      out[STEP * i + 2] = bounded(l + b, blue_low[i], blue_high[i]);
      if (STEP == 4) out[STEP * i + 3] = clipped(alpha[i]);
    }
  }

  static constexpr Sum HALF = Sum(1) << (D::TAP_BITS - 1);

  int channels_ = 0, w_ = 0, scale_ = 0, planes_ = 0;
  bool coloured_ = false, alpha_ = false;
  size_t wide_ = 0;
  int offset_[MAX_SCALE] = {};
  Tap tap_[MAX_SCALE][4] = {};
  Source<D> source_;
  Chroma<D> chroma_;
  Bounds<D> bounds_;
  // Planes: a and b of R - L, a and b of B - L, alpha. Of an LR row, widened, and of an SR row.
  Ring<Diff, 1, 2> narrow_;
  Ring<Diff, 4, 0> widened_;
  Ring<Diff, 1, 0> blended_;
};

template <class D>
int merge(const void* lr, int channels, int h, int w, int first, int scale, bool smooth,
          const int16_t* q, int y, int n, void* out, char* err, size_t cap) {
  Merger<D> merger;
  if (!merger.init(lr, channels, h, w, first, scale, smooth))
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
  int (*merge8)(const void*, int, int, int, int, int, bool, const int16_t*, int, int, void*, char*,
                size_t);
  int (*merge16)(const void*, int, int, int, int, int, bool, const int16_t*, int, int, void*, char*,
                 size_t);
};
extern const Colour colour_avx2;

}  // namespace bitsr
