/* Loads and stores of the vector of float, F, that the path has defined. All is static: see
 * common/array.h. */
#pragma once

#include <cstring>

namespace bitsr::train {
namespace {

constexpr int LANES = sizeof(F) / sizeof(float);

inline F load(const float* p) {
  F v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, F v) { std::memcpy(p, &v, sizeof v); }
/* Not +, which would make 0 of -0, and so stay in the code. */
inline F all(float v) { return v - F{}; }

}  // namespace
}  // namespace bitsr::train
