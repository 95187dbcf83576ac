// Whether the entropy-coded data of a JPEG hold all of its coefficients.
//
// libjpeg warns of what is harmless (a marker's odd parameters, stray bytes) and of what is not
// (data that end early), and is silent where overwritten data happen to be codes. So the data are
// walked here as a decoder walks them (ITU-T T.81, annexes F and G), without pixels: every code
// must exist, no run may leave its block, every data unit must be there, and nothing but filling
// may be left over.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include "bitsr.h"

namespace {

struct Damage {
  char text[96];
};
// What is not judged here: arithmetic coding, lossless frames, impossible headers.
struct Unknown {};

[[noreturn]] void damaged(const char* text) {
  Damage out;
  std::snprintf(out.text, sizeof out.text, "%s", text);
  throw out;
}

// Codes by their first 16 bits: length << 8 | symbol, 0 where there is no such code.
struct Table {
  std::vector<uint16_t> look;
};

struct Component {
  int id = 0, h = 0, v = 0;
  int wide = 0, high = 0;  // data units where the component is alone in its scan
  bool seen = false;
  std::array<int8_t, 64> precise{};  // the lowest bit coded so far of each coefficient, -1 none
  std::vector<uint64_t> nonzero;     // progressive: which coefficients of a data unit are not 0
  const Table *dc = nullptr, *ac = nullptr;
  int predicted = 0;
};

// Bits of one restart interval, stuffing removed. Past the end they are 0, as libjpeg has them.
class Bits {
 public:
  std::vector<uint8_t> bytes;

  void rewind() { at_ = 0; }
  bool dry() const { return at_ > 8 * bytes.size(); }
  size_t used() const { return (at_ + 7) / 8; }
  uint32_t peek16() const {
    const size_t i = at_ / 8;
    uint32_t word = 0;
    for (size_t k = 0; k < 3; k++) word = word << 8 | (i + k < bytes.size() ? bytes[i + k] : 0);
    return word >> (8 - at_ % 8) & 0xffff;
  }
  void skip(int n) { at_ += size_t(n); }
  int get(int n) {
    const int out = n ? int(peek16() >> (16 - n)) : 0;
    skip(n);
    return out;
  }
  int symbol(const Table* table) {
    const uint16_t code = table->look[peek16()];
    if (!code) damaged("a code that does not exist");
    skip(code >> 8);
    return code & 255;
  }

 private:
  size_t at_ = 0;
};

class Jpeg {
 public:
  Jpeg(const uint8_t* data, size_t n) : p_(data), end_(data + n) {}

  void check() {
    if (end_ - p_ < 4 || p_[0] != 0xff || p_[1] != 0xd8) throw Unknown();
    p_ += 2;
    for (int code = marker(); code >= 0 && code != 0xd9; code = marker()) {
      if (code == 0x01 || (code >= 0xd0 && code <= 0xd8)) continue;
      if (end_ - p_ < 2) damaged("the file ends in its header");
      const int length = p_[0] << 8 | p_[1];
      if (length < 2 || end_ - p_ < length) damaged("the file ends in its header");
      const uint8_t *body = p_ + 2, *stop = p_ + length;
      p_ = stop;
      if (code == 0xc4)
        tables(body, stop);
      else if (code == 0xdd && stop - body >= 2)
        restart_ = body[0] << 8 | body[1];
      else if (code == 0xda)
        scan(body, stop);
      else if (code == 0xc0 || code == 0xc1 || code == 0xc2)
        frame(body, stop, code == 0xc2);
      else if (code >= 0xc0 && code <= 0xcf && code != 0xc8)
        throw Unknown();
    }
    if (components_.empty()) damaged("the file ends in its header");
    for (const Component& c : components_) {
      if (!c.seen) damaged("a channel is missing");
      for (int8_t bit : c.precise)
        if (progressive_ && bit != 0) damaged("scans are missing");
    }
  }

 private:
  // The code of the next marker, behind which p_ then stands; -1 at the file's end.
  int marker() {
    for (; end_ - p_ >= 2; p_++) {
      if (p_[0] != 0xff || p_[1] == 0xff || p_[1] == 0) continue;
      p_ += 2;
      return p_[-1];
    }
    p_ = end_;
    return -1;
  }

  void tables(const uint8_t* p, const uint8_t* stop) {
    while (stop - p >= 17) {
      const int kind = p[0] >> 4, id = p[0] & 15;
      if (kind > 1 || id > 3) throw Unknown();
      Table& table = tables_[kind][id];
      table.look.assign(65536, 0);
      const uint8_t *counts = p + 1, *symbols = p + 17;
      uint32_t code = 0;  // left-aligned in 16 bits
      for (int length = 1; length <= 16; length++) {
        for (int i = 0; i < counts[length - 1]; i++) {
          const uint32_t span = 1u << (16 - length);
          if (symbols >= stop || code + span > 65536) throw Unknown();
          for (uint32_t k = 0; k < span; k++)
            table.look[code + k] = uint16_t(length << 8 | *symbols);
          symbols++;
          code += span;
        }
      }
      p = symbols;
    }
  }

  void frame(const uint8_t* p, const uint8_t* stop, bool progressive) {
    if (stop - p < 6 || !components_.empty() || p[0] != 8) throw Unknown();
    const int height = p[1] << 8 | p[2], width = p[3] << 8 | p[4], n = p[5];
    if (!height || !width || n < 1 || n > 4 || stop - p < 6 + 3 * n) throw Unknown();
    progressive_ = progressive;
    for (int i = 0; i < n; i++) {
      Component c;
      c.id = p[6 + 3 * i], c.h = p[7 + 3 * i] >> 4, c.v = p[7 + 3 * i] & 15;
      if (c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4) throw Unknown();
      c.precise.fill(-1);
      components_.push_back(c);
    }
    int h = 1, v = 1;
    for (const Component& c : components_) h = c.h > h ? c.h : h, v = c.v > v ? c.v : v;
    wide_ = (width + 8 * h - 1) / (8 * h), high_ = (height + 8 * v - 1) / (8 * v);
    for (Component& c : components_) {
      c.wide = ((width * c.h + h - 1) / h + 7) / 8;
      c.high = ((height * c.v + v - 1) / v + 7) / 8;
    }
  }

  void scan(const uint8_t* p, const uint8_t* stop) {
    if (components_.empty() || stop - p < 1 || ++scans_ > 1000) throw Unknown();
    const int n = p[0];
    if (n < 1 || n > 4 || stop - p < 4 + 2 * n) throw Unknown();
    std::vector<Component*> parts;
    for (int i = 0; i < n; i++) {
      Component* part = nullptr;
      for (Component& c : components_)
        if (c.id == p[1 + 2 * i]) part = &c;
      const int tables = p[2 + 2 * i];
      if (!part || (tables >> 4) > 3 || (tables & 15) > 3) throw Unknown();
      part->dc = &tables_[0][tables >> 4], part->ac = &tables_[1][tables & 15];
      part->seen = true;
      parts.push_back(part);
    }
    // A sequential scan has but one band of coefficients, whatever its header says.
    first_ = progressive_ ? p[1 + 2 * n] : 0, last_ = progressive_ ? p[2 + 2 * n] : 63;
    const int high = progressive_ ? p[3 + 2 * n] >> 4 : 0,
              low = progressive_ ? p[3 + 2 * n] & 15 : 0;
    refined_ = high != 0;
    if (last_ > 63 || first_ > last_ || low > 13 || (progressive_ && !first_ != !last_))
      throw Unknown();
    if (progressive_ && first_ && n > 1) throw Unknown();
    for (Component* c : parts) {
      const bool dc = first_ == 0 && !refined_, ac = last_ > 0;
      if ((dc && c->dc->look.empty()) || (ac && c->ac->look.empty())) throw Unknown();
      for (int k = first_; k <= last_; k++) c->precise[size_t(k)] = int8_t(low);
      if (progressive_ && ac && c->nonzero.empty())
        c->nonzero.resize(size_t(c->wide) * size_t(c->high));
    }
    int64_t left = n == 1 ? int64_t(parts[0]->wide) * parts[0]->high : int64_t(wide_) * high_;
    size_t unit = 0;
    for (int next = 0; left; next = (next + 1) % 8) {
      const int found = interval();
      const int64_t some = restart_ && restart_ < left ? restart_ : left;
      eob_run_ = 0;
      for (Component* c : parts) c->predicted = 0;
      for (int64_t i = 0; i < some; i++) {
        if (n == 1) {
          data_unit(*parts[0], unit++);
        } else {
          for (Component* c : parts)
            for (int k = c->h * c->v; k > 0; k--) data_unit(*c, 0);
        }
        if (bits_.dry()) damaged("rows are missing");
      }
      left -= some;
      const bool more = left > 0;
      if (more && found != 0xd0 + next) damaged("rows are missing");
      leftover(more);
    }
  }

  // The bytes up to the next marker, into bits_. The marker's code: a restart is passed over, any
  // other is left to be read. -1 at the file's end.
  int interval() {
    bits_.bytes.clear();
    bits_.rewind();
    while (p_ < end_) {
      const auto* mark = static_cast<const uint8_t*>(std::memchr(p_, 0xff, size_t(end_ - p_)));
      const uint8_t* stop = mark ? mark : end_;
      bits_.bytes.insert(bits_.bytes.end(), p_, stop);
      p_ = stop;
      while (end_ - p_ >= 2 && p_[1] == 0xff) p_++;
      if (end_ - p_ < 2) break;
      if (p_[1] != 0) {
        const int code = p_[1];
        if (code >= 0xd0 && code <= 0xd7) p_ += 2;
        return code;
      }
      bits_.bytes.push_back(0xff);
      p_ += 2;
    }
    p_ = end_;
    return -1;
  }

  void data_unit(Component& c, size_t at) {
    if (!progressive_) {
      const int size = bits_.symbol(c.dc);
      if (size > 11) damaged("a code that does not exist");
      const int value = bits_.get(size);
      c.predicted += size && value < 1 << (size - 1) ? value - (1 << size) + 1 : value;
      // 8-bit samples have DC terms of 12 bits.
      if (c.predicted > 4095 || c.predicted < -4096) damaged("samples out of range");
      for (int k = 1; k < 64; k++) {
        const int code = bits_.symbol(c.ac), run = code >> 4, bits = code & 15;
        if (!bits && run != 15) break;
        k += run;
        if (k > 63) damaged("a run leaves its block");
        bits_.skip(bits);
      }
    } else if (first_ == 0) {
      bits_.skip(refined_ ? 1 : bits_.symbol(c.dc));
    } else if (refined_) {
      refine(c, c.nonzero[at]);
    } else if (eob_run_ > 0) {
      eob_run_--;
    } else {
      for (int k = first_; k <= last_; k++) {
        const int code = bits_.symbol(c.ac), run = code >> 4, bits = code & 15;
        if (!bits && run != 15) {
          eob_run_ = (1 << run) - 1 + bits_.get(run);
          break;
        }
        k += run;
        if (k > last_) damaged("a run leaves its block");
        if (bits) c.nonzero[at] |= uint64_t(1) << k;
        bits_.skip(bits);
      }
    }
  }

  void refine(const Component& c, uint64_t& nonzero) {
    int k = first_;
    for (; !eob_run_ && k <= last_; k++) {
      const int code = bits_.symbol(c.ac);
      int run = code >> 4;
      const int bits = code & 15;
      if (bits > 1) damaged("a code that does not exist");
      if (!bits && run != 15) {
        eob_run_ = (1 << run) + bits_.get(run);
        break;
      }
      bits_.skip(bits);
      for (; k <= last_; k++) {
        if (nonzero >> k & 1)
          bits_.skip(1);
        else if (--run < 0)
          break;
      }
      if (!bits) continue;
      if (k > last_) damaged("a run leaves its block");
      nonzero |= uint64_t(1) << k;
    }
    if (!eob_run_) return;
    for (; k <= last_; k++) bits_.skip(int(nonzero >> k & 1));
    eob_run_--;
  }

  // Data that no pixel wants are a sign that overwritten data were read as shorter codes. Filling
  // is harmless, and so are a few stray bytes at a scan's end.
  void leftover(bool before_restart) const {
    const std::vector<uint8_t>& bytes = bits_.bytes;
    const size_t from = bits_.used(), n = bytes.size() - from;
    if (n == 0 || (n <= 16 && !before_restart)) return;
    for (size_t i = from; i < bytes.size(); i++)
      if (bytes[i] != bytes[from]) damaged("more data than pixels");
    // A file filled up with zeros from some point on: they were read as pixels before they filled.
    size_t same = 0;
    while (same < from && same < 8 && bytes[from - 1 - same] == bytes[from]) same++;
    if (same == 8) damaged("rows are missing");
  }

  const uint8_t *p_, *end_;
  Table tables_[2][4];
  std::vector<Component> components_;
  Bits bits_;
  bool progressive_ = false, refined_ = false;
  int restart_ = 0, wide_ = 0, high_ = 0, scans_ = 0, first_ = 0, last_ = 63, eob_run_ = 0;
};

}  // namespace

int bitsr_jpeg_check(const uint8_t* data, size_t n, char* err, size_t cap) {
  try {
    Jpeg(data, n).check();
    return 1;
  } catch (const Damage& damage) {
    if (err && cap) std::snprintf(err, cap, "%s", damage.text);
    return 0;
  } catch (const Unknown&) {
    return -1;
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

void bitsr_no_log(const char*, int, const char*, void*) {}
