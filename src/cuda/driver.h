#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/text.h"

namespace octavo::cuda {

// The few types and numbers of the CUDA driver API that Octavo uses, as its documentation gives
// them.
using Result = int;
using DeviceHandle = int;
using Context = struct CUctx_st*;
using Module = struct CUmod_st*;
using FunctionHandle = struct CUfunc_st*;
using StreamHandle = struct CUstream_st*;
using Event = struct CUevent_st*;
using Graph = struct CUgraph_st*;
using GraphExec = struct CUgraphExec_st*;
using DevicePointer = unsigned long long;

inline constexpr Result kSuccess = 0;
inline constexpr Result kInvalidValue = 1;

enum class DeviceAttribute : int {
  multiprocessors = 16,
  memory_clock_khz = 36,
  memory_bus_bits = 37,
  l2_bytes = 38,
  capability_major = 75,
  capability_minor = 76,
  shared_per_block = 97,
};

enum class PointerAttribute : int {
  memory_type = 2,
  device_pointer = 3,
  is_managed = 8,
  device_ordinal = 9,
  range_begin = 11,
  range_size = 12,
};

enum class MemoryType : unsigned { unknown = 0, host = 1, device = 2 };

enum class TensorMapType : int { uint8 = 0, uint16 = 1 };
enum class TensorMapSwizzle : int { bytes_128 = 3 };
enum class TensorMapPromotion : int { none = 0 };

enum class FunctionAttribute : int { dynamic_shared_bytes = 8 };

/// CUlaunchAttribute with a number.
struct LaunchAttribute {
  static constexpr int kProgrammaticSerialization = 6;
  int id;
  alignas(8) int value;
  unsigned char rest[60];
};

/// CUlaunchConfig.
struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z;
  unsigned block_x, block_y, block_z;
  unsigned shared_bytes;
  StreamHandle stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};

/// The entry points of libcuda, which is opened at run time.
struct Driver {
  Result (*init)(unsigned flags);
  Result (*driver_version)(int* version);
  Result (*error_name)(Result result, const char** text);
  Result (*error_string)(Result result, const char** text);

  Result (*device_count)(int* count);
  Result (*device_get)(DeviceHandle* device, int ordinal);
  Result (*device_name)(char* name, int size, DeviceHandle device);
  Result (*device_attribute)(int* value, DeviceAttribute attribute, DeviceHandle device);

  Result (*primary_context)(Context* context, DeviceHandle device);
  Result (*current_context)(Context* context);
  Result (*push_context)(Context context);
  Result (*pop_context)(Context* context);

  Result (*module_load)(Module* module, const void* image);
  Result (*module_function)(FunctionHandle* function, Module module, const char* name);
  Result (*function_set)(FunctionHandle function, FunctionAttribute attribute, int value);
  Result (*launch)(const LaunchConfig* config, FunctionHandle function, void** params,
                   void** extra);

  Result (*pointer_attributes)(unsigned count, PointerAttribute* attributes, void** values,
                               DevicePointer pointer);
  Result (*allocate)(DevicePointer* pointer, std::size_t bytes);
  Result (*free)(DevicePointer pointer);
  Result (*copy_to_device)(DevicePointer target, const void* source, std::size_t bytes);
  Result (*copy_to_host)(void* target, DevicePointer source, std::size_t bytes);
  Result (*set_bytes)(DevicePointer pointer, unsigned char value, std::size_t bytes,
                      StreamHandle stream);

  Result (*encode_tensor_map)(void* map, TensorMapType type, unsigned rank, void* address,
                              const std::uint64_t* shape, const std::uint64_t* strides,
                              const std::uint32_t* box, const std::uint32_t* steps, int interleave,
                              TensorMapSwizzle swizzle, TensorMapPromotion promotion, int fill);

  Result (*stream_create)(StreamHandle* stream, unsigned flags);
  Result (*stream_destroy)(StreamHandle stream);
  Result (*stream_context)(StreamHandle stream, Context* context);
  Result (*stream_wait)(StreamHandle stream);
  Result (*stream_capture_status)(StreamHandle stream, int* status);

  Result (*event_create)(Event* event, unsigned flags);
  Result (*event_destroy)(Event event);
  Result (*event_record)(Event event, StreamHandle stream);
  Result (*event_wait)(Event event);
  Result (*event_milliseconds)(float* milliseconds, Event start, Event end);

  Result (*capture_begin)(StreamHandle stream, int mode);
  Result (*capture_end)(StreamHandle stream, Graph* graph);
  Result (*graph_instantiate)(GraphExec* exec, Graph graph, unsigned long long flags);
  Result (*graph_launch)(GraphExec exec, StreamHandle stream);
  Result (*graph_destroy)(Graph graph);
  Result (*graph_exec_destroy)(GraphExec exec);
};

/// The process's driver, opened and initialised on first use: libcuda.so.1, or the file that the
/// environment variable OCTAVO_LIBCUDA names. Throws Error(unavailable) that says why there is
/// none: no library, a function that it lacks, a driver older than CUDA 12.0, no device.
const Driver& driver();

/// Throws Error(device_error) for a call that failed, with the driver's words for the error.
[[noreturn]] void fail(Result result, std::string_view call, const std::string& doing);

/// Throws Error(device_error) if a call failed. The parts, one after another, say what was being
/// done; they cost nothing where it did not fail.
template <typename... Parts>
void check(Result result, std::string_view call, const Parts&... doing) {
  if (result != kSuccess) fail(result, call, concat(doing...));
}

}  // namespace octavo::cuda
