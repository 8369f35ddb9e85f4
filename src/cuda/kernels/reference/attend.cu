// The plain kernel for every valid problem: a warp for each row of q and head, fp32, the softmax
// online over 32 keys at a time. Each lane computes one key's score; then all lanes add up the
// values, each in its own dims. Keys that the row does not see are never read.
#include "common/elements.h"
#include "common/keys.h"
#include "common/logits.h"
#include "common/place.h"
#include "reference/params.h"

namespace octavo::cuda {
namespace {

__device__ float largest_of_lanes(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}

__device__ float sum_of_lanes(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, step);
  }
  return value;
}

/// A warp's memory, shared by its lanes.
struct Scratch {
  float q[kReferenceDim];
  float sums[kReferenceDim];  ///< of weighted values
};

struct Row {
  const AttentionParams& p;
  const ReferenceParams& types;
  Place place;
  int32_t head;
  int32_t kv_head;

  __device__ int64_t row() const { return int64_t{place.q_begin} + place.unit; }
  __device__ int32_t position() const { return place.position(place.unit); }

  __device__ void load_q(float* q, int lane) const {
    const int64_t offset = row() * p.q_token_stride + head * p.q_head_stride;
    for (int c = lane; c < p.d; c += kWarp) q[c] = load(Type{types.q_type}, p.q, offset + c);
  }

  __device__ bool sees(int64_t key, const KeyRange& range) const {
    return key < range.end && (p.masking != Masking::bits || mask_bit(p, row(), key));
  }

  __device__ float dot(const float* q, const Slot& slot) const {
    const int64_t offset = slot.offset(p.k, kv_head);
    float sum = 0;
    for (int c = 0; c < p.d; ++c) sum += q[c] * load(Type{types.kv_type}, p.k.data, offset + c);
    return sum;
  }

  /// sums = rescale * sums + the values of the visible keys by their weights. `weight` and `slot`:
  /// of this lane's key.
  __device__ void add_values(float* sums, float rescale, unsigned visible, float weight,
                             const Slot& slot, int lane) const {
    const int64_t own_offset = slot.offset(p.v, kv_head);
    for (int begin = 0; begin < p.dv; begin += kWarp) {
      const int c = begin + lane;
      float sum = c < p.dv ? sums[c] * rescale : 0.0f;
#pragma unroll 8
      for (int key = 0; key < kWarp; ++key) {
        const float w = __shfl_sync(kAllLanes, weight, key);
        const int64_t offset = __shfl_sync(kAllLanes, own_offset, key);
        if ((visible >> key & 1) == 0 || c >= p.dv) continue;
        sum += w * load(Type{types.kv_type}, p.v.data, offset + c);
      }
      if (c < p.dv) sums[c] = sum;
    }
  }

  __device__ void attend(Scratch& scratch, int lane) const {
    load_q(scratch.q, lane);
    for (int c = lane; c < p.dv; c += kWarp) scratch.sums[c] = 0;
    __syncwarp();

    const bool sink = p.sinks != nullptr;
    float largest = sink ? p.sinks[head] : -infinity();
    float sum = sink ? 1.0f : 0.0f;  // of exp(logit - largest), the sink's included
    bool any = false;
    const float scale = score_factor(p, kv_head);
    const float slope = slope_of(p, head);
    const KeyRange range = visible_keys(p, position(), place.kv_len);
    for (int64_t first = range.begin; first < range.end; first += kWarp) {
      const int64_t key = first + lane;  // past the largest length in the last step
      const bool seen = sees(key, range);
      const unsigned visible = __ballot_sync(kAllLanes, seen);
      if (visible == 0) continue;
      any = true;
      const Slot slot = seen ? slot_of(p, place, key) : Slot{0, 0};
      float score = -infinity();
      if (seen) {
        score = logit(scale * dot(scratch.q, slot), p.cap, slope,
                      static_cast<int32_t>(key - position()));
      }
      const float before = largest;
      largest = fmaxf(largest, largest_of_lanes(score));
      const float rescale = expf(before - largest);
      const float weight = seen ? expf(score - largest) : 0.0f;
      sum = rescale * sum + sum_of_lanes(weight);
      add_values(scratch.sums, rescale, visible, weight, slot, lane);
    }

    const int64_t offset = row() * p.out_token_stride + head * p.out_head_stride;
    const float scale_out = value_factor(p, kv_head);
    for (int c = lane; c < p.dv; c += kWarp) {
      const float value = any ? scratch.sums[c] / sum * scale_out : 0.0f;
      store(Type{types.out_type}, p.out, offset + c, value);
    }
    if (p.lse != nullptr && lane == 0) {
      p.lse[row() * p.lse_token_stride + head * p.lse_head_stride] = largest + logf(sum);
    }
  }
};

}  // namespace

/// Grid: rows that the batch may have, heads / kReferenceWarps.
extern "C" __global__ void __launch_bounds__(kReferenceWarps* kWarp)
    octavo_reference(const __grid_constant__ ReferenceParams params) {
  __shared__ Scratch scratch[kReferenceWarps];
  const AttentionParams& p = params.attention;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int32_t head = static_cast<int32_t>(blockIdx.y) * kReferenceWarps + warp;
  if (head >= p.hq) return;
  const Place place = find_row(p, static_cast<int32_t>(blockIdx.x));
  if (place.request < 0) return;
  const Row row{p, params, place, head, head / (p.hq / p.hkv)};
  row.attend(scratch[warp], static_cast<int>(threadIdx.x) % kWarp);
}

}  // namespace octavo::cuda
