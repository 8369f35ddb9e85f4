// Tiles of K and V from pages into shared memory. Each warp copies keys of its own, and each lane
// finds out where one of them lies, a tile ahead. Tokens that no row of the thread block may see are
// not read: zeros stand for them.
#pragma once

#include "portable/shared.h"
#include "portable/work.h"
#include "ptx/cp_async.h"

namespace octavo::cuda {

class PageLoader {
 public:
  /// Loads keys of [wanted.begin, wanted.end), V's columns from `first_column` on.
  __device__ PageLoader(const PortableParams& p, const Place& place, KeyRange wanted,
                        int32_t kv_head, int32_t first_column)
      : p_(p),
        place_(place),
        wanted_(wanted),
        k_(first_element(p.attention.k, kv_head)),
        v_(first_element(p.attention.v, kv_head) + int64_t{first_column} * kKvBytes),
        k_bytes_(p.attention.d * kKvBytes),
        v_bytes_((p.attention.dv - first_column) * kKvBytes) {}

  /// Looks up the page of this lane's key in the tile that begins at `first`.
  __device__ void find(int32_t first) {
    const AttentionParams& a = p_.attention;
    key_ = first + warp() * kKeysOfWarp + lane();
    found_ = lane() < kKeysOfWarp && key_ >= wanted_.begin && key_ < wanted_.end;
    page_ = 0;
    if (found_ && a.page_table != nullptr) {
      const int64_t row = int64_t{place_.request} * a.page_table_stride;
      page_ = a.page_table[row + divide(key_, p_.page).quotient];
    }
  }

  /// Starts the copies of the tile that was looked up last.
  __device__ void start(unsigned char* k, unsigned char* v) const {
    k += warp() * kKeysOfWarp * kKPitch;
    v += warp() * kKeysOfWarp * kVPitch;
    int64_t slot = place_.kv_begin + key_;
    if (p_.attention.page_table != nullptr) slot = divide(max(key_, 0), p_.page).remainder;
    const int64_t k_offset = offset(p_.attention.k, slot);
    const int64_t v_offset = offset(p_.attention.v, slot);
    const unsigned found = __ballot_sync(kAllLanes, found_);
    if (p_.kv_whole) {
      copy<kD, kKPitch>(k_, k_offset / kUnit, found, k_bytes_, k);
      copy<kDv, kVPitch>(v_, v_offset / kUnit, found, v_bytes_, v);
    } else {
      copy_elements<kD, kKPitch>(k_, k_offset, found, k_bytes_, k);
      copy_elements<kDv, kVPitch>(v_, v_offset, found, v_bytes_, v);
    }
  }

 private:
  static constexpr int kKeysOfWarp = kKeys / kWarps;
  static constexpr int kUnit = 16 / kKvBytes;  // elements of a copy

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  static __device__ int warp() { return static_cast<int>(threadIdx.x) / kWarp; }

  static __device__ const unsigned char* first_element(const KvParam& kv, int32_t kv_head) {
    return static_cast<const unsigned char*>(kv.data) + kv_head * kv.head_stride * kKvBytes;
  }

  __device__ int64_t offset(const KvParam& kv, int64_t slot) const {
    return page_ * kv.page_stride + slot * kv.slot_stride;
  }

  /// `offset`: of this lane's key, in units of 16 bytes.
  template <int Columns, int Pitch>
  static __device__ void copy(const unsigned char* from, int64_t offset, unsigned found, int bytes,
                              unsigned char* to) {
    constexpr int kChunks = Columns / kUnit;
    constexpr int kAll = kKeysOfWarp * kChunks;
    const unsigned own = static_cast<unsigned>(offset);
    const unsigned target = shared_address(to);
#pragma unroll
    for (int first = 0; first < kAll; first += kWarp) {
      const int i = first + lane();
      const int key = i / kChunks;
      const int chunk = i % kChunks;
      const unsigned of_key = __shfl_sync(kAllLanes, own, key);
      const int wanted = found >> key & 1 ? min(max(bytes - chunk * 16, 0), 16) : 0;
      if (kAll % kWarp == 0 || i < kAll) {
        const unsigned char* source =
            from + (wanted > 0 ? (static_cast<int64_t>(of_key) + chunk) * 16 : 0);
        copy_async_16(target + key * Pitch + chunk * 16, source, wanted);
      }
    }
  }

  /// The same for any alignment, an element at a time. `offset`: in elements.
  template <int Columns, int Pitch>
  static __device__ void copy_elements(const unsigned char* from, int64_t offset, unsigned found,
                                       int bytes, unsigned char* to) {
    for (int key = 0; key < kKeysOfWarp; ++key) {
      const int64_t of_key = __shfl_sync(kAllLanes, offset, key) * kKvBytes;
      const bool wanted = found >> key & 1;
      for (int c = lane() * kKvBytes; c < Columns * kKvBytes; c += kWarp * kKvBytes) {
        const bool exists = wanted && c < bytes;
        if constexpr (kKvBytes == 2) {
          *reinterpret_cast<unsigned short*>(to + key * Pitch + c) =
              exists ? *reinterpret_cast<const unsigned short*>(from + of_key + c) : 0;
        } else {
          to[key * Pitch + c] = exists ? from[of_key + c] : 0;
        }
      }
    }
  }

  const PortableParams& p_;
  const Place& place_;
  KeyRange wanted_;
  const unsigned char* k_;
  const unsigned char* v_;
  int k_bytes_;  // of a row, from the first column on
  int v_bytes_;
  int32_t key_ = 0;
  bool found_ = false;
  int64_t page_ = 0;
};

}  // namespace octavo::cuda
