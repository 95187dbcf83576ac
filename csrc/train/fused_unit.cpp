/* Training's convolutions with signs, and the gradients of their weights: the plan is here, the products in
 * signs_*.cpp.
 *
 * Both are sums of products of a byte (a sign or a rounded gradient q, as q + 128) and a sign, with plain matrix
 * products' reuse: bytes are broadcast four at a time, signs lie in lanes. Zero padding is 128 among bytes and 0 among
 * signs; 128 times the sum of the signs is taken off at the start.
 */
#include "signs.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "bitsr.h"
#include "share.h"

namespace bitsr {
namespace {

/* Pixels of n pictures in one line with zeros between them, so that a tap is one distance for all: rows share the zeros
 * at their ends, pictures those above and below. */
struct Line {
  int n, h, w, side;
  ptrdiff_t pitch() const { return w + side; }
  ptrdiff_t at(int row) const { /* row: of all pictures, n * h of them */
    return (side + ptrdiff_t(row / h) * (h + side) + row % h) * pitch() + side;
  }
  ptrdiff_t size() const { return (side + ptrdiff_t(n) * (h + side)) * pitch() + side; }
  ptrdiff_t reach() const { return side * pitch() + side; } /* of the farthest tap */
};

thread_local Array<uint8_t> bytes_memory;
thread_local Array<int8_t> signs_memory;

/* Bytes i of four rows, side by side. */
uint32_t four(const int8_t* const from[4], int i) {
  return uint32_t(uint8_t(from[0][i])) | uint32_t(uint8_t(from[1][i])) << 8 | uint32_t(uint8_t(from[2][i])) << 16 |
         uint32_t(uint8_t(from[3][i])) << 24;
}

/* Four rows of channels to the lanes at `to`, a block of lanes `block` bytes from the last; start -= 128 times their
 * sum. */
void interleave(const int8_t* const from[4], int channels, int lanes, int8_t* to, size_t block, int32_t* start) {
  for (int c = 0; c < channels; c += lanes, to += block)
    for (int lane = 0; lane < lanes; lane++) {
      const uint32_t v = four(from, c + lane);
      std::memcpy(to + 4 * lane, &v, 4);
    }
  for (int c = 0; c < channels; c++) start[c] -= 128 * (from[0][c] + from[1][c] + from[2][c] + from[3][c]);
}

/* The weights (filters, k, k, channels) with 4 * i + 0 .. 3 of the sums' depth in a lane, forwards or, turned, from
 * outputs to inputs: depth (k, k, filters), taps in the other order. */
void lay(const int8_t* w, int filters, int channels, int taps, bool turned, int lanes, int8_t* to, int32_t* start) {
  const size_t filter = size_t(taps) * size_t(channels);
  if (!turned) {
    for (int o = 0; o < filters; o++, w += filter) {
      int8_t* at = to + size_t(o / lanes) * filter * lanes + size_t(o % lanes) * 4;
      int32_t sum = 0;
      for (size_t i = 0; i < filter; i++) sum += w[i];
      start[o] = -128 * sum;
      for (size_t i = 0; i < filter; i += 4) std::memcpy(at + i * lanes, w + i, 4);
    }
    return;
  }
  const size_t block = size_t(taps) * size_t(filters) * size_t(lanes);
  for (int tap = taps - 1; tap >= 0; tap--)
    for (int o = 0; o < filters; o += 4, to += 4 * lanes) {
      const int8_t* from = w + o * filter + size_t(tap) * size_t(channels);
      const int8_t* const rows[4] = {from, from + filter, from + 2 * filter, from + 3 * filter};
      interleave(rows, channels, lanes, to, block, start);
    }
}

/* One row of the convolution of bytes with the signs of `lay`. */
void sum_row(const Signs& path, const uint8_t* bytes, const int8_t* signs, const int32_t* start, const Line& line,
             int c, int o, int k, int row, int32_t* out) {
  const int run = k * c;
  const size_t block = size_t(k) * size_t(run) * size_t(path.lanes);
  for (int i = 0; i < line.w; i++) std::memcpy(out + size_t(i) * o, start, 4 * size_t(o));
  for (int first = 0; first < o; first += path.lanes)
    for (int dy = 0; dy < k; dy++) {
      const uint8_t* a = bytes + (line.at(row) + (dy - line.side) * line.pitch() - line.side) * c;
      for (int i = 0; i < run; i += 4 * STEPS)
        path.dot(a + i, size_t(c), line.w, signs + first / path.lanes * block + size_t(dy * run + i) * path.lanes,
                 (run - i < 4 * STEPS ? run - i : 4 * STEPS) / 4, out + first, size_t(o));
    }
}

int conv(const Signs& path, const int8_t* x, const int8_t* w, int32_t* y, const Line& line, int c, int o, int k,
         bool turned, int threads) {
  uint8_t* bytes = keep(bytes_memory, size_t(line.size()) * size_t(c));
  int8_t* signs = keep(signs_memory, size_t(k * k * c) * size_t(o));
  if (!bytes || !signs) return -1;
  std::memset(bytes, 128, size_t(line.size()) * size_t(c));
  for (int row = 0; row < line.n * line.h; row++) {
    uint8_t* to = bytes + line.at(row) * c;
    const int8_t* from = x + size_t(row) * size_t(line.w * c);
    for (int i = 0; i < line.w * c; i++) to[i] = uint8_t(from[i] + 128);
  }
  std::vector<int32_t> start(size_t(o), 0);
  lay(w, turned ? c : o, turned ? o : c, k * k, turned, path.lanes, signs, start.data());
  share(line.n * line.h, threads, [&](int from, int to, int) {
    for (int row = from; row < to; row++)
      sum_row(path, bytes, signs, start.data(), line, c, o, k, row, y + size_t(row) * size_t(line.w) * o);
  });
  return 0;
}

int conv_weight(const Signs& path, const int8_t* x, const int8_t* g, int32_t* y, const Line& line, int c, int o, int k,
                int threads) {
  const size_t size = size_t(line.size() + 15) / 16 * 16, depth = size_t(k * k * c);
  /* An odd multiple of 64: the rows of a tile must not fall on one another in the cache. */
  const size_t stride = (size + 2 * size_t(line.reach()) + 63) / 64 * 64 | 64;
  const size_t block = size * size_t(path.lanes);
  uint8_t* bytes = keep(bytes_memory, stride * size_t(o));
  int8_t* signs = keep(signs_memory, size * size_t(c));
  if (!bytes || !signs) return -1;

  std::memset(bytes, 128, stride * size_t(o));
  const std::vector<int8_t> none(size_t(c), 0);
  std::vector<const int8_t*> pixel(size, none.data());
  for (int row = 0; row < line.n * line.h; row++) {
    const size_t from = size_t(row) * size_t(line.w), to = size_t(line.at(row));
    for (int i = 0; i < line.w; i++) pixel[to + i] = x + (from + i) * c;
    const int8_t* q = g + from * o;
    uint8_t* at = bytes + line.reach() + to;
    int i = 0;
    for (; i + 4 <= line.w; i += 4, q += 4 * o) {
      const int8_t* const pixels[4] = {q, q + o, q + 2 * o, q + 3 * o};
      for (int j = 0; j < o; j++) {
        const uint32_t v = four(pixels, j) ^ 0x80808080; /* + 128 */
        std::memcpy(at + size_t(j) * stride + i, &v, 4);
      }
    }
    for (; i < line.w; i++, q += o)
      for (int j = 0; j < o; j++) at[size_t(j) * stride + i] = uint8_t(q[j] + 128);
  }
  std::vector<int32_t> start(size_t(c), 0);
  for (size_t i = 0; i < size; i += 4)
    interleave(&pixel[i], c, path.lanes, signs + i * path.lanes, block, start.data());
  share(o, threads, [&](int from, int to, int) {
    for (int j = from; j < to; j++)
      for (int tap = 0; tap < k * k; tap++) std::memcpy(y + size_t(j) * depth + tap * c, start.data(), 4 * size_t(c));
    for (size_t i = 0; i < size; i += 4 * STEPS)
      for (int first = 0; first < c; first += path.lanes)
        for (int tap = 0; tap < k * k; tap++) {
          const ptrdiff_t way = (tap / k - line.side) * line.pitch() + tap % k - line.side;
          path.dot(bytes + size_t(from) * stride + line.reach() + i - way, stride, to - from,
                   signs + first / path.lanes * block + i * path.lanes,
                   int((size - i < 4 * STEPS ? size - i : 4 * STEPS) / 4), y + size_t(from) * depth + tap * c + first,
                   depth);
        }
  });
  return 0;
}

/* Mean and (biased) variance of n values from their sum and their squares'. */
struct Batch {
  double mean, variance;
};

/* The running ones, of which the variance is unbiased, are moved towards them. */
Batch batch_of(double sum, double square, double n, float weight, float* running_mean, float* running_variance) {
  const double mean = sum / n, variance = std::max(square / n - mean * mean, 0.0);
  *running_mean += weight * (float(mean) - *running_mean);
  *running_variance += weight * (float(n > 1 ? variance * n / (n - 1) : variance) - *running_variance);
  return {mean, variance};
}

/* A function of its own: bytes may alias anything, and in place the compiler would reload all else for each. */
void signs_of(const float* w, size_t n, int8_t* out) {
  for (size_t i = 0; i < n; i++) out[i] = w[i] >= 0 ? 1 : -1;
}

thread_local Array<int8_t> weights_memory, x_memory, q_memory;
thread_local Array<float> gradient_memory, sizes_memory;
thread_local Array<int32_t> sums_memory;

struct Unit {
  const Signs& path;
  const bitsr_unit& u;
  const Line line;
  const MapLoops& loops = path.with(u.maps);
  int rows() const { return u.n * u.h; }
  size_t pixel(int row) const { return size_t(row) * size_t(u.w); }
  size_t value(int row) const { return pixel(row) * size_t(u.c); }
  double pixels() const { return double(rows()) * u.w; }
  size_t taps() const { return size_t(u.k * u.k) * size_t(u.c); }

  /* The threshold on x itself. */
  std::vector<float> thresholds() const {
    std::vector<float> t(u.threshold, u.threshold + u.c);
    for (int c = 0; c < u.c; c++) t[c] = u.mean[c] + t[c] * u.deviation[c];
    return t;
  }

  size_t map(int row) const { return pixel(row) * size_t(u.maps); }

  /* `each` values a channel, summed over all rows: add(row, sums, scratch) adds those of one, and may use scratch,
   * int32 for each value of a row. Single precision within a row, double over rows and threads. */
  template <class Add>
  std::vector<double> totals(int each, Add add) const {
    const size_t size = size_t(each) * size_t(u.c);
    std::vector<double> all(size * size_t(u.threads));
    share(rows(), u.threads, [&](int from, int to, int part) {
      std::vector<float> sums(size);
      std::vector<int32_t> scratch(value(1));
      for (int row = from; row < to; row++) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        add(row, sums.data(), scratch.data());
        double* own = &all[size * size_t(part)];
        for (size_t i = 0; i < size; i++) own[i] += sums[i];
      }
    });
    for (size_t i = size; i < all.size(); i++) all[i % size] += all[i];
    return all;
  }

  /* The convolution by the signs of the weights, from inputs to outputs or, turned, back: fill(row, to) writes a row of
   * bytes, add as in `totals` finds the sums of the row in scratch. */
  template <class Fill, class Add>
  std::vector<double> convolve(bool turned, int each, Fill fill, Add add) const {
    const int c = u.c;
    uint8_t* bytes = keep(bytes_memory, size_t(line.size()) * c);
    int8_t *signs = keep(signs_memory, taps() * c), *w = keep(weights_memory, taps() * c);
    if (!bytes || !signs || !w) throw std::bad_alloc();
    std::memset(bytes, 128, size_t(line.size()) * c);
    signs_of(u.weight, taps() * c, w);
    std::vector<int32_t> start(size_t(c), 0);
    lay(w, c, c, u.k * u.k, turned, path.lanes, signs, start.data());
    share(rows(), u.threads, [&](int from, int to, int) {
      for (int row = from; row < to; row++) fill(row, bytes + line.at(row) * c);
    });
    return totals(each, [&](int row, float* sums, int32_t* out) {
      sum_row(path, bytes, signs, start.data(), line, c, c, u.k, row, out);
      add(row, sums, out);
    });
  }

  int forward() const {
    const int c = u.c;
    std::vector<float> v(size_t(u.maps) * c);
    for (int i = 0; i < c; i++)
      for (int j = 0; j < u.maps; j++) v[i * u.maps + j] = u.size[j * c + i];
    std::vector<double> sum = totals(2, [&](int row, float* sums, int32_t*) {
      path.measure(u.x + value(row), v.data(), u.maps, u.w, c, u.sizes + map(row), sums, sums + c);
    });
    for (int i = 0; i < c; i++) {
      if (!u.running) batch_of(sum[i], sum[c + i], pixels(), u.norm_weight, u.norm_mean + i, u.norm_variance + i);
      u.mean[i] = u.norm_mean[i];
      u.deviation[i] = std::sqrt(u.norm_variance[i] + u.norm_eps);
    }
    const std::vector<float> threshold = thresholds();
    sum = convolve(
        false, 2, [&](int row, uint8_t* to) { path.binarize(u.x + value(row), threshold.data(), 128, u.w, c, to); },
        [&](int row, float* sums, const int32_t* out) {
          loops.collect(out, u.sizes + map(row), u.w, c, u.sums + value(row), sums, sums + c);
        });
    std::vector<float> scale(c), shift(c);
    for (int i = 0; i < c; i++) {
      const Batch batch = u.running
                              ? Batch{u.bn_mean[i], u.bn_variance[i]}
                              : batch_of(sum[i], sum[c + i], pixels(), u.bn_weight, u.bn_mean + i, u.bn_variance + i);
      u.batch_mean[i] = float(batch.mean);
      u.batch_inverse[i] = float(1 / std::sqrt(batch.variance + u.bn_eps));
      scale[i] = u.scale[i] * u.batch_inverse[i];
      shift[i] = u.shift[i] - u.batch_mean[i] * scale[i];
    }
    share(rows(), u.threads, [&](int from, int to, int) {
      loops.finish(u.sums + value(from), u.sizes + map(from), u.x + value(from), scale.data(), shift.data(),
                   (to - from) * u.w, c, u.y + value(from));
    });
    return 0;
  }

  int backward() const {
    const int c = u.c;
    float *d = keep(gradient_memory, value(rows())), *g_sizes = keep(sizes_memory, map(rows()));
    int8_t *x = keep(x_memory, value(rows())), *q = keep(q_memory, value(rows()));
    int32_t* g_weight = keep(sums_memory, taps() * c);
    if (!d || !g_sizes || !x || !q || !g_weight) return -1;

    std::vector<double> sum = totals(2, [&](int row, float* sums, int32_t*) {
      loops.correlate(u.g + value(row), u.sums + value(row), u.sizes + map(row), u.w, c, sums, sums + c);
    });
    std::vector<float> ca(c), cb(c), ce(c); /* d = a g + b u + e */
    for (int i = 0; i < c; i++) {
      const double inverse = u.batch_inverse[i], mean = u.batch_mean[i], a = u.scale[i] * inverse;
      const double along = inverse * (sum[c + i] - mean * sum[i]), b = -a * inverse * along / pixels();
      u.g_shift[i] = float(sum[i]);
      u.g_scale[i] = float(along);
      ca[i] = float(a);
      cb[i] = float(b);
      ce[i] = float(-a * sum[i] / pixels() - b * mean);
    }
    std::vector<float> tops(size_t(c) * u.threads, 0.0f);
    share(rows(), u.threads, [&](int from, int to, int part) {
      loops.descend(u.g + value(from), u.sums + value(from), u.sizes + map(from), ca.data(), cb.data(), ce.data(),
                    (to - from) * u.w, c, d + value(from), &tops[size_t(c) * part], g_sizes + map(from));
    });
    float top = 1e-30f;
    std::vector<float> step(c), finer(c);
    for (int i = 0; i < c; i++) {
      float most = 1e-30f;
      for (int part = 0; part < u.threads; part++) most = std::max(most, tops[size_t(c) * part + i]);
      top = std::max(top, most);
      step[i] = most / 127;
      finer[i] = 127 / most;
    }

    const std::vector<float> threshold = thresholds(), coarse(c, 127 / top);
    std::vector<float> inverse(c);
    for (int i = 0; i < c; i++) inverse[i] = 1 / u.deviation[i];
    sum = convolve(
        true, 1 + u.maps, [&](int row, uint8_t* to) { path.round(d + value(row), coarse.data(), 128, u.w, c, to); },
        [&](int row, float* sums, const int32_t* out) {
          loops.enter(out, top / 127, u.x + value(row), u.g + value(row), g_sizes + map(row), u.mean, inverse.data(),
                      u.threshold, u.size, u.w, c, u.gx + value(row), sums, sums + c);
        });
    for (int i = 0; i < c; i++) u.g_threshold[i] = float(sum[i]);
    for (int i = 0; i < u.maps * c; i++) u.g_size[i] = float(sum[c + i]);
    share(rows(), u.threads, [&](int from, int to, int) {
      path.round(d + value(from), finer.data(), 0, (to - from) * u.w, c, reinterpret_cast<uint8_t*>(q) + value(from));
      path.binarize(u.x + value(from), threshold.data(), 0, (to - from) * u.w, c,
                    reinterpret_cast<uint8_t*>(x) + value(from));
    });
    if (conv_weight(path, x, q, g_weight, line, c, c, u.k, u.threads)) return -1;
    for (int o = 0; o < c; o++)
      for (size_t i = 0; i < taps(); i++) u.g_weight[o * taps() + i] = step[o] * float(g_weight[o * taps() + i]);
    return 0;
  }
};

/* f(the path's products), or -1. */
template <class F>
int on(const char* isa, int n, int h, int w, int c, int o, int k, F f) {
  const Kernels* kernels = isa ? path(isa) : path(0);
  if (!kernels || !kernels->signs || c % 64 || o % 64 || k % 2 == 0) return -1;
  if (n < 1 || h < 1 || w < 1 || c < 1 || o < 1 || k < 1) return -1;
  try {
    return f(*kernels->signs, Line{n, h, w, k / 2});
  } catch (...) { /* no memory, no thread */
    return -1;
  }
}

}  // namespace
}  // namespace bitsr

extern "C" int bitsr_sign_conv(const int8_t* x, const int8_t* w, int32_t* y, int n, int h, int width, int c, int o,
                               int k, int turned, int threads, const char* isa) {
  return bitsr::on(isa, n, h, width, c, o, k, [=](const bitsr::Signs& path, const bitsr::Line& line) {
    return bitsr::conv(path, x, w, y, line, turned ? o : c, turned ? c : o, k, turned, threads);
  });
}

extern "C" int bitsr_sign_conv_weight(const int8_t* x, const int8_t* g, int32_t* y, int n, int h, int width, int c,
                                      int o, int k, int threads, const char* isa) {
  return bitsr::on(isa, n, h, width, c, o, k, [=](const bitsr::Signs& path, const bitsr::Line& line) {
    return bitsr::conv_weight(path, x, g, y, line, c, o, k, threads);
  });
}

extern "C" int bitsr_unit_forward(const bitsr_unit* u, const char* isa) {
  if ((u->maps != 1 && u->maps != 8) || u->threads < 1 || u->k > 100 || int64_t(u->k) * u->k * u->c > 32767)
    return -1; /* sums in 16 bits */
  return bitsr::on(isa, u->n, u->h, u->w, u->c, u->c, u->k, [=](const bitsr::Signs& path, const bitsr::Line& line) {
    return bitsr::Unit{path, *u, line}.forward();
  });
}

extern "C" int bitsr_unit_backward(const bitsr_unit* u, const char* isa) {
  if ((u->maps != 1 && u->maps != 8) || u->threads < 1) return -1;
  return bitsr::on(isa, u->n, u->h, u->w, u->c, u->c, u->k, [=](const bitsr::Signs& path, const bitsr::Line& line) {
    return bitsr::Unit{path, *u, line}.backward();
  });
}
