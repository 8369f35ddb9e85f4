// In place of the kernels' own: barriers live in the emulated block, by their addresses.
#pragma once

#include "block.h"
#include "ptx/ldmatrix.h"

namespace octavo::cuda {

using Barrier = unsigned long long;

inline void init_barrier(Barrier& barrier, int arrivals) {
  emulation::init_barrier(shared_address(&barrier), arrivals);
}
inline void fence_barriers() {}
inline void arrive(Barrier& barrier) { emulation::arrive(shared_address(&barrier), 0); }
inline void arrive_expecting(Barrier& barrier, int bytes) {
  emulation::arrive(shared_address(&barrier), bytes);
}
inline bool has_ended(Barrier& barrier, unsigned parity) {
  return emulation::has_ended(shared_address(&barrier), parity);
}
inline void wait(Barrier& barrier, unsigned parity) {
  emulation::wait_for(shared_address(&barrier), parity);
}
inline void sync_threads(int number, int threads) { emulation::sync_at(number, threads); }
inline void arrive_threads(int number, int threads) { emulation::arrive_at(number, threads); }
inline void fence_async_proxy() {}

}  // namespace octavo::cuda
