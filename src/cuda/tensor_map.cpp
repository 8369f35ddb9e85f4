#include "cuda/tensor_map.h"

#include <array>
#include <limits>

#include "cuda/driver.h"
#include "cuda/sm90_tiles.h"
#include "cuda/tiled.h"

namespace octavo::cuda {
namespace {

constexpr std::int64_t kLongestStride = (std::int64_t{1} << 40) - 1;  // bytes
constexpr int kTogether = 8;                                          // rows of a slab
constexpr int kRowBytes = 128;                                        // of a slab

template <int Rank>
std::int64_t stride_bytes(const TensorView<Rank>& view, int axis) {
  return view.shape[axis] <= 1 ? 16
                               : view.stride[axis] * static_cast<std::int64_t>(size_of(view.dtype));
}

/// Columns of a slab.
int slab_of(DType dtype) { return kRowBytes / static_cast<int>(size_of(dtype)); }

template <int Rank>
bool is_addressed(const TensorView<Rank>& view) {
  bool fits = is_whole(view);
  for (int axis = 0; axis + 1 < Rank; ++axis) {
    fits = fits && stride_bytes(view, axis) > 0 && stride_bytes(view, axis) <= kLongestStride &&
           view.shape[axis] <= std::numeric_limits<std::int32_t>::max();
  }
  return fits;
}

/// Whether a head begins where the slabs of the one before end.
bool heads_are_slabs(const KvView& view) {
  return view.shape[2] == 1 || view.stride[2] == view.shape[3];
}

/// How many heads' strides a page is long; 0: it is no multiple.
std::int64_t heads_of_page(const KvView& view) {
  if (view.shape[0] == 1) return view.shape[2];
  const std::int64_t count = view.stride[2] > 0 ? view.stride[0] / view.stride[2] : 0;
  return count >= view.shape[2] && count * view.stride[2] == view.stride[0] ? count : 0;
}

/// An axis of a tensor map: how many, the bytes from one to the next, and how many in a box.
struct Axis {
  std::int64_t size;
  std::int64_t stride;
  int box;
};

/// Of elements of 16 or 8 bits, and axes around them.
template <std::size_t Rank>
TensorMap encode(void* data, DType dtype, int columns, const std::array<Axis, Rank>& axes) {
  std::array<std::uint64_t, Rank + 1> shape{static_cast<std::uint64_t>(columns)};
  std::array<std::uint64_t, Rank> strides{};
  std::array<std::uint32_t, Rank + 1> box{static_cast<std::uint32_t>(slab_of(dtype))};
  std::array<std::uint32_t, Rank + 1> steps{};
  steps.fill(1);
  for (std::size_t i = 0; i < Rank; ++i) {
    shape[i + 1] = static_cast<std::uint64_t>(axes[i].size);
    strides[i] = static_cast<std::uint64_t>(axes[i].stride);
    box[i + 1] = static_cast<std::uint32_t>(axes[i].box);
  }
  TensorMap map;
  const TensorMapType type = size_of(dtype) == 1 ? TensorMapType::uint8 : TensorMapType::uint16;
  check(driver().encode_tensor_map(&map, type, Rank + 1, data, shape.data(), strides.data(),
                                   box.data(), steps.data(), 0, TensorMapSwizzle::bytes_128,
                                   TensorMapPromotion::none, 0),
        "cuTensorMapEncodeTiled", "for boxes of ", axes[0].box, " rows");
  return map;
}

}  // namespace

bool has_boxes(const KvView& view) { return is_addressed(view); }

bool has_folded_boxes(const KvView& view) {
  const std::int64_t heads = heads_of_page(view);
  return has_boxes(view) && view.shape[1] % kTogether == 0 &&
         view.shape[3] % slab_of(view.dtype) == 0 &&
         (heads_are_slabs(view) ||
          (heads > 0 && view.shape[0] <= std::numeric_limits<std::int32_t>::max() / heads));
}

BoxedView boxed_view(const KvView& view, const Boxing& boxing) {
  const int rows = boxing.rows;
  if (!boxing.folded) {
    return {.map = encode<3>(view.data, view.dtype, static_cast<int>(view.shape[3]),
                             {{{view.shape[1], stride_bytes(view, 1), rows},
                               {view.shape[2], stride_bytes(view, 2), 1},
                               {view.shape[0], stride_bytes(view, 0), 1}}}),
            .steps = {},
            .head_slabs = 0,
            .page_heads = 0};
  }
  const bool by_slabs = heads_are_slabs(view);
  const auto slabs = static_cast<int>(view.shape[3] / slab_of(view.dtype));
  const std::int64_t page_heads = by_slabs ? 1 : heads_of_page(view);
  const Axis pages{view.shape[0] * page_heads, stride_bytes(view, by_slabs ? 0 : 2), 1};
  return {
      encode<4>(view.data, view.dtype, slab_of(view.dtype),
                {{{kTogether, stride_bytes(view, 1), kTogether},
                  {slabs * (by_slabs ? view.shape[2] : 1), kRowBytes, slabs},
                  {view.shape[1] / kTogether, kTogether * stride_bytes(view, 1), rows / kTogether},
                  pages}}),
      {kTogether * kRowBytes, slabs * kTogether * kRowBytes},
      by_slabs ? slabs : 0,
      static_cast<std::int32_t>(page_heads)};
}

QueryBoxes query_boxes(const TensorView<3>& view, std::int64_t group) {
  if (!is_addressed(view) || !has_whole_groups(group)) return {};
  const Axis heads{view.shape[1], stride_bytes(view, 1), static_cast<int>(group)};
  const Axis tokens{view.shape[0], stride_bytes(view, 0),
                    static_cast<int>(kRowsOfWarpgroup / group)};
  return {encode<2>(view.data, view.dtype, static_cast<int>(view.shape[2]), {{heads, tokens}}), 1};
}

TileSteps steps_of_slabs(int keys) { return {keys * kRowBytes, kTogether * kRowBytes}; }

}  // namespace octavo::cuda
