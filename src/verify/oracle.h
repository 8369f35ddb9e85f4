#pragma once

#include <cstdint>
#include <vector>

#include "verify/case.h"

namespace octavo::verify {

/// The right result of one query head of one token, and how far from it a kernel may be.
struct Row {
  std::vector<double> out;
  std::vector<double> out_bound;
  double lse = 0;
  double lse_bound = 0;
};

/// In double precision, straight from the definition. `weights`: what the kernel rounds weights to.
Row oracle_row(const Case& c, std::int64_t request, std::int64_t query, std::int64_t head,
               DType weights);

}  // namespace octavo::verify
