// Fused multiply-adds in Advanced SIMD, on floats: other dtypes are widened as they are loaded.
#include "cpu/arithmetic.h"
#include "cpu/vector_math.h"

namespace octavo {

constinit const TileMath kNeonMath = make_math<Floats, 64>(15000);

}  // namespace octavo
