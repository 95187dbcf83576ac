/* WebAssembly: the rows of the other operations: int16 convolution, scale maps, int16 to bytes.
 *
 * Budget, operations on 128 bits, beside the loads; the last two a pixel of 64 channels:
 *   int16 convolution   4 (dot + add) + 1 splat for 32 MAC, three pixels at a time
 *   eight scale maps    8 x (2 of sizes + 8 x (dot + add)) + 24 across the lanes     = 168
 *   to bytes            4 x (2 x (2 q15mulr_sat, min, max), narrow, xor)             = 40
 */
#include "kernels/kernels.h"
#include "kernels/wasm/sums.h"

namespace bitsr::wasm {
namespace {

/* P pixels of 16 outputs at once. */
template <int P>
inline void conv_pixels(const Conv& op, const ConvRow& row, int x) {
  for (int block = 0; block < op.cout; block += 16) {
    v128_t acc[P][4];
    const int16_t* w = op.weight.data() + size_t(block) * size_t(op.k * op.run);
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++)
      for (int p = 0; p < P; p++)
        acc[p][q] = wasm_i32x4_add(wasm_v128_load(op.bias.data() + block + 4 * q),
                                   wasm_i32x4_splat(1 << (op.shift - 1)));
    for (int dy = 0; dy < op.k; dy++) {
      const int16_t* a = row.rows[dy] + size_t(x) * size_t(row.step);
      for (int i = 0; i < op.run; i += 2, w += 32)
#pragma GCC unroll 3
        for (int p = 0; p < P; p++) {
          const v128_t v = wasm_v128_load32_splat(a + size_t(p) * size_t(row.step) + i);
#pragma GCC unroll 4
          for (int q = 0; q < 4; q++)
            acc[p][q] =
                wasm_i32x4_add(acc[p][q], wasm_i32x4_dot_i16x8(v, wasm_v128_load(w + 8 * q)));
        }
    }
    const int n = op.cout - block < 16 ? op.cout - block : 16;
    for (int p = 0; p < P; p++) {
      int16_t lanes[16];
      for (int q = 0; q < 4; q += 2)
        wasm_v128_store(lanes + 4 * q,
                        wasm_i16x8_narrow_i32x4(wasm_i32x4_shr(acc[p][q], uint32_t(op.shift)),
                                                wasm_i32x4_shr(acc[p][q + 1], uint32_t(op.shift))));
      std::memcpy(row.out + size_t(x + p) * size_t(row.out_stride) + block, lanes, size_t(n) * 2);
    }
  }
}

/* P pixels of one output at once, P at most 4: a weight vector is loaded once for P dot products.
 */
template <int P>
inline void dot_pixels(const Conv& op, const ConvRow& row, int x) {
  v128_t acc[4];
  for (v128_t& a : acc) a = wasm_i32x4_splat(0);
  const int16_t* w = op.weight.data();
  for (int dy = 0; dy < op.k; dy++) {
    const int16_t* a = row.rows[dy] + size_t(x) * size_t(row.step);
    for (int i = 0; i < op.run; i += 8, w += 8)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++)
        acc[p] = wasm_i32x4_add(
            acc[p], wasm_i32x4_dot_i16x8(wasm_v128_load(a + size_t(p) * size_t(row.step) + i),
                                         wasm_v128_load(w)));
  }
  int32_t sums[4];
  wasm_v128_store(sums, transposed_sum(acc));
  for (int p = 0; p < P; p++)
    row.out[size_t(x + p) * size_t(row.out_stride)] = narrow(op, 0, uint32_t(sums[p]));
}

}  // namespace

void conv(const Conv& op, const ConvRow& row) {
  int x = 0;
  if (op.dots) {
    for (; x + 4 <= row.w; x += 4) dot_pixels<4>(op, row, x);
    for (; x < row.w; x++) dot_pixels<1>(op, row, x);
    return;
  }
  for (; x + 3 <= row.w; x += 3) conv_pixels<3>(op, row, x);
  for (; x < row.w; x++) conv_pixels<1>(op, row, x);
}

namespace {

/* Sizes of 8 values. */
inline v128_t sizes(v128_t v) {
  return wasm_i16x8_max(v, wasm_i16x8_sub_sat(wasm_i16x8_splat(0), v));
}

/* 4 sums to maps, in the lower half. */
inline v128_t maps_of(const ScaleMap& op, v128_t sums) {
  return wasm_i32x4_shr(wasm_i32x4_add(sums, wasm_i32x4_splat(1 << (op.shift - 1))),
                        uint32_t(op.shift));
}

void several_maps(const ScaleMap& op, const int16_t* x, int w, int16_t* out) {
  for (int i = 0; i < w; i++, out += MAPS) {
    v128_t acc[MAPS];
#pragma GCC unroll 8
    for (int j = 0; j < MAPS; j++) acc[j] = wasm_i32x4_splat(0);
    const int16_t* weight = op.weight.data();
    for (int block = 0; block < op.stride; block += 64, weight += 64 * MAPS)
      for (int c = 0; c < 64; c += 8, x += 8) {
        const v128_t size = sizes(wasm_v128_load(x));
#pragma GCC unroll 8
        for (int j = 0; j < MAPS; j++)
          acc[j] = wasm_i32x4_add(acc[j],
                                  wasm_i32x4_dot_i16x8(size, wasm_v128_load(weight + 64 * j + c)));
      }
    wasm_v128_store(out, wasm_i16x8_narrow_i32x4(maps_of(op, transposed_sum(acc)),
                                                 maps_of(op, transposed_sum(acc + 4))));
  }
}

}  // namespace

/* Four pixels at a time, whose sums are added up across the lanes together. */
void scale_map(const ScaleMap& op, const int16_t* x, int w, int16_t* out) {
  if (op.maps > 1) return several_maps(op, x, w, out);
  for (int i = 0; i < w; i += 4) {
    v128_t acc[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; p++) {
      const int16_t* v = x + size_t(i + p < w ? i + p : w - 1) * size_t(op.stride);
      acc[p] = wasm_i32x4_splat(0);
      for (int c = 0; c < op.stride; c += 8)
        acc[p] = wasm_i32x4_add(acc[p], wasm_i32x4_dot_i16x8(sizes(wasm_v128_load(v + c)),
                                                             wasm_v128_load(op.weight.data() + c)));
    }
    const v128_t maps = maps_of(op, transposed_sum(acc));
    const int64_t four = wasm_i64x2_extract_lane(wasm_i16x8_narrow_i32x4(maps, maps), 0);
    std::memcpy(out + i, &four, size_t(w - i < 4 ? w - i : 4) * 2);
  }
}

void quant(const Quant& op, const int16_t* x, int w, uint8_t* out) {
  if (op.channels == 1) return quant_plane(op, x, w, out);
  const v128_t top = wasm_i16x8_splat(int16_t(op.top)), bottom = wasm_i16x8_splat(int16_t(-op.top));
  /* mulh by 2^(15-s) is the shift by s. */
  const v128_t down = wasm_i16x8_splat(int16_t(1 << (15 - op.shift) % 15));
  const int stride = op.stride();
  for (int i = 0; i < w; i++, x += op.mul.size(), out += stride)
    for (int c = 0; c < stride; c += 16) {
      const auto half = [&](int at) {
        v128_t r =
            wasm_i16x8_q15mulr_sat(wasm_v128_load(x + at), wasm_v128_load(op.mul.data() + at));
        if (op.shift) r = wasm_i16x8_q15mulr_sat(r, down);
        return wasm_i16x8_min(wasm_i16x8_max(r, bottom), top);
      };
      const v128_t bytes =
          wasm_v128_xor(wasm_i8x16_narrow_i16x8(half(c), half(c + 8)), wasm_i8x16_splat(-128));
      if (stride - c >= 16) {
        wasm_v128_store(out + c, bytes);
      } else {
        uint8_t lanes[16];
        wasm_v128_store(lanes, bytes);
        std::memcpy(out + c, lanes, size_t(stride - c));
      }
    }
}

}  // namespace bitsr::wasm
