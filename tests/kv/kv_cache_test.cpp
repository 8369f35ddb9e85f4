#include "octavo/kv_cache.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "kv/toy_engine.h"

namespace octavo::tests {
namespace {

using Tokens = std::vector<std::int32_t>;

/// Tokens first, first + 1, ...
Tokens text(std::int64_t count, std::int32_t first = 100) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

KvCacheConfig small(DType dtype = DType::f32) {
  KvCacheConfig config;
  config.pages = 16;
  config.page_size = 4;
  config.layers = 2;
  config.hkv = 2;
  config.d = config.dv = 8;
  config.dtype = dtype;
  return config;
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    return error.what();
  }
  return "nothing was thrown";
}

struct CacheForm {
  DType dtype;
  PageOrder order;
  Pool pool;
};

class KvCacheForms : public testing::TestWithParam<CacheForm> {};

// Attention over the cache is that over contiguous K and V, through all that can happen to pages.
TEST_P(KvCacheForms, EqualsContiguousKeysAndValues) {
  KvCacheConfig config = small(GetParam().dtype);
  config.order = GetParam().order;
  config.pool = GetParam().pool;
  if (config.pool == Pool::split) config.dv = 12;
  ToyEngine engine(config);
  KvCache& cache = engine.cache();

  // A prompt in chunks, beside another request.
  const Tokens prompt = text(13);
  const KvRequest a = engine.admit(prompt, "", 6).request;
  const KvRequest other = engine.admit(text(5, 500)).request;
  engine.step({a, other});
  engine.reserve(a, {prompt.begin() + 6, prompt.end()});
  engine.reserve(other, {7});
  engine.step({other, a});
  EXPECT_EQ(cache.statistics().in_use, 4 + 2);

  // The same beginning: three pages are there already.
  const KvAdmission b = engine.admit(prompt + text(6, 900));
  EXPECT_EQ(b.cached, 12);
  EXPECT_EQ(cache.statistics().in_use, 6 + 2);
  engine.step({b.request});

  // A fork shares the last page until one of the two writes to it.
  const KvRequest c = engine.fork(b.request);
  EXPECT_EQ(cache.statistics().in_use, 8);
  engine.reserve(c, {1});
  EXPECT_EQ(cache.statistics().copies, 1);
  engine.reserve(b.request, {2});
  EXPECT_EQ(cache.statistics().copies, 1);
  engine.step({b.request, c, a});

  // Draft tokens that were wrong are rolled back, over the end of a page.
  engine.reserve(a, {50, 51, 52, 53, 54});
  engine.step({a});
  engine.truncate(a, 14);
  engine.reserve(a, {60, 61});
  engine.step({a});

  // What is freed is found again; with another salt it is not.
  engine.free(a);
  EXPECT_EQ(engine.admit(prompt, "tenant").cached, 0);
  const KvAdmission again = engine.admit(text(13) + Tokens{50, 60, 61, 1});
  EXPECT_EQ(again.cached, 16);
  engine.step({again.request, b.request});
}

INSTANTIATE_TEST_SUITE_P(Forms, KvCacheForms,
                         testing::Values(CacheForm{DType::f32, PageOrder::nhd, Pool::joint},
                                         CacheForm{DType::f32, PageOrder::hnd, Pool::split},
                                         CacheForm{DType::bf16, PageOrder::hnd, Pool::joint},
                                         CacheForm{DType::f16, PageOrder::nhd, Pool::split},
                                         CacheForm{DType::e4m3, PageOrder::nhd, Pool::joint},
                                         CacheForm{DType::e5m2, PageOrder::hnd, Pool::split}));

// A hit ends before a page that was cut and filled with other tokens.
TEST(KvCache, CutPagesAreNotFound) {
  ToyEngine engine(small());
  const KvRequest a = engine.admit(text(8)).request;
  engine.step({a});
  engine.truncate(a, 6);
  engine.reserve(a, {1, 2});
  engine.step({a});
  EXPECT_EQ(engine.admit(text(9)).cached, 4);
  EXPECT_EQ(engine.admit(text(6) + Tokens{1, 2, 3}).cached, 8);
}

// While only one layer is written, a page cannot be found.
TEST(KvCache, SharesWhatIsWrittenInAllLayers) {
  const KvCacheConfig config = small();
  KvCache cache(config);
  const Tokens prompt = text(9);
  const KvRequest a = cache.admit(prompt).request;
  std::vector<float> rows(9 * 2 * 8, 1.0f);
  KvAppend step;
  step.requests = {&a, 1};
  step.k = step.v = TensorView<3>::dense(rows.data(), DType::f32, {9, 2, 8});
  cache.append(step);
  EXPECT_EQ(cache.written(a), 0);
  EXPECT_EQ(cache.admit(prompt).cached, 0);
  step.layer = 1;
  cache.append(step);
  EXPECT_EQ(cache.written(a), 9);
  EXPECT_EQ(cache.admit(prompt).cached, 8);
}

struct Masking {
  Mask mask;
  std::int64_t most_pages;  ///< that one request needs at a time, with steps of up to 5 tokens
};

class KvCacheMasks : public testing::TestWithParam<Masking> {};

// Long texts live in few pages where the mask hides what lies far back.
TEST_P(KvCacheMasks, LetGoOfWhatNobodySees) {
  KvCacheConfig config = small();
  config.pages = GetParam().most_pages;
  config.mask = GetParam().mask;
  ToyEngine engine(config);
  const KvRequest a = engine.admit(text(5)).request;
  engine.step({a});
  for (std::int32_t i = 0; i < 40; ++i) {
    engine.reserve(a, text(i % 3 == 0 ? 5 : 1, 200 + i));
    engine.step({a});
    if (i % 4 == 3) engine.truncate(a, engine.cache().length(a) - 1);
  }
  EXPECT_LE(engine.cache().statistics().in_use, GetParam().most_pages);
  EXPECT_GT(engine.cache().length(a), 4 * config.pages);
  EXPECT_NE(
      message_of([&] { engine.cache().truncate(a, 9); }).find("tokens=9: the next query would"),
      std::string::npos);
  engine.truncate(a, 0);
  engine.reserve(a, text(3));
  engine.step({a});
}

INSTANTIATE_TEST_SUITE_P(Masks, KvCacheMasks,
                         testing::Values(Masking{Mask{MaskKind::window, 7, 0}, 5},
                                         Masking{Mask{MaskKind::window, 0, 0}, 3},
                                         Masking{Mask{MaskKind::chunked, -1, -1, 6}, 4}));

TEST(KvCache, RefusesWholeRequests) {
  KvCacheConfig config = small();
  config.pages = 5;
  KvCache cache(config);
  const KvAdmission a = cache.admit(text(10));
  ASSERT_NE(a.request, 0u);
  const KvAdmission b = cache.admit(text(14, 300));
  EXPECT_EQ(b.request, 0u);
  EXPECT_EQ(b.missing, 2);
  EXPECT_EQ(cache.reserve(a.request, text(11)), 1);
  EXPECT_EQ(cache.length(a.request), 10);
  EXPECT_EQ(cache.statistics().in_use, 3);
  EXPECT_EQ(cache.statistics().free, 2);
  EXPECT_EQ(cache.statistics().refusals, 2);
  EXPECT_EQ(cache.reserve(a.request, text(10)), 0);
  EXPECT_EQ(cache.reserve_unnamed(a.request, 1), 1);
  cache.free(a.request);
  EXPECT_EQ(cache.statistics().free, 5);
}

TEST(KvCache, EvictsTheLeastRecentlyUsed) {
  KvCacheConfig config = small();
  config.pages = 6;
  ToyEngine engine(config);
  for (const std::int32_t first : {0, 20, 40}) {  // two pages each, one of them full
    const KvRequest request = engine.admit(text(5, first)).request;
    engine.step({request});
    engine.free(request);
  }
  const KvAdmission touched = engine.admit(text(5, 0));
  EXPECT_EQ(touched.cached, 4);
  engine.free(touched.request);
  EXPECT_EQ(engine.cache().statistics().cached, 3);
  const KvRequest big = engine.admit(text(16, 60)).request;  // one page more than are free
  EXPECT_EQ(engine.cache().statistics().evictions, 1);
  engine.step({big});
  EXPECT_EQ(engine.admit(text(5, 0), "", 0).cached, 4);
  EXPECT_EQ(engine.admit(text(5, 40), "", 0).cached, 4);
  EXPECT_EQ(engine.admit(text(5, 20), "", 0).cached, 0);
}

TEST(KvCache, StatisticsOfPrompts) {
  ToyEngine engine(small());
  EXPECT_EQ(engine.cache().statistics().hit_rate(), 0);
  engine.step({engine.admit(text(8)).request});
  engine.step({engine.admit(text(8)).request});
  const KvStatistics s = engine.cache().statistics();
  EXPECT_EQ(s.prompt_tokens, 16);
  EXPECT_EQ(s.cached_tokens, 4);
  EXPECT_EQ(s.hit_rate(), 0.25);
  EXPECT_EQ(s.requests, 2);
  EXPECT_EQ(s.free + s.cached + s.in_use, s.pages);
}

TEST(KvCache, CallersMemory) {
  KvCacheConfig config = small();
  config.layers = 1;
  std::vector<float> k(16 * 4 * 2 * 8, -1);
  std::vector<float> v(16 * 4 * 2 * 8, -1);
  const std::vector<KvView> ks = {KvView::dense(k.data(), DType::f32, {16, 4, 2, 8})};
  const std::vector<KvView> vs = {KvView::dense(v.data(), DType::f32, {16, 4, 2, 8})};
  KvCache cache(config, ks, vs);
  const KvRequest a = cache.admit(text(3)).request;
  std::vector<float> rows(3 * 2 * 8);
  std::iota(rows.begin(), rows.end(), 0.0f);
  KvAppend step;
  step.requests = {&a, 1};
  step.k = step.v = TensorView<3>::dense(rows.data(), DType::f32, {3, 2, 8});
  cache.append(step);
  const std::int64_t page = cache.tables(step.requests).page_ids[0];
  const auto begin = k.begin() + page * 64;
  EXPECT_EQ(std::vector(begin, begin + 48), rows);
  EXPECT_EQ(begin[48], -1);

  EXPECT_EQ(message_of([&] { KvCache(config, ks, {}); }), "v has 0 views: layers=1");
  EXPECT_EQ(message_of([&] { KvCache(config, ks, ks); }), "k and v may share memory");
  std::vector<KvView> wrong = ks;
  wrong[0].shape[0] = 15;
  EXPECT_EQ(message_of([&] { KvCache(config, wrong, vs); }), "k.shape[0]=15: the cache's is 16");
}

TEST(KvCache, OfAProblem) {
  const Problem problem = Problem::parse(
      "paged pool=split order=hnd page=4 q=f32 kv=e4m3 hq=4 hkv=2 d=8 dv=12 mask=window:7,0 "
      "q_len=1 "
      "kv_len=9");
  const KvCacheConfig config = KvCacheConfig::of(problem, 16, 2);
  ToyEngine engine(config);
  const KvRequest a = engine.admit(text(9)).request;
  engine.step({a});
  EXPECT_EQ(engine.cache().v(1).shape, (std::array<std::int64_t, 4>{16, 4, 2, 12}));
  EXPECT_THROW(KvCacheConfig::of(Problem::parse("ragged q=f32 hq=1 hkv=1 d=8 q_len=1 kv_len=1"), 1),
               Error);
}

TEST(KvCache, BadConfigs) {
  const auto with = [](const auto& change) {
    KvCacheConfig config = small();
    change(config);
    return message_of([&] { KvCache cache(config); });
  };
  EXPECT_EQ(with([](auto& c) { c.pages = 0; }), "pages=0: must be from 1 to 2147483646");
  EXPECT_EQ(with([](auto& c) { c.page_size = -1; }), "page_size=-1: must be from 1 to 1048576");
  EXPECT_EQ(with([](auto& c) { c.layers = 0; }), "layers=0: must be from 1 to 65536");
  EXPECT_EQ(with([](auto& c) { c.hkv = 0; }), "hkv=0: must be from 1 to 65536");
  EXPECT_EQ(with([](auto& c) { c.d = 0; }), "d=0: must be from 1 to 1024");
  EXPECT_EQ(with([](auto& c) { c.dv = 4; }), "dv=4: must equal d=8 in pool=joint; use pool=split");
  EXPECT_EQ(with([](auto& c) { c.mask = {MaskKind::chunked}; }),
            "mask.chunk=0: must be at least 1");
  EXPECT_NE(with([](auto& c) {
              c.pages = 1 << 30, c.page_size = 1 << 20, c.hkv = 65536, c.d = c.dv = 1024;
            }).find("more than memory has addresses"),
            std::string::npos);
}

TEST(KvCache, BadCallsChangeNothing) {
  KvCache cache(small());
  const KvRequest gone = cache.admit(text(3)).request;
  cache.free(gone);
  const KvRequest a = cache.admit(text(6)).request;
  std::vector<float> rows(6 * 2 * 8, 1.0f);
  KvAppend step;
  step.requests = {&a, 1};
  step.k = step.v = TensorView<3>::dense(rows.data(), DType::f32, {6, 2, 8});

  EXPECT_EQ(message_of([&] { cache.free(gone); }), "request=1: was freed");
  EXPECT_EQ(message_of([&] { cache.fork(gone); }), "request=1: was freed");
  EXPECT_EQ(message_of([&] { cache.truncate(9, 0); }), "request=9: was never admitted");
  EXPECT_EQ(message_of([&] { cache.tables(std::vector{a, gone}); }), "request=1: was freed");
  EXPECT_EQ(message_of([&] { (void)cache.reserve(0, Tokens{1}); }),
            "request=0: was never admitted");
  EXPECT_EQ(message_of([&] { cache.fork(a); }),
            "request=2: has 6 tokens, of which 0 are written; a fork needs all");
  EXPECT_EQ(message_of([&] { cache.truncate(a, 7); }),
            "tokens=7: must be from 0 to the 6 of request=2");
  EXPECT_EQ(message_of([&] { cache.mark_written(a, 7); }),
            "tokens=7: must be from 0 to the 6 that request=2 has reserved");
  EXPECT_EQ(message_of([&] { (void)cache.reserve_unnamed(a, -1); }),
            "tokens=-1: must be at least 0");
  EXPECT_EQ(message_of([&] { cache.k(2); }), "layer=2: must be from 0 to 1");
  const auto with = [&](const auto& change) {
    KvAppend wrong = step;
    change(wrong);
    return message_of([&] { cache.append(wrong); });
  };
  EXPECT_EQ(with([](auto& s) { s.layer = -1; }), "layer=-1: must be from 0 to 1");
  const std::vector<KvRequest> twice{a, a};
  EXPECT_EQ(with([&](auto& s) { s.requests = twice; }),
            "requests name 2 twice: must name each once");
  std::vector<float> more(7 * 2 * 8);
  EXPECT_EQ(with([&](auto& s) {
              s.k = s.v = TensorView<3>::dense(more.data(), DType::f32, {7, 2, 8});
            }),
            "new_k.shape[0] (rows) is 7: the sum of q_lens is 6");
  EXPECT_EQ(cache.written(a), 0);

  cache.append(step);
  step.layer = 1;
  cache.append(step);
  EXPECT_EQ(cache.written(a), 6);
  EXPECT_EQ(message_of([&] { cache.append(step); }),
            "new_k.shape[0] (rows) is 6: the sum of q_lens is 0");
  EXPECT_EQ(cache.statistics().requests, 1);
}

// Pages of tokens that the cache was not told are nobody else's, and told ones after them too.
TEST(KvCache, UnnamedTokensAreNotShared) {
  KvCache cache(small());
  const KvRequest a = cache.admit(text(4)).request;
  ASSERT_EQ(cache.reserve_unnamed(a, 4), 0);
  ASSERT_EQ(cache.reserve(a, text(4, 108)), 0);
  cache.mark_written(a, 12);
  EXPECT_EQ(cache.admit(text(13)).cached, 4);
  cache.truncate(a, 4);
  ASSERT_EQ(cache.reserve(a, text(4, 104)), 0);
  cache.mark_written(a, 8);
  EXPECT_EQ(cache.admit(text(13)).cached, 8);
}

}  // namespace
}  // namespace octavo::tests
