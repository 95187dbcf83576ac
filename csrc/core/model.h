/* A model as the engine runs it: tensors checked, operations planned. docs/model-file.md has the
 * file format. */
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bitsr.h"
#include "common/threads.h"
#include "kernels/kernels.h"

namespace bitsr {

struct OperationType; /* ops.h */

/* What a pixel of a buffer is made of: int16 values, bits, or bytes. */
enum class Cells { values, bits, bytes };

/* What an operation makes: rows of `channels` cells, `rate` rows (and columns) an LR pixel. */
struct Buffer {
  std::string name;
  Cells cells = Cells::values;
  /* MAPS scale maps: values without padding, which only bconv and add read. */
  bool scale_maps = false;
  int channels = 0;
  int rate = 1;
  int producer = -1; /* operation; UNUSED: none any more */
  int storage = -1;  /* index in Model::storages; -1: none, the rows are the caller's */
  bool values() const { return cells == Cells::values; }
  int cell() const { /* bytes */ return cells == Cells::bits ? 8 : cells == Cells::bytes ? 1 : 2; }
  int stride() const { /* cells of a pixel */
    if (scale_maps) return channels;
    if (cells == Cells::bytes) return round_up(channels, 4);
    if (cells == Cells::bits) return round_up(channels, 64) / 64;
    return channels == 1 ? 1 : round_up(channels, 64);
  }
};
constexpr int UNUSED = -2;

struct Operation {
  const OperationType* type = nullptr;
  std::string name;               /* of its tensors */
  std::shared_ptr<void> settings; /* its shifts and weights: a type of its own, see ops.h */
  std::vector<int> inputs;        /* buffers; those after the first are read a row at a time */
  int skip = -1, map = -1;        /* buffers, which are inputs too; -1: none */
  int output = -1;                /* buffer; -1: only what is fused is wanted */
  int fused = -1; /* buffer of the sign or quant of its output that it makes as well; -1: none */
  std::shared_ptr<const Quant> quant; /* what that quant does */
  int gate = -1;  /* the pooling that must be done with the whole image first; -1: none */
  int side = 0;   /* pixels to each side that the first input is read at */
  int radius = 0; /* the same in LR rows, rounded up */
  int delay = 0;  /* rows that it is behind the input (see stream.cpp) */
  int level = 0;  /* poolings that lie before it on its longest way from the input */

  template <class T>
  T& add_settings() {
    settings = std::make_shared<T>();
    return get<T>();
  }
  template <class T>
  T& get() {
    return *static_cast<T*>(settings.get());
  }
  template <class T>
  const T& get() const {
    return *static_cast<const T*>(settings.get());
  }
};

/* Rows of one or more buffers (a chain of in-place operations) kept in a ring. */
struct Storage {
  int cell = 0, channels = 0, stride = 0, rate = 1; /* as of its buffers */
  int margin = 1; /* columns of zeros (as bytes 128) to each side of a row */
  int writer = 0; /* first operation that writes it */
  /* Operations that must be done with a row before it is written anew. */
  std::vector<int> readers;
  /* LR rows between the writer and the last reader: the ring holds them and a pass. */
  int rows = 0;
  bool whole = false; /* read at a later level than written: it holds the whole image */
  int memory = 0;     /* index in Model::memories */
  /* Operations that must be done with a row of the storage that had its memory before. */
  std::vector<int> before;
};

/* LR rows that one pass may take all operations further (see stream.cpp). */
constexpr int MAX_PASS = 64;

/* Of storages that hold the whole image, one may follow another in its memory. */
struct Memory {
  int storage = 0; /* the last one in it */
  int level = 0;   /* the last at which that one is read */
};

/* A stream without an image, or null; stream.cpp knows its type. */
struct Stop {
  void operator()(bitsr_stream* stream) const;
};
using Idle = std::unique_ptr<bitsr_stream, Stop>;

struct Model {
  const Kernels* kernels = nullptr;
  int scale = 0, radius = 0; /* radius -1: the whole image */
  bool smooth = false;       /* chroma, by the metadata */
  int lag = 0;               /* LR rows that must follow a row before its SR rows are complete */
  std::vector<Buffer> buffers;
  std::vector<Operation> operations;    /* operations[0] is the input */
  std::vector<std::vector<int>> levels; /* the operations of each level */
  std::vector<Storage> storages;
  std::vector<Memory> memories;
  mutable Idle idle; /* the last stream that was closed, for an image of the same size */
  mutable Mutex idle_mutex;

  Buffer& buffer(int i) { return buffers[size_t(i)]; }
  const Buffer& buffer(int i) const { return buffers[size_t(i)]; }
  Operation& operation(int i) { return operations[size_t(i)]; }
  const Operation& operation(int i) const { return operations[size_t(i)]; }
};

}  // namespace bitsr

struct bitsr_model : bitsr::Model {};
