/* From loaded operations to a plan: signs and quants fused, delays and levels found, memory laid
 * out. */
#include <algorithm>

#include "core/ops.h"

namespace bitsr {
namespace {

/* The rows in flight of a model may take COLUMN_FLOOR bytes and COLUMN_FACTOR times its file for
 * each LR column. Of a net with channel attention each LR pixel may keep PIXEL_MOST. Real nets stay
 * far below: E2FIF-SRResNet x4 takes 0.1 times its file a column. */
constexpr uint64_t COLUMN_FLOOR = 5u << 20, COLUMN_FACTOR = 4, PIXEL_MOST = 64u << 10;

std::vector<int> readers_of(const Model& m, int buffer) {
  std::vector<int> out;
  for (size_t i = 0; i < m.operations.size(); i++)
    for (const int in : m.operations[i].inputs)
      if (in == buffer && (out.empty() || out.back() != int(i))) out.push_back(int(i));
  return out;
}

/* Whether nobody reads what op reads once op has begun with a row of it: a pooling or a map that it
 * waits for is done. */
bool only_reader(const Model& m, const Operation& op, int input) {
  for (const int i : readers_of(m, input)) {
    const Operation& reader = m.operation(i);
    const bool waited =
        i == op.gate || (op.map >= 0 && reader.type == &SCALE_MAP && reader.output == op.map);
    if (&reader != &op && !waited) return false;
  }
  return true;
}

/* Whether a convolution can make what a sign or quant makes of its output. */
bool can_fuse(const Model& m, const Operation& from, const Operation& next) {
  if (from.fused >= 0) return false;
  if (next.type == &SIGN) return from.type == &BCONV;
  const int channels = m.buffer(from.output).channels;
  return next.type == &QUANT && channels > 1 && channels <= FUSED_MOST &&
         (from.type == &QCONV || (from.type == &CONV && m.buffer(from.inputs[0]).channels == 1));
}

/* A sign or quant of what a convolution makes becomes that convolution's second output. */
void fuse(Model& m) {
  std::vector<bool> gone(m.operations.size());
  for (size_t i = 0; i < m.operations.size(); i++) {
    Operation& next = m.operations[i];
    if (next.type != &SIGN && next.type != &QUANT) continue;
    const int source = next.inputs[0];
    Operation& from = m.operation(m.buffer(source).producer);
    if (!can_fuse(m, from, next)) continue;
    from.fused = next.output;
    if (next.type == &SIGN)
      from.get<Bconv>().threshold = std::move(next.get<Sign>().threshold);
    else
      from.quant = std::static_pointer_cast<const Quant>(next.settings);
    m.buffer(next.output).producer = m.buffer(source).producer;
    next.inputs.clear();
    gone[i] = true;
    if (readers_of(m, source).empty()) {
      m.buffer(source).producer = UNUSED;
      from.output = -1;
    }
  }
  std::vector<int> index(m.operations.size());
  std::vector<Operation> kept;
  for (size_t i = 0; i < m.operations.size(); i++) {
    index[i] = int(kept.size());
    if (!gone[i]) kept.push_back(std::move(m.operations[i]));
  }
  m.operations = std::move(kept);
  for (Operation& op : m.operations)
    if (op.gate >= 0) op.gate = index[size_t(op.gate)];
  for (Buffer& b : m.buffers)
    if (b.producer >= 0) b.producer = index[size_t(b.producer)];
}

/* Delays: of what an operation reads, the last row is made in the same pass or an earlier one. */
void find_delays(Model& m) {
  std::vector<double> reach(m.operations.size());
  for (size_t i = 1; i < m.operations.size(); i++) {
    Operation& op = m.operations[i];
    for (size_t j = 0; j < op.inputs.size(); j++) {
      const Buffer& b = m.buffer(op.inputs[j]);
      const int radius = j ? 0 : op.radius;
      op.delay = std::max(op.delay, m.operation(b.producer).delay + radius);
      op.level = std::max(op.level, m.operation(b.producer).level + (op.gate >= 0 ? 1 : 0));
      reach[i] = std::max(reach[i], reach[size_t(b.producer)] + double(j ? 0 : op.side) / b.rate);
    }
  }
  m.levels.resize(size_t(m.operations.back().level) + 1);
  for (size_t i = 0; i < m.operations.size(); i++)
    m.levels[size_t(m.operations[i].level)].push_back(int(i));
  m.radius = m.levels.size() > 1 ? -1 : int(reach.back() + 0.999);
  m.lag = m.operations.back().delay;
}

/* An operation works in place on its skip (or on what it adds to, or attends to once it is pooled)
 * when nobody else reads it then and its pixels are as long. */
void find_storages(Model& m) {
  for (size_t i = 0; i < m.buffers.size(); i++) {
    Buffer& b = m.buffers[i];
    if (b.producer == UNUSED || i + 1 == m.buffers.size())
      continue; /* unused, or straight into the caller's rows */
    const Operation& op = m.operation(b.producer);
    const int from = op.type->in_place_from;
    if (b.values() && from != NONE)
      for (size_t j = size_t(from); j < op.inputs.size(); j++) {
        const Buffer& source = m.buffer(op.inputs[j]);
        if (source.storage >= 0 && source.producer > 0 && only_reader(m, op, op.inputs[j]) &&
            b.storage < 0 && source.channels > 1 && source.stride() == b.stride())
          b.storage = source.storage;
      }
    if (b.storage < 0) {
      Storage s;
      s.cell = b.cell();
      s.channels = b.channels;
      s.stride = b.stride();
      s.rate = b.rate;
      s.writer = b.producer;
      b.storage = int(m.storages.size());
      m.storages.push_back(s);
    }
    m.storages[size_t(b.storage)].readers = readers_of(m, int(i));
  }
  for (const Operation& op : m.operations)
    if (!op.inputs.empty()) {
      Storage& s = m.storages[size_t(m.buffer(op.inputs[0]).storage)];
      s.margin = std::max(s.margin, op.side);
    }
}

/* How many rows each storage keeps, and which of those that hold the whole image share memory. */
void find_memories(Model& m) {
  for (size_t i = 0; i < m.storages.size(); i++) {
    Storage& s = m.storages[i];
    const Operation& writer = m.operation(s.writer);
    int last = 0;
    for (const int r : s.readers) {
      const Operation& reader = m.operation(r);
      s.rows = std::max(s.rows, reader.delay + reader.radius - writer.delay);
      last = std::max(last, reader.level);
    }
    s.whole = last > writer.level;
    s.memory = int(m.memories.size());
    if (s.whole)
      for (size_t k = 0; k < m.memories.size(); k++) {
        const Storage& old = m.storages[size_t(m.memories[k].storage)];
        if (old.whole && m.memories[k].level < writer.level && old.cell == s.cell &&
            old.channels == s.channels && old.stride == s.stride && old.rate == s.rate &&
            old.margin == s.margin) {
          s.memory = int(k);
          s.before = old.readers;
          break;
        }
      }
    m.memories.resize(std::max(m.memories.size(), size_t(s.memory) + 1));
    m.memories[size_t(s.memory)].storage = int(i);
    m.memories[size_t(s.memory)].level = last;
  }
}

void check_memory(const Model& m, Budget& budget, uint64_t file_bytes) {
  uint64_t column = 0, pixel = 0, rows = 0;
  for (const Memory& memory : m.memories) {
    const Storage& s = m.storages[size_t(memory.storage)];
    const uint64_t cells = uint64_t(s.stride * s.cell) * uint64_t(s.rate * s.rate);
    if (s.whole) {
      pixel += cells;
      continue;
    }
    column += cells * uint64_t(s.rows + MAX_PASS);
    rows = std::max(rows, uint64_t(s.rows + MAX_PASS));
  }
  if (column > COLUMN_FLOOR + COLUMN_FACTOR * file_bytes)
    fail("the rows in flight need more memory than a file of its size may");
  if (pixel > PIXEL_MOST) fail("what attention keeps of each pixel needs more memory than it may");
  budget.charge(4 * rows * m.operations.size() * sizeof(int)); /* a stream's progress */
}

}  // namespace

void plan(Loader& loader, uint64_t file_bytes) {
  Model& m = loader.model;
  const Buffer sr = m.buffers.back();
  if (m.operations.size() < 2 || sr.name != "sr" || sr.cells == Cells::bits || sr.channels != 1 ||
      m.operations.back().type != &SHUFFLE)
    fail("the last operation does not shuffle into 'sr'");
  m.scale = sr.rate;
  fuse(m);
  for (Operation& op : m.operations)
    if (op.type->prepare) op.type->prepare(loader, op);
  for (size_t i = 0; i + 1 < m.buffers.size(); i++)
    if (m.buffers[i].producer != UNUSED && readers_of(m, int(i)).empty())
      fail("nothing reads '" + m.buffers[i].name.substr(0, 40) + "'");
  find_delays(m);
  find_storages(m);
  find_memories(m);
  check_memory(m, loader.budget, file_bytes);
}

}  // namespace bitsr
