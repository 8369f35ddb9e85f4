// Arrays of every framework, as python/octavo/_arrays.py describes them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "octavo/octavo.h"

namespace octavo::python {

/// Address, dtype (a name of the text form, i32 or u8), shape, strides in elements.
using Array =
    std::tuple<std::uintptr_t, std::string, std::vector<std::int64_t>, std::vector<std::int64_t>>;
using Factor = std::variant<float, Array>;

[[noreturn]] inline void refuse(const std::string& name, const std::string& problem) {
  throw Error(ErrorCode::invalid_argument, name + " " + problem);
}

inline void require_rank(const std::string& name, const Array& array, std::size_t rank) {
  const std::size_t dimensions = std::get<2>(array).size();
  if (dimensions != rank) {
    refuse(name,
           "has " + std::to_string(dimensions) + " dimensions: must have " + std::to_string(rank));
  }
}

template <int Rank>
TensorView<Rank> tensor(const std::string& name, const Array& array) {
  const auto& [address, dtype, shape, stride] = array;
  require_rank(name, array, Rank);
  const std::optional<DType> parsed = parse_dtype(dtype);
  if (!parsed) refuse(name, "is " + dtype + ": must be f32, f16, bf16, e4m3 or e5m2");
  TensorView<Rank> view;
  view.data = reinterpret_cast<void*>(address);
  view.dtype = *parsed;
  std::copy_n(shape.begin(), Rank, view.shape.begin());
  std::copy_n(stride.begin(), Rank, view.stride.begin());
  return view;
}

inline void require_dtype(const std::string& name, const Array& array, const std::string& dtype) {
  if (std::get<1>(array) != dtype) {
    refuse(name, "is " + std::get<1>(array) + ": must be " + dtype);
  }
}

/// A dense vector of T.
template <typename T>
std::span<const T> vector_of(const std::string& name, const Array& array,
                             const std::string& dtype) {
  const auto& [address, actual, shape, stride] = array;
  require_rank(name, array, 1);
  require_dtype(name, array, dtype);
  if (shape[0] > 1 && stride[0] != 1) {
    refuse(name, "has stride " + std::to_string(stride[0]) + ": must be 1");
  }
  return {reinterpret_cast<const T*>(address), static_cast<std::size_t>(shape[0])};
}

template <typename T>
struct Matrix {
  const T* data;
  std::int64_t rows, columns, stride;
};

template <typename T>
Matrix<T> matrix_of(const std::string& name, const Array& array, const std::string& dtype) {
  const auto& [address, actual, shape, stride] = array;
  require_rank(name, array, 2);
  require_dtype(name, array, dtype);
  if (shape[1] > 1 && stride[1] != 1) {
    refuse(name, "has an innermost stride of " + std::to_string(stride[1]) + ": must be 1");
  }
  return {reinterpret_cast<const T*>(address), shape[0], shape[1], stride[0]};
}

inline Scale scale_of(const std::string& name, const Factor& factor) {
  if (const float* value = std::get_if<float>(&factor)) return {*value, {}};
  return {1.0f, vector_of<float>(name, std::get<Array>(factor), "f32")};
}

}  // namespace octavo::python
