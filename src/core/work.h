#pragma once

#include <cstdint>

#include "octavo/problem.h"

namespace octavo {

/// About how many pairs of a query token and a key it sees a request has.
double visible_pairs(const Problem& problem, std::int64_t request);

/// Multiplications and additions of a problem: (d + dv) for each visible pair of query and key.
double multiply_adds(const Problem& problem);

}  // namespace octavo
