#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "octavo/dtype.h"

namespace octavo {

/// A strided view of memory that the caller owns. Strides count elements; the innermost is 1.
template <int Rank>
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::array<std::int64_t, Rank> shape{};
  std::array<std::int64_t, Rank> stride{};

  /// A dense row-major view.
  static TensorView dense(void* data, DType dtype, std::array<std::int64_t, Rank> shape) {
    TensorView view{data, dtype, shape, {}};
    std::int64_t step = 1;
    for (int axis = Rank; axis-- > 0;) {
      view.stride[axis] = step;
      step *= shape[axis];
    }
    return view;
  }
};

/// Keys or values. Paged: [pages, page_size, hkv, d], whatever the order in memory (the strides
/// say). Otherwise: [1, total_kv, hkv, d].
using KvView = TensorView<4>;

/// Page ids [requests, columns]: entry (r, c) holds tokens c * page_size .. of request r. Entries
/// past a request's length may hold anything.
struct PageTable {
  const std::int32_t* data = nullptr;
  std::int64_t requests = 0;
  std::int64_t columns = 0;
  std::int64_t stride = 0;  ///< elements between requests
};

/// A factor. `values` where the problem says tensor (1 value) or head (hkv values), else `value`.
struct Scale {
  float value = 1.0f;
  std::span<const float> values{};
};

/// Bits [total_q, row_bytes]: bit j % 8 of byte j / 8 of a row says that the query sees key j.
struct MaskBits {
  const std::uint8_t* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t row_bytes = 0;
};

/// What one run reads and writes. Request r's queries follow those of request r - 1; in the layouts
/// without pages so do its keys. On a GPU every pointer leads to memory that the GPU reads.
///
/// Inputs may share memory with each other; k and v may interleave. `out`, `lse` and `workspace`
/// share no byte with each other or with an input. They may be slices of an array that inputs are
/// slices of too, as in out = x[:, :, :64], q = x[:, :, 64:]. But a run refuses two views whose
/// ranges of addresses overlap, unless they lie apart modulo one of their strides.
struct Arguments {
  TensorView<3> q;  ///< [total_q, hq, d]
  KvView k;
  KvView v;
  PageTable page_table{};                 ///< paged layouts only
  std::span<const std::int32_t> q_lens;   ///< [requests]
  std::span<const std::int32_t> kv_lens;  ///< [requests]
  TensorView<3> out;                      ///< [total_q, hq, dv]
  TensorView<2> lse{};                    ///< [total_q, hq] f32, where the problem asks for it
  std::span<const float> sinks{};         ///< [hq] natural-log logits, where the problem has sinks
  std::span<const float> alibi_slopes{};  ///< [hq], where the problem has ALiBi
  MaskBits mask_bits{};                   ///< where the mask is bits
  Scale q_scale{}, k_scale{}, v_scale{};  ///< factors of the stored q, k and v
  Scale out_scale{};                      ///< factor of the result before it is stored
  /// At least Plan::workspace_size() bytes that no other run uses at the same time. On the CPU
  /// aligned to 64; if empty, a run allocates its own. On a GPU aligned to 256, and a run allocates
  /// nothing.
  std::span<std::byte> workspace{};
};

}  // namespace octavo
