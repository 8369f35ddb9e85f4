// The compiled half of the Python package: plans, selection, and a run over addresses. Arrays of
// every framework arrive as (address, dtype, shape, strides); python/octavo/_arrays.py makes them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
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

#include "arrays.h"
#include "kv_cache.h"
#include "octavo/octavo.h"

namespace nb = nanobind;
using namespace octavo;
using namespace octavo::python;

namespace {

void run(const Plan& plan, const Array& q, const Array& k, const Array& v, const Array& q_lens,
         const Array& kv_lens, const Array& out, const std::optional<Array>& page_table,
         const std::optional<Array>& lse, const std::optional<Array>& mask_bits,
         const std::optional<Array>& sinks, const std::optional<Array>& alibi_slopes,
         const Factor& q_scale, const Factor& k_scale, const Factor& v_scale,
         const Factor& out_scale, const std::optional<Array>& workspace,
         std::optional<std::uintptr_t> stream) {
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
  if (workspace) {
    const auto bytes = vector_of<std::uint8_t>("workspace", *workspace, "u8");
    a.workspace = {reinterpret_cast<std::byte*>(std::get<0>(*workspace)), bytes.size()};
  }
  nb::gil_scoped_release unlocked;
  if (stream) {
    plan.run(a, Stream{reinterpret_cast<void*>(*stream)});
  } else {
    plan.run(a);
  }
}

void merge(const Array& parts, const Array& parts_lse, const Array& out,
           const std::optional<Array>& lse, const std::string& device,
           std::optional<std::uintptr_t> stream) {
  MergeArguments a;
  a.parts = tensor<4>("parts", parts);
  a.parts_lse = tensor<3>("parts_lse", parts_lse);
  a.out = tensor<3>("out", out);
  if (lse) a.lse = tensor<2>("lse", *lse);
  nb::gil_scoped_release unlocked;
  if (stream) {
    merge_states(a, Device::parse(device), Stream{reinterpret_cast<void*>(*stream)});
  } else {
    merge_states(a);
  }
}

std::int64_t prefix_of(const Array& page_table, const Array& q_lens, const Array& kv_lens,
                       std::int64_t page_size) {
  const auto table = matrix_of<std::int32_t>("page_table", page_table, "i32");
  return common_prefix({table.data, table.rows, table.columns, table.stride},
                       vector_of<std::int32_t>("q_lens", q_lens, "i32"),
                       vector_of<std::int32_t>("kv_lens", kv_lens, "i32"), page_size);
}

/// The short name of a DLPack element type, or one that no argument has.
std::string name_of(nb::dlpack::dtype type) {
  constexpr int kE4m3fn = 10;  // DLPack's codes since version 1.1
  constexpr int kE5m2 = 12;
  const int code = type.code;
  if (type.lanes != 1) return "vector";
  if (code == static_cast<int>(nb::dlpack::dtype_code::Float)) {
    return type.bits == 32 ? "f32" : type.bits == 16 ? "f16" : "f64";
  }
  if (code == static_cast<int>(nb::dlpack::dtype_code::Bfloat)) return "bf16";
  if (code == static_cast<int>(nb::dlpack::dtype_code::Int)) return "i" + std::to_string(type.bits);
  if (code == static_cast<int>(nb::dlpack::dtype_code::UInt))
    return "u" + std::to_string(type.bits);
  if (code == kE4m3fn) return "e4m3";
  return code == kE5m2 ? "e5m2" : "unknown";
}

/// An array that speaks DLPack, on whatever device.
Array describe(const nb::ndarray<nb::ro>& array) {
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> stride;
  for (std::size_t axis = 0; axis < array.ndim(); ++axis) {
    shape.push_back(static_cast<std::int64_t>(array.shape(axis)));
    stride.push_back(array.stride(axis));
  }
  return {reinterpret_cast<std::uintptr_t>(array.data()), name_of(array.dtype()), shape, stride};
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

  bind_kv_cache(m);
  nb::class_<Plan>(m, "Plan")
      .def_prop_ro("kernel", [](const Plan& plan) { return std::string(plan.kernel()); })
      .def_prop_ro("problem", [](const Plan& plan) { return plan.problem().to_string(); })
      .def_prop_ro("device", [](const Plan& plan) { return plan.device().id; })
      .def_prop_ro("workspace_size", &Plan::workspace_size)
      .def("run", &run, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("q_lens"),
           nb::arg("kv_lens"), nb::arg("out"), nb::arg("page_table") = nb::none(),
           nb::arg("lse") = nb::none(), nb::arg("mask_bits") = nb::none(),
           nb::arg("sinks") = nb::none(), nb::arg("alibi_slopes") = nb::none(),
           nb::arg("q_scale") = 1.0f, nb::arg("k_scale") = 1.0f, nb::arg("v_scale") = 1.0f,
           nb::arg("out_scale") = 1.0f, nb::arg("workspace") = nb::none(),
           nb::arg("stream") = nb::none());
  m.def(
      "use_openmp",
      [](const std::string& path) {  // for good
        set_default_executor(openmp_executor(path).release());
      },
      nb::arg("path"));
  m.def("threads", [] { return default_executor().concurrency(); });
  m.def("describe", &describe, nb::arg("array"));
  m.def("merge_states", &merge, nb::arg("parts"), nb::arg("parts_lse"), nb::arg("out"),
        nb::arg("lse"), nb::arg("device"), nb::arg("stream"));
  m.def("common_prefix", &prefix_of, nb::arg("page_table"), nb::arg("q_lens"), nb::arg("kv_lens"),
        nb::arg("page_size"));
  m.def(
      "wait",
      [](const std::string& device, std::uintptr_t stream) {
        const Device parsed = Device::parse(device);
        nb::gil_scoped_release unlocked;
        wait(parsed, Stream{reinterpret_cast<void*>(stream)});
      },
      nb::arg("device"), nb::arg("stream"));

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
