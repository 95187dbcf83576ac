// The arithmetic of colour.cpp built for AVX2; see CMakeLists.txt.
#define BITSR_COLOUR_AVX2
#include "colour.cpp"
