#include "octavo/merge_states.h"

#include "capi/arguments.h"
#include "capi/executor.h"
#include "capi/guard.h"
#include "octavo/c.h"
#include "octavo/prefix.h"

using namespace octavo;        // NOLINT(google-*)
using namespace octavo::capi;  // NOLINT(google-*)

octavo_code octavo_merge_states(const octavo_merge_arguments* arguments,
                                const octavo_executor* executor) {
  return guard([&] {
    require_pointer("arguments", arguments);
    const MergeArguments converted = to_merge(*arguments);
    if (executor == nullptr) {
      merge_states(converted);
    } else {
      ForeignExecutor foreign(*executor);
      merge_states(converted, foreign);
    }
  });
}

octavo_code octavo_merge_states_on_stream(const octavo_merge_arguments* arguments,
                                          const char* device, void* stream) {
  return guard([&] {
    require_pointer("arguments", arguments);
    require_pointer("device", device);
    merge_states(to_merge(*arguments), Device::parse(device), Stream{stream});
  });
}

octavo_code octavo_common_prefix(const octavo_page_table* page_table, int64_t requests,
                                 const int32_t* q_lens, const int32_t* kv_lens, int64_t page_size,
                                 int64_t* prefix) {
  return guard([&] {
    require_pointer("page_table", page_table);
    require_pointer("prefix", prefix);
    if (requests < 0) {
      throw Error(ErrorCode::invalid_argument,
                  concat("requests=", requests, ": must be at least 0"));
    }
    if (requests > 0) {
      require_pointer("page_table.data", page_table->data);
      require_pointer("q_lens", q_lens);
      require_pointer("kv_lens", kv_lens);
    }
    const auto count = static_cast<std::size_t>(requests);
    *prefix = common_prefix(
        {page_table->data, page_table->requests, page_table->columns, page_table->stride},
        {q_lens, count}, {kv_lens, count}, page_size);
  });
}
