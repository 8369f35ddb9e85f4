#pragma once

#include "octavo/arguments.h"
#include "octavo/executor.h"
#include "octavo/selection.h"
#include "octavo/stream.h"

namespace octavo {

/// Results of attention over parts of the keys, and where that over all of them goes:
///
///     LSE = log(sum_i exp(lse_i))       O = sum_i exp(lse_i - LSE) * O_i
///
/// in fp32, in the order of the parts. A part whose LSE is -inf, because its row saw no key there,
/// adds nothing, whatever its O holds; where all are, O = 0 and LSE = -inf, as in attention. With
/// one part, or one that adds anything, O and LSE are its bits. Any view may have any strides.
struct MergeArguments {
  TensorView<4> parts;      ///< [parts, rows, heads, dv]
  TensorView<3> parts_lse;  ///< [parts, rows, heads] f32 natural logs
  TensorView<3> out;        ///< [rows, heads, dv], of any dtype
  TensorView<2> lse{};      ///< [rows, heads] f32; not wanted if it has no memory
};

/// Merges on the CPU. Throws Error(invalid_argument) before an output is touched; outputs share no
/// memory with each other or with an input. The bits depend on the values alone, not on threads.
void merge_states(const MergeArguments& arguments, Executor& executor);
void merge_states(const MergeArguments& arguments);

/// Enqueues the same on a stream of a GPU, which reads all memory. Neither allocates nor waits,
/// once the kernel's code is loaded: at the first call. A CUDA graph may capture it. Bits repeat on
/// a device, but are not those of the CPU. Throws Error(invalid_argument) before anything is
/// enqueued, Error(unavailable) where there is no code and no compiler, Error(device_error).
void merge_states(const MergeArguments& arguments, const Device& device, Stream stream);

}  // namespace octavo
