#pragma once

#include "octavo/append.h"

namespace octavo::kv {

/// What a scale's number of values says of it.
inline ScaleKind kind_of(const Scale& scale) {
  if (scale.values.empty()) return ScaleKind::host;
  return scale.values.size() == 1 ? ScaleKind::tensor : ScaleKind::head;
}

/// What can be checked of an append without a value behind a pointer, on every device. Throws
/// Error(invalid_argument).
void check_append(const AppendArguments& arguments);

/// What depends on lengths and page ids, which are in host memory: after `check_append`. Throws
/// Error(invalid_argument).
void check_append_tables(const AppendArguments& arguments);

/// Positions and scales that are in host memory. Throws Error(invalid_argument).
void check_append_values(const AppendArguments& arguments);

/// Everything about a store. Throws Error(invalid_argument).
void check_store(const StoreArguments& arguments);

/// A rotation of heads of `d` dims: its table. Throws Error(invalid_argument).
void check_rope(const Rope& rope, std::int64_t d);

/// That every one of `rows` rows has a position in the table. Throws Error(invalid_argument).
void check_positions(const Rope& rope, std::int64_t rows);

}  // namespace octavo::kv
