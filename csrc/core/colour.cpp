// Colour around the luma net: the C ABI, and the choice of the build of colour_rows.h.
#include "bitsr.h"
#include "common/cpu.h"
#include "core/colour_rows.h"

namespace bitsr {

static const Colour colour_baseline = {luma<Depth8>, luma<Depth16>, merge<Depth8>, merge<Depth16>};

static const Colour& colour() {
#if defined(BITSR_X86_64)
  if (__builtin_cpu_supports("avx2")) return colour_avx2;
#endif
  return colour_baseline;
}

}  // namespace bitsr

static bool shape_ok(int depth, int channels) {
  return (depth == 8 || depth == 16) && channels >= 1 && channels <= 4;
}

int bitsr_luma(const void* pixels, int depth, int channels, size_t n, int16_t* q) {
  if (!pixels || !q || !shape_ok(depth, channels)) return -1;
  const bitsr::Colour& c = bitsr::colour();
  (depth == 8 ? c.luma8 : c.luma16)(pixels, channels, n, q);
  return 0;
}

int bitsr_merge(const void* lr, int depth, int channels, int h, int w, int first, int rows,
                int scale, int smooth, const int16_t* q, int y, int n, void* out, char* err,
                size_t err_cap) {
  if (!q || !out || !shape_ok(depth, channels) || !lr)
    return fail(err, err_cap, "impossible pixel format");
  if (h < 1 || w < 1 || scale < 1 || scale > MAX_SCALE || h > INT32_MAX / scale ||
      w > INT32_MAX / scale)
    return fail(err, err_cap, "impossible picture size or scale");
  if (y < 0 || n < 0 || n > h * scale - y) return fail(err, err_cap, "rows outside the picture");
  if (first < 0 || rows < 0 || rows > h - first)
    return fail(err, err_cap, "LR rows outside the picture");
  if (n == 0) return 0;
  // What the taps of any phase reach, and the windows around what they read, folded at the edges.
  for (int64_t i = int64_t(y) / scale - 4; i <= int64_t(y + n - 1) / scale + 4; i++) {
    const int at = reflect(i, h);
    if (at < first || at >= first + rows)
      return fail(err, err_cap, "LR rows missing from the window");
  }
  const bitsr::Colour& c = bitsr::colour();
  return (depth == 8 ? c.merge8 : c.merge16)(lr, channels, h, w, first, scale, smooth != 0, q, y, n,
                                             out, err, err_cap);
}
