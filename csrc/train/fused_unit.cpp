/* A unit of a net in two calls, forward and backward: bitsr_unit in bitsr_train.h. One pass over
 * memory where a walk over layers has several; the loops are in unit_loops.h.
 */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "bitsr_train.h"
#include "train/binary_conv.h"
#include "train/parallel_for.h"

namespace bitsr::train {
namespace {

/* Mean and (biased) variance of n values from their sum and their squares'. */
struct Batch {
  double mean, variance;
};

/* The running ones, of which the variance is unbiased, are moved towards them. */
Batch batch_of(double sum, double square, double n, float weight, float* running_mean,
               float* running_variance) {
  const double mean = sum / n, variance = std::max(square / n - mean * mean, 0.0);
  *running_mean += weight * (float(mean) - *running_mean);
  *running_variance +=
      weight * (float(n > 1 ? variance * n / (n - 1) : variance) - *running_variance);
  return {mean, variance};
}

/* A function of its own: bytes may alias anything, and in place the compiler would reload all else
 * for each. */
void signs_of(const float* w, size_t n, int8_t* out) {
  for (size_t i = 0; i < n; i++) out[i] = w[i] >= 0 ? 1 : -1;
}

thread_local Array<int8_t> weights_memory, x_memory, q_memory;
thread_local Array<float> gradient_memory, sizes_memory;
thread_local Array<int32_t> sums_memory;

struct Unit {
  const TrainKernels& path;
  const bitsr_unit& u;
  const PaddedLine line;
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

  /* `each` values a channel, summed over all rows: add(row, sums, scratch) adds those of one, and
   * may use scratch, int32 for each value of a row. Single precision within a row, double over rows
   * and threads. */
  template <class Add>
  std::vector<double> totals(int each, Add add) const {
    const size_t size = size_t(each) * size_t(u.c);
    std::vector<double> all(size * size_t(u.threads));
    parallel_for(rows(), u.threads, [&](int from, int to, int part) {
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

  /* The convolution by the signs of the weights, from inputs to outputs or, transposed, back:
   * fill(row, to) writes a row of bytes, add as in `totals` finds the sums of the row in scratch.
   */
  template <class Fill, class Add>
  std::vector<double> convolve(bool transposed, int each, Fill fill, Add add) const {
    const int c = u.c;
    uint8_t* bytes = grown(bytes_memory, size_t(line.size()) * c);
    int8_t *signs = grown(signs_memory, taps() * c), *w = grown(weights_memory, taps() * c);
    if (!bytes || !signs || !w) throw std::bad_alloc();
    std::memset(bytes, 128, size_t(line.size()) * c);
    signs_of(u.weight, taps() * c, w);
    std::vector<int32_t> start(size_t(c), 0);
    pack_weights(w, c, c, u.k * u.k, transposed, path.lanes, signs, start.data());
    parallel_for(rows(), u.threads, [&](int from, int to, int) {
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
      if (!u.running)
        batch_of(sum[i], sum[c + i], pixels(), u.norm_weight, u.norm_mean + i, u.norm_variance + i);
      u.mean[i] = u.norm_mean[i];
      u.deviation[i] = std::sqrt(u.norm_variance[i] + u.norm_eps);
    }
    const std::vector<float> threshold = thresholds();
    sum = convolve(
        false, 2,
        [&](int row, uint8_t* to) {
          path.binarize(u.x + value(row), threshold.data(), 128, u.w, c, to);
        },
        [&](int row, float* sums, const int32_t* out) {
          loops.collect(out, u.sizes + map(row), u.w, c, u.sums + value(row), sums, sums + c);
        });
    std::vector<float> scale(c), shift(c);
    for (int i = 0; i < c; i++) {
      const Batch batch = u.running ? Batch{u.bn_mean[i], u.bn_variance[i]}
                                    : batch_of(sum[i], sum[c + i], pixels(), u.bn_weight,
                                               u.bn_mean + i, u.bn_variance + i);
      u.batch_mean[i] = float(batch.mean);
      u.batch_inverse[i] = float(1 / std::sqrt(batch.variance + u.bn_eps));
      scale[i] = u.scale[i] * u.batch_inverse[i];
      shift[i] = u.shift[i] - u.batch_mean[i] * scale[i];
    }
    parallel_for(rows(), u.threads, [&](int from, int to, int) {
      loops.finish(u.sums + value(from), u.sizes + map(from), u.x + value(from), scale.data(),
                   shift.data(), (to - from) * u.w, c, u.y + value(from));
    });
    return 0;
  }

  int backward() const {
    const int c = u.c;
    float *d = grown(gradient_memory, value(rows())), *g_sizes = grown(sizes_memory, map(rows()));
    int8_t *x = grown(x_memory, value(rows())), *q = grown(q_memory, value(rows()));
    int32_t* g_weight = grown(sums_memory, taps() * c);
    if (!d || !g_sizes || !x || !q || !g_weight) return -1;

    std::vector<double> sum = totals(2, [&](int row, float* sums, int32_t*) {
      loops.correlate(u.g + value(row), u.sums + value(row), u.sizes + map(row), u.w, c, sums,
                      sums + c);
    });
    std::vector<float> ca(c), cb(c), ce(c); /* d = a g + b u + e */
    for (int i = 0; i < c; i++) {
      const double inverse = u.batch_inverse[i], mean = u.batch_mean[i], a = u.scale[i] * inverse;
      const double along = inverse * (sum[c + i] - mean * sum[i]),
                   b = -a * inverse * along / pixels();
      u.g_shift[i] = float(sum[i]);
      u.g_scale[i] = float(along);
      ca[i] = float(a);
      cb[i] = float(b);
      ce[i] = float(-a * sum[i] / pixels() - b * mean);
    }
    std::vector<float> tops(size_t(c) * u.threads, 0.0f);
    parallel_for(rows(), u.threads, [&](int from, int to, int part) {
      loops.descend(u.g + value(from), u.sums + value(from), u.sizes + map(from), ca.data(),
                    cb.data(), ce.data(), (to - from) * u.w, c, d + value(from),
                    &tops[size_t(c) * part], g_sizes + map(from));
    });
    float top = 1e-30f;
    std::vector<float> step(c), finer(c);
    for (int i = 0; i < c; i++) {
      float most = 1e-30f;
      for (int part = 0; part < u.threads; part++)
        most = std::max(most, tops[size_t(c) * part + i]);
      top = std::max(top, most);
      step[i] = most / 127;
      finer[i] = 127 / most;
    }

    const std::vector<float> threshold = thresholds(), coarse(c, 127 / top);
    std::vector<float> inverse(c);
    for (int i = 0; i < c; i++) inverse[i] = 1 / u.deviation[i];
    sum = convolve(
        true, 1 + u.maps,
        [&](int row, uint8_t* to) { path.round(d + value(row), coarse.data(), 128, u.w, c, to); },
        [&](int row, float* sums, const int32_t* out) {
          loops.enter(out, top / 127, u.x + value(row), u.g + value(row), g_sizes + map(row),
                      u.mean, inverse.data(), u.threshold, u.size, u.w, c, u.gx + value(row), sums,
                      sums + c);
        });
    for (int i = 0; i < c; i++) u.g_threshold[i] = float(sum[i]);
    for (int i = 0; i < u.maps * c; i++) u.g_size[i] = float(sum[c + i]);
    parallel_for(rows(), u.threads, [&](int from, int to, int) {
      path.round(d + value(from), finer.data(), 0, (to - from) * u.w, c,
                 reinterpret_cast<uint8_t*>(q) + value(from));
      path.binarize(u.x + value(from), threshold.data(), 0, (to - from) * u.w, c,
                    reinterpret_cast<uint8_t*>(x) + value(from));
    });
    if (conv_weight(path, x, q, g_weight, line, c, c, u.k, u.threads)) return -1;
    for (int o = 0; o < c; o++)
      for (size_t i = 0; i < taps(); i++)
        u.g_weight[o * taps() + i] = step[o] * float(g_weight[o * taps() + i]);
    return 0;
  }
};

}  // namespace
}  // namespace bitsr::train

extern "C" int bitsr_unit_forward(const bitsr_unit* u, const char* isa) {
  using namespace bitsr::train;
  if ((u->maps != 1 && u->maps != 8) || u->threads < 1 || u->k > 100 ||
      int64_t(u->k) * u->k * u->c > 32767)
    return -1; /* sums in 16 bits */
  return on_path(isa, u->n, u->h, u->w, u->c, u->c, u->k,
                 [=](const TrainKernels& path, const PaddedLine& line) {
                   return Unit{path, *u, line}.forward();
                 });
}

extern "C" int bitsr_unit_backward(const bitsr_unit* u, const char* isa) {
  using namespace bitsr::train;
  if ((u->maps != 1 && u->maps != 8) || u->threads < 1) return -1;
  return on_path(isa, u->n, u->h, u->w, u->c, u->c, u->k,
                 [=](const TrainKernels& path, const PaddedLine& line) {
                   return Unit{path, *u, line}.backward();
                 });
}
