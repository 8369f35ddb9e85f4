#include "cpu/merge_states.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/convert.h"
#include "cpu/isa.h"

namespace octavo {
namespace {

constexpr std::int64_t kColumns = 128;             // summed at a time, where they stay in the cache
constexpr std::int64_t kElementsOfTask = 1 << 15;  // of all parts
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A part's row of dv elements, and its share of the result. Parts without a share are left out.
struct Share {
  const std::byte* row;
  float weight;
};

/// out = sum of the shares' rows by their weights; 0 if there are none.
struct RowSum {
  DType from;
  DType to;
  std::int64_t width;

  [[gnu::always_inline]] inline void write(std::span<const Share> shares, std::byte* out) const {
    alignas(64) float sum[kColumns] = {};
    alignas(64) float part[kColumns] = {};
    const auto size = static_cast<std::int64_t>(size_of(from));
    for (std::int64_t begin = 0; begin < width; begin += kColumns) {
      const std::int64_t count = std::min(kColumns, width - begin);
      for (const Share& share : shares) {
        load_floats(from, share.row + begin * size, part, count);
        const bool first = &share == shares.data();  // not 0 + it: that would lose the sign of -0
        for (std::int64_t c = 0; c < count; ++c) {
          const float product = share.weight * part[c];
          sum[c] = first ? product : sum[c] + product;
        }
      }
      store_floats(to, out + begin * static_cast<std::int64_t>(size_of(to)), sum, count);
    }
  }
};

using Write = void (*)(const RowSum&, std::span<const Share>, std::byte*);

void write_baseline(const RowSum& sum, std::span<const Share> shares, std::byte* out) {
  sum.write(shares, out);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void write_avx2(const RowSum& sum, std::span<const Share> shares,
                                        std::byte* out) {
  sum.write(shares, out);
}

[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl")]] void write_avx512(
    const RowSum& sum, std::span<const Share> shares, std::byte* out) {
  sum.write(shares, out);
}
#endif

/// The bits are the same in all of them: products and sums round apart.
Write widest() {
#if defined(__x86_64__)
  if (has_avx512()) return write_avx512;
  if (has_avx2()) return write_avx2;
#endif
  return write_baseline;
}

/// The rows of one task, one after the other.
class Merge {
 public:
  Merge(const MergeArguments& a, Write write)
      : a_(a), write_(write), parts_(a.parts.shape[0]), size_(bytes_of(a.parts.dtype)) {
    shares_.reserve(static_cast<std::size_t>(parts_));
  }

  void row(std::int64_t row, std::int64_t head) {
    const double lse = find_shares(row, head);
    std::byte* out = static_cast<std::byte*>(a_.out.data) +
                     (row * a_.out.stride[0] + head * a_.out.stride[1]) * bytes_of(a_.out.dtype);
    write_({a_.parts.dtype, a_.out.dtype, a_.out.shape[2]}, shares_, out);
    if (a_.lse.data == nullptr) return;
    static_cast<float*>(a_.lse.data)[row * a_.lse.stride[0] + head * a_.lse.stride[1]] =
        static_cast<float>(lse);
  }

 private:
  static std::int64_t bytes_of(DType dtype) { return static_cast<std::int64_t>(size_of(dtype)); }

  double part_lse(std::int64_t part, std::int64_t row, std::int64_t head) const {
    const auto& stride = a_.parts_lse.stride;
    return static_cast<const float*>(
        a_.parts_lse.data)[part * stride[0] + row * stride[1] + head * stride[2]];
  }

  /// Returns the LSE of all. A NaN makes the result NaN.
  double find_shares(std::int64_t row, std::int64_t head) {
    double largest = -kInfinity;
    for (std::int64_t i = 0; i < parts_; ++i) largest = std::max(largest, part_lse(i, row, head));
    double total = 0;
    for (std::int64_t i = 0; i < parts_; ++i) {
      const double lse = part_lse(i, row, head);
      if (lse != -kInfinity) total += std::exp(lse - largest);
    }
    shares_.clear();
    const auto& stride = a_.parts.stride;
    for (std::int64_t i = 0; i < parts_; ++i) {
      const double lse = part_lse(i, row, head);
      if (lse == -kInfinity) continue;
      const auto weight = static_cast<float>(std::exp(lse - largest) / total);
      if (weight == 0) continue;
      shares_.push_back({static_cast<const std::byte*>(a_.parts.data) +
                             (i * stride[0] + row * stride[1] + head * stride[2]) * size_,
                         weight});
    }
    return total == 0 ? -kInfinity : largest + std::log(total);
  }

  const MergeArguments& a_;
  Write write_;
  std::int64_t parts_;
  std::int64_t size_;
  std::vector<Share> shares_;
};

}  // namespace

void merge_rows(const MergeArguments& a, Executor& executor) {
  const std::int64_t heads = a.out.shape[1];
  const std::int64_t rows = a.out.shape[0] * heads;
  const std::int64_t elements = std::max<std::int64_t>(1, a.parts.shape[0] * a.out.shape[2]);
  const std::int64_t of_task = std::max<std::int64_t>(1, kElementsOfTask / elements);
  const Write write = widest();
  executor.parallel_for((rows + of_task - 1) / of_task, [&](std::int64_t task) {
    Merge merge(a, write);
    const std::int64_t end = std::min(rows, (task + 1) * of_task);
    for (std::int64_t i = task * of_task; i < end; ++i) merge.row(i / heads, i % heads);
  });
}

}  // namespace octavo
