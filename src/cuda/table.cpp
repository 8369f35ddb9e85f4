#include "cuda/table.h"

#include "core/text.h"
#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "cuda/run_check.h"
#include "octavo/error.h"

namespace octavo::cuda {

const std::vector<KernelInfo>& kernels() {
  static const std::vector<KernelInfo> table = {cascade(), sm90(), portable(), reference()};
  return table;
}

void run(const Device& device, const StreamKernel& kernel, const StreamCall& call) {
  try {
    const CurrentContext context(device.ordinal);
    check_stream(device, call.stream);
    check_memory(device, call);
    if (checks_runs()) check_run(device, call);
    if (call.requests == 0 || call.rows == 0) return;
    kernel.launch(call);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::device_error) throw;
    throw Error(error.code(),
                concat(error.what(), "; ", device.id, ", ", call.problem.to_string()));
  }
}

}  // namespace octavo::cuda
