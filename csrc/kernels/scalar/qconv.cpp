/* Plain C++: the reference of the other paths' int8 convolution. */
#include "kernels/kernels.h"

namespace bitsr::scalar {

void qconv(const Qconv& op, const QconvRow& row) {
  for (int x = 0; x < row.w; x++) {
    int16_t values[FUSED_MOST];
    const size_t at = size_t(x) * op.cout_pad;
    int16_t* out = row.out ? row.out + at : values;
    for (int c = 0; c < op.cout; c++) {
      uint32_t acc = uint32_t(op.bias[c]);
      for (int dy = 0; dy < op.k; dy++) {
        const uint8_t* a = row.rows[dy] + ptrdiff_t(x - op.k / 2) * op.stride;
        for (int i = 0; i < op.run; i++) acc += uint32_t(a[i] * op.weight[op.at(c, dy, i)]);
      }
      out[c] =
          epilogue(op, c, narrow(op, int32_t(acc)), nullptr, row.skip ? row.skip + at : nullptr);
    }
    if (row.quant) quant(*row.quant, out, 1, row.bytes + x * row.quant->stride());
  }
}

}  // namespace bitsr::scalar
