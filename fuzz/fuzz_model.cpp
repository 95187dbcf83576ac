/* libFuzzer target: bytes as a model file; what opens runs on a tiny image. README.md beside this
 * file tells how to build and run it.
 *
 * Every accepted model runs twice, by a path, threads and portions of rows that the bytes choose,
 * and by the scalar path in one go: the SR must be the same. Mutations keep the file whole as often
 * as not: the header changes and its length with it, or lines of the operations are copied, moved,
 * cut and rewired.
 */
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bitsr.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace {

/* The image through the model; nothing when the engine refuses. Each push gets exactly the memory
 * it may touch. */
std::vector<int16_t> run(const uint8_t* data, size_t size, const char* isa, int h, int w,
                         int threads, int portion, const std::vector<int16_t>& lr, bool* opened) {
  char err[100];
  std::vector<int16_t> sr;
  bitsr_model* model = bitsr_model_open(data, size, isa, err, sizeof err);
  *opened = model;
  if (!model) {
    for (const char* c = err; *c; c++) /* one printable line */
      if (*c < ' ' || *c > '~') std::abort();
    return sr;
  }
  const size_t wide = size_t(w) * size_t(bitsr_model_scale(model));
  if (bitsr_stream* stream = bitsr_stream_open(model, h, w, threads, 0, err, sizeof err)) {
    for (int y = 0; y < h; y += portion) {
      const int n = std::min(portion, h - y), ready = bitsr_stream_ready(stream, n);
      const std::vector<int16_t> rows(lr.begin() + y * w, lr.begin() + (y + n) * w);
      std::vector<int16_t> out(size_t(ready) * wide);
      if (bitsr_stream_push(stream, rows.data(), n, out.data(), ready, err, sizeof err) != ready)
        std::abort();
      sr.insert(sr.end(), out.begin(), out.end());
    }
    if (sr.size() != wide * size_t(h * bitsr_model_scale(model))) std::abort();
    bitsr_stream_close(stream);
  }
  bitsr_model_close(model);
  return sr;
}

/* The file's parts. */
struct File {
  std::string header, buffer;
  static bool parse(const uint8_t* data, size_t size, File* out) {
    uint64_t n = 0;
    if (size < 8) return false;
    std::memcpy(&n, data, 8);
    if (n > size - 8) return false;
    out->header.assign(reinterpret_cast<const char*>(data) + 8, n);
    out->buffer.assign(reinterpret_cast<const char*>(data) + 8 + n, size - 8 - n);
    return true;
  }
  size_t write(uint8_t* data, size_t most) const {
    if (8 + header.size() + buffer.size() > most) return 0;
    const uint64_t n = header.size();
    std::memcpy(data, &n, 8);
    std::memcpy(data + 8, header.data(), header.size());
    if (!buffer.empty()) std::memcpy(data + 8 + header.size(), buffer.data(), buffer.size());
    return 8 + header.size() + buffer.size();
  }
};

std::vector<std::string> split(const std::string& text, const std::string& by) {
  std::vector<std::string> parts;
  size_t at = 0;
  for (size_t to; (to = text.find(by, at)) != std::string::npos; at = to + by.size())
    parts.push_back(text.substr(at, to - at));
  parts.push_back(text.substr(at));
  return parts;
}

std::string join(const std::vector<std::string>& parts, const std::string& by) {
  std::string text;
  for (size_t i = 0; i < parts.size(); i++) text += (i ? by : "") + parts[i];
  return text;
}

/* One change to the lines of the operations, in the header's own spelling (a newline is \n in
 * JSON). */
bool rewire(std::string& header, std::minstd_rand& random) {
  const std::string key = "\"ops\":\"";
  const size_t from = header.find(key);
  if (from == std::string::npos) return false;
  const size_t begin = from + key.size(), end = header.find('"', begin);
  if (end == std::string::npos) return false;
  std::vector<std::string> lines = split(header.substr(begin, end - begin), "\\n");
  const auto any = [&](size_t n) { return size_t(random() % n); };
  const size_t at = any(lines.size()), other = any(lines.size());
  std::vector<std::string> words = split(lines[at], " "), others = split(lines[other], " ");
  switch (any(7)) {
    case 0:
      lines.erase(lines.begin() + ptrdiff_t(at));
      break;
    case 1:
      std::swap(lines[at], lines[other]);
      break;
    case 2: /* once more, under another name, before or after another line */
      if (words.size() > 1) words[1] = "n" + std::to_string(any(1000));
      lines.insert(lines.begin() + ptrdiff_t(other), join(words, " "));
      break;
    case 3: /* a step put in between: what follows reads the new buffer */
      if (words.size() > 1) {
        const std::string old = words[1];
        std::string line = any(2) ? "add NEW " + old + " " + old : join(others, " ");
        std::vector<std::string> step = split(line, " ");
        const std::string made = "n" + std::to_string(any(1000));
        if (step.size() > 2) step[1] = made, step[2] = old;
        lines[at] = join(words, " ");
        for (size_t i = at + 1; i < lines.size(); i++) {
          std::vector<std::string> later = split(lines[i], " ");
          for (size_t j = 2; j < later.size(); j++)
            if (later[j] == old && any(2)) later[j] = made;
          lines[i] = join(later, " ");
        }
        lines.insert(lines.begin() + ptrdiff_t(at) + 1, join(step, " "));
      }
      break;
    case 4: /* another buffer or tensor */
      if (words.size() > 2 && others.size() > 1)
        words[2 + any(words.size() - 2)] = others[1 + any(others.size() - 1)];
      lines[at] = join(words, " ");
      break;
    case 5: /* another number */
      for (std::string& w : words) {
        const size_t eq = w.find('=');
        if (eq != std::string::npos && any(2)) w = w.substr(0, eq + 1) + std::to_string(any(18));
      }
      lines[at] = join(words, " ");
      break;
    default:
      if (lines[at].find("bconv") == 0 && others.size() > 1) lines[at] += " skip=" + others[1];
  }
  header = header.substr(0, begin) + join(lines, "\\n") + header.substr(end);
  return true;
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  std::minstd_rand random(seed);
  File file;
  const unsigned kind = unsigned(random() % 8);
  if (kind == 0 || !File::parse(data, size, &file)) return LLVMFuzzerMutate(data, size, most);
  if (kind == 1) { /* values, in place */
    std::vector<uint8_t> bytes(file.buffer.begin(), file.buffer.end());
    bytes.resize(std::max<size_t>(bytes.size(), 1));
    LLVMFuzzerMutate(bytes.data(), file.buffer.size(), bytes.size());
    file.buffer.assign(bytes.begin(), bytes.begin() + ptrdiff_t(file.buffer.size()));
  } else if (kind < 4 || !rewire(file.header, random)) {
    std::vector<uint8_t> bytes(file.header.begin(), file.header.end());
    bytes.resize(bytes.size() + 64);
    file.header.assign(bytes.begin(),
                       bytes.begin() + ptrdiff_t(LLVMFuzzerMutate(bytes.data(), file.header.size(),
                                                                  bytes.size())));
  } else if (kind > 5) {
    for (auto more = random() % 4; more > 0; more--) rewire(file.header, random);
  }
  const size_t n = file.write(data, most);
  return n ? n : LLVMFuzzerMutate(data, size, most);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint32_t hash = 2166136261;
  for (size_t i = 0; i < size; i++) hash = (hash ^ data[i]) * 16777619;
  int isas = 0;
  while (bitsr_isa(isas)) isas++;
  const int h = 1 + int(hash >> 8 & 7), w = 1 + int(hash >> 12 & 3),
            threads = 1 + int(hash >> 16 & 1);
  std::vector<int16_t> lr(size_t(h) * size_t(w));
  uint32_t noise = hash;
  for (int16_t& v : lr) v = int16_t((noise = noise * 1664525 + 1013904223) >> 16);
  bool opened = false;
  const std::vector<int16_t> sr = run(data, size, bitsr_isa(int(hash % unsigned(isas))), h, w,
                                      threads, 1 + int(hash >> 18 & 3), lr, &opened);
  if (opened && run(data, size, "scalar", h, w, 1, h, lr, &opened) != sr) std::abort();
  return 0;
}
