#include "cpu/tile_math.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "cpu/convert.h"
#include "cpu/isa.h"

namespace octavo {
namespace {

constexpr std::int64_t kTile = 64;  // keys
constexpr float kInfinity = std::numeric_limits<float>::infinity();

namespace baseline {
constexpr int kLanes = 4;
constexpr int kSums = 8;
#define OCTAVO_TARGET
#include "cpu/tile_math_body.h"
#undef OCTAVO_TARGET
constexpr TileMath kMath = make_math(14000);
}  // namespace baseline

#if defined(__x86_64__)
namespace avx2 {
constexpr int kLanes = 8;
constexpr int kSums = 8;
#define OCTAVO_TARGET [[gnu::target("avx2")]]
#include "cpu/tile_math_body.h"
#undef OCTAVO_TARGET
constexpr TileMath kMath = make_math(30000);
}  // namespace avx2

namespace avx512 {
constexpr int kLanes = 16;
constexpr int kSums = 16;
#define OCTAVO_TARGET [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl")]]
#include "cpu/tile_math_body.h"
#undef OCTAVO_TARGET
constexpr TileMath kMath = make_math(33000);
}  // namespace avx512
#endif

}  // namespace

const TileMath& portable_math() {
#if defined(__x86_64__)
  if (has_avx512()) return avx512::kMath;
  if (has_avx2()) return avx2::kMath;
#endif
  return baseline::kMath;
}

}  // namespace octavo
