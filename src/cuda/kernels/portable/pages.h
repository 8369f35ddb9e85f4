// Tiles of K and V from pages into shared memory. Each warp copies keys of its own, and each lane
// finds out where one of them lies, a tile ahead. Tokens that no row of the thread block may see
// are not read: zeros stand for them.
#pragma once

#include "portable/params.h"
#include "portable/shared.h"
#include "ptx/cp_async.h"

namespace octavo::cuda {

inline constexpr int kKeysOfWarp = kKeys / kWarps;
static_assert(kKeysOfWarp <= kWarp);

/// Where the keys of a warp's share of a tile lie: each lane knows of one.
struct Found {
  unsigned wanted;  ///< a bit for each lane whose key is read
  int32_t page;
  int32_t slot;

  static constexpr unsigned kAll = kKeysOfWarp == 32 ? kAllLanes : (1u << kKeysOfWarp) - 1;
};

/// Reads what it knows of the thread block from shared memory, to save registers.
class PageFinder {
 public:
  __device__ PageFinder(const PortableParams& p, const Shared& shared) : p_(p), shared_(shared) {}

  /// Of the tile that begins at `first`.
  __device__ Found find(int32_t first) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int32_t key = first + static_cast<int>(threadIdx.x) / kWarp * kKeysOfWarp + lane;
    const KeyRange all = shared_.wanted;
    const bool wanted = lane < kKeysOfWarp && key >= all.begin && key < all.end;
    Found found{__ballot_sync(kAllLanes, wanted), 0, wanted ? key : 0};
    if (wanted && p_.attention.page_table != nullptr) {
      const Quotient at = divide(key, p_.page);
      found.page = shared_.pages[at.quotient];
      found.slot = at.remainder;
    }
    return found;
  }

 private:
  const PortableParams& p_;
  const Shared& shared_;
};

/// Copies tiles of K, or of V, of `Columns` columns into rows of `Pitch` bytes, 16 bytes at a time.
/// So many lanes share a key that each of them always copies the same columns, plus constants: that
/// leaves an address to compute for each key.
template <int Columns, int Pitch>
class TileLoader {
 public:
  /// `bytes`: of a row, from the block's first column on. `from`: in shared memory, to save
  /// registers.
  __device__ TileLoader(const PortableParams& p, const KvParam& kv, const NearStrides& near,
                        const unsigned char* const& from, int bytes)
      : p_(p), kv_(kv), near_(near), from_(from), bytes_(bytes) {}

  /// Where the columns from `first_column` on of a request's token 0, or its pool's, are.
  static __device__ const unsigned char* begin(const PortableParams& p, const KvParam& kv,
                                               const Place& place, int32_t kv_head,
                                               int32_t first_column) {
    int64_t offset = kv_head * kv.head_stride + first_column;
    if (p.attention.page_table == nullptr) offset += place.kv_begin * kv.slot_stride;
    return static_cast<const unsigned char*>(kv.data) + offset * kKvBytes;
  }

  __device__ void start(const Found& found, unsigned char* tile) const {
    tile += static_cast<int>(threadIdx.x) / kWarp * kKeysOfWarp * Pitch;
    if (!p_.kv_whole) {
      const int64_t offset = found.page * kv_.page_stride + found.slot * kv_.slot_stride;
      copy_elements(from_, bytes_, offset, found.wanted, tile);
      return;
    }
    const unsigned offset = static_cast<unsigned>(found.page) * near_.page +
                            static_cast<unsigned>(found.slot) * near_.slot;
    if (found.wanted == Found::kAll && bytes_ >= Columns * kKvBytes) {
      copy<true>(offset, found.wanted, tile);
    } else {
      copy<false>(offset, found.wanted, tile);
    }
  }

 private:
  static constexpr int kChunks = Columns * kKvBytes / 16;
  static constexpr int kEvenChunks = kChunks & -kChunks;  // the power of two in it
  static constexpr int kLanesOfKey = kEvenChunks < kWarp ? kEvenChunks : kWarp;
  static constexpr int kKeysOfStep = kWarp / kLanesOfKey;
  static constexpr int kSteps = (kKeysOfWarp + kKeysOfStep - 1) / kKeysOfStep;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  /// The first byte of this lane's in a row.
  static __device__ int lane_begin() { return lane() % kLanesOfKey * 16; }

  /// `offset`: of this lane's key, in units of 16 bytes. `Whole`: all keys, and all columns of
  /// them.
  template <bool Whole>
  __device__ void copy(unsigned offset, unsigned wanted, unsigned char* tile) const {
    const unsigned char* from = from_ + lane_begin();
    const int first_key = lane() / kLanesOfKey;
    const unsigned target = shared_address(tile) + first_key * Pitch + lane_begin();
    // The rare case must not take registers from the common one.
    constexpr int kUnroll = Whole ? kSteps : 1;
    constexpr int kTogether = Whole ? kSteps : 1;
#pragma unroll 1
    for (int first = 0; first < kSteps; first += kTogether) {
      unsigned of_key[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        of_key[i] = __shfl_sync(kAllLanes, offset, (first + i) * kKeysOfStep + first_key);
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int key = (first + i) * kKeysOfStep;
        if (kKeysOfWarp % kKeysOfStep != 0 && key + first_key >= kKeysOfWarp) continue;
        const unsigned char* source = from + uint64_t{of_key[i]} * 16;
#pragma unroll kUnroll
        for (int begin = 0; begin < kChunks * 16; begin += kLanesOfKey * 16) {
          int bytes = 16;
          if constexpr (!Whole) {
            bytes = wanted >> (key + first_key) & 1 ? min(max(bytes_ - lane_begin() - begin, 0), 16)
                                                    : 0;
          }
          copy_async_16(target + key * Pitch + begin, bytes == 0 ? from : source + begin, bytes);
        }
      }
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
  const NearStrides& near_;
  const unsigned char* const& from_;
  int bytes_;  // of a row, from the first column on
};

using KeyLoader = TileLoader<kD, kKPitch>;
using ValueLoader = TileLoader<kDv, kVPitch>;

}  // namespace octavo::cuda
