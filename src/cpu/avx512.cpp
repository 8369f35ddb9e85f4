// Floats on AVX-512: every dtype is widened as it is loaded.
#include "cpu/arithmetic.h"
#include "cpu/vector_math.h"

namespace octavo {

constinit const TileMath kAvx512Math = make_math<Floats, 128>(45000);

}  // namespace octavo
