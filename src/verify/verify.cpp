#include "verify/verify.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "verify/case.h"
#include "verify/device_copy.h"
#include "verify/oracle.h"

namespace octavo::verify {
namespace {

/// The error as a share of its bound; infinite where the two differ in kind.
double share(double got, double expected, double bound) {
  if (got == expected) return 0;
  const double error = std::abs(got - expected);
  if (!std::isfinite(error) || bound <= 0) return std::numeric_limits<double>::infinity();
  return error / bound;
}

class Comparison {
 public:
  void check(const char* what, std::int64_t request, std::int64_t query, std::int64_t head,
             std::int64_t dim, double got, double expected, double bound) {
    const double s = share(got, expected, bound);
    result_.worst = std::max(result_.worst, s);
    if (s <= 1 || !result_.failure.empty()) return;
    std::ostringstream text;
    text.precision(9);
    text << what << " of request " << request << ", query " << query << ", head " << head;
    if (dim >= 0) text << ", dim " << dim;
    text << ": got " << got << ", expected " << expected << ", bound " << bound;
    result_.failure = text.str();
  }

  Result finish(const Case& c) {
    const std::string touched = c.touched();
    if (!touched.empty() && result_.failure.empty()) {
      result_.failure = "bytes beyond " + touched + " were written";
    }
    result_.passed = result_.failure.empty();
    return result_;
  }

 private:
  Result result_;
};

}  // namespace

Result compare(const Case& c, DType weights) {
  const Problem& p = c.problem();
  Comparison comparison;
  for (std::int64_t r = 0; r < p.batch(); ++r) {
    for (std::int64_t i = 0; i < p.q_len[r]; ++i) {
      for (std::int64_t h = 0; h < p.hq; ++h) {
        const Row row = oracle_row(c, r, i, h, weights);
        const std::int64_t token = c.first_q(r) + i;
        for (std::int64_t j = 0; j < p.dv; ++j) {
          comparison.check("out", r, i, h, j, c.out(token, h, j), row.out[j], row.out_bound[j]);
        }
        if (p.lse) comparison.check("lse", r, i, h, -1, c.lse(token, h), row.lse, row.lse_bound);
      }
    }
  }
  return comparison.finish(c);
}

void load_code(const std::vector<Problem>& problems, const Device& device,
               const std::string& kernel) {
  if (device.is_cpu()) return;
  const auto count = static_cast<std::int64_t>(problems.size());
  default_executor().parallel_for(count, [&](std::int64_t i) {
    try {
      select(problems[static_cast<std::size_t>(i)], device, kernel).plan();
    } catch (const Error&) {
    }
  });
}

Result verify(const Plan& plan, std::uint64_t seed, Executor& executor) {
  const bool cpu = plan.device().is_cpu();
  Case c(plan.problem(), seed, cpu ? Workspace{plan.workspace_size()} : gpu_workspace(plan));
  if (cpu) {
    plan.run(c.arguments(), executor);
  } else {
    DeviceCopy copy(c, plan.device());
    plan.run(copy.arguments(), Stream{});
    copy.bring_back();
  }
  return compare(c, plan.weights());
}

}  // namespace octavo::verify
