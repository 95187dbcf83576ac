/* Plain C++: the reference of the other paths, and the path of CPUs without one of their own. */
#include "qconv.h"

namespace bitsr {
namespace {

bool prepare(Bconv&) { return true; }

void bconv(const Bconv& op, const BconvRow& row) {
  const int side = op.k / 2, taps = op.k * op.k, words = op.words;
  for (int x = 0; x < row.w; x++) {
    const int16_t* base = op.base.data() + size_t(border(row.top, row.bottom, x == 0, x == row.w - 1)) * op.cout_pad;
    const int16_t* skip = row.skip ? row.skip + size_t(x) * op.cout_pad : nullptr;
    const int16_t* map = row.map ? row.map + size_t(x) * op.maps : nullptr;
    for (int block = 0; block < op.cout_pad; block += 64) {
      uint64_t bits = 0;
      for (int c = block; c < block + 64; c++) {
        const uint64_t* w = op.weight.data() + size_t(c) * taps * words;
        int count = 0;
        for (int dy = -side; dy <= side; dy++) {
          const uint64_t* a = row.rows[1 + dy] + ptrdiff_t(x - side) * words;
          for (int i = 0; i < op.k * words; i++) count += __builtin_popcountll(a[i] ^ *w++);
        }
        const int16_t v = epilogue(op, c, int16_t(base[c] - (count << (op.shift + 1))), map, skip);
        if (row.out) row.out[size_t(x) * op.cout_pad + c] = v;
        bits |= uint64_t(v < op.threshold[c]) << (c - block);
      }
      if (row.bits) row.bits[size_t(x) * (op.cout_pad / 64) + block / 64] = bits;
    }
  }
}

void conv(const Conv& op, const ConvRow& row) {
  for (int x = 0; x < row.w; x++)
    for (int c = 0; c < op.cout; c++) {
      uint32_t acc = 0;
      for (int dy = 0; dy < op.k; dy++) {
        const int16_t *a = row.rows[dy] + size_t(x) * row.step, *w = op.weight.data() + op.at(c, dy, 0);
        for (int i = 0; i < op.run; i += 2, w += op.dots ? 2 : 32)
          acc += uint32_t(a[i] * w[0]) + uint32_t(a[i + 1] * w[1]);
      }
      row.out[size_t(x) * row.out_stride + c] = narrow(op, c, acc);
    }
}

void map(const Map& op, const int16_t* x, int w, int16_t* out) {
  for (int i = 0; i < w; i++, x += op.stride)
    for (int j = 0; j < op.maps; j++) {
      uint32_t acc = uint32_t(1) << (op.shift - 1);
      for (int block = 0; block < op.stride; block += 64) {
        const int16_t *v = x + block, *weight = op.weight.data() + block * op.maps + 64 * j;
        for (int c = 0; c < 64; c++) acc += uint32_t((v[c] < -32767 ? 32767 : v[c] < 0 ? -v[c] : v[c]) * weight[c]);
      }
      *out++ = sat16(int32_t(acc) >> op.shift);
    }
}

bool available() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("popcnt");
#else
  return true;
#endif
}

}  // namespace

const Kernels scalar_kernels = {"scalar", available,    prepare,      bconv,   conv,
                                map,      scalar_quant, scalar_qconv, nullptr, nullptr};

}  // namespace bitsr
