#include "mutant.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "verify/case.h"
#include "verify/verify.h"

namespace octavo::tests {
namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

std::uintptr_t address_of(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

/// What a number that should have been `old` could be.
std::int64_t odd_number(std::int64_t old, Choices& choices) {
  const auto wrapping = static_cast<std::uint64_t>(old);
  return static_cast<std::int64_t>(choices.pick<std::uint64_t>(
      {0, 1, ~std::uint64_t{0}, wrapping - 1, wrapping + 1, wrapping * 2,
       static_cast<std::uint64_t>(old / 2), std::uint64_t{1} << 31, std::uint64_t{1} << 62,
       kLargest / 2, kLargest, std::uint64_t{1} << 63}));
}

}  // namespace

std::size_t Choices::next_byte() {
  if (bytes_.empty()) return 0;
  const std::size_t value = bytes_.front();
  bytes_ = bytes_.subspan(1);
  return value;
}

std::size_t Choices::below(std::size_t count) {
  const std::size_t value = count <= 256 ? next_byte() : next_byte() << 8 | next_byte();
  return value % count;
}

Problem tiny_problem(std::uint64_t seed) {
  Problem p = verify::sample(seed);
  const std::int64_t group = std::min<std::int64_t>(p.group(), 3);
  p.hkv = std::min<std::int64_t>(p.hkv, 2);
  p.hq = p.hkv * group;
  p.d = std::min<std::int64_t>(p.d, 24);
  p.dv = std::min<std::int64_t>(p.dv, 24);
  p.page_size = std::min<std::int64_t>(p.page_size, 16);
  for (std::int64_t& q_len : p.q_len) q_len = std::min<std::int64_t>(q_len, 9);
  for (std::int64_t& kv_len : p.kv_len) {
    kv_len = std::min<std::int64_t>(kv_len, p.layout == Layout::packed ? 9 : 20);
  }
  for (std::int64_t r = 0; r < p.batch() && p.prefix > 0; ++r) {
    if (p.q_len[r] == 0) continue;
    p.prefix = std::clamp<std::int64_t>(p.kv_len[r] - p.q_len[r] + 1, 0, p.prefix);
  }
  p.prefix -= p.prefix % p.page_size;
  return p;
}

/// Elements of `size` bytes, at up to four strides in bytes.
struct Mutant::Claim {
  std::string_view name;
  const void* data = nullptr;
  std::int64_t size = 0;
  struct Axis {
    std::int64_t count = 1;
    __int128 step = 0;
  };
  std::array<Axis, 4> axes{};

  Claim(std::string_view what, const void* where, std::int64_t bytes)
      : name(what), data(where), size(1), axes{{{bytes, 1}}} {}
  template <int Rank>
  Claim(std::string_view what, const TensorView<Rank>& view)
      : name(what), data(view.data), size(static_cast<std::int64_t>(size_of(view.dtype))) {
    for (int axis = 0; axis < Rank; ++axis) {
      axes[axis] = {view.shape[axis], static_cast<__int128>(view.stride[axis]) * size};
    }
  }

  bool is_empty() const {
    return std::any_of(axes.begin(), axes.end(), [](const Axis& axis) { return axis.count == 0; });
  }
  bool is_negative() const {
    return std::any_of(axes.begin(), axes.end(), [](const Axis& axis) {
      return axis.count < 0 || (axis.count > 1 && axis.step < 0);
    });
  }
  /// Bytes from the first to past the last. A shape and a step may be 2^63 each.
  __int128 extent() const {
    constexpr __int128 kMuch = static_cast<__int128>(1) << 100;
    __int128 bytes = size;
    for (const Axis& axis : axes) {
      if (axis.count <= 1) continue;
      if (axis.step > kMuch / axis.count) return kMuch;
      bytes += axis.step * (axis.count - 1);
    }
    return bytes;
  }
  template <typename Visit>
  void for_each_element(Visit visit) const {
    const auto* first = static_cast<const std::byte*>(data);
    for (std::int64_t i = 0; i < axes[0].count; ++i) {
      for (std::int64_t j = 0; j < axes[1].count; ++j) {
        for (std::int64_t k = 0; k < axes[2].count; ++k) {
          for (std::int64_t l = 0; l < axes[3].count; ++l) {
            visit(first + static_cast<std::ptrdiff_t>(i * axes[0].step + j * axes[1].step +
                                                      k * axes[2].step + l * axes[3].step));
          }
        }
      }
    }
  }
};

struct Mutant::Claims {
  std::vector<Claim> written, read;
};

Mutant::Claims Mutant::claims() const {
  const Arguments& a = arguments_;
  const auto bytes = [](std::string_view name, auto values) {
    return Claim(name, values.data(), static_cast<std::int64_t>(values.size_bytes()));
  };
  Claims all{
      {Claim("out", a.out), bytes("workspace", a.workspace)},
      {Claim("q", a.q), Claim("k", a.k), Claim("v", a.v), bytes("q_lens", a.q_lens),
       bytes("kv_lens", a.kv_lens), bytes("sinks", a.sinks), bytes("alibi_slopes", a.alibi_slopes),
       bytes("q_scale", a.q_scale.values), bytes("k_scale", a.k_scale.values),
       bytes("v_scale", a.v_scale.values), bytes("out_scale", a.out_scale.values)}};
  if (problem_.lse) all.written.emplace_back("lse", a.lse);
  if (problem_.mask.kind == MaskKind::bits) {
    const TensorView<2> bits{const_cast<std::uint8_t*>(a.mask_bits.data),
                             DType::e4m3,
                             {a.mask_bits.rows, a.mask_bits.row_bytes},
                             {a.mask_bits.row_bytes, 1}};
    all.read.emplace_back("mask_bits", bits);
  }
  if (problem_.layout == Layout::paged) {
    const PageTable& table = a.page_table;
    const TensorView<2> ids{const_cast<std::int32_t*>(table.data),
                            DType::f32,
                            {static_cast<std::int64_t>(a.q_lens.size()), table.columns},
                            {table.stride, 1}};
    all.read.emplace_back("page_table", ids);
  }
  return all;
}

Mutant::Mutant(const Problem& problem, std::uint64_t seed, std::size_t workspace_size)
    : problem_(problem) {
  const verify::Case made(problem, seed);
  arguments_ = made.arguments();
  move_to_arena(workspace_size);
  original_ = arguments_;
  pristine_.assign(arena_.begin(), arena_.end());
}

/// Memory [begin, end) that views share, and where it goes.
struct Mutant::Block {
  std::uintptr_t begin, end;
  std::byte* to = nullptr;
};

std::vector<Mutant::Block> Mutant::blocks() const {
  Claims all = claims();
  all.read.insert(all.read.end(), all.written.begin(), all.written.end());
  std::vector<Block> blocks;
  for (const Claim& claim : all.read) {
    if (claim.is_empty()) continue;
    const std::uintptr_t begin = address_of(claim.data);
    Block block{begin, begin + static_cast<std::uintptr_t>(claim.extent())};
    std::erase_if(blocks, [&](const Block& other) {
      if (other.begin > block.end || other.end < block.begin) return false;
      block = {std::min(block.begin, other.begin), std::max(block.end, other.end)};
      return true;
    });
    blocks.push_back(block);
  }
  return blocks;
}

void Mutant::move_to_arena(std::size_t workspace_size) {
  const auto lines = [](std::size_t size) { return (size + sizeof(Line) - 1) / sizeof(Line); };
  std::vector<Block> moves = blocks();
  std::size_t count = lines(workspace_size) + 1;
  for (const Block& block : moves) count += lines(block.end - block.begin);
  lines_.resize(count);
  arena_ = std::as_writable_bytes(std::span(lines_));
  std::fill(arena_.begin(), arena_.end(), std::byte{0xff});
  std::byte* next = arena_.data();
  for (Block& block : moves) {
    block.to = next;
    std::memcpy(next, reinterpret_cast<const void*>(block.begin), block.end - block.begin);
    next += lines(block.end - block.begin) * sizeof(Line);
  }
  const auto move = [&]<typename T>(T*& pointer) {
    const std::uintptr_t from = address_of(pointer);
    pointer = nullptr;  // what points to no block belongs to an empty view
    for (const Block& block : moves) {
      if (block.begin <= from && from < block.end) {
        pointer = reinterpret_cast<T*>(block.to + (from - block.begin));
      }
    }
  };
  const auto move_span = [&]<typename T>(std::span<T>& values) {
    T* data = values.data();
    move(data);
    values = {data, values.size()};
  };
  Arguments& a = arguments_;
  move(a.q.data);
  move(a.k.data);
  move(a.v.data);
  move(a.out.data);
  move(a.lse.data);
  move(a.page_table.data);
  move(a.mask_bits.data);
  move_span(a.q_lens);
  move_span(a.kv_lens);
  move_span(a.sinks);
  move_span(a.alibi_slopes);
  for (Scale* scale : {&a.q_scale, &a.k_scale, &a.v_scale, &a.out_scale}) move_span(scale->values);
  a.workspace = {next, workspace_size};
}

void Mutant::reset() {
  arguments_ = original_;
  std::copy(pristine_.begin(), pristine_.end(), arena_.begin());
}

bool Mutant::is_in_arena(const void* data, std::size_t size) const {
  const std::uintptr_t begin = address_of(arena_.data());
  const std::uintptr_t at = address_of(data);
  return at >= begin && at <= begin + arena_.size() && size <= begin + arena_.size() - at;
}

bool Mutant::is_honest() const {
  const auto honest = [&](const Claim& claim) {
    if (claim.data == nullptr || claim.is_empty() || claim.is_negative()) return true;
    const __int128 extent = claim.extent();
    return address_of(claim.data) + extent > kLargest ||
           is_in_arena(claim.data, static_cast<std::size_t>(extent));
  };
  const Claims all = claims();
  return std::all_of(all.read.begin(), all.read.end(), honest) &&
         std::all_of(all.written.begin(), all.written.end(), honest);
}

/// After a run: whether it wrote what it may alone, and could have disturbed nobody.
std::string Mutant::audit(const std::vector<std::byte>& before) const {
  std::vector<char> writable(arena_.size(), 0);
  std::string wrong;
  const Claims all = claims();
  const auto index = [&](const std::byte* at) {
    return static_cast<std::size_t>(at - arena_.data());
  };
  for (const Claim& claim : all.written) {
    claim.for_each_element([&](const std::byte* at) {
      for (std::int64_t i = 0; i < claim.size; ++i) {
        if (writable[index(at + i)] != 0)
          wrong = std::string(claim.name) + " overlaps another output";
        writable[index(at + i)] = 1;
      }
    });
  }
  for (const Claim& claim : all.read) {
    if (claim.data == nullptr) continue;
    claim.for_each_element([&](const std::byte* at) {
      for (std::int64_t i = 0; i < claim.size; ++i) {
        if (writable[index(at + i)] != 0) wrong = std::string(claim.name) + " overlaps an output";
      }
    });
  }
  for (std::size_t i = 0; i < arena_.size(); ++i) {
    if (arena_[i] != before[i] && writable[i] == 0)
      wrong = "a byte outside the outputs was written";
  }
  return wrong;
}

Mutant::Outcome Mutant::run(const Plan& plan, Executor& executor) {
  const std::vector<std::byte> before(arena_.begin(), arena_.end());
  Outcome outcome;
  try {
    plan.run(arguments_, executor);
    outcome.accepted = true;
    outcome.wrong = audit(before);
  } catch (const Error& error) {
    outcome.message = error.what();
    if (error.code() != ErrorCode::invalid_argument) outcome.wrong = "another error than expected";
    if (outcome.message.empty()) outcome.wrong = "an error without a message";
    if (!std::equal(before.begin(), before.end(), arena_.begin()))
      outcome.wrong = "wrote before it refused";
  }
  std::copy(before.begin(), before.end(), arena_.begin());
  return outcome;
}

template <typename T>
void Mutant::mutate_pointer(T*& pointer, Choices& choices) {
  const std::size_t way = choices.below(4);
  const std::uintptr_t start = address_of(arena_.data());
  std::uintptr_t at = address_of(pointer);
  if (way == 0) at = 0;
  if (way == 1) at += 1;
  if (way == 2) at += choices.pick<std::uintptr_t>({4, 16, 64, 256});
  if (way == 3) at = (start + choices.below(std::min<std::size_t>(arena_.size(), 65536))) / 4 * 4;
  pointer = reinterpret_cast<T*>(at);
}

template <int Rank>
void Mutant::mutate_tensor(TensorView<Rank>& view, Choices& choices) {
  const std::size_t axis = choices.below(Rank);
  switch (choices.below(4)) {
    case 0:
      view.dtype = kDTypes[choices.below(std::size(kDTypes))];
      break;
    case 1:
      view.shape[axis] = odd_number(view.shape[axis], choices);
      break;
    case 2:
      view.stride[axis] = odd_number(view.stride[axis], choices);
      break;
    default:
      mutate_pointer(view.data, choices);
  }
}

template <typename T>
void Mutant::mutate_span(std::span<T>& values, Choices& choices) {
  T* data = values.data();
  std::size_t size = values.size();
  switch (choices.below(3)) {
    case 0:
      size = choices.pick<std::size_t>({0, 1, size + 1, size - 1, size / 2, ~std::size_t{0}});
      break;
    case 1:
      mutate_pointer(data, choices);
      break;
    default:
      values = {};
      return;
  }
  values = std::span<T>(data, size);
}

void Mutant::mutate_entry(std::span<const std::int32_t> values, Choices& choices) {
  if (values.empty()) return;
  const std::size_t index = choices.below(std::min<std::size_t>(values.size(), 256));
  auto* entry = reinterpret_cast<void*>(address_of(values.data()) + index * sizeof(std::int32_t));
  if (!is_in_arena(entry, sizeof(std::int32_t))) return;
  std::int32_t old = 0;
  std::memcpy(&old, entry, sizeof old);
  const std::int32_t value = choices.pick<std::int32_t>({-1, 0, 1, old / 2, old / -2, 1000,
                                                         std::numeric_limits<std::int32_t>::max(),
                                                         std::numeric_limits<std::int32_t>::min()});
  std::memcpy(entry, &value, sizeof value);
}

void Mutant::mutate_scale(Scale& scale, Choices& choices) {
  if (choices.below(2) == 0) {
    mutate_span(scale.values, choices);
  } else {
    scale.value = choices.pick<float>({0, -1, std::numeric_limits<float>::quiet_NaN(),
                                       std::numeric_limits<float>::infinity(), 1e30f});
  }
}

void Mutant::mutate_page_table(Choices& choices) {
  PageTable& table = arguments_.page_table;
  switch (choices.below(4)) {
    case 0:
      mutate_pointer(table.data, choices);
      break;
    case 1:
      table.requests = odd_number(table.requests, choices);
      break;
    case 2:
      table.columns = odd_number(table.columns, choices);
      break;
    default:
      table.stride = odd_number(table.stride, choices);
  }
}

void Mutant::mutate_mask_bits(Choices& choices) {
  MaskBits& bits = arguments_.mask_bits;
  switch (choices.below(3)) {
    case 0:
      mutate_pointer(bits.data, choices);
      break;
    case 1:
      bits.rows = odd_number(bits.rows, choices);
      break;
    default:
      bits.row_bytes = odd_number(bits.row_bytes, choices);
  }
}

std::string_view Mutant::mutate(Choices& choices) {
  Arguments& a = arguments_;
  const auto entries = [](const PageTable& table) {
    return std::span(table.data, table.data == nullptr ? 0 : 16);
  };
  switch (choices.below(20)) {
    case 0:
      return mutate_tensor(a.q, choices), "q";
    case 1:
      return mutate_tensor(a.k, choices), "k";
    case 2:
      return mutate_tensor(a.v, choices), "v";
    case 3:
    case 4:
      return mutate_tensor(a.out, choices), "out";
    case 5:
      return mutate_tensor(a.lse, choices), "lse";
    case 6:
      return mutate_page_table(choices), "page_table";
    case 7:
    case 8:
      return mutate_entry(entries(a.page_table), choices), "page ids";
    case 9:
      return mutate_span(a.q_lens, choices), "q_lens";
    case 10:
      return mutate_span(a.kv_lens, choices), "kv_lens";
    case 11:
      return mutate_entry(a.q_lens, choices), "q lengths";
    case 12:
      return mutate_entry(a.kv_lens, choices), "kv lengths";
    case 13:
      return mutate_mask_bits(choices), "mask_bits";
    case 14:
      return mutate_span(a.sinks, choices), "sinks";
    case 15:
      return mutate_span(a.alibi_slopes, choices), "alibi_slopes";
    case 16:
      return mutate_span(a.workspace, choices), "workspace";
    case 17:
      return mutate_scale(a.q_scale, choices), "q_scale";
    case 18:
      return mutate_scale(choices.below(2) == 0 ? a.k_scale : a.v_scale, choices), "kv scales";
    default:
      return mutate_scale(a.out_scale, choices), "out_scale";
  }
}

}  // namespace octavo::tests
