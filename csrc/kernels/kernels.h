/* The kernels of one path (ISA): what they compute, and how a path is found.
 *
 * To add a path NAME: write kernels/NAME/{bconv,qconv,rows}.cpp with the functions that
 * DECLARE_PATH lists below, in namespace bitsr::NAME; declare it at the end of this file, name it
 * in PATHS (paths.cpp, best first), say in common/cpu.h what it needs, and give CMakeLists.txt its
 * flags. Tests and bench loop over the list.
 *
 * All functions here are static: common/array.h tells why.
 */
#pragma once

#include "common/array.h"

namespace bitsr {

static constexpr int16_t sat16(int32_t v) {
  return int16_t(v < -32768 ? -32768 : v > 32767 ? 32767 : v);
}
/* Rounding high-half product; b is never -32768 (checked when a model is opened): nothing
 * saturates. */
static constexpr int16_t mulh(int16_t a, int16_t b) {
  return int16_t((int32_t(a) * b + 0x4000) >> 15);
}
static constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

/* Scale maps of a layer that has several. Channels of a vector start at a multiple of it, so that a
 * pixel's maps, repeated, are its factors. A power of two. */
constexpr int MAPS = 8;

/* What follows the sum `a` of a binary or int8 convolution, for output channel c at one pixel:
 *
 *   v = mulh(a, map ? mulh(map[c % maps], mul[c]) : mul[c])     maps: 1 or MAPS
 *   v = sat(v + add[c])
 *   if inner_slope: v = sat((v < 0 ? mulh(v, inner_slope[c]) : v) + inner_add[c])
 *   if skip:        v = sat(v + skip[c])
 *   if slope:       v = v < 0 ? mulh(v, slope[c]) : v
 *   if slope_add:   v = sat(v + slope_add[c])           (only beside a slope)
 *   out[c] = v; bit c of bits = v < threshold[c]
 *
 * Arrays a channel have cout_pad = round_up(cout, 64) entries (1 of a plane), zero in the padding.
 */
struct Epilogue {
  int cout_pad = 0;
  int maps = 1; /* channels of the map, if there is one */
  Array<int16_t> mul, add, inner_slope, inner_add, slope, slope_add, threshold;
  /* (cout_pad / 64, VALUES, 64): mul, add, inner_slope, inner_add, slope, threshold, slope_add. */
  Array<int16_t> values;
};
constexpr int VALUES = 7;

/* Its rows: pixels of cout_pad int16 each, or words of bits. */
struct EpilogueRow {
  const int16_t* skip; /* null: none */
  const int16_t* map;  /* null: none; Epilogue::maps values a pixel */
  int16_t* out;        /* null: only bits are wanted; may equal skip */
  uint64_t* bits;      /* null: only out is wanted */
};

/* Binary convolution, k in {1, 3}, stride 1, with its epilogue. For output channel c at one pixel:
 *
 *   n = sum over taps and words of popcount(activations xor weights), missing taps read as 0
 *   a = base[c] - (n << (shift + 1))    base = K_valid << shift, corrected for missing taps
 *
 * and the epilogue of a.
 */
struct Bconv : Epilogue {
  int k = 3, cin = 0, cout = 0, words = 0, shift = 0;
  Array<uint64_t> weight; /* (cout_pad, k * k, words), the order of the file */
  Array<int16_t> base;    /* (16, cout_pad): which taps are missing, see border() */
  Array<uint64_t> packed; /* weights in the path's own order, filled by Kernels::prepare */
};

/* Index of the base row: bit 0 no row above, 1 no row below, 2 no column to the left, 3 none to the
 * right. */
static constexpr int border(bool top, bool bottom, bool left, bool right) {
  return int(top) | int(bottom) << 1 | int(left) << 2 | int(right) << 3;
}

/* One output row. rows[i] points at column 0 of the input rows y-1, y, y+1 (k = 1: only rows[1]);
 * columns -1 and w can be read and are zero; a row outside the image is a row of zeros. */
struct BconvRow : EpilogueRow {
  const uint64_t* rows[3];
  int w;
  bool top, bottom;  /* row y-1 / y+1 lies outside the image */
  uint64_t* scratch; /* SCRATCH words of this thread, 64-byte aligned */
};

/* int16 convolution, k odd up to MAX_K: out = sat(shift(bias + sum w * x, s)), sums modulo 2^32.
 * Its slope, if it has one, comes in a pass of its own (prelu_row in rows.h): one input channel
 * makes few of these, and no path repeats it. A patch is k runs of `run` contiguous int16, one an
 * input row: k pixels, padding and all, or of a plane k + 1 values, the last of which has no
 * weight. Weights lie in one of two orders, see at():
 *   lanes (ceil(cout / 16), k * run / 2, 16, 2)      two taps of 16 filters side by side
 *   dots  (k, run)                                   one filter, where run is a multiple of 64
 */
constexpr int MAX_K = 9;
struct Conv {
  int k = 3, cin = 0, cout = 0, shift = 1;
  int run = 0;       /* even */
  bool dots = false; /* the order of the weights */
  bool edge = false; /* outside the image lies the nearest pixel, not 0; only where cin = 1 */
  Array<int16_t> weight;
  Array<int32_t> bias;  /* round_up(cout, 16) */
  Array<int16_t> slope; /* the output's stride, or empty */
  /* of value i of run dy */
  BITSR_INLINE size_t at(int c, int dy, int i) const {
    if (dots) return size_t(dy * run + i);
    return (size_t(c / 16) * size_t(k * run / 2) + size_t((dy * run + i) / 2)) * 32 +
           size_t(c % 16 * 2 + i % 2);
  }
};

struct ConvRow {
  const int16_t* rows[MAX_K]; /* of pixel 0's runs; those of pixel x start step * x further */
  int step, w;
  int16_t* out; /* (w, out_stride) */
  int out_stride;
};

/* Scale maps of an image: out[j] = sat(shift(sum w[j] |x|, s)) of each pixel, |x| at most 32767,
 * sums modulo 2^32; maps: how many, 1 or MAPS. weight: (stride / 64, maps, 64), a pixel of x having
 * stride = round_up(channels, 64). */
struct ScaleMap {
  int shift = 1, maps = 1, stride = 0;
  Array<int16_t> weight;
};

/* int16 to int8: q = clip(shift(mulh(x, mul[c]), s), -top, top), stored as q + 128. A pixel of
 * bytes has round_up(channels, 4); what lies in the padding does not matter. */
struct Quant {
  int channels = 0, shift = 0, top = 127; /* shift 0: none */
  Array<int16_t> mul; /* as long as a pixel of x: round_up(channels, 64), or 1 of a plane */
  BITSR_INLINE int stride() const { return round_up(channels, 4); }
};

/* int8 convolution, k odd up to MAX_K, zero padding, stride 1, with its epilogue. For output
 * channel c at one pixel:
 *
 *   acc = bias[c] + sum w * byte = sum w * q + the half of rounding     exact in 32 bits (checked)
 *   a = sat(acc >> right), or sat(acc << left)
 *
 * and the epilogue of a. The bytes being q + 128, bias has -128 * sum w; taps outside the image
 * read 128. Weights lie in one of two orders, see at():
 *   lanes (ceil(cout / 16), k * run / 4, 16, 4)       four channels of 16 filters side by side
 *   dots  (round_up(cout, 4), k, round_up(run, DOT))  fewer than 16 filters, one after another
 */
constexpr int DOT = 64, FUSED_MOST = 64;
struct Qconv : Epilogue {
  int k = 3, cin = 0, cout = 0, left = 0, right = 0;
  int stride = 0, run = 0; /* bytes of a pixel, and of a tap's row: k * stride */
  bool dots = false;       /* the order of the weights */
  int singles = 0;         /* products of q whose sum fits 16 bits */
  /* Of lanes, (ceil(cout / 16), k * run / 4): lengths of groups of fours of channels, one after
   * another along each tap's row. The products of a group's bytes, those of two neighbouring
   * channels in one sum, fit 16 bits. A first length of 0: those of one four do not. */
  Array<uint16_t> groups;
  Array<int8_t> weight; /* zero in the padding */
  Array<int32_t> bias;  /* round_up(cout, 16) */
  BITSR_INLINE size_t at(int c, int dy, int i) const {
    if (dots) return size_t(c * k + dy) * size_t(round_up(run, DOT)) + size_t(i);
    return (size_t(c / 16) * size_t(k * run / 4) + size_t((dy * run + i) / 4)) * 64 +
           size_t(c % 16 * 4 + i % 4);
  }
};

/* One output row. rows[i] points at column 0 of input row y - k / 2 + i; k / 2 columns to each side
 * can be read, and DOT bytes beyond them; what lies outside the image is 128. out and skip have
 * cout_pad values a pixel. */
struct QconvRow : EpilogueRow {
  const uint8_t* rows[MAX_K];
  int w;
  const Quant* quant; /* of the bytes that are made of the result as well, or of it alone where out
                         is null; null: none. Only where cout is from 2 to FUSED_MOST. */
  uint8_t* bytes;     /* Quant::stride() a pixel */
  uint64_t* scratch;  /* SCRATCH words of this thread, 64-byte aligned */
};

struct Kernels {
  const char* name;
  bool (*available)();
  bool (*prepare)(Bconv&); /* fills packed; false: no memory */
  void (*bconv)(const Bconv&, const BconvRow&);
  void (*conv)(const Conv&, const ConvRow&);
  void (*scale_map)(const ScaleMap&, const int16_t* x, int w, int16_t* out);
  void (*quant)(const Quant&, const int16_t* x, int w, uint8_t* out);
  void (*qconv)(const Qconv&, const QconvRow&);
};

/* Rows are cut into chunks of CHUNK columns, whose intermediates (SCRATCH words of 64 bits, any
 * path) stay in L1. */
constexpr int CHUNK = 32;
constexpr size_t SCRATCH = 1024;
static_assert(MAX_K * (CHUNK + MAX_K) * sizeof(int16_t) <= SCRATCH * 8,
              "scratch is too small for a plane's rows");

/* The functions of the paths, defined in kernels/NAME/. */
#define DECLARE_PATH(NAME)                                                \
  namespace NAME {                                                        \
  bool prepare(Bconv&);                                                   \
  void bconv(const Bconv&, const BconvRow&);                              \
  void conv(const Conv&, const ConvRow&);                                 \
  void scale_map(const ScaleMap&, const int16_t* x, int w, int16_t* out); \
  void quant(const Quant&, const int16_t* x, int w, uint8_t* out);        \
  void qconv(const Qconv&, const QconvRow&);                              \
  }
DECLARE_PATH(avx512)
DECLARE_PATH(avx2)
DECLARE_PATH(neon)
DECLARE_PATH(wasm)
DECLARE_PATH(scalar)
#undef DECLARE_PATH
/* AVX2 with the int8 products of AVX-VNNI, compiled with AVX2 (avx2/qconv.cpp). */
namespace avxvnni {
using avx2::bconv;
using avx2::conv;
using avx2::prepare;
using avx2::quant;
using avx2::scale_map;
void qconv(const Qconv&, const QconvRow&);
}  // namespace avxvnni

/* The i-th path this CPU can run, best first; null past the end. */
const Kernels* path(int i);
const Kernels* path(const char* name);

/* The epilogue for one value: the reference that every path must equal. */
static inline int16_t epilogue(const Epilogue& op, int c, int16_t a, const int16_t* map,
                               const int16_t* skip) {
  int16_t v = mulh(a, map ? mulh(map[c & (op.maps - 1)], op.mul[c]) : op.mul[c]);
  v = sat16(v + op.add[c]);
  if (op.inner_slope.size()) {
    if (v < 0) v = mulh(v, op.inner_slope[c]);
    v = sat16(v + op.inner_add[c]);
  }
  if (skip) v = sat16(v + skip[c]);
  if (op.slope.size() && v < 0) v = mulh(v, op.slope[c]);
  return op.slope_add.size() ? sat16(v + op.slope_add[c]) : v;
}

/* One byte: the reference too. */
static inline uint8_t quantise(const Quant& op, int c, int16_t x) {
  const int v = mulh(x, op.mul[c]);
  const int q = op.shift ? (v + (1 << (op.shift - 1))) >> op.shift : v;
  return uint8_t((q < -op.top ? -op.top : q > op.top ? op.top : q) + 128);
}
static inline void quant_plane(const Quant& op, const int16_t* x, int w, uint8_t* out) {
  for (int i = 0; i < w; i++) out[4 * i] = quantise(op, 0, x[i]);
}
/* One sum of an int16 convolution, and of an int8 one as `a`. */
static inline int16_t narrow(const Conv& op, int c, uint32_t acc) {
  return sat16(int32_t(acc + uint32_t(op.bias[size_t(c)]) + (uint32_t(1) << (op.shift - 1))) >>
               op.shift);
}
static inline int16_t narrow(const Qconv& op, int32_t acc) {
  return op.left ? sat16(sat16(acc) * (1 << op.left)) : sat16(acc >> op.right);
}

}  // namespace bitsr
