// The vectors of the instruction set that the including kernel's file is compiled for, and what a
// word of scratch holds. Internal linkage, so that no kernel gets another's code. An instruction
// set's own header gives:
//
//   Vector, kLanes              floats of a register
//   kMostVectors, kBlockRows    a block of sums: with its operands it fills the registers
//   kRowsInPlace                rows whose sums with four keys, or four vectors, fill the registers
//   load, store, broadcast, fma
//   most(a, b)                  a > b ? a : b in each lane: b where either is NaN
//   sum_lanes, largest_lane     of one vector
//   sums_of_four, largest_of_four  of each of four vectors, with the same bits
//   sum_each(x)                 lane i: the sum of the lanes of vector i
//   load_as_floats<T>(row, index, end)     elements [index, index + kLanes) of a row; those from
//                               `end` on are 0 and not touched
//   transpose(rows, columns)    of kLanes vectors each
//   Bf16Pairs                   as Floats below, where the processor multiplies pairs of bf16; and
//                               interleave(first, second, pairs): two rows of bf16 as two vectors
//                               of pairs, each of an element of both
#pragma once

#include <cstdint>
#include <cstring>

#include "octavo/dtype.h"

namespace octavo {
namespace {
using Four = float __attribute__((vector_size(16)));
}  // namespace
}  // namespace octavo

#if defined(__AVX512F__)
#include "cpu/vector_avx512.h"
#elif defined(__AVX2__)
#include "cpu/vector_avx2.h"
#elif defined(__aarch64__)
#include "cpu/vector_neon.h"
#endif

namespace octavo {
namespace {

using Bits = std::uint32_t __attribute__((vector_size(kLanes * sizeof(float))));
using Integers = std::int32_t __attribute__((vector_size(kLanes * sizeof(float))));

template <typename T>
T load_vector(const void* at) {
  T x;
  std::memcpy(&x, at, sizeof x);
  return x;
}

/// What a word of scratch holds: a float.
struct Floats {
  static constexpr int kPerWord = 1;
  template <DType T>
  static Vector load(const std::byte* row, std::int64_t word, std::int64_t elements) {
    return load_as_floats<T>(row, word, elements);
  }
  static Vector multiply_add(Vector sum, Vector a, Vector b) { return fma(a, b, sum); }
};

}  // namespace
}  // namespace octavo
