#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "octavo/octavo.h"

namespace octavo::tests {

/// Results over parts of the keys, as a merge takes them.
struct MergeForm {
  DType from;
  DType to;
  std::int64_t parts, rows, heads, dv;
  bool strided = false;  ///< parts are [rows, parts, heads, dv] in memory, with gaps
};

std::string name_of(const MergeForm& form);
/// Every pair of dtypes, and awkward sizes.
std::vector<MergeForm> merge_forms();

/// Random results, some of parts that saw no key: their LSE is -inf and their O is NaN. One row saw
/// none at all, another is of LSEs far from 0.
class MergeSample {
 public:
  explicit MergeSample(const MergeForm& form);
  MergeArguments arguments();
  /// Compares out and LSE with what they should hold, computed in double.
  void check() const;
  /// What out and lse hold.
  std::vector<std::byte> bits() const;

 private:
  std::int64_t part_offset(std::int64_t part, std::int64_t row, std::int64_t head) const;
  float lse(std::int64_t part, std::int64_t row, std::int64_t head) const;
  void check_row(std::int64_t row, std::int64_t head) const;

  MergeForm form_;
  TensorView<4> parts_view_;
  std::vector<std::byte> parts_, out_;
  std::vector<float> parts_lse_, lse_;
};

}  // namespace octavo::tests
