#include "octavo/kv_cache.h"

#include <algorithm>

#include "capi/arguments.h"
#include "capi/executor.h"
#include "capi/guard.h"
#include "capi/registry.h"
#include "core/text.h"
#include "octavo/c.h"
#include "octavo/error.h"

namespace octavo::capi {
namespace {

template <typename Value>
std::span<const Value> values_of(const char* name, const Value* data, std::int64_t count) {
  if (count < 0) {
    throw Error(ErrorCode::invalid_argument, concat(name, " has ", count, " values"));
  }
  if (count > 0) require_pointer(name, data);
  return {data, static_cast<std::size_t>(count)};
}

KvCache make_cache(const octavo_kv_cache_config& c) {
  require_pointer("config.problem", c.problem);
  const Problem problem = Problem::parse(c.problem);
  validate(problem);
  KvCacheConfig config = KvCacheConfig::of(problem, c.pages, c.layers);
  config.share_prefixes = c.share_prefixes != 0;
  if (c.device != nullptr) config.device = c.device;
  config.stream = {c.stream};
  if (c.k == nullptr && c.v == nullptr) return KvCache(config);
  require_pointer("config.k", c.k);
  require_pointer("config.v", c.v);
  return {config, to_views("k", c.k, c.layers), to_views("v", c.v, c.layers)};
}

octavo_tensor from_view(const KvView& view) {
  octavo_tensor tensor = OCTAVO_TENSOR_INIT;
  tensor.data = view.data;
  tensor.dtype = static_cast<octavo_dtype>(view.dtype);
  tensor.rank = 4;
  std::ranges::copy(view.shape, tensor.shape);
  std::ranges::copy(view.stride, tensor.stride);
  return tensor;
}

/// The code of a call that was refused for want of pages.
octavo_code out_of_pages(std::int64_t missing) {
  return fail(OCTAVO_OUT_OF_PAGES,
              concat("missing=", missing, ": pages more than are free or cached"));
}

template <typename Value>
void give(Value* target, Value value) {
  if (target != nullptr) *target = value;
}

}  // namespace
}  // namespace octavo::capi

using namespace octavo;        // NOLINT(google-*)
using namespace octavo::capi;  // NOLINT(google-*)

octavo_code octavo_kv_cache_create(const octavo_kv_cache_config* config, octavo_kv_cache** cache) {
  return guard([&] {
    require_pointer("cache", cache);
    *cache = nullptr;
    require_pointer("config", config);
    require_version("config", *config);
    *cache = add_kv_cache(make_cache(*config));
  });
}

octavo_code octavo_kv_cache_destroy(octavo_kv_cache* cache) {
  return guard([&] { remove_kv_cache(cache); });
}

octavo_code octavo_kv_cache_views(const octavo_kv_cache* cache, int64_t layer, octavo_tensor* k,
                                  octavo_tensor* v) {
  return guard([&] {
    const auto found = find_kv_cache(cache);
    require_pointer("k", k);
    require_pointer("v", v);
    *k = from_view(found->k(layer));
    *v = from_view(found->v(layer));
  });
}

octavo_code octavo_kv_cache_admit(octavo_kv_cache* cache, const int32_t* prompt, int64_t count,
                                  const void* salt, size_t salt_size, int64_t tokens,
                                  octavo_kv_request* request, int64_t* cached, int64_t* missing) {
  KvAdmission admission;
  const octavo_code code = guard([&] {
    const auto found = find_kv_cache(cache);
    require_pointer("request", request);
    if (salt_size > 0) require_pointer("salt", salt);
    admission = found->admit(values_of("prompt", prompt, count),
                             {static_cast<const char*>(salt), salt_size},
                             tokens == -1 ? KvCache::kAllTokens : tokens);
  });
  if (code != OCTAVO_OK) return code;
  *request = admission.request;
  give(cached, admission.cached);
  give(missing, admission.missing);
  return admission.request == 0 ? out_of_pages(admission.missing) : OCTAVO_OK;
}

octavo_code octavo_kv_cache_reserve(octavo_kv_cache* cache, octavo_kv_request request,
                                    const int32_t* tokens, int64_t count, int64_t* missing) {
  int64_t pages = 0;
  const octavo_code code = guard([&] {
    const auto found = find_kv_cache(cache);
    pages = tokens == nullptr ? found->reserve_unnamed(request, count)
                              : found->reserve(request, values_of("tokens", tokens, count));
  });
  if (code != OCTAVO_OK) return code;
  give(missing, pages);
  return pages > 0 ? out_of_pages(pages) : OCTAVO_OK;
}

octavo_code octavo_kv_cache_append(octavo_kv_cache* cache, const octavo_kv_append* append,
                                   const octavo_executor* executor) {
  return guard([&] {
    const auto found = find_kv_cache(cache);
    require_pointer("append", append);
    const KvAppend step = to_append(*append);
    if (executor == nullptr) {
      found->append(step);
    } else {
      if (found->config().device != "cpu") {
        throw Error(ErrorCode::invalid_argument,
                    concat("an executor is given: the cache is on ", found->config().device));
      }
      ForeignExecutor foreign(*executor);
      found->append(step, foreign);
    }
  });
}

octavo_code octavo_kv_cache_mark_written(octavo_kv_cache* cache, octavo_kv_request request,
                                         int64_t tokens) {
  return guard([&] { find_kv_cache(cache)->mark_written(request, tokens); });
}

octavo_code octavo_kv_cache_fork(octavo_kv_cache* cache, octavo_kv_request request,
                                 octavo_kv_request* child) {
  return guard([&] {
    const auto found = find_kv_cache(cache);
    require_pointer("child", child);
    *child = found->fork(request);
  });
}

octavo_code octavo_kv_cache_truncate(octavo_kv_cache* cache, octavo_kv_request request,
                                     int64_t tokens) {
  return guard([&] { find_kv_cache(cache)->truncate(request, tokens); });
}

octavo_code octavo_kv_cache_free(octavo_kv_cache* cache, octavo_kv_request request) {
  return guard([&] { find_kv_cache(cache)->free(request); });
}

octavo_code octavo_kv_cache_lengths(const octavo_kv_cache* cache, octavo_kv_request request,
                                    int64_t* reserved, int64_t* written) {
  return guard([&] {
    const auto found = find_kv_cache(cache);
    const std::int64_t length = found->length(request);
    give(written, found->written(request));
    give(reserved, length);
  });
}

octavo_code octavo_kv_cache_tables(const octavo_kv_cache* cache, const octavo_kv_request* requests,
                                   int64_t count, int32_t* page_ids, int64_t capacity,
                                   int32_t* kv_lens, int64_t* columns) {
  return guard([&] {
    const auto found = find_kv_cache(cache);
    const KvTables tables = found->tables(values_of("requests", requests, count));
    give(columns, tables.columns);
    if (page_ids != nullptr) {
      if (capacity < tables.columns) {
        throw Error(
            ErrorCode::invalid_argument,
            concat("capacity=", capacity, ": the requests need ", tables.columns, " columns"));
      }
      for (std::int64_t r = 0; r < count; ++r) {
        std::copy_n(tables.page_ids.begin() + r * tables.columns, tables.columns,
                    page_ids + r * capacity);
      }
    }
    if (kv_lens != nullptr) std::ranges::copy(tables.kv_lens, kv_lens);
  });
}

octavo_code octavo_kv_cache_statistics(const octavo_kv_cache* cache,
                                       octavo_kv_statistics* statistics) {
  return guard([&] {
    const auto found = find_kv_cache(cache);
    require_pointer("statistics", statistics);
    require_version("statistics", *statistics);
    const KvStatistics s = found->statistics();
    *statistics = {sizeof(octavo_kv_statistics),
                   s.pages,
                   s.free,
                   s.cached,
                   s.in_use,
                   s.requests,
                   s.prompt_tokens,
                   s.cached_tokens,
                   s.evictions,
                   s.copies,
                   s.refusals};
  });
}

octavo_code octavo_rope_table(int64_t positions, int64_t rotary, double base, float* table) {
  return guard([&] {
    const std::vector<float> values = rope_table(positions, rotary, base);
    if (!values.empty()) require_pointer("table", table);
    std::ranges::copy(values, table);
  });
}

octavo_code octavo_rotate(const octavo_rope* rope, const octavo_tensor* x) {
  return guard([&] {
    require_pointer("rope", rope);
    require_pointer("x", x);
    const Rope converted = to_rope(*rope);
    rotate(converted, to_rows("x", *x));
  });
}
