#include "octavo/kv_cache.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include "core/arguments.h"
#include "kv/page_manager.h"
#include "kv/storage.h"

namespace octavo {

struct KvCache::State {
  State(const KvCacheConfig& cache_config, kv::Storage memory)
      : config(cache_config), storage(std::move(memory)), pages(cache_config) {}

  KvCacheConfig config;
  kv::Storage storage;
  mutable std::mutex mutex;  ///< guards what follows
  kv::PageManager pages;
  /// [layers] of each request: its leading tokens that are written there.
  std::unordered_map<KvRequest, std::vector<std::int64_t>> written;

  void add(KvRequest request, std::int64_t tokens) {
    written.emplace(request, std::vector(static_cast<std::size_t>(config.layers), tokens));
  }
  std::int64_t finish(const kv::Reservation& reservation) const;
  void check_step(const KvAppend& step) const;
  KvTables tables(std::span<const KvRequest> requests) const;
  void mark_layer(const KvAppend& step, const KvTables& tables);
};

/// Copies before anyone else can write the page that is copied.
std::int64_t KvCache::State::finish(const kv::Reservation& reservation) const {
  if (reservation.copy) storage.copy_page(reservation.copy->from, reservation.copy->to);
  return reservation.missing;
}

void KvCache::State::check_step(const KvAppend& step) const {
  require_argument(step.layer >= 0 && step.layer < config.layers, "layer=", step.layer,
                   ": must be from 0 to ", config.layers - 1);
  std::vector<KvRequest> names(step.requests.begin(), step.requests.end());
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  require_argument(twice == names.end(), "requests name ", twice == names.end() ? 0 : *twice,
                   " twice: must name each once");
}

KvTables KvCache::State::tables(std::span<const KvRequest> requests) const {
  KvTables tables;
  for (const KvRequest request : requests) {
    tables.kv_lens.push_back(static_cast<std::int32_t>(pages.length(request)));
    tables.columns =
        std::max(tables.columns, static_cast<std::int64_t>(pages.pages(request).size()));
  }
  tables.page_ids.assign(requests.size() * static_cast<std::size_t>(tables.columns), 0);
  auto row = tables.page_ids.begin();
  for (const KvRequest request : requests) {
    // A page that the mask let go is never read, but runs check that its id is one.
    std::ranges::transform(pages.pages(request), row,
                           [](std::int32_t page) { return std::max(page, 0); });
    row += tables.columns;
  }
  return tables;
}

void KvCache::State::mark_layer(const KvAppend& step, const KvTables& tables) {
  for (std::size_t r = 0; r < step.requests.size(); ++r) {
    std::vector<std::int64_t>& layers = written.at(step.requests[r]);
    layers[static_cast<std::size_t>(step.layer)] = tables.kv_lens[r];
    pages.mark_written(step.requests[r], *std::ranges::min_element(layers));
  }
}

KvCacheConfig KvCacheConfig::of(const Problem& problem, std::int64_t pages, std::int64_t layers) {
  if (problem.layout != Layout::paged) {
    throw Error(ErrorCode::invalid_problem, "layout: a cache's problem must be paged");
  }
  KvCacheConfig config;
  config.pages = pages;
  config.page_size = problem.page_size;
  config.layers = layers;
  config.hkv = problem.hkv;
  config.d = problem.d;
  config.dv = problem.dv;
  config.dtype = problem.kv;
  config.order = problem.order;
  config.pool = problem.pool;
  config.mask = problem.mask;
  return config;
}

KvCache::KvCache(const KvCacheConfig& config)
    : state_(std::make_unique<State>(config, kv::Storage(config))) {}

KvCache::KvCache(const KvCacheConfig& config, std::span<const KvView> k, std::span<const KvView> v)
    : state_(std::make_unique<State>(config, kv::Storage(config, k, v))) {}

KvCache::~KvCache() = default;
KvCache::KvCache(KvCache&&) noexcept = default;
KvCache& KvCache::operator=(KvCache&&) noexcept = default;

const KvCacheConfig& KvCache::config() const { return state_->config; }

KvView KvCache::k(std::int64_t layer) const {
  require_argument(layer >= 0 && layer < state_->config.layers, "layer=", layer,
                   ": must be from 0 to ", state_->config.layers - 1);
  return state_->storage.k(layer);
}

KvView KvCache::v(std::int64_t layer) const {
  require_argument(layer >= 0 && layer < state_->config.layers, "layer=", layer,
                   ": must be from 0 to ", state_->config.layers - 1);
  return state_->storage.v(layer);
}

KvAdmission KvCache::admit(std::span<const std::int32_t> prompt, std::string_view salt,
                           std::int64_t tokens) {
  const std::lock_guard lock(state_->mutex);
  const KvAdmission admission = state_->pages.admit(prompt, salt, tokens);
  if (admission.request != 0) state_->add(admission.request, admission.cached);
  return admission;
}

std::int64_t KvCache::reserve(KvRequest request, std::span<const std::int32_t> tokens) {
  const std::lock_guard lock(state_->mutex);
  return state_->finish(state_->pages.reserve(request, tokens));
}

std::int64_t KvCache::reserve_unnamed(KvRequest request, std::int64_t tokens) {
  const std::lock_guard lock(state_->mutex);
  return state_->finish(state_->pages.reserve_unnamed(request, tokens));
}

void KvCache::append(const KvAppend& step, Executor& executor) {
  KvTables tables;
  std::vector<std::int32_t> new_lens;
  {
    const std::lock_guard lock(state_->mutex);
    state_->check_step(step);
    tables = state_->tables(step.requests);
    for (std::size_t r = 0; r < step.requests.size(); ++r) {
      const auto written =
          state_->written.at(step.requests[r])[static_cast<std::size_t>(step.layer)];
      new_lens.push_back(tables.kv_lens[r] - static_cast<std::int32_t>(written));
    }
  }
  AppendArguments a;
  a.new_k = step.k;
  a.new_v = step.v;
  a.k = state_->storage.k(step.layer);
  a.v = state_->storage.v(step.layer);
  a.page_table = tables.page_table();
  a.q_lens = new_lens;
  a.kv_lens = tables.kv_lens;
  a.k_scale = step.k_scale;
  a.v_scale = step.v_scale;
  a.rope = step.rope;
  if (const std::optional<Device>& gpu = state_->storage.gpu()) {
    octavo::append(a, *gpu, state_->config.stream);
  } else {
    octavo::append(a, executor);
  }
  const std::lock_guard lock(state_->mutex);
  state_->mark_layer(step, tables);
}

void KvCache::append(const KvAppend& step) { append(step, default_executor()); }

void KvCache::mark_written(KvRequest request, std::int64_t tokens) {
  const std::lock_guard lock(state_->mutex);
  state_->pages.mark_written(request, tokens);
  for (std::int64_t& layer : state_->written.at(request)) layer = std::max(layer, tokens);
}

KvRequest KvCache::fork(KvRequest request) {
  const std::lock_guard lock(state_->mutex);
  const KvRequest child = state_->pages.fork(request);
  state_->add(child, state_->pages.length(child));
  return child;
}

void KvCache::truncate(KvRequest request, std::int64_t tokens) {
  const std::lock_guard lock(state_->mutex);
  state_->pages.truncate(request, tokens);
  for (std::int64_t& layer : state_->written.at(request)) layer = std::min(layer, tokens);
}

void KvCache::free(KvRequest request) {
  const std::lock_guard lock(state_->mutex);
  state_->pages.free(request);
  state_->written.erase(request);
}

std::int64_t KvCache::length(KvRequest request) const {
  const std::lock_guard lock(state_->mutex);
  return state_->pages.length(request);
}

std::int64_t KvCache::written(KvRequest request) const {
  const std::lock_guard lock(state_->mutex);
  return state_->pages.written(request);
}

KvTables KvCache::tables(std::span<const KvRequest> requests) const {
  const std::lock_guard lock(state_->mutex);
  return state_->tables(requests);
}

KvStatistics KvCache::statistics() const {
  const std::lock_guard lock(state_->mutex);
  return state_->pages.statistics();
}

}  // namespace octavo
