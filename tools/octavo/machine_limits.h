#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "octavo/octavo.h"

namespace octavo::cli {

/// Of something done all the time, a second.
struct Rate {
  double one_thread = 0;
  double all_threads = 0;
};

/// What the processor can do at best, measured: products of registers, and reads out of cache.
struct Limits {
  std::string device;
  int threads = 1;                ///< of all_threads
  std::string fma_isa;            ///< the widest vectors there are
  Rate fma;                       ///< fp32 operations, 2 for each multiply-add
  std::optional<Rate> vdpbf16ps;  ///< operations on bf16, where the processor has the instruction
  std::optional<Rate> tdpbf16ps;  ///< and where the system lets this process use AMX tiles
  Rate read;                      ///< bytes of a buffer of `read_bytes`
  std::size_t read_bytes = 0;
};

/// Takes a few seconds. `threads`: as many as the runs that are compared with the limits have.
Limits measure_limits(int threads);

std::string to_json(const Limits& limits);
std::string to_text(const Limits& limits);

/// What a problem asks for, however a kernel computes it.
struct Work {
  double flops = 0;
  double kv_bytes = 0;  ///< of the keys and values that some query sees
};

/// The least time that the limits leave for a problem's work, on all threads.
struct Floor {
  double seconds = 0;
  bool memory = false;  ///< the KV reads take longer than the products
};

/// Products run at the best rate whose operands hold q and KV without rounding.
Floor floor_of(const Limits& limits, const Problem& problem, const Work& work);

}  // namespace octavo::cli
