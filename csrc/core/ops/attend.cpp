/* attend OUT IN NAME down=S up=S: channel attention. Two operations: one sums the channels of the
 * whole image and makes a gate of them, the other multiplies by it. */
#include "core/ops.h"
#include "kernels/rows.h"

namespace bitsr {
namespace {

void load_weights(Loader& loader, Attention& a, const std::string& name, int channels) {
  const auto& shape = loader.shape_of(name + ".down.weight");
  if (shape.size() != 2 || shape[0] < 1 || shape[0] > MAX_CHANNELS)
    fail("tensor " + name + ".down.weight has an impossible shape");
  a.channels = channels;
  a.hidden = int(shape[0]);
  loader.budget.charge(uint64_t(round_up(channels, 64)) *
                       (sizeof(int64_t) + 2 * sizeof(int16_t))); /* of a stream */
  const uint64_t c = uint64_t(channels), h = shape[0];
  loader.copy(a.down, loader.need(name + ".down.weight", "I16", {h, c}));
  loader.copy(a.down_bias, loader.need(name + ".down.bias", "I32", {h}));
  loader.channel_values(a.slope, loader.need(name + ".slope", "I16", {h}), a.hidden,
                        name + ".slope");
  loader.copy(a.up, loader.need(name + ".up.weight", "I16", {c, h}));
  loader.copy(a.up_bias, loader.need(name + ".up.bias", "I32", {c}));
}

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  if (in.channels == 1) fail("attention to a plane");
  Operation pool;
  pool.type = &POOL;
  pool.name = op.name;
  pool.inputs = op.inputs;
  Attention& a = pool.add_settings<Attention>();
  load_weights(loader, a, op.name, in.channels);
  a.down_shift = line.number("down", 1, 30, "a shift");
  a.up_shift = line.number("up", 1, 30, "a shift");
  op.gate = int(loader.model.operations.size());
  loader.model.operations.push_back(std::move(pool));
  op.output = loader.make(line.out, Cells::values, in.channels, in.rate);
}

std::unique_ptr<Gate> gate(const Operation& pool) {
  return std::make_unique<Gate>(pool.get<Attention>());
}

void sum(Rows& rows, const Operation& pool, int y, uint64_t*) {
  const int h = rows.h * rows.model.buffer(pool.inputs[0]).rate;
  rows.gate_of(pool).add(rows.values(pool.inputs[0], y), h, rows.width(pool));
}

void multiply(Rows& rows, const Operation& op, int y, uint64_t*) {
  const size_t stride = size_t(rows.model.buffer(op.inputs[0]).stride());
  scale_row(rows.values(op.inputs[0], y), rows.gate_of(rows.model.operation(op.gate)).values(),
            rows.values(op.output, y), size_t(rows.width(op)), stride);
}

}  // namespace

const OperationType POOL = {"",  Cells::values, Named::yes, 1,     nullptr,
                            sum, nullptr,       NONE,       false, gate};
const OperationType ATTEND = {"attend", Cells::values, Named::yes, 1, load, multiply, nullptr, 0};

}  // namespace bitsr
