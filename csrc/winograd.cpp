/* Training's convolutions of 3x3 in float32, and the gradients of their filters: the plan, tiles in blocks whose
 * numbers and products stay in L2; the rest is in winograd_*.cpp. */
#include "winograd.h"

#include <climits>
#include <cstring>

#include "bitsr.h"
#include "share.h"

namespace bitsr {
namespace {

/* Tiles at a time: with 64 channels, 36 numbers of each in and out are 430 KiB. */
constexpr int BLOCK = 24;

thread_local Array<float> enter_memory, leave_memory, sums_memory;

struct Plan {
  const Winograd& path;
  int n, h, w, c, o, threads;
  int down = (h + 3) / 4, across = (w + 3) / 4, tiles = n * down * across, blocks = (tiles + BLOCK - 1) / BLOCK;
  /* a few floats beyond a power of two, or all 36 fall on the same lines of the cache */
  size_t in_plane = size_t(BLOCK) * c + 16, out_plane = size_t(BLOCK) * o + 16;

  /* f(picture, row, column, i) of the tiles of a block; their number */
  template <class Each>
  int each(int block, Each f) const {
    const int from = block * BLOCK, count = std::min(BLOCK, tiles - from);
    for (int i = 0; i < count; i++) {
      const int tile = from + i, in = tile % (down * across);
      f(tile / (down * across), 4 * (in / across), 4 * (in % across), i);
    }
    return count;
  }
  void enter(const float* x, int block, float* v) const {
    each(block, [&](int picture, int y, int left, int i) {
      path.enter(x + size_t(picture) * h * w * c, h, w, c, y - 1, left - 1, v + size_t(i) * c, in_plane);
    });
  }
  size_t pixel(int picture, int y, int x) const { return (size_t(picture) * h + y) * w + x; }

  int conv(const float* x, const float* filters, const float* bias, float* y) const {
    share(blocks, threads, [&](int from, int to, int) {
      float *v = keep(enter_memory, 36 * in_plane), *m = keep(leave_memory, 36 * out_plane);
      if (!v || !m) throw std::bad_alloc();
      for (int block = from; block < to; block++) {
        enter(x, block, v);
        path.multiply(v, in_plane, BLOCK, filters, c, o, m, out_plane);
        each(block, [&](int picture, int row, int left, int i) {
          path.leave(m + size_t(i) * o, out_plane, o, bias, std::min(4, h - row), std::min(4, w - left),
                     y + pixel(picture, row, left) * o, w);
        });
      }
    });
    return 0;
  }

  int conv_weight(const float* x, const float* g, float* filters) const {
    const size_t size = size_t(36) * c * o;
    const int parts = std::min(threads, blocks);
    float* others = parts > 1 ? keep(sums_memory, size * size_t(parts - 1)) : filters;
    if (!others) return -1;
    share(blocks, parts, [&](int from, int to, int part) {
      float *v = keep(enter_memory, 36 * in_plane), *m = keep(leave_memory, 36 * out_plane);
      if (!v || !m) throw std::bad_alloc();
      float* sum = part ? others + size * size_t(part - 1) : filters;
      std::memset(sum, 0, size * sizeof(float));
      for (int block = from; block < to; block++) {
        enter(x, block, v);
        const int count = each(block, [&](int picture, int row, int left, int i) {
          path.back(g + pixel(picture, row, left) * o, w, o, std::min(4, h - row), std::min(4, w - left),
                    m + size_t(i) * o, out_plane);
        });
        path.correlate(v, in_plane, m, out_plane, count, c, o, sum);
      }
    });
    for (int part = 1; part < parts; part++, others += size)
      for (size_t i = 0; i < size; i++) filters[i] += others[i];
    return 0;
  }
};

/* f(the plan), or -1. */
template <class F>
int on(const char* isa, int n, int h, int w, int c, int o, int threads, F f) {
  const Kernels* kernels = isa ? path(isa) : path(0);
  if (!kernels || !kernels->winograd || !kernels->winograd->available()) return -1;
  if (n < 1 || h < 1 || w < 1 || c < 1 || o < 1 || threads < 1 || c % 32 || o % 32) return -1;
  if (h > INT_MAX - 3 || w > INT_MAX - 3 || int64_t(n) * h > INT_MAX / w) return -1;
  try {
    return f(Plan{*kernels->winograd, n, h, w, c, o, threads});
  } catch (...) { /* no memory, no thread */
    return -1;
  }
}

}  // namespace
}  // namespace bitsr

extern "C" int bitsr_float_conv(const float* x, const float* filters, const float* bias, float* y, int n, int h, int w,
                                int c, int o, int threads, const char* isa) {
  return bitsr::on(isa, n, h, w, c, o, threads,
                   [=](const bitsr::Plan& plan) { return plan.conv(x, filters, bias, y); });
}

extern "C" int bitsr_float_conv_weight(const float* x, const float* g, float* filters, int n, int h, int w, int c,
                                       int o, int threads, const char* isa) {
  return bitsr::on(isa, n, h, w, c, o, threads,
                   [=](const bitsr::Plan& plan) { return plan.conv_weight(x, g, filters); });
}
