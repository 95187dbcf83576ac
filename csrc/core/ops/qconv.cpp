/* qconv OUT BYTES NAME [shift=S] [left=L] [skip=X]: int8 convolution with its epilogue. */
#include <algorithm>

#include "core/ops.h"

namespace bitsr {
namespace {

void load_weights(Loader& loader, Operation& op, const Buffer& in) {
  Qconv& q = op.get<Qconv>();
  const std::string name = op.name + ".weight";
  const auto& shape = loader.shape_of(name);
  check_kernel(shape, name, MAX_K);
  q.cout = int(shape[0]);
  q.k = int(shape[1]);
  q.cin = in.channels;
  q.cout_pad = q.cout == 1 ? 1 : round_up(q.cout, 64);
  q.stride = in.stride();
  q.run = q.k * q.stride;
  op.side = q.k / 2;
  const int taps = q.k * q.k, words = round_up(q.cin, 64) / 64;
  const bool ones = loader.file.tensors.at(name).dtype == "U64";
  const Tensor& w = loader.need(name, ones ? "U64" : "I8",
                                {shape[0], shape[1], shape[1], uint64_t(ones ? words : q.cin)});
  if (q.left && q.right) fail(op.name + ": shifts both ways");
  if (int64_t(taps) * q.cin * 128 * (ones ? 1 : 127) + (1 << q.right) > INT32_MAX)
    fail(op.name + ": its sums do not fit 32 bits");
  /* Few filters lie in the order that wastes fewer lanes; dots take them by fours, but a plane's
   * alone. */
  const int filters = q.cout == 1 ? 1 : round_up(q.cout, 4);
  q.dots = q.cout < 16 &&
           int64_t(filters) * round_up(q.run, DOT) < int64_t(round_up(q.cout, 16)) * q.run;
  loader.budget.allocate(q.weight, q.dots ? size_t(filters * q.k) * size_t(round_up(q.run, DOT))
                                          : size_t(round_up(q.cout, 16)) * size_t(q.k * q.run));
  loader.budget.allocate(q.bias, size_t(round_up(q.cout, 16)));
  int single = 1, pair = 1; /* the largest weight, and sum of two neighbours */
  for (int c = 0; c < q.cout; c++) {
    int32_t sum = 0;
    for (int tap = 0; tap < taps; tap++)
      for (int i = 0, before = 0; i < q.cin; i++) {
        const size_t pixel = size_t(c) * size_t(taps) + size_t(tap);
        int v;
        if (ones) {
          uint64_t word;
          std::memcpy(&word, w.data + 8 * (pixel * size_t(words) + size_t(i / 64)), 8);
          v = word >> (i % 64) & 1 ? -1 : 1;
          if (i == q.cin - 1 && i % 64 < 63 && word >> (i % 64 + 1))
            fail("tensor " + name + " has bits beyond its channels");
        } else {
          v = int8_t(w.data[pixel * size_t(q.cin) + size_t(i)]);
          if (v == -128) fail("tensor " + name + " holds -128");
        }
        q.weight[q.at(c, tap / q.k, tap % q.k * q.stride + i)] = int8_t(v);
        sum += v;
        const int size = v < 0 ? -v : v;
        single = std::max(single, size);
        pair = std::max(pair, size + (i % 2 ? before : 0));
        before = size;
      }
    q.bias[size_t(c)] = (q.right ? 1 << (q.right - 1) : 0) - 128 * sum;
  }
  q.pairs = INT16_MAX / (255 * pair);
  q.singles = INT16_MAX / (127 * single);
  load_epilogue(loader, q, op.name, q.cout);
}

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  Qconv& q = op.add_settings<Qconv>();
  const std::string skip = line.take("skip");
  q.right = line.number_or("shift", 0, 0, 24, "a shift");
  q.left = line.number_or("left", 0, 0, 14, "a shift");
  load_weights(loader, op, in);
  op.skip = loader.add_input(op, skip, q.cout, in.rate);
  op.output = loader.make(line.out, Cells::values, q.cout, in.rate);
}

void prepare(Loader& loader, Operation& op) {
  Qconv& q = op.get<Qconv>();
  if (q.cout > 1) prepare_epilogue(loader, q);
}

void run(Rows& rows, const Operation& op, int y, uint64_t* scratch) {
  const Qconv& q = op.get<Qconv>();
  QconvRow row;
  for (int i = 0; i < q.k; i++) row.rows[i] = rows.bytes(op.inputs[0], y + i - op.side);
  row.w = rows.width(op);
  row.skip = op.skip >= 0 ? rows.values(op.skip, y) : nullptr;
  row.map = nullptr;
  row.out = rows.values(op.output, y);
  row.bits = nullptr;
  row.scratch = scratch;
  rows.model.kernels->qconv(q, row);
}

}  // namespace

const OperationType QCONV = {"qconv", Cells::bytes, Named::yes, 1, load, run, prepare, 1};

}  // namespace bitsr
