/* A model as the engine runs it: tensors checked, operations planned. HACKING.md has the file format. */
#pragma once

#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bitsr.h"
#include "kernels.h"

namespace bitsr {

/* What an operation makes: rows of `channels` int16 at `rate` rows (and columns) an LR pixel, or of bits, or of
 * bytes. */
struct Buffer {
  std::string name;
  bool bits = false, bytes = false;
  bool maps = false; /* MAPS maps: values without padding, which only bconv (as its map) and add read */
  int channels = 0;
  int rate = 1;
  int producer = -1; /* operation; -1: the LR luma that the caller feeds */
  int storage = -1;  /* index in Model::storages */
  bool values() const { return !bits && !bytes; }
  int cell() const { return bits ? 8 : bytes ? 1 : 2; } /* bytes; stride: cells of a pixel */
  int stride() const {
    if (maps) return channels;
    if (bytes) return round_up(channels, 4);
    return bits ? round_up(channels, 64) / 64 : channels == 1 ? 1 : round_up(channels, 64);
  }
};

enum class Kind { input, conv, sign, bconv, map, quant, qconv, add, concat, repeat, pool, attend, shuffle };

/* Channel attention of C channels through H: see gate() in ops.cpp. */
struct Attend {
  int channels = 0, hidden = 0, down_shift = 1, up_shift = 1;
  Array<int16_t> down, slope, up; /* (H, C), (H), (C, H) */
  Array<int32_t> down_bias, up_bias;
};

struct Operation {
  Kind kind = Kind::input;
  std::string name;
  std::vector<int> inputs; /* buffers: conv {x}, sign {x}, bconv {bits[, skip][, map]}, map {x}, quant {x},
                              qconv {bytes[, skip]}, add {a, b}, concat {bits, ...}, repeat {x}, pool {x}, attend {x},
                              shuffle {x} */
  int skip = -1, map = -1; /* buffers, which are inputs too; -1: none */
  int output = -1;         /* buffer; bconv: -1 when only its bits are wanted */
  int bits = -1;           /* bconv: buffer of the sign fused into it */
  int side = 0;            /* pixels to each side that the first input is read at */
  int radius = 0;          /* the same in LR rows, rounded up */
  int delay = 0;           /* rows that it is behind the input (see ops.cpp) */
  int level = 0;           /* poolings that lie before it on its longest way from the input */
  Conv conv;
  Bconv bconv;
  Map size; /* map */
  Quant quant;
  Qconv qconv;
  Array<int16_t> threshold; /* sign */
  Attend attend;            /* pool; the attend that reads its gate is the next operation */
};

/* Rows of one or more buffers (a chain of in-place operations) kept in a ring. */
struct Storage {
  int cell = 0, channels = 0, stride = 0, rate = 1; /* as of its buffers */
  int margin = 1;                                   /* columns of zeros (as bytes 128) to each side of a row */
  int writer = 0;                                   /* first operation that writes it */
  std::vector<int> readers; /* operations that must be done with a row before it is written anew */
  int rows = 0;             /* LR rows between the writer and the last reader: the ring holds them and a pass */
  bool whole = false;       /* read at a later level than written: it holds the whole picture */
  int memory = 0;           /* index in Model::memories */
  std::vector<int> before;  /* operations that must be done with a row of the storage that had its memory before */
};

/* LR rows that one pass may take all operations further (see ops.cpp). */
constexpr int MAX_PASS = 64;

/* Of storages that hold the whole picture, one may follow another in its memory. */
struct Memory {
  int storage = 0; /* the last one in it */
  int level = 0;   /* the last at which that one is read */
};

/* A stream without a picture, or null; ops.cpp knows its type. */
struct Stop {
  void operator()(bitsr_stream* stream) const;
};
using Idle = std::unique_ptr<bitsr_stream, Stop>;

struct Model {
  const Kernels* kernels = nullptr;
  int scale = 0, radius = 0; /* radius -1: the whole picture */
  int lag = 0;               /* LR rows that must follow a row before its SR rows are complete */
  std::vector<Buffer> buffers;
  std::vector<Operation> operations;    /* operations[0] is the input */
  std::vector<std::vector<int>> levels; /* the operations of each level */
  std::vector<Storage> storages;
  std::vector<Memory> memories;
  mutable Idle idle; /* the last stream that was closed, for a picture of the same size */
  mutable std::mutex idle_mutex;
};

/* Throws std::runtime_error with one line, or std::bad_alloc. */
void open_model(Model& model, const uint8_t* bytes, size_t n, const Kernels* kernels);

/* f(), or `otherwise` with one line in err: no exception crosses the C ABI. */
template <class R, class F>
R guarded(R otherwise, char* err, size_t cap, F f) {
  const char* why = "no memory";
  std::string text;
  try {
    return f();
  } catch (const std::bad_alloc&) {
  } catch (const std::exception& e) {
    try {
      text = e.what();
      why = text.c_str();
    } catch (const std::bad_alloc&) {
    }
  }
  if (err && cap) {
    std::snprintf(err, cap, "%s", why);
    for (char* c = err; *c; c++) /* names come from the file: no line breaks, no escapes for a terminal */
      if (*c < ' ' || *c > '~') *c = '?';
  }
  return otherwise;
}

}  // namespace bitsr

struct bitsr_model : bitsr::Model {};
