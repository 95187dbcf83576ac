/* The container of a model file: read with nothing taken on trust. */
#include "core/safetensors.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/errors.h"

namespace bitsr {
namespace {

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
      const int d = c >= '0' && c <= '9'                 ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                         : -1;
      if (d < 0) fail("broken header: bad \\u escape");
      v = v * 16 + unsigned(d);
    }
    return v;
  }
  /* Names are compared byte for byte and surrogates never occur in ours, so each unit is encoded by
   * itself. */
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
  static const std::pair<const char*, size_t> sizes[] = {
      {"U64", 8}, {"I64", 8}, {"F64", 8},  {"I32", 4}, {"U32", 4}, {"F32", 4}, {"I16", 2},
      {"U16", 2}, {"F16", 2}, {"BF16", 2}, {"I8", 1},  {"U8", 1},  {"BOOL", 1}};
  for (const auto& s : sizes)
    if (dtype == s.first) return s.second;
  fail("tensor of unknown type '" + dtype.substr(0, 16) + "'");
}

}  // namespace

File parse_safetensors(const uint8_t* bytes, size_t n) {
  if (n < 8) fail("not a .bsr file: shorter than its length field");
  uint64_t header = 0;
  for (int i = 7; i >= 0; i--) header = header << 8 | bytes[i];
  if (header > n - 8 || header > (64u << 20))
    fail("not a .bsr file: the header is longer than the file");
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
          if (!file.metadata.emplace(key, json.string()).second)
            fail("broken header: metadata key twice");
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
      if (!file.tensors.emplace(name, std::move(t)).second)
        fail("broken header: tensor named twice");
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

}  // namespace bitsr
