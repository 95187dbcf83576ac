/* Convolutions by signs for training, and the gradients of their weights: the plan is here, the
 * products in avx2/ and avx512/.
 *
 * Both are sums of products of a byte (a sign or a rounded gradient q, as q + 128) and a sign, with
 * plain matrix products' reuse: bytes are broadcast four at a time, signs lie in lanes. Zero
 * padding is 128 among bytes and 0 among signs; 128 times the sum of the signs is taken off at the
 * start.
 */
#include "train/binary_conv.h"

#include <cstring>
#include <vector>

#include "bitsr_train.h"
#include "common/cpu.h"
#include "train/parallel_for.h"

namespace bitsr::train {

thread_local Array<uint8_t> bytes_memory;
thread_local Array<int8_t> signs_memory;

namespace {

/* Bytes i of four rows, side by side. */
uint32_t four(const int8_t* const from[4], int i) {
  return uint32_t(uint8_t(from[0][i])) | uint32_t(uint8_t(from[1][i])) << 8 |
         uint32_t(uint8_t(from[2][i])) << 16 | uint32_t(uint8_t(from[3][i])) << 24;
}

/* Four rows of channels to the lanes at `to`, a block of lanes `block` bytes from the last; start
 * -= 128 times their sum. */
void interleave(const int8_t* const from[4], int channels, int lanes, int8_t* to, size_t block,
                int32_t* start) {
  for (int c = 0; c < channels; c += lanes, to += block)
    for (int lane = 0; lane < lanes; lane++) {
      const uint32_t v = four(from, c + lane);
      std::memcpy(to + 4 * lane, &v, 4);
    }
  for (int c = 0; c < channels; c++)
    start[c] -= 128 * (from[0][c] + from[1][c] + from[2][c] + from[3][c]);
}

}  // namespace

void pack_weights(const int8_t* w, int filters, int channels, int taps, bool transposed, int lanes,
                  int8_t* to, int32_t* start) {
  const size_t filter = size_t(taps) * size_t(channels);
  if (!transposed) {
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

void sum_row(const TrainKernels& path, const uint8_t* bytes, const int8_t* signs,
             const int32_t* start, const PaddedLine& line, int c, int o, int k, int row,
             int32_t* out) {
  const int run = k * c;
  const size_t block = size_t(k) * size_t(run) * size_t(path.lanes);
  for (int i = 0; i < line.w; i++) std::memcpy(out + size_t(i) * o, start, 4 * size_t(o));
  for (int first = 0; first < o; first += path.lanes)
    for (int dy = 0; dy < k; dy++) {
      const uint8_t* a = bytes + (line.at(row) + (dy - line.side) * line.pitch() - line.side) * c;
      for (int i = 0; i < run; i += 4 * STEPS)
        path.dot(a + i, size_t(c), line.w,
                 signs + first / path.lanes * block + size_t(dy * run + i) * path.lanes,
                 (run - i < 4 * STEPS ? run - i : 4 * STEPS) / 4, out + first, size_t(o));
    }
}

namespace {

int conv(const TrainKernels& path, const int8_t* x, const int8_t* w, int32_t* y,
         const PaddedLine& line, int c, int o, int k, bool transposed, int threads) {
  uint8_t* bytes = grown(bytes_memory, size_t(line.size()) * size_t(c));
  int8_t* signs = grown(signs_memory, size_t(k * k * c) * size_t(o));
  if (!bytes || !signs) return -1;
  std::memset(bytes, 128, size_t(line.size()) * size_t(c));
  for (int row = 0; row < line.n * line.h; row++) {
    uint8_t* to = bytes + line.at(row) * c;
    const int8_t* from = x + size_t(row) * size_t(line.w * c);
    for (int i = 0; i < line.w * c; i++) to[i] = uint8_t(from[i] + 128);
  }
  std::vector<int32_t> start(size_t(o), 0);
  pack_weights(w, transposed ? c : o, transposed ? o : c, k * k, transposed, path.lanes, signs,
               start.data());
  parallel_for(line.n * line.h, threads, [&](int from, int to, int) {
    for (int row = from; row < to; row++)
      sum_row(path, bytes, signs, start.data(), line, c, o, k, row,
              y + size_t(row) * size_t(line.w) * o);
  });
  return 0;
}

}  // namespace

int conv_weight(const TrainKernels& path, const int8_t* x, const int8_t* g, int32_t* y,
                const PaddedLine& line, int c, int o, int k, int threads) {
  const size_t size = size_t(line.size() + 15) / 16 * 16, depth = size_t(k * k * c);
  /* An odd multiple of 64: the rows of a tile must not fall on one another in the cache. */
  const size_t stride = (size + 2 * size_t(line.reach()) + 63) / 64 * 64 | 64;
  const size_t block = size * size_t(path.lanes);
  uint8_t* bytes = grown(bytes_memory, stride * size_t(o));
  int8_t* signs = grown(signs_memory, size * size_t(c));
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
  parallel_for(o, threads, [&](int from, int to, int) {
    for (int j = from; j < to; j++)
      for (int tap = 0; tap < k * k; tap++)
        std::memcpy(y + size_t(j) * depth + tap * c, start.data(), 4 * size_t(c));
    for (size_t i = 0; i < size; i += 4 * STEPS)
      for (int first = 0; first < c; first += path.lanes)
        for (int tap = 0; tap < k * k; tap++) {
          const ptrdiff_t way = (tap / k - line.side) * line.pitch() + tap % k - line.side;
          path.dot(bytes + size_t(from) * stride + line.reach() + i - way, stride, to - from,
                   signs + first / path.lanes * block + i * path.lanes,
                   int((size - i < 4 * STEPS ? size - i : 4 * STEPS) / 4),
                   y + size_t(from) * depth + tap * c + first, depth);
        }
  });
  return 0;
}

const TrainKernels* path(const char* isa) {
#if defined(BITSR_X86_64)
  /* Best first. */
  static const struct {
    const char* name;
    bool (*available)();
    const TrainKernels& kernels;
  } paths[] = {{"avx512", cpu::avx512, avx512_kernels}, {"avx2", cpu::avx2, avx2_kernels}};
  for (const auto& p : paths)
    if (p.available() && (!isa || !std::strcmp(isa, p.name))) return &p.kernels;
#endif
  (void)isa;
  return nullptr;
}

}  // namespace bitsr::train

extern "C" int bitsr_sign_conv(const int8_t* x, const int8_t* w, int32_t* y, int n, int h,
                               int width, int c, int o, int k, int transposed, int threads,
                               const char* isa) {
  using namespace bitsr::train;
  return on_path(isa, n, h, width, c, o, k, [=](const TrainKernels& path, const PaddedLine& line) {
    return conv(path, x, w, y, line, transposed ? o : c, transposed ? c : o, k, transposed,
                threads);
  });
}

extern "C" int bitsr_sign_conv_weight(const int8_t* x, const int8_t* g, int32_t* y, int n, int h,
                                      int width, int c, int o, int k, int threads,
                                      const char* isa) {
  using namespace bitsr::train;
  return on_path(isa, n, h, width, c, o, k, [=](const TrainKernels& path, const PaddedLine& line) {
    return conv_weight(path, x, g, y, line, c, o, k, threads);
  });
}
