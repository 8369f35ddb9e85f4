// Sets a call's counters to 0. The grid after this one begins meanwhile, which it could not do
// after a copy by the driver.
#include "ptx/grid.h"
#include "sm90/params.h"

namespace octavo::cuda {

/// Grid: any number of thread blocks.
extern "C" __global__ void __launch_bounds__(kClearThreads)
    octavo_sm90_clear(const __grid_constant__ CounterParams p) {
  let_next_grid_begin();
  for (unsigned i = blockIdx.x * kClearThreads + threadIdx.x; i < p.count;
       i += gridDim.x * kClearThreads) {
    p.counters[i] = 0;
  }
}

}  // namespace octavo::cuda
