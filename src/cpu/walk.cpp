// Online softmax over tiles of keys.
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
#include "cpu/walk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <utility>

#include "cpu/isa.h"
#include "cpu/kernels.h"
#include "cpu/schedule.h"

namespace octavo {
namespace {

constexpr std::int64_t kRows = 512;       // most rows of a block
constexpr std::int64_t kRowsAtOnce = 64;  // from Q to O: their scores stay in the nearest caches
constexpr std::int64_t kRowsBetweenFetches = 8;
constexpr std::int64_t kFewestRows = 32;  // fewer would make loading keys as dear as using them
constexpr std::int64_t kSplit = 512;      // tokens
constexpr std::int64_t kMostHeads = 32;   // of a block of few rows
constexpr std::int64_t kFewRows = 8;      // of a request and KV head: packing K and V does not pay
static_assert(kMostHeads * kFewRows <= kRows);
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

std::int64_t split_of(const Problem& p) { return p.split != 0 ? p.split : kSplit; }

/// Most rows of a block: loading keys is shared by more, but Q and O stay in half the second cache.
std::int64_t most_rows(const Problem& p) {
  const std::int64_t bytes = kRows * (p.d + p.dv) * static_cast<std::int64_t>(sizeof(float));
  return bytes <= second_cache_bytes() / 2 ? kRows : kRows / 2;
}

/// How few rows are scored, if K and V can be taken where they lie.
auto score_in_place(const Problem& p, const TileMath& math) {
  return p.invariant ? math.in_place.score_as_packed : math.in_place.score;
}

/// Up to so many rows of a request and KV head take K and V where they lie.
std::int64_t few_rows(const Problem& p, const TileMath& math) {
  return score_in_place(p, math) != nullptr ? kFewRows : 0;
}

Tiling tiling_of(const Problem& p, std::int64_t few_rows, std::int64_t most_heads) {
  return {few_rows, most_heads, most_rows(p), kFewestRows, split_of(p), padded(p.dv) + 2};
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

  void fit(const Problem& p, std::int64_t tile) {
    const std::int64_t d = padded(p.d);
    const std::int64_t dv = padded(p.dv);
    const std::int64_t state = kRows * (dv + 2);
    float** const parts[] = {&q, &k, &v, &scores, &key_rows, &part, &total};
    // Arithmetic that takes rows in sixteens reads as many past the last; panels may be as wide as
    // two stripes.
    constexpr std::int64_t kReadRows = kRows + 16;
    const std::int64_t sizes[] = {
        kReadRows * d, d * tile, tile * (dv + kStripe), kReadRows * tile, kStripe * d,
        state,         state};
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
  const std::int64_t page_size = call.problem.page_size;
  const auto size = static_cast<std::int64_t>(size_of(view.dtype));
  std::fill_n(rows, count, nullptr);
  const std::int64_t end = std::min(first + count, wanted.end);
  for (std::int64_t begin = std::max(first, wanted.begin); begin < end;) {
    const std::byte* row = call.kv_row(view, request, begin, kv_head);
    const std::int64_t stop = paged ? std::min(end, (begin / page_size + 1) * page_size) : end;
    for (std::int64_t token = begin; token < stop; ++token) {
      rows[token - first] = row + (token - begin) * view.stride[1] * size;
    }
    begin = stop;
  }
}

/// One item of the schedule: a block's way through its keys.
class Walk {
 public:
  Walk(const Call& call, const Block& block, Scratch& scratch, const TileMath& math)
      : call_(call),
        p_(call.problem),
        block_(block),
        request_(*block.request),
        math_(math),
        scratch_(scratch),
        width_(padded(p_.dv)),
        in_place_(block.request->q_len * p_.group() <= few_rows(p_, math)),
        q_pitch_(padded(words(p_.d, in_place_ ? math.in_place.per_word : math.per_word))),
        split_(split_of(p_)),
        total_(State::at(scratch.total, block.rows, width_)),
        part_(State::at(scratch.part, block.rows, width_)) {}

  void run(std::int64_t split) {
    load_queries();
    const bool whole = split == Item::kAllSplits;
    if (whole) {
      std::swap(part_, total_);
      attend_split(block_.split_begin);
      std::swap(part_, total_);
    } else {
      part_ = partial(split);
      attend_split(split);
      if (block_.missing->fetch_sub(1, std::memory_order_acq_rel) > 1) return;
      total_ = partial(block_.split_begin);
    }
    for (std::int64_t s = block_.split_begin + 1; s < block_.split_end; ++s) {
      if (whole) {
        attend_split(s);
      } else {
        part_ = partial(s);
      }
      merge();
    }
    write();
  }

 private:
  /// What is the same for all keys.
  struct Row {
    std::int64_t query;  // its row of Q and of the output
    std::int64_t head;
    KeyRange keys;  // that it sees
  };

  State partial(std::int64_t split) const {
    const std::int64_t floats = block_.rows * (width_ + 2);
    return State::at(block_.partials + (split - block_.split_begin) * floats, block_.rows, width_);
  }

  std::int64_t rows_of_head() const { return block_.rows / block_.heads; }

  Logit logit(std::int64_t kv_head) const {
    const Arguments& a = call_.arguments;
    const double factor = p_.softmax_scale() * scale_of(a.q_scale, p_.q_scale, kv_head) *
                          scale_of(a.k_scale, p_.k_scale, kv_head);
    return {static_cast<float>(factor), static_cast<float>(p_.cap.value_or(0)), p_.alibi};
  }

  void load_queries() {
    const std::int64_t group = p_.group();
    std::int64_t r = 0;
    for (std::int64_t h = block_.kv_head; h < block_.kv_head + block_.heads; ++h) {
      std::int64_t token = block_.row_begin / group;
      std::int64_t member = block_.row_begin % group;
      for (std::int64_t i = 0; i < rows_of_head(); ++i, ++r) {
        find_query(r, token, h * group + member);
        if (++member == group) {
          member = 0;
          ++token;
        }
      }
    }
    const auto load = in_place_ ? math_.in_place.load_query : math_.load_query;
    for (r = 0; r < block_.rows; ++r) {
      if (r + kAhead < block_.rows) fetch_row(call_.arguments.q, r + kAhead, p_.d);
      load(p_.q, row_of(call_.arguments.q, r), p_.d, scratch_.q + r * q_pitch_);
    }
  }

  /// A row's part of Q or of the output.
  std::byte* row_of(const TensorView<3>& view, std::int64_t r) const {
    const std::int64_t offset = rows_[r].query * view.stride[0] + rows_[r].head * view.stride[1];
    return static_cast<std::byte*>(view.data) +
           offset * static_cast<std::int64_t>(size_of(view.dtype));
  }
  void fetch_row(const TensorView<3>& view, std::int64_t r, std::int64_t width) const {
    fetch(row_of(view, r), width * static_cast<std::int64_t>(size_of(view.dtype)));
  }

  void find_query(std::int64_t r, std::int64_t token, std::int64_t head) {
    positions_[r] = request_.position(token);
    KeyRange keys = visible_keys(p_.mask, positions_[r], request_.kv_len);
    if (keys.begin >= keys.end) keys = {0, 0};
    slopes_[r] = p_.alibi ? call_.arguments.alibi_slopes[static_cast<std::size_t>(head)] : 0;
    rows_[r] = {request_.q_begin + token, head, keys};
  }

  void attend_split(std::int64_t split) {
    part_.clear(block_.rows, width_);
    const std::int64_t start = split * split_;
    const std::int64_t stop = std::min(block_.keys.end, start + split_);
    const std::int64_t skipped = std::max<std::int64_t>(0, block_.keys.begin - start) / math_.tile;
    for (std::int64_t tile = start + skipped * math_.tile; tile < stop; tile += math_.tile) {
      attend_tile(tile, std::min(math_.tile, stop - tile));
    }
  }

  void attend_tile(std::int64_t tile, std::int64_t keys) {
    const std::int64_t columns = padded(keys);
    const bool whole = seen_by_all(tile, keys);
    if (!whole || whole_spans_ != keys) find_spans(tile, keys);
    whole_spans_ = whole ? keys : 0;
    const bool masked = p_.mask.kind == MaskKind::bits || columns != keys || !whole;
    // The rows of one head that see some of the tile stand together.
    std::int64_t first = 0;
    std::int64_t last = block_.rows;
    if (!in_place_) {
      while (first < last && spans_[first].begin == spans_[first].end) ++first;
      while (first < last && spans_[last - 1].begin == spans_[last - 1].end) --last;
    }
    if (first == last) return;
    if (in_place_) {
      attend_in_place(tile, keys, masked);
    } else {
      attend_packed(first, last, tile, keys, masked);
    }
  }

  /// Whether all rows see the whole tile: those of a head that are between two that do see it, too.
  bool seen_by_all(std::int64_t tile, std::int64_t keys) const {
    const auto sees = [&](const Row& row) {
      return row.keys.begin <= tile && row.keys.end >= tile + keys;
    };
    return sees(rows_[0]) && sees(rows_[rows_of_head() - 1]);
  }

  void find_spans(std::int64_t tile, std::int64_t keys) {
    for (std::int64_t r = 0; r < block_.rows; ++r) {
      const std::int64_t begin = std::clamp<std::int64_t>(rows_[r].keys.begin - tile, 0, keys);
      const std::int64_t end = std::clamp<std::int64_t>(rows_[r].keys.end - tile, begin, keys);
      spans_[r] = {static_cast<std::int32_t>(begin), static_cast<std::int32_t>(end)};
    }
  }

  void attend_in_place(std::int64_t tile, std::int64_t keys, bool masked) {
    const std::byte* found[4 * kMostTile];
    find_tile(tile, keys, found);
    const InPlace all = in_place(call_.arguments.k, found, keys, p_.d, q_pitch_);
    score_in_place(p_, math_)(all, scratch_.q, scratch_.scores, math_.tile);
    for (std::int64_t h = 0; h < block_.heads; ++h) {
      const std::int64_t first = h * rows_of_head();
      soften(math_.in_place.soften, logit(block_.kv_head + h),
             softmax_rows(first, rows_of_head(), scores(first), tile, keys));
    }
    add_in_place(tile, keys, masked, found + keys);
  }

  void attend_packed(std::int64_t first, std::int64_t last, std::int64_t tile, std::int64_t keys,
                     bool masked) {
    const std::byte* found[4 * kMostTile];
    find_tile(tile, keys, found);
    math_.load_keys(p_.kv, found, keys, p_.d, scratch_.key_rows, scratch_.k);
    math_.load_values(p_.kv, found + keys, keys, p_.dv, scratch_.v);
    // A hidden value may be infinite or NaN, and then 0 times it is not 0.
    const bool each = masked && !math_.all_finite(scratch_.v, keys, width_);
    const std::span<const std::byte* const> next(found + 2 * keys, 2 * math_.tile);
    if (math_.pass != nullptr && p_.mask.kind != MaskKind::bits && !each) {
      return math_.pass(passage(first, last, tile, keys, masked, next));
    }
    std::int64_t end;
    for (std::int64_t begin = first; begin < last; begin = end) {
      end = std::min(last, begin + kRowsAtOnce);
      const Passage rows = passage(begin, end, tile, keys, masked, next);
      math_.multiply(rows.score);
      for (std::int64_t r = begin; r < end; r += kRowsBetweenFetches) {
        const std::int64_t count = std::min(kRowsBetweenFetches, end - r);
        fetch_share(next, rows.next_bytes, r - first, count, last - first);
        soften(math_.soften, rows.logit, rows.softmax.from(r - begin, count));
      }
      if (!each) {
        math_.multiply(rows.add);
      } else {
        for (std::int64_t r = begin; r < end; ++r) add_visible(r, scores(r - begin), tile, keys);
      }
    }
  }

  float* scores(std::int64_t row) const { return scratch_.scores + row * math_.tile; }

  /// Of rows [begin, end), whose scores lie first in scratch.
  Passage passage(std::int64_t begin, std::int64_t end, std::int64_t tile, std::int64_t keys,
                  bool masked, std::span<const std::byte* const> next) const {
    const std::int64_t depth = words(p_.d, math_.per_word);
    const Span* const spans = masked ? spans_ + begin : nullptr;
    const std::int64_t narrower = std::min(p_.d, p_.dv);
    return {.score = {end - begin, padded(keys), depth, scratch_.q + begin * q_pitch_, q_pitch_,
                      scratch_.k, padded(depth), scores(0), math_.tile, false, spans},
            .add = {end - begin, width_, words(keys, math_.per_word), scores(0), math_.tile,
                    scratch_.v, words(math_.tile, math_.per_word), part_.out + begin * width_,
                    width_, true, nullptr, spans},
            .softmax = softmax_rows(begin, end - begin, scores(0), tile, keys),
            .logit = logit(block_.kv_head),
            .next = next,
            .next_bytes = narrower * static_cast<std::int64_t>(size_of(p_.kv))};
  }

  SoftmaxRows softmax_rows(std::int64_t first, std::int64_t count, float* scores, std::int64_t tile,
                           std::int64_t keys) const {
    return {.rows = count,
            .scores = scores,
            .pitch = math_.tile,
            .columns = padded(keys),
            .spans = spans_ + first,
            .visible = nullptr,
            .slopes = slopes_ + first,
            .positions = positions_ + first,
            .tile = tile,
            .largest = part_.largest + first,
            .sum = part_.sum + first,
            .out = part_.out + first * width_,
            .width = width_};
  }

  /// A mask of bits is laid out for one row after the other.
  void soften(void (*by)(const Logit&, const SoftmaxRows&), const Logit& logit,
              const SoftmaxRows& rows) {
    if (p_.mask.kind != MaskKind::bits) return by(logit, rows);
    for (std::int64_t i = 0; i < rows.rows; ++i) {
      SoftmaxRows row = rows.from(i, 1);
      find_visible(row.spans - spans_, row.tile, row.columns);
      row.visible = visible_;
      by(logit, row);
    }
  }

  void add_visible(std::int64_t r, const float* weights, std::int64_t tile, std::int64_t keys) {
    find_visible(r, tile, keys);
    math_.add_visible(weights, visible_, keys, scratch_.v, part_.out + r * width_, width_);
  }

  /// The tile's keys, its values, and as many of each as a tile has that come next. Those that no
  /// row sees are never read: their addresses are null.
  void find_tile(std::int64_t tile, std::int64_t keys, const std::byte** rows) const {
    const auto find = [&](const KvView& view, std::int64_t token, std::int64_t count,
                          const std::byte** found) {
      find_rows(call_, view, request_, block_.kv_head, token, count, block_.keys, found);
    };
    find(call_.arguments.k, tile, keys, rows);
    find(call_.arguments.v, tile, keys, rows + keys);
    find(call_.arguments.k, tile + keys, math_.tile, rows + 2 * keys);
    find(call_.arguments.v, tile + keys, math_.tile, rows + 2 * keys + math_.tile);
  }

  InPlace in_place(const KvView& view, const std::byte* const* tokens, std::int64_t keys,
                   std::int64_t width, std::int64_t pitch) const {
    // The stride of an axis of one head may be anything.
    const std::int64_t stride = block_.heads > 1 ? view.stride[2] : 0;
    return {p_.kv,
            tokens,
            keys,
            block_.heads,
            stride * static_cast<std::int64_t>(size_of(p_.kv)),
            rows_of_head(),
            width,
            pitch};
  }

  /// Columns that pad the tile's keys are hidden.
  void find_visible(std::int64_t r, std::int64_t tile, std::int64_t keys) {
    const std::int64_t columns = padded(keys);
    if (p_.mask.kind == MaskKind::bits) {
      for (std::int64_t j = 0; j < columns; ++j) {
        const bool sees = j >= spans_[r].begin && j < spans_[r].end &&
                          mask_bit(call_.arguments.mask_bits, rows_[r].query, tile + j);
        visible_[j] = sees ? -1 : 0;
      }
      return;
    }
    const auto [begin, end] = spans_[r];
    for (std::int32_t j = 0; j < columns; ++j) visible_[j] = j >= begin && j < end ? -1 : 0;
  }

  /// O += P . V from where V lies. A row's hidden values are left out where they may not be finite.
  void add_in_place(std::int64_t tile, std::int64_t keys, bool masked,
                    const std::byte* const* values) {
    const InPlace all = in_place(call_.arguments.v, values, keys, p_.dv, width_);
    if (!masked || math_.in_place.finite(all)) {
      math_.in_place.add(all, scores(0), math_.tile, part_.out);
      return;
    }
    for (std::int64_t r = 0; r < block_.rows; ++r) {
      const std::byte* visible[kMostTile + kAhead] = {};
      find_visible(r, tile, keys);
      for (std::int64_t j = 0; j < keys; ++j) {
        if (visible_[j] != 0) visible[j] = values[j] + r / all.rows * all.head_stride;
      }
      math_.in_place.add({p_.kv, visible, keys, 1, 0, 1, p_.dv, width_}, scores(r), math_.tile,
                         part_.out + r * width_);
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
    for (std::int64_t r = 0; r < block_.rows; ++r) {
      if (r + kAhead < block_.rows) fetch_row(a.out, r + kAhead, p_.dv);
      const auto [row, head] = std::pair(rows_[r].query, rows_[r].head);
      const float scale = scale_of(a.v_scale, p_.v_scale, head / p_.group()) *
                          scale_of(a.out_scale, p_.out_scale, head / p_.group());
      const bool empty = total_.saw_nothing(r);
      // The sink joins in double: it may be far from the scores on either side.
      double largest = total_.largest[r] / kLog2e;
      double sum = total_.sum[r];
      double keep = 1;
      if (p_.sinks) {
        const double sink = a.sinks[static_cast<std::size_t>(head)];
        const double together = std::max(largest, sink);
        keep = empty ? 0 : std::exp(largest - together);
        sum = sum * keep + std::exp(sink - together);
        largest = together;
      }
      finish(r, empty ? 0 : static_cast<float>(keep / sum) * scale, empty);
      if (p_.lse) {
        static_cast<float*>(a.lse.data)[row * a.lse.stride[0] + head * a.lse.stride[1]] =
            static_cast<float>(empty && !p_.sinks ? kNegativeInfinity : largest + std::log(sum));
      }
    }
  }

  void finish(std::int64_t r, float factor, bool empty) {
    float* out = total_.out + r * width_;
    for (std::int64_t c = 0; c < p_.dv; ++c) out[c] = empty ? 0.0f : out[c] * factor;
    math_.store(p_.out, row_of(call_.arguments.out, r), out, p_.dv);
  }

  const Call& call_;
  const Problem& p_;
  const Block& block_;
  const Request& request_;
  const TileMath& math_;
  Scratch& scratch_;
  const std::int64_t width_;  // of a row of V and O in scratch
  const bool in_place_;       // K and V are used where they lie
  const std::int64_t q_pitch_;
  const std::int64_t split_;
  State total_;
  State part_;
  Row rows_[kRows];
  std::int64_t positions_[kRows];
  float slopes_[kRows];           // of ALiBi
  Span spans_[kRows];             // what each sees of the tile
  std::int64_t whole_spans_ = 0;  // if they all are so many keys, else 0
  std::int32_t visible_[kMostTile];
};

}  // namespace

std::size_t attend_workspace(const Problem& problem) {
  return Schedule::workspace(problem, tiling_of(problem, 0, 1));
}

void attend(const Call& call, Executor& executor, const TileMath& math) {
  const KvView& k = call.arguments.k;
  const bool side_by_side = k.stride[2] < k.stride[1];  // the heads of a token
  const Tiling tiling =
      tiling_of(call.problem, few_rows(call.problem, math), side_by_side ? kMostHeads : 1);
  const Schedule schedule(call, tiling, executor.concurrency());
  const std::vector<Item>& items = schedule.items();
  executor.parallel_for(static_cast<std::int64_t>(items.size()), [&](std::int64_t i) {
    static thread_local Scratch scratch;
    scratch.fit(call.problem, math.tile);
    const Item& item = items[static_cast<std::size_t>(i)];
    Walk(call, *item.block, scratch, math).run(item.split);
  });
}

double attend_cost_us(const Problem& p, const Device& device, const TileMath& math) {
  constexpr double kLaunchUs = 0.5;
  constexpr double kRowUs = 0.1;
  constexpr double kBytesPerUs = 10000;
  const auto split = static_cast<double>(split_of(p));
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
    bytes += keys * key_bytes * std::ceil(packed / static_cast<double>(most_rows(p))) * heads;
    items += std::ceil(packed / kFewestRows) * std::ceil(keys / split) * heads;
  }
  const double work =
      multiply_adds(p) / math.multiply_adds_per_us + rows * kRowUs + bytes / kBytesPerUs;
  return kLaunchUs + work / std::clamp(items, 1.0, static_cast<double>(device.threads));
}

void require_attendable(const Problem& p, const TileMath& math, Support& s) {
  s.require(p.d >= 8 && p.d <= 576, "d must be from 8 to 576, is ", p.d);
  s.require(p.dv >= 8 && p.dv <= 576, "dv must be from 8 to 576, is ", p.dv);
  if (math.per_word == 1) return;
  const auto fits = [](DType dtype) { return dtype == DType::bf16 || is_fp8(dtype); };
  s.require(fits(p.q), "q must be bf16, e4m3 or e5m2, is ", name(p.q));
  s.require(fits(p.kv), "kv must be bf16, e4m3 or e5m2, is ", name(p.kv));
}

}  // namespace octavo
