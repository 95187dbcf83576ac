/* quant OUT IN NAME [shift=S] [max=M]: int16 values to bytes. */
#include "core/ops.h"

namespace bitsr {
namespace {

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  Quant& q = op.add_settings<Quant>();
  q.channels = in.channels;
  q.shift = line.number_or("shift", 0, 0, 14, "a shift");
  q.top = line.number_or("max", 127, 1, 127, "a maximum");
  loader.channel_values(q.mul, loader.need(op.name + ".mul", "I16", {uint64_t(in.channels)}),
                        in.stride(), op.name);
  op.output = loader.make(line.out, Cells::bytes, in.channels, in.rate);
}

void run(Rows& rows, const Operation& op, int y, uint64_t*) {
  rows.model.kernels->quant(op.get<Quant>(), rows.values(op.inputs[0], y), rows.width(op),
                            rows.bytes(op.output, y));
}

}  // namespace

const OperationType QUANT = {"quant", Cells::values, Named::yes, 1, load, run};

}  // namespace bitsr
