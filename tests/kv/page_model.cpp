#include "kv/page_model.h"

#include <algorithm>

namespace octavo::tests {
namespace {

std::vector<std::int32_t> slice(const std::vector<std::int32_t>& tokens, std::int64_t begin,
                                std::int64_t count) {
  return {tokens.begin() + begin, tokens.begin() + begin + count};
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace

PageModel::PageModel(const KvCacheConfig& config) : config_(config), pages_(config.pages) {
  for (auto page = static_cast<std::int32_t>(config.pages); page-- > 0;) free_.push_back(page);
}

std::int64_t PageModel::first_seen(std::int64_t length) const {
  const Mask& mask = config_.mask;
  if (mask.kind == MaskKind::window && mask.left >= 0 && length > mask.left) {
    return length - mask.left;
  }
  return mask.kind == MaskKind::chunked ? length - length % mask.chunk : 0;
}

int PageModel::find(std::int64_t before, const std::string& salt,
                    const std::vector<std::int32_t>& tokens) const {
  for (std::size_t page = 0; page < pages_.size(); ++page) {
    const Page& p = pages_[page];
    if (p.node && p.before == before && p.tokens == tokens && (before != 0 || p.salt == salt)) {
      return static_cast<int>(page);
    }
  }
  return -1;
}

bool PageModel::alive(std::int64_t node) const {
  return node == 0 || std::ranges::any_of(pages_, [&](const Page& p) { return p.node == node; });
}

int PageModel::available() const {
  return static_cast<int>(
      std::ranges::count_if(pages_, [](const Page& p) { return p.users == 0; }));
}

std::int32_t PageModel::take() {
  if (free_.empty()) {
    std::int32_t oldest = -1;
    for (std::size_t page = 0; page < pages_.size(); ++page) {
      if (pages_[page].users > 0) continue;
      if (oldest < 0 || pages_[page].released < pages_[oldest].released) {
        oldest = static_cast<std::int32_t>(page);
      }
    }
    pages_[oldest].node.reset();
    free_.push_back(oldest);
    ++counts_.evictions;
  }
  const std::int32_t page = free_.back();
  free_.pop_back();
  pages_[page].users = 1;
  return page;
}

void PageModel::release(Request& request, std::int64_t begin, std::int64_t end) {
  for (std::int64_t c = begin; c < end; ++c) {
    if (request.pages[c] < 0) continue;
    Page& page = pages_[request.pages[c]];
    if (page.users == 1 && page.node && !alive(page.before)) page.node.reset();
  }
  for (std::int64_t c = end; c-- > begin;) {
    if (request.pages[c] < 0) continue;
    Page& page = pages_[request.pages[c]];
    page.released = ++clock_;
    if (--page.users == 0 && !page.node) free_.push_back(request.pages[c]);
    request.pages[c] = -1;
  }
}

Outcome PageModel::admit(const std::vector<std::int32_t>& prompt, const std::string& salt,
                         std::int64_t tokens) {
  const std::int64_t page_size = config_.page_size;
  Request request;
  request.salt = salt;
  std::int64_t cached = 0;
  int revived = 0;
  while (config_.share_prefixes && cached + page_size < static_cast<std::int64_t>(prompt.size())) {
    const std::int64_t before = request.nodes.empty() ? 0 : request.nodes.back();
    const int page = find(before, salt, slice(prompt, cached, page_size));
    if (page < 0) break;
    request.pages.push_back(page);
    request.nodes.push_back(*pages_[page].node);
    if (pages_[page].users == 0) ++revived;
    cached += page_size;
  }
  const std::int64_t length = std::min(cached + tokens, static_cast<std::int64_t>(prompt.size()));
  const std::int64_t added =
      ceil_div(length, page_size) - static_cast<std::int64_t>(request.pages.size());
  if (added > available() - revived) {
    ++counts_.refusals;
    return {.missing = added - (available() - revived)};
  }
  for (const std::int32_t page : request.pages) ++pages_[page].users;
  for (std::int64_t i = 0; i < added; ++i) request.pages.push_back(take());
  request.length = length;
  request.tokens = slice(prompt, 0, length);
  request.written = cached;
  counts_.prompt_tokens += static_cast<std::int64_t>(prompt.size());
  counts_.cached_tokens += cached;
  requests_[++last_request_] = request;
  return {.request = last_request_, .cached = cached};
}

Outcome PageModel::reserve(KvRequest name, std::int64_t count,
                           const std::vector<std::int32_t>& tokens) {
  if (!requests_.contains(name) || count < 0) return {.error = true};
  if (count == 0) return {};
  Request& request = requests_[name];
  const std::int64_t hidden = first_seen(request.written) / config_.page_size;
  int room = available();
  for (std::int64_t c = 0; c < hidden; ++c) {
    if (request.pages[c] >= 0 && pages_[request.pages[c]].users == 1) ++room;
  }
  const bool partial = request.length % config_.page_size != 0;
  const bool copy = partial && pages_[request.pages.back()].users > 1;
  const std::int64_t added = ceil_div(request.length + count, config_.page_size) -
                             static_cast<std::int64_t>(request.pages.size());
  if (added + (copy ? 1 : 0) > room) {
    ++counts_.refusals;
    return {.missing = added + (copy ? 1 : 0) - room};
  }
  release(request, 0, hidden);
  Outcome outcome;
  if (copy) {
    outcome.copied_from = request.pages.back();
    outcome.copied_to = take();
    --pages_[outcome.copied_from].users;
    request.pages.back() = outcome.copied_to;
    ++counts_.copies;
  } else if (partial) {
    pages_[request.pages.back()].node.reset();
  }
  for (std::int64_t i = 0; i < added; ++i) request.pages.push_back(take());
  if (static_cast<std::int64_t>(request.tokens.size()) == request.length) {
    request.tokens.insert(request.tokens.end(), tokens.begin(), tokens.end());
  }
  request.length += count;
  return outcome;
}

Outcome PageModel::mark_written(KvRequest name, std::int64_t tokens) {
  if (!requests_.contains(name)) return {.error = true};
  Request& request = requests_[name];
  if (tokens < 0 || tokens > request.length) return {.error = true};
  request.written = std::max(request.written, tokens);
  if (!config_.share_prefixes) return {};
  for (;;) {
    const auto column = static_cast<std::int64_t>(request.nodes.size());
    const std::int64_t end = (column + 1) * config_.page_size;
    if (end > request.written || end > static_cast<std::int64_t>(request.tokens.size())) break;
    std::int64_t node = column == 0 ? 0 : request.nodes.back();
    if (alive(node)) {
      const auto held = slice(request.tokens, column * config_.page_size, config_.page_size);
      const int known = find(node, request.salt, held);
      if (known >= 0) {
        node = *pages_[known].node;
      } else {
        Page& page = pages_[request.pages[column]];
        page.before = node;
        page.salt = request.salt;
        page.tokens = held;
        page.node = node = ++last_node_;
      }
    }
    request.nodes.push_back(node);
  }
  return {};
}

Outcome PageModel::fork(KvRequest name) {
  if (!requests_.contains(name)) return {.error = true};
  const Request parent = requests_[name];
  if (parent.written < parent.length) return {.error = true};
  for (const std::int32_t page : parent.pages) {
    if (page >= 0) ++pages_[page].users;
  }
  requests_[++last_request_] = parent;
  return {.request = last_request_};
}

Outcome PageModel::truncate(KvRequest name, std::int64_t tokens) {
  if (!requests_.contains(name)) return {.error = true};
  Request& request = requests_[name];
  if (tokens < 0 || tokens > request.length) return {.error = true};
  const std::int64_t first = first_seen(tokens) / config_.page_size;
  for (auto c = static_cast<std::size_t>(first); c < request.pages.size() && tokens > 0; ++c) {
    if (request.pages[c] < 0) return {.error = true};
  }
  const std::int64_t kept = ceil_div(tokens, config_.page_size);
  release(request, kept, static_cast<std::int64_t>(request.pages.size()));
  request.pages.resize(kept);
  request.length = tokens;
  request.written = std::min(request.written, tokens);
  if (tokens < static_cast<std::int64_t>(request.tokens.size())) request.tokens.resize(tokens);
  const std::int64_t full = tokens / config_.page_size;
  if (full < static_cast<std::int64_t>(request.nodes.size())) request.nodes.resize(full);
  return {};
}

Outcome PageModel::free(KvRequest name) {
  if (!requests_.contains(name)) return {.error = true};
  release(requests_[name], 0, static_cast<std::int64_t>(requests_[name].pages.size()));
  requests_.erase(name);
  return {};
}

KvStatistics PageModel::statistics() const {
  KvStatistics s = counts_;
  s.pages = static_cast<std::int64_t>(pages_.size());
  s.free = static_cast<std::int64_t>(free_.size());
  s.in_use = s.pages - available();
  s.cached = s.pages - s.in_use - s.free;
  s.requests = static_cast<std::int64_t>(requests_.size());
  return s;
}

}  // namespace octavo::tests
