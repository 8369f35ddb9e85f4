#include "kv/page_pool.h"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace octavo::kv {

PagePool::PagePool(std::int64_t pages)
    : users_(pages, 0), free_(pages), older_(pages + 1), newer_(pages + 1) {
  std::iota(free_.rbegin(), free_.rend(), 0);  // page 0 is taken first
  older_[pages] = newer_[pages] = static_cast<std::int32_t>(pages);
}

std::int32_t PagePool::take() {
  assert(!free_.empty());
  const std::int32_t page = free_.back();
  free_.pop_back();
  users_[page] = 1;
  return page;
}

void PagePool::retain(std::int32_t page) {
  if (users_[page]++ == 0) unlink(page);
}

void PagePool::release(std::int32_t page, bool keep) {
  assert(users_[page] > 0);
  if (--users_[page] > 0) return;
  if (keep) {
    link_newest(page);
  } else {
    free_.push_back(page);
  }
}

std::int32_t PagePool::evict_oldest() {
  assert(cached_ > 0);
  const std::int32_t page = newer_[size()];
  unlink(page);
  free_.push_back(page);
  return page;
}

void PagePool::link_newest(std::int32_t page) {
  const auto end = static_cast<std::int32_t>(size());
  older_[page] = older_[end];
  newer_[page] = end;
  newer_[older_[end]] = page;
  older_[end] = page;
  ++cached_;
}

void PagePool::unlink(std::int32_t page) {
  newer_[older_[page]] = newer_[page];
  older_[newer_[page]] = older_[page];
  --cached_;
}

}  // namespace octavo::kv
