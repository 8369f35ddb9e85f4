#include "cuda/pack.h"

#include <algorithm>
#include <string>

#include "core/text.h"
#include "cuda/append.h"
#include "cuda/kernels.h"
#include "cuda/merge_states.h"
#include "cuda/run_check.h"
#include "cuda/table.h"
#include "octavo/error.h"

namespace octavo::cuda {
namespace {

struct PackedKernel {
  std::string_view name;
  std::vector<Variant> (*variants)(const Problem&, const Device&);
};

/// One for each kernel of the table.
constexpr PackedKernel kPacked[] = {
    {"cuda_cascade", cascade_variants},
    {"cuda_sm90", sm90_variants},
    {"cuda_portable", portable_variants},
    {"cuda_reference", reference_variants},
};

/// A device of the architecture, as far as kernels ask in `supports`.
Device typical_device(int architecture) {
  const bool datacenter = architecture == 90 || architecture == 100 || architecture == 103;
  Device device;
  device.id = concat("sm_", architecture);
  device.capability = architecture;
  device.multiprocessors = 100;
  device.shared_per_block = (datacenter ? 227 : architecture == 80 ? 163 : 99) * 1024;
  return device;
}

/// Those of the table with the name; all if it is empty.
std::vector<KernelInfo> named(std::string_view name) {
  std::vector<KernelInfo> found;
  std::string names;
  for (const KernelInfo& kernel : kernels()) {
    if (name.empty() || kernel.name == name) found.push_back(kernel);
    names += concat(names.empty() ? "" : ", ", kernel.name);
  }
  if (found.empty()) {
    throw Error(ErrorCode::unsupported,
                concat("kernel ", printable(name), " is unknown; GPUs have ", names));
  }
  return found;
}

void add_variants(const KernelInfo& kernel, const Problem& problem, const Device& device,
                  std::vector<Variant>& all) {
  const auto* const packed = std::ranges::find(kPacked, kernel.name, &PackedKernel::name);
  for (Variant& variant : packed->variants(problem, device)) {
    if (std::ranges::find(all, variant) == all.end()) all.push_back(std::move(variant));
  }
}

/// Lengths and, for decode and prompts, prefixes that requests share; and prompts of few keys.
constexpr std::string_view kCommonLengths[] = {
    "q_len=1 kv_len=8192",        "q_len=1 kv_len=8192 prefix=4096",
    "q_len=4096 kv_len=8192",     "q_len=4096 kv_len=8192 prefix=4096",
    "q_len=64 kv_len=64",         "q_len=128 kv_len=128",
    "q_len=130 kv_len=256",       "q_len=128 kv_len=128 b=1000",
    "q_len=256 kv_len=256 b=1000"};

std::vector<Problem> common_problems() {
  std::vector<Problem> problems;
  for (const std::string dims : {"d=64", "d=96", "d=128", "d=192 dv=128", "d=256"}) {
    for (const std::string types : {"q=bf16 kv=bf16", "q=f16 kv=f16", "q=bf16 kv=e4m3"}) {
      for (const std::string heads : {"hq=32 hkv=8", "hq=28 hkv=4"}) {
        for (const std::string mask : {"none", "causal", "causal alibi"}) {
          for (const std::string_view lengths : kCommonLengths) {
            problems.push_back(Problem::parse(concat("paged pool=split ", types, " ", heads, " ",
                                                     dims, " mask=", mask, " ", lengths)));
          }
        }
      }
    }
  }
  return problems;
}

}  // namespace

std::vector<Variant> needed_variants(const Problem& problem, int architecture,
                                     std::string_view kernel) {
  const Device device = typical_device(architecture);
  std::vector<Variant> all;
  for (const KernelInfo& info : named(kernel)) {
    const std::vector<std::string> reasons = info.supports(problem, device).reasons();
    if (reasons.empty()) {
      add_variants(info, problem, device, all);
    } else if (!kernel.empty()) {
      std::string text;
      for (const std::string& reason : reasons) text += concat(text.empty() ? "" : "; ", reason);
      throw Error(ErrorCode::unsupported, concat(kernel, " on ", device.id, ": ", text));
    }
  }
  return all;
}

std::vector<Variant> default_variants(int architecture, std::string_view kernel) {
  const Device device = typical_device(architecture);
  std::vector<Variant> all;
  if (kernel.empty()) all = {append_variant(), check_variant(), merge_states_variant()};
  for (const KernelInfo& info : named(kernel)) {
    for (const Problem& problem : common_problems()) {
      if (info.supports(problem, device).reasons().empty()) {
        add_variants(info, problem, device, all);
      }
    }
  }
  return all;
}

}  // namespace octavo::cuda
