/* Plain C++: the reference of the other paths' rows: int16 convolution, scale maps, int16 to bytes.
 */
#include "kernels/kernels.h"

namespace bitsr::scalar {

void conv(const Conv& op, const ConvRow& row) {
  for (int x = 0; x < row.w; x++)
    for (int c = 0; c < op.cout; c++) {
      uint32_t acc = 0;
      for (int dy = 0; dy < op.k; dy++) {
        const int16_t *a = row.rows[dy] + size_t(x) * row.step,
                      *w = op.weight.data() + op.at(c, dy, 0);
        for (int i = 0; i < op.run; i += 2, w += op.dots ? 2 : 32)
          acc += uint32_t(a[i] * w[0]) + uint32_t(a[i + 1] * w[1]);
      }
      row.out[size_t(x) * row.out_stride + c] = narrow(op, c, acc);
    }
}

void scale_map(const ScaleMap& op, const int16_t* x, int w, int16_t* out) {
  for (int i = 0; i < w; i++, x += op.stride)
    for (int j = 0; j < op.maps; j++) {
      uint32_t acc = uint32_t(1) << (op.shift - 1);
      for (int block = 0; block < op.stride; block += 64) {
        const int16_t *v = x + block, *weight = op.weight.data() + block * op.maps + 64 * j;
        for (int c = 0; c < 64; c++)
          acc += uint32_t((v[c] < -32767 ? 32767 : v[c] < 0 ? -v[c] : v[c]) * weight[c]);
      }
      *out++ = sat16(int32_t(acc) >> op.shift);
    }
}

void quant(const Quant& op, const int16_t* x, int w, uint8_t* out) {
  if (op.channels == 1) return quant_plane(op, x, w, out);
  for (int i = 0; i < w; i++, x += op.mul.size(), out += op.stride())
    for (int c = 0; c < op.channels; c++) out[c] = quantise(op, c, x[c]);
}

}  // namespace bitsr::scalar
