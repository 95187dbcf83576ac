#include <cstring>

#include "bitsr.h"
#include "kernels.h"

namespace bitsr {

static const Kernels* const PATHS[] = {BITSR_PATHS};

const Kernels* path(int i) {
  if (i < 0) return nullptr;
  for (const Kernels* k : PATHS)
    if (k->available() && i-- == 0) return k;
  return nullptr;
}

const Kernels* path(const char* name) {
  for (int i = 0; const Kernels* k = path(i); i++)
    if (!std::strcmp(k->name, name)) return k;
  return nullptr;
}

}  // namespace bitsr

extern "C" const char* bitsr_isa(int i) {
  const bitsr::Kernels* k = bitsr::path(i);
  return k ? k->name : nullptr;
}
