// TileMath of the instruction sets that not every processor has: constants, so that nothing of the
// files that are compiled for one runs before a kernel has found that this processor has it.
#pragma once

#include "cpu/tile_math.h"

namespace octavo {

#if defined(__x86_64__)
extern const TileMath kAmxBf16Math;
extern const TileMath kAvx512Bf16Math;
extern const TileMath kAvx512SlowBf16Math;  // where few rows are faster in floats
extern const TileMath kAvx512Math;
extern const TileMath kAvx2Math;
#elif defined(__aarch64__)
extern const TileMath kNeonBf16Math;
extern const TileMath kNeonMath;
#endif

}  // namespace octavo
