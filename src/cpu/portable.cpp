// Online softmax over tiles of keys in fp32, for any architecture.
//
// The work is cut into blocks: some rows (query tokens times the heads of a GQA group) of one
// request and KV head. For each KV split, a fixed number of tokens from an absolute position, for
// each tile of keys in it:
//
//   S [rows, kTile] = Q [rows, d] . K^T [d, kTile]     K converted and transposed into scratch
//   P = exp2(S - max)                                  hidden keys are exactly 0
//   O [rows, dv] += P [rows, kTile] . V [kTile, dv]    V converted into scratch
//
// and the splits' (max, sum, O) merge in order. Each row's arithmetic runs in an order that only
// the keys' positions decide, and hidden keys leave it unchanged: the bits depend neither on the
// batch nor on the threads nor on how a prompt is cut into chunks.
#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

#include "cpu/convert.h"
#include "cpu/kernels.h"
#include "cpu/schedule.h"
#include "cpu/tile_math.h"

namespace octavo {
namespace {

constexpr std::int64_t kRows = 128;       // most rows of a block
constexpr std::int64_t kFewestRows = 32;  // fewer would make loading keys as dear as using them
constexpr std::int64_t kSplit = 1024;     // tokens
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

Tiling tiling_of(const Problem& p) {
  return {kRows, kFewestRows, p.split != 0 ? p.split : kSplit, padded(p.dv) + 2};
}

/// Running softmax of a block: O [rows, width] and, in units of log2, the largest score of each row
/// with the sum of its weights.
struct State {
  float* out;
  float* largest;
  float* sum;

  static State at(float* memory, std::int64_t rows, std::int64_t width) {
    return {memory, memory + rows * width, memory + rows * width + rows};
  }
  void clear(std::int64_t rows, std::int64_t width) const {
    std::fill_n(out, rows * width, 0.0f);
    std::fill_n(largest, rows, kNegativeInfinity);
    std::fill_n(sum, rows, 0.0f);
  }
  bool saw_nothing(std::int64_t r) const { return largest[r] == kNegativeInfinity && sum[r] == 0; }
};

/// Scratch of one thread, kept between tasks.
class Scratch {
 public:
  float *q, *k, *v, *scores, *key_rows, *part, *total;

  void fit(const Problem& p) {
    const std::int64_t d = padded(p.d);
    const std::int64_t dv = padded(p.dv);
    const std::int64_t state = kRows * (dv + 2);
    float** const parts[] = {&q, &k, &v, &scores, &key_rows, &part, &total};
    const std::int64_t sizes[] = {kRows * d,   d * kTile, kTile * dv, kRows * kTile,
                                  kStripe * d, state,     state};
    std::int64_t size = 0;
    for (std::int64_t part_size : sizes) size += padded(part_size);
    if (size > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(new (std::align_val_t{kAligned}) float[static_cast<std::size_t>(size)]);
      size_ = size;
    }
    float* next = memory_.get();
    for (std::size_t i = 0; i < std::size(sizes); ++i) {
      *parts[i] = next;
      next += padded(sizes[i]);
    }
  }

 private:
  struct Free {
    void operator()(float* memory) const {
      ::operator delete[](memory, std::align_val_t{kAligned});
    }
  };
  std::unique_ptr<float[], Free> memory_;
  std::int64_t size_ = 0;
};

/// Addresses of the rows of tokens [first, first + count), without a division for each; null for
/// those not wanted.
void find_rows(const Call& call, const KvView& view, const Request& request, std::int64_t kv_head,
               std::int64_t first, std::int64_t count, KeyRange wanted, const std::byte** rows) {
  const bool paged = call.problem.layout == Layout::paged;
  const std::int64_t step = view.stride[1] * static_cast<std::int64_t>(size_of(view.dtype));
  std::fill_n(rows, count, nullptr);
  const std::int64_t end = std::min(first + count, wanted.end);
  for (std::int64_t token = std::max(first, wanted.begin); token < end;) {
    const std::byte* row = call.kv_row(view, request, token, kv_head);
    const std::int64_t page_size = call.problem.page_size;
    const std::int64_t page_end = paged ? (token / page_size + 1) * page_size : end;
    for (; token < std::min(page_end, end); ++token, row += step) rows[token - first] = row;
  }
}

class Walk {
 public:
  Walk(const Call& call, const Block& block, Scratch& scratch)
      : call_(call),
        p_(call.problem),
        block_(block),
        request_(*block.request),
        math_(tile_math()),
        scratch_(scratch),
        width_(padded(p_.dv)),
        split_(tiling_of(p_).split),
        total_(State::at(scratch.total, block.rows, width_)),
        part_(State::at(scratch.part, block.rows, width_)) {
    const double factor = p_.softmax_scale() *
                          scale_of(call.arguments.q_scale, p_.q_scale, block.kv_head) *
                          scale_of(call.arguments.k_scale, p_.k_scale, block.kv_head);
    logit_ = {static_cast<float>(factor), static_cast<float>(p_.cap.value_or(0)), p_.alibi};
  }

  void run(std::int64_t split) {
    if (split == Item::kAllSplits) {
      load_queries();
      total_.clear(block_.rows, width_);
      for (std::int64_t s = block_.split_begin; s < block_.split_end; ++s) {
        attend_split(s);
        merge();
      }
      write();
      return;
    }
    part_ = partial(split);
    load_queries();
    attend_split(split);
    if (block_.missing->fetch_sub(1, std::memory_order_acq_rel) == 1) {
      total_.clear(block_.rows, width_);
      for (std::int64_t s = block_.split_begin; s < block_.split_end; ++s) {
        part_ = partial(s);
        merge();
      }
      write();
    }
  }

 private:
  std::int64_t token(std::int64_t row) const { return (block_.row_begin + row) / p_.group(); }
  std::int64_t head(std::int64_t row) const {
    return block_.kv_head * p_.group() + (block_.row_begin + row) % p_.group();
  }
  State partial(std::int64_t split) const {
    const std::int64_t floats = block_.rows * (width_ + 2);
    return State::at(block_.partials + (split - block_.split_begin) * floats, block_.rows, width_);
  }

  void load_queries() {
    const TensorView<3>& view = call_.arguments.q;
    for (std::int64_t r = 0; r < block_.rows; ++r) {
      const std::int64_t offset =
          (request_.q_begin + token(r)) * view.stride[0] + head(r) * view.stride[1];
      load_floats(p_.q,
                  static_cast<const std::byte*>(view.data) +
                      offset * static_cast<std::int64_t>(size_of(p_.q)),
                  scratch_.q + r * p_.d, p_.d);
      ranges_[r] = visible_keys(p_.mask, request_.position(token(r)), request_.kv_len);
      if (ranges_[r].begin >= ranges_[r].end) ranges_[r] = {0, 0};
    }
  }

  void attend_split(std::int64_t split) {
    part_.clear(block_.rows, width_);
    const std::int64_t start = split * split_;
    const std::int64_t stop = std::min(block_.keys.end, start + split_);
    const std::int64_t skipped = std::max<std::int64_t>(0, block_.keys.begin - start) / kTile;
    for (std::int64_t tile = start + skipped * kTile; tile < stop; tile += kTile) {
      attend_tile(tile, std::min(kTile, stop - tile));
    }
  }

  void attend_tile(std::int64_t tile, std::int64_t keys) {
    // Those that see some of the tile stand together.
    std::int64_t first = 0;
    std::int64_t last = block_.rows;
    while (first < last && ranges_[first].end <= tile) ++first;
    while (first < last && ranges_[last - 1].begin >= tile + keys) --last;
    if (first == last) return;
    const std::int64_t columns = padded(keys);
    const bool masked = p_.mask.kind == MaskKind::bits || columns != keys ||
                        ranges_[first].end < tile + keys || ranges_[last - 1].begin > tile;
    load_tile(tile, keys);
    float* scores = scratch_.scores;
    math_.multiply({last - first, columns, p_.d, scratch_.q + first * p_.d, p_.d, scratch_.k, kTile,
                    scores + first * kTile, kTile, false});
    for (std::int64_t r = first; r < last; ++r) {
      if (masked) find_visible(r, tile, keys);
      const float slope =
          p_.alibi ? call_.arguments.alibi_slopes[static_cast<std::size_t>(head(r))] : 0;
      math_.soften(logit_, {scores + r * kTile, columns, masked ? visible_ : nullptr, slope,
                            tile - request_.position(token(r)), part_.largest + r, part_.sum + r,
                            part_.out + r * width_, width_});
    }
    if (!masked || math_.all_finite(scratch_.v, keys * width_)) {
      math_.multiply({last - first, width_, keys, scores + first * kTile, kTile, scratch_.v, width_,
                      part_.out + first * width_, width_, true});
    } else {
      for (std::int64_t r = first; r < last; ++r) add_visible_values(r, tile, keys);
    }
  }

  /// Keys and values that no row sees are never read: they are zero in scratch.
  void load_tile(std::int64_t tile, std::int64_t keys) {
    const std::byte* rows[2 * kTile + kAhead];  // keys, values, keys of the next tile
    const auto find = [&](const KvView& view, std::int64_t token, std::int64_t count,
                          const std::byte** found) {
      find_rows(call_, view, request_, block_.kv_head, token, count, block_.keys, found);
    };
    find(call_.arguments.k, tile, keys, rows);
    find(call_.arguments.v, tile, keys, rows + keys);
    find(call_.arguments.k, tile + keys, kAhead, rows + 2 * keys);
    math_.load_keys(p_.kv, rows, keys, p_.d, scratch_.key_rows, scratch_.k);
    math_.load_values(p_.kv, rows + keys, keys, p_.dv, scratch_.v);
  }

  bool sees(std::int64_t row, std::int64_t key) const {
    return key >= ranges_[row].begin && key < ranges_[row].end &&
           (p_.mask.kind != MaskKind::bits ||
            mask_bit(call_.arguments.mask_bits, request_.q_begin + token(row), key));
  }

  /// Columns that pad the tile's keys are hidden.
  void find_visible(std::int64_t r, std::int64_t tile, std::int64_t keys) {
    const std::int64_t columns = padded(keys);
    if (p_.mask.kind == MaskKind::bits) {
      for (std::int64_t j = 0; j < columns; ++j)
        visible_[j] = j < keys && sees(r, tile + j) ? -1 : 0;
      return;
    }
    const auto begin = static_cast<std::int32_t>(ranges_[r].begin - tile);
    const auto end = static_cast<std::int32_t>(std::min(ranges_[r].end - tile, keys));
    for (std::int32_t j = 0; j < columns; ++j) visible_[j] = j >= begin && j < end ? -1 : 0;
  }

  /// O += P . V over the row's visible keys alone: a hidden value may be infinite or NaN, and then
  /// 0 times it is not 0.
  void add_visible_values(std::int64_t r, std::int64_t tile, std::int64_t keys) {
    for (std::int64_t j = 0; j < keys; ++j) {
      if (!sees(r, tile + j)) continue;
      math_.combine(part_.out + r * width_, 1.0f, scratch_.v + j * width_,
                    scratch_.scores[r * kTile + j], width_);
    }
  }

  /// Adds the split to what the splits before it gave.
  void merge() {
    for (std::int64_t r = 0; r < block_.rows; ++r) {
      if (part_.saw_nothing(r)) continue;
      const float largest = std::max(total_.largest[r], part_.largest[r]);
      const float before = factor_to(total_.largest[r], largest);
      const float after = factor_to(part_.largest[r], largest);
      total_.sum[r] = total_.sum[r] * before + part_.sum[r] * after;
      total_.largest[r] = largest;
      math_.combine(total_.out + r * width_, before, part_.out + r * width_, after, width_);
    }
  }

  static float factor_to(float from, float to) { return from == to ? 1.0f : std::exp2(from - to); }

  void write() {
    const Arguments& a = call_.arguments;
    const float scale = scale_of(a.v_scale, p_.v_scale, block_.kv_head) *
                        scale_of(a.out_scale, p_.out_scale, block_.kv_head);
    for (std::int64_t r = 0; r < block_.rows; ++r) {
      const std::int64_t row = request_.q_begin + token(r);
      const bool empty = total_.saw_nothing(r);
      // The sink joins in double: it may be far from the scores on either side.
      double largest = total_.largest[r] / kLog2e;
      double sum = total_.sum[r];
      double keep = 1;
      if (p_.sinks) {
        const double sink = a.sinks[static_cast<std::size_t>(head(r))];
        const double together = std::max(largest, sink);
        keep = empty ? 0 : std::exp(largest - together);
        sum = sum * keep + std::exp(sink - together);
        largest = together;
      }
      finish(r, row, empty ? 0 : static_cast<float>(keep / sum) * scale, empty);
      if (p_.lse) {
        static_cast<float*>(a.lse.data)[row * a.lse.stride[0] + head(r) * a.lse.stride[1]] =
            static_cast<float>(empty && !p_.sinks ? kNegativeInfinity : largest + std::log(sum));
      }
    }
  }

  void finish(std::int64_t r, std::int64_t row, float factor, bool empty) {
    const TensorView<3>& view = call_.arguments.out;
    float* out = total_.out + r * width_;
    for (std::int64_t c = 0; c < p_.dv; ++c) out[c] = empty ? 0.0f : out[c] * factor;
    math_.store(
        p_.out,
        static_cast<std::byte*>(view.data) + (row * view.stride[0] + head(r) * view.stride[1]) *
                                                 static_cast<std::int64_t>(size_of(p_.out)),
        out, p_.dv);
  }

  const Call& call_;
  const Problem& p_;
  const Block& block_;
  const Request& request_;
  const TileMath& math_;
  Scratch& scratch_;
  const std::int64_t width_;  // of a row of V and O in scratch
  const std::int64_t split_;
  State total_;
  State part_;
  Logit logit_;
  KeyRange ranges_[kRows];
  std::int32_t visible_[kTile];
};

Support supports(const Problem& p, const Device&) {
  Support s;
  s.require(p.d >= 8 && p.d <= 576, "d must be from 8 to 576, is ", p.d);
  s.require(p.dv >= 8 && p.dv <= 576, "dv must be from 8 to 576, is ", p.dv);
  return s;
}

/// The products, and beside them what each row and each byte of K and V costs a thread. A request's
/// keys and values are loaded once for each block of its rows.
double cost_us(const Problem& p, const Device& device) {
  constexpr double kLaunchUs = 0.5;
  constexpr double kRowUs = 0.1;
  constexpr double kBytesPerUs = 10000;
  const auto split = static_cast<double>(tiling_of(p).split);
  const auto key_bytes =
      static_cast<double>((p.d + p.dv) * static_cast<std::int64_t>(size_of(p.kv)));
  double rows = 0;
  double bytes = 0;
  double items = 0;
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    if (p.q_len[r] == 0) continue;
    const double keys = visible_pairs(p, r) / static_cast<double>(p.q_len[r]);
    const auto packed = static_cast<double>(p.q_len[r] * p.group());
    const auto heads = static_cast<double>(p.hkv);
    rows += packed * heads;
    bytes += keys * key_bytes * std::ceil(packed / kRows) * heads;
    items += std::ceil(packed / kFewestRows) * std::ceil(keys / split) * heads;
  }
  const double work =
      multiply_adds(p) / tile_math().multiply_adds_per_us + rows * kRowUs + bytes / kBytesPerUs;
  return kLaunchUs + work / std::clamp(items, 1.0, static_cast<double>(device.threads));
}

std::size_t workspace(const Problem& problem) {
  return Schedule::workspace(problem, tiling_of(problem));
}

void launch(const Call& call, Executor& executor) {
  const Schedule schedule(call, tiling_of(call.problem), executor.concurrency());
  const std::vector<Item>& items = schedule.items();
  executor.parallel_for(static_cast<std::int64_t>(items.size()), [&](std::int64_t i) {
    static thread_local Scratch scratch;
    scratch.fit(call.problem);
    const Item& item = items[static_cast<std::size_t>(i)];
    Walk(call, *item.block, scratch).run(item.split);
  });
}

}  // namespace

KernelInfo cpu_portable() { return {"cpu_portable", supports, cost_us, workspace, launch}; }

}  // namespace octavo
