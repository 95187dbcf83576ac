// How chroma follows luma around each LR pixel: C = a (L - MIDDLE) + b, for R - L and B - L.
//
// In the 3x3 pixels around each pixel, weighted 1 2 1 each way, least squares gives
//   a = cov(L, C) / (var(L) + EPS)
// EPS, 16 levels squared, keeps a small where luma is as good as flat. The pixel's a is the mean of
// those of 3x3 such windows, with the same weights. Chroma is
//   kept      b = C - a (L - MIDDLE): the line goes through the pixel itself. Each window's a
//   counts
//             by the fourth power of the share of var(C) that it explains,
//             a cov(L, C) / (var(C) + CHROMA_EPS): all of it at the edge of two colours, little in
//             textures, where luma and chroma vary each for itself
//   smoothed  b is the mean of the windows' own, mean(C) - a (mean(L) - MIDDLE): the pixel is one
//   of
//             many (the guided filter of He, Sun and Tang, TPAMI 2013)
// Equal R, G and B have differences of exactly 0, so grey stays grey. Where luma is flat, a is 0.

#pragma once

#include "core/colour_lines.h"

namespace {

// a in 1/1024 and of a pixel in 1/8192, at most 2 either way, so b stays within 482 levels, 1.56
// times as much after the bicubic: less than the 1024 levels of int16.
constexpr int FIT_BITS = 10, STEEP_BITS = 13, ONE = 1 << FIT_BITS, STEEPEST = 2 * ONE;
// Variances are in 1/4096 level squared: quarter levels, and weights that sum to 16.
constexpr int EPS = 16 << 12, CHROMA_EPS = 4 << 12;

template <class D>
class Chroma {
  using Diff = typename D::Diff;
  using Sum = typename D::Sum;

 public:
  static constexpr Sum MIDDLE = (Sum(255) * D::LEVEL << D::FRAC) / 2;

  bool init(Source<D>& source, int w, bool smooth) {
    source_ = &source, w_ = w, smooth_ = smooth;
    return steep_.init(2, w) && offset_.init(smooth ? 2 : 0, w) && columns_.init(8, w) &&
           moments_.init(3, w) && wide_.init(smooth ? 3 : 0, w);
  }

  // a and b of R - L, then a and b of B - L, for every pixel of an LR row.
  void line(int64_t row, Diff* const out[4]) {
    for (int k = -1; k <= 1; k++) fit(row + k);
    const Diff* luma = source_->diffs(row, 0);
    for (int c = 0; c < 2; c++) {
      const Diff* chroma = source_->diffs(row, 1 + c);
      const int16_t *top = steep_.line(row - 1, c), *mid = steep_.line(row, c),
                    *low = steep_.line(row + 1, c);
      Diff* __restrict a = out[2 * c];
      Diff* __restrict b = out[2 * c + 1];
      for (int i = 0; i < w_; i++) a[i] = Diff((window<int>(top, mid, low, i) + 1) >> 1);
      if (smooth_) {
        const Sum *above = offset_.line(row - 1, c), *own = offset_.line(row, c),
                  *below = offset_.line(row + 1, c);
        for (int i = 0; i < w_; i++) b[i] = Diff((window<Sum>(above, own, below, i) + 128) >> 8);
      } else {
        constexpr Sum half = Sum(1) << (STEEP_BITS - 1);
        for (int i = 0; i < w_; i++)
          b[i] = Diff(chroma[i] - ((a[i] * (luma[i] - MIDDLE) + half) >> STEEP_BITS));
      }
    }
  }

 private:
  template <class S, class T>
  static S window(const T* a, const T* b, const T* c, int i) {
    const S left = S(a[i - 1]) + 2 * S(b[i - 1]) + c[i - 1];
    const S middle = S(a[i]) + 2 * S(b[i]) + c[i];
    const S right = S(a[i + 1]) + 2 * S(b[i + 1]) + c[i + 1];
    return left + 2 * middle + right;
  }
  template <class T>
  static T across(const T* x, int i) {
    return x[i - 1] + 2 * x[i] + x[i + 1];
  }
  static int quarter(Diff x) { return int((x + (Sum(1) << (D::QUARTER - 1))) >> D::QUARTER); }

  // The lines of the windows around the pixels of an LR row: their a, and where chroma is smoothed
  // their b, in 1/16 of a Diff.
  void fit(int64_t row) {
    if (steep_.has(row)) return;
    const Diff* in[3][3];
    for (int k = 0; k < 3; k++)
      for (int which = 0; which < 3; which++) in[which][k] = source_->diffs(row + k - 1, which);
    sums(in);
    for (int c = 0; c < 2; c++) {
      moments(columns_, 2 + 3 * c, w_, moments_.line(0, 0), moments_.line(0, 1),
              moments_.line(0, 2));
      const int *of_luma = moments_.line(0, 0), *common = moments_.line(0, 1),
                *of_chroma = moments_.line(0, 2);
      int16_t* __restrict a = steep_.line(row, c);
      for (int i = 0; i < w_; i++) {
        int steepness = (common[i] >> 6) * ONE / ((of_luma[i] + EPS) >> 6);
        if (!smooth_) {
          int share = steepness * (common[i] >> 8) / ((of_chroma[i] + CHROMA_EPS) >> 8);
          share = least(share, ONE);
          share = share * share >> FIT_BITS;
          steepness = steepness * (share * share >> FIT_BITS) >> FIT_BITS;
        }
        a[i] = int16_t(most(-STEEPEST, least(STEEPEST, steepness)));
      }
      pad(a, w_, 1);
      if (!smooth_) continue;
      const Sum *wide_luma = wide_.line(0, 0), *wide_chroma = wide_.line(0, 1 + c);
      Sum* __restrict b = offset_.line(row, c);
      for (int i = 0; i < w_; i++)
        b[i] = across(wide_chroma, i) - ((a[i] * (across(wide_luma, i) - 16 * MIDDLE)) >> FIT_BITS);
      pad(b, w_, 1);
    }
  }

  // var(L), cov(L, C), var(C) of the windows. chroma: the first of its columns.
  static void moments(const Ring<int, 1, 1>& columns, int chroma, int w, int* __restrict of_luma,
                      int* __restrict common, int* __restrict of_chroma) {
    const int *luma = columns.line(0, 0), *luma_square = columns.line(0, 1),
              *itself = columns.line(0, chroma), *square = columns.line(0, chroma + 1),
              *cross = columns.line(0, chroma + 2);
    for (int i = 0; i < w; i++) {
      const int l = across(luma, i), c = across(itself, i);
      of_luma[i] = 16 * across(luma_square, i) - l * l;
      common[i] = 16 * across(cross, i) - l * c;
      of_chroma[i] = 16 * across(square, i) - c * c;
    }
  }

  // Columns of three rows, weighted 1 2 1: in quarter levels L and its square, and of each chroma
  // itself, its square and its product with L; where chroma is smoothed L and both chromas in full.
  void sums(const Diff* const (&in)[3][3]) {
    const int w = w_;
    int* __restrict luma = columns_.line(0, 0), * __restrict luma_square = columns_.line(0, 1);
    const Diff *const l0 = in[0][0], *const l1 = in[0][1], *const l2 = in[0][2];
    for (int i = -1; i <= w; i++) {
      const int a = quarter(l0[i]), b = quarter(l1[i]), c = quarter(l2[i]);
      luma[i] = a + 2 * b + c;
      luma_square[i] = a * a + 2 * b * b + c * c;
    }
    for (int k = 0; k < 2; k++) {
      int* __restrict chroma = columns_.line(0, 2 + 3 * k);
      int* __restrict square = columns_.line(0, 3 + 3 * k);
      int* __restrict cross = columns_.line(0, 4 + 3 * k);
      const Diff *const c0 = in[1 + k][0], *const c1 = in[1 + k][1], *const c2 = in[1 + k][2];
      for (int i = -1; i <= w; i++) {
        const int a = quarter(c0[i]), b = quarter(c1[i]), c = quarter(c2[i]);
        chroma[i] = a + 2 * b + c;
        square[i] = a * a + 2 * b * b + c * c;
        cross[i] = a * quarter(l0[i]) + 2 * b * quarter(l1[i]) + c * quarter(l2[i]);
      }
    }
    if (!smooth_) return;
    for (int k = 0; k < 3; k++) {
      Sum* __restrict sum = wide_.line(0, k);
      const Diff *const a = in[k][0], *const b = in[k][1], *const c = in[k][2];
      for (int i = -1; i <= w; i++) sum[i] = Sum(a[i]) + 2 * Sum(b[i]) + c[i];
    }
  }

  Source<D>* source_ = nullptr;
  int w_ = 0;
  bool smooth_ = false;
  Ring<int16_t, 4, 1> steep_;
  Ring<Sum, 4, 1> offset_;
  Ring<int, 1, 1> columns_, moments_;
  Ring<Sum, 1, 1> wide_;
};

}  // namespace
