// The compiled half of the Python package: plans, selection, and a run over addresses. Arrays of
// every framework arrive as (address, dtype, shape, strides); python/octavo/_arrays.py makes them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "octavo/octavo.h"

namespace nb = nanobind;
using namespace octavo;

namespace {

/// Address, dtype (a name of the text form, i32 or u8), shape, strides in elements.
using Array =
    std::tuple<std::uintptr_t, std::string, std::vector<std::int64_t>, std::vector<std::int64_t>>;
using Factor = std::variant<float, Array>;

[[noreturn]] void refuse(const std::string& name, const std::string& problem) {
  throw Error(ErrorCode::invalid_argument, name + " " + problem);
}

void require_rank(const std::string& name, const Array& array, std::size_t rank) {
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

void require_dtype(const std::string& name, const Array& array, const std::string& dtype) {
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

Scale scale_of(const std::string& name, const Factor& factor) {
  if (const float* value = std::get_if<float>(&factor)) return {*value, {}};
  return {1.0f, vector_of<float>(name, std::get<Array>(factor), "f32")};
}

void run(const Plan& plan, const Array& q, const Array& k, const Array& v, const Array& q_lens,
         const Array& kv_lens, const Array& out, const std::optional<Array>& page_table,
         const std::optional<Array>& lse, const std::optional<Array>& mask_bits,
         const std::optional<Array>& sinks, const std::optional<Array>& alibi_slopes,
         const Factor& q_scale, const Factor& k_scale, const Factor& v_scale,
         const Factor& out_scale) {
  Arguments a;
  a.q = tensor<3>("q", q);
  a.k = tensor<4>("k", k);
  a.v = tensor<4>("v", v);
  a.q_lens = vector_of<std::int32_t>("q_lens", q_lens, "i32");
  a.kv_lens = vector_of<std::int32_t>("kv_lens", kv_lens, "i32");
  a.out = tensor<3>("out", out);
  if (page_table) {
    const auto table = matrix_of<std::int32_t>("page_table", *page_table, "i32");
    a.page_table = {table.data, table.rows, table.columns, table.stride};
  }
  if (lse) a.lse = tensor<2>("lse", *lse);
  if (mask_bits) {
    const auto bits = matrix_of<std::uint8_t>("mask_bits", *mask_bits, "u8");
    if (bits.rows > 1 && bits.stride != bits.columns) refuse("mask_bits", "must be contiguous");
    a.mask_bits = {bits.data, bits.rows, bits.columns};
  }
  if (sinks) a.sinks = vector_of<float>("sinks", *sinks, "f32");
  if (alibi_slopes) a.alibi_slopes = vector_of<float>("alibi_slopes", *alibi_slopes, "f32");
  a.q_scale = scale_of("q_scale", q_scale);
  a.k_scale = scale_of("k_scale", k_scale);
  a.v_scale = scale_of("v_scale", v_scale);
  a.out_scale = scale_of("out_scale", out_scale);
  nb::gil_scoped_release unlocked;
  plan.run(a);
}

Selection select_text(const std::string& problem, const std::string& device,
                      const std::string& kernel) {
  return select(Problem::parse(problem), Device::parse(device), kernel);
}

const char* exception_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_problem:
      return "InvalidProblemError";
    case ErrorCode::invalid_argument:
      return "InvalidArgumentError";
    case ErrorCode::unsupported:
      return "UnsupportedError";
    case ErrorCode::unavailable:
      return "UnavailableError";
    case ErrorCode::device_error:
      return "DeviceError";
  }
  return "Error";
}

}  // namespace

NB_MODULE(_octavo, m) {
  nb::set_leak_warnings(false);  // an interpreter may end with plans alive in a cache
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Error& error) {
      const nb::object type =
          nb::module_::import_("octavo._errors").attr(exception_name(error.code()));
      PyErr_SetString(type.ptr(), error.what());
    }
  });

  nb::class_<Plan>(m, "Plan")
      .def_prop_ro("kernel", [](const Plan& plan) { return std::string(plan.kernel()); })
      .def_prop_ro("problem", [](const Plan& plan) { return plan.problem().to_string(); })
      .def_prop_ro("workspace_size", &Plan::workspace_size)
      .def("run", &run, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("q_lens"),
           nb::arg("kv_lens"), nb::arg("out"), nb::arg("page_table") = nb::none(),
           nb::arg("lse") = nb::none(), nb::arg("mask_bits") = nb::none(),
           nb::arg("sinks") = nb::none(), nb::arg("alibi_slopes") = nb::none(),
           nb::arg("q_scale") = 1.0f, nb::arg("k_scale") = 1.0f, nb::arg("v_scale") = 1.0f,
           nb::arg("out_scale") = 1.0f);

  m.def(
      "plan",
      [](const std::string& problem, const std::string& device, const std::string& kernel) {
        return select_text(problem, device, kernel).plan();
      },
      nb::arg("problem"), nb::arg("device"), nb::arg("kernel"));
  m.def(
      "explain",
      [](const std::string& problem, const std::string& device, const std::string& kernel) {
        return select_text(problem, device, kernel).to_string();
      },
      nb::arg("problem"), nb::arg("device"), nb::arg("kernel"));
  m.def(
      "canonical",
      [](const std::string& problem) {
        const Problem parsed = Problem::parse(problem);
        validate(parsed);
        return parsed.to_string();
      },
      nb::arg("problem"));
  m.def(
      "kernels", [](const std::string& device) { return kernel_names(Device::parse(device)); },
      nb::arg("device"));
}
