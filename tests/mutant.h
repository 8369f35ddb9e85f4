#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "octavo/octavo.h"

namespace octavo::tests {

/// Choices that bytes make: a fuzzer's, or random ones. Past the last byte all are the first.
class Choices {
 public:
  explicit Choices(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  /// In [0, count); count is at most 65536.
  std::size_t below(std::size_t count);
  template <typename T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[below(values.size())];
  }

 private:
  std::size_t next_byte();

  std::span<const std::uint8_t> bytes_;
};

/// A valid problem from the whole space, so small that a run takes microseconds.
Problem tiny_problem(std::uint64_t seed);

/// The arguments of a random case, to be spoilt. All memory that they mention is in one arena, so a
/// view that was moved still lies in memory, and each byte that a run writes can be accounted for.
class Mutant {
 public:
  Mutant(const Problem& problem, std::uint64_t seed, std::size_t workspace_size);
  Mutant(const Mutant&) = delete;
  Mutant& operator=(const Mutant&) = delete;

  /// Everything as it was made.
  void reset();
  static constexpr std::size_t kKinds = 18;
  /// Changes one thing; says of which kind.
  std::string_view mutate(Choices& choices);
  /// Whether all memory that the arguments claim is in the arena, or else ends past the last
  /// address. Other false claims nobody can see through: never run those.
  bool is_honest() const;

  struct Outcome {
    bool accepted = false;
    std::string message;  ///< of the refusal
    std::string wrong;    ///< what must not happen but did; empty if all is well
  };
  /// Runs the plan, and leaves the memory as it was.
  Outcome run(const Plan& plan, Executor& executor);

 private:
  struct Claim;
  struct Claims;
  struct Block;
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  Claims claims() const;
  std::vector<Block> blocks() const;
  void move_to_arena(std::size_t workspace_size);
  bool is_in_arena(const void* data, std::size_t size) const;
  std::string audit(const std::vector<std::byte>& before) const;

  template <typename T>
  void mutate_pointer(T*& pointer, Choices& choices);
  template <int Rank>
  void mutate_tensor(TensorView<Rank>& view, Choices& choices);
  template <typename T>
  void mutate_span(std::span<T>& values, Choices& choices);
  void mutate_entry(std::span<const std::int32_t> values, Choices& choices);
  void mutate_scale(Scale& scale, Choices& choices);
  void mutate_page_table(Choices& choices);
  void mutate_mask_bits(Choices& choices);

  Problem problem_;
  Arguments original_, arguments_;
  std::vector<Line> lines_;
  std::span<std::byte> arena_;  ///< the lines
  std::vector<std::byte> pristine_;
};

}  // namespace octavo::tests
