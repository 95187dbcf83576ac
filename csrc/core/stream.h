/* The rows of one image on its way through a model, as the operations see them. */
#pragma once

#include <memory>
#include <vector>

#include "core/attention.h"
#include "core/model.h"

namespace bitsr {

struct Rows {
  Rows(const Model& model, int h, int w) : model(model), h(h), w(w) {}

  const Model& model;
  const int h, w; /* of the LR image */

  /* Of the push in progress: the LR rows that came in, from row lr_base on, and room for the SR
   * rows of LR rows from out_base on. */
  const int16_t* lr = nullptr;
  int16_t* out = nullptr;
  int lr_base = 0, out_base = 0;

  /* Pixels of a row of an operation's first input. */
  int width(const Operation& op) const { return w * model.buffer(op.inputs[0]).rate; }

  /* Pixel 0 of row y of a buffer, with a margin to each side. Rows outside the image are zeros
   * (bytes: 128). */
  int16_t* values(int buffer, int y) {
    return reinterpret_cast<int16_t*>(line(buffer, y)) + offset(buffer);
  }
  uint8_t* bytes(int buffer, int y) { return line(buffer, y) + offset(buffer); }
  uint64_t* bits(int buffer, int y) {
    return reinterpret_cast<uint64_t*>(line(buffer, y)) + offset(buffer);
  }

  /* What a pooling makes. */
  Gate& gate_of(const Operation& pool) { return *gates_[size_t(&pool - model.operations.data())]; }

 protected:
  /* Takes memory for passes of so many LR rows. Throws std::runtime_error where it is too much. */
  void allocate(int pass);
  int ring_rows(int storage) const { return rings_[size_t(storage)].rows; }
  size_t memory_bytes() const;

  std::vector<std::unique_ptr<Gate>> gates_; /* of each operation; null: it pools nothing */

 private:
  struct Ring {
    uint8_t* bytes = nullptr;
    size_t row_bytes = 0;
    int rows = 0;
    uint8_t* row(int y) { return bytes + size_t(y % rows) * row_bytes; }
  };

  /* Row y of a buffer from its margin (columns of zeros) on, or zeros outside the image. */
  uint8_t* line(int buffer, int y) {
    const Buffer& b = model.buffer(buffer);
    if (y < 0 || y >= h * b.rate)
      return b.cells == Cells::bytes ? zero_bytes_.data() : zeros_.data();
    return rings_[size_t(b.storage)].row(y);
  }
  size_t offset(int buffer) const {
    const Buffer& b = model.buffer(buffer);
    return size_t(model.storages[size_t(b.storage)].margin) * size_t(b.stride());
  }

  std::vector<Array<uint8_t>> memories_;
  std::vector<Ring> rings_;           /* of each storage, in its memory */
  Array<uint8_t> zeros_, zero_bytes_; /* a row outside the image; a byte of 0 is 128 */
};

}  // namespace bitsr
