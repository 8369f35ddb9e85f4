#include "kv/toy_engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/text.h"
#include "cpu/convert.h"
#include "kv/token_hash.h"

namespace octavo::tests {
namespace {

constexpr float kKeyScale = 0.01f;
constexpr float kValueScale = 0.02f;

std::string list(const std::vector<std::int32_t>& values) {
  std::string text;
  for (const std::int32_t value : values) text += concat(text.empty() ? "" : ",", value);
  return text;
}

std::string mask_text(const Mask& mask) {
  if (mask.kind == MaskKind::window) return concat("window:", mask.left, ",0");
  if (mask.kind == MaskKind::chunked) return concat("chunked:", mask.chunk);
  return "causal";
}

}  // namespace

ToyEngine::ToyEngine(const KvCacheConfig& config) : config_(config), cache_(config) {
  // What a page held before must not matter.
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    for (const KvView& view : {cache_.k(layer), cache_.v(layer)}) {
      for (std::int64_t i = 0; i < config.pages; ++i) {
        for (std::int64_t s = 0; s < config.page_size; ++s) {
          for (std::int64_t h = 0; h < config.hkv; ++h) {
            const std::int64_t offset =
                i * view.stride[0] + s * view.stride[1] + h * view.stride[2];
            std::memset(static_cast<std::byte*>(view.data) + offset * size_of(view.dtype), 0xff,
                        view.shape[3] * size_of(view.dtype));
          }
        }
      }
    }
  }
}

KvAdmission ToyEngine::admit(const std::vector<std::int32_t>& prompt, const std::string& salt,
                             std::int64_t tokens) {
  const KvAdmission admission = cache_.admit(prompt, salt, tokens);
  if (admission.request == 0) return admission;
  const std::int64_t length = cache_.length(admission.request);
  requests_[admission.request] = {
      salt, {prompt.begin(), prompt.begin() + length}, admission.cached};
  return admission;
}

void ToyEngine::reserve(KvRequest request, const std::vector<std::int32_t>& tokens) {
  ASSERT_EQ(cache_.reserve(request, tokens), 0);
  auto& held = requests_.at(request).tokens;
  held.insert(held.end(), tokens.begin(), tokens.end());
}

KvRequest ToyEngine::fork(KvRequest request) {
  const KvRequest child = cache_.fork(request);
  requests_[child] = requests_.at(request);
  return child;
}

void ToyEngine::truncate(KvRequest request, std::int64_t tokens) {
  cache_.truncate(request, tokens);
  Request& held = requests_.at(request);
  held.tokens.resize(tokens);
  held.done = std::min(held.done, tokens);
}

void ToyEngine::free(KvRequest request) {
  cache_.free(request);
  requests_.erase(request);
}

std::vector<float> ToyEngine::rows(const std::vector<KvRequest>& requests, Kind kind,
                                   std::int64_t layer, bool from_start) const {
  const std::int64_t heads = kind == Kind::query ? kHq : config_.hkv;
  const std::int64_t d = kind == Kind::value ? config_.dv : config_.d;
  std::vector<float> rows;
  for (const KvRequest name : requests) {
    const Request& request = requests_.at(name);
    std::uint64_t before = kv::hash_salt(request.salt);
    for (std::int64_t j = 0; j < static_cast<std::int64_t>(request.tokens.size()); ++j) {
      before = kv::spread(before + static_cast<std::uint64_t>(request.tokens[j]) + 1);
      if (j < request.done && !from_start) continue;
      std::uint64_t bits =
          before + static_cast<std::uint64_t>(static_cast<int>(kind) * 1000 + layer);
      for (std::int64_t i = 0; i < heads * d; ++i) {
        bits = kv::spread(bits + 1);
        rows.push_back(static_cast<float>(bits >> 40) * 0x1p-23f - 1);
      }
    }
  }
  return rows;
}

/// Attention of the rows q of a step, over the k, v and pages of `keys`.
std::vector<float> ToyEngine::attend(const std::vector<KvRequest>& requests, std::int64_t layer,
                                     std::vector<float>& q, const Arguments& keys,
                                     const std::string& layout) const {
  std::vector<std::int32_t> q_lens;
  std::vector<std::int32_t> kv_lens;
  for (const KvRequest name : requests) {
    const Request& request = requests_.at(name);
    kv_lens.push_back(static_cast<std::int32_t>(request.tokens.size()));
    q_lens.push_back(kv_lens.back() - static_cast<std::int32_t>(request.done));
  }
  const std::string text =
      concat(layout, " q=f32 kv=", name(config_.dtype), " hq=", kHq, " hkv=", config_.hkv,
             " d=", config_.d, " dv=", config_.dv, " mask=", mask_text(config_.mask),
             " q_len=", list(q_lens), " kv_len=", list(kv_lens));
  // One kernel for both layouts: it adds in the order of the keys, wherever they lie.
  const Plan plan = select(Problem::parse(text), Device::cpu(), "cpu_reference").plan();
  const auto total = static_cast<std::int64_t>(q.size()) / (kHq * config_.d);
  std::vector<float> out(total * kHq * config_.dv, -7.0f);
  Arguments a = keys;
  a.q = TensorView<3>::dense(q.data(), DType::f32, {total, kHq, config_.d});
  a.q_lens = q_lens;
  a.kv_lens = kv_lens;
  a.out = TensorView<3>::dense(out.data(), DType::f32, {total, kHq, config_.dv});
  a.k_scale.value = kKeyScale;
  a.v_scale.value = kValueScale;
  plan.run(a);
  EXPECT_FALSE(std::ranges::any_of(out, [](float x) { return std::isnan(x); })) << layer;
  return out;
}

void ToyEngine::compare(const std::vector<KvRequest>& requests, std::int64_t layer) {
  std::vector<float> q = rows(requests, Kind::query, layer, false);
  const KvTables tables = cache_.tables(requests);
  Arguments paged;
  paged.k = cache_.k(layer);
  paged.v = cache_.v(layer);
  paged.page_table = tables.page_table();
  const std::string layout =
      concat("paged page=", config_.page_size, config_.pool == Pool::split ? " pool=split" : "",
             config_.order == PageOrder::hnd ? " order=hnd" : "");
  const std::vector<float> out = attend(requests, layer, q, paged, layout);

  const auto stored = [&](Kind kind, float scale) {
    std::vector<float> values = rows(requests, kind, layer, true);
    for (float& value : values) value /= scale;
    std::vector<std::byte> bytes(values.size() * size_of(config_.dtype));
    store_floats(config_.dtype, bytes.data(), values.data(),
                 static_cast<std::int64_t>(values.size()));
    return bytes;
  };
  std::vector<std::byte> k = stored(Kind::key, kKeyScale);
  std::vector<std::byte> v = stored(Kind::value, kValueScale);
  const auto tokens =
      static_cast<std::int64_t>(k.size() / size_of(config_.dtype)) / (config_.hkv * config_.d);
  Arguments ragged;
  ragged.k = KvView::dense(k.data(), config_.dtype, {1, tokens, config_.hkv, config_.d});
  ragged.v = KvView::dense(v.data(), config_.dtype, {1, tokens, config_.hkv, config_.dv});
  ASSERT_EQ(out, attend(requests, layer, q, ragged, "ragged")) << "layer " << layer;
}

void ToyEngine::step(const std::vector<KvRequest>& requests) {
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    std::vector<float> k = rows(requests, Kind::key, layer, false);
    std::vector<float> v = rows(requests, Kind::value, layer, false);
    const auto total = static_cast<std::int64_t>(k.size()) / (config_.hkv * config_.d);
    KvAppend step;
    step.layer = layer;
    step.requests = requests;
    step.k = TensorView<3>::dense(k.data(), DType::f32, {total, config_.hkv, config_.d});
    step.v = TensorView<3>::dense(v.data(), DType::f32, {total, config_.hkv, config_.dv});
    step.k_scale.value = kKeyScale;
    step.v_scale.value = kValueScale;
    cache_.append(step);
    compare(requests, layer);
  }
  for (const KvRequest name : requests) {
    Request& request = requests_.at(name);
    request.done = static_cast<std::int64_t>(request.tokens.size());
    ASSERT_EQ(cache_.written(name), request.done);
  }
}

}  // namespace octavo::tests
