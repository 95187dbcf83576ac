/* A picture on its way through a model, a row at a time.
 *
 * A pass takes every operation a few rows further, one operation after the other, each behind its input by the rows
 * that it reads below its own. So a picture runs depth first: what an operation makes is read in the same pass, while
 * it is in the cache; the memory grows with the width alone, and SR rows come out soon after their LR rows went in.
 *
 * The rows of a pass are dealt out to lanes, one a thread: neighbours to the same lane, and a row of the picture to the
 * same lane in every operation, so that most of what a thread reads it has written itself. A lane's triples (pass,
 * operation, row) are taken in that order, each when it is ready: the rows it reads are made, and the readers of
 * the row it overwrites in a ring are done. A thread whose own lane is not ready helps out in another. Everything a row
 * needs comes earlier in the order of all lanes, so the first row that is not taken gets ready: no deadlock, no
 * barrier, and a thread that the system has put to sleep holds up what needs its row, nothing else. Threads are
 * started for a push and joined at its end: nothing to clean up at exit or after a fork.
 *
 * Channel attention needs the whole picture before its first row: a net with it is cut into levels, which a lane
 * takes one after the other. What is read at a later level than it is written is kept for the whole picture.
 */
#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdio>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <thread>
#include <utility>
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
  uint8_t* bytes = nullptr;
  size_t row_bytes = 0;
  int rows = 0;
  uint8_t* row(int y) { return bytes + size_t(y % rows) * row_bytes; }
};

/* Of a level in a push: its passes [pass, end). */
struct Span {
  int pass = 0, end = 0;
};

constexpr int LANE_ROWS = 8; /* fewer share more rows with the next lane, more do not fit its thread's cache */

/* The rows y of each pass with first <= y % pass rows < end, and the next of them to take: the ticket counts its
 * triples (pass, operation, row) in a push, level after level. */
struct alignas(64) Lane {
  int first = 0, end = 0;
  std::atomic<int64_t> ticket{0};
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

/* Adds n pixels of 64 channels to their sums. */
void sum_pixels(const int16_t* x, size_t n, size_t stride, int64_t* sums) {
  constexpr size_t MOST = 1 << 15; /* pixels whose sum fits 32 bits */
  for (size_t from = 0; from < n; from += MOST) {
    alignas(16) int32_t sum[64] = {};
    const int16_t* v = x + from * stride;
    size_t i = 0, end = std::min(MOST, n - from);
#if defined(__SSE2__)
    const __m128i ones = _mm_set1_epi16(1);
    for (int c = 0; c < 64; c += 32) {
      __m128i acc[8] = {};
      for (i = 0; i + 2 <= end; i += 2)
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) {
          const __m128i a = _mm_load_si128(reinterpret_cast<const __m128i*>(v + i * stride + c + 8 * q));
          const __m128i b = _mm_load_si128(reinterpret_cast<const __m128i*>(v + (i + 1) * stride + c + 8 * q));
          acc[2 * q] = _mm_add_epi32(acc[2 * q], _mm_madd_epi16(_mm_unpacklo_epi16(a, b), ones));
          acc[2 * q + 1] = _mm_add_epi32(acc[2 * q + 1], _mm_madd_epi16(_mm_unpackhi_epi16(a, b), ones));
        }
      for (int q = 0; q < 8; q++) _mm_store_si128(reinterpret_cast<__m128i*>(sum + c + 4 * q), acc[q]);
    }
#endif
    for (; i < end; i++)
      for (size_t c = 0; c < 64; c++) sum[c] += v[i * stride + c];
    for (int c = 0; c < 64; c++) sums[c] += sum[c];
  }
}

/* out = mulh(x, gate), `stride` channels a pixel. A gate is from 0 to 32767. */
void scale_row(const int16_t* x, const int16_t* gate, int16_t* out, size_t n, size_t stride) {
  for (size_t i = 0; i < n; i++)
    for (size_t c = 0; c < stride; c += 8, x += 8, out += 8) {
#if defined(__SSE2__)
      /* mulh is 2 high + (low >> 14, rounded), of the 32-bit product's halves */
      const __m128i v = _mm_load_si128(reinterpret_cast<const __m128i*>(x));
      const __m128i g = _mm_load_si128(reinterpret_cast<const __m128i*>(gate + c));
      const __m128i low = _mm_srli_epi16(_mm_mullo_epi16(v, g), 14), high = _mm_mulhi_epi16(v, g);
      const __m128i up = _mm_srli_epi16(_mm_add_epi16(low, _mm_set1_epi16(1)), 1);
      _mm_store_si128(reinterpret_cast<__m128i*>(out), _mm_add_epi16(_mm_add_epi16(high, high), up));
#elif defined(__aarch64__)
      vst1q_s16(out, vqrdmulhq_s16(vld1q_s16(x), vld1q_s16(gate + c)));
#else
      for (size_t k = 0; k < 8; k++) out[k] = mulh(x[k], gate[c + k]);
#endif
    }
}

/* One layer of the gate's perceptron: sat(shift(bias + sum w x, s)), sums modulo 2^32. */
int16_t neuron(const int16_t* weight, const int16_t* x, int n, int32_t bias, int shift) {
  uint32_t sum = uint32_t(bias) + (uint32_t(1) << (shift - 1));
  for (int i = 0; i < n; i++) sum += uint32_t(weight[i] * x[i]);
  return sat16(int32_t(sum) >> shift);
}

/* 32767 / (1 + exp(-z / 2048)), linear between multiples of 128. */
int16_t sigmoid(int16_t z) {
  struct Table {
    int at[513];
    Table() {
      for (int i = 0; i <= 512; i++) at[i] = int(std::lround(32767 / (1 + std::exp(-(128 * i - 32768) / 2048.0))));
    }
  };
  static const Table table;
  const int i = (z + 32768) >> 7, f = (z + 32768) & 127;
  return int16_t(table.at[i] + (((table.at[i + 1] - table.at[i]) * f + 64) >> 7));
}

/* Sums of a picture's channels and the gate that channel attention (squeeze and excitation) makes of them. */
struct Pool {
  std::mutex mutex;
  Array<int64_t> sums;
  Array<int16_t> mean, hidden, gate;
  int rows = 0;
  std::atomic<bool> done{false}; /* the gate is made */

  Pool(const Attend& a) {
    const size_t padded = size_t(round_up(a.channels, 64));
    if (!sums.resize(padded) || !mean.resize(padded) || !gate.resize(padded) || !hidden.resize(size_t(a.hidden)))
      throw std::bad_alloc();
  }

  void begin() {
    std::fill(sums.data(), sums.data() + sums.size(), 0);
    rows = 0;
    done.store(false, std::memory_order_relaxed);
  }

  /* A row of w pixels of an h x w picture; the last one makes the gate. */
  void add(const Attend& a, const int16_t* x, int h, int w) {
    for (size_t c = 0; c < sums.size(); c += 64) {
      int64_t sum[64] = {};
      sum_pixels(x + c, size_t(w), sums.size(), sum);
      const std::lock_guard<std::mutex> lock(mutex);
      for (size_t i = 0; i < 64; i++) sums[c + i] += sum[i];
      if (c + 64 == sums.size() && ++rows == h) make_gate(a, int64_t(h) * w);
    }
  }

  void make_gate(const Attend& a, int64_t n) {
    for (int c = 0; c < a.channels; c++) {
      const int64_t v = sums[size_t(c)] + n / 2;
      mean[size_t(c)] = int16_t(v / n - (v % n < 0)); /* rounded down */
    }
    for (int i = 0; i < a.hidden; i++) {
      const size_t at = size_t(i);
      const int16_t v =
          neuron(a.down.data() + at * size_t(a.channels), mean.data(), a.channels, a.down_bias[at], a.down_shift);
      hidden[at] = v < 0 ? mulh(v, a.slope[at]) : v;
    }
    for (int c = 0; c < a.channels; c++) {
      const size_t at = size_t(c);
      gate[at] =
          sigmoid(neuron(a.up.data() + at * size_t(a.hidden), hidden.data(), a.hidden, a.up_bias[at], a.up_shift));
    }
    done.store(true, std::memory_order_release);
  }
};

}  // namespace

/* What the rows of one picture may take while they are worked on: about 17 kB an LR column with two threads, so this is
 * far beyond real pictures, and nearer than the swap of a machine that is fed a lie. */
constexpr size_t IN_FLIGHT_MOST = size_t(UINT32_MAX);

class Stream {
 public:
  Stream(const Model& model, int h, int w, int threads, int pass) : m_(model), h_(h), w_(w), asked_{threads, pass} {
    if (h < 1 || w < 1) throw std::runtime_error("an empty picture");
    if (w > INT_MAX / 64 / m_.scale || h > INT_MAX / 2 / m_.scale) throw std::runtime_error("the picture is too large");
    if (threads < 1 || threads > 1024) throw std::runtime_error("threads must be from 1 to 1024");
    if (pass < 0 || pass > h) throw std::runtime_error("a pass must have from 1 to all rows");
    pass_ = pass ? pass : std::min(LANE_ROWS * threads, MAX_PASS);
    size_t widest = 0, widest_bytes = 0, in_flight = 0;
    memories_.resize(m_.memories.size());
    for (const Storage& s : m_.storages) {
      Ring ring;
      const bool bytes = s.cell == 1;
      ring.row_bytes =
          (size_t(w_) * size_t(s.rate) + 2 * size_t(s.margin)) * size_t(s.stride * s.cell) + (bytes ? DOT : 0) + 63;
      ring.row_bytes -= ring.row_bytes % 64;
      ring.rows = (s.whole ? h_ : std::min(s.rows + pass_, h_)) * s.rate;
      if (!s.whole && ring.row_bytes > (IN_FLIGHT_MOST - in_flight) / size_t(ring.rows))
        throw std::runtime_error("the picture is too wide: its rows in flight need more than 4 GiB");
      in_flight += s.whole ? 0 : ring.row_bytes * size_t(ring.rows);
      (bytes ? widest_bytes : widest) = std::max(bytes ? widest_bytes : widest, ring.row_bytes);
      Array<uint8_t>& memory = memories_[size_t(s.memory)];
      if (!memory.size()) {
        if (ring.row_bytes > SIZE_MAX / 2 / size_t(ring.rows) || !memory.resize(ring.row_bytes * size_t(ring.rows)))
          throw std::bad_alloc();
        if (bytes) std::memset(memory.data(), 128, memory.size());
      }
      ring.bytes = memory.data();
      rings_.push_back(ring);
    }
    if (!zeros_.resize(widest) || !zero_bytes_.resize(widest_bytes)) throw std::bad_alloc();
    if (widest_bytes) std::memset(zero_bytes_.data(), 128, widest_bytes);
    /* Nobody runs further ahead of an unfinished row than the longest ring lets him. */
    int rows = 0, size = 16;
    for (const Storage& s : m_.storages) rows = std::max(rows, s.rows + pass_);
    while (size < (m_.levels.size() > 1 ? h_ : 2 * rows)) size *= 2;
    for (size_t i = 0; i < m_.operations.size(); i++) {
      Progress p;
      p.made.reset(new std::atomic<int>[size_t(size)]);
      p.mask = size - 1;
      progress_.push_back(std::move(p));
      pools_.emplace_back(m_.operations[i].kind == Kind::pool ? new Pool(m_.operations[i].attend) : nullptr);
    }
    spans_.resize(m_.levels.size());
    lanes_ = std::vector<Lane>(size_t(std::min(threads, pass_)));
    for (size_t i = 0; i < lanes_.size(); i++) {
      lanes_[i].first = int(i * size_t(pass_) / lanes_.size());
      lanes_[i].end = int((i + 1) * size_t(pass_) / lanes_.size());
    }
    from_.resize(m_.operations.size());
    to_.resize(m_.operations.size());
    scratch_.resize(size_t(threads));
    for (auto& s : scratch_)
      if (!s.resize(SCRATCH)) throw std::bad_alloc();
    others_.reserve(size_t(threads) - 1);
    begin();
  }

  /* Go to the first row of a picture of the same size. What the rings hold no longer matters: each row is made before
   * it is read, and nobody writes their margins. */
  void begin() {
    fed_ = 0;
    for (Progress& p : progress_) {
      p.next = 0;
      for (int j = 0; j <= p.mask; j++) p.made[size_t(j)].store(0, std::memory_order_relaxed);
    }
    for (const auto& pool : pools_)
      if (pool) pool->begin();
  }

  const Model& model() const { return m_; }
  bool fits(int h, int w, int threads, int pass) const {
    return h == h_ && w == w_ && asked_.first == threads && asked_.second == pass;
  }
  size_t bytes() const {
    size_t sum = 0;
    for (const auto& memory : memories_) sum += memory.size();
    return sum;
  }

  /* LR rows [0, fed) complete how many rows of an operation? */
  int limit(int fed) const { return fed == h_ ? h_ : m_.levels.size() > 1 ? 0 : std::max(0, fed - m_.lag); }
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
    for (int i = 0; i < operations; i++) {
      const Operation& op = m_.operations[size_t(i)];
      from_[size_t(i)] = progress_[size_t(i)].next;
      int to = fed;
      for (size_t j = 0; j < op.inputs.size(); j++) {
        const int have = to_[size_t(m_.buffers[size_t(op.inputs[j])].producer)];
        to = std::min(to, have == h_ ? h_ : std::max(0, have - (j ? 0 : op.radius)));
      }
      if (op.kind == Kind::attend && to < h_) to = 0;
      to_[size_t(i)] = to;
      progress_[size_t(i)].next = to;
    }
    for (size_t level = 0; level < m_.levels.size(); level++) {
      int first = INT_MAX, last = INT_MIN;
      for (const int i : m_.levels[level])
        if (from_[size_t(i)] < to_[size_t(i)]) {
          const int delay = m_.operations[size_t(i)].delay;
          first = std::min(first, (from_[size_t(i)] + delay) / pass_);
          last = std::max(last, (to_[size_t(i)] - 1 + delay) / pass_);
        }
      spans_[level] = first <= last ? Span{first, last + 1} : Span{};
    }
    for (Lane& lane : lanes_) lane.ticket.store(0, std::memory_order_relaxed);

    for (size_t t = 1; t < scratch_.size(); t++) {
      try {
        others_.emplace_back([this, t] { work(t); });
      } catch (const std::exception&) {
        break; /* no more threads, or no memory for one: those there are do it all */
      }
    }
    work(0);
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
  bool are_made(int op, int low, int high) const {
    for (int y = std::max(low, 0); y <= std::min(high, h_ - 1); y++)
      if (!is_made(op, y)) return false;
    return true;
  }
  /* Whether the operations have done all they do with row y of what they read. */
  bool are_done(const std::vector<int>& readers, int y) const {
    for (const int reader : readers) {
      const int radius = m_.operations[size_t(reader)].radius;
      if (!are_made(reader, y - radius, y + radius)) return false;
    }
    return true;
  }
  bool is_ready(int i, int y) const {
    const Operation& op = m_.operations[size_t(i)];
    for (size_t j = 0; j < op.inputs.size(); j++) {
      const int radius = j ? 0 : op.radius;
      if (!are_made(m_.buffers[size_t(op.inputs[j])].producer, y - radius, y + radius)) return false;
    }
    if (op.kind == Kind::attend && !pools_[size_t(i - 1)]->done.load(std::memory_order_acquire)) return false;
    for (const int buffer : {op.output, op.bits}) {
      if (buffer < 0 || m_.buffers[size_t(buffer)].storage < 0) continue;
      const int storage = m_.buffers[size_t(buffer)].storage;
      const Storage& s = m_.storages[size_t(storage)];
      if (s.writer != i) continue;
      const int ring = rings_[size_t(storage)].rows / s.rate;
      if ((y >= ring && !are_done(s.readers, y - ring)) || !are_done(s.before, y)) return false;
    }
    return true;
  }

  enum class Taken { row, nothing, all };

  /* Take the lane's next row, if there is one and it is ready. */
  Taken take(Lane& lane, int& i, int& y) const {
    const int rows = lane.end - lane.first;
    int64_t ticket = lane.ticket.load(std::memory_order_relaxed);
    for (;;) {
      int64_t at = ticket;
      size_t level = 0;
      for (;; level++) {
        if (level == spans_.size()) return Taken::all;
        const int64_t tickets =
            int64_t(spans_[level].end - spans_[level].pass) * int64_t(m_.levels[level].size()) * rows;
        if (at < tickets) break;
        at -= tickets;
      }
      const int operations = int(m_.levels[level].size());
      i = m_.levels[level][size_t(at / rows % operations)];
      const int delay = m_.operations[size_t(i)].delay, k = lane.first + int(at % rows);
      y = int(spans_[level].pass + at / rows / operations) * pass_ - delay + (k + delay) % pass_;
      const bool asked = y >= from_[size_t(i)] && y < to_[size_t(i)];
      if (asked && !is_ready(i, y)) return Taken::nothing;
      if (lane.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_relaxed)) {
        if (asked) return Taken::row;
        ticket++;
      }
    }
  }

  void work(size_t thread) {
    uint64_t* scratch = scratch_[thread].data();
    for (int idle = 0;;) {
      bool left = false;
      Taken taken = Taken::nothing;
      int i = 0, y = 0;
      for (size_t n = 0; n < lanes_.size() && taken != Taken::row; n++) {
        taken = take(lanes_[(thread + n) % lanes_.size()], i, y);
        left |= taken != Taken::all;
      }
      if (taken != Taken::row) {
        if (!left) return;
        if (++idle < 2000)
          relax();
        else
          std::this_thread::yield();
        continue;
      }
      idle = 0;
      const std::vector<int>& inputs = m_.operations[size_t(i)].inputs;
      for (int r = 0; r < (inputs.empty() ? 1 : m_.buffers[size_t(inputs[0])].rate); r++) run_row(i, y, r, scratch);
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

  void run_row(int index, int lr_row, int r, uint64_t* scratch) {
    const Operation& op = m_.operations[size_t(index)];
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
        row.skip = op.skip >= 0 ? pixels(op.skip, y) : nullptr;
        row.map = op.map >= 0 ? pixels(op.map, y) : nullptr;
        row.out = op.output >= 0 ? pixels(op.output, y) : nullptr;
        row.bits = op.bits >= 0 ? bits(op.bits, y) : nullptr;
        row.scratch = scratch;
        m_.kernels->bconv(op.bconv, row);
        break;
      }
      case Kind::map:
        m_.kernels->map(op.size, pixels(op.inputs[0], y), w, pixels(op.output, y));
        break;
      case Kind::quant:
        m_.kernels->quant(op.quant, pixels(op.inputs[0], y), w, bytes(op.output, y));
        break;
      case Kind::qconv: {
        QconvRow row;
        for (int i = 0; i < op.qconv.k; i++) row.rows[i] = bytes(op.inputs[0], y + i - op.side);
        row.w = w;
        row.skip = op.skip >= 0 ? pixels(op.skip, y) : nullptr;
        row.map = nullptr;
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
      case Kind::pool:
        pools_[size_t(index)]->add(op.attend, pixels(op.inputs[0], y), h, w);
        break;
      case Kind::attend:
        scale_row(pixels(op.inputs[0], y), pools_[size_t(index - 1)]->gate.data(), pixels(op.output, y), size_t(w),
                  size_t(in.stride()));
        break;
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
    row.step = stride;
    if (stride > 1) {
      for (int i = 0; i < k; i++) row.rows[i] = pixels(op.inputs[0], y + i - side) - side * stride;
      row.w = w;
      row.out = pixels(op.output, y);
      m_.kernels->conv(op.conv, row);
      return;
    }
    /* The rows of a plane go through scratch: there they get the value behind their last run, and their edges. */
    constexpr int LONG = CHUNK + MAX_K;
    auto* rows = reinterpret_cast<int16_t*>(scratch);
    for (int from = 0; from < w; from += CHUNK) {
      row.w = std::min(CHUNK, w - from);
      const int n = row.w + 2 * side;
      const bool beyond = op.conv.edge && (from < side || from + row.w + side > w);
      for (int i = 0; i < k; i++) {
        const int above = y + i - side;
        const int16_t* x = pixels(op.inputs[0], op.conv.edge ? std::clamp(above, 0, h_ * in.rate - 1) : above);
        int16_t* copy = rows + i * LONG;
        if (beyond)
          for (int j = 0; j < n; j++) copy[j] = x[std::clamp(from - side + j, 0, w - 1)];
        else
          std::memcpy(copy, x + from - side, size_t(n) * 2);
        copy[n] = 0;
        row.rows[i] = copy;
      }
      row.out = pixels(op.output, y) + size_t(from) * size_t(row.out_stride);
      m_.kernels->conv(op.conv, row);
    }
  }

  const Model& m_;
  const int h_, w_;
  const std::pair<int, int> asked_; /* threads, pass */
  int pass_ = 0;                    /* LR rows of a pass */
  int fed_ = 0;
  std::vector<Array<uint8_t>> memories_;
  std::vector<Ring> rings_;                  /* of each storage, in its memory */
  std::vector<std::unique_ptr<Pool>> pools_; /* null: the operation pools nothing */
  Array<uint8_t> zeros_, zero_bytes_;        /* a row outside the picture; a byte of 0 is 128 */
  std::vector<Progress> progress_;
  std::vector<Array<uint64_t>> scratch_; /* SCRATCH words a thread */
  std::vector<std::thread> others_;      /* empty between pushes */
  /* of the push in progress */
  const int16_t* lr_ = nullptr;
  int16_t* out_ = nullptr;
  int lr_base_ = 0, out_base_ = 0;
  std::vector<int> from_, to_;
  std::vector<Span> spans_; /* of each level */
  std::vector<Lane> lanes_;
};

}  // namespace bitsr

struct bitsr_stream : bitsr::Stream {
  using bitsr::Stream::Stream;
};

void bitsr::Stop::operator()(bitsr_stream* stream) const { delete stream; }

/* Bytes that a model keeps for its next picture. New pages for the rings cost a picture of 320x180 5 % of its time. */
static constexpr size_t IDLE_MOST = 32u << 20;

extern "C" {

bitsr_stream* bitsr_stream_open(const bitsr_model* model, int h, int w, int threads, int pass, char* err, size_t cap) {
  return bitsr::guarded<bitsr_stream*>(nullptr, err, cap, [&] {
    bitsr::Idle idle;
    {
      const std::lock_guard<std::mutex> lock(model->idle_mutex);
      idle.swap(model->idle);
    }
    if (!idle || !idle->fits(h, w, threads, pass)) return new bitsr_stream(*model, h, w, threads, pass);
    idle->begin();
    return idle.release();
  });
}
int bitsr_stream_push(bitsr_stream* stream, const int16_t* lr, int n, int16_t* out, int out_rows, char* err,
                      size_t cap) {
  return bitsr::guarded<int>(-1, err, cap, [&] { return stream->push(lr, n, out, out_rows); });
}
int bitsr_stream_ready(const bitsr_stream* stream, int n) { return stream->ready(n); }
void bitsr_stream_close(bitsr_stream* stream) {
  bitsr::Idle idle(stream);
  if (!stream || stream->bytes() > IDLE_MOST) return;
  const bitsr::Model& model = stream->model();
  const std::lock_guard<std::mutex> lock(model.idle_mutex);
  idle.swap(model.idle);
}
}
