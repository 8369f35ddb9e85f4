#pragma once

#include <cstdint>
#include <vector>

namespace octavo::kv {

/// Which pages are in use, and by how many requests. Knows no memory: pages are numbers.
///
///     free ──take──► used by n requests ──last release──► free
///      ▲                    ▲      │
///      └──evict_oldest── cached ◄──┘ last release of a page that is worth keeping
///
/// Every function takes constant time.
class PagePool {
 public:
  explicit PagePool(std::int64_t pages);

  std::int64_t size() const { return static_cast<std::int64_t>(users_.size()); }
  std::int64_t free() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t cached() const { return cached_; }
  std::int64_t users(std::int32_t page) const { return users_[page]; }

  /// A free page, with one user. There must be one.
  std::int32_t take();
  /// One user more; a cached page is used again.
  void retain(std::int32_t page);
  /// One user less. The last one leaves it free, or as the newest of the cached pages.
  void release(std::int32_t page, bool keep);
  /// Makes the cached page free that was released first. There must be one.
  std::int32_t evict_oldest();

 private:
  void link_newest(std::int32_t page);
  void unlink(std::int32_t page);

  std::vector<std::int32_t> users_;
  std::vector<std::int32_t> free_;  ///< the last one is taken next
  /// A ring of the cached pages, from the oldest on; its end stands at index size().
  std::vector<std::int32_t> older_, newer_;
  std::int64_t cached_ = 0;
};

}  // namespace octavo::kv
