#include <cmath>
#include <limits>
#include <numeric>

#include "core/call.h"
#include "core/footprint.h"
#include "core/text.h"
#include "octavo/error.h"

namespace octavo {
namespace {

template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) throw Error(ErrorCode::invalid_argument, concat(parts...));
}

std::uintptr_t address_of(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

/// Bytes from `data` on that have an address, in the signed numbers that offsets are.
std::int64_t room_at(const void* data) {
  return std::numeric_limits<std::int64_t>::max() - static_cast<std::int64_t>(address_of(data));
}

template <int Rank>
bool is_empty(const TensorView<Rank>& view) {
  return std::find(view.shape.begin(), view.shape.end(), 0) != view.shape.end();
}

/// Memory that holds something: there, and where its elements may be.
void check_pointer(std::string_view name, const void* data, std::size_t alignment) {
  require(data != nullptr, name, " is a null pointer");
  require(address_of(data) % alignment == 0, name, " is not aligned to its elements of ", alignment,
          " bytes");
}

template <typename Value>
void check_values(std::string_view name, std::span<const Value> values) {
  if (!values.empty()) check_pointer(name, values.data(), sizeof(Value));
}

/// What every tensor must be: the dtype, non-negative sizes, a dense innermost dimension, memory.
/// Afterwards no offset of an element overflows.
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
  if (is_empty(view)) return;
  check_pointer(name, view.data, size_of(dtype));
  require(view.shape[Rank - 1] == 1 || view.stride[Rank - 1] == 1, name, ".stride[", Rank - 1,
          "]=", view.stride[Rank - 1], ": the innermost stride must be 1");
  std::int64_t room = room_at(view.data) / static_cast<std::int64_t>(size_of(dtype)) - 1;
  for (int axis = 0; axis < Rank; ++axis) {
    const std::int64_t steps = view.shape[axis] - 1;
    require(steps == 0 || view.stride[axis] <= room / steps, name, ".stride[", axis,
            "]=", view.stride[axis], ": with shape[", axis, "]=", view.shape[axis],
            " the tensor ends past the last address");
    room -= steps * view.stride[axis];
  }
}

/// No two elements of an output may share memory.
template <int Rank>
void check_distinct(std::string_view name, const TensorView<Rank>& view) {
  if (is_empty(view)) return;
  std::array<int, Rank> order{};  // axes, from the smallest stride to the largest
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int x, int y) { return view.stride[x] < view.stride[y]; });
  std::int64_t inner = 1;
  for (int axis : order) {
    if (view.shape[axis] == 1) continue;
    require(view.stride[axis] >= inner, name, ".stride[", axis, "]=", view.stride[axis],
            ": must be at least ", inner, ", or elements share memory");
    inner += view.stride[axis] * (view.shape[axis] - 1);
  }
}

void require_extent(std::string_view name, std::int64_t value, std::int64_t expected) {
  require(value == expected, name, " is ", value, ": the plan wants ", expected);
}

void check_lengths(const Problem& p, const Arguments& a) {
  require(a.kv_lens.size() == a.q_lens.size(), "kv_lens has ", a.kv_lens.size(),
          " values: q_lens has ", a.q_lens.size());
  require(a.q_lens.size() <= p.q_len.size(), "q_lens has ", a.q_lens.size(),
          " requests: the plan takes at most ", p.batch());
  const auto requests = static_cast<std::int64_t>(a.q_lens.size());
  check_values("q_lens", a.q_lens);
  check_values("kv_lens", a.kv_lens);
  const std::int64_t most_q = p.max_q_len();
  const std::int64_t most_kv = p.max_kv_len();
  std::int64_t total = 0;
  for (std::int64_t r = 0; r < requests; ++r) {
    require(a.q_lens[r] >= 0 && a.q_lens[r] <= most_q, "q_lens[", r, "]=", a.q_lens[r],
            ": must be from 0 to the plan's ", most_q);
    require(a.kv_lens[r] >= 0 && a.kv_lens[r] <= most_kv, "kv_lens[", r, "]=", a.kv_lens[r],
            ": must be from 0 to the plan's ", most_kv);
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
  const std::int64_t room = room_at(table.data) / static_cast<std::int64_t>(sizeof(std::int32_t)) /
                            std::max<std::int64_t>(1, requests);
  require(table.columns >= 0 && table.columns <= room, "page_table.columns=", table.columns,
          ": must be from 0 to what memory can hold");
  require(requests <= 1 || (table.stride >= table.columns && table.stride <= room),
          "page_table.stride=", table.stride, ": must be from its ", table.columns,
          " columns to what memory can hold");
  for (std::int64_t r = 0; r < requests; ++r) {
    const std::int64_t used = (a.kv_lens[r] + p.page_size - 1) / p.page_size;
    require(used <= table.columns, "page_table has ", table.columns, " columns: kv_lens[", r,
            "]=", a.kv_lens[r], " needs ", used, " pages of ", p.page_size);
    if (used != 0) check_pointer("page_table", table.data, sizeof(std::int32_t));
    for (std::int64_t c = 0; c < used; ++c) {
      const std::int64_t id = table.data[r * table.stride + c];
      require(id >= 0 && id < a.k.shape[0], "page_table[", r, "][", c, "]=", id,
              ": must be from 0 to ", a.k.shape[0] - 1, ", the pool has ", a.k.shape[0], " pages");
    }
  }
}

void check_scale(std::string_view name, const Scale& scale, ScaleKind kind, std::int64_t heads) {
  const std::size_t count = scale.values.size();
  if (kind == ScaleKind::host) {
    require(std::isfinite(scale.value), name, ".value=", scale.value, ": must be finite");
    require(count == 0, name, ".values has ", count, " values: the plan wants one host number");
    return;
  }
  const std::int64_t expected = kind == ScaleKind::tensor ? 1 : heads;
  require(static_cast<std::int64_t>(count) == expected, name, ".values has ", count,
          " values: the plan wants ", expected);
  check_values(name, scale.values);
}

void check_extras(const Problem& p, const Arguments& a) {
  check_scale("q_scale", a.q_scale, p.q_scale, p.hkv);
  check_scale("k_scale", a.k_scale, p.k_scale, p.hkv);
  check_scale("v_scale", a.v_scale, p.v_scale, p.hkv);
  check_scale("out_scale", a.out_scale, p.out_scale, p.hkv);
  require_extent("sinks (size)", static_cast<std::int64_t>(a.sinks.size()), p.sinks ? p.hq : 0);
  require_extent("alibi_slopes (size)", static_cast<std::int64_t>(a.alibi_slopes.size()),
                 p.alibi ? p.hq : 0);
  check_values("sinks", a.sinks);
  check_values("alibi_slopes", a.alibi_slopes);
  if (p.mask.kind == MaskKind::bits) {
    std::int64_t longest = 0;
    for (std::int32_t length : a.kv_lens) longest = std::max<std::int64_t>(longest, length);
    require(a.mask_bits.row_bytes >= (longest + 7) / 8,
            "mask_bits.row_bytes=", a.mask_bits.row_bytes, ": must be at least ", (longest + 7) / 8,
            " for ", longest, " keys");
    if (a.mask_bits.rows == 0 || a.mask_bits.row_bytes == 0) return;
    check_pointer("mask_bits", a.mask_bits.data, 1);
    require(a.mask_bits.rows <= room_at(a.mask_bits.data) / a.mask_bits.row_bytes,
            "mask_bits.rows=", a.mask_bits.rows, ": with row_bytes=", a.mask_bits.row_bytes,
            " the bits end past the last address");
  } else {
    require(a.mask_bits.data == nullptr, "mask_bits is given: the plan's mask is not bits");
  }
}

template <int Rank>
Footprint footprint(std::string_view name, const TensorView<Rank>& view) {
  if (is_empty(view)) return {};
  const auto size = static_cast<std::int64_t>(size_of(view.dtype));
  Footprint bytes{name, address_of(view.data), view.shape[Rank - 1] * size, {}};
  for (int axis = 0; axis < Rank - 1; ++axis) {
    if (view.shape[axis] > 1) bytes.axes[axis] = {view.shape[axis], view.stride[axis] * size};
  }
  return bytes;
}

template <typename Value>
Footprint footprint(std::string_view name, std::span<Value> values) {
  return {name, address_of(values.data()), static_cast<std::int64_t>(values.size_bytes()), {}};
}

Footprint footprint(const PageTable& table, std::int64_t requests) {
  constexpr std::int64_t kSize = sizeof(std::int32_t);
  if (requests == 0) return {};
  Footprint bytes{"page_table", address_of(table.data), table.columns * kSize, {}};
  if (requests > 1) bytes.axes[0] = {requests, table.stride * kSize};
  return bytes;
}

/// What a run writes shares no byte with anything else.
void check_overlaps(const Problem& p, const Arguments& a) {
  require(a.workspace.size() <= static_cast<std::size_t>(room_at(a.workspace.data())),
          "workspace has ", a.workspace.size(), " bytes: they end past the last address");
  const Footprint written[] = {footprint("out", a.out),
                               p.lse ? footprint("lse", a.lse) : Footprint{},
                               footprint("workspace", a.workspace)};
  const Footprint read[] = {
      footprint("q", a.q),
      footprint("k", a.k),
      footprint("v", a.v),
      p.layout == Layout::paged
          ? footprint(a.page_table, static_cast<std::int64_t>(a.q_lens.size()))
          : Footprint{},
      footprint("q_lens", a.q_lens),
      footprint("kv_lens", a.kv_lens),
      footprint("sinks", a.sinks),
      footprint("alibi_slopes", a.alibi_slopes),
      p.mask.kind == MaskKind::bits ? Footprint{"mask_bits",
                                                address_of(a.mask_bits.data),
                                                a.mask_bits.rows * a.mask_bits.row_bytes,
                                                {}}
                                    : Footprint{},
      footprint("q_scale.values", a.q_scale.values),
      footprint("k_scale.values", a.k_scale.values),
      footprint("v_scale.values", a.v_scale.values),
      footprint("out_scale.values", a.out_scale.values),
  };
  for (std::size_t i = 0; i < std::size(written); ++i) {
    const auto check = [&](const Footprint& other) {
      require(!may_overlap(written[i], other), written[i].name, " and ", other.name,
              " may share memory");
    };
    for (const Footprint& other : read) check(other);
    for (std::size_t j = 0; j < i; ++j) check(written[j]);
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
  check_distinct("out", a.out);
  if (p.lse) {
    check_tensor("lse", a.lse, DType::f32);
    require_extent("lse.shape[1] (heads)", a.lse.shape[1], p.hq);
    check_distinct("lse", a.lse);
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
  check_overlaps(p, a);
  return call;
}

}  // namespace octavo
