#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "core/text.h"
#include "octavo/problem.h"

namespace octavo {
namespace {

std::string_view name(Layout layout) {
  switch (layout) {
    case Layout::paged:
      return "paged";
    case Layout::ragged:
      return "ragged";
    case Layout::contiguous:
      return "contiguous";
    case Layout::packed:
      return "packed";
  }
  return "?";
}

std::string print(const Mask& mask) {
  switch (mask.kind) {
    case MaskKind::none:
      return "none";
    case MaskKind::causal:
      return "causal";
    case MaskKind::window:
      return concat("window:", mask.left, ",", mask.right);
    case MaskKind::chunked:
      return concat("chunked:", mask.chunk);
    case MaskKind::bits:
      return "bits";
  }
  return "?";
}

/// The shortest text that reads back as the same number.
std::string print(double number) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, number).ptr);
}

std::string print(const std::vector<std::int64_t>& lengths) {
  if (lengths.empty()) return "";
  std::string text = std::to_string(lengths[0]);
  if (std::all_of(lengths.begin(), lengths.end(), [&](auto n) { return n == lengths[0]; })) {
    return text;
  }
  for (std::size_t i = 1; i < lengths.size(); ++i) text += concat(",", lengths[i]);
  return text;
}

std::string print_scale(std::string_view key, ScaleKind kind) {
  if (kind == ScaleKind::host) return "";
  return concat(" ", key, "=", kind == ScaleKind::tensor ? "tensor" : "head");
}

std::int64_t largest(const std::vector<std::int64_t>& lengths) {
  return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
}

}  // namespace

std::string Problem::to_string() const {
  std::string text = concat(name(layout), " q=", octavo::name(q), " kv=", octavo::name(kv),
                            " out=", octavo::name(out), " hq=", hq, " hkv=", hkv, " d=", d);
  if (dv != d) text += concat(" dv=", dv);
  if (layout == Layout::paged) {
    text += concat(" page=", page_size, order == PageOrder::nhd ? " order=nhd" : " order=hnd",
                   pool == Pool::joint ? " pool=joint" : " pool=split");
  }
  text += concat(" mask=", print(mask));
  if (cap) text += concat(" cap=", print(*cap));
  if (scale) text += concat(" scale=", print(*scale));
  text += concat(print_scale("q_scale", q_scale), print_scale("k_scale", k_scale),
                 print_scale("v_scale", v_scale), print_scale("out_scale", out_scale));
  if (sinks) text += " sinks";
  if (alibi) text += " alibi";
  if (lse) text += " lse";
  if (invariant) text += " invariant";
  if (split != 0) text += concat(" split=", split);
  if (prefix != 0) text += concat(" prefix=", prefix);
  return concat(text, " b=", batch(), " q_len=", print(q_len), " kv_len=", print(kv_len));
}

std::int64_t Problem::total_q() const {
  return std::accumulate(q_len.begin(), q_len.end(), std::int64_t{0});
}
std::int64_t Problem::max_q_len() const { return largest(q_len); }
std::int64_t Problem::max_kv_len() const { return largest(kv_len); }
double Problem::softmax_scale() const {
  return scale ? *scale : 1.0 / std::sqrt(static_cast<double>(d));
}

}  // namespace octavo
