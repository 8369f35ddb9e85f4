#pragma once

#include <string>
#include <vector>

namespace octavo::tests {

/// A walk through the space of problems: each layout, dtype, mask and feature, and awkward sizes.
const std::vector<std::string>& smoke();

/// One problem for each bug that was fixed here, or that other libraries are known for.
const std::vector<std::string>& regressions();

/// Both lists.
std::vector<std::string> all_problems();

}  // namespace octavo::tests
