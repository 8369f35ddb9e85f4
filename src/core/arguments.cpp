#include "core/arguments.h"

#include <cmath>

#include "core/view_checks.h"

namespace octavo {
namespace {

/// What every tensor must be: the dtype, and a sound view.
template <int Rank>
void check_tensor(std::string_view name, const TensorView<Rank>& view, DType dtype) {
  require_argument(view.dtype == dtype, name, " is ", octavo::name(view.dtype), ": the plan wants ",
                   octavo::name(dtype));
  check_view(name, view);
}

void require_extent(std::string_view name, std::int64_t value, std::int64_t expected) {
  require_argument(value == expected, name, " is ", value, ": the plan wants ", expected);
}

void check_requests(const Problem& p, const Arguments& a) {
  require_argument(a.kv_lens.size() == a.q_lens.size(), "kv_lens has ", a.kv_lens.size(),
                   " values: q_lens has ", a.q_lens.size());
  require_argument(a.q_lens.size() <= p.q_len.size(), "q_lens has ", a.q_lens.size(),
                   " requests: the plan takes at most ", p.batch());
  check_values("q_lens", a.q_lens);
  check_values("kv_lens", a.kv_lens);
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

void check_page_table(const Problem& p, const Arguments& a) {
  require_extent("k.shape[1] (page size)", a.k.shape[1], p.page_size);
  const PageTable& table = a.page_table;
  const auto requests = static_cast<std::int64_t>(a.q_lens.size());
  require_argument(table.requests >= requests, "page_table has ", table.requests,
                   " rows: q_lens has ", requests, " requests");
  const std::int64_t room = room_at(table.data) / static_cast<std::int64_t>(sizeof(std::int32_t)) /
                            std::max<std::int64_t>(1, requests);
  require_argument(table.columns >= 0 && table.columns <= room,
                   "page_table.columns=", table.columns,
                   ": must be from 0 to what memory can hold");
  require_argument(requests <= 1 || (table.stride >= table.columns && table.stride <= room),
                   "page_table.stride=", table.stride, ": must be from its ", table.columns,
                   " columns to what memory can hold");
  if (requests > 0 && table.columns > 0 && table.data != nullptr) {
    check_pointer("page_table", table.data, sizeof(std::int32_t));
  }
}

/// `values`: the name of the scale's values, as in "q_scale.values".
void check_scale(std::string_view values, const Scale& scale, ScaleKind kind, std::int64_t heads) {
  const std::size_t count = scale.values.size();
  if (kind == ScaleKind::host) {
    const std::string_view value = values.substr(0, values.size() - 1);
    require_argument(std::isfinite(scale.value), value, "=", scale.value, ": must be finite");
    require_argument(count == 0, values, " has ", count, " values: the plan wants one host number");
    return;
  }
  const std::int64_t expected = kind == ScaleKind::tensor ? 1 : heads;
  require_argument(static_cast<std::int64_t>(count) == expected, values, " has ", count,
                   " values: the plan wants ", expected);
  check_values(values, scale.values);
}

void check_extras(const Problem& p, const Arguments& a) {
  check_scale("q_scale.values", a.q_scale, p.q_scale, p.hkv);
  check_scale("k_scale.values", a.k_scale, p.k_scale, p.hkv);
  check_scale("v_scale.values", a.v_scale, p.v_scale, p.hkv);
  check_scale("out_scale.values", a.out_scale, p.out_scale, p.hkv);
  require_extent("sinks (size)", static_cast<std::int64_t>(a.sinks.size()), p.sinks ? p.hq : 0);
  require_extent("alibi_slopes (size)", static_cast<std::int64_t>(a.alibi_slopes.size()),
                 p.alibi ? p.hq : 0);
  check_values("sinks", a.sinks);
  check_values("alibi_slopes", a.alibi_slopes);
  if (p.mask.kind == MaskKind::bits) {
    const MaskBits& bits = a.mask_bits;
    require_argument(bits.rows >= 0, "mask_bits.rows=", bits.rows, ": must be at least 0");
    require_argument(bits.row_bytes >= 0, "mask_bits.row_bytes=", bits.row_bytes,
                     ": must be at least 0");
    if (bits.rows == 0 || bits.row_bytes == 0) return;
    check_pointer("mask_bits", bits.data, 1);
    require_argument(bits.rows <= room_at(bits.data) / bits.row_bytes, "mask_bits.rows=", bits.rows,
                     ": with row_bytes=", bits.row_bytes, " the bits end past the last address");
  } else {
    require_argument(a.mask_bits.data == nullptr,
                     "mask_bits is given: the plan's mask is not bits");
  }
}

void check_overlaps(const Problem& p, const Arguments& a) {
  require_argument(a.workspace.size() <= static_cast<std::size_t>(room_at(a.workspace.data())),
                   "workspace has ", a.workspace.size(), " bytes: they end past the last address");
  Outputs outputs;
  outputs.add(footprint("out", a.out));
  if (p.lse) outputs.add(footprint("lse", a.lse));
  outputs.add(footprint("workspace", a.workspace));

  outputs.check(footprint("q", a.q));
  outputs.check(footprint("k", a.k));
  outputs.check(footprint("v", a.v));
  if (p.layout == Layout::paged) {
    outputs.check(footprint(a.page_table, static_cast<std::int64_t>(a.q_lens.size())));
  }
  outputs.check(footprint("q_lens", a.q_lens));
  outputs.check(footprint("kv_lens", a.kv_lens));
  outputs.check(footprint("sinks", a.sinks));
  outputs.check(footprint("alibi_slopes", a.alibi_slopes));
  if (p.mask.kind == MaskKind::bits) {
    outputs.check(
        {"mask_bits", address_of(a.mask_bits.data), a.mask_bits.rows * a.mask_bits.row_bytes, {}});
  }
  outputs.check(footprint("q_scale.values", a.q_scale.values));
  outputs.check(footprint("k_scale.values", a.k_scale.values));
  outputs.check(footprint("v_scale.values", a.v_scale.values));
  outputs.check(footprint("out_scale.values", a.out_scale.values));
}

}  // namespace

void check_arguments(const Problem& p, const Arguments& a) {
  check_tensor("q", a.q, p.q);
  require_extent("q.shape[1] (heads)", a.q.shape[1], p.hq);
  require_extent("q.shape[2] (d)", a.q.shape[2], p.d);
  check_tensor("out", a.out, p.out);
  require_extent("out.shape[1] (heads)", a.out.shape[1], p.hq);
  require_extent("out.shape[2] (dv)", a.out.shape[2], p.dv);
  check_distinct("out", a.out);
  if (p.lse) {
    check_tensor("lse", a.lse, DType::f32);
    require_extent("lse.shape[1] (heads)", a.lse.shape[1], p.hq);
    check_distinct("lse", a.lse);
  } else {
    require_argument(a.lse.data == nullptr, "lse is given: the plan does not return it");
  }
  check_requests(p, a);
  check_kv(p, a);
  check_extras(p, a);
  if (p.layout == Layout::paged) {
    check_page_table(p, a);
  } else {
    require_extent("k.shape[0]", a.k.shape[0], 1);
  }
  check_overlaps(p, a);
}

}  // namespace octavo
