#pragma once

namespace octavo {

/// A queue of work on a GPU: a CUstream (cudaStream_t is the same) of the device's primary context,
/// as those of PyTorch and of the CUDA runtime are. Null is the default stream.
struct Stream {
  void* handle = nullptr;
};

}  // namespace octavo
