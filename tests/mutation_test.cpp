#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "core/kernel.h"
#include "core/text.h"
#include "mutant.h"
#include "octavo/octavo.h"
#include "problems.h"
#include "verify/random.h"

namespace octavo::tests {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::size_t below(verify::Random& random, std::size_t count) {
  return static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(count) - 1));
}

/// A text like the one given, with a few letters and words changed.
std::string mutated(std::string text, verify::Random& random) {
  constexpr char kAlphabet[] = "abdehkpqsvx0159=,.:-_+ \t\n\xff";  // and its final zero
  const std::int64_t edits = random.integer(1, 3);
  for (std::int64_t edit = 0; edit < edits; ++edit) {
    const std::size_t at = below(random, text.size() + 1);
    const char letter = kAlphabet[below(random, sizeof kAlphabet)];
    switch (random.integer(0, 4)) {
      case 0:
        text.insert(at, 1, letter);
        break;
      case 1:
        if (at < text.size()) text[at] = letter;
        break;
      case 2:
        if (at < text.size()) text.erase(at, below(random, 4) + 1);
        break;
      case 3:
        text.insert(at, text.substr(below(random, text.size() + 1), below(random, 12)));
        break;
      default:
        if (random.chance(0.05)) text.resize(at);
    }
  }
  return text;
}

/// Bytes without meaning, or words of the language in any order.
std::string random_text(const std::vector<std::string>& words, verify::Random& random) {
  std::string text;
  const bool of_bytes = random.chance(0.3);
  for (std::int64_t left = random.integer(0, 20); left > 0; --left) {
    if (of_bytes) {
      text += static_cast<char>(random.integer(0, 255));
    } else {
      text += words[below(random, words.size())] + kSpace[below(random, kSpace.size())];
    }
  }
  return text;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  while (true) {
    const std::size_t begin = text.find_first_not_of(kSpace);
    if (begin == std::string_view::npos) return words;
    text.remove_prefix(begin);
    words.emplace_back(text.substr(0, text.find_first_of(kSpace)));
    text.remove_prefix(words.back().size());
  }
}

/// The message of the refusal of a text by `parse`; empty if it parses.
std::string parse_error(const std::string& text) {
  try {
    Problem::parse(text);
    return {};
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_problem) << text;
    EXPECT_STRNE(error.what(), "") << text;
    return error.what();
  }
}

/// The message names a key that is missing or has too few values, or else shows the first word at
/// which parsing fails like the whole text does.
void expect_named(const std::string& text, const std::string& message) {
  for (const char* of_all_words : {"q=", "hq=", "d=", "q_len=", "kv_len="}) {
    if (message == std::string(of_all_words) + " is missing") return;
  }
  for (const char* of_all_words : {"q_len has ", "kv_len has ", "layout ''"}) {
    if (message.starts_with(of_all_words)) return;
  }
  std::string start;
  for (const std::string& word : words_of(text)) {
    start += word + ' ';
    if (parse_error(start) != message) continue;
    EXPECT_NE(message.find(printable(word)), std::string::npos)
        << printable(text) << "\nmessage: " << message << "\nlacks: " << printable(word);
    return;
  }
  ADD_FAILURE() << printable(text) << "\nmessage: " << message;
}

/// Parses, validates and selects. True if all went well; false if the text was refused.
bool survives(const std::string& text, const Device& device) {
  const std::string message = parse_error(text);
  if (!message.empty()) {
    expect_named(text, message);
    return false;
  }
  const Problem problem = Problem::parse(text);
  EXPECT_EQ(Problem::parse(problem.to_string()), problem) << text;
  try {
    select(problem, device);
    return true;
  } catch (const Error& error) {
    EXPECT_TRUE(error.code() == ErrorCode::invalid_problem ||
                error.code() == ErrorCode::unsupported)
        << text << "\n"
        << error.what();
    EXPECT_STRNE(error.what(), "") << text;
    return false;
  }
}

TEST(Mutation, TextsAreSelectedOrRefusedByName) {
  constexpr int kTexts = 100'000;
  const Device device = Device::cpu();
  const std::vector<std::string> seeds = all_problems();
  std::vector<std::string> words;
  for (const std::string& seed : seeds) {
    for (std::string& word : words_of(seed)) words.push_back(std::move(word));
  }
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  verify::Random random(7);
  int selected = 0;
  for (int i = 0; i < kTexts && !testing::Test::HasFailure(); ++i) {
    selected += survives(random_text(words, random), device) ? 1 : 0;
    selected += survives(mutated(seeds[below(random, seeds.size())], random), device) ? 1 : 0;
  }
  std::printf("%d of %d selected\n", selected, 2 * kTexts);
  EXPECT_GT(selected, kTexts / 20);
}

TEST(Mutation, BadValuesAreRefusedByKeyAndValue) {
  for (const std::string& text : all_problems()) {
    const std::vector<std::string> words = words_of(text);
    for (std::size_t i = 0; i < words.size(); ++i) {
      std::string changed;
      std::string bad;
      for (std::size_t j = 0; j < words.size(); ++j) {
        std::string word = words[j];
        if (i == j) bad = word = word.substr(0, word.find('=')) + "=@\x01";
        changed += word + ' ';
      }
      const std::string message = parse_error(changed);
      ASSERT_NE(message.find(printable(bad)), std::string::npos) << changed << "\n" << message;
    }
  }
}

/// The part, of equal parts of all seeds.
class ArgumentMutation : public testing::TestWithParam<std::uint64_t> {};

TEST_P(ArgumentMutation, RunsOrIsRefusedBeforeAnyOutput) {
  constexpr std::uint64_t kCases = 400;
  constexpr int kMutants = 50;  // of a case
  const Device device = Device::cpu();
  ThreadPool pool(1);
  verify::Random random(11 + GetParam());
  std::map<std::string_view, int> refusals;
  int accepted = 0;
  int refused = 0;
  int dishonest = 0;
  for (std::uint64_t i = 0; i < kCases; ++i) {
    const std::uint64_t seed = GetParam() * kCases + i;
    const Problem problem = tiny_problem(seed);
    std::vector<Plan> plans;
    std::size_t workspace_size = 0;
    const Selection selection = select(problem, device);
    for (const Candidate& candidate : selection.candidates()) {
      if (!candidate.reasons.empty()) continue;
      plans.push_back(select(problem, device, candidate.kernel->name).plan());
      workspace_size = std::max(workspace_size, plans.back().workspace_size());
    }
    Mutant mutant(problem, seed, workspace_size);
    for (const Plan& plan : plans) {
      const Mutant::Outcome outcome = mutant.run(plan, pool);
      ASSERT_TRUE(outcome.accepted && outcome.wrong.empty()) << problem.to_string() << "\n"
                                                             << outcome.message << outcome.wrong;
    }
    for (int number = 0; number < kMutants; ++number) {
      mutant.reset();
      std::vector<std::uint8_t> bytes(48);
      for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random.integer(0, 255));
      Choices choices(bytes);
      std::string_view last;
      const std::size_t changes = 1 + choices.below(3);
      for (std::size_t change = 0; change < changes; ++change) last = mutant.mutate(choices);
      if (!mutant.is_honest()) {
        ++dishonest;
        --number;
        continue;
      }
      for (const Plan& plan : plans) {
        const Mutant::Outcome outcome = mutant.run(plan, pool);
        ASSERT_EQ(outcome.wrong, "") << plan.kernel() << ": " << problem.to_string() << ", seed "
                                     << seed << ", mutant " << number << ", " << last << "\n"
                                     << outcome.message;
        ++(outcome.accepted ? accepted : refused);
        if (!outcome.accepted && changes == 1) ++refusals[last];
      }
    }
  }
  std::printf("%d accepted, %d refused; %d left out\n", accepted, refused, dishonest);
  for (const auto& [what, count] : refusals) {
    std::printf("%8d %s\n", count, std::string(what).c_str());
  }
  EXPECT_GT(accepted, (accepted + refused) / 10);
  EXPECT_EQ(refusals.size(), Mutant::kKinds);
}

INSTANTIATE_TEST_SUITE_P(Quick, ArgumentMutation, testing::Values(0));
INSTANTIATE_TEST_SUITE_P(Full, ArgumentMutation, testing::Range<std::uint64_t>(1, 5));

}  // namespace
}  // namespace octavo::tests
