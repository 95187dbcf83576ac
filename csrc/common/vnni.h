/* The product of AVX-512 VNNI, for the paths that are compiled with it. */
#pragma once

#include <immintrin.h>

namespace bitsr {
namespace {

/* acc + products of bytes a and signed bytes w, four in each lane. As an intrinsic GCC 12 moves
 * every sum to another register before it and spills them all. */
inline __attribute__((always_inline)) void vpdpbusd(__m512i& acc, __m512i a, __m512i w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(w));
}

}  // namespace
}  // namespace bitsr
