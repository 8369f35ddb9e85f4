#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "octavo/arguments.h"
#include "octavo/executor.h"
#include "octavo/problem.h"
#include "octavo/selection.h"
#include "octavo/stream.h"

namespace octavo {

/// Which dims of a head a rotation turns together: c and c + 1, or c and c + rotary / 2.
enum class RopeStyle : std::uint8_t { interleaved, halves };

/// A rotary embedding of positions: turns each pair of the first `rotary` dims of a head; the
/// others stay.
struct Rope {
  RopeStyle style = RopeStyle::halves;
  /// f32 [positions, rotary]: of each position rotary / 2 cosines, then as many sines.
  TensorView<2> table;
  /// [rows] of each token; empty: its place in its request.
  std::span<const std::int32_t> positions{};
};

/// A table for `Rope`, dense: cos and sin of position * base^(-2 i / rotary). Throws
/// Error(invalid_argument) for an odd or non-positive `rotary`, negative `positions`, or a base
/// that is not positive and finite.
std::vector<float> rope_table(std::int64_t positions, std::int64_t rotary, double base = 10000);

/// Turns the rows of x [rows, heads, d] in place, on the CPU: queries as `append` turns keys.
/// `rope.positions` must be given. Throws Error(invalid_argument).
void rotate(const Rope& rope, const TensorView<3>& x, Executor& executor);
void rotate(const Rope& rope, const TensorView<3>& x);

/// New keys and values, and the pages they go to. Row i of request r is its token kv_lens[r] -
/// q_lens[r] + i: what attention then reads by the same page table and lengths.
struct AppendArguments {
  TensorView<3> new_k;  ///< [rows, hkv, d]; request r's rows follow those of request r - 1
  TensorView<3> new_v;  ///< [rows, hkv, dv]
  KvView k;             ///< [pages, page_size, hkv, d]
  KvView v;             ///< [pages, page_size, hkv, dv]
  PageTable page_table{};
  std::span<const std::int32_t> q_lens;   ///< [requests] new tokens
  std::span<const std::int32_t> kv_lens;  ///< [requests] tokens with the new ones
  /// Factors of the stored k and v: x / scale is stored, rounded to nearest even; fp8 saturates.
  /// `values` if there are any: one, or one for each KV head.
  Scale k_scale{}, v_scale{};
  std::optional<Rope> rope{};  ///< turns new_k, in fp32, before it is scaled
};

/// Writes new keys and values into pages, on the CPU. Throws Error(invalid_argument) before a page
/// is touched. No two requests may write the same slot; reads and writes share no memory.
void append(const AppendArguments& arguments, Executor& executor);
void append(const AppendArguments& arguments);

/// Enqueues the same on a stream of a GPU: the bits that it stores are those of the CPU, apart from
/// the payload of a NaN that is converted. New keys and values, pools, scales' values, and the
/// rotation's table and positions are in memory that the GPU reads; what scales and positions hold
/// is not checked there. Page table and lengths are in host memory, and read before this returns.
/// Neither allocates nor waits, once the kernel's code is loaded: at the first append, or when a
/// KvCache is made. Throws Error(invalid_argument) before anything is enqueued, Error(unavailable)
/// where there is no code and no compiler, Error(device_error).
void append(const AppendArguments& arguments, const Device& device, Stream stream);

/// New keys and values, each with its slot: slot s is `s % page_size` of page `s / page_size`.
struct StoreArguments {
  TensorView<3> new_k;                  ///< [rows, hkv, d]
  TensorView<3> new_v;                  ///< [rows, hkv, dv]
  KvView k;                             ///< [pages, page_size, hkv, d]
  KvView v;                             ///< [pages, page_size, hkv, dv]
  std::span<const std::int64_t> slots;  ///< [rows]; a row with a negative one is left out
  Scale k_scale{}, v_scale{};           ///< as in AppendArguments
};

/// Writes new keys and values into slots, on the CPU: for engines that keep no table of what a step
/// adds. Throws Error(invalid_argument) before a page is touched. No two rows may have the same
/// slot; reads and writes share no memory.
void store(const StoreArguments& arguments, Executor& executor);
void store(const StoreArguments& arguments);

}  // namespace octavo
