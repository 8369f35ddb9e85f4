#include "kv/page_manager.h"

#include <algorithm>
#include <utility>

#include "core/arguments.h"
#include "core/limits.h"
#include "kv/config.h"

namespace octavo::kv {
namespace {

/// Afterwards `count` values more can be added without an allocation that may fail.
template <typename Value>
void make_room(std::vector<Value>& values, std::int64_t count) {
  const std::size_t needed = values.size() + static_cast<std::size_t>(count);
  if (needed > values.capacity()) values.reserve(std::max(needed, 2 * values.capacity()));
}

}  // namespace

PageManager::PageManager(const KvCacheConfig& config, TokenHash hash)
    : page_size_(checked(config).page_size),
      mask_(config.mask),
      share_prefixes_(config.share_prefixes),
      pool_(config.pages),
      index_(config.pages, config.page_size, hash) {}

const PageManager::Request& PageManager::find(KvRequest request) const {
  const auto found = requests_.find(request);
  require_argument(found != requests_.end(), "request=", request, ": was ",
                   request == 0 || request > last_request_ ? "never admitted" : "freed");
  return found->second;
}

PageManager::Request& PageManager::find(KvRequest request) {
  return const_cast<Request&>(std::as_const(*this).find(request));
}

std::int64_t PageManager::pages_for(std::int64_t tokens) const {
  return (tokens + page_size_ - 1) / page_size_;
}

/// The first column that the query after `tokens` tokens, or any later one, sees something of.
std::int64_t PageManager::first_seen_column(std::int64_t tokens) const {
  return visible_keys(mask_, tokens, tokens).begin / page_size_;
}

std::vector<std::int32_t> PageManager::cached_prefix(std::span<const std::int32_t> prompt,
                                                     std::string_view salt) const {
  std::vector<std::int32_t> pages;
  if (!share_prefixes_ || prompt.empty()) return pages;
  const auto whole = static_cast<std::int64_t>(prompt.size() - 1) / page_size_;
  Link link = PrefixIndex::root(salt);
  for (std::int64_t column = 0; column < whole; ++column) {
    const std::int32_t page =
        index_.find(link, salt, prompt.subspan(column * page_size_, page_size_));
    if (page == PrefixIndex::kNone) break;
    pages.push_back(page);
    link = index_.link(page);
  }
  return pages;
}

KvAdmission PageManager::admit(std::span<const std::int32_t> prompt, std::string_view salt,
                               std::int64_t tokens) {
  require_argument(tokens >= 0, "tokens=", tokens, ": must be at least 0");
  require_argument(static_cast<std::int64_t>(prompt.size()) <= kMaxTokens, "prompt has ",
                   prompt.size(), " tokens: must be at most ", kMaxTokens);
  Request request;
  request.salt = salt;
  request.pages = cached_prefix(prompt, salt);
  const auto cached = static_cast<std::int64_t>(request.pages.size()) * page_size_;
  const std::int64_t length =
      cached + std::min(tokens, static_cast<std::int64_t>(prompt.size()) - cached);
  request.tokens.assign(prompt.begin(), prompt.begin() + length);
  for (const std::int32_t page : request.pages) request.links.push_back(index_.link(page));

  const std::int64_t revived = std::ranges::count_if(
      request.pages, [&](std::int32_t page) { return pool_.users(page) == 0; });
  const std::int64_t missing = pages_for(length) - static_cast<std::int64_t>(request.pages.size()) -
                               (pool_.free() + pool_.cached() - revived);
  if (missing > 0) {
    ++counts_.refusals;
    return {.missing = missing};
  }
  request.pages.reserve(pages_for(length));
  const auto found = static_cast<std::int64_t>(request.pages.size());
  const KvRequest name = last_request_ + 1;
  Request& admitted = requests_.emplace(name, std::move(request)).first->second;
  last_request_ = name;  // nothing fails from here on
  for (const std::int32_t page : admitted.pages) pool_.retain(page);
  for (std::int64_t column = found; column < pages_for(length); ++column) {
    admitted.pages.push_back(take_page());
  }
  admitted.length = length;
  admitted.written = cached;
  counts_.prompt_tokens += static_cast<std::int64_t>(prompt.size());
  counts_.cached_tokens += cached;
  return {.request = name, .cached = cached};
}

Reservation PageManager::reserve(KvRequest name, std::span<const std::int32_t> tokens) {
  Request& request = find(name);
  const bool told = static_cast<std::int64_t>(request.tokens.size()) == request.length;
  if (told) make_room(request.tokens, static_cast<std::int64_t>(tokens.size()));
  const Reservation reservation = extend(request, static_cast<std::int64_t>(tokens.size()));
  if (told && reservation.missing == 0) {
    request.tokens.insert(request.tokens.end(), tokens.begin(), tokens.end());
  }
  return reservation;
}

Reservation PageManager::reserve_unnamed(KvRequest name, std::int64_t tokens) {
  Request& request = find(name);
  require_argument(tokens >= 0, "tokens=", tokens, ": must be at least 0");
  return extend(request, tokens);
}

Reservation PageManager::extend(Request& request, std::int64_t tokens) {
  require_argument(tokens <= kMaxTokens - request.length, "tokens=", tokens,
                   ": with the request's ", request.length, " they must be at most ", kMaxTokens);
  if (tokens == 0) return {};
  // What the mask hides from all later queries goes first: that may be the room that is needed.
  const auto columns = static_cast<std::int64_t>(request.pages.size());
  const std::int64_t first_seen = first_seen_column(request.written);
  std::int64_t room = pool_.free() + pool_.cached();
  for (std::int64_t column = request.first_kept; column < first_seen; ++column) {
    room += pool_.users(request.pages[column]) == 1 ? 1 : 0;
  }
  const bool partial = request.length % page_size_ != 0;
  const bool copy = partial && pool_.users(request.pages.back()) > 1;
  const std::int64_t added = pages_for(request.length + tokens) - columns;
  const std::int64_t missing = added + (copy ? 1 : 0) - room;
  if (missing > 0) {
    ++counts_.refusals;
    return {.missing = missing};
  }
  make_room(request.pages, added);  // nothing fails from here on
  drop_pages(request, request.first_kept, first_seen);
  request.first_kept = std::max(request.first_kept, first_seen);
  Reservation reservation;
  if (copy) {
    const std::int32_t from = request.pages.back();
    request.pages.back() = take_page();
    pool_.release(from, index_.holds(from));
    reservation.copy = {from, request.pages.back()};
    ++counts_.copies;
  } else if (partial && index_.holds(request.pages.back())) {
    index_.withdraw(request.pages.back());  // it was cut, and will hold other tokens
  }
  for (std::int64_t i = 0; i < added; ++i) request.pages.push_back(take_page());
  request.length += tokens;
  return reservation;
}

std::int32_t PageManager::take_page() {
  if (pool_.free() == 0) {
    index_.withdraw(pool_.evict_oldest());
    ++counts_.evictions;
  }
  return pool_.take();
}

/// Lets go of the pages of columns [begin, end). A chain's last pages are the first to be evicted:
/// the others are of use without them.
void PageManager::drop_pages(Request& request, std::int64_t begin, std::int64_t end) {
  for (std::int64_t column = begin; column < end; ++column) {
    const std::int32_t page = request.pages[column];
    if (pool_.users(page) == 1 && index_.holds(page) && !index_.follows(page)) {
      index_.withdraw(page);  // nobody can find it any more
    }
  }
  for (std::int64_t column = end; column-- > begin;) {
    std::int32_t& page = request.pages[column];
    pool_.release(page, index_.holds(page));
    page = PrefixIndex::kNone;
  }
}

void PageManager::mark_written(KvRequest name, std::int64_t tokens) {
  Request& request = find(name);
  require_argument(tokens >= 0 && tokens <= request.length, "tokens=", tokens,
                   ": must be from 0 to the ", request.length, " that request=", name,
                   " has reserved");
  request.written = std::max(request.written, tokens);
  if (share_prefixes_) publish(request);
}

/// Lets others find the request's full pages.
void PageManager::publish(Request& request) {
  const std::int64_t known =
      std::min(request.written, static_cast<std::int64_t>(request.tokens.size()));
  for (auto column = static_cast<std::int64_t>(request.links.size());
       (column + 1) * page_size_ <= known; ++column) {
    const Link before = column > 0 ? request.links.back() : PrefixIndex::root(request.salt);
    const std::span<const std::int32_t> tokens{request.tokens.data() + column * page_size_,
                                               static_cast<std::size_t>(page_size_)};
    if (!index_.reaches(before)) {
      request.links.push_back(before);
      continue;
    }
    std::int32_t page = index_.find(before, request.salt, tokens);
    if (page == PrefixIndex::kNone) {
      page = request.pages[column];
      index_.publish(page, before, request.salt, tokens);
    }
    request.links.push_back(index_.link(page));  // if this fails, the next try finds the page
  }
}

KvRequest PageManager::fork(KvRequest name) {
  const Request& parent = find(name);
  require_argument(parent.written == parent.length, "request=", name, ": has ", parent.length,
                   " tokens, of which ", parent.written, " are written; a fork needs all");
  const KvRequest child = last_request_ + 1;
  const Request& copy = requests_.emplace(child, Request(parent)).first->second;
  last_request_ = child;
  for (const std::int32_t page : copy.pages) {
    if (page != PrefixIndex::kNone) pool_.retain(page);
  }
  return child;
}

void PageManager::truncate(KvRequest name, std::int64_t tokens) {
  Request& request = find(name);
  require_argument(tokens >= 0 && tokens <= request.length, "tokens=", tokens,
                   ": must be from 0 to the ", request.length, " of request=", name);
  const std::int64_t gone = request.first_kept * page_size_;
  require_argument(tokens == 0 || first_seen_column(tokens) >= request.first_kept,
                   "tokens=", tokens, ": the next query would see tokens before ", gone,
                   ", whose pages request=", name, " has let go");
  const std::int64_t kept = pages_for(tokens);
  const std::int64_t first_dropped = std::max(kept, request.first_kept);
  drop_pages(request, first_dropped, static_cast<std::int64_t>(request.pages.size()));
  request.pages.resize(kept);
  request.first_kept = std::min(request.first_kept, kept);
  request.length = tokens;
  request.written = std::min(request.written, tokens);
  const auto shorten = [](auto& values, std::int64_t size) {
    if (size < static_cast<std::int64_t>(values.size())) values.resize(size);
  };
  shorten(request.tokens, tokens);
  shorten(request.links, tokens / page_size_);
}

void PageManager::free(KvRequest name) {
  Request& request = find(name);
  drop_pages(request, request.first_kept, static_cast<std::int64_t>(request.pages.size()));
  requests_.erase(name);
}

KvStatistics PageManager::statistics() const {
  KvStatistics statistics = counts_;
  statistics.pages = pool_.size();
  statistics.free = pool_.free();
  statistics.cached = pool_.cached();
  statistics.in_use = pool_.size() - pool_.free() - pool_.cached();
  statistics.requests = static_cast<std::int64_t>(requests_.size());
  return statistics;
}

}  // namespace octavo::kv
