/* map OUT IN NAME shift=S [maps=8] [turns=8]: scale maps, weighted sums of the sizes of a pixel's
 * channels. */
#include "core/ops.h"
#include "core/symmetry.h"

namespace bitsr {
namespace {

void load_weights(Loader& loader, ScaleMap& map, const std::string& name, const Buffer& in,
                  int orientations) {
  const uint64_t channels = uint64_t(in.channels);
  if (orientations > map.maps) fail("one map does not turn");
  const int stored = map.maps / orientations;
  const auto shape =
      stored > 1 ? std::vector<uint64_t>{MAPS, channels} : std::vector<uint64_t>{channels};
  const Tensor& w = loader.need(name, "I16", shape);
  map.stride = in.stride();
  loader.budget.allocate(map.weight, size_t(map.maps) * size_t(map.stride));
  for (int j = 0; j < map.maps; j++)
    for (int c = 0; c < in.channels; c++) {
      int16_t v;
      std::memcpy(&v, w.data + 2 * (size_t(j / orientations) * size_t(in.channels) + size_t(c)), 2);
      if (v == INT16_MIN) fail("tensor " + name + " holds -32768");
      const int to = orientations > 1 ? oriented_channel(j, c) : c;
      map.weight[size_t((to / 64 * map.maps + j) * 64 + to % 64)] = v;
    }
}

void load(Loader& loader, Line& line, Operation& op) {
  const Buffer in = loader.model.buffer(op.inputs[0]);
  ScaleMap& map = op.add_settings<ScaleMap>();
  if (in.channels == 1) fail("the map of a plane");
  map.shift = line.number("shift", 1, 30, "a shift");
  map.maps = line.number_or("maps", 1, MAPS, MAPS, "a number of maps");
  load_weights(loader, map, op.name + ".weight", in, orientations_of(line.take("turns"), in));
  op.output = loader.make(line.out, Cells::values, map.maps, in.rate);
  loader.model.buffers.back().scale_maps = map.maps > 1;
}

void run(Rows& rows, const Operation& op, int y, uint64_t*) {
  rows.model.kernels->scale_map(op.get<ScaleMap>(), rows.values(op.inputs[0], y), rows.width(op),
                                rows.values(op.output, y));
}

}  // namespace

const OperationType SCALE_MAP = {"map", Cells::values, Named::yes, 1, load, run};

}  // namespace bitsr
