#include "paged_case.h"

#include <algorithm>
#include <numeric>

#include "verify/case.h"
#include "verify/random.h"

namespace octavo::tests {
namespace {

std::vector<std::byte> random_values(DType dtype, std::int64_t count, verify::Random& random) {
  const std::size_t size = size_of(dtype);
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size);
  for (std::size_t at = 0; at < bytes.size(); at += size) {
    verify::store(&bytes[at], random.normal(), dtype);
  }
  return bytes;
}

}  // namespace

PagedCase::PagedCase(const Problem& p, std::uint64_t seed) : problem(p) {
  verify::Random random(seed);
  columns = (p.max_kv_len() + p.page_size - 1) / p.page_size;
  pages = columns * p.batch();
  q = random_values(p.q, p.total_q() * p.hq * p.d, random);
  k = random_values(p.kv, pages * p.page_size * p.hkv * p.d, random);
  v = random_values(p.kv, pages * p.page_size * p.hkv * p.dv, random);
  out.assign(p.total_q() * p.hq * p.dv * size_of(p.out), kPoison);
  lse.assign(p.total_q() * p.hq * sizeof(float), kPoison);
  table.resize(pages);
  std::iota(table.begin(), table.end(), 0);
  std::reverse(table.begin(), table.end());
  q_lens.assign(p.q_len.begin(), p.q_len.end());
  kv_lens.assign(p.kv_len.begin(), p.kv_len.end());
}

Arguments PagedCase::arguments() {
  const Problem& p = problem;
  Arguments a;
  a.q = TensorView<3>::dense(q.data(), p.q, {p.total_q(), p.hq, p.d});
  a.k = KvView::dense(k.data(), p.kv, {pages, p.page_size, p.hkv, p.d});
  a.v = KvView::dense(v.data(), p.kv, {pages, p.page_size, p.hkv, p.dv});
  a.page_table = {table.data(), p.batch(), columns, columns};
  a.q_lens = q_lens;
  a.kv_lens = kv_lens;
  a.out = TensorView<3>::dense(out.data(), p.out, {p.total_q(), p.hq, p.dv});
  if (p.lse) a.lse = TensorView<2>::dense(lse.data(), DType::f32, {p.total_q(), p.hq});
  return a;
}

bool PagedCase::poisoned() const {
  const auto untouched = [](std::byte byte) { return byte == kPoison; };
  return std::all_of(out.begin(), out.end(), untouched) &&
         std::all_of(lse.begin(), lse.end(), untouched);
}

}  // namespace octavo::tests
