/* An image on its way through a model, a row at a time.
 *
 * A pass takes every operation a few rows further, one operation after the other, each behind its
 * input by the rows that it reads below its own. So an image runs depth first: what an operation
 * makes is read in the same pass, while it is in the cache; the memory grows with the width alone,
 * and SR rows come out soon after their LR rows went in.
 *
 * The rows of a pass are dealt out to lanes, one a thread: neighbours to the same lane, and a row
 * of the image to the same lane in every operation, so that most of what a thread reads it has
 * written itself. A lane's triples (pass, operation, row) are taken in that order, each when it is
 * ready: the rows it reads are made, and the readers of the row it overwrites in a ring are done. A
 * thread whose own lane is not ready helps out in another. Everything a row needs comes earlier in
 * the order of all lanes, so the first row that is not taken gets ready: no deadlock, no barrier,
 * and a thread that the system has put to sleep holds up what needs its row, nothing else. Threads
 * are started for a push and joined at its end: nothing to clean up at exit or after a fork.
 *
 * Channel attention needs the whole image before its first row: a net with it is cut into levels,
 * which a lane takes one after the other. What is read at a later level than it is written is kept
 * for the whole image.
 */
#include "core/stream.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstring>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "common/threads.h"
#include "core/errors.h"
#include "core/ops.h"

namespace bitsr {
namespace {

inline void relax() {
#if defined(__SSE2__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/* Of a level in a push: its passes [pass, end). */
struct Span {
  int pass = 0, end = 0;
};

/* Fewer share more rows with the next lane, more do not fit its thread's cache. */
constexpr int LANE_ROWS = 8;

/* The rows y of each pass with first <= y % pass rows < end, and the next of them to take: the
 * ticket counts its triples (pass, operation, row) in a push, level after level. */
struct alignas(64) Lane {
  int first = 0, end = 0;
  std::atomic<int64_t> ticket{0};
};

struct Progress {
  std::unique_ptr<std::atomic<int>[]> made; /* slot y & mask holds y + 1 once row y is made */
  int mask = 0;
  int next = 0; /* first row that no push has asked for yet */
};

}  // namespace

/* What the rows of one image may take while they are worked on: about 17 kB an LR column with two
 * threads, so this is far beyond real images, and nearer than the swap of a machine that is fed a
 * lie. */
constexpr size_t IN_FLIGHT_MOST = size_t(UINT32_MAX);

void Rows::allocate(int pass) {
  size_t widest = 0, widest_bytes = 0, in_flight = 0;
  /* All sizes before any memory: what is refused has touched none. */
  for (const Storage& s : model.storages) {
    Ring ring;
    const bool bytes = s.cell == 1;
    /* 64 bits, for a row may be beyond the memory of a machine of 32. */
    const uint64_t row_bytes =
        ((uint64_t(w) * uint64_t(s.rate) + 2 * uint64_t(s.margin)) * uint64_t(s.stride * s.cell) +
         (bytes ? DOT : 0) + 63) /
        64 * 64;
    ring.rows = (s.whole ? h : std::min(s.rows + pass, h)) * s.rate;
    if (!s.whole && row_bytes > (IN_FLIGHT_MOST - in_flight) / size_t(ring.rows))
      fail("the image is too wide: its rows in flight need more than 4 GiB");
    if (row_bytes > SIZE_MAX) no_memory();
    ring.row_bytes = size_t(row_bytes);
    in_flight += s.whole ? 0 : ring.row_bytes * size_t(ring.rows);
    rings_.push_back(ring);
    (bytes ? widest_bytes : widest) = std::max(bytes ? widest_bytes : widest, ring.row_bytes);
  }
  memories_.resize(model.memories.size());
  for (size_t i = 0; i < rings_.size(); i++) {
    const Storage& s = model.storages[i];
    Ring& ring = rings_[i];
    Array<uint8_t>& memory = memories_[size_t(s.memory)];
    if (!memory.size()) {
      if (ring.row_bytes > SIZE_MAX / 2 / size_t(ring.rows) ||
          !memory.resize(ring.row_bytes * size_t(ring.rows)))
        no_memory();
      if (s.cell == 1) std::memset(memory.data(), 128, memory.size());
    }
    ring.bytes = memory.data();
  }
  if (!zeros_.resize(widest) || !zero_bytes_.resize(widest_bytes)) no_memory();
  if (widest_bytes) std::memset(zero_bytes_.data(), 128, widest_bytes);
  for (const Operation& op : model.operations)
    gates_.push_back(op.type->gate ? op.type->gate(op) : nullptr);
}

size_t Rows::memory_bytes() const {
  size_t sum = 0;
  for (const auto& memory : memories_) sum += memory.size();
  return sum;
}

class Stream : public Rows {
 public:
  Stream(const Model& model, int h, int w, int threads, int pass)
      : Rows(model, h, w), asked_{threads, pass} {
    if (h < 1 || w < 1) fail("an empty image");
    if (w > INT_MAX / 64 / model.scale || h > INT_MAX / 2 / model.scale)
      fail("the image is too large");
    if (threads < 1 || threads > 1024) fail("threads must be from 1 to 1024");
    if (pass < 0 || pass > h) fail("a pass must have from 1 to all rows");
    pass_ = pass ? pass : std::min(LANE_ROWS * threads, MAX_PASS);
    allocate(pass_);
    /* Nobody runs further ahead of an unfinished row than the longest ring lets him. */
    int rows = 0, size = 16;
    for (const Storage& s : model.storages) rows = std::max(rows, s.rows + pass_);
    while (size < (model.levels.size() > 1 ? h : 2 * rows)) size *= 2;
    for (size_t i = 0; i < model.operations.size(); i++) {
      Progress p;
      p.made.reset(new std::atomic<int>[size_t(size)]);
      p.mask = size - 1;
      progress_.push_back(std::move(p));
    }
    spans_.resize(model.levels.size());
    lanes_ = std::vector<Lane>(size_t(std::min(threads, pass_)));
    for (size_t i = 0; i < lanes_.size(); i++) {
      lanes_[i].first = int(i * size_t(pass_) / lanes_.size());
      lanes_[i].end = int((i + 1) * size_t(pass_) / lanes_.size());
    }
    from_.resize(model.operations.size());
    to_.resize(model.operations.size());
    scratch_.resize(size_t(threads));
    for (auto& s : scratch_)
      if (!s.resize(SCRATCH)) no_memory();
    others_.reserve(size_t(threads) - 1);
    begin();
  }

  /* Go to the first row of an image of the same size. What the rings hold no longer matters: each
   * row is made before it is read, and nobody writes their margins. */
  void begin() {
    fed_ = 0;
    for (Progress& p : progress_) {
      p.next = 0;
      for (int j = 0; j <= p.mask; j++) p.made[size_t(j)].store(0, std::memory_order_relaxed);
    }
    for (const auto& gate : gates_)
      if (gate) gate->begin();
  }

  bool fits(int height, int width, int threads, int pass) const {
    return height == h && width == w && asked_.first == threads && asked_.second == pass;
  }
  size_t bytes() const { return memory_bytes(); }

  /* LR rows [0, fed) complete how many rows of an operation? */
  int limit(int fed) const {
    return fed == h ? h : model.levels.size() > 1 ? 0 : std::max(0, fed - model.lag);
  }
  int ready(int n) const {
    return n < 0 || n > h - fed_ ? 0 : (limit(fed_ + n) - limit(fed_)) * model.scale;
  }

  int push(const int16_t* lr, int n, int16_t* out, int out_rows) {
    if (n < 0 || n > h - fed_) fail("more rows than the image has");
    if (out_rows < ready(n)) fail("no room for the rows that are ready");
    if (n == 0) return 0;
    const int made = ready(n);
    this->lr = lr;
    this->lr_base = fed_;
    this->out = out;
    this->out_base = limit(fed_);
    const int fed = fed_ + n, operations = int(model.operations.size());

    /* Rows of each operation in this push, [from, to): from those that its inputs have by then. */
    for (int i = 0; i < operations; i++) {
      const Operation& op = model.operation(i);
      from_[size_t(i)] = progress_[size_t(i)].next;
      int to = fed;
      for (size_t j = 0; j < op.inputs.size(); j++) {
        const int have = to_[size_t(model.buffer(op.inputs[j]).producer)];
        to = std::min(to, have == h ? h : std::max(0, have - (j ? 0 : op.radius)));
      }
      if (op.gate >= 0 && to < h) to = 0;
      to_[size_t(i)] = to;
      progress_[size_t(i)].next = to;
    }
    for (size_t level = 0; level < model.levels.size(); level++) {
      int first = INT_MAX, last = INT_MIN;
      for (const int i : model.levels[level])
        if (from_[size_t(i)] < to_[size_t(i)]) {
          const int delay = model.operation(i).delay;
          first = std::min(first, (from_[size_t(i)] + delay) / pass_);
          last = std::max(last, (to_[size_t(i)] - 1 + delay) / pass_);
        }
      spans_[level] = first <= last ? Span{first, last + 1} : Span{};
    }
    for (Lane& lane : lanes_) lane.ticket.store(0, std::memory_order_relaxed);

    for (size_t t = 1; t < scratch_.size(); t++)
      if (!others_.start([this, t] { work(t); })) break; /* those there are do it all */
    work(0);
    others_.join();
    fed_ = fed;
    return made;
  }

 private:
  bool is_made(int op, int y) const {
    const Progress& p = progress_[size_t(op)];
    return p.made[size_t(y & p.mask)].load(std::memory_order_acquire) > y;
  }
  bool are_made(int op, int low, int high) const {
    for (int y = std::max(low, 0); y <= std::min(high, h - 1); y++)
      if (!is_made(op, y)) return false;
    return true;
  }
  /* Whether the operations have done all they do with row y of what they read. */
  bool are_done(const std::vector<int>& readers, int y) const {
    for (const int reader : readers) {
      const int radius = model.operation(reader).radius;
      if (!are_made(reader, y - radius, y + radius)) return false;
    }
    return true;
  }
  bool is_ready(int i, int y) const {
    const Operation& op = model.operation(i);
    for (size_t j = 0; j < op.inputs.size(); j++) {
      const int radius = j ? 0 : op.radius;
      if (!are_made(model.buffer(op.inputs[j]).producer, y - radius, y + radius)) return false;
    }
    if (op.gate >= 0 && !gates_[size_t(op.gate)]->done()) return false;
    for (const int buffer : {op.output, op.fused}) {
      if (buffer < 0 || model.buffer(buffer).storage < 0) continue;
      const int storage = model.buffer(buffer).storage;
      const Storage& s = model.storages[size_t(storage)];
      if (s.writer != i) continue;
      const int ring = ring_rows(storage) / s.rate;
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
        const int64_t tickets = int64_t(spans_[level].end - spans_[level].pass) *
                                int64_t(model.levels[level].size()) * rows;
        if (at < tickets) break;
        at -= tickets;
      }
      const int operations = int(model.levels[level].size());
      i = model.levels[level][size_t(at / rows % operations)];
      const int delay = model.operation(i).delay, k = lane.first + int(at % rows);
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
          yield();
        continue;
      }
      idle = 0;
      const Operation& op = model.operation(i);
      const int rate = op.inputs.empty() ? 1 : model.buffer(op.inputs[0]).rate;
      for (int r = 0; r < rate; r++) op.type->run(*this, op, y * rate + r, scratch);
      Progress& p = progress_[size_t(i)];
      p.made[size_t(y & p.mask)].store(y + 1, std::memory_order_release);
    }
  }

  const std::pair<int, int> asked_; /* threads, pass */
  int pass_ = 0;                    /* LR rows of a pass */
  int fed_ = 0;
  std::vector<Progress> progress_;
  std::vector<Array<uint64_t>> scratch_; /* SCRATCH words a thread */
  Helpers others_;                       /* none between pushes */
  /* of the push in progress */
  std::vector<int> from_, to_;
  std::vector<Span> spans_; /* of each level */
  std::vector<Lane> lanes_;
};

}  // namespace bitsr

struct bitsr_stream : bitsr::Stream {
  using bitsr::Stream::Stream;
};

void bitsr::Stop::operator()(bitsr_stream* stream) const { delete stream; }

/* Bytes that a model keeps for its next image. New pages for the rings cost an image of 320x180 5 %
 * of its time. */
static constexpr size_t IDLE_MOST = 32u << 20;

extern "C" {

bitsr_stream* bitsr_stream_open(const bitsr_model* model, int h, int w, int threads, int pass,
                                char* err, size_t cap) {
  return bitsr::guarded<bitsr_stream*>(nullptr, err, cap, [&] {
    bitsr::Idle idle;
    /* Never waited for: in a child forked while another thread held it, it is held for ever. */
    if (model->idle_mutex.try_lock()) {
      idle.swap(model->idle);
      model->idle_mutex.unlock();
    }
    if (!idle || !idle->fits(h, w, threads, pass))
      return new bitsr_stream(*model, h, w, threads, pass);
    idle->begin();
    return idle.release();
  });
}
int bitsr_stream_push(bitsr_stream* stream, const int16_t* lr, int n, int16_t* out, int out_rows,
                      char* err, size_t cap) {
  return bitsr::guarded<int>(-1, err, cap, [&] { return stream->push(lr, n, out, out_rows); });
}
int bitsr_stream_ready(const bitsr_stream* stream, int n) { return stream->ready(n); }
void bitsr_stream_close(bitsr_stream* stream) {
  bitsr::Idle idle(stream);
  if (!stream || stream->bytes() > IDLE_MOST) return;
  const bitsr::Model& model = stream->model;
  if (!model.idle_mutex.try_lock()) return;
  idle.swap(model.idle);
  model.idle_mutex.unlock();
}
}
