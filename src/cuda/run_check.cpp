#include "cuda/run_check.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "core/arguments.h"
#include "cuda/buffer.h"
#include "cuda/device.h"
#include "cuda/function.h"
#include "cuda/kernels/check/params.h"

namespace octavo::cuda {
namespace {

constexpr int kThreads = 128;
constexpr std::int64_t kMostBlocks = 1024;

CheckParams check_params(const StreamCall& call, const Buffer& first) {
  const Problem& p = call.problem;
  const Arguments& a = call.arguments;
  CheckParams params{};
  params.q_lens = a.q_lens.data();
  params.kv_lens = a.kv_lens.data();
  params.requests = static_cast<std::int32_t>(call.requests);
  params.most_q_len = static_cast<std::int32_t>(p.max_q_len());
  params.most_kv_len = static_cast<std::int32_t>(p.max_kv_len());
  params.packed = p.layout == Layout::packed ? 1 : 0;
  params.prefix = static_cast<std::int32_t>(p.prefix);
  if (p.layout == Layout::paged) {
    params.page_table = a.page_table.data;
    params.page_table_stride = a.page_table.stride;
    params.columns = a.page_table.columns;
    params.page_size = static_cast<std::int32_t>(p.page_size);
    params.pages = a.k.shape[0];
  }
  params.mask_row_bytes = p.mask.kind == MaskKind::bits ? a.mask_bits.row_bytes : -1;
  params.rows = call.rows;
  params.tokens = a.k.shape[1];
  params.first = reinterpret_cast<unsigned long long*>(first.data());
  return params;
}

std::int32_t fetch(const std::int32_t* data, std::int64_t index) {
  std::int32_t value = 0;
  check(driver().copy_to_host(&value, reinterpret_cast<std::uintptr_t>(data + index), sizeof value),
        "cuMemcpyDtoH", "while reading what a check found");
  return value;
}

/// The page of column c that the requests with queries share.
std::int32_t fetch_shared(const Arguments& a, std::int64_t c) {
  std::int64_t first = 0;
  while (fetch(a.q_lens.data(), first) <= 0) ++first;
  return fetch(a.page_table.data, first * a.page_table.stride + c);
}

/// Throws what a check found, in the words of a run on the CPU.
[[noreturn]] void report(const StreamCall& call, unsigned long long found) {
  const Problem& p = call.problem;
  const Arguments& a = call.arguments;
  const std::int32_t r = request_of(found);
  const std::int64_t c = column_of(found);
  const auto refuse = [](const auto&... parts) {
    throw Error(ErrorCode::invalid_argument, concat(parts...));
  };
  const std::int32_t q_len = fetch(a.q_lens.data(), r);
  const std::int32_t kv_len = fetch(a.kv_lens.data(), r);
  switch (fault_of(found)) {
    case Fault::none:
      break;
    case Fault::q_len:
      refuse("q_lens[", r, "]=", q_len, ": must be from 0 to the plan's ", p.max_q_len());
      break;
    case Fault::kv_len:
      refuse("kv_lens[", r, "]=", kv_len, ": must be from 0 to the plan's ", p.max_kv_len());
      break;
    case Fault::unequal:
      refuse("kv_lens[", r, "]=", kv_len, ": must equal q_lens[", r, "]=", q_len,
             " in packed layout");
      break;
    case Fault::columns:
      refuse("page_table has ", a.page_table.columns, " columns: kv_lens[", r, "]=", kv_len,
             " needs more pages of ", p.page_size);
      break;
    case Fault::page:
      refuse("page_table[", r, "][", c, "]=", fetch(a.page_table.data, r * a.page_table.stride + c),
             ": must be from 0 to ", a.k.shape[0] - 1, ", the pool has ", a.k.shape[0], " pages");
      break;
    case Fault::mask_bits:
      refuse("mask_bits.row_bytes=", a.mask_bits.row_bytes, ": too few for kv_lens[", r,
             "]=", kv_len);
      break;
    case Fault::q_total:
      refuse("q_lens sum to more than the ", call.rows,
             " rows that the plan and the tensors have room for, with q_lens[", r, "]=", q_len);
      break;
    case Fault::kv_total:
      refuse("k and v have ", a.k.shape[1], " tokens: kv_lens sum to more, with kv_lens[", r,
             "]=", kv_len);
      break;
    case Fault::prefix:
      refuse("kv_lens[", r, "]=", kv_len, " with q_lens[", r, "]=", q_len, ": queries begin at ",
             std::int64_t{kv_len} - q_len, ", in the plan's prefix of ", p.prefix, " tokens");
      break;
    case Fault::shared:
      refuse("page_table[", r, "][", c, "]=", fetch(a.page_table.data, r * a.page_table.stride + c),
             ": must be the page that all share, ", fetch_shared(a, c),
             ", in the plan's prefix of ", p.prefix, " tokens");
      break;
  }
  throw Error(ErrorCode::device_error, concat("a check wrote ", found, ", which no check finds"));
}

}  // namespace

bool checks_runs() {
  static const bool checks = [] {
    const char* value = std::getenv("OCTAVO_CUDA_CHECK");
    return value != nullptr && std::string_view(value) == "1";
  }();
  return checks;
}

void check_run(const Device& device, const StreamCall& call) {
  auto* const stream = static_cast<StreamHandle>(call.stream);
  int capturing = 0;
  check(driver().stream_capture_status(stream, &capturing), "cuStreamIsCapturing",
        "while checking a run");
  require_argument(
      capturing == 0,
      "OCTAVO_CUDA_CHECK=1: a graph captures the stream, so the run cannot be checked");
  if (call.requests == 0) return;
  const Function function = load(device, check_variant(), 0);
  unsigned long long found = kNoFinding;
  const Buffer first(device.ordinal, sizeof found);
  check(driver().set_bytes(reinterpret_cast<std::uintptr_t>(first.data()), 0xff, sizeof found,
                           stream),
        "cuMemsetD8Async", "while checking a run");
  const CheckParams params = check_params(call, first);
  const Grid grid{static_cast<std::uint32_t>(std::min(call.requests, kMostBlocks))};
  function.launch(grid, kThreads, call.stream, &params);
  check(driver().stream_wait(stream), "cuStreamSynchronize", "while checking a run");
  first.read(0, &found, sizeof found);
  if (found != kNoFinding) report(call, found);
}

Variant check_variant() {
  return {.source = "check/arguments.cu", .entry = "octavo_check_arguments", .definitions = {}};
}

}  // namespace octavo::cuda
