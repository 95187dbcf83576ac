/* concat OUT BITS ...: bits side by side; of all but the last a multiple of 64 channels. */
#include "core/ops.h"

namespace bitsr {
namespace {

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  int channels = 0;
  for (const int i : op.inputs) {
    const Buffer& b = loader.model.buffer(i);
    if (b.cells != Cells::bits || b.rate != in.rate || channels % 64)
      fail("the inputs of 'concat' do not fit");
    channels += b.channels;
  }
  op.output = loader.make(line.out, Cells::bits, channels, in.rate);
}

void run(Rows& rows, const Operation& op, int y, uint64_t*) {
  const size_t w = size_t(rows.width(op)), stride = size_t(rows.model.buffer(op.output).stride());
  uint64_t* out = rows.bits(op.output, y);
  for (const int input : op.inputs) {
    const size_t words = size_t(rows.model.buffer(input).stride());
    const uint64_t* x = rows.bits(input, y);
    for (size_t px = 0; px < w; px++) std::memcpy(out + px * stride, x + px * words, words * 8);
    out += words;
  }
}

}  // namespace

const OperationType CONCAT = {"concat", Cells::bits, Named::no, MANY, load, run};

}  // namespace bitsr
