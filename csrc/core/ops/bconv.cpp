/* bconv OUT BITS NAME shift=L [skip=X] [map=M] [turns=8]: binary convolution with its epilogue. */
#include "core/ops.h"
#include "core/symmetry.h"

namespace bitsr {
namespace {

/* Filters of the first orientation, where they lie one after another, to those of all. */
void expand_symmetric(Bconv& b, int stored) {
  const int taps = b.k * b.k;
  const size_t filter = size_t(taps * b.words);
  const std::vector<uint64_t> first(b.weight.data(), b.weight.data() + size_t(stored) * filter);
  std::memset(b.weight.data(), 0, 8 * size_t(b.cout) * filter);
  for (int i = 0; i < ORIENTATIONS; i++)
    for (int c = 0; c < b.cin; c++) {
      const int to = oriented_channel(i, c);
      for (int tap = 0; tap < taps; tap++) {
        const size_t from = size_t(tap * b.words + c / 64),
                     at = size_t(oriented_tap(i, b.k, tap) * b.words + to / 64);
        for (int f = 0; f < stored; f++)
          b.weight[size_t(ORIENTATIONS * f + i) * filter + at] |=
              (first[size_t(f) * filter + from] >> (c % 64) & 1) << (to % 64);
      }
    }
}

/* A missing tap is read as +1 (bit 0): take its 64 - 2 popcount(w) out of the sum. */
void load_base(Loader& loader, Bconv& b) {
  const int taps = b.k * b.k;
  loader.budget.allocate(b.base, size_t(16 * b.cout_pad));
  for (int where = 0; where < 16; where++)
    for (int c = 0; c < b.cout; c++) {
      int sum = 0;
      for (int tap = 0; tap < taps; tap++) {
        const int dy = tap / b.k - b.k / 2, dx = tap % b.k - b.k / 2;
        const bool missing = (dy < 0 && where & 1) || (dy > 0 && where & 2) ||
                             (dx < 0 && where & 4) || (dx > 0 && where & 8);
        int ones = 0;
        for (int i = 0; i < b.words; i++)
          ones += __builtin_popcountll(
              b.weight[(size_t(c) * size_t(taps) + size_t(tap)) * size_t(b.words) + size_t(i)]);
        sum += missing ? 2 * ones : b.cin;
      }
      b.base[size_t(where * b.cout_pad + c)] = int16_t(sum * (1 << b.shift));
    }
}

void load_weights(Loader& loader, Operation& op, const Buffer& in, int orientations) {
  Bconv& b = op.get<Bconv>();
  const std::string name = op.name + ".weight";
  const auto& shape = loader.shape_of(name);
  check_kernel(shape, name, 3);
  const int stored = int(shape[0]);
  b.cout = stored * orientations;
  if (b.cout > MAX_CHANNELS) fail("tensor " + name + " makes too many channels");
  b.k = int(shape[1]);
  b.cin = in.channels;
  b.words = in.stride();
  b.cout_pad = round_up(b.cout, 64);
  const int taps = b.k * b.k;
  if ((taps * b.cin) << b.shift > INT16_MAX || 2 * taps * 64 * b.words > INT16_MAX)
    fail(op.name + ": its sums do not fit 16 bits");
  const Tensor& w = loader.need(name, "U64", {shape[0], shape[1], shape[1], uint64_t(b.words)});
  loader.budget.allocate(b.weight, size_t(b.cout_pad) * size_t(taps * b.words));
  std::memcpy(b.weight.data(), w.data, w.bytes);
  const uint64_t padding = b.cin % 64 ? ~uint64_t(0) << (b.cin % 64) : 0;
  for (int i = b.words - 1; i < stored * taps * b.words; i += b.words)
    if (b.weight[size_t(i)] & padding) fail("tensor " + name + " has bits beyond its channels");
  if (orientations > 1) expand_symmetric(b, stored);

  load_epilogue(loader, b, op.name, b.cout);
  op.side = b.k / 2;
  load_base(loader, b);
}

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  Bconv& b = op.add_settings<Bconv>();
  const std::string skip = line.take("skip"), map = line.take("map"), shift = line.take("shift"),
                    turns = line.take("turns");
  b.shift = Line::number_of(shift, 0, 14, "a shift");
  load_weights(loader, op, in, orientations_of(turns, in));
  op.skip = loader.add_input(op, skip, b.cout, in.rate);
  const bool several = !map.empty() && loader.model.buffer(loader.buffer(map)).scale_maps;
  b.maps = several ? MAPS : 1;
  op.map = loader.add_input(op, map, b.maps, in.rate, several);
  if (b.cout == 1) fail("a binary convolution makes one channel");
  op.output = loader.make(line.out, Cells::values, b.cout, in.rate);
}

void prepare(Loader& loader, Operation& op) {
  Bconv& b = op.get<Bconv>();
  prepare_epilogue(loader, b);
  loader.budget.charge(2 * b.weight.size() * sizeof(uint64_t)); /* no path's own order takes more */
  if (!loader.model.kernels->prepare(b)) no_memory();
}

void run(Rows& rows, const Operation& op, int y, uint64_t* scratch) {
  BconvRow row;
  for (int i = 0; i < 3; i++)
    row.rows[i] = rows.bits(op.inputs[0], op.side || i == 1 ? y + i - 1 : -1);
  row.w = rows.width(op);
  row.top = y == 0;
  row.bottom = y == rows.h * rows.model.buffer(op.inputs[0]).rate - 1;
  row.skip = op.skip >= 0 ? rows.values(op.skip, y) : nullptr;
  row.map = op.map >= 0 ? rows.values(op.map, y) : nullptr;
  row.out = op.output >= 0 ? rows.values(op.output, y) : nullptr;
  row.bits = op.fused >= 0 ? rows.bits(op.fused, y) : nullptr;
  row.scratch = scratch;
  rows.model.kernels->bconv(op.get<Bconv>(), row);
}

}  // namespace

const OperationType BCONV = {"bconv", Cells::bits, Named::yes, 1, load, run, prepare, 1};

}  // namespace bitsr
