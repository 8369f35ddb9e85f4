// Bytes: a tiny problem, then changes of its arguments. Every kernel that can computes it, or
// refuses the arguments before it writes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "core/kernel.h"
#include "fuzzer.h"
#include "mutant.h"
#include "octavo/octavo.h"

namespace octavo::tests {
namespace {

/// A problem, ready to be spoilt.
struct Subject {
  Problem problem;
  std::vector<Plan> plans;
  std::unique_ptr<Mutant> mutant;

  explicit Subject(std::uint64_t seed) : problem(tiny_problem(seed)) {
    const Device device = Device::cpu();
    std::size_t workspace_size = 0;
    const Selection selection = select(problem, device);
    for (const Candidate& candidate : selection.candidates()) {
      if (!candidate.reasons.empty()) continue;
      plans.push_back(select(problem, device, candidate.kernel->name).plan());
      workspace_size = std::max(workspace_size, plans.back().workspace_size());
    }
    mutant = std::make_unique<Mutant>(problem, seed, workspace_size);
  }
};

void fuzz(Choices choices) {
  static ThreadPool pool(1);
  static std::map<std::uint64_t, Subject> subjects;  // to make one costs more than to run it
  const std::uint64_t seed = choices.below(1024);
  const Subject& subject = subjects.try_emplace(seed, seed).first->second;
  subject.mutant->reset();
  for (std::size_t changes = choices.below(5); changes > 0; --changes) {
    subject.mutant->mutate(choices);
  }
  if (!subject.mutant->is_honest()) return;
  for (const Plan& plan : subject.plans) {
    const std::string wrong = subject.mutant->run(plan, pool).wrong;
    require(wrong.empty(), std::string(plan.kernel()) + ": " + subject.problem.to_string() +
                               ", seed " + std::to_string(seed) + ": " + wrong);
  }
}

}  // namespace
}  // namespace octavo::tests

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  octavo::tests::fuzz(octavo::tests::Choices({data, size}));
  return 0;
}
