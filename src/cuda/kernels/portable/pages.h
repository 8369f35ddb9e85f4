// Tiles of K and V from pages into shared memory. Each warp copies keys of its own, and each lane
// finds out where one of them lies, a tile ahead. Tokens that no row of the thread block may see
// are not read: zeros stand for them.
#pragma once

#include "portable/shared.h"
#include "portable/work.h"
#include "ptx/cp_async.h"

namespace octavo::cuda {

inline constexpr int kKeysOfWarp = kKeys / kWarps;

/// Where the keys of a warp's share of a tile lie: each lane knows of one.
struct Found {
  unsigned wanted;  ///< a bit for each lane whose key is read
  int32_t page;
  int32_t slot;

  static constexpr unsigned kAll = kKeysOfWarp == 32 ? kAllLanes : (1u << kKeysOfWarp) - 1;
};

class PageFinder {
 public:
  __device__ PageFinder(const PortableParams& p, const Place& place, const KeyRange& wanted)
      : p_(p),
        pages_(p.attention.page_table == nullptr
                   ? nullptr
                   : p.attention.page_table + place.request * p.attention.page_table_stride),
        wanted_(wanted) {}

  /// Of the tile that begins at `first`.
  __device__ Found find(int32_t first) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int32_t key = first + static_cast<int>(threadIdx.x) / kWarp * kKeysOfWarp + lane;
    const KeyRange all = wanted_;
    const bool wanted = lane < kKeysOfWarp && key >= all.begin && key < all.end;
    Found found{__ballot_sync(kAllLanes, wanted), 0, wanted ? key : 0};
    if (wanted && pages_ != nullptr) {
      const Quotient at = divide(key, p_.page);
      found.page = pages_[at.quotient];
      found.slot = at.remainder;
    }
    return found;
  }

 private:
  const PortableParams& p_;
  const int32_t* pages_;
  const KeyRange& wanted_;  ///< in shared memory, to save registers
};

/// Copies tiles of K, or of V, of `Columns` columns into rows of `Pitch` bytes.
template <int Columns, int Pitch>
class TileLoader {
 public:
  /// Columns from `first_column` on, of `width`.
  __device__ TileLoader(const PortableParams& p, const KvParam& kv, const Place& place,
                        int32_t kv_head, int32_t first_column, int32_t width)
      : p_(p), kv_(kv), bytes_((width - first_column) * kKvBytes) {
    int64_t offset = kv_head * kv.head_stride + first_column;
    if (p.attention.page_table == nullptr) offset += place.kv_begin * kv.slot_stride;
    from_ = static_cast<const unsigned char*>(kv.data) + offset * kKvBytes;
  }

  __device__ void start(const Found& found, unsigned char* tile) const {
    tile += static_cast<int>(threadIdx.x) / kWarp * kKeysOfWarp * Pitch;
    const int64_t offset = found.page * kv_.page_stride + found.slot * kv_.slot_stride;
    if (!p_.kv_whole) {
      copy_elements(from_, bytes_, offset, found.wanted, tile);
    } else if (found.wanted == Found::kAll && bytes_ >= Columns * kKvBytes) {
      copy<true>(static_cast<unsigned>(offset / kUnit), found.wanted, tile);
    } else {
      copy<false>(static_cast<unsigned>(offset / kUnit), found.wanted, tile);
    }
  }

 private:
  static constexpr int kUnit = 16 / kKvBytes;  // elements of a copy
  static constexpr int kChunks = Columns / kUnit;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }

  /// `offset`: of this lane's key, in units of 16 bytes. `Whole`: all keys, and all columns of
  /// them.
  template <bool Whole>
  __device__ void copy(unsigned offset, unsigned wanted, unsigned char* tile) const {
    constexpr int kAll = kKeysOfWarp * kChunks;
    const unsigned target = shared_address(tile);
    // The rare case must not take registers from the common one.
    constexpr int kUnroll = Whole ? kAll / kWarp + 1 : 1;
#pragma unroll kUnroll
    for (int first = 0; first < kAll; first += kWarp) {
      const int i = first + lane();
      const int key = i / kChunks;
      const int chunk = i % kChunks;
      const unsigned of_key = __shfl_sync(kAllLanes, offset, key);
      if (kAll % kWarp != 0 && i >= kAll) continue;
      const unsigned char* source = from_ + chunk * 16 + uint64_t{of_key} * 16;
      int bytes = 16;
      if constexpr (!Whole) {
        bytes = wanted >> key & 1 ? min(max(bytes_ - chunk * 16, 0), 16) : 0;
        if (bytes == 0) source = from_;
      }
      copy_async_16(target + key * Pitch + chunk * 16, source, bytes);
    }
  }

  /// The same for any alignment, an element at a time. `offset`: in elements.
  static __device__ __noinline__ void copy_elements(const unsigned char* rows, int bytes,
                                                    int64_t offset, unsigned wanted,
                                                    unsigned char* tile) {
#pragma unroll 1
    for (int key = 0; key < kKeysOfWarp; ++key) {
      const unsigned char* from = rows + __shfl_sync(kAllLanes, offset, key) * kKvBytes;
      unsigned char* to = tile + key * Pitch;
#pragma unroll 1
      for (int c = lane() * kKvBytes; c < Columns * kKvBytes; c += kWarp * kKvBytes) {
        const bool exists = (wanted >> key & 1) != 0 && c < bytes;
        if constexpr (kKvBytes == 2) {
          *reinterpret_cast<unsigned short*>(to + c) =
              exists ? *reinterpret_cast<const unsigned short*>(from + c) : 0;
        } else {
          to[c] = exists ? from[c] : 0;
        }
      }
    }
  }

  const PortableParams& p_;
  const KvParam& kv_;
  const unsigned char* from_;
  int bytes_;  // of a row, from the first column on
};

using KeyLoader = TileLoader<kD, kKPitch>;
using ValueLoader = TileLoader<kDv, kVPitch>;

}  // namespace octavo::cuda
