#include "kv/append_checks.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "core/limits.h"
#include "core/view_checks.h"

namespace octavo::kv {
namespace {

/// Slots [begin, end) of a page that a request writes.
struct Stretch {
  std::int64_t page;
  std::int64_t begin;
  std::int64_t end;
  std::size_t request;

  bool operator<(const Stretch& other) const {
    return page != other.page ? page < other.page : begin < other.begin;
  }
};

void require_equal(std::string_view name, std::int64_t value, std::string_view other_name,
                   std::int64_t other) {
  require_argument(value == other, name, " is ", value, ": ", other_name, " is ", other);
}

/// Of an AppendArguments or a StoreArguments.
template <typename Arguments>
void check_pools(const Arguments& a) {
  check_view("k", a.k);
  check_view("v", a.v);
  check_distinct("k", a.k);
  check_distinct("v", a.v);
  require_equal("v.shape[0] (pages)", a.v.shape[0], "k's", a.k.shape[0]);
  require_equal("v.shape[1] (page size)", a.v.shape[1], "k's", a.k.shape[1]);
  require_equal("v.shape[2] (heads)", a.v.shape[2], "k's", a.k.shape[2]);
  require_argument(a.k.shape[1] >= 1, "k.shape[1] (page size)=", a.k.shape[1],
                   ": must be at least 1");
}

template <typename Arguments>
void check_rows(const Arguments& a) {
  check_view("new_k", a.new_k);
  check_view("new_v", a.new_v);
  require_equal("new_v.shape[0] (rows)", a.new_v.shape[0], "new_k's", a.new_k.shape[0]);
  require_equal("new_k.shape[1] (heads)", a.new_k.shape[1], "k's", a.k.shape[2]);
  require_equal("new_v.shape[1] (heads)", a.new_v.shape[1], "v's", a.v.shape[2]);
  require_equal("new_k.shape[2] (d)", a.new_k.shape[2], "k's", a.k.shape[3]);
  require_equal("new_v.shape[2] (dv)", a.new_v.shape[2], "v's", a.v.shape[3]);
}

void check_table(const AppendArguments& a) {
  const PageTable& table = a.page_table;
  const auto requests = static_cast<std::int64_t>(a.q_lens.size());
  require_equal("kv_lens (size)", static_cast<std::int64_t>(a.kv_lens.size()), "q_lens' size",
                requests);
  require_argument(requests <= kMaxBatch, "q_lens has ", requests, " requests: at most ",
                   kMaxBatch);
  require_argument(table.requests >= requests, "page_table has ", table.requests,
                   " rows: q_lens has ", requests, " requests");
  require_argument(table.columns >= 0 && table.columns <= kMaxTokens,
                   "page_table.columns=", table.columns, ": must be from 0 to ", kMaxTokens);
  require_argument(requests <= 1 || (table.stride >= table.columns && table.stride <= kMaxTokens),
                   "page_table.stride=", table.stride, ": must be from its ", table.columns,
                   " columns to ", kMaxTokens);
  check_values("q_lens", a.q_lens);
  check_values("kv_lens", a.kv_lens);
  if (requests > 0 && table.columns > 0)
    check_pointer("page_table", table.data, sizeof(*table.data));
}

void check_scale(std::string_view name, const Scale& scale, std::int64_t heads) {
  const auto count = static_cast<std::int64_t>(scale.values.size());
  require_argument(count <= 1 || count == heads, name, ".values has ", count,
                   " values: must have 1, or one for each of ", heads, " heads");
  require_argument(count > 0 || (std::isfinite(scale.value) && scale.value != 0), name, "=",
                   scale.value, ": must be finite and not 0");
  check_values(name, scale.values);
}

/// That what is written shares no memory with new_k, new_v and the scales.
template <typename Arguments>
Outputs check_memory_apart(const Arguments& a) {
  Outputs outputs;
  outputs.add(footprint("k", a.k));
  outputs.add(footprint("v", a.v));
  outputs.check(footprint("new_k", a.new_k));
  outputs.check(footprint("new_v", a.new_v));
  outputs.check(footprint("k_scale.values", a.k_scale.values));
  outputs.check(footprint("v_scale.values", a.v_scale.values));
  return outputs;
}

void check_append_memory(const AppendArguments& a) {
  const Outputs outputs = check_memory_apart(a);
  outputs.check(footprint(a.page_table, static_cast<std::int64_t>(a.q_lens.size())));
  outputs.check(footprint("q_lens", a.q_lens));
  outputs.check(footprint("kv_lens", a.kv_lens));
  if (!a.rope) return;
  outputs.check(footprint("rope.table", a.rope->table));
  outputs.check(footprint("rope.positions", a.rope->positions));
}

/// Throws for a page id that the pool does not have. Adds what the request writes.
void check_request(const AppendArguments& a, std::size_t r, std::vector<Stretch>& stretches) {
  const std::int64_t page_size = a.k.shape[1];
  const std::int64_t end = a.kv_lens[r];
  for (std::int64_t begin = end - a.q_lens[r]; begin < end;) {
    const std::int64_t column = begin / page_size;
    const std::int64_t next = std::min(end, (column + 1) * page_size);
    const std::int64_t page =
        a.page_table.data[static_cast<std::int64_t>(r) * a.page_table.stride + column];
    require_argument(page >= 0 && page < a.k.shape[0], "page_table[", r, "][", column, "]=", page,
                     ": must be from 0 to ", a.k.shape[0] - 1, ", the pool has ", a.k.shape[0],
                     " pages");
    stretches.push_back({page, begin - column * page_size, next - column * page_size, r});
    begin = next;
  }
}

void check_scale_values(std::string_view name, const Scale& scale) {
  for (std::size_t i = 0; i < scale.values.size(); ++i) {
    require_argument(std::isfinite(scale.values[i]) && scale.values[i] != 0, name, ".values[", i,
                     "]=", scale.values[i], ": must be finite and not 0");
  }
}

void check_position_count(const Rope& rope, std::int64_t rows) {
  require_equal("rope.positions (size)", static_cast<std::int64_t>(rope.positions.size()),
                "the number of rows", rows);
}

void check_slots(const StoreArguments& a) {
  require_equal("new_k.shape[0] (rows)", a.new_k.shape[0], "the number of slots",
                static_cast<std::int64_t>(a.slots.size()));
  const std::int64_t end = a.k.shape[0] * a.k.shape[1];
  for (std::size_t row = 0; row < a.slots.size(); ++row) {
    require_argument(a.slots[row] < end, "slots[", row, "]=", a.slots[row], ": the pool has ", end,
                     " slots");
  }
  const auto ascend = std::adjacent_find(a.slots.begin(), a.slots.end(), std::greater_equal<>());
  if (ascend == a.slots.end()) return;
  std::vector<std::int64_t> sorted(a.slots.begin(), a.slots.end());
  std::sort(sorted.begin(), sorted.end());
  const auto used = std::lower_bound(sorted.begin(), sorted.end(), 0);
  const auto twice = std::adjacent_find(used, sorted.end());
  require_argument(twice == sorted.end(), "slots has ", twice == sorted.end() ? 0 : *twice,
                   " twice: rows must have slots of their own");
}

/// Of tokens without positions of their own.
void check_places(const AppendArguments& a) {
  const std::int64_t positions = a.rope->table.shape[0];
  for (std::size_t r = 0; r < a.kv_lens.size(); ++r) {
    require_argument(a.q_lens[r] == 0 || a.kv_lens[r] <= positions, "kv_lens[", r,
                     "]=", a.kv_lens[r], ": rope.table has ", positions, " positions");
  }
}

}  // namespace

void check_rope(const Rope& rope, std::int64_t d) {
  check_view("rope.table", rope.table);
  require_argument(rope.table.dtype == DType::f32, "rope.table is ", name(rope.table.dtype),
                   ": must be f32");
  const std::int64_t rotary = rope.table.shape[1];
  require_argument(rotary >= 2 && rotary % 2 == 0 && rotary <= d,
                   "rope.table.shape[1] (rotary)=", rotary, ": must be even, from 2 to the head's ",
                   d);
}

void check_positions(const Rope& rope, std::int64_t rows) {
  check_position_count(rope, rows);
  for (std::size_t row = 0; row < rope.positions.size(); ++row) {
    require_argument(rope.positions[row] >= 0 && rope.positions[row] < rope.table.shape[0],
                     "rope.positions[", row, "]=", rope.positions[row], ": must be from 0 to ",
                     rope.table.shape[0] - 1, ", rope.table's last");
  }
}

void check_append(const AppendArguments& a) {
  check_pools(a);
  check_rows(a);
  check_table(a);
  check_scale("k_scale", a.k_scale, a.k.shape[2]);
  check_scale("v_scale", a.v_scale, a.v.shape[2]);
  if (a.rope) {
    check_rope(*a.rope, a.k.shape[3]);
    check_values("rope.positions", a.rope->positions);
    if (!a.rope->positions.empty()) check_position_count(*a.rope, a.new_k.shape[0]);
  }
  check_append_memory(a);
}

void check_append_tables(const AppendArguments& a) {
  std::vector<Stretch> stretches;
  std::int64_t rows = 0;
  for (std::size_t r = 0; r < a.q_lens.size(); ++r) {
    require_argument(a.q_lens[r] >= 0 && a.q_lens[r] <= a.kv_lens[r], "q_lens[", r,
                     "]=", a.q_lens[r], ": must be from 0 to kv_lens[", r, "]=", a.kv_lens[r]);
    const std::int64_t room = a.page_table.columns * a.k.shape[1];
    require_argument(a.q_lens[r] == 0 || a.kv_lens[r] <= room, "kv_lens[", r, "]=", a.kv_lens[r],
                     ": page_table has ", a.page_table.columns, " columns, pages of ",
                     a.k.shape[1]);
    check_request(a, r, stretches);
    rows += a.q_lens[r];
  }
  require_equal("new_k.shape[0] (rows)", a.new_k.shape[0], "the sum of q_lens", rows);
  std::sort(stretches.begin(), stretches.end());
  for (std::size_t i = 1; i < stretches.size(); ++i) {
    const Stretch& one = stretches[i - 1];
    const Stretch& next = stretches[i];
    require_argument(one.page != next.page || one.end <= next.begin, "page ", one.page,
                     ": requests ", one.request, " and ", next.request, " both write its slot ",
                     next.begin);
  }
  if (a.rope && a.rope->positions.empty()) check_places(a);
}

void check_append_values(const AppendArguments& a) {
  check_scale_values("k_scale", a.k_scale);
  check_scale_values("v_scale", a.v_scale);
  if (a.rope && !a.rope->positions.empty()) check_positions(*a.rope, a.new_k.shape[0]);
}

void check_store(const StoreArguments& a) {
  check_pools(a);
  check_rows(a);
  check_values("slots", a.slots);
  check_scale("k_scale", a.k_scale, a.k.shape[2]);
  check_scale("v_scale", a.v_scale, a.v.shape[2]);
  const Outputs outputs = check_memory_apart(a);
  outputs.check(footprint("slots", a.slots));
  check_slots(a);
  check_scale_values("k_scale", a.k_scale);
  check_scale_values("v_scale", a.v_scale);
}

}  // namespace octavo::kv
