/* qconv OUT BYTES NAME [shift=S] [left=L] [skip=X]: int8 convolution with its epilogue. */
#include <algorithm>

#include "core/ops.h"

namespace bitsr {
namespace {

/* Qconv::groups of 16 filters, as long as they can be. Bytes being from 0 to 255, the sum of a pair
 * is largest where those of its positive weights are 255 and the others 0. */
void find_groups(const Qconv& q, int filter, uint16_t* groups) {
  constexpr int MOST = INT16_MAX / 255;
  uint16_t* next = groups;
  for (int dy = 0; dy < q.k; dy++) {
    int sums[32][2] = {}; /* of a pair's positive and negative weights */
    uint16_t length = 0;
    for (int at = 0; at < q.run; at += 4, length++) {
      int own[32][2] = {}, alone = 0, together = 0;
      const int8_t* w = q.weight.data() + q.at(filter, dy, at);
      for (int i = 0; i < 64; i++) own[i / 2][w[i] < 0] += w[i] < 0 ? -w[i] : w[i];
      for (int i = 0; i < 64; i++) {
        alone = std::max(alone, own[i / 2][i % 2]);
        together = std::max(together, sums[i / 2][i % 2] + own[i / 2][i % 2]);
      }
      if (alone > MOST) {
        groups[0] = 0;
        return;
      }
      if (together > MOST) {
        *next++ = length;
        length = 0;
        std::memset(sums, 0, sizeof sums);
      }
      for (int i = 0; i < 64; i++) sums[i / 2][i % 2] += own[i / 2][i % 2];
    }
    *next++ = length;
  }
}

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
  int single = 1; /* the largest weight */
  for (int c = 0; c < q.cout; c++) {
    int32_t sum = 0;
    for (int tap = 0; tap < taps; tap++)
      for (int i = 0; i < q.cin; i++) {
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
        single = std::max(single, v < 0 ? -v : v);
      }
    q.bias[size_t(c)] = (q.right ? 1 << (q.right - 1) : 0) - 128 * sum;
  }
  q.singles = INT16_MAX / (127 * single);
  if (!q.dots) {
    const int quads = q.k * q.run / 4;
    loader.budget.allocate(q.groups, size_t(round_up(q.cout, 16) / 16) * size_t(quads));
    for (int c = 0; c < q.cout; c += 16) find_groups(q, c, q.groups.data() + c / 16 * quads);
  }
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
  row.out = op.output >= 0 ? rows.values(op.output, y) : nullptr;
  row.bits = nullptr;
  row.quant = op.quant.get();
  row.bytes = op.quant ? rows.bytes(op.fused, y) : nullptr;
  row.scratch = scratch;
  rows.model.kernels->qconv(q, row);
}

}  // namespace

const OperationType QCONV = {"qconv", Cells::bytes, Named::yes, 1, load, run, prepare, 1};

}  // namespace bitsr
