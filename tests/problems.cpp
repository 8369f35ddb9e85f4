#include "problems.h"

#include <span>
#include <string_view>

#include "core/text.h"
#include "verify/random.h"

namespace octavo::tests {
namespace {

using Texts = std::span<const std::string_view>;

constexpr std::string_view kLayouts[] = {
    "paged",      "paged order=hnd", "paged pool=split", "paged order=hnd pool=split", "ragged",
    "contiguous", "packed"};
constexpr std::string_view kTypes[] = {"q=f32",
                                       "q=f16",
                                       "q=bf16",
                                       "q=e4m3 out=f32",
                                       "q=bf16 kv=e4m3",
                                       "q=f16 kv=e5m2",
                                       "q=f32 kv=bf16 out=f16",
                                       "q=e5m2 kv=f16 out=e4m3"};
constexpr std::string_view kMasks[] = {"none",        "causal",    "window:7,0",
                                       "window:-1,3", "chunked:7", "bits"};
constexpr std::string_view kFeatures[] = {
    "",
    "sinks lse",
    "alibi lse",
    "cap=5",
    "scale=0.25 split=16",
    "q_scale=tensor k_scale=tensor v_scale=tensor out_scale=tensor",
    "q_scale=head k_scale=head v_scale=head out_scale=head",
    "invariant lse split=7",
    "cap=30 sinks alibi lse invariant"};
constexpr std::string_view kHeads[] = {"hq=3 hkv=1", "hq=5 hkv=1", "hq=12 hkv=2", "hq=7 hkv=1",
                                       "hq=2"};
constexpr std::string_view kLengths[] = {"q_len=1 kv_len=1,7,9,15,16,17,33,0",
                                         "q_len=7 kv_len=0,9,33",
                                         "q_len=9 kv_len=15,1",
                                         "q_len=17,33 kv_len=16,7",
                                         "q_len=16 kv_len=33",
                                         "q_len=33,1,0 kv_len=33,17,9",
                                         "q_len=15 kv_len=16"};
constexpr std::string_view kPackedLengths[] = {"q_len=1,7,9 kv_len=1,7,9",
                                               "q_len=15,16 kv_len=15,16",
                                               "q_len=17,0,1 kv_len=17,0,1", "q_len=33 kv_len=33"};

constexpr std::string_view kPages[] = {"16", "1", "7", "5"};
constexpr std::string_view kDims[] = {"64", "8", "72", "24", "33", "4"};
constexpr std::string_view kTwoDims[] = {"64", "24 dv=40", "8", "72 dv=16", "33 dv=9", "4"};

/// Makes the crosses; what is not crossed is drawn, always the same.
class Crosses {
 public:
  std::vector<std::string> make() {
    for (const std::string_view layout : kLayouts) {
      for (const std::string_view types : kTypes) {
        if (layout == "packed" && types.find("kv=") != std::string_view::npos) continue;
        for (const std::string_view mask : kMasks) {
          for (const std::string_view features : kFeatures) {
            add(layout, types, mask, features, pick(kHeads), pick(lengths(layout)));
          }
        }
      }
      for (const std::string_view some_lengths : lengths(layout)) {
        for (const std::string_view mask : kMasks) {
          for (const std::string_view heads : kHeads) {
            add(layout, "q=bf16", mask, pick(kFeatures), heads, some_lengths);
          }
        }
      }
    }
    return std::move(problems_);
  }

 private:
  static Texts lengths(std::string_view layout) {
    return layout == "packed" ? Texts(kPackedLengths) : Texts(kLengths);
  }
  std::string_view pick(Texts texts) {
    return texts[static_cast<std::size_t>(
        random_.integer(0, static_cast<std::int64_t>(texts.size()) - 1))];
  }
  void add(std::string_view layout, std::string_view types, std::string_view mask,
           std::string_view features, std::string_view heads, std::string_view some_lengths) {
    const bool paged = layout.starts_with("paged");
    const bool apart = layout == "ragged" || layout.ends_with("pool=split");
    const std::string place = paged ? concat(layout, " page=", pick(kPages)) : std::string(layout);
    problems_.push_back(concat(place, " d=", pick(apart ? kTwoDims : kDims), " ", types, " ", heads,
                               " mask=", mask, " ", features, " ", some_lengths));
  }

  std::vector<std::string> problems_;
  verify::Random random_{1};
};

}  // namespace

const std::vector<std::string>& smoke() {
  static const std::vector<std::string> list = {
      // Layouts.
      "paged q=f32 hq=4 hkv=2 d=64 mask=causal q_len=9 kv_len=33",
      "paged order=hnd q=f32 hq=4 hkv=2 d=64 mask=causal q_len=9 kv_len=33",
      "paged pool=split q=f32 hq=4 hkv=2 d=64 mask=causal q_len=9 kv_len=33",
      "paged order=hnd pool=split q=bf16 hq=4 hkv=2 d=64 page=7 mask=causal q_len=9 kv_len=33",
      "ragged q=f32 hq=4 hkv=2 d=64 mask=causal q_len=7,1,16 kv_len=15,17,16",
      "ragged q=bf16 hq=4 d=64 dv=32 mask=none q_len=7,1,16 kv_len=15,17,16",
      "contiguous q=bf16 hq=6 hkv=2 d=64 mask=causal q_len=9,1 kv_len=17,33",
      "contiguous q=f32 hq=2 hkv=1 d=24 mask=none q_len=16 kv_len=7",
      "packed q=bf16 hq=3 d=64 mask=causal q_len=9,16,1 kv_len=9,16,1",
      "packed q=f16 hq=2 d=72 mask=none q_len=17 kv_len=17",
      // Element types.
      "paged q=f16 hq=4 hkv=2 d=64 mask=causal q_len=15 kv_len=33",
      "paged q=bf16 out=f32 hq=4 hkv=2 d=64 mask=causal q_len=15 kv_len=33",
      "paged q=f32 kv=bf16 out=f16 hq=4 hkv=2 d=64 mask=causal q_len=15 kv_len=33",
      "paged q=bf16 kv=e4m3 hq=4 d=64 mask=causal k_scale=head v_scale=head q_len=7 kv_len=33",
      "paged q=bf16 kv=e5m2 hq=4 d=64 mask=causal k_scale=tensor v_scale=tensor q_len=7 kv_len=33",
      "paged q=e4m3 hq=4 hkv=2 d=64 mask=causal q_scale=tensor q_len=7 kv_len=33",
      "paged q=e4m3 out=e4m3 hq=4 hkv=2 d=64 mask=causal out_scale=tensor q_len=7 kv_len=33",
      "ragged q=f16 kv=f32 out=bf16 hq=2 d=64 mask=none q_len=7 kv_len=33",
      // Masks.
      "paged q=bf16 hq=4 hkv=2 d=64 mask=none q_len=9 kv_len=33",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=window:7,0 q_len=17 kv_len=49",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=window:0,0 q_len=9 kv_len=33",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=window:-1,3 q_len=9 kv_len=33",
      "ragged q=f32 hq=4 hkv=2 d=64 mask=window:3,-1 q_len=9 kv_len=33",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=chunked:7 q_len=17 kv_len=49",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=chunked:1 q_len=9 kv_len=33",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=bits q_len=9,1 kv_len=33,15",
      "ragged q=f32 hq=2 hkv=1 d=64 mask=bits lse q_len=7,16 kv_len=17,9",
      // Features.
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal cap=30 q_len=9 kv_len=33",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal scale=0.25 q_len=9 kv_len=33",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal sinks lse q_len=9 kv_len=33",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal alibi lse q_len=9 kv_len=33",
      "paged q=f32 hq=4 hkv=2 d=64 mask=window:9,0 cap=5 sinks alibi lse q_len=9,1 kv_len=33,17",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal invariant q_len=17 kv_len=300",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal split=64 lse q_len=1,5 kv_len=300,129",
      // Empty requests, and queries without keys.
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal lse q_len=7 kv_len=0",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal sinks lse q_len=3,7,1 kv_len=0,9,0",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal lse q_len=0,7,0 kv_len=16,9,0",
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal lse q_len=33 kv_len=9",
      "ragged q=f32 hq=2 hkv=1 d=64 mask=window:2,0 sinks lse q_len=17 kv_len=7",
      "paged q=f32 hq=2 hkv=1 d=64 mask=chunked:7 lse q_len=17 kv_len=7",
      // A prefix that requests share.
      "paged q=bf16 hq=4 hkv=2 d=64 mask=causal lse prefix=32 q_len=1,1,1 kv_len=33,49,64",
      ("paged q=f32 hq=14 hkv=2 d=64 page=7 mask=causal sinks lse prefix=35 q_len=1,9,2 "
       "kv_len=35,60,36"),
      ("paged order=hnd q=bf16 hq=3 hkv=1 d=72 mask=none cap=5 lse prefix=64 q_len=1,0,17 "
       "kv_len=64,9,80"),
      ("paged pool=split q=bf16 kv=e4m3 hq=4 hkv=2 d=40 dv=24 page=1 mask=window:-1,3 k_scale=head "
       "v_scale=tensor out_scale=head split=16 prefix=50 q_len=5,1 kv_len=70,51"),
      "paged q=f16 out=e4m3 hq=4 hkv=1 d=64 mask=chunked:70 prefix=16 q_len=3,1 kv_len=70,33",
      "paged q=f32 hq=2 hkv=1 d=24 mask=window:100,0 prefix=48 q_len=20,1 kv_len=101,50",
      "paged q=bf16 hq=2 hkv=1 d=64 mask=window:20,0 alibi prefix=48 q_len=20,1 kv_len=101,50",
      "paged q=bf16 hq=4 hkv=1 d=64 mask=bits lse prefix=32 q_len=3,1 kv_len=50,33",
      // Group sizes.
      "paged q=bf16 hq=3 hkv=1 d=64 mask=causal q_len=1,9 kv_len=33,17",
      "paged q=bf16 hq=10 hkv=2 d=64 mask=causal q_len=1,9 kv_len=33,17",
      "paged q=bf16 hq=12 hkv=2 d=64 mask=causal q_len=1,9 kv_len=33,17",
      "paged q=bf16 hq=14 hkv=2 d=64 mask=causal q_len=1,9 kv_len=33,17",
      // Head dims.
      "paged q=f32 hq=2 hkv=1 d=8 mask=causal q_len=9 kv_len=33",
      "paged q=bf16 hq=2 hkv=1 d=24 mask=causal q_len=9 kv_len=33",
      "paged q=bf16 hq=2 hkv=1 d=72 mask=causal q_len=9 kv_len=33",
      "paged q=bf16 hq=2 hkv=1 d=128 mask=causal q_len=9 kv_len=33",
      "paged pool=split q=bf16 hq=2 hkv=1 d=192 dv=128 mask=causal q_len=9 kv_len=33",
      "paged q=bf16 hq=2 hkv=1 d=256 mask=causal q_len=9 kv_len=33",
      "paged pool=split q=bf16 hq=4 hkv=1 d=576 dv=512 page=64 mask=causal q_len=1,9 kv_len=33,17",
      // More tiles of rows than a GPU has room for at a time.
      "paged q=bf16 hq=8 hkv=8 d=96 mask=causal lse b=70 q_len=65 kv_len=9",
      "paged q=bf16 hq=8 hkv=8 d=96 page=5 mask=bits b=70 q_len=65 kv_len=9",
      // Page sizes.
      "paged q=bf16 hq=4 hkv=2 d=64 page=1 mask=causal q_len=9,1 kv_len=33,16",
      "paged q=bf16 hq=4 hkv=2 d=64 page=7 mask=causal q_len=9,1 kv_len=33,16",
      "paged q=bf16 hq=4 hkv=2 d=64 page=64 mask=causal q_len=9,1 kv_len=130,16",
  };
  return list;
}

const std::vector<std::string>& regressions() {
  static const std::vector<std::string> list = [] {
    // FlashInfer PR #3106: paged prefill was wrong wherever the longest KV was under 16 tokens.
    const std::string prefix = "paged q=bf16 hq=14 hkv=2 d=64 mask=causal b=1 q_len=";
    std::vector<std::string> problems;
    for (const int kv_len : {9, 1, 5, 8, 15, 16, 17, 25, 33}) {
      problems.push_back(concat(prefix, 8, " kv_len=", kv_len));
      if (kv_len != 8) problems.push_back(concat(prefix, kv_len, " kv_len=", kv_len));
    }
    return problems;
  }();
  return list;
}

const std::vector<std::string>& full() {
  static const std::vector<std::string> list = Crosses().make();
  return list;
}

std::vector<std::string> all_problems() {
  std::vector<std::string> problems = smoke();
  problems.insert(problems.end(), regressions().begin(), regressions().end());
  problems.insert(problems.end(), full().begin(), full().end());
  return problems;
}

}  // namespace octavo::tests
