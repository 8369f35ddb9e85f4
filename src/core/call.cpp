#include "core/call.h"

#include "core/arguments.h"

namespace octavo {
namespace {

void check_lengths(const Problem& p, const Arguments& a) {
  const std::int64_t most_q = p.max_q_len();
  const std::int64_t most_kv = p.max_kv_len();
  std::int64_t total = 0;
  std::int64_t longest = 0;
  for (std::size_t r = 0; r < a.q_lens.size(); ++r) {
    require_argument(a.q_lens[r] >= 0 && a.q_lens[r] <= most_q, "q_lens[", r, "]=", a.q_lens[r],
                     ": must be from 0 to the plan's ", most_q);
    require_argument(a.kv_lens[r] >= 0 && a.kv_lens[r] <= most_kv, "kv_lens[", r,
                     "]=", a.kv_lens[r], ": must be from 0 to the plan's ", most_kv);
    require_argument(p.layout != Layout::packed || a.q_lens[r] == a.kv_lens[r], "kv_lens[", r,
                     "]=", a.kv_lens[r], ": must equal q_lens[", r, "]=", a.q_lens[r],
                     " in packed layout");
    total += a.q_lens[r];
    longest = std::max<std::int64_t>(longest, a.kv_lens[r]);
  }
  require_argument(total <= p.total_q(), "q_lens sum to ", total, ": the plan takes at most ",
                   p.total_q());
  const auto require_rows = [&](std::string_view name, std::int64_t rows) {
    require_argument(total <= rows, name, " has ", rows, " rows: q_lens sum to ", total);
  };
  require_rows("q", a.q.shape[0]);
  require_rows("out", a.out.shape[0]);
  if (p.lse) require_rows("lse", a.lse.shape[0]);
  if (p.mask.kind != MaskKind::bits) return;
  require_rows("mask_bits", a.mask_bits.rows);
  require_argument(a.mask_bits.row_bytes >= (longest + 7) / 8,
                   "mask_bits.row_bytes=", a.mask_bits.row_bytes, ": must be at least ",
                   (longest + 7) / 8, " for ", longest, " keys");
}

void check_page_ids(const Problem& p, const Arguments& a) {
  const PageTable& table = a.page_table;
  const std::int64_t pages = a.k.shape[0];
  for (std::size_t r = 0; r < a.kv_lens.size(); ++r) {
    const std::int64_t used = (a.kv_lens[r] + p.page_size - 1) / p.page_size;
    require_argument(used <= table.columns, "page_table has ", table.columns, " columns: kv_lens[",
                     r, "]=", a.kv_lens[r], " needs ", used, " pages of ", p.page_size);
    require_argument(used == 0 || table.data != nullptr, "page_table is a null pointer");
    for (std::int64_t c = 0; c < used; ++c) {
      const std::int64_t id = table.data[static_cast<std::int64_t>(r) * table.stride + c];
      require_argument(id >= 0 && id < pages, "page_table[", r, "][", c, "]=", id,
                       ": must be from 0 to ", pages - 1, ", the pool has ", pages, " pages");
    }
  }
}

/// That the requests with queries share the prefix that the plan has, and that it comes before
/// their queries.
void check_prefix(const Problem& p, const Arguments& a) {
  const std::int32_t* shared = nullptr;
  for (std::size_t r = 0; r < a.q_lens.size(); ++r) {
    if (a.q_lens[r] == 0) continue;
    const std::int64_t first = std::int64_t{a.kv_lens[r]} - a.q_lens[r];
    require_argument(first + 1 >= p.prefix, "kv_lens[", r, "]=", a.kv_lens[r], " with q_lens[", r,
                     "]=", a.q_lens[r], ": queries begin at ", first, ", in the plan's prefix of ",
                     p.prefix, " tokens");
    const std::int32_t* pages =
        a.page_table.data + static_cast<std::int64_t>(r) * a.page_table.stride;
    if (shared == nullptr) shared = pages;
    for (std::int64_t c = 0; c < p.prefix / p.page_size; ++c) {
      require_argument(pages[c] == shared[c], "page_table[", r, "][", c, "]=", pages[c],
                       ": must be the page that all share, ", shared[c],
                       ", in the plan's prefix of ", p.prefix, " tokens");
    }
  }
}

}  // namespace

Call make_call(const Problem& p, const Arguments& a, std::byte* workspace) {
  check_arguments(p, a);
  check_lengths(p, a);
  const bool paged = p.layout == Layout::paged;
  if (paged) check_page_ids(p, a);
  if (p.prefix > 0) check_prefix(p, a);

  Call call{p, a, {}, workspace};
  std::int64_t q_begin = 0;
  std::int64_t kv_begin = 0;
  for (std::size_t r = 0; r < a.q_lens.size(); ++r) {
    const std::int32_t* pages =
        paged && a.page_table.data != nullptr
            ? a.page_table.data + static_cast<std::int64_t>(r) * a.page_table.stride
            : nullptr;
    call.requests.push_back({q_begin, a.q_lens[r], kv_begin, a.kv_lens[r], pages});
    q_begin += a.q_lens[r];
    kv_begin += a.kv_lens[r];
  }
  require_argument(paged || kv_begin <= a.k.shape[1], "k and v have ", a.k.shape[1],
                   " tokens: kv_lens sum to ", kv_begin);
  return call;
}

}  // namespace octavo
