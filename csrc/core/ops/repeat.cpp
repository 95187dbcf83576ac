/* repeat OUT IN times=N: every channel N times, side by side. */
#include "core/ops.h"
#include "kernels/rows.h"

namespace bitsr {
namespace {

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  op.output = loader.make(line.out, Cells::values,
                          in.channels * line.number("times", 1, MAX_CHANNELS, "a repeat"), in.rate);
}

void run(Rows& rows, const Operation& op, int y, uint64_t*) {
  const Buffer &in = rows.model.buffer(op.inputs[0]), &to = rows.model.buffer(op.output);
  repeat_row(rows.values(op.inputs[0], y), rows.values(op.output, y), rows.width(op), in.channels,
             to.channels / in.channels, in.stride(), to.stride());
}

}  // namespace

const OperationType REPEAT = {"repeat", Cells::values, Named::no, 1, load, run};

}  // namespace bitsr
