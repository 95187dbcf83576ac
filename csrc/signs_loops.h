/* The loops of Signs over channels, for any width of vector. The path defines F and I, vectors of float and int32 of
 * one width, and I nearest(F)            rounded, halves to even F shorts(const int16_t*), void store_shorts(int16_t*,
 * I), void store_bytes(uint8_t*, I)      their low bits All is static: see kernels.h. */
#pragma once

namespace bitsr {
namespace {

constexpr int LANES = sizeof(F) / sizeof(float);

inline F load(const float* p) {
  F v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline I load(const int32_t* p) {
  I v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, F v) { std::memcpy(p, &v, sizeof v); }
inline void add(float* p, F v) { store(p, load(p) + v); }
inline F all(float v) { return F{} + v; }
inline F to_float(I v) { return __builtin_convertvector(v, F); }
inline F size_of(F v) { return v < 0 ? -v : v; }
inline F larger(F a, F b) { return a < b ? b : a; }
inline float total(F v) {
  float sum = 0;
  for (int i = 0; i < LANES; i++) sum += v[i];
  return sum;
}

void measure(const float* x, const float* v, int pixels, int c, float* sizes, float* sum, float* square) {
  for (int p = 0; p < pixels; p++, x += c) {
    F size = F{};
    for (int i = 0; i < c; i += LANES) {
      const F value = load(x + i);
      size += load(v + i) * size_of(value);
      add(sum + i, value);
      add(square + i, value * value);
    }
    sizes[p] = total(size);
  }
}

void binarize(const float* x, const float* threshold, int offset, int pixels, int c, uint8_t* out) {
  const I minus = I{} + (offset - 1), two = I{} + 2;
  for (int p = 0; p < pixels; p++, x += c, out += c)
    for (int i = 0; i < c; i += LANES) store_bytes(out + i, minus + ((load(x + i) >= load(threshold + i)) & two));
}

void collect(const int32_t* sums, const float* sizes, int pixels, int c, int16_t* out, float* sum, float* square) {
  for (int p = 0; p < pixels; p++, sums += c, out += c)
    for (int i = 0; i < c; i += LANES) {
      const I value = load(sums + i);
      const F u = sizes[p] * to_float(value);
      store_shorts(out + i, value);
      add(sum + i, u);
      add(square + i, u * u);
    }
}

void finish(const int16_t* sums, const float* sizes, const float* x, const float* scale, const float* shift, int pixels,
            int c, float* y) {
  for (int p = 0; p < pixels; p++, sums += c, x += c, y += c)
    for (int i = 0; i < c; i += LANES)
      store(y + i, load(x + i) + (load(scale + i) * (sizes[p] * shorts(sums + i)) + load(shift + i)));
}

void correlate(const float* g, const int16_t* sums, const float* sizes, int pixels, int c, float* sum, float* product) {
  for (int p = 0; p < pixels; p++, g += c, sums += c)
    for (int i = 0; i < c; i += LANES) {
      const F value = load(g + i);
      add(sum + i, value);
      add(product + i, value * (sizes[p] * shorts(sums + i)));
    }
}

void descend(const float* g, const int16_t* sums, const float* sizes, const float* a, const float* b, const float* e,
             int pixels, int c, float* out, float* top, float* g_sizes) {
  for (int p = 0; p < pixels; p++, g += c, sums += c, out += c) {
    F g_size = F{};
    for (int i = 0; i < c; i += LANES) {
      const F value = shorts(sums + i), d = load(a + i) * load(g + i) + load(b + i) * (sizes[p] * value) + load(e + i);
      const F result = sizes[p] * d;
      g_size += d * value;
      store(out + i, result);
      store(top + i, larger(load(top + i), size_of(result)));
    }
    g_sizes[p] = total(g_size);
  }
}

void round(const float* x, const float* scale, int offset, int pixels, int c, uint8_t* out) {
  for (int p = 0; p < pixels; p++, x += c, out += c)
    for (int i = 0; i < c; i += LANES) store_bytes(out + i, nearest(load(x + i) * load(scale + i)) + offset);
}

void enter(const int32_t* sums, float step, const float* x, const float* g, const float* g_sizes, const float* mean,
           const float* inverse, const float* threshold, const float* v, int pixels, int c, float* gx,
           float* g_threshold, float* g_v) {
  const F zero = F{};
  for (int p = 0; p < pixels; p++, sums += c, x += c, g += c, gx += c)
    for (int i = 0; i < c; i += LANES) {
      const F value = load(x + i), z = (value - load(mean + i)) * load(inverse + i) - load(threshold + i);
      const F q = larger(zero, 2 - 2 * size_of(z)) * (step * to_float(load(sums + i)));
      const F way = g_sizes[p] * load(v + i);
      store(gx + i, load(g + i) + q * load(inverse + i) + (value < 0 ? -way : value > 0 ? way : zero));
      add(g_threshold + i, -q);
      add(g_v + i, g_sizes[p] * size_of(value));
    }
}

}  // namespace
}  // namespace bitsr
