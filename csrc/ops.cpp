/* A picture on its way through a model, a row at a time.
 *
 * A pass takes every operation a few rows further, one operation after the other, each behind its input by the rows
 * that it reads below its own. So a picture runs depth first: what an operation makes is read in the same pass, while
 * it is in the cache; the memory grows with the width alone, and SR rows come out soon after their LR rows went in.
 *
 * Threads take the triples (pass, operation, row) in that order from one counter and wait for what a row needs: the
 * rows it reads to be made, and the readers of the row it overwrites in a ring to be done. Everything needed comes
 * earlier in the order, so the first unfinished row can always go on: no deadlock, and no barrier. They are
 * started for a push and joined at its end: nothing to clean up at exit or after a fork.
 */
#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdio>
#include <memory>
#include <new>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include "neon.h"
#endif

#include "model.h"

namespace bitsr {
namespace {

inline void relax() {
#if defined(__SSE2__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Ring {
  Array<uint8_t> bytes;
  size_t row_bytes = 0;
  int rows = 0;
  uint8_t* row(int y) { return bytes.data() + size_t(y % rows) * row_bytes; }
};

struct Progress {
  std::unique_ptr<std::atomic<int>[]> made; /* slot y & mask holds y + 1 once row y is made */
  int mask = 0;
  int next = 0; /* first row that no push has asked for yet */
};

void sign_row(const int16_t* x, const int16_t* threshold, uint64_t* bits, int w, int stride) {
  for (int i = 0; i < w; i++)
    for (int block = 0; block < stride; block += 64) {
      uint64_t word = 0;
      const int16_t *v = x + size_t(i) * size_t(stride) + block, *t = threshold + block;
#if defined(__SSE2__)
      for (int c = 0; c < 64; c += 16) {
        const auto less = [&](int at) {
          return _mm_cmplt_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(v + at)),
                                 _mm_load_si128(reinterpret_cast<const __m128i*>(t + at)));
        };
        word |= uint64_t(uint32_t(_mm_movemask_epi8(_mm_packs_epi16(less(c), less(c + 8))))) << c;
      }
#elif defined(__aarch64__)
      uint16x8_t less[8];
#pragma GCC unroll 8
      for (int c = 0; c < 64; c += 8) less[c / 8] = vcltq_s16(vld1q_s16(v + c), vld1q_s16(t + c));
      word = neon_bits(less);
#else
      for (int c = 0; c < 64; c++) word |= uint64_t(v[c] < t[c]) << c;
#endif
      *bits++ = word;
    }
}

void add_row(const int16_t* a, const int16_t* b, int16_t* out, size_t n) {
  size_t i = 0;
#if defined(__SSE2__)
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm_adds_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i)),
                                    _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i))));
#elif defined(__aarch64__)
  for (; i + 8 <= n; i += 8) vst1q_s16(out + i, vqaddq_s16(vld1q_s16(a + i), vld1q_s16(b + i)));
#endif
  for (; i < n; i++) out[i] = sat16(int32_t(a[i]) + b[i]);
}

/* out (w, s): the first s values of each pixel of x (w, stride). S is s, or 0 where it is not known beforehand. */
template <int S>
void interleave(const int16_t* x, int stride, int w, int s, int16_t* out) {
  const size_t n = size_t(S ? S : s);
  for (size_t i = 0; i < size_t(w); i++) std::memcpy(out + i * n, x + i * size_t(stride), n * 2);
}

/* out (w, out_stride): channel c is channel c / times of x (w, stride). */
void repeat_row(const int16_t* x, int16_t* out, int w, int channels, int times, int stride, int out_stride) {
  for (int i = 0; i < w; i++) {
    int16_t* o = out + size_t(i) * size_t(out_stride);
    for (int c = 0; c < channels; c++) {
      const int16_t v = x[size_t(i) * size_t(stride) + size_t(c)];
      const uint64_t four = uint64_t(uint16_t(v)) * 0x0001000100010001;
      int t = 0;
      for (; t + 4 <= times; t += 4, o += 4) std::memcpy(o, &four, 8);
      for (; t < times; t++) *o++ = v;
    }
  }
}

/* x = x < 0 ? mulh(x, slope) : x over a row of w pixels. */
void prelu_row(int16_t* x, const int16_t* slope, int w, int stride) {
  for (int i = 0; i < w; i++, x += stride)
    for (int c = 0; c < stride; c++) x[c] = x[c] < 0 ? mulh(x[c], slope[c]) : x[c];
}

}  // namespace

class Stream {
 public:
  Stream(const Model& model, int h, int w, int threads, int pass) : m_(model), h_(h), w_(w) {
    if (h < 1 || w < 1) throw std::runtime_error("an empty picture");
    if (w > INT_MAX / 64 / m_.scale || h > INT_MAX / 2 / m_.scale) throw std::runtime_error("the picture is too large");
    if (threads < 1 || threads > 1024) throw std::runtime_error("threads must be from 1 to 1024");
    if (pass < 0 || pass > h) throw std::runtime_error("a pass must have from 1 to all rows");
    /* What a row waits for lies about as many tickets back as a pass has rows. */
    pass_ = pass ? pass : std::min(4 * threads, MAX_PASS);
    size_t widest = 0, widest_bytes = 0;
    for (const Storage& s : m_.storages) {
      Ring ring;
      const bool bytes = s.cell == 1;
      ring.row_bytes =
          (size_t(w_) * size_t(s.rate) + 2 * size_t(s.margin)) * size_t(s.stride * s.cell) + (bytes ? DOT : 0) + 63;
      ring.row_bytes -= ring.row_bytes % 64;
      ring.rows = std::min(s.rows + pass_, h_) * s.rate;
      (bytes ? widest_bytes : widest) = std::max(bytes ? widest_bytes : widest, ring.row_bytes);
      if (ring.row_bytes > SIZE_MAX / 2 / size_t(ring.rows) || !ring.bytes.resize(ring.row_bytes * size_t(ring.rows)))
        throw std::bad_alloc();
      if (bytes) std::memset(ring.bytes.data(), 128, ring.bytes.size());
      rings_.push_back(std::move(ring));
    }
    if (!zeros_.resize(widest) || !zero_bytes_.resize(widest_bytes)) throw std::bad_alloc();
    if (widest_bytes) std::memset(zero_bytes_.data(), 128, widest_bytes);
    /* Nobody runs further ahead of an unfinished row than the longest ring lets him. */
    int rows = 0, size = 16;
    for (const Storage& s : m_.storages) rows = std::max(rows, s.rows + pass_);
    while (size < 2 * rows) size *= 2;
    for (size_t i = 0; i < m_.operations.size(); i++) {
      Progress p;
      p.made.reset(new std::atomic<int>[size_t(size)]);
      for (int j = 0; j < size; j++) p.made[size_t(j)].store(0, std::memory_order_relaxed);
      p.mask = size - 1;
      progress_.push_back(std::move(p));
    }
    from_.resize(m_.operations.size());
    to_.resize(m_.operations.size());
    scratch_.resize(size_t(threads));
    for (auto& s : scratch_)
      if (!s.resize(SCRATCH)) throw std::bad_alloc();
    others_.reserve(size_t(threads) - 1);
  }

  /* LR rows [0, fed) complete how many rows of an operation? */
  int limit(int fed) const { return fed == h_ ? h_ : std::max(0, fed - m_.lag); }
  int ready(int n) const { return n < 0 || n > h_ - fed_ ? 0 : (limit(fed_ + n) - limit(fed_)) * m_.scale; }

  int push(const int16_t* lr, int n, int16_t* out, int out_rows) {
    if (n < 0 || n > h_ - fed_) throw std::runtime_error("more rows than the picture has");
    if (out_rows < ready(n)) throw std::runtime_error("no room for the rows that are ready");
    if (n == 0) return 0;
    const int made = ready(n);
    lr_ = lr;
    lr_base_ = fed_;
    out_ = out;
    out_base_ = limit(fed_);
    const int fed = fed_ + n, operations = int(m_.operations.size());

    /* Rows of each operation in this push: [from, to), from the rows that its inputs have by then. */
    int first = INT_MAX, last = INT_MIN;
    for (int i = 0; i < operations; i++) {
      const Operation& op = m_.operations[size_t(i)];
      from_[size_t(i)] = progress_[size_t(i)].next;
      int to = fed;
      for (size_t j = 0; j < op.inputs.size(); j++) {
        const int have = to_[size_t(m_.buffers[size_t(op.inputs[j])].producer)];
        to = std::min(to, have == h_ ? h_ : std::max(0, have - (j ? 0 : op.radius)));
      }
      to_[size_t(i)] = to;
      progress_[size_t(i)].next = to;
      if (from_[size_t(i)] < to) {
        first = std::min(first, from_[size_t(i)] + op.delay);
        last = std::max(last, to - 1 + op.delay);
      }
    }
    next_ticket_.store(0, std::memory_order_relaxed);
    first_pass_ = first / pass_;
    tickets_ = int64_t(last / pass_ - first_pass_ + 1) * operations * pass_;

    for (size_t t = 1; t < scratch_.size(); t++) {
      try {
        others_.emplace_back([this, s = scratch_[t].data()] { work(s); });
      } catch (const std::system_error&) {
        break; /* the system has no more threads: those there are do it all */
      }
    }
    work(scratch_[0].data());
    for (auto& t : others_) t.join();
    others_.clear();
    fed_ = fed;
    return made;
  }

 private:
  bool is_made(int op, int y) const {
    const Progress& p = progress_[size_t(op)];
    return p.made[size_t(y & p.mask)].load(std::memory_order_acquire) > y;
  }
  void await(int op, int low, int high) const {
    for (int y = std::max(low, 0); y <= std::min(high, h_ - 1); y++)
      for (int spins = 0; !is_made(op, y); spins++) {
        if (spins < 2000)
          relax();
        else
          std::this_thread::yield();
      }
  }

  void work(uint64_t* scratch) {
    const int operations = int(m_.operations.size());
    for (;;) {
      const int64_t ticket = next_ticket_.fetch_add(1, std::memory_order_relaxed);
      if (ticket >= tickets_) return;
      const int i = int(ticket / pass_ % operations), k = int(ticket % pass_);
      const Operation& op = m_.operations[size_t(i)];
      /* Rows in the order of y % pass_: a thread that keeps in step meets the rows it has made itself. */
      const int y = int(first_pass_ + ticket / pass_ / operations) * pass_ - op.delay + (k + op.delay) % pass_;
      if (y < from_[size_t(i)] || y >= to_[size_t(i)]) continue;
      for (size_t j = 0; j < op.inputs.size(); j++) {
        const int radius = j ? 0 : op.radius;
        await(m_.buffers[size_t(op.inputs[j])].producer, y - radius, y + radius);
      }
      for (const int buffer : {op.output, op.bits}) {
        if (buffer < 0 || m_.buffers[size_t(buffer)].storage < 0) continue;
        const int storage = m_.buffers[size_t(buffer)].storage;
        const Storage& s = m_.storages[size_t(storage)];
        const int ring = rings_[size_t(storage)].rows / s.rate;
        if (s.writer == i && y >= ring)
          for (const int reader : s.readers) {
            const int radius = m_.operations[size_t(reader)].radius;
            await(reader, y - ring - radius, y - ring + radius);
          }
      }
      for (int r = 0; r < m_.buffers[op.inputs.empty() ? 0 : size_t(op.inputs[0])].rate; r++)
        run_row(op, y, r, scratch);
      Progress& p = progress_[size_t(i)];
      p.made[size_t(y & p.mask)].store(y + 1, std::memory_order_release);
    }
  }

  /* Row y of a buffer from its margin (columns of zeros) on, or zeros outside the picture. */
  uint8_t* line(int buffer, int y) {
    const Buffer& b = m_.buffers[size_t(buffer)];
    if (y < 0 || y >= h_ * b.rate) return b.bytes ? zero_bytes_.data() : zeros_.data();
    return rings_[size_t(b.storage)].row(y);
  }
  size_t offset(int buffer) const {
    const Buffer& b = m_.buffers[size_t(buffer)];
    return size_t(m_.storages[size_t(b.storage)].margin) * size_t(b.stride());
  }
  int16_t* pixels(int buffer, int y) { return reinterpret_cast<int16_t*>(line(buffer, y)) + offset(buffer); }
  uint8_t* bytes(int buffer, int y) { return line(buffer, y) + offset(buffer); }
  uint64_t* bits(int buffer, int y) { return reinterpret_cast<uint64_t*>(line(buffer, y)) + offset(buffer); }

  void run_row(const Operation& op, int lr_row, int r, uint64_t* scratch) {
    if (op.kind == Kind::input) {
      std::memcpy(pixels(0, lr_row), lr_ + size_t(lr_row - lr_base_) * size_t(w_), size_t(w_) * 2);
      return;
    }
    const Buffer& in = m_.buffers[size_t(op.inputs[0])];
    const int y = lr_row * in.rate + r, w = w_ * in.rate, h = h_ * in.rate;
    switch (op.kind) {
      case Kind::conv:
        conv_row(op, y, w, scratch);
        if (op.conv.slope.size())
          prelu_row(pixels(op.output, y), op.conv.slope.data(), w, m_.buffers[size_t(op.output)].stride());
        break;
      case Kind::sign:
        sign_row(pixels(op.inputs[0], y), op.threshold.data(), bits(op.output, y), w, in.stride());
        break;
      case Kind::bconv: {
        BconvRow row;
        for (int i = 0; i < 3; i++) row.rows[i] = bits(op.inputs[0], op.side || i == 1 ? y + i - 1 : -1);
        row.w = w;
        row.top = y == 0;
        row.bottom = y == h - 1;
        row.skip = op.inputs.size() > 1 ? pixels(op.inputs[1], y) : nullptr;
        row.out = op.output >= 0 ? pixels(op.output, y) : nullptr;
        row.bits = op.bits >= 0 ? bits(op.bits, y) : nullptr;
        row.scratch = scratch;
        m_.kernels->bconv(op.bconv, row);
        break;
      }
      case Kind::quant:
        m_.kernels->quant(op.quant, pixels(op.inputs[0], y), w, bytes(op.output, y));
        break;
      case Kind::qconv: {
        QconvRow row;
        for (int i = 0; i < op.qconv.k; i++) row.rows[i] = bytes(op.inputs[0], y + i - op.side);
        row.w = w;
        row.skip = op.inputs.size() > 1 ? pixels(op.inputs[1], y) : nullptr;
        row.out = pixels(op.output, y);
        row.bits = nullptr;
        row.scratch = scratch;
        m_.kernels->qconv(op.qconv, row);
        break;
      }
      case Kind::add:
        add_row(pixels(op.inputs[0], y), pixels(op.inputs[1], y), pixels(op.output, y),
                size_t(w) * size_t(in.stride()));
        break;
      case Kind::concat: {
        const size_t stride = size_t(m_.buffers[size_t(op.output)].stride());
        uint64_t* out = bits(op.output, y);
        for (const int input : op.inputs) {
          const size_t words = size_t(m_.buffers[size_t(input)].stride());
          const uint64_t* x = bits(input, y);
          for (size_t px = 0; px < size_t(w); px++) std::memcpy(out + px * stride, x + px * words, words * 8);
          out += words;
        }
        break;
      }
      case Kind::repeat: {
        const Buffer& to = m_.buffers[size_t(op.output)];
        repeat_row(pixels(op.inputs[0], y), pixels(op.output, y), w, in.channels, to.channels / in.channels,
                   in.stride(), to.stride());
        break;
      }
      case Kind::shuffle: {
        const Buffer& to = m_.buffers[size_t(op.output)];
        const int s = to.rate / in.rate, stride = in.stride();
        const int16_t* x = pixels(op.inputs[0], y);
        for (int i = 0; i < s; i++) {
          int16_t* out = to.storage < 0
                             ? out_ + (size_t(y - out_base_ * in.rate) * size_t(s) + size_t(i)) * size_t(w) * size_t(s)
                             : pixels(op.output, y * s + i);
          if (to.channels == 1) {
            (s == 2   ? interleave<2>
             : s == 3 ? interleave<3>
             : s == 4 ? interleave<4>
                      : interleave<0>)(x + i * s, stride, w, s, out);
            continue;
          }
          for (int px = 0; px < w; px++)
            for (int j = 0; j < s; j++, out += to.stride()) {
              const int16_t* v = x + size_t(px) * size_t(stride) + i * s + j;
              for (int c = 0; c < to.channels; c++) out[c] = v[c * s * s];
            }
        }
        break;
      }
      case Kind::input:
        break;
    }
  }

  void conv_row(const Operation& op, int y, int w, uint64_t* scratch) {
    const Buffer& in = m_.buffers[size_t(op.inputs[0])];
    const Buffer& to = m_.buffers[size_t(op.output)];
    const int stride = in.stride(), k = op.conv.k, side = k / 2;
    ConvRow row;
    row.out_stride = to.stride();
    if (stride > 1) {
      for (int i = 0; i < k; i++) row.segments[i] = pixels(op.inputs[0], y + i - side) - side * stride;
      row.step = stride;
      row.w = w;
      row.out = pixels(op.output, y);
      m_.kernels->conv(op.conv, row);
      return;
    }
    auto* patches = reinterpret_cast<int16_t*>(scratch);
    row.segments[0] = patches;
    row.step = op.conv.run;
    for (int from = 0; from < w; from += CHUNK) {
      row.w = std::min(CHUNK, w - from);
      const bool beyond = op.conv.edge && (from < side || from + row.w + side > w);
      for (int i = 0; i < k; i++) {
        const int above = y + i - side;
        const int16_t* x = pixels(op.inputs[0], op.conv.edge ? std::clamp(above, 0, h_ * in.rate - 1) : above);
        for (int px = 0; px < row.w; px++)
          for (int j = 0; j < k; j++) {
            const int at = from + px + j - side;
            patches[px * row.step + i * k + j] = x[beyond ? std::clamp(at, 0, w - 1) : at];
          }
      }
      if (k * k % 2)
        for (int px = 0; px < row.w; px++) patches[px * row.step + row.step - 1] = 0;
      row.out = pixels(op.output, y) + size_t(from) * size_t(row.out_stride);
      m_.kernels->conv(op.conv, row);
    }
  }

  const Model& m_;
  const int h_, w_;
  int pass_ = 0; /* LR rows of a pass */
  int fed_ = 0;
  std::vector<Ring> rings_;
  Array<uint8_t> zeros_, zero_bytes_; /* a row outside the picture; a byte of 0 is 128 */
  std::vector<Progress> progress_;
  std::vector<Array<uint64_t>> scratch_; /* SCRATCH words a thread */
  std::vector<std::thread> others_;      /* empty between pushes */
  /* of the push in progress */
  const int16_t* lr_ = nullptr;
  int16_t* out_ = nullptr;
  int lr_base_ = 0, out_base_ = 0, first_pass_ = 0;
  std::vector<int> from_, to_;
  int64_t tickets_ = 0;
  std::atomic<int64_t> next_ticket_{0};
};

}  // namespace bitsr

struct bitsr_stream : bitsr::Stream {
  using bitsr::Stream::Stream;
};

extern "C" {

bitsr_stream* bitsr_stream_open(const bitsr_model* model, int h, int w, int threads, int pass, char* err, size_t cap) {
  return bitsr::guarded<bitsr_stream*>(nullptr, err, cap,
                                       [&] { return new bitsr_stream(*model, h, w, threads, pass); });
}
int bitsr_stream_push(bitsr_stream* stream, const int16_t* lr, int n, int16_t* out, int out_rows, char* err,
                      size_t cap) {
  return bitsr::guarded<int>(-1, err, cap, [&] { return stream->push(lr, n, out, out_rows); });
}
int bitsr_stream_ready(const bitsr_stream* stream, int n) { return stream->ready(n); }
void bitsr_stream_close(bitsr_stream* stream) { delete stream; }
}
