#pragma once

#include <cstddef>

#include "core/kernel.h"
#include "octavo/merge_states.h"

namespace octavo {

/// A problem with a prefix as two whose results merge: the rows of all requests as those of one
/// request over the prefix, and each request over its own keys, which begin after it. Positions
/// are relative to a request's end, so its own mask is the same there; sinks count in it alone.
struct Cascade {
  Problem prefix;
  Problem suffix;

  explicit Cascade(const Problem& problem);
};

/// What cascades ask of a problem. Bits of a row would depend on how long the prefix is, ALiBi's
/// terms on positions that rows of one request do not share, and masks may cut the prefix.
void require_cascadable(const Problem& problem, Support& support);

/// Where a run has the results of the two, f32 [2, rows, hq, dv] and [2, rows, hq], and the
/// workspace that they take one after the other.
class CascadeWorkspace {
 public:
  /// `kernels`: bytes of the larger of the two workspaces.
  CascadeWorkspace(const Problem& problem, std::size_t kernels);
  std::size_t size() const { return kernels_ + kernels_size_; }
  std::size_t of_kernels() const { return kernels_; }  ///< offset

  /// The arguments of one of the two, 0 or 1, with `rows` rows of results.
  Arguments part(const Arguments& arguments, std::byte* workspace, int index,
                 std::int64_t rows) const;
  /// Of their results, the results of the run.
  MergeArguments merge(const Arguments& arguments, std::byte* workspace, std::int64_t rows) const;

 private:
  std::int64_t hq_, dv_;
  bool lse_wanted_;
  std::size_t lse_, kernels_, kernels_size_;  // offsets, and a size
};

}  // namespace octavo
