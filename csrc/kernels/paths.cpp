/* The paths of the engine, best first. To add one: see kernels.h. */
#include <cstring>

#include "bitsr.h"
#include "common/cpu.h"
#include "kernels/kernels.h"

namespace bitsr {

#define PATH(NAME)                                          \
  {#NAME,      cpu::NAME,       NAME::prepare, NAME::bconv, \
   NAME::conv, NAME::scale_map, NAME::quant,   NAME::qconv}
static const Kernels PATHS[] = {
#if defined(BITSR_X86_64)
    PATH(avx512),
#if defined(BITSR_AVXVNNI)
    PATH(avxvnni),
#endif
    PATH(avx2),
#elif defined(__aarch64__)
    PATH(neon),
#elif defined(__wasm_simd128__)
    PATH(wasm),
#endif
    PATH(scalar),
};
#undef PATH

const Kernels* path(int i) {
  if (i < 0) return nullptr;
  for (const Kernels& k : PATHS)
    if (k.available() && i-- == 0) return &k;
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
