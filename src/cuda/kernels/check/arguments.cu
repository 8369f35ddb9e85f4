// Checks lengths and page ids against the plan's bounds, for runs that are debugged.
#include "check/params.h"

namespace octavo::cuda {
namespace {

/// The fault of a request's lengths alone.
__device__ Fault fault_of_lengths(const CheckParams& p, int32_t q_len, int32_t kv_len) {
  if (q_len < 0 || q_len > p.most_q_len) return Fault::q_len;
  if (kv_len < 0 || kv_len > p.most_kv_len) return Fault::kv_len;
  if (p.packed != 0 && q_len != kv_len) return Fault::unequal;
  if (q_len > 0 && kv_len - q_len + 1 < p.prefix) return Fault::prefix;
  if (p.page_table != nullptr && kv_len > p.columns * p.page_size) return Fault::columns;
  if (p.mask_row_bytes >= 0 && kv_len > p.mask_row_bytes * 8) return Fault::mask_bits;
  return Fault::none;
}

/// Adds up the lengths in order; stops at what is not a length.
__device__ void check_totals(const CheckParams& p) {
  int64_t q_total = 0;
  int64_t kv_total = 0;
  for (int32_t r = 0; r < p.requests; ++r) {
    if (fault_of_lengths(p, p.q_lens[r], p.kv_lens[r]) != Fault::none) return;
    q_total += p.q_lens[r];
    kv_total += p.kv_lens[r];
    Fault fault = Fault::none;
    if (p.page_table == nullptr && kv_total > p.tokens) fault = Fault::kv_total;
    if (q_total > p.rows) fault = Fault::q_total;
    if (fault == Fault::none) continue;
    atomicMin(p.first, finding(r, fault, 0));
    return;
  }
}

__device__ void check_pages(const CheckParams& p, int32_t request) {
  const int32_t* pages = p.page_table + request * p.page_table_stride;
  const int64_t used = (int64_t{p.kv_lens[request]} + p.page_size - 1) / p.page_size;
  for (int64_t c = threadIdx.x; c < used; c += blockDim.x) {
    if (pages[c] >= 0 && pages[c] < p.pages) continue;
    atomicMin(p.first, finding(request, Fault::page, c));
    return;
  }
}

/// Against the pages of the first request that has queries.
__device__ void check_prefix(const CheckParams& p, int32_t request) {
  if (p.q_lens[request] == 0) return;
  int32_t first = 0;
  while (p.q_lens[first] <= 0) ++first;
  const int32_t* pages = p.page_table + request * p.page_table_stride;
  const int32_t* shared = p.page_table + first * p.page_table_stride;
  for (int64_t c = threadIdx.x; c < p.prefix / p.page_size; c += blockDim.x) {
    if (pages[c] == shared[c]) continue;
    atomicMin(p.first, finding(request, Fault::shared, c));
    return;
  }
}

}  // namespace

/// A block a request at a time.
extern "C" __global__ void octavo_check_arguments(const __grid_constant__ CheckParams params) {
  if (blockIdx.x == 0 && threadIdx.x == 0) check_totals(params);
  for (int32_t r = static_cast<int32_t>(blockIdx.x); r < params.requests;
       r += static_cast<int32_t>(gridDim.x)) {
    const Fault fault = fault_of_lengths(params, params.q_lens[r], params.kv_lens[r]);
    if (fault != Fault::none) {
      if (threadIdx.x == 0) atomicMin(params.first, finding(r, fault, 0));
    } else if (params.page_table != nullptr) {
      check_pages(params, r);
      check_prefix(params, r);
    }
  }
}

}  // namespace octavo::cuda
