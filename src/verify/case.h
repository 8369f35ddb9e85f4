#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "octavo/octavo.h"

namespace octavo::verify {

/// What the oracle and the comparison need to know of a dtype.
struct Format {
  int mantissa_bits;
  int exponent_bits;
  bool infinities;  ///< if not, only the all-ones pattern of exponent and mantissa is NaN
  double largest;   ///< largest finite value
};
Format format_of(DType dtype);

/// Rounds to nearest even; fp8 saturates, the others overflow to infinity.
std::uint32_t encode(double value, DType dtype);
double decode(std::uint32_t bits, DType dtype);
void store(std::byte* at, double value, DType dtype);
double load(const std::byte* at, DType dtype);

/// Aligned bytes with guard bytes before and after, all of one value at first.
class GuardedBuffer {
 public:
  GuardedBuffer() = default;
  GuardedBuffer(std::size_t size, std::uint8_t fill, std::size_t alignment = 64);

  std::byte* data() { return storage_.data() + begin_; }
  const std::byte* data() const { return storage_.data() + begin_; }
  std::size_t size() const { return size_; }
  std::span<std::byte> with_guards() { return storage_; }
  /// Whether the guards, and every byte from `used` on, still hold the fill.
  bool untouched_beyond(std::size_t used) const;

 private:
  std::vector<std::byte> storage_;
  std::size_t begin_ = 0;
  std::size_t size_ = 0;
  std::byte fill_{};
};

/// The workspace of a run: exactly as many bytes as the plan needs.
struct Workspace {
  std::size_t size = 0;
  std::size_t alignment = 64;
  bool optional = true;  ///< none at all, as the seed says
};

enum class Values {
  checked,  ///< NaN in keys that no query sees, and all the rest known to the oracle
  timed,    ///< random ones that repeat, everywhere, and no oracle: large cases are made fast
};

/// One random instance of a problem: the arguments of a run, and the same numbers for the oracle.
class Case {
 public:
  Case(const Problem& problem, std::uint64_t seed, Workspace workspace = {},
       Values values = Values::checked);
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;

  const Problem& problem() const { return problem_; }
  const Arguments& arguments() const { return arguments_; }

  /// Of request r: the number of query tokens and of key tokens in the requests before.
  std::int64_t first_q(std::int64_t r) const { return first_q_[r]; }
  std::int64_t first_kv(std::int64_t r) const { return first_kv_[r]; }
  std::int64_t total_q() const { return first_q_.back(); }
  /// Whether query i of request r sees key j.
  bool sees(std::int64_t r, std::int64_t i, std::int64_t j) const;

  /// Stored values, by token of the whole batch, head and dim; keys that no query sees are 0 here.
  const double* q(std::int64_t token, std::int64_t head) const {
    return &q_[(token * problem_.hq + head) * problem_.d];
  }
  const double* k(std::int64_t token, std::int64_t head) const {
    return &k_[(token * problem_.hkv + head) * problem_.d];
  }
  const double* v(std::int64_t token, std::int64_t head) const {
    return &v_[(token * problem_.hkv + head) * problem_.dv];
  }
  double q_scale(std::int64_t kv_head) const { return q_scale_.at(kv_head); }
  double k_scale(std::int64_t kv_head) const { return k_scale_.at(kv_head); }
  double v_scale(std::int64_t kv_head) const { return v_scale_.at(kv_head); }
  double out_scale(std::int64_t kv_head) const { return out_scale_.at(kv_head); }
  std::optional<double> sink(std::int64_t head) const;
  double slope(std::int64_t head) const;

  /// What the run wrote.
  double out(std::int64_t token, std::int64_t head, std::int64_t c) const;
  double lse(std::int64_t token, std::int64_t head) const;
  /// Memory that the arguments lead to. Outputs, the workspace among them, are written.
  struct Block {
    std::span<std::byte> bytes;
    bool written;
  };
  std::vector<Block> blocks();
  /// Names the output whose guard bytes or spare rows the run touched; empty if none.
  std::string touched() const;

 private:
  struct Factor {
    ScaleKind kind = ScaleKind::host;
    float value = 1;
    std::vector<float> values;
    double at(std::int64_t kv_head) const;
    Scale scale() const { return {value, values}; }
  };
  class Maker;

  Problem problem_;
  Arguments arguments_;
  std::vector<std::int32_t> q_lens_, kv_lens_, page_table_;
  std::vector<std::int64_t> first_q_, first_kv_;
  std::vector<double> q_, k_, v_;
  std::vector<float> sinks_, slopes_;
  std::vector<std::uint8_t> bits_;
  Factor q_scale_, k_scale_, v_scale_, out_scale_;
  GuardedBuffer q_memory_, k_memory_, v_memory_, out_memory_, lse_memory_, workspace_memory_;
};

}  // namespace octavo::verify
