// The arithmetic of colour_rows.h built for AVX2: see CMakeLists.txt.
#include "core/colour_rows.h"

namespace bitsr {

const Colour colour_avx2 = {luma<Depth8>, luma<Depth16>, merge<Depth8>, merge<Depth16>};

}  // namespace bitsr
