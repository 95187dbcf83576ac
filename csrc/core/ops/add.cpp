/* add OUT A B: the saturating sum of two buffers. */
#include "core/ops.h"
#include "kernels/rows.h"

namespace bitsr {
namespace {

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  const Buffer& b = loader.model.buffer(op.inputs[1]);
  if (!b.values() || b.channels != in.channels || b.rate != in.rate ||
      b.scale_maps != in.scale_maps)
    fail("the inputs of 'add' do not fit");
  op.output = loader.make(line.out, Cells::values, in.channels, in.rate);
  loader.model.buffers.back().scale_maps = in.scale_maps;
}

void run(Rows& rows, const Operation& op, int y, uint64_t*) {
  const size_t stride = size_t(rows.model.buffer(op.inputs[0]).stride());
  add_row(rows.values(op.inputs[0], y), rows.values(op.inputs[1], y), rows.values(op.output, y),
          size_t(rows.width(op)) * stride);
}

}  // namespace

const OperationType ADD = {"add", Cells::values, Named::no, 2, load, run, nullptr, 0, true};

}  // namespace bitsr
