// Fused multiply-adds in AVX2, on floats: other dtypes are widened as they are loaded.
#include "cpu/arithmetic.h"
#include "cpu/vector_math.h"

namespace octavo {

constinit const TileMath kAvx2Math = make_math<Floats, 64>(40000);

}  // namespace octavo
