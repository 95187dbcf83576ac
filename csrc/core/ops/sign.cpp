/* sign OUT IN [NAME]: bits of int16 values, by a threshold a channel or 0. */
#include "core/ops.h"
#include "kernels/rows.h"

namespace bitsr {
namespace {

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  Array<int16_t>& threshold = op.add_settings<Sign>().threshold;
  if (in.channels == 1) fail("sign of a plane");
  loader.budget.allocate(threshold, size_t(in.stride()));
  if (!op.name.empty())
    loader.channel_values(threshold,
                          loader.need(op.name + ".threshold", "I16", {uint64_t(in.channels)}),
                          in.stride(), op.name);
  op.output = loader.make(line.out, Cells::bits, in.channels, in.rate);
}

void run(Rows& rows, const Operation& op, int y, uint64_t*) {
  const int stride = rows.model.buffer(op.inputs[0]).stride();
  sign_row(rows.values(op.inputs[0], y), op.get<Sign>().threshold.data(), rows.bits(op.output, y),
           rows.width(op), stride);
}

}  // namespace

const OperationType SIGN = {"sign", Cells::values, Named::maybe, 1, load, run};

}  // namespace bitsr
