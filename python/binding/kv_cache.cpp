// KvCache over arrays that python/octavo/_kv_cache.py owns and describes.
#include "kv_cache.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "arrays.h"

namespace nb = nanobind;

namespace octavo::python {
namespace {

/// Style (interleaved or halves), table, positions.
using RopeArrays = std::tuple<std::string, Array, std::optional<Array>>;
using Integers = nb::ndarray<nb::numpy, std::int32_t>;

KvView view_of(const std::string& name, const Array& array, const std::string& order) {
  KvView view = tensor<4>(name, array);
  if (order == "hnd") {
    std::swap(view.shape[1], view.shape[2]);
    std::swap(view.stride[1], view.stride[2]);
  }
  return view;
}

KvCache make(const std::string& problem, std::int64_t pages, bool share_prefixes,
             const std::string& order, const std::vector<Array>& k, const std::vector<Array>& v,
             const std::string& device, std::uintptr_t stream) {
  const Problem parsed = Problem::parse(problem);
  validate(parsed);
  KvCacheConfig config = KvCacheConfig::of(parsed, pages, static_cast<std::int64_t>(k.size()));
  config.share_prefixes = share_prefixes;
  config.device = device;
  config.stream = {reinterpret_cast<void*>(stream)};
  std::vector<KvView> ks;
  std::vector<KvView> vs;
  for (const Array& array : k) ks.push_back(view_of("k", array, order));
  for (const Array& array : v) vs.push_back(view_of("v", array, order));
  return {config, ks, vs};
}

Rope rope_of(const RopeArrays& arrays) {
  const auto& [style, table, positions] = arrays;
  Rope rope;
  if (style != "interleaved" && style != "halves") {
    refuse("rope.style", "is " + style + ": must be interleaved or halves");
  }
  rope.style = style == "halves" ? RopeStyle::halves : RopeStyle::interleaved;
  rope.table = tensor<2>("rope.table", table);
  if (positions) rope.positions = vector_of<std::int32_t>("rope.positions", *positions, "i32");
  return rope;
}

std::tuple<KvRequest, std::int64_t, std::int64_t> admit(KvCache& cache, const Array& prompt,
                                                        const nb::bytes& salt,
                                                        std::int64_t tokens) {
  const KvAdmission admission = cache.admit(vector_of<std::int32_t>("prompt", prompt, "i32"),
                                            {salt.c_str(), salt.size()}, tokens);
  return {admission.request, admission.cached, admission.missing};
}

void append(KvCache& cache, std::int64_t layer, const std::vector<KvRequest>& requests,
            const Array& k, const Array& v, const Factor& k_scale, const Factor& v_scale,
            const std::optional<RopeArrays>& rope) {
  KvAppend step;
  step.layer = layer;
  step.requests = requests;
  step.k = tensor<3>("k", k);
  step.v = tensor<3>("v", v);
  step.k_scale = scale_of("k_scale", k_scale);
  step.v_scale = scale_of("v_scale", v_scale);
  if (rope) step.rope = rope_of(*rope);
  const nb::gil_scoped_release unlocked;
  cache.append(step);
}

void store_rows(const Array& new_k, const Array& new_v, const Array& k, const Array& v,
                const std::string& order, const Array& slots, const Factor& k_scale,
                const Factor& v_scale) {
  StoreArguments a;
  a.new_k = tensor<3>("new_k", new_k);
  a.new_v = tensor<3>("new_v", new_v);
  a.k = view_of("k", k, order);
  a.v = view_of("v", v, order);
  a.slots = vector_of<std::int64_t>("slots", slots, "int64");
  a.k_scale = scale_of("k_scale", k_scale);
  a.v_scale = scale_of("v_scale", v_scale);
  const nb::gil_scoped_release unlocked;
  store(a);
}

/// A numpy array that owns its numbers.
template <typename Number>
nb::ndarray<nb::numpy, Number> owned(std::vector<Number> values,
                                     std::initializer_list<std::size_t> shape) {
  auto* kept = new std::vector<Number>(std::move(values));
  const nb::capsule owner(
      kept, [](void* pointer) noexcept { delete static_cast<std::vector<Number>*>(pointer); });
  return {kept->data(), shape, owner};
}

std::pair<Integers, Integers> tables(const KvCache& cache, const std::vector<KvRequest>& requests) {
  KvTables tables = cache.tables(requests);
  const auto columns = static_cast<std::size_t>(tables.columns);
  return {owned(std::move(tables.page_ids), {requests.size(), columns}),
          owned(std::move(tables.kv_lens), {requests.size()})};
}

std::unordered_map<std::string, std::int64_t> statistics(const KvCache& cache) {
  const KvStatistics s = cache.statistics();
  return {{"pages", s.pages},
          {"free", s.free},
          {"cached", s.cached},
          {"in_use", s.in_use},
          {"requests", s.requests},
          {"prompt_tokens", s.prompt_tokens},
          {"cached_tokens", s.cached_tokens},
          {"evictions", s.evictions},
          {"copies", s.copies},
          {"refusals", s.refusals}};
}

}  // namespace

void bind_kv_cache(nb::module_& m) {
  nb::class_<KvCache>(m, "KvCache")
      .def_static("make", &make, nb::arg("problem"), nb::arg("pages"), nb::arg("share_prefixes"),
                  nb::arg("order"), nb::arg("k"), nb::arg("v"), nb::arg("device"),
                  nb::arg("stream"))
      .def("admit", &admit, nb::arg("prompt"), nb::arg("salt"), nb::arg("tokens"))
      .def(
          "reserve",
          [](KvCache& cache, KvRequest request, const Array& tokens) {
            return cache.reserve(request, vector_of<std::int32_t>("tokens", tokens, "i32"));
          },
          nb::arg("request"), nb::arg("tokens"))
      .def("reserve_unnamed", &KvCache::reserve_unnamed, nb::arg("request"), nb::arg("tokens"))
      .def("append", &append, nb::arg("layer"), nb::arg("requests"), nb::arg("k"), nb::arg("v"),
           nb::arg("k_scale"), nb::arg("v_scale"), nb::arg("rope") = nb::none())
      .def("mark_written", &KvCache::mark_written, nb::arg("request"), nb::arg("tokens"))
      .def("fork", &KvCache::fork, nb::arg("request"))
      .def("truncate", &KvCache::truncate, nb::arg("request"), nb::arg("tokens"))
      .def("free", &KvCache::free, nb::arg("request"))
      .def("length", &KvCache::length, nb::arg("request"))
      .def("written", &KvCache::written, nb::arg("request"))
      .def("tables", &tables, nb::arg("requests"))
      .def("statistics", &statistics);
  m.def("store", &store_rows, nb::arg("new_k"), nb::arg("new_v"), nb::arg("k"), nb::arg("v"),
        nb::arg("order"), nb::arg("slots"), nb::arg("k_scale"), nb::arg("v_scale"));
  m.def(
      "rope_table",
      [](std::int64_t positions, std::int64_t rotary, double base) {
        return owned(rope_table(positions, rotary, base),
                     {static_cast<std::size_t>(positions), static_cast<std::size_t>(rotary)});
      },
      nb::arg("positions"), nb::arg("rotary"), nb::arg("base"));
  m.def(
      "rotate",
      [](const RopeArrays& rope, const Array& x) {
        const Rope converted = rope_of(rope);
        const TensorView<3> rows = tensor<3>("x", x);
        const nb::gil_scoped_release unlocked;
        rotate(converted, rows);
      },
      nb::arg("rope"), nb::arg("x"));
}

}  // namespace octavo::python
