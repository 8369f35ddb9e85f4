#include "paged_case.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

namespace octavo::tests {
namespace {

std::vector<std::byte> random_values(DType dtype, std::int64_t count, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  const std::size_t size = size_of(dtype);
  std::vector<std::byte> bytes(count * size);
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    const float value = normal(random);
    std::memcpy(&bits, &value, 4);
    if (dtype == DType::bf16) bits >>= 16;
    std::memcpy(&bytes[i * size], &bits, size);  // little-endian
  }
  return bytes;
}

}  // namespace

PagedCase::PagedCase(const Problem& p, std::uint64_t seed) : problem(p) {
  std::mt19937_64 random(seed);
  columns = (p.max_kv_len() + p.page_size - 1) / p.page_size;
  pages = columns * p.batch();
  q = random_values(p.q, p.total_q() * p.hq * p.d, random);
  k = random_values(p.kv, pages * p.page_size * p.hkv * p.d, random);
  v = random_values(p.kv, pages * p.page_size * p.hkv * p.dv, random);
  out.resize(p.total_q() * out_row_bytes());
  lse.resize(p.total_q() * p.hq * 4);
  table.resize(pages);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), random);
  q_lens.assign(p.q_len.begin(), p.q_len.end());
  kv_lens.assign(p.kv_len.begin(), p.kv_len.end());
  poison();
}

std::size_t PagedCase::out_row_bytes() const {
  return problem.hq * problem.dv * size_of(problem.out);
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

Arguments PagedCase::slice(std::int64_t r, std::int64_t first_row, std::int64_t q_count,
                           std::int64_t kv_count) {
  const Problem& p = problem;
  const std::int64_t row =
      std::accumulate(p.q_len.begin(), p.q_len.begin() + r, std::int64_t{0}) + first_row;
  one_q_len = static_cast<std::int32_t>(q_count);
  one_kv_len = static_cast<std::int32_t>(kv_count);
  Arguments a = arguments();
  a.q = TensorView<3>::dense(q.data() + row * p.hq * p.d * size_of(p.q), p.q, {q_count, p.hq, p.d});
  a.page_table = {table.data() + r * columns, 1, columns, columns};
  a.q_lens = {&one_q_len, 1};
  a.kv_lens = {&one_kv_len, 1};
  a.out = TensorView<3>::dense(out.data() + row * out_row_bytes(), p.out, {q_count, p.hq, p.dv});
  if (p.lse) {
    a.lse = TensorView<2>::dense(lse.data() + row * p.hq * 4, DType::f32, {q_count, p.hq});
  }
  return a;
}

void PagedCase::poison() {
  std::fill(out.begin(), out.end(), kPoison);
  std::fill(lse.begin(), lse.end(), kPoison);
}

bool PagedCase::poisoned() const {
  const auto untouched = [](std::byte byte) { return byte == kPoison; };
  return std::all_of(out.begin(), out.end(), untouched) &&
         std::all_of(lse.begin(), lse.end(), untouched);
}

}  // namespace octavo::tests
