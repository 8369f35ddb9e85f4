#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "octavo/octavo.h"

namespace octavo::tests {

inline constexpr std::byte kUntouched{0xa5};

/// How new K and V are given, and how they are stored.
struct Form {
  DType source;
  DType target;
  PageOrder order = PageOrder::nhd;
  ScaleKind scales = ScaleKind::host;
  std::optional<RopeStyle> rope = std::nullopt;
  bool positions = false;  ///< of tokens, instead of their places
};

std::string name_of(const Form& form);
/// Every pair of dtypes, and each way that scales, rotation and order may be.
std::vector<Form> forms();

/// Three requests of 5, 0 and 7 tokens, of which 4, 0 and 7 are new, in pages of 3.
class Sample {
 public:
  static constexpr std::int64_t kPages = 9;
  static constexpr std::int64_t kPageSize = 3;
  static constexpr std::int64_t kHeads = 2;
  static constexpr std::int64_t kRows = 11;

  Sample(const Form& form, std::int64_t d, std::int64_t dv);
  AppendArguments arguments();
  /// The pools' memory, which was untouched before.
  const std::vector<std::byte>& k() const { return k_; }
  const std::vector<std::byte>& v() const { return v_; }
  /// Compares a pool with what it should hold.
  void check(bool is_k) const;

 private:
  KvView pool(std::vector<std::byte>& bytes, std::int64_t d) const;
  double source(bool is_k, std::int64_t row, std::int64_t head, std::int64_t c) const;
  double expected(bool is_k, std::int64_t row, std::int64_t head, std::int64_t c) const;
  double scale(bool is_k, std::int64_t head) const;

  Form form_;
  std::int64_t d_, dv_, rotary_;
  std::vector<std::byte> new_k_, new_v_, k_, v_;
  std::vector<std::int32_t> table_{7, 1, -5, /**/ -5, -5, -5, /**/ 0, 8, 3};
  std::vector<std::int32_t> q_lens_{4, 0, 7};
  std::vector<std::int32_t> kv_lens_{5, 0, 7};
  std::vector<std::int32_t> positions_;
  std::vector<float> rope_, k_scales_, v_scales_;
};

}  // namespace octavo::tests
