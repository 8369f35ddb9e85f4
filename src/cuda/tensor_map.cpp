#include "cuda/tensor_map.h"

#include <limits>

#include "cuda/driver.h"
#include "cuda/tiled.h"

namespace octavo::cuda {
namespace {

constexpr std::int64_t kLongestStride = (std::int64_t{1} << 40) - 1;  // bytes

std::int64_t stride_bytes(const KvView& view, int axis) {
  return view.shape[axis] <= 1 ? 16
                               : view.stride[axis] * static_cast<std::int64_t>(size_of(view.dtype));
}

}  // namespace

bool has_tensor_map(const KvView& view) {
  bool fits = is_whole(view);
  for (int axis = 0; axis < 3; ++axis) {
    fits = fits && stride_bytes(view, axis) > 0 && stride_bytes(view, axis) <= kLongestStride &&
           view.shape[axis] <= std::numeric_limits<std::int32_t>::max();
  }
  return fits;
}

TensorMap tensor_map(const KvView& view, int rows) {
  const auto wide = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
  const std::uint64_t shape[] = {wide(view.shape[3]), wide(view.shape[1]), wide(view.shape[2]),
                                 wide(view.shape[0])};
  const std::uint64_t strides[] = {wide(stride_bytes(view, 1)), wide(stride_bytes(view, 2)),
                                   wide(stride_bytes(view, 0))};
  const std::uint32_t box[] = {64, static_cast<std::uint32_t>(rows), 1, 1};
  const std::uint32_t steps[] = {1, 1, 1, 1};
  TensorMap map;
  // Without promotion in L2: a row of 256 bytes is two boxes', and would be fetched twice.
  check(driver().encode_tensor_map(&map, TensorMapType::uint16, 4, view.data, shape, strides, box,
                                   steps, 0, TensorMapSwizzle::bytes_128, 0, 0),
        "cuTensorMapEncodeTiled", "for boxes of ", rows, " tokens");
  return map;
}

}  // namespace octavo::cuda
