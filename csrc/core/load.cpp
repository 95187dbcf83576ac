/* The model file: operations are loaded line by line, nothing taken on trust, then planned. */
#include "core/load.h"

#include <algorithm>
#include <memory>

#include "core/ops.h"

namespace bitsr {
namespace {

/* A few bytes can ask for much memory: operations may share tensors, and channels are padded. A
 * model may take OPEN_FLOOR bytes and OPEN_FACTOR times its file. Real nets stay far below:
 * E2FIF-SRResNet x4 takes 2.6 times its file. */
constexpr uint64_t OPEN_FLOOR = 64u << 20, OPEN_FACTOR = 8;
constexpr size_t MAX_WORDS = 16; /* of an operation's line */

/* KIND OUT IN [NAME] [key=value ...]; the grammar is in docs/model-file.md. */
void load_operation(Loader& loader, const std::vector<std::string>& words) {
  const OperationType& type = operation_type(words[0]);
  Line line(words[0], words[1]);
  Operation op;
  op.type = &type;
  op.inputs = {loader.buffer(words[2])};
  const Buffer in = loader.model.buffer(op.inputs[0]);
  size_t used = 3;
  if (type.named == Named::yes) {
    if (words.size() < 4) fail("operation '" + line.kind + "' has no name");
    op.name = words[used++];
  } else if (type.inputs != 1) {
    if (words.size() < 4) fail("operation '" + line.kind + "' has one input");
    if (type.inputs == 2) op.inputs.push_back(loader.buffer(words[used++]));
    while (type.inputs == MANY && used < words.size() && words[used].find('=') == std::string::npos)
      op.inputs.push_back(loader.buffer(words[used++]));
  } else if (type.named == Named::maybe && words.size() > 3) {
    op.name = words[used++];
  }
  for (; used < words.size(); used++) line.add(words[used]);
  if (in.cells != type.reads) fail("operation '" + line.kind + "' reads the wrong kind of buffer");
  if (in.scale_maps && !type.reads_scale_maps)
    fail("operation '" + line.kind + "' reads several maps");
  type.load(loader, line, op);
  line.done();
  op.radius = (op.side + in.rate - 1) / in.rate;
  loader.model.operations.push_back(std::move(op));
}

std::vector<std::string> words_of(const std::string& line) {
  static const char blank[] = " \t\v\f\r";
  std::vector<std::string> words;
  size_t at = line.find_first_not_of(blank);
  while (at != std::string::npos) {
    if (words.size() == MAX_WORDS) fail("operation '" + line.substr(0, 60) + "' is too long");
    const size_t end = line.find_first_of(blank, at);
    words.push_back(line.substr(at, end - at));
    at = line.find_first_not_of(blank, end);
  }
  return words;
}

void load_operations(Loader& loader) {
  add_input_operation(loader.model);
  const auto found = loader.file.metadata.find("ops");
  if (found == loader.file.metadata.end()) fail("no operations in the metadata");
  const std::string& text = found->second;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    const std::vector<std::string> words = words_of(line);
    if (words.empty()) continue;
    if (loader.model.operations.size() >= size_t(MAX_OPERATIONS)) fail("too many operations");
    if (words.size() < 3) fail("operation '" + line.substr(0, 60) + "' is too short");
    load_operation(loader, words);
  }
}

}  // namespace

/* ---- a line ---- */

void Line::add(const std::string& argument) {
  const size_t eq = argument.find('=');
  if (eq == std::string::npos) fail("operation '" + kind + "' has an argument without '='");
  if (!keys_.emplace(argument.substr(0, eq), argument.substr(eq + 1)).second)
    fail("an argument is given twice");
}

std::string Line::take(const char* key) {
  const auto it = keys_.find(key);
  std::string v = it == keys_.end() ? "" : it->second;
  if (it != keys_.end()) keys_.erase(it);
  return v;
}

int Line::number_of(const std::string& text, int low, int high, const char* what) {
  int v = 0;
  if (text.empty() || text.size() > 6 ||
      text.find_first_not_of("0123456789") != std::string::npos || (v = std::stoi(text)) < low ||
      v > high)
    fail(std::string(what) + " is out of range");
  return v;
}

int Line::number_or(const char* key, int otherwise, int low, int high, const char* what) {
  const std::string text = take(key);
  return text.empty() ? otherwise : number_of(text, low, high, what);
}

void Line::done() const {
  if (!keys_.empty())
    fail("operation '" + kind + "' has an unknown argument '" + keys_.begin()->first.substr(0, 40) +
         "'");
}

/* ---- tensors ---- */

const Tensor* Loader::find(const std::string& name, const char* dtype,
                           const std::vector<uint64_t>& shape) const {
  const auto it = file.tensors.find(name);
  if (it == file.tensors.end()) return nullptr;
  if (it->second.dtype != dtype) fail("tensor " + name + " has the wrong type");
  if (it->second.shape != shape) fail("tensor " + name + " has the wrong shape");
  return &it->second;
}

const Tensor& Loader::need(const std::string& name, const char* dtype,
                           const std::vector<uint64_t>& shape) const {
  const Tensor* t = find(name, dtype, shape);
  if (!t) fail("tensor " + name + " is missing");
  return *t;
}

const std::vector<uint64_t>& Loader::shape_of(const std::string& name) const {
  const auto it = file.tensors.find(name);
  if (it == file.tensors.end()) fail("tensor " + name + " is missing");
  return it->second.shape;
}

void Loader::channel_values(Array<int16_t>& out, const Tensor& t, int padded,
                            const std::string& name) {
  budget.allocate(out, size_t(padded));
  std::memcpy(out.data(), t.data, t.bytes);
  for (size_t i = 0; i < out.size(); i++)
    if (out[i] == INT16_MIN) fail("tensor " + name + " holds -32768");
}

/* ---- buffers ---- */

int Loader::buffer(const std::string& name) const {
  for (size_t i = 0; i < model.buffers.size(); i++)
    if (model.buffers[i].name == name) return int(i);
  fail("operation reads '" + name.substr(0, 40) + "', which nothing makes");
}

int Loader::make(const std::string& name, Cells cells, int channels, int rate) {
  for (const Buffer& b : model.buffers)
    if (b.name == name) fail("'" + name.substr(0, 40) + "' is made twice");
  if (channels < 1 || channels > MAX_CHANNELS)
    fail("an operation makes an impossible number of channels");
  if (rate < 1 || rate > MAX_SCALE) fail("an operation makes an impossible scale");
  Buffer b;
  b.name = name;
  b.cells = cells;
  b.channels = channels;
  b.rate = rate;
  b.producer = int(model.operations.size());
  model.buffers.push_back(b);
  return int(model.buffers.size()) - 1;
}

int Loader::add_input(Operation& op, const std::string& name, int channels, int rate,
                      bool scale_maps) const {
  if (name.empty()) return -1;
  const int input = buffer(name);
  const Buffer& b = model.buffer(input);
  if (!b.values() || b.channels != channels || b.rate != rate || b.scale_maps != scale_maps)
    fail("'" + name.substr(0, 40) + "' does not fit");
  op.inputs.push_back(input);
  return input;
}

/* ---- the file ---- */

void open_model(Model& model, const uint8_t* bytes, size_t n, const Kernels* kernels) {
  const File file = parse_safetensors(bytes, n);
  const auto format = file.metadata.find("format");
  if (format == file.metadata.end()) fail("not a .bsr file: no format in the metadata");
  if (format->second != "bitsr 1")
    fail("format '" + format->second.substr(0, 20) +
         "' is not one that this version reads (bitsr 1)");
  const auto chroma = file.metadata.find("chroma");
  model.smooth = chroma != file.metadata.end() && chroma->second == "smooth";
  model.kernels = kernels;
  Loader loader{model, file, Budget(OPEN_FLOOR + OPEN_FACTOR * uint64_t(n))};
  load_operations(loader);
  plan(loader, n);
}

}  // namespace bitsr

extern "C" {

bitsr_model* bitsr_model_open(const void* bytes, size_t n, const char* isa, char* err, size_t cap) {
  return bitsr::guarded<bitsr_model*>(nullptr, err, cap, [&]() -> bitsr_model* {
    const bitsr::Kernels* kernels = isa ? bitsr::path(isa) : bitsr::path(0);
    if (!kernels)
      bitsr::fail(isa ? "this CPU has no path of that name" : "this CPU has no path at all");
    std::unique_ptr<bitsr_model> model(new bitsr_model());
    bitsr::open_model(*model, static_cast<const uint8_t*>(bytes), n, kernels);
    return model.release();
  });
}
void bitsr_model_close(bitsr_model* model) { delete model; }
int bitsr_model_scale(const bitsr_model* model) { return model->scale; }
int bitsr_model_radius(const bitsr_model* model) { return model->radius; }
int bitsr_model_smooth(const bitsr_model* model) { return model->smooth; }
const char* bitsr_model_isa(const bitsr_model* model) { return model->kernels->name; }
}
