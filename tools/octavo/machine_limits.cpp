#include "machine_limits.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "command.h"
#include "core/text.h"
#include "cpu/isa.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "cpu/amx_tiles.h"
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace octavo::cli {
namespace {

constexpr int kRepeats = 1 << 14;
const volatile float kFactor = 0.5f;  // whose value compilers must not use
constexpr int kSums = 16;             // at once: more than latency times instructions a cycle

/// A loop of products that touches registers only. Its sums start from different values: compilers
/// compute equal ones once.
struct Products {
  const char* isa;
  double operations;  ///< of one call
  void (*run)();
};

/// Makes the compiler compute the value.
template <typename T>
void keep(const T& value) {
  asm volatile("" : : "r"(&value) : "memory");
}

#if defined(__x86_64__)

[[gnu::target("avx512f")]] void fma_avx512() {
  const __m512 a = _mm512_set1_ps(kFactor);
  const __m512 b = _mm512_set1_ps(kFactor);
  __m512 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int i = 0; i < kRepeats; ++i) {
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(a, b, sum);
  }
  __m512 total = sums[0];
  for (const __m512& sum : sums) total += sum;
  keep(total);
}

constexpr int kFewerSums = 12;  // AVX2 has 16 registers

[[gnu::target("avx2,fma")]] void fma_avx2() {
  const __m256 a = _mm256_set1_ps(kFactor);
  const __m256 b = _mm256_set1_ps(kFactor);
  __m256 sums[kFewerSums];
  for (int i = 0; i < kFewerSums; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  for (int i = 0; i < kRepeats; ++i) {
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(a, b, sum);
  }
  __m256 total = sums[0];
  for (const __m256& sum : sums) total += sum;
  keep(total);
}

[[gnu::target("avx512f,avx512bf16")]] void vdpbf16ps() {
  constexpr short kOne = 0x3f80;
  const __m512i ones = _mm512_set1_epi16(kOne);
  __m512 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int i = 0; i < kRepeats; ++i) {
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, (__m512bh)ones, (__m512bh)ones);
  }
  __m512 total = sums[0];
  for (const __m512& sum : sums) total += sum;
  keep(total);
}

[[gnu::target("amx-tile,amx-bf16")]] void tdpbf16ps() {
  _tile_loadconfig(&kFullTiles);  // zeroes the tiles
  for (int i = 0; i < kRepeats; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

#elif defined(__aarch64__)

void fma_neon() {
  const float32x4_t a = vdupq_n_f32(kFactor);
  const float32x4_t b = vdupq_n_f32(kFactor);
  float32x4_t sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = vdupq_n_f32(static_cast<float>(i));
  for (int i = 0; i < kRepeats; ++i) {
    for (float32x4_t& sum : sums) sum = vfmaq_f32(sum, a, b);
  }
  float32x4_t total = sums[0];
  for (const float32x4_t& sum : sums) total = vaddq_f32(total, sum);
  keep(total);
}

#endif

#if !defined(__aarch64__)
/// What the compiler makes of a multiplication and an addition.
void fma_portable() {
  const float factor = kFactor;
  float sums[kSums * 4];
  for (int i = 0; i < kSums * 4; ++i) sums[i] = static_cast<float>(i);
  for (int i = 0; i < kRepeats; ++i) {
    for (float& sum : sums) sum = sum * factor + factor;
  }
  float total = 0;
  for (const float sum : sums) total += sum;
  keep(total);
}
#endif

Products widest_fma() {
  constexpr double kOperations = 2.0 * kSums * kRepeats;  // of one lane
#if defined(__aarch64__)
  return {"neon", 4 * kOperations, fma_neon};
#else
#if defined(__x86_64__)
  if (has_avx512()) return {"avx512", 16 * kOperations, fma_avx512};
  if (has_avx2()) {
    return {"avx2", 8 * kOperations * kFewerSums / kSums, fma_avx2};
  }
#endif
  return {"portable", 4 * kOperations, fma_portable};
#endif
}

/// How much `threads` threads get done in a second, all together: the best of some rounds, in which
/// each thread calls work(thread, i) for i = 0, 1, ... Each call does `amount`.
double rate(int threads, double amount, const std::function<void(int, std::int64_t)>& work) {
  using Clock = std::chrono::steady_clock;
  constexpr double kSeconds = 0.08;  // of a round
  constexpr int kRounds = 5;
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<double> rates(static_cast<std::size_t>(threads));
    std::vector<std::thread> others;
    const auto repeat = [&](int thread) {
      const auto start = Clock::now();
      double seconds = 0;
      std::int64_t i = 0;
      for (; seconds < kSeconds; ++i) {
        work(thread, i);
        seconds = std::chrono::duration<double>(Clock::now() - start).count();
      }
      rates[thread] = static_cast<double>(i) * amount / seconds;
    };
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(repeat, thread);
    repeat(0);
    for (std::thread& other : others) other.join();
    best = std::max(best, std::accumulate(rates.begin(), rates.end(), 0.0));
  }
  return best;
}

Rate rate_of(const Products& products, int threads) {
  const auto work = [&](int, std::int64_t) { products.run(); };
  return {rate(1, products.operations, work), rate(threads, products.operations, work)};
}

/// Bytes of the third-level cache that the first processor shares; 0 if Linux doesn't say.
std::size_t last_cache() {
  std::size_t kib = 0;
  std::ifstream("/sys/devices/system/cpu/cpu0/cache/index3/size") >> kib;
  return kib << 10;
}

/// Four times the last cache, and more where many threads may have several of them.
std::size_t uncached_bytes(int threads) {
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  return std::clamp(std::max(4 * last_cache(), 64 * kMiB * threads), 256 * kMiB, 1024 * kMiB);
}

/// Threads read slices of the buffer, each its own, over and over: as the processor fetches, or
/// with what comes next fetched into the second cache, whichever is faster.
Rate read_rate(std::size_t bytes, int threads) {
  constexpr std::int64_t kSlice = std::int64_t{4} << 20;
  constexpr std::int64_t kWords = kSlice / 8;
  const auto slices = static_cast<std::int64_t>(bytes) / kSlice;
  const std::unique_ptr<std::uint64_t[]> buffer(new std::uint64_t[slices * kWords]);
  std::fill_n(buffer.get(), slices * kWords, 1);  // pages that nobody wrote are all the same one
  const auto measure = [&](int readers, std::int64_t ahead) {
    const std::int64_t mine = std::max<std::int64_t>(1, slices / readers);
    return rate(readers, kSlice, [&](int thread, std::int64_t i) {
      const std::uint64_t* word = buffer.get() + (thread * mine + i % mine) % slices * kWords;
      std::uint64_t sums[8] = {};
      for (const std::uint64_t* end = word + kWords; word != end; word += 8) {
        __builtin_prefetch(word + ahead, 0, 2);
        for (int lane = 0; lane < 8; ++lane) sums[lane] += word[lane];
      }
      keep(sums);
    });
  };
  constexpr std::int64_t kAhead = 2048;  // words
  return {std::max(measure(1, 0), measure(1, kAhead)),
          std::max(measure(threads, 0), measure(threads, kAhead))};
}

std::string json(const Rate& rate) {
  return concat("{\"one_thread\":", number(rate.one_thread * 1e-9),
                ",\"all_threads\":", number(rate.all_threads * 1e-9), "}");
}

std::string json(const std::optional<Rate>& rate) { return rate ? json(*rate) : "null"; }

std::string line(const char* what, const char* unit, const std::optional<Rate>& rate) {
  char text[96] = "";
  if (!rate) {
    std::snprintf(text, sizeof text, "%-28s           -\n", what);
  } else {
    std::snprintf(text, sizeof text, "%-28s %11.1f %11.1f  %s\n", what, rate->one_thread * 1e-9,
                  rate->all_threads * 1e-9, unit);
  }
  return text;
}

/// Whether products of bf16 hold the values exactly.
bool fits_bf16(DType dtype) { return dtype == DType::bf16 || is_fp8(dtype); }

}  // namespace

Limits measure_limits(int threads) {
  Limits limits;
  limits.device = Device::cpu().name;
  limits.threads = threads;
  const Products fma = widest_fma();
  limits.fma_isa = fma.isa;
  limits.fma = rate_of(fma, threads);
#if defined(__x86_64__)
  if (has_avx512_bf16()) {
    limits.vdpbf16ps = rate_of({"", 2.0 * 32 * kSums * kRepeats, vdpbf16ps}, threads);
  }
  if (may_use_tiles()) {
    limits.tdpbf16ps = rate_of({"", 2.0 * 16 * 16 * 32 * 4 * kRepeats, tdpbf16ps}, threads);
  }
#endif
  limits.read_bytes = uncached_bytes(threads);
  limits.read = read_rate(limits.read_bytes, threads);
  return limits;
}

std::string to_json(const Limits& limits) {
  return concat("{\"device\":", json_string(limits.device), ",\"threads\":", limits.threads,
                ",\"fma_isa\":", json_string(limits.fma_isa), ",\"fma_gflops\":", json(limits.fma),
                ",\"vdpbf16ps_gflops\":", json(limits.vdpbf16ps),
                ",\"tdpbf16ps_gflops\":", json(limits.tdpbf16ps),
                ",\"read_gbs\":", json(limits.read), ",\"read_bytes\":", limits.read_bytes, "}");
}

std::string to_text(const Limits& limits) {
  char heads[96] = "";
  std::snprintf(heads, sizeof heads, "%-28s %11s %11s\n", "", "one thread",
                concat("all (", limits.threads, ")").c_str());
  const std::string read = concat("read of ", limits.read_bytes >> 20, " MiB");
  return concat(limits.device, "\n", heads,
                line(concat("fp32 FMA, ", limits.fma_isa).c_str(), "GFLOP/s", limits.fma),
                line("bf16 vdpbf16ps", "GFLOP/s", limits.vdpbf16ps),
                line("bf16 tdpbf16ps (AMX)", "GFLOP/s", limits.tdpbf16ps),
                line(read.c_str(), "GB/s", limits.read));
}

Floor floor_of(const Limits& limits, const Problem& problem, const Work& work) {
  double flops = limits.fma.all_threads;
  if (fits_bf16(problem.q) && fits_bf16(problem.kv)) {
    for (const auto& rate : {limits.vdpbf16ps, limits.tdpbf16ps}) {
      if (rate) flops = std::max(flops, rate->all_threads);
    }
  }
  const double compute = work.flops / flops;
  const double memory = work.kv_bytes / limits.read.all_threads;
  return {std::max(compute, memory), memory > compute};
}

}  // namespace octavo::cli
