/* The loops of TrainKernels over channels, for any width of vector. The path defines F and I,
 * vectors of float and int32 of one width, and
 * - I nearest(F): rounded, halves to even
 * - F shorts(const int16_t*)
 * - void store_shorts(int16_t*, I), void store_bytes(uint8_t*, I): their low bits
 * All is static: see common/array.h. */
#pragma once

#include "train/kernels.h"
#include "train/vectors.h"

namespace bitsr::train {
namespace {

inline I load(const int32_t* p) {
  I v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void add(float* p, F v) { store(p, load(p) + v); }
inline F to_float(I v) { return __builtin_convertvector(v, F); }
inline F size_of(F v) { return v < 0 ? -v : v; }
inline F larger(F a, F b) { return a < b ? b : a; }
inline float total(F v) {
  float sum = 0;
  for (int i = 0; i < LANES; i++) sum += v[i];
  return sum;
}

/* Eight maps of a pixel, of which channel c has number c % 8: in the lanes of channels from a
 * multiple of 8 on. */
using Eight = float __attribute__((vector_size(32)));
inline Eight eight(const float* p) {
  Eight v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <int MAPS>
inline F factors(const float* sizes, int p) {
  if (MAPS == 1) return all(sizes[p]);
  F v;
  for (int i = 0; i < LANES; i += 8)
    std::memcpy(reinterpret_cast<float*>(&v) + i, sizes + size_t(p) * 8, 32);
  return v;
}

/* The other way: what the lanes give to the maps of a pixel. */
template <int MAPS>
inline void gather(F v, float* to, int p) {
  if (MAPS == 1) {
    to[p] = total(v);
    return;
  }
  float lanes[LANES];
  store(lanes, v);
  for (int i = 8; i < LANES; i++) lanes[i % 8] += lanes[i];
  std::memcpy(to + size_t(p) * 8, lanes, 32);
}

void measure(const float* x, const float* v, int maps, int pixels, int c, float* sizes, float* sum,
             float* square) {
  for (int p = 0; p < pixels; p++, x += c) {
    F size = F{};
    for (int i = 0; i < c; i += LANES) {
      const F value = load(x + i);
      if (maps == 1) size += load(v + i) * size_of(value);
      add(sum + i, value);
      add(square + i, value * value);
    }
    if (maps == 1) {
      sizes[p] = total(size);
      continue;
    }
    Eight some[4] = {};
    for (int i = 0; i < c; i += 4)
      for (int j = 0; j < 4; j++) some[j] += __builtin_fabsf(x[i + j]) * eight(v + (i + j) * 8);
    const Eight sum = (some[0] + some[1]) + (some[2] + some[3]);
    std::memcpy(sizes + size_t(p) * 8, &sum, sizeof sum);
  }
}

void binarize(const float* x, const float* threshold, int offset, int pixels, int c, uint8_t* out) {
  const I minus = I{} + (offset - 1), two = I{} + 2;
  for (int p = 0; p < pixels; p++, x += c, out += c)
    for (int i = 0; i < c; i += LANES)
      store_bytes(out + i, minus + ((load(x + i) >= load(threshold + i)) & two));
}

template <int MAPS>
void collect(const int32_t* sums, const float* sizes, int pixels, int c, int16_t* out, float* sum,
             float* square) {
  for (int p = 0; p < pixels; p++, sums += c, out += c) {
    const F size = factors<MAPS>(sizes, p);
    for (int i = 0; i < c; i += LANES) {
      const I value = load(sums + i);
      const F u = size * to_float(value);
      store_shorts(out + i, value);
      add(sum + i, u);
      add(square + i, u * u);
    }
  }
}

template <int MAPS>
void finish(const int16_t* sums, const float* sizes, const float* x, const float* scale,
            const float* shift, int pixels, int c, float* y) {
  for (int p = 0; p < pixels; p++, sums += c, x += c, y += c) {
    const F size = factors<MAPS>(sizes, p);
    for (int i = 0; i < c; i += LANES)
      store(y + i, load(x + i) + (load(scale + i) * (size * shorts(sums + i)) + load(shift + i)));
  }
}

template <int MAPS>
void correlate(const float* g, const int16_t* sums, const float* sizes, int pixels, int c,
               float* sum, float* product) {
  for (int p = 0; p < pixels; p++, g += c, sums += c) {
    const F size = factors<MAPS>(sizes, p);
    for (int i = 0; i < c; i += LANES) {
      const F value = load(g + i);
      add(sum + i, value);
      add(product + i, value * (size * shorts(sums + i)));
    }
  }
}

template <int MAPS>
void descend(const float* g, const int16_t* sums, const float* sizes, const float* a,
             const float* b, const float* e, int pixels, int c, float* out, float* top,
             float* g_sizes) {
  for (int p = 0; p < pixels; p++, g += c, sums += c, out += c) {
    const F size = factors<MAPS>(sizes, p);
    F g_size = F{};
    for (int i = 0; i < c; i += LANES) {
      const F value = shorts(sums + i),
              d = load(a + i) * load(g + i) + load(b + i) * (size * value) + load(e + i);
      const F result = size * d;
      g_size += d * value;
      store(out + i, result);
      store(top + i, larger(load(top + i), size_of(result)));
    }
    gather<MAPS>(g_size, g_sizes, p);
  }
}

void round(const float* x, const float* scale, int offset, int pixels, int c, uint8_t* out) {
  for (int p = 0; p < pixels; p++, x += c, out += c)
    for (int i = 0; i < c; i += LANES)
      store_bytes(out + i, nearest(load(x + i) * load(scale + i)) + offset);
}

template <int MAPS>
void enter(const int32_t* sums, float step, const float* x, const float* g, const float* g_sizes,
           const float* mean, const float* inverse, const float* threshold, const float* v,
           int pixels, int c, float* gx, float* g_threshold, float* g_v) {
  const F zero = F{};
  for (int p = 0; p < pixels; p++, sums += c, x += c, g += c, gx += c, g_sizes += MAPS)
    for (int i = 0; i < c; i += LANES) {
      const F value = load(x + i),
              z = (value - load(mean + i)) * load(inverse + i) - load(threshold + i);
      const F q = larger(zero, 2 - 2 * size_of(z)) * (step * to_float(load(sums + i)));
      F way = zero;
      for (int j = 0; j < MAPS; j++) {
        way += g_sizes[j] * load(v + j * c + i);
        add(g_v + j * c + i, g_sizes[j] * size_of(value));
      }
      store(gx + i, load(g + i) + q * load(inverse + i) +
                        (value < 0   ? -way
                         : value > 0 ? way
                                     : zero));
      add(g_threshold + i, -q);
    }
}

template <int MAPS>
constexpr MapLoops LOOPS = {collect<MAPS>, finish<MAPS>, correlate<MAPS>, descend<MAPS>,
                            enter<MAPS>};

}  // namespace
}  // namespace bitsr::train
