/* shuffle OUT IN scale=S: groups of S x S channels to S x S pixels. The last operation of a model
 * makes `sr`. */
#include "core/ops.h"
#include "kernels/rows.h"

namespace bitsr {
namespace {

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  const int s = line.number("scale", 1, MAX_SCALE, "a scale");
  if (in.channels % (s * s)) fail("'shuffle' does not divide its channels");
  if (in.rate * s > MAX_SCALE) fail("the scale is too large");
  op.output = loader.make(line.out, Cells::values, in.channels / (s * s), in.rate * s);
}

void run(Rows& rows, const Operation& op, int y, uint64_t*) {
  const Buffer &in = rows.model.buffer(op.inputs[0]), &to = rows.model.buffer(op.output);
  const int w = rows.width(op), s = to.rate / in.rate, stride = in.stride();
  const int16_t* x = rows.values(op.inputs[0], y);
  for (int i = 0; i < s; i++) {
    int16_t* out = to.storage < 0
                       ? rows.out + (size_t(y - rows.out_base * in.rate) * size_t(s) + size_t(i)) *
                                        size_t(w) * size_t(s)
                       : rows.values(op.output, y * s + i);
    if (to.channels == 1) {
      interleave_row(x + i * s, stride, w, s, out);
      continue;
    }
    for (int px = 0; px < w; px++)
      for (int j = 0; j < s; j++, out += to.stride()) {
        const int16_t* v = x + size_t(px) * size_t(stride) + i * s + j;
        for (int c = 0; c < to.channels; c++) out[c] = v[c * s * s];
      }
  }
}

}  // namespace

const OperationType SHUFFLE = {"shuffle", Cells::values, Named::no, 1, load, run};

}  // namespace bitsr
