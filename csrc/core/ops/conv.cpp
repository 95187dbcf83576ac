/* conv OUT IN NAME shift=S [edge=1]: int16 convolution, with a slope where the file has one. */
#include <algorithm>

#include "core/ops.h"
#include "kernels/rows.h"

namespace bitsr {
namespace {

void load_weights(Loader& loader, Operation& op, const Buffer& in) {
  Conv& c = op.get<Conv>();
  const std::string name = op.name + ".weight";
  const auto& shape = loader.shape_of(name);
  check_kernel(shape, name, MAX_K);
  c.cout = int(shape[0]);
  c.k = int(shape[1]);
  c.cin = in.channels;
  const Tensor& w = loader.need(name, "I16", {shape[0], shape[1], shape[1], uint64_t(in.channels)});
  const Tensor& b = loader.need(op.name + ".bias", "I32", {shape[0]});
  op.side = c.k / 2;
  const int stride = in.stride();
  c.run = round_up(c.k * stride, 2);
  c.dots = c.cout == 1 && stride > 1;
  loader.budget.allocate(c.weight,
                         (c.dots ? 1 : size_t(round_up(c.cout, 16))) * size_t(c.k * c.run));
  loader.budget.allocate(c.bias, size_t(round_up(c.cout, 16)));
  std::memcpy(c.bias.data(), b.data, b.bytes);
  if (const Tensor* t = loader.find(op.name + ".slope", "I16", {shape[0]}))
    loader.channel_values(c.slope, *t, c.cout == 1 ? 1 : round_up(c.cout, 64), op.name + ".slope");
  for (int o = 0; o < c.cout; o++)
    for (int tap = 0; tap < c.k * c.k; tap++)
      for (int i = 0; i < c.cin; i++) {
        int16_t v;
        std::memcpy(&v,
                    w.data + 2 * ((size_t(o) * size_t(c.k * c.k) + size_t(tap)) * size_t(c.cin) +
                                  size_t(i)),
                    2);
        c.weight[c.at(o, tap / c.k, tap % c.k * stride + i)] = v;
      }
}

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  Conv& c = op.add_settings<Conv>();
  c.shift = line.number("shift", 1, 30, "a shift");
  load_weights(loader, op, in);
  if (line.number_or("edge", 0, 0, 1, "edge")) {
    if (in.channels != 1) fail("only the convolution of a plane reads beyond the edge");
    c.edge = true;
  }
  op.output = loader.make(line.out, Cells::values, c.cout, in.rate);
}

/* The rows of a plane go through scratch: there they get the value behind their last run, and their
 * edges. So do values that only a quant wants. */
void run_plane(Rows& rows, const Operation& op, int y, int w, ConvRow row, uint64_t* scratch) {
  constexpr int LONG = CHUNK + MAX_K;
  const Conv& c = op.get<Conv>();
  const int side = c.k / 2, last = rows.h * rows.model.buffer(op.inputs[0]).rate - 1;
  auto* copies = reinterpret_cast<int16_t*>(scratch);
  constexpr size_t VALUES_AT = (MAX_K * LONG + 31) / 32 * 32;
  static_assert((VALUES_AT + CHUNK * FUSED_MOST) * sizeof(int16_t) <= SCRATCH * 8);
  for (int from = 0; from < w; from += CHUNK) {
    row.w = std::min(CHUNK, w - from);
    const int n = row.w + 2 * side;
    const bool beyond = c.edge && (from < side || from + row.w + side > w);
    for (int i = 0; i < c.k; i++) {
      const int above = y + i - side;
      const int16_t* x = rows.values(op.inputs[0], c.edge ? std::clamp(above, 0, last) : above);
      int16_t* copy = copies + i * LONG;
      if (beyond)
        for (int j = 0; j < n; j++) copy[j] = x[std::clamp(from - side + j, 0, w - 1)];
      else
        std::memcpy(copy, x + from - side, size_t(n) * 2);
      copy[n] = 0;
      row.rows[i] = copy;
    }
    row.out = op.output >= 0 ? rows.values(op.output, y) + size_t(from) * size_t(row.out_stride)
                             : copies + VALUES_AT;
    rows.model.kernels->conv(c, row);
    if (c.slope.size()) prelu_row(row.out, c.slope.data(), row.w, c.cout, row.out_stride);
    if (op.quant)
      rows.model.kernels->quant(*op.quant, row.out, row.w,
                                rows.bytes(op.fused, y) + from * op.quant->stride());
  }
}

void run(Rows& rows, const Operation& op, int y, uint64_t* scratch) {
  const Conv& c = op.get<Conv>();
  const int w = rows.width(op), stride = rows.model.buffer(op.inputs[0]).stride();
  ConvRow row;
  row.out_stride = c.cout == 1 ? 1 : round_up(c.cout, 64);
  row.step = stride;
  if (stride == 1) {
    run_plane(rows, op, y, w, row, scratch);
  } else {
    for (int i = 0; i < c.k; i++)
      row.rows[i] = rows.values(op.inputs[0], y + i - c.k / 2) - c.k / 2 * stride;
    row.w = w;
    row.out = rows.values(op.output, y);
    rows.model.kernels->conv(c, row);
    if (c.slope.size()) prelu_row(row.out, c.slope.data(), w, c.cout, row.out_stride);
  }
}

}  // namespace

const OperationType CONV = {"conv", Cells::values, Named::yes, 1, load, run};

}  // namespace bitsr
