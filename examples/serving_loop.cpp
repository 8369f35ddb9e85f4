// A small serving engine: continuous batching over octavo::KvCache, with a model of random weights.
//
// In each step the requests that run reserve pages for their next tokens, those that wait are
// admitted while there is room, and all new tokens go through the model as one batch: chunks of
// prompts beside single tokens. Where pages run out the request that came last waits again; its
// pages stay in the cache as long as nobody needs them. Prints what the cache did, and exits with 1
// if a request got other tokens than it gets alone.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <exception>
#include <random>
#include <stdexcept>
#include <vector>

#include "octavo/octavo.h"
#include "toy_model.h"

namespace toy {
namespace {

constexpr std::int64_t kPages = 24, kPageSize = 8, kMostTokens = 160;  // of a request
constexpr std::int64_t kMostRunning = 8, kStepTokens = 48;
const char kProblem[] =  // its lengths are the bounds of every step
    "paged page=8 pool=split q=f32 hq=4 hkv=2 d=16 mask=causal invariant b=8 q_len=48 kv_len=160";

struct Sequence {
  std::vector<std::int32_t> tokens;  ///< the prompt, then what was generated
  std::size_t wanted;                ///< how many of both
  octavo::KvRequest request = 0;
  std::int64_t done = 0;  ///< tokens whose K and V are in the cache
};

class Engine {
 public:
  void add(const Sequence& sequence) { waiting_.push_back(sequence); }
  bool is_idle() const { return waiting_.empty() && running_.empty(); }
  const octavo::KvCache& cache() const { return cache_; }
  int preemptions() const { return preemptions_; }

  /// Appends the sequences that came to their end to `finished`.
  void step(std::vector<Sequence>& finished) {
    std::int64_t room = kStepTokens;
    for (std::size_t i = 0; i < running_.size(); ++i) room -= reserve(i, room);
    while (!waiting_.empty() && room > 0 && running_.size() < kMostRunning) {
      Sequence& s = waiting_.front();
      const octavo::KvAdmission admission = cache_.admit(s.tokens, {}, room);
      if (admission.request == 0) break;
      s.request = admission.request;
      s.done = admission.cached;
      room -= cache_.length(s.request) - s.done;
      running_.push_back(s);
      waiting_.pop_front();
    }
    if (running_.empty()) throw std::runtime_error("a request is larger than the cache");
    forward();
    std::erase_if(running_, [&](const Sequence& s) {
      if (s.tokens.size() < s.wanted) return false;
      cache_.free(s.request);
      finished.push_back(s);
      return true;
    });
  }

 private:
  /// Of the next tokens of a sequence that runs, up to `most`. Returns how many; those that came
  /// last, itself too, wait again until there are pages.
  std::int64_t reserve(std::size_t index, std::int64_t most) {
    while (index < running_.size()) {
      const Sequence& s = running_[index];
      const auto count = std::min(static_cast<std::int64_t>(s.tokens.size()) - s.done, most);
      if (cache_.reserve(s.request, {s.tokens.data() + s.done, static_cast<std::size_t>(count)}) ==
          0) {
        return count;
      }
      cache_.free(running_.back().request);
      waiting_.push_front(running_.back());
      running_.pop_back();
      ++preemptions_;
    }
    return 0;
  }

  /// Runs the tokens that were reserved; whoever has all of its own in the cache gets the next one.
  void forward() {
    std::vector<octavo::KvRequest> requests;
    for (const Sequence& s : running_) requests.push_back(s.request);
    const octavo::KvTables tables = cache_.tables(requests);
    std::vector<std::int32_t> q_lens, positions;
    Rows x;
    for (std::size_t r = 0; r < running_.size(); ++r) {
      const Sequence& s = running_[r];
      q_lens.push_back(tables.kv_lens[r] - static_cast<std::int32_t>(s.done));
      for (std::int64_t j = s.done; j < tables.kv_lens[r]; ++j) {
        positions.push_back(static_cast<std::int32_t>(j));
        const auto row = embedding_.weights.begin() + s.tokens[j] * kHidden;
        x.insert(x.end(), row, row + kHidden);
      }
    }
    const octavo::Rope rope{
        octavo::RopeStyle::halves,
        octavo::TensorView<2>::dense(table_.data(), octavo::DType::f32, {kMostTokens, kD}),
        positions};
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      const Layer& weights = layers_[layer];
      Rows q = weights.q(x), k = weights.k(x), v = weights.v(x), out(q.size());
      cache_.append({.layer = layer,
                     .requests = requests,
                     .k = heads(k, kHkv),
                     .v = heads(v, kHkv),
                     .rope = rope});
      octavo::rotate(rope, heads(q, kHq));
      plan_.run({.q = heads(q, kHq),
                 .k = cache_.k(layer),
                 .v = cache_.v(layer),
                 .page_table = tables.page_table(),
                 .q_lens = q_lens,
                 .kv_lens = tables.kv_lens,
                 .out = heads(out, kHq)});
      const Rows change = weights.out(out);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += change[i];
    }
    const Rows logits = head_(x);
    auto row = logits.begin();
    for (std::size_t r = 0; r < running_.size(); ++r) {
      row += q_lens[r] * kVocabulary;
      Sequence& s = running_[r];
      s.done = tables.kv_lens[r];
      if (s.done < static_cast<std::int64_t>(s.tokens.size())) continue;
      s.tokens.push_back(static_cast<std::int32_t>(std::max_element(row - kVocabulary, row) -
                                                   (row - kVocabulary)));
    }
  }

  std::mt19937 random_{1};
  Matrix embedding_{kVocabulary, kHidden, random_}, head_{kHidden, kVocabulary, random_};
  std::vector<Layer> layers_{Layer(random_), Layer(random_)};
  std::vector<float> table_ = octavo::rope_table(kMostTokens, kD);
  octavo::Plan plan_ =
      octavo::select(octavo::Problem::parse(kProblem), octavo::Device::cpu()).plan();
  octavo::KvCache cache_{octavo::KvCacheConfig::of(plan_.problem(), kPages, kLayers)};
  std::deque<Sequence> waiting_;
  std::vector<Sequence> running_;
  int preemptions_ = 0;
};

/// Three conversations with a system prompt each; their users' words differ.
std::vector<Sequence> requests() {
  std::mt19937 random(2);
  std::vector<Sequence> all;
  for (int i = 0; i < 18; ++i) {
    Sequence s{};
    for (std::int32_t t = 0; t < 40; ++t) s.tokens.push_back((t * 7 + i % 3 * 100) % kVocabulary);
    for (std::uint32_t t = 4 + random() % 20; t > 0; --t)
      s.tokens.push_back(random() % kVocabulary);
    s.wanted = s.tokens.size() + 8 + random() % 24;
    all.push_back(s);
  }
  return all;
}

/// The exit status.
int run() {
  const std::vector<Sequence> all = requests();
  Engine engine;
  std::vector<Sequence> finished;
  std::size_t arrived = 0;
  int steps = 0;
  for (; arrived < all.size() || !engine.is_idle(); ++steps) {
    if (arrived < all.size()) engine.add(all[arrived++]);  // one a step
    engine.step(finished);
  }
  std::size_t same = 0;
  for (const Sequence& s : all) {
    Engine alone;
    std::vector<Sequence> result;
    alone.add(s);
    while (!alone.is_idle()) alone.step(result);
    same += std::ranges::count(finished, result[0].tokens, &Sequence::tokens);
  }
  const octavo::KvStatistics statistics = engine.cache().statistics();
  std::printf("%zu requests in %d steps, %d preempted\n", finished.size(), steps,
              engine.preemptions());
  std::printf("prefix hit rate %.0f %%, %lld evictions, %lld refusals\n",
              100 * statistics.hit_rate(), static_cast<long long>(statistics.evictions),
              static_cast<long long>(statistics.refusals));
  std::printf("%zu got the tokens that they get alone\n", same);
  return same == all.size() && finished.size() == all.size() && statistics.hit_rate() > 0 ? 0 : 1;
}

}  // namespace
}  // namespace toy

int main() {
  try {
    return toy::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
