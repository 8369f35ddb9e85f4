// Products of pairs of bf16 in FEAT_BF16.
#include "cpu/arithmetic.h"
#include "cpu/vector_math.h"

namespace octavo {

constinit const TileMath kNeonBf16Math = make_math<Bf16Pairs, 128>(30000);

}  // namespace octavo
