#include "kv/rope.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/limits.h"
#include "core/view_checks.h"
#include "cpu/convert.h"
#include "kv/append_checks.h"

namespace octavo {
namespace kv {

void rotate_head(const Rope& rope, std::int64_t position, float* x) {
  const std::int64_t pairs = rope.table.shape[1] / 2;
  const float* cosines =
      static_cast<const float*>(rope.table.data) + position * rope.table.stride[0];
  const float* sines = cosines + pairs;
  const bool halves = rope.style == RopeStyle::halves;
  const std::int64_t step = halves ? 1 : 2;
  float* first = x;
  float* second = halves ? x + pairs : x + 1;
  for (std::int64_t i = 0; i < pairs; ++i) {
    const float a = first[i * step];
    const float b = second[i * step];
    first[i * step] = a * cosines[i] - b * sines[i];
    second[i * step] = b * cosines[i] + a * sines[i];
  }
}

}  // namespace kv

std::vector<float> rope_table(std::int64_t positions, std::int64_t rotary, double base) {
  require_argument(positions >= 0 && positions <= kMaxTokens, "positions=", positions,
                   ": must be from 0 to ", kMaxTokens);
  require_argument(rotary >= 2 && rotary % 2 == 0 && rotary <= kMaxHeadDim, "rotary=", rotary,
                   ": must be even, from 2 to ", kMaxHeadDim);
  require_argument(base > 0 && std::isfinite(base), "base=", base, ": must be positive and finite");
  std::vector<float> table(static_cast<std::size_t>(positions * rotary));
  const std::int64_t pairs = rotary / 2;
  for (std::int64_t i = 0; i < pairs; ++i) {
    const double speed =
        std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(rotary));
    for (std::int64_t position = 0; position < positions; ++position) {
      const double angle = static_cast<double>(position) * speed;
      table[position * rotary + i] = static_cast<float>(std::cos(angle));
      table[position * rotary + pairs + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

void rotate(const Rope& rope, const TensorView<3>& x, Executor& executor) {
  check_view("x", x);
  check_distinct("x", x);
  kv::check_rope(rope, x.shape[2]);
  check_values("rope.positions", rope.positions);
  kv::check_positions(rope, x.shape[0]);
  Outputs outputs;
  outputs.add(footprint("x", x));
  outputs.check(footprint("rope.table", rope.table));
  outputs.check(footprint("rope.positions", rope.positions));
  const std::int64_t rotary = rope.table.shape[1];
  executor.parallel_for(x.shape[0], [&](std::int64_t row) {
    std::vector<float> head(static_cast<std::size_t>(rotary));
    for (std::int64_t h = 0; h < x.shape[1]; ++h) {
      std::byte* at =
          static_cast<std::byte*>(x.data) +
          (row * x.stride[0] + h * x.stride[1]) * static_cast<std::int64_t>(size_of(x.dtype));
      load_floats(x.dtype, at, head.data(), rotary);
      kv::rotate_head(rope, rope.positions[row], head.data());
      store_floats(x.dtype, at, head.data(), rotary);
    }
  });
}

void rotate(const Rope& rope, const TensorView<3>& x) { rotate(rope, x, default_executor()); }

}  // namespace octavo
