#include <charconv>
#include <cmath>
#include <set>

#include "core/limits.h"
#include "core/text.h"
#include "octavo/error.h"
#include "octavo/problem.h"

namespace octavo {
namespace {

/// One `key=value` (or flag) of the line, with the errors that name it.
struct Field {
  std::string_view key;
  std::string_view value;

  [[noreturn]] void fail(std::string_view expected) const {
    throw Error(ErrorCode::invalid_problem,
                concat(printable(key), "=", printable(value), ": expected ", expected));
  }

  std::int64_t integer(std::string_view text) const {
    std::int64_t number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size()) fail("an integer");
    return number;
  }
  std::int64_t integer() const { return integer(value); }

  double number() const {
    double number = 0;
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size() || !std::isfinite(number)) {
      fail("a finite number");
    }
    return number;
  }

  DType dtype() const {
    std::optional<DType> dtype = parse_dtype(value);
    if (!dtype) fail("f32, f16, bf16, e4m3 or e5m2");
    return *dtype;
  }

  ScaleKind scale_kind() const {
    if (value == "tensor") return ScaleKind::tensor;
    if (value == "head") return ScaleKind::head;
    fail("tensor or head");
  }

  std::vector<std::int64_t> list() const {
    std::vector<std::int64_t> numbers;
    std::string_view rest = value;
    for (;;) {
      std::size_t comma = rest.find(',');
      numbers.push_back(integer(rest.substr(0, comma)));
      if (comma == std::string_view::npos) return numbers;
      rest.remove_prefix(comma + 1);
    }
  }

  Mask mask() const {
    std::size_t colon = value.find(':');
    std::string_view kind = value.substr(0, colon);
    bool bare = colon == std::string_view::npos;
    std::string_view rest = bare ? std::string_view{} : value.substr(colon + 1);
    if (bare && kind == "none") return {};
    if (bare && kind == "causal") return {.kind = MaskKind::causal};
    if (bare && kind == "bits") return {.kind = MaskKind::bits};
    if (!bare && kind == "chunked") return {.kind = MaskKind::chunked, .chunk = integer(rest)};
    std::size_t comma = rest.find(',');
    if (!bare && kind == "window" && comma != std::string_view::npos) {
      return {.kind = MaskKind::window,
              .left = integer(rest.substr(0, comma)),
              .right = integer(rest.substr(comma + 1))};
    }
    fail("none, causal, window:LEFT,RIGHT, chunked:C or bits");
  }
};

Layout parse_layout(std::string_view text) {
  if (text == "paged") return Layout::paged;
  if (text == "ragged") return Layout::ragged;
  if (text == "contiguous") return Layout::contiguous;
  if (text == "packed") return Layout::packed;
  throw Error(
      ErrorCode::invalid_problem,
      concat("layout '", printable(text), "': expected paged, ragged, contiguous or packed first"));
}

constexpr std::string_view kFlags[] = {"sinks", "alibi", "lse", "invariant"};

bool is_flag(std::string_view key) {
  for (std::string_view flag : kFlags) {
    if (flag == key) return true;
  }
  return false;
}

/// The fields that other fields' defaults depend on.
struct Given {
  std::set<std::string_view> keys;
  std::int64_t batch = 0;

  bool has(std::string_view key) const { return keys.count(key) != 0; }
};

void set_flag(Problem& problem, std::string_view flag) {
  if (flag == "sinks") problem.sinks = true;
  if (flag == "alibi") problem.alibi = true;
  if (flag == "lse") problem.lse = true;
  if (flag == "invariant") problem.invariant = true;
}

/// False if there is no such key.
bool set_paging(Problem& problem, const Field& field) {
  if (field.key == "order") {
    if (field.value != "nhd" && field.value != "hnd") field.fail("nhd or hnd");
    problem.order = field.value == "nhd" ? PageOrder::nhd : PageOrder::hnd;
  } else if (field.key == "pool") {
    if (field.value != "joint" && field.value != "split") field.fail("joint or split");
    problem.pool = field.value == "joint" ? Pool::joint : Pool::split;
  } else if (field.key == "page") {
    problem.page_size = field.integer();
  } else if (field.key == "prefix") {
    problem.prefix = field.integer();
  } else {
    return false;
  }
  if (problem.layout != Layout::paged) field.fail("no such key without the layout paged");
  return true;
}

bool set_numbers(Problem& problem, const Field& field) {
  std::string_view key = field.key;
  if (key == "q") {
    problem.q = field.dtype();
  } else if (key == "kv") {
    problem.kv = field.dtype();
  } else if (key == "out") {
    problem.out = field.dtype();
  } else if (key == "hq") {
    problem.hq = field.integer();
  } else if (key == "hkv") {
    problem.hkv = field.integer();
  } else if (key == "d") {
    problem.d = field.integer();
  } else if (key == "dv") {
    problem.dv = field.integer();
  } else {
    return false;
  }
  return true;
}

bool set_semantics(Problem& problem, const Field& field) {
  std::string_view key = field.key;
  if (key == "mask") {
    problem.mask = field.mask();
  } else if (key == "cap") {
    problem.cap = field.number();
  } else if (key == "scale") {
    problem.scale = field.number();
  } else if (key == "q_scale") {
    problem.q_scale = field.scale_kind();
  } else if (key == "k_scale") {
    problem.k_scale = field.scale_kind();
  } else if (key == "v_scale") {
    problem.v_scale = field.scale_kind();
  } else if (key == "out_scale") {
    problem.out_scale = field.scale_kind();
  } else {
    return false;
  }
  return true;
}

bool set_lengths(Problem& problem, Given& given, const Field& field) {
  if (field.key == "q_len") {
    problem.q_len = field.list();
  } else if (field.key == "kv_len") {
    problem.kv_len = field.list();
  } else if (field.key == "b") {
    given.batch = field.integer();
    if (given.batch < 1 || given.batch > kMaxBatch) {
      field.fail(concat("an integer from 1 to ", kMaxBatch));
    }
  } else if (field.key == "split") {
    problem.split = field.integer();
    if (problem.split < 1) field.fail("an integer of at least 1");
  } else {
    return false;
  }
  return true;
}

void spread(std::vector<std::int64_t>& lengths, std::string_view key, std::int64_t batch) {
  if (lengths.size() == 1) lengths.resize(static_cast<std::size_t>(batch), lengths[0]);
  if (static_cast<std::int64_t>(lengths.size()) != batch) {
    throw Error(ErrorCode::invalid_problem,
                concat(key, " has ", lengths.size(),
                       " values: expected one, or one for each of b=", batch, " requests"));
  }
}

void fill_defaults(Problem& problem, const Given& given) {
  for (std::string_view key : {"q", "hq", "d", "q_len", "kv_len"}) {
    if (!given.has(key)) throw Error(ErrorCode::invalid_problem, concat(key, "= is missing"));
  }
  if (!given.has("kv")) problem.kv = problem.q;
  if (!given.has("out")) problem.out = is_fp8(problem.q) ? DType::bf16 : problem.q;
  if (!given.has("hkv")) problem.hkv = problem.hq;
  if (!given.has("dv")) problem.dv = problem.d;
  if (!given.has("pool") && problem.layout == Layout::paged && problem.dv != problem.d) {
    problem.pool = Pool::split;
  }
  std::int64_t batch =
      given.has("b")
          ? given.batch
          : static_cast<std::int64_t>(std::max(problem.q_len.size(), problem.kv_len.size()));
  spread(problem.q_len, "q_len", batch);
  spread(problem.kv_len, "kv_len", batch);
}

}  // namespace

Problem Problem::parse(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  Problem problem;
  Given given;
  bool first = true;
  while (true) {
    std::size_t start = text.find_first_not_of(kSpace);
    if (start == std::string_view::npos) break;
    text.remove_prefix(start);
    std::string_view word = text.substr(0, text.find_first_of(kSpace));
    text.remove_prefix(word.size());
    if (first) {
      problem.layout = parse_layout(word);
      first = false;
      continue;
    }
    std::size_t equals = word.find('=');
    bool bare = equals == std::string_view::npos;
    Field field{word.substr(0, equals), bare ? std::string_view{} : word.substr(equals + 1)};
    if (!given.keys.insert(field.key).second) {
      throw Error(ErrorCode::invalid_problem, concat("repeated key '", printable(field.key),
                                                     "' (again in '", printable(word), "')"));
    }
    if (bare && is_flag(field.key)) {
      set_flag(problem, field.key);
    } else if (bare || !(set_paging(problem, field) || set_numbers(problem, field) ||
                         set_semantics(problem, field) || set_lengths(problem, given, field))) {
      throw Error(ErrorCode::invalid_problem,
                  concat("unknown key '", printable(field.key), "' in '", printable(word), "'"));
    }
  }
  if (first) parse_layout("");
  fill_defaults(problem, given);
  return problem;
}

}  // namespace octavo
