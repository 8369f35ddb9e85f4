#include "kv/prefix_index.h"

#include <algorithm>
#include <utility>

namespace octavo::kv {

PrefixIndex::PrefixIndex(std::int64_t pages, std::int64_t page_size, TokenHash hash)
    : page_size_(page_size), hash_(hash), entries_(pages), tokens_(pages * page_size) {
  pages_by_hash_.reserve(pages);
}

std::int32_t PrefixIndex::find(const Link& before, std::string_view salt,
                               std::span<const std::int32_t> tokens) const {
  const auto [first, last] = pages_by_hash_.equal_range(hash_(before.hash, tokens));
  for (auto candidate = first; candidate != last; ++candidate) {
    const std::int32_t page = candidate->second;
    const Entry& entry = entries_[page];
    if (entry.before.node != before.node) continue;
    if (before.node == 0 && entry.salt != salt) continue;
    if (std::ranges::equal(tokens_of(page), tokens)) return page;
  }
  return kNone;
}

void PrefixIndex::publish(std::int32_t page, const Link& before, std::string_view salt,
                          std::span<const std::int32_t> tokens) {
  const Link link{hash_(before.hash, tokens), ++last_node_, page};
  Entry entry{link, before, std::string(before.node == 0 ? salt : std::string_view{})};
  pages_by_hash_.emplace(link.hash, page);  // what may fail is done
  entries_[page] = std::move(entry);
  std::ranges::copy(tokens, tokens_.begin() + page * page_size_);
}

void PrefixIndex::withdraw(std::int32_t page) {
  Entry& entry = entries_[page];
  const auto [first, last] = pages_by_hash_.equal_range(entry.link.hash);
  pages_by_hash_.erase(
      std::find_if(first, last, [page](const auto& pair) { return pair.second == page; }));
  entry = Entry{};
}

std::span<const std::int32_t> PrefixIndex::tokens_of(std::int32_t page) const {
  return {tokens_.data() + page * page_size_, static_cast<std::size_t>(page_size_)};
}

}  // namespace octavo::kv
