#include <cmath>

#include "core/call.h"
#include "core/text.h"
#include "octavo/error.h"

namespace octavo {
namespace {

template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) throw Error(ErrorCode::invalid_argument, concat(parts...));
}

template <int Rank>
std::int64_t elements(const TensorView<Rank>& view) {
  std::int64_t count = 1;
  for (std::int64_t extent : view.shape) count *= extent;
  return count;
}

/// What every tensor must be: the dtype, non-negative sizes, a dense innermost dimension, memory.
template <int Rank>
void check_tensor(std::string_view name, const TensorView<Rank>& view, DType dtype) {
  require(view.dtype == dtype, name, " is ", octavo::name(view.dtype), ": the plan wants ",
          octavo::name(dtype));
  for (int axis = 0; axis < Rank; ++axis) {
    require(view.shape[axis] >= 0, name, ".shape[", axis, "]=", view.shape[axis],
            ": must be at least 0");
    require(view.stride[axis] >= 0, name, ".stride[", axis, "]=", view.stride[axis],
            ": must be at least 0");
  }
  if (elements(view) == 0) return;
  require(view.data != nullptr, name, " is a null pointer");
  require(reinterpret_cast<std::uintptr_t>(view.data) % size_of(dtype) == 0, name,
          " is not aligned to its elements of ", size_of(dtype), " bytes");
  require(view.shape[Rank - 1] <= 1 || view.stride[Rank - 1] == 1, name, ".stride[", Rank - 1,
          "]=", view.stride[Rank - 1], ": the innermost stride must be 1");
}

/// No two elements of an output may share memory.
template <int Rank>
void check_no_overlap(std::string_view name, const TensorView<Rank>& view) {
  std::int64_t inner = 1;
  for (int axis = Rank; axis-- > 0;) {
    if (view.shape[axis] <= 1) continue;
    require(view.stride[axis] >= inner, name, ".stride[", axis, "]=", view.stride[axis],
            ": must be at least ", inner, ", or elements share memory");
    inner = view.stride[axis] * (view.shape[axis] - 1) + inner;
  }
}

void require_extent(std::string_view name, std::int64_t value, std::int64_t expected) {
  require(value == expected, name, " is ", value, ": the plan wants ", expected);
}

void check_lengths(const Problem& p, const Arguments& a) {
  const auto requests = static_cast<std::int64_t>(a.q_lens.size());
  require(a.kv_lens.size() == a.q_lens.size(), "kv_lens has ", a.kv_lens.size(),
          " values: q_lens has ", requests);
  require(requests <= p.batch(), "q_lens has ", requests, " requests: the plan takes at most ",
          p.batch());
  std::int64_t total = 0;
  for (std::int64_t r = 0; r < requests; ++r) {
    require(a.q_lens[r] >= 0 && a.q_lens[r] <= p.max_q_len(), "q_lens[", r, "]=", a.q_lens[r],
            ": must be from 0 to the plan's ", p.max_q_len());
    require(a.kv_lens[r] >= 0 && a.kv_lens[r] <= p.max_kv_len(), "kv_lens[", r, "]=", a.kv_lens[r],
            ": must be from 0 to the plan's ", p.max_kv_len());
    require(p.layout != Layout::packed || a.q_lens[r] == a.kv_lens[r], "kv_lens[", r,
            "]=", a.kv_lens[r], ": must equal q_lens[", r, "]=", a.q_lens[r], " in packed layout");
    total += a.q_lens[r];
  }
  require(total <= p.total_q(), "q_lens sum to ", total, ": the plan takes at most ", p.total_q());
  require(total <= a.q.shape[0], "q has ", a.q.shape[0], " rows: q_lens sum to ", total);
  require(total <= a.out.shape[0], "out has ", a.out.shape[0], " rows: q_lens sum to ", total);
  require(!p.lse || total <= a.lse.shape[0], "lse has ", a.lse.shape[0], " rows: q_lens sum to ",
          total);
  require(p.mask.kind != MaskKind::bits || total <= a.mask_bits.rows, "mask_bits has ",
          a.mask_bits.rows, " rows: q_lens sum to ", total);
}

void check_kv(const Problem& p, const Arguments& a) {
  check_tensor("k", a.k, p.kv);
  check_tensor("v", a.v, p.kv);
  require_extent("k.shape[2] (heads)", a.k.shape[2], p.hkv);
  require_extent("v.shape[2] (heads)", a.v.shape[2], p.hkv);
  require_extent("k.shape[3] (d)", a.k.shape[3], p.d);
  require_extent("v.shape[3] (dv)", a.v.shape[3], p.dv);
  require_extent("v.shape[0]", a.v.shape[0], a.k.shape[0]);
  require_extent("v.shape[1]", a.v.shape[1], a.k.shape[1]);
}

void check_pages(const Problem& p, const Arguments& a) {
  require_extent("k.shape[1] (page size)", a.k.shape[1], p.page_size);
  const PageTable& table = a.page_table;
  const auto requests = static_cast<std::int64_t>(a.q_lens.size());
  require(table.requests >= requests, "page_table has ", table.requests, " rows: q_lens has ",
          requests, " requests");
  require(table.stride >= table.columns || requests <= 1, "page_table.stride=", table.stride,
          ": must be at least its ", table.columns, " columns");
  for (std::int64_t r = 0; r < requests; ++r) {
    std::int64_t used = (a.kv_lens[r] + p.page_size - 1) / p.page_size;
    require(used <= table.columns, "page_table has ", table.columns, " columns: kv_lens[", r,
            "]=", a.kv_lens[r], " needs ", used, " pages of ", p.page_size);
    require(used == 0 || table.data != nullptr, "page_table is a null pointer");
    for (std::int64_t c = 0; c < used; ++c) {
      std::int64_t id = table.data[r * table.stride + c];
      require(id >= 0 && id < a.k.shape[0], "page_table[", r, "][", c, "]=", id,
              ": must be from 0 to ", a.k.shape[0] - 1, ", the pool has ", a.k.shape[0], " pages");
    }
  }
}

void check_scale(std::string_view name, const Scale& scale, ScaleKind kind, std::int64_t heads) {
  if (kind == ScaleKind::host) {
    require(std::isfinite(scale.value), name, ".value=", scale.value, ": must be finite");
    require(scale.values.empty(), name, ".values has ", scale.values.size(),
            " values: the plan wants one host number");
    return;
  }
  std::int64_t expected = kind == ScaleKind::tensor ? 1 : heads;
  require_extent(concat(name, ".values (size)"), static_cast<std::int64_t>(scale.values.size()),
                 expected);
}

void check_extras(const Problem& p, const Arguments& a) {
  check_scale("q_scale", a.q_scale, p.q_scale, p.hkv);
  check_scale("k_scale", a.k_scale, p.k_scale, p.hkv);
  check_scale("v_scale", a.v_scale, p.v_scale, p.hkv);
  check_scale("out_scale", a.out_scale, p.out_scale, p.hkv);
  require_extent("sinks (size)", static_cast<std::int64_t>(a.sinks.size()), p.sinks ? p.hq : 0);
  require_extent("alibi_slopes (size)", static_cast<std::int64_t>(a.alibi_slopes.size()),
                 p.alibi ? p.hq : 0);
  if (p.mask.kind == MaskKind::bits) {
    std::int64_t longest = 0;
    for (std::int32_t length : a.kv_lens) longest = std::max<std::int64_t>(longest, length);
    require(a.mask_bits.row_bytes >= (longest + 7) / 8,
            "mask_bits.row_bytes=", a.mask_bits.row_bytes, ": must be at least ", (longest + 7) / 8,
            " for ", longest, " keys");
    require(a.mask_bits.rows == 0 || longest == 0 || a.mask_bits.data != nullptr,
            "mask_bits is a null pointer");
  } else {
    require(a.mask_bits.data == nullptr, "mask_bits is given: the plan's mask is not bits");
  }
}

}  // namespace

Call make_call(const Problem& p, const Arguments& a, std::byte* workspace) {
  check_tensor("q", a.q, p.q);
  require_extent("q.shape[1] (heads)", a.q.shape[1], p.hq);
  require_extent("q.shape[2] (d)", a.q.shape[2], p.d);
  check_tensor("out", a.out, p.out);
  require_extent("out.shape[1] (heads)", a.out.shape[1], p.hq);
  require_extent("out.shape[2] (dv)", a.out.shape[2], p.dv);
  check_no_overlap("out", a.out);
  if (p.lse) {
    check_tensor("lse", a.lse, DType::f32);
    require_extent("lse.shape[1] (heads)", a.lse.shape[1], p.hq);
    check_no_overlap("lse", a.lse);
  } else {
    require(a.lse.data == nullptr, "lse is given: the plan does not return it");
  }
  check_lengths(p, a);
  check_kv(p, a);
  check_extras(p, a);
  if (p.layout == Layout::paged) check_pages(p, a);

  Call call{p, a, {}, workspace};
  std::int64_t q_begin = 0;
  std::int64_t kv_begin = 0;
  for (std::size_t r = 0; r < a.q_lens.size(); ++r) {
    const std::int32_t* pages =
        p.layout == Layout::paged && a.page_table.data != nullptr
            ? a.page_table.data + static_cast<std::int64_t>(r) * a.page_table.stride
            : nullptr;
    call.requests.push_back({q_begin, a.q_lens[r], kv_begin, a.kv_lens[r], pages});
    q_begin += a.q_lens[r];
    kv_begin += a.kv_lens[r];
  }
  if (p.layout != Layout::paged) {
    require_extent("k.shape[0]", a.k.shape[0], 1);
    require(kv_begin <= a.k.shape[1], "k and v have ", a.k.shape[1], " tokens: kv_lens sum to ",
            kv_begin);
  }
  return call;
}

}  // namespace octavo
