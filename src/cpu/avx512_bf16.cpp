// Products of bf16 pairs on AVX512_BF16: Q, K and V are bf16 or an fp8 type, which bf16 holds
// exactly, and weights are rounded to bf16. Few rows take K and V where they lie.
#include "cpu/arithmetic.h"
#include "cpu/vector_math.h"

namespace octavo {

constinit const TileMath kAvx512Bf16Math = make_math<Bf16Pairs, 128>(80000);
constinit const TileMath kAvx512SlowBf16Math = make_math<Bf16Pairs, 128, 1, Floats>(30000);

}  // namespace octavo
