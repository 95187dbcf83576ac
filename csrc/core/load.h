/* What an operation has at hand while it is loaded: its line, the tensors of the file, the buffers
 * so far. */
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/errors.h"
#include "core/model.h"
#include "core/safetensors.h"

namespace bitsr {

/* Limits that keep every index and every sum inside its type. */
constexpr int MAX_CHANNELS = 4096, MAX_SCALE = 16, MAX_OPERATIONS = 4096;

/* Memory that a file of its size may ask for. */
class Budget {
 public:
  explicit Budget(uint64_t bytes) : left_(bytes) {}
  void charge(uint64_t bytes) {
    if (bytes > left_) fail("the model needs more memory than a file of its size may");
    left_ -= bytes;
  }
  template <class T>
  void allocate(Array<T>& a, size_t n) {
    charge(uint64_t(n) * sizeof(T));
    if (!a.resize(n)) no_memory();
  }

 private:
  uint64_t left_;
};

/* KIND OUT IN [NAME] [key=value ...], without what stands before the keys. */
class Line {
 public:
  Line(const std::string& kind, const std::string& out) : kind(kind), out(out) {}
  const std::string kind, out;

  void add(const std::string& argument);
  /* The value of a key, taken out of the line; empty: it is not there. */
  std::string take(const char* key);
  /* The same as a number from low to high; fails as `what`. */
  int number(const char* key, int low, int high, const char* what) {
    return number_of(take(key), low, high, what);
  }
  int number_or(const char* key, int otherwise, int low, int high, const char* what);
  /* Fails where a key is left. */
  void done() const;

  static int number_of(const std::string& text, int low, int high, const char* what);

 private:
  std::map<std::string, std::string> keys_;
};

struct Loader {
  Model& model;
  const File& file;
  Budget budget;

  /* ---- tensors of the file, checked against what an operation needs ---- */

  const Tensor* find(const std::string& name, const char* dtype,
                     const std::vector<uint64_t>& shape) const;
  const Tensor& need(const std::string& name, const char* dtype,
                     const std::vector<uint64_t>& shape) const;
  const std::vector<uint64_t>& shape_of(const std::string& name) const;
  /* int16 a channel, zero in the padding; -32768 would break mulh. */
  void channel_values(Array<int16_t>& out, const Tensor& t, int padded, const std::string& name);
  /* The values of a tensor as they lie in the file. */
  template <class T>
  void copy(Array<T>& out, const Tensor& t) {
    budget.allocate(out, t.bytes / sizeof(T));
    std::memcpy(out.data(), t.data, t.bytes);
  }

  /* ---- buffers ---- */

  /* The one of a name. */
  int buffer(const std::string& name) const;
  /* A new one, made by the operation that is being loaded. */
  int make(const std::string& name, Cells cells, int channels, int rate);
  /* A further input by name, of that shape; -1 where the name is empty. */
  int add_input(Operation& op, const std::string& name, int channels, int rate,
                bool scale_maps = false) const;
};

/* Throws std::runtime_error with one line, or std::bad_alloc. */
void open_model(Model& model, const uint8_t* bytes, size_t n, const Kernels* kernels);

/* From loaded operations to what a stream needs: plan.cpp. file_bytes: size of the model file. */
void plan(Loader& loader, uint64_t file_bytes);

}  // namespace bitsr
