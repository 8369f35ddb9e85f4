#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kv/token_hash.h"

namespace octavo::kv {

/// Where a chain of full pages has come to.
struct Link {
  std::uint64_t hash = 0;  ///< of the salt and all tokens so far
  std::uint64_t node = 0;  ///< names the last page's publication; 0: no page yet
  std::int32_t page = 0;   ///< that page, where there is one
};

/// Finds pages by what they hold: a page of tokens, after all the tokens before it.
///
/// The hash only says where to look. A page is found if its tokens are equal, and it was published
/// as the successor of the very page that was found before it; the first of a chain, if its salt is
/// equal. So equal hashes of different texts do no harm.
class PrefixIndex {
 public:
  static constexpr std::int32_t kNone = -1;

  PrefixIndex(std::int64_t pages, std::int64_t page_size, TokenHash hash);

  /// The link before the first page.
  static Link root(std::string_view salt) { return {hash_salt(salt)}; }

  /// The page that holds `tokens`, a whole page, after `before`, or kNone.
  std::int32_t find(const Link& before, std::string_view salt,
                    std::span<const std::int32_t> tokens) const;
  /// Lets others find a page. There must be none that holds the same yet.
  void publish(std::int32_t page, const Link& before, std::string_view salt,
               std::span<const std::int32_t> tokens);
  /// The page can be found no more, and no page after it.
  void withdraw(std::int32_t page);

  bool holds(std::int32_t page) const { return entries_[page].link.node != 0; }
  /// The link that a published page ends with.
  const Link& link(std::int32_t page) const { return entries_[page].link; }
  /// Whether the page that a link ends with can still be found after the one before it. If not, no
  /// page after it ever will be.
  bool reaches(const Link& link) const {
    return link.node == 0 || entries_[link.page].link.node == link.node;
  }
  /// The same of the page before a published page.
  bool follows(std::int32_t page) const { return reaches(entries_[page].before); }

 private:
  struct Entry {
    Link link;
    Link before;
    std::string salt;  ///< of a chain's first page
  };
  std::span<const std::int32_t> tokens_of(std::int32_t page) const;

  std::int64_t page_size_;
  TokenHash hash_;
  std::uint64_t last_node_ = 0;
  std::vector<Entry> entries_;
  std::vector<std::int32_t> tokens_;  ///< [pages, page_size]
  std::unordered_multimap<std::uint64_t, std::int32_t> pages_by_hash_;
};

}  // namespace octavo::kv
