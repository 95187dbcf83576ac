/* A safetensors file in memory: 8-byte little-endian length, JSON header, buffer. */
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace bitsr {

struct Tensor {
  std::string dtype;
  std::vector<uint64_t> shape;
  const uint8_t* data = nullptr;
  uint64_t bytes = 0;
};

struct File {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

/* Its tensors point into `bytes`: each lies inside the file and is as long as its shape says, none
 * overlap and nothing is left over. Throws std::runtime_error with one line, or std::bad_alloc. */
File parse_safetensors(const uint8_t* bytes, size_t n);

}  // namespace bitsr
