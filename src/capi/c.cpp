#include "octavo/c.h"

#include <cstring>
#include <string>

#include "capi/arguments.h"
#include "capi/executor.h"
#include "capi/guard.h"
#include "capi/registry.h"
#include "core/text.h"
#include "octavo/octavo.h"

namespace octavo::capi {
namespace {

/// Where a function of the C API writes a text.
struct TextOut {
  char* text;
  std::size_t capacity;
  std::size_t* size;

  void write(std::string_view value) const {
    if (text == nullptr && size == nullptr) {
      throw Error(ErrorCode::invalid_argument, "text and size are null pointers");
    }
    const std::size_t needed = value.size() + 1;
    if (size != nullptr) *size = needed;
    if (text == nullptr) return;
    if (capacity < needed) {
      throw Error(ErrorCode::invalid_argument,
                  concat("capacity=", capacity, ": the text needs ", needed));
    }
    std::memcpy(text, value.data(), value.size());
    text[value.size()] = '\0';
  }
};

Selection select(const char* problem, const char* device, const char* kernel) {
  require_pointer("problem", problem);
  require_pointer("device", device);
  return octavo::select(Problem::parse(problem), Device::parse(device),
                        kernel != nullptr ? kernel : "");
}

}  // namespace
}  // namespace octavo::capi

using namespace octavo;        // NOLINT(google-*)
using namespace octavo::capi;  // NOLINT(google-*)

const char* octavo_version(void) { return OCTAVO_VERSION; }

const char* octavo_last_error(void) { return last_error(); }

octavo_code octavo_problem_print(const char* problem, char* text, size_t capacity, size_t* size) {
  return guard([&] {
    require_pointer("problem", problem);
    const Problem parsed = Problem::parse(problem);
    validate(parsed);
    TextOut{text, capacity, size}.write(parsed.to_string());
  });
}

octavo_code octavo_kernel_names(const char* device, char* text, size_t capacity, size_t* size) {
  return guard([&] {
    require_pointer("device", device);
    std::string names;
    for (const std::string& name : kernel_names(Device::parse(device))) names += name + "\n";
    TextOut{text, capacity, size}.write(names);
  });
}

octavo_code octavo_explain(const char* problem, const char* device, const char* kernel, char* text,
                           size_t capacity, size_t* size) {
  return guard([&] {
    TextOut{text, capacity, size}.write(capi::select(problem, device, kernel).to_string());
  });
}

octavo_code octavo_plan_create(const char* problem, const char* device, const char* kernel,
                               octavo_plan** plan) {
  return guard([&] {
    require_pointer("plan", plan);
    *plan = nullptr;
    *plan = add_plan(capi::select(problem, device, kernel).plan());
  });
}

octavo_code octavo_plan_destroy(octavo_plan* plan) {
  return guard([&] { remove_plan(plan); });
}

octavo_code octavo_plan_kernel(const octavo_plan* plan, char* text, size_t capacity, size_t* size) {
  return guard([&] { TextOut{text, capacity, size}.write(find_plan(plan)->kernel()); });
}

octavo_code octavo_plan_problem(const octavo_plan* plan, char* text, size_t capacity,
                                size_t* size) {
  return guard([&] {
    TextOut{text, capacity, size}.write(find_plan(plan)->problem().to_string());
  });
}

octavo_code octavo_plan_workspace_size(const octavo_plan* plan, size_t* size) {
  return guard([&] {
    const auto found = find_plan(plan);
    require_pointer("size", size);
    *size = found->workspace_size();
  });
}

octavo_code octavo_plan_run(const octavo_plan* plan, const octavo_arguments* arguments,
                            const octavo_executor* executor) {
  return guard([&] {
    const auto found = find_plan(plan);
    require_pointer("arguments", arguments);
    const Arguments converted = to_arguments(*arguments);
    if (arguments->workspace != nullptr && arguments->workspace_size == 0 &&
        found->workspace_size() > 0) {  // in C++ this would stand for no workspace
      throw Error(ErrorCode::invalid_argument,
                  concat("workspace has 0 bytes: the plan needs ", found->workspace_size()));
    }
    if (executor == nullptr) {
      found->run(converted);
    } else {
      ForeignExecutor foreign(*executor);
      found->run(converted, foreign);
    }
  });
}

octavo_code octavo_plan_run_on_stream(const octavo_plan* plan, const octavo_arguments* arguments,
                                      void* stream) {
  return guard([&] {
    const auto found = find_plan(plan);
    require_pointer("arguments", arguments);
    found->run(to_arguments(*arguments), Stream{stream});
  });
}
