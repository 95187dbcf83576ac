// The range that an SR sample may have, by the 5x5 LR pixels around it.
//
// The nets overshoot at edges. That is sharpness in a texture, and a fault in two places: strong
// colours, where red letters would turn pink inside, and beside flat colours, where an edge gets a
// halo. So no sample leaves the range of its 5x5 pixels by more than SLACK levels and
//   GATE levels for each that the strongest colour there, max(R, G, B) - min(R, G, B), is weaker
//     than COLOURED, and no more than
//   STRAY levels for each between the extreme of the range and that of the 2x2 blocks which reach
//     into it: the most that the four pixels of a block all have, or the least. Where a colour
//     fills a block, that is 0.
// A channel at the same end of its range in all of the pixels stays there: white paper is white.

#pragma once

#include "core/colour_lines.h"

namespace {

constexpr int SLACK = 7, COLOURED = 96, GATE = 4, STRAY = 8;  // rounding makes 8 of 7

template <class D>
class Bounds {
  using Pixel = typename D::Pixel;
  using Diff = typename D::Diff;
  static constexpr int TAPS = 5;

 public:
  bool init(Source<D>& source, int colours, int w, int scale) {
    source_ = &source, colours_ = colours, w_ = w, scale_ = scale;
    row_ = -1;
    return columns_.init(4, w) && room_.init(1, w) && narrow_.init(2, w) &&
           wide_.init(2 * colours, w * scale);
  }
  // Bounds of the SR samples of an LR row from here on.
  void go_to(int row) {
    if (row == row_) return;
    row_ = row;
    make_room();
    for (int c = 0; c < colours_; c++) {
      const Pixel* px[TAPS + 2];
      for (int k = 0; k < TAPS + 2; k++) px[k] = source_->pixels(int64_t(row) + k - 3, c);
      ends(px + 1, -2, w_ + 2, columns_.line(0, 0), columns_.line(0, 1));
      blocks(px, -3, w_ + 2, columns_.line(0, 2), columns_.line(0, 3));
      range();
      for (int end = 0; end < 2; end++) {
        const Diff* from = narrow_.line(0, end);
        Diff* to = wide_.line(0, 2 * c + end);
        switch (scale_) {
          case 2:
            stretch<2>(from, to);
            break;
          case 3:
            stretch<3>(from, to);
            break;
          case 4:
            stretch<4>(from, to);
            break;
          default:
            stretch<0>(from, to);
        }
      }
    }
  }
  // Of each SR sample of a channel.
  const Diff* lowest(int c) const { return wide_.line(0, 2 * c); }
  const Diff* highest(int c) const { return wide_.line(0, 2 * c + 1); }

 private:
  // Room for weak colours, in steps of a sample.
  void make_room() {
    int* __restrict room = room_.line(0, 0);
    if (colours_ == 1) {
      for (int i = 0; i < w_; i++) room[i] = GATE * COLOURED * D::LEVEL;
      return;
    }
    const int w = w_;
    Pixel* __restrict strongest = columns_.line(0, 0);
    for (int k = 0; k < TAPS; k++) {
      const Pixel* r = source_->pixels(int64_t(row_) + k - 2, 0);
      const Pixel* g = source_->pixels(int64_t(row_) + k - 2, 1);
      const Pixel* b = source_->pixels(int64_t(row_) + k - 2, 2);
      for (int i = -2; i < w + 2; i++) {
        const Pixel strength = Pixel(most(most(r[i], g[i]), b[i]) - least(least(r[i], g[i]), b[i]));
        strongest[i] = most(strength, k ? strongest[i] : Pixel(0));
      }
    }
    const Pixel* x = strongest;
    for (int i = 0; i < w; i++) {
      const int near = most(most(most(x[i - 2], x[i - 1]), most(x[i + 1], x[i + 2])), x[i]);
      room[i] = GATE * most(0, COLOURED * D::LEVEL - near);
    }
  }

  // Of each column of five pixels the least and the most.
  static void ends(const Pixel* const* px, int from, int to, Pixel* __restrict low,
                   Pixel* __restrict high) {
    const Pixel *a = px[0], *b = px[1], *c = px[2], *d = px[3], *e = px[4];
    for (int i = from; i < to; i++) {
      low[i] = least(least(least(a[i], b[i]), least(d[i], e[i])), c[i]);
      high[i] = most(most(most(a[i], b[i]), most(d[i], e[i])), c[i]);
    }
  }
  // Of the 2x2 blocks of seven rows that begin in each column: the most that all pixels of one
  // have, and the least.
  static void blocks(const Pixel* const* px, int from, int to, Pixel* __restrict low,
                     Pixel* __restrict high) {
    const Pixel *a = px[0], *b = px[1], *c = px[2], *d = px[3], *e = px[4], *f = px[5], *g = px[6];
    for (int i = from; i < to; i++) {
      const Pixel a0 = least(a[i], a[i + 1]), b0 = least(b[i], b[i + 1]);
      const Pixel c0 = least(c[i], c[i + 1]), d0 = least(d[i], d[i + 1]);
      const Pixel e0 = least(e[i], e[i + 1]), f0 = least(f[i], f[i + 1]);
      const Pixel g0 = least(g[i], g[i + 1]);
      high[i] = most(most(most(least(a0, b0), least(b0, c0)), most(least(c0, d0), least(d0, e0))),
                     most(least(e0, f0), least(f0, g0)));
      const Pixel a1 = most(a[i], a[i + 1]), b1 = most(b[i], b[i + 1]);
      const Pixel c1 = most(c[i], c[i + 1]), d1 = most(d[i], d[i + 1]);
      const Pixel e1 = most(e[i], e[i + 1]), f1 = most(f[i], f[i + 1]);
      const Pixel g1 = most(g[i], g[i + 1]);
      low[i] = least(least(least(most(a1, b1), most(b1, c1)), least(most(c1, d1), most(d1, e1))),
                     least(most(e1, f1), most(f1, g1)));
    }
  }

  void range() {
    const Pixel *low = columns_.line(0, 0), *high = columns_.line(0, 1);
    const Pixel *block_low = columns_.line(0, 2), *block_high = columns_.line(0, 3);
    const int* room = room_.line(0, 0);
    Diff* __restrict from = narrow_.line(0, 0), * __restrict to = narrow_.line(0, 1);
    constexpr int slack = SLACK * D::LEVEL, top = D::MAX;
    for (int i = 0; i < w_; i++) {
      const Pixel* l = low + i;
      const Pixel* h = high + i;
      const Pixel* p = block_low + i;
      const Pixel* q = block_high + i;
      const int bottom = least(least(least(l[-2], l[-1]), least(l[1], l[2])), l[0]);
      const int peak = most(most(most(h[-2], h[-1]), most(h[1], h[2])), h[0]);
      const int basin = least(least(least(p[-3], p[-2]), least(p[-1], p[0])), least(p[1], p[2]));
      const int plateau = most(most(most(q[-3], q[-2]), most(q[-1], q[0])), most(q[1], q[2]));
      const int below = bottom - slack - least(room[i], STRAY * (basin - bottom));
      const int above = peak + slack + least(room[i], STRAY * (peak - plateau));
      from[i] = Diff((bottom == top ? top : most(below, 0)) * (1 << D::FRAC));
      to[i] = Diff((peak == 0 ? 0 : least(above, top)) * (1 << D::FRAC));
    }
  }

  template <int S>
  void stretch(const Diff* __restrict from, Diff* __restrict to) const {
    const int s = S ? S : scale_;
    for (int i = 0; i < w_; i++)
      for (int p = 0; p < s; p++) to[size_t(i) * s + p] = from[i];
  }

  Source<D>* source_ = nullptr;
  int colours_ = 0, w_ = 0, scale_ = 0, row_ = -1;
  Ring<Pixel, 1, 3> columns_;
  Ring<int, 1, 0> room_;
  Ring<Diff, 1, 0> narrow_, wide_;
};

}  // namespace
