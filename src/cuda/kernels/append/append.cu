// Stores new keys and values in their pages, to the same bits as the CPU: the same operations in
// fp32, each rounded by itself.
#include "append/params.h"
#include "common/elements.h"
#include "common/place.h"

namespace octavo::cuda {
namespace {

/// One head of one token, on its way.
struct HeadMove {
  const AppendSide& side;
  int64_t from;
  int64_t to;
  float scale;

  __device__ HeadMove(const AppendSide& of, const Stretch& stretch, int32_t token, int32_t head)
      : side(of),
        from((stretch.row + token) * of.source_row_stride + head * of.source_head_stride),
        to(stretch.page * of.page_stride + (stretch.slot + token) * of.slot_stride +
           head * of.head_stride),
        scale(of.scale.values == nullptr ? of.scale.value
                                         : of.scale.values[of.scale.per_head != 0 ? head : 0]) {}

  __device__ float load_dim(int32_t c) const {
    return load(Type{side.source_type}, side.source, from + c);
  }
  __device__ void store_dim(int32_t c, float value) const {
    store(Type{side.target_type}, side.target, to + c, __fdiv_rn(value, scale));
  }

  __device__ void copy(int32_t c) const {
    switch (side.copied_bytes) {
      case 1:
        copy_as<unsigned char>(c);
        break;
      case 2:
        copy_as<unsigned short>(c);
        break;
      default:
        copy_as<unsigned>(c);
        break;
    }
  }

  /// `cos_sin`: the position's row of the table.
  __device__ void turn(const AppendParams& p, int32_t pair, const float* cos_sin) const {
    const int32_t pairs = p.rotary / 2;
    const int32_t first = p.halves != 0 ? pair : 2 * pair;
    const int32_t second = p.halves != 0 ? pair + pairs : 2 * pair + 1;
    const float a = load_dim(first);
    const float b = load_dim(second);
    const float cosine = cos_sin[pair];
    const float sine = cos_sin[pairs + pair];
    store_dim(first, __fsub_rn(__fmul_rn(a, cosine), __fmul_rn(b, sine)));
    store_dim(second, __fadd_rn(__fmul_rn(b, cosine), __fmul_rn(a, sine)));
  }

 private:
  template <typename Bits>
  __device__ void copy_as(int32_t c) const {
    static_cast<Bits*>(side.target)[to + c] = static_cast<const Bits*>(side.source)[from + c];
  }
};

__device__ void append_k(const AppendParams& p, const HeadMove& move, int32_t position, int lane) {
  const int32_t pairs = p.rotary / 2;
  const float* cos_sin = p.rope_table + position * p.rope_stride;
  for (int32_t pair = lane; pair < pairs; pair += kWarp) move.turn(p, pair, cos_sin);
  for (int32_t c = p.rotary + lane; c < p.k.d; c += kWarp) move.store_dim(c, move.load_dim(c));
}

__device__ void append_as_it_is(const HeadMove& move, int lane) {
  for (int32_t c = lane; c < move.side.d; c += kWarp) {
    if (move.side.copied_bytes != 0) {
      move.copy(c);
    } else {
      move.store_dim(c, move.load_dim(c));
    }
  }
}

}  // namespace

/// Grid: stretches, K and V. A warp a head at a time.
extern "C" __global__ void __launch_bounds__(kAppendWarps* kWarp)
    octavo_append(const __grid_constant__ AppendParams p) {
  const Stretch& stretch = p.stretches[blockIdx.x];
  const bool is_k = blockIdx.y == 0;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int32_t moves = stretch.count * p.heads;
  for (int32_t i = static_cast<int32_t>(threadIdx.x) / kWarp; i < moves; i += kAppendWarps) {
    const int32_t token = i / p.heads;
    const HeadMove move(is_k ? p.k : p.v, stretch, token, i % p.heads);
    if (!is_k || p.rotary == 0) {
      append_as_it_is(move, lane);
      continue;
    }
    const int32_t position =
        p.positions == nullptr ? stretch.position + token : p.positions[stretch.row + token];
    append_k(p, move, position, lane);
  }
}

}  // namespace octavo::cuda
