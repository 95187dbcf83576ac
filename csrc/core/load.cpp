/* The model file: read with nothing taken on trust, turned into a plan. */
#include "model.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <stdexcept>

#include "turns.h"

namespace bitsr {
namespace {

[[noreturn]] void fail(const std::string& why) { throw std::runtime_error(why); }

/* ---- safetensors: 8-byte little-endian length, JSON header, buffer ---- */

struct Tensor {
  std::string dtype;
  std::vector<uint64_t> shape;
  const uint8_t* data = nullptr;
  uint64_t bytes = 0;
};

struct File {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

/* The JSON that a safetensors header may hold: objects, strings, arrays of whole numbers. */
class Json {
 public:
  Json(const uint8_t* at, const uint8_t* end) : at_(at), end_(end) {}

  void expect(char c) {
    if (!take(c)) fail(std::string("broken header: expected '") + c + "'");
  }
  bool take(char c) {
    space();
    if (at_ == end_ || *at_ != uint8_t(c)) return false;
    at_++;
    return true;
  }
  bool done() {
    space();
    return at_ == end_;
  }

  std::string string() {
    expect('"');
    std::string out;
    for (;;) {
      if (at_ == end_) fail("broken header: a string without end");
      const uint8_t c = *at_++;
      if (c == '"') return out;
      if (c < 0x20) fail("broken header: control character in a string");
      if (c != '\\') {
        out += char(c);
        continue;
      }
      if (at_ == end_) fail("broken header: a string without end");
      const uint8_t e = *at_++;
      static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
      if (e == 'u') {
        utf8(out, hex4());
      } else if (const char* p = e ? std::strchr(from, e) : nullptr) {
        out += to[p - from];
      } else {
        fail("broken header: unknown escape in a string");
      }
    }
  }

  uint64_t number() {
    space();
    if (at_ == end_ || *at_ < '0' || *at_ > '9') fail("broken header: expected a whole number");
    uint64_t v = 0;
    while (at_ != end_ && *at_ >= '0' && *at_ <= '9') {
      const unsigned d = *at_++ - '0';
      if (v > (UINT64_MAX - d) / 10) fail("broken header: number too large");
      v = v * 10 + d;
    }
    return v;
  }

  std::vector<uint64_t> numbers(size_t most) {
    std::vector<uint64_t> out;
    expect('[');
    if (take(']')) return out;
    do {
      if (out.size() == most) fail("broken header: array too long");
      out.push_back(number());
    } while (take(','));
    expect(']');
    return out;
  }

 private:
  void space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) at_++;
  }
  unsigned hex4() {
    unsigned v = 0;
    for (int i = 0; i < 4; i++) {
      if (at_ == end_) fail("broken header: a string without end");
      const int c = *at_++;
      const int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
      if (d < 0) fail("broken header: bad \\u escape");
      v = v * 16 + unsigned(d);
    }
    return v;
  }
  /* Names are compared byte for byte and surrogates never occur in ours, so each unit is encoded by itself. */
  static void utf8(std::string& out, unsigned u) {
    if (u < 0x80) {
      out += char(u);
    } else if (u < 0x800) {
      out += char(0xC0 | u >> 6);
      out += char(0x80 | (u & 63));
    } else {
      out += char(0xE0 | u >> 12);
      out += char(0x80 | (u >> 6 & 63));
      out += char(0x80 | (u & 63));
    }
  }

  const uint8_t *at_, *end_;
};

size_t size_of(const std::string& dtype) {
  static const std::pair<const char*, size_t> sizes[] = {{"U64", 8}, {"I64", 8}, {"F64", 8}, {"I32", 4}, {"U32", 4},
                                                         {"F32", 4}, {"I16", 2}, {"U16", 2}, {"F16", 2}, {"BF16", 2},
                                                         {"I8", 1},  {"U8", 1},  {"BOOL", 1}};
  for (const auto& s : sizes)
    if (dtype == s.first) return s.second;
  fail("tensor of unknown type '" + dtype.substr(0, 16) + "'");
}

File parse(const uint8_t* bytes, size_t n) {
  if (n < 8) fail("not a .bsr file: shorter than its length field");
  uint64_t header = 0;
  for (int i = 7; i >= 0; i--) header = header << 8 | bytes[i];
  if (header > n - 8 || header > (64u << 20)) fail("not a .bsr file: the header is longer than the file");
  const uint8_t* data = bytes + 8 + header;
  const uint64_t room = n - 8 - header;
  Json json(bytes + 8, data);
  File file;
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  json.expect('{');
  if (!json.take('}')) {
    do {
      const std::string name = json.string();
      json.expect(':');
      json.expect('{');
      if (name == "__metadata__") {
        if (json.take('}')) continue;
        do {
          const std::string key = json.string();
          json.expect(':');
          if (!file.metadata.emplace(key, json.string()).second) fail("broken header: metadata key twice");
        } while (json.take(','));
        json.expect('}');
        continue;
      }
      Tensor t;
      std::vector<uint64_t> span;
      bool shaped = false;
      do {
        const std::string key = json.string();
        json.expect(':');
        if (key == "dtype") {
          t.dtype = json.string();
        } else if (key == "shape") {
          t.shape = json.numbers(8);
          shaped = true;
        } else if (key == "data_offsets") {
          span = json.numbers(2);
        } else {
          fail("broken header: unknown key in a tensor");
        }
      } while (json.take(','));
      json.expect('}');
      if (t.dtype.empty() || !shaped || span.size() != 2) fail("broken header: incomplete tensor");
      if (span[0] > span[1] || span[1] > room) fail("a tensor lies outside the file");
      uint64_t want = size_of(t.dtype);
      for (const uint64_t d : t.shape) {
        if (d != 0 && want > room / d) fail("a tensor is larger than the file");
        want *= d;
      }
      if (want != span[1] - span[0]) fail("a tensor's size is not that of its shape");
      t.data = data + span[0];
      t.bytes = want;
      spans.emplace_back(span[0], span[1]);
      if (!file.tensors.emplace(name, std::move(t)).second) fail("broken header: tensor named twice");
    } while (json.take(','));
    json.expect('}');
  }
  if (!json.done()) fail("broken header: something follows its end");
  std::sort(spans.begin(), spans.end());
  uint64_t end = 0;
  for (const auto& s : spans) {
    if (s.first != end) fail("tensors overlap or leave holes");
    end = s.second;
  }
  if (end != room) fail("the file is longer or shorter than its tensors");
  return file;
}

/* ---- operations ---- */

/* Limits that keep every index and every sum inside its type. */
constexpr int MAX_CHANNELS = 4096, MAX_SCALE = 16, MAX_OPERATIONS = 4096;
/* A few bytes can ask for much memory: operations may share tensors, and channels are padded. A model may take
 * OPEN_FLOOR bytes and OPEN_FACTOR times its file, its rows in flight COLUMN_FLOOR and COLUMN_FACTOR times its
 * file for each LR column. Of a net with channel attention each LR pixel may keep PIXEL_MOST. Real nets stay far below:
 * E2FIF-SRResNet x4 takes 2.6 times its file, 0.1 times a column. */
constexpr uint64_t OPEN_FLOOR = 64u << 20, OPEN_FACTOR = 8, COLUMN_FLOOR = 5u << 20, COLUMN_FACTOR = 4;
constexpr uint64_t PIXEL_MOST = 64u << 10;
constexpr size_t MAX_WORDS = 16; /* of an operation's line */

class Builder {
 public:
  Builder(Model& model, const File& file, size_t bytes)
      : m_(model), file_(file), file_bytes_(bytes), memory_(OPEN_FLOOR + OPEN_FACTOR * uint64_t(bytes)) {}

  void build() {
    Buffer lr;
    lr.name = "lr";
    lr.channels = 1;
    lr.producer = 0;
    m_.buffers.push_back(lr);
    Operation input;
    input.name = "input";
    input.output = 0;
    m_.operations.push_back(std::move(input));

    const auto text = file_.metadata.find("ops");
    if (text == file_.metadata.end()) fail("no operations in the metadata");
    std::istringstream lines(text->second);
    lines.exceptions(std::ios::badbit); /* else a word that finds no memory is a word that is not there */
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      words.exceptions(std::ios::badbit);
      std::vector<std::string> args;
      for (std::string word; words >> word;) {
        if (args.size() == MAX_WORDS) fail("operation '" + line.substr(0, 60) + "' is too long");
        args.push_back(word);
      }
      if (args.empty()) continue;
      if (m_.operations.size() >= size_t(MAX_OPERATIONS)) fail("too many operations");
      if (args.size() < 3) fail("operation '" + line.substr(0, 60) + "' is too short");
      add(args);
    }
    finish();
  }

 private:
  /* ---- tensors of the file, checked against what an operation needs ---- */

  const Tensor* find(const std::string& name, const char* dtype, const std::vector<uint64_t>& shape) {
    const auto it = file_.tensors.find(name);
    if (it == file_.tensors.end()) return nullptr;
    if (it->second.dtype != dtype) fail("tensor " + name + " has the wrong type");
    if (it->second.shape != shape) fail("tensor " + name + " has the wrong shape");
    return &it->second;
  }
  const Tensor& need(const std::string& name, const char* dtype, const std::vector<uint64_t>& shape) {
    const Tensor* t = find(name, dtype, shape);
    if (!t) fail("tensor " + name + " is missing");
    return *t;
  }
  /* int16 a channel, zero in the padding; -32768 would break mulh. */
  void channel_values(Array<int16_t>& out, const Tensor& t, int padded, const std::string& name) {
    allocate(out, size_t(padded));
    std::memcpy(out.data(), t.data, t.bytes);
    for (size_t i = 0; i < out.size(); i++)
      if (out[i] == INT16_MIN) fail("tensor " + name + " holds -32768");
  }
  void charge(uint64_t bytes) {
    if (bytes > memory_) fail("the model needs more memory than a file of its size may");
    memory_ -= bytes;
  }
  template <class T>
  void allocate(Array<T>& a, size_t n) {
    charge(uint64_t(n) * sizeof(T));
    if (!a.resize(n)) throw std::bad_alloc();
  }
  const std::vector<uint64_t>& shape_of(const std::string& name) {
    const auto it = file_.tensors.find(name);
    if (it == file_.tensors.end()) fail("tensor " + name + " is missing");
    return it->second.shape;
  }

  int buffer(const std::string& name) {
    for (size_t i = 0; i < m_.buffers.size(); i++)
      if (m_.buffers[i].name == name) return int(i);
    fail("operation reads '" + name.substr(0, 40) + "', which nothing makes");
  }
  int make(const std::string& name, bool bits, int channels, int rate) {
    for (const Buffer& b : m_.buffers)
      if (b.name == name) fail("'" + name.substr(0, 40) + "' is made twice");
    if (channels < 1 || channels > MAX_CHANNELS) fail("an operation makes an impossible number of channels");
    if (rate < 1 || rate > MAX_SCALE) fail("an operation makes an impossible scale");
    Buffer b;
    b.name = name;
    b.bits = bits;
    b.channels = channels;
    b.rate = rate;
    b.producer = int(m_.operations.size());
    m_.buffers.push_back(b);
    return int(m_.buffers.size()) - 1;
  }
  static int number(const std::string& text, int low, int high, const char* what) {
    int v = 0;
    if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != std::string::npos ||
        (v = std::stoi(text)) < low || v > high)
      fail(std::string(what) + " is out of range");
    return v;
  }

  static int number_or(const std::string& text, int otherwise, int low, int high, const char* what) {
    return text.empty() ? otherwise : number(text, low, high, what);
  }

  /* KIND OUT IN [NAME] [key=value ...]; the grammar is in HACKING.md. */
  void add(const std::vector<std::string>& args) {
    const std::string kind = args[0], out = args[1];
    Operation op;
    op.inputs = {buffer(args[2])};
    const Buffer in = m_.buffers[size_t(op.inputs[0])];
    size_t used = 3;
    if (kind == "conv" || kind == "bconv" || kind == "map" || kind == "quant" || kind == "qconv" || kind == "attend") {
      if (args.size() < 4) fail("operation '" + kind + "' has no name");
      op.name = args[used++];
    } else if (kind == "add") {
      if (args.size() < 4) fail("operation 'add' has one input");
      op.inputs.push_back(buffer(args[used++]));
    } else if (kind == "concat") {
      if (args.size() < 4) fail("operation 'concat' has one input");
      while (used < args.size() && args[used].find('=') == std::string::npos) op.inputs.push_back(buffer(args[used++]));
    } else if (kind == "sign" && args.size() > 3) {
      op.name = args[used++];
    }
    std::map<std::string, std::string> keys;
    for (; used < args.size(); used++) {
      const size_t eq = args[used].find('=');
      if (eq == std::string::npos) fail("operation '" + kind + "' has an argument without '='");
      if (!keys.emplace(args[used].substr(0, eq), args[used].substr(eq + 1)).second) fail("an argument is given twice");
    }
    const auto key = [&](const char* name) {
      const auto it = keys.find(name);
      std::string v = it == keys.end() ? "" : it->second;
      if (it != keys.end()) keys.erase(it);
      return v;
    };
    if (in.bits != (kind == "bconv" || kind == "concat") || in.bytes != (kind == "qconv"))
      fail("operation '" + kind + "' reads the wrong kind of buffer");
    if (in.maps && kind != "add") fail("operation '" + kind + "' reads several maps");

    if (kind == "conv") {
      op.kind = Kind::conv;
      op.conv.shift = number(key("shift"), 1, 30, "a shift");
      load_conv(op, in);
      if (number_or(key("edge"), 0, 0, 1, "edge")) {
        if (in.channels != 1) fail("only the convolution of a plane reads beyond the edge");
        op.conv.edge = true;
      }
      op.output = make(out, false, op.conv.cout, in.rate);
    } else if (kind == "sign") {
      op.kind = Kind::sign;
      if (in.channels == 1) fail("sign of a plane");
      allocate(op.threshold, size_t(in.stride()));
      if (!op.name.empty())
        channel_values(op.threshold, need(op.name + ".threshold", "I16", {uint64_t(in.channels)}), in.stride(),
                       op.name);
      op.output = make(out, true, in.channels, in.rate);
    } else if (kind == "bconv") {
      op.kind = Kind::bconv;
      const std::string skip = key("skip"), map = key("map"), shift = key("shift"), turns = key("turns");
      op.bconv.shift = number(shift, 0, 14, "a shift");
      load_bconv(op, in, turns_of(turns, in));
      op.skip = add_input(op, skip, op.bconv.cout, in.rate);
      const bool several = !map.empty() && m_.buffers[size_t(buffer(map))].maps;
      op.bconv.maps = several ? MAPS : 1;
      op.map = add_input(op, map, op.bconv.maps, in.rate, several);
      if (op.bconv.cout == 1) fail("a binary convolution makes one channel");
      op.output = make(out, false, op.bconv.cout, in.rate);
    } else if (kind == "map") {
      op.kind = Kind::map;
      if (in.channels == 1) fail("the map of a plane");
      op.size.shift = number(key("shift"), 1, 30, "a shift");
      op.size.maps = number_or(key("maps"), 1, MAPS, MAPS, "a number of maps");
      load_map(op.size, op.name + ".weight", in, turns_of(key("turns"), in));
      op.output = make(out, false, op.size.maps, in.rate);
      m_.buffers.back().maps = op.size.maps > 1;
    } else if (kind == "quant") {
      op.kind = Kind::quant;
      op.quant.channels = in.channels;
      op.quant.shift = number_or(key("shift"), 0, 0, 14, "a shift");
      op.quant.top = number_or(key("max"), 127, 1, 127, "a maximum");
      channel_values(op.quant.mul, need(op.name + ".mul", "I16", {uint64_t(in.channels)}), in.stride(), op.name);
      op.output = make(out, false, in.channels, in.rate);
      m_.buffers.back().bytes = true;
    } else if (kind == "qconv") {
      op.kind = Kind::qconv;
      const std::string skip = key("skip");
      op.qconv.right = number_or(key("shift"), 0, 0, 24, "a shift");
      op.qconv.left = number_or(key("left"), 0, 0, 14, "a shift");
      load_qconv(op, in);
      op.skip = add_input(op, skip, op.qconv.cout, in.rate);
      op.output = make(out, false, op.qconv.cout, in.rate);
    } else if (kind == "add") {
      op.kind = Kind::add;
      const Buffer& b = m_.buffers[size_t(op.inputs[1])];
      if (!b.values() || b.channels != in.channels || b.rate != in.rate || b.maps != in.maps)
        fail("the inputs of 'add' do not fit");
      op.output = make(out, false, in.channels, in.rate);
      m_.buffers.back().maps = in.maps;
    } else if (kind == "concat") {
      op.kind = Kind::concat;
      int channels = 0;
      for (const int i : op.inputs) {
        const Buffer& b = m_.buffers[size_t(i)];
        if (!b.bits || b.rate != in.rate || channels % 64) fail("the inputs of 'concat' do not fit");
        channels += b.channels;
      }
      op.output = make(out, true, channels, in.rate);
    } else if (kind == "repeat") {
      op.kind = Kind::repeat;
      op.output = make(out, false, in.channels * number(key("times"), 1, MAX_CHANNELS, "a repeat"), in.rate);
    } else if (kind == "attend") {
      if (in.channels == 1) fail("attention to a plane");
      Operation pool;
      pool.kind = Kind::pool;
      pool.name = op.name;
      pool.inputs = op.inputs;
      load_attend(pool.attend, op.name, in.channels);
      pool.attend.down_shift = number(key("down"), 1, 30, "a shift");
      pool.attend.up_shift = number(key("up"), 1, 30, "a shift");
      m_.operations.push_back(std::move(pool));
      op.kind = Kind::attend;
      op.output = make(out, false, in.channels, in.rate);
    } else if (kind == "shuffle") {
      op.kind = Kind::shuffle;
      const int s = number(key("scale"), 1, MAX_SCALE, "a scale");
      if (in.channels % (s * s)) fail("'shuffle' does not divide its channels");
      if (in.rate * s > MAX_SCALE) fail("the scale is too large");
      op.output = make(out, false, in.channels / (s * s), in.rate * s);
    } else {
      fail("unknown operation '" + kind.substr(0, 40) + "'");
    }
    if (!keys.empty())
      fail("operation '" + kind + "' has an unknown argument '" + keys.begin()->first.substr(0, 40) + "'");
    op.radius = (op.side + in.rate - 1) / in.rate;
    m_.operations.push_back(std::move(op));
  }

  int add_input(Operation& op, const std::string& name, int channels, int rate, bool maps = false) {
    if (name.empty()) return -1;
    const int input = buffer(name);
    const Buffer& b = m_.buffers[size_t(input)];
    if (!b.values() || b.channels != channels || b.rate != rate || b.maps != maps)
      fail("'" + name.substr(0, 40) + "' does not fit");
    op.inputs.push_back(input);
    return input;
  }

  static void check_kernel(const std::vector<uint64_t>& shape, const std::string& name, uint64_t largest) {
    if (shape.size() != 4 || shape[0] < 1 || shape[0] > MAX_CHANNELS || shape[1] != shape[2] || shape[1] % 2 != 1 ||
        shape[1] > largest)
      fail("tensor " + name + " has an impossible shape");
  }

  void load_conv(Operation& op, const Buffer& in) {
    Conv& c = op.conv;
    const std::string name = op.name + ".weight";
    const auto& shape = shape_of(name);
    check_kernel(shape, name, MAX_K);
    c.cout = int(shape[0]);
    c.k = int(shape[1]);
    c.cin = in.channels;
    const Tensor& w = need(name, "I16", {shape[0], shape[1], shape[1], uint64_t(in.channels)});
    const Tensor& b = need(op.name + ".bias", "I32", {shape[0]});
    op.side = c.k / 2;
    const int stride = in.stride();
    c.run = round_up(c.k * stride, 2);
    c.dots = c.cout == 1 && stride > 1;
    allocate(c.weight, (c.dots ? 1 : size_t(round_up(c.cout, 16))) * size_t(c.k * c.run));
    allocate(c.bias, size_t(round_up(c.cout, 16)));
    std::memcpy(c.bias.data(), b.data, b.bytes);
    if (const Tensor* t = find(op.name + ".slope", "I16", {shape[0]}))
      channel_values(c.slope, *t, c.cout == 1 ? 1 : round_up(c.cout, 64), op.name + ".slope");
    for (int o = 0; o < c.cout; o++)
      for (int tap = 0; tap < c.k * c.k; tap++)
        for (int i = 0; i < c.cin; i++) {
          int16_t v;
          std::memcpy(&v, w.data + 2 * ((size_t(o) * size_t(c.k * c.k) + size_t(tap)) * size_t(c.cin) + size_t(i)), 2);
          c.weight[c.at(o, tap / c.k, tap % c.k * stride + i)] = v;
        }
  }

  /* Of weights that are stored for one orientation: the channels that read them and that they make are fields of TURNS.
   */
  int turns_of(const std::string& text, const Buffer& in) {
    const int turns = number_or(text, 1, TURNS, TURNS, "a number of turns");
    if (turns > 1 && in.channels % turns) fail("what turns reads fields of 8 channels");
    return turns;
  }

  void load_map(Map& map, const std::string& name, const Buffer& in, int turns) {
    const uint64_t channels = uint64_t(in.channels);
    if (turns > map.maps) fail("one map does not turn");
    const int stored = map.maps / turns;
    const auto shape = stored > 1 ? std::vector<uint64_t>{MAPS, channels} : std::vector<uint64_t>{channels};
    const Tensor& w = need(name, "I16", shape);
    map.stride = in.stride();
    allocate(map.weight, size_t(map.maps) * size_t(map.stride));
    for (int j = 0; j < map.maps; j++)
      for (int c = 0; c < in.channels; c++) {
        int16_t v;
        std::memcpy(&v, w.data + 2 * (size_t(j / turns) * size_t(in.channels) + size_t(c)), 2);
        if (v == INT16_MIN) fail("tensor " + name + " holds -32768");
        const int to = turns > 1 ? turned_channel(j, c) : c;
        map.weight[size_t((to / 64 * map.maps + j) * 64 + to % 64)] = v;
      }
  }

  void load_epilogue(Epilogue& e, const std::string& name, int cout) {
    const std::vector<uint64_t> channels = {uint64_t(cout)};
    const auto values = [&](Array<int16_t>& out, const char* suffix, bool required) {
      const std::string tensor = name + suffix;
      const Tensor* t = required ? &need(tensor, "I16", channels) : find(tensor, "I16", channels);
      if (t) channel_values(out, *t, e.cout_pad, tensor);
      return t != nullptr;
    };
    values(e.mul, ".mul", true);
    values(e.add, ".add", true);
    if (values(e.inner_slope, ".inner_slope", false) != values(e.inner_add, ".inner_add", false))
      fail(name + ": inner_slope and inner_add go together");
    const bool slope = values(e.slope, ".slope", false);
    if (values(e.slope_add, ".slope_add", false) && !slope) fail(name + ": slope_add has no slope");
  }

  /* Filters of the first orientation, where they lie one after another, to those of all. */
  void turn(Bconv& b, int stored) {
    const int taps = b.k * b.k;
    const size_t filter = size_t(taps * b.words);
    const std::vector<uint64_t> first(b.weight.data(), b.weight.data() + size_t(stored) * filter);
    std::memset(b.weight.data(), 0, 8 * size_t(b.cout) * filter);
    for (int i = 0; i < TURNS; i++)
      for (int c = 0; c < b.cin; c++) {
        const int to = turned_channel(i, c);
        for (int tap = 0; tap < taps; tap++) {
          const size_t from = size_t(tap * b.words + c / 64), at = size_t(turned_tap(i, b.k, tap) * b.words + to / 64);
          for (int f = 0; f < stored; f++)
            b.weight[size_t(TURNS * f + i) * filter + at] |= (first[size_t(f) * filter + from] >> (c % 64) & 1)
                                                             << (to % 64);
        }
      }
  }

  void load_bconv(Operation& op, const Buffer& in, int turns) {
    Bconv& b = op.bconv;
    const std::string name = op.name + ".weight";
    const auto& shape = shape_of(name);
    check_kernel(shape, name, 3);
    const int stored = int(shape[0]);
    b.cout = stored * turns;
    if (b.cout > MAX_CHANNELS) fail("tensor " + name + " makes too many channels");
    b.k = int(shape[1]);
    b.cin = in.channels;
    b.words = in.stride();
    b.cout_pad = round_up(b.cout, 64);
    const int taps = b.k * b.k;
    if ((taps * b.cin) << b.shift > INT16_MAX || 2 * taps * 64 * b.words > INT16_MAX)
      fail(op.name + ": its sums do not fit 16 bits");
    const Tensor& w = need(name, "U64", {shape[0], shape[1], shape[1], uint64_t(b.words)});
    allocate(b.weight, size_t(b.cout_pad) * size_t(taps * b.words));
    std::memcpy(b.weight.data(), w.data, w.bytes);
    const uint64_t padding = b.cin % 64 ? ~uint64_t(0) << (b.cin % 64) : 0;
    for (int i = b.words - 1; i < stored * taps * b.words; i += b.words)
      if (b.weight[size_t(i)] & padding) fail("tensor " + name + " has bits beyond its channels");
    if (turns > 1) turn(b, stored);

    load_epilogue(b, op.name, b.cout);
    op.side = b.k / 2;

    /* A missing tap is read as +1 (bit 0): take its 64 - 2 popcount(w) out of the sum. */
    allocate(b.base, size_t(16 * b.cout_pad));
    for (int where = 0; where < 16; where++)
      for (int c = 0; c < b.cout; c++) {
        int sum = 0;
        for (int tap = 0; tap < taps; tap++) {
          const int dy = tap / b.k - b.k / 2, dx = tap % b.k - b.k / 2;
          const bool missing =
              (dy < 0 && where & 1) || (dy > 0 && where & 2) || (dx < 0 && where & 4) || (dx > 0 && where & 8);
          int ones = 0;
          for (int i = 0; i < b.words; i++)
            ones +=
                __builtin_popcountll(b.weight[(size_t(c) * size_t(taps) + size_t(tap)) * size_t(b.words) + size_t(i)]);
          sum += missing ? 2 * ones : b.cin;
        }
        b.base[size_t(where * b.cout_pad + c)] = int16_t(sum * (1 << b.shift));
      }
  }

  void load_qconv(Operation& op, const Buffer& in) {
    Qconv& q = op.qconv;
    const std::string name = op.name + ".weight";
    const auto& shape = shape_of(name);
    check_kernel(shape, name, MAX_K);
    q.cout = int(shape[0]);
    q.k = int(shape[1]);
    q.cin = in.channels;
    q.cout_pad = q.cout == 1 ? 1 : round_up(q.cout, 64);
    q.stride = in.stride();
    q.run = q.k * q.stride;
    op.side = q.k / 2;
    const int taps = q.k * q.k, words = round_up(q.cin, 64) / 64;
    const bool ones = file_.tensors.at(name).dtype == "U64";
    const Tensor& w = need(name, ones ? "U64" : "I8", {shape[0], shape[1], shape[1], uint64_t(ones ? words : q.cin)});
    if (q.left && q.right) fail(op.name + ": shifts both ways");
    if (int64_t(taps) * q.cin * 128 * (ones ? 1 : 127) + (1 << q.right) > INT32_MAX)
      fail(op.name + ": its sums do not fit 32 bits");
    /* Few filters lie in the order that wastes fewer lanes; dots take them by fours, but a plane's alone. */
    const int filters = q.cout == 1 ? 1 : round_up(q.cout, 4);
    q.dots = q.cout < 16 && int64_t(filters) * round_up(q.run, DOT) < int64_t(round_up(q.cout, 16)) * q.run;
    allocate(q.weight, q.dots ? size_t(filters * q.k) * size_t(round_up(q.run, DOT))
                              : size_t(round_up(q.cout, 16)) * size_t(q.k * q.run));
    allocate(q.bias, size_t(round_up(q.cout, 16)));
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
    load_epilogue(q, op.name, q.cout);
  }

  void load_attend(Attend& a, const std::string& name, int channels) {
    const auto& shape = shape_of(name + ".down.weight");
    if (shape.size() != 2 || shape[0] < 1 || shape[0] > MAX_CHANNELS)
      fail("tensor " + name + ".down.weight has an impossible shape");
    a.channels = channels;
    a.hidden = int(shape[0]);
    charge(uint64_t(round_up(channels, 64)) * (sizeof(int64_t) + 2 * sizeof(int16_t))); /* of a stream */
    const uint64_t c = uint64_t(channels), h = shape[0];
    const auto load = [&](auto& to, const char* suffix, const char* dtype, const std::vector<uint64_t>& wanted) {
      const Tensor& t = need(name + suffix, dtype, wanted);
      allocate(to, t.bytes / sizeof(to[0]));
      std::memcpy(to.data(), t.data, t.bytes);
    };
    load(a.down, ".down.weight", "I16", {h, c});
    load(a.down_bias, ".down.bias", "I32", {h});
    channel_values(a.slope, need(name + ".slope", "I16", {h}), a.hidden, name + ".slope");
    load(a.up, ".up.weight", "I16", {c, h});
    load(a.up_bias, ".up.bias", "I32", {c});
  }

  /* ---- the plan ---- */

  std::vector<int> readers(int buffer) const {
    std::vector<int> out;
    for (size_t i = 0; i < m_.operations.size(); i++)
      for (const int in : m_.operations[i].inputs)
        if (in == buffer && (out.empty() || out.back() != int(i))) out.push_back(int(i));
    return out;
  }

  /* Whether nobody reads what op reads once op has begun with a row of it: a pooling or a map that it waits for is
   * done. */
  bool only_reader(const Operation& op, int input) const {
    for (const int i : readers(input)) {
      const Operation& reader = m_.operations[size_t(i)];
      const bool waited = (op.kind == Kind::attend && reader.kind == Kind::pool) ||
                          (op.map >= 0 && reader.kind == Kind::map && reader.output == op.map);
      if (&reader != &op && !waited) return false;
    }
    return true;
  }

  /* A sign whose input a binary convolution makes becomes that convolution's second output. */
  void fuse_signs() {
    std::vector<bool> gone(m_.operations.size());
    for (size_t i = 0; i < m_.operations.size(); i++) {
      Operation& sign = m_.operations[i];
      if (sign.kind != Kind::sign) continue;
      const int source = sign.inputs[0];
      Operation& from = m_.operations[size_t(m_.buffers[size_t(source)].producer)];
      if (from.kind != Kind::bconv || from.bits >= 0) continue;
      from.bits = sign.output;
      from.bconv.threshold = std::move(sign.threshold);
      m_.buffers[size_t(sign.output)].producer = m_.buffers[size_t(source)].producer;
      sign.inputs.clear();
      gone[i] = true;
      if (readers(source).empty()) {
        m_.buffers[size_t(source)].producer = -2;
        from.output = -1;
      }
    }
    std::vector<int> index(m_.operations.size());
    std::vector<Operation> kept;
    for (size_t i = 0; i < m_.operations.size(); i++) {
      index[i] = int(kept.size());
      if (!gone[i]) kept.push_back(std::move(m_.operations[i]));
    }
    m_.operations = std::move(kept);
    for (Buffer& b : m_.buffers)
      if (b.producer >= 0) b.producer = index[size_t(b.producer)];
  }

  /* The values of 64 channels side by side. */
  void prepare(Epilogue& e) {
    if (!e.threshold.size()) allocate(e.threshold, size_t(e.cout_pad));
    allocate(e.values, size_t(e.cout_pad) * VALUES);
    const Array<int16_t>* arrays[VALUES] = {&e.mul,   &e.add,       &e.inner_slope, &e.inner_add,
                                            &e.slope, &e.threshold, &e.slope_add};
    for (int c = 0; c < e.cout_pad; c++)
      for (int i = 0; i < VALUES; i++)
        if (arrays[i]->size()) e.values[size_t((c / 64 * VALUES + i) * 64 + c % 64)] = (*arrays[i])[size_t(c)];
  }

  void prepare(Bconv& b) {
    prepare(static_cast<Epilogue&>(b));
    charge(2 * b.weight.size() * sizeof(uint64_t)); /* no path's own order takes more */
    if (!m_.kernels->prepare(b)) throw std::bad_alloc();
  }

  void finish() {
    const Buffer sr = m_.buffers.back();
    if (m_.operations.size() < 2 || sr.name != "sr" || sr.bits || sr.channels != 1 ||
        m_.operations.back().kind != Kind::shuffle)
      fail("the last operation does not shuffle into 'sr'");
    m_.scale = sr.rate;
    fuse_signs();
    for (Operation& op : m_.operations) {
      if (op.kind == Kind::bconv) prepare(op.bconv);
      if (op.kind == Kind::qconv && op.qconv.cout > 1) prepare(op.qconv);
    }
    for (size_t i = 0; i + 1 < m_.buffers.size(); i++)
      if (m_.buffers[i].producer != -2 && readers(int(i)).empty())
        fail("nothing reads '" + m_.buffers[i].name.substr(0, 40) + "'");

    /* Delays: of what an operation reads, the last row is made in the same pass or an earlier one. */
    std::vector<double> reach(m_.operations.size());
    for (size_t i = 1; i < m_.operations.size(); i++) {
      Operation& op = m_.operations[i];
      for (size_t j = 0; j < op.inputs.size(); j++) {
        const Buffer& b = m_.buffers[size_t(op.inputs[j])];
        const int radius = j ? 0 : op.radius;
        op.delay = std::max(op.delay, m_.operations[size_t(b.producer)].delay + radius);
        op.level = std::max(op.level, m_.operations[size_t(b.producer)].level + (op.kind == Kind::attend ? 1 : 0));
        reach[i] = std::max(reach[i], reach[size_t(b.producer)] + double(j ? 0 : op.side) / b.rate);
      }
    }
    m_.levels.resize(size_t(m_.operations.back().level) + 1);
    for (size_t i = 0; i < m_.operations.size(); i++) m_.levels[size_t(m_.operations[i].level)].push_back(int(i));
    m_.radius = m_.levels.size() > 1 ? -1 : int(reach.back() + 0.999);
    m_.lag = m_.operations.back().delay;

    /* Storage: an operation works in place on its skip (or on what it adds to, or attends to once it is pooled) when
     * nobody else reads it then and its pixels are as long. */
    for (size_t i = 0; i < m_.buffers.size(); i++) {
      Buffer& b = m_.buffers[i];
      if (b.producer == -2 || i + 1 == m_.buffers.size()) continue; /* unused, or straight into the caller's rows */
      const Operation& op = m_.operations[size_t(b.producer)];
      const bool summing = op.kind == Kind::bconv || op.kind == Kind::qconv;
      const bool attend = op.kind == Kind::attend;
      if (!b.bits)
        for (size_t j = summing ? 1 : 0; (summing || op.kind == Kind::add || attend) && j < op.inputs.size(); j++) {
          const Buffer& source = m_.buffers[size_t(op.inputs[j])];
          if (source.storage >= 0 && source.producer > 0 && only_reader(op, op.inputs[j]) && b.storage < 0 &&
              source.channels > 1 && source.stride() == b.stride())
            b.storage = source.storage;
        }
      if (b.storage < 0) {
        Storage s;
        s.cell = b.cell();
        s.channels = b.channels;
        s.stride = b.stride();
        s.rate = b.rate;
        s.writer = b.producer;
        b.storage = int(m_.storages.size());
        m_.storages.push_back(s);
      }
      m_.storages[size_t(b.storage)].readers = readers(int(i));
    }
    for (const Operation& op : m_.operations)
      if (!op.inputs.empty()) {
        Storage& s = m_.storages[size_t(m_.buffers[size_t(op.inputs[0])].storage)];
        s.margin = std::max(s.margin, op.side);
      }
    for (size_t i = 0; i < m_.storages.size(); i++) {
      Storage& s = m_.storages[i];
      const Operation& writer = m_.operations[size_t(s.writer)];
      int last = 0;
      for (const int r : s.readers) {
        const Operation& reader = m_.operations[size_t(r)];
        s.rows = std::max(s.rows, reader.delay + reader.radius - writer.delay);
        last = std::max(last, reader.level);
      }
      s.whole = last > writer.level;
      s.memory = int(m_.memories.size());
      if (s.whole)
        for (size_t k = 0; k < m_.memories.size(); k++) {
          const Storage& old = m_.storages[size_t(m_.memories[k].storage)];
          if (old.whole && m_.memories[k].level < writer.level && old.cell == s.cell && old.channels == s.channels &&
              old.stride == s.stride && old.rate == s.rate && old.margin == s.margin) {
            s.memory = int(k);
            s.before = old.readers;
            break;
          }
        }
      m_.memories.resize(std::max(m_.memories.size(), size_t(s.memory) + 1));
      m_.memories[size_t(s.memory)].storage = int(i);
      m_.memories[size_t(s.memory)].level = last;
    }
    uint64_t column = 0, pixel = 0, rows = 0;
    for (const Memory& memory : m_.memories) {
      const Storage& s = m_.storages[size_t(memory.storage)];
      const uint64_t cells = uint64_t(s.stride * s.cell) * uint64_t(s.rate * s.rate);
      if (s.whole) {
        pixel += cells;
        continue;
      }
      column += cells * uint64_t(s.rows + MAX_PASS);
      rows = std::max(rows, uint64_t(s.rows + MAX_PASS));
    }
    if (column > COLUMN_FLOOR + COLUMN_FACTOR * file_bytes_)
      fail("the rows in flight need more memory than a file of its size may");
    if (pixel > PIXEL_MOST) fail("what attention keeps of each pixel needs more memory than it may");
    charge(4 * rows * m_.operations.size() * sizeof(int)); /* a stream's progress */
  }

  Model& m_;
  const File& file_;
  const uint64_t file_bytes_;
  uint64_t memory_; /* what is left of the model's allowance */
};

}  // namespace

void open_model(Model& model, const uint8_t* bytes, size_t n, const Kernels* kernels) {
  const File file = parse(bytes, n);
  const auto format = file.metadata.find("format");
  if (format == file.metadata.end()) fail("not a .bsr file: no format in the metadata");
  if (format->second != "bitsr 1")
    fail("format '" + format->second.substr(0, 20) + "' is not one that this version reads (bitsr 1)");
  model.kernels = kernels;
  Builder(model, file, n).build();
}

}  // namespace bitsr

extern "C" {

bitsr_model* bitsr_model_open(const void* bytes, size_t n, const char* isa, char* err, size_t cap) {
  return bitsr::guarded<bitsr_model*>(nullptr, err, cap, [&]() -> bitsr_model* {
    const bitsr::Kernels* kernels = isa ? bitsr::path(isa) : bitsr::path(0);
    if (!kernels) throw std::runtime_error(isa ? "this CPU has no path of that name" : "this CPU has no path at all");
    std::unique_ptr<bitsr_model> model(new bitsr_model());
    bitsr::open_model(*model, static_cast<const uint8_t*>(bytes), n, kernels);
    return model.release();
  });
}
void bitsr_model_close(bitsr_model* model) { delete model; }
int bitsr_model_scale(const bitsr_model* model) { return model->scale; }
int bitsr_model_radius(const bitsr_model* model) { return model->radius; }
const char* bitsr_model_isa(const bitsr_model* model) { return model->kernels->name; }
}
