#pragma once

#include <string>
#include <vector>

namespace octavo::tests {

/// A walk through the space of problems: each layout, dtype, mask and feature, and awkward sizes.
const std::vector<std::string>& smoke();

/// One problem for each bug that was fixed here, or that other libraries are known for.
const std::vector<std::string>& regressions();

/// Crosses of layouts, dtypes, masks and features, with awkward lengths, groups, pages and head
/// dims: thousands.
const std::vector<std::string>& full();

/// All lists.
std::vector<std::string> all_problems();

}  // namespace octavo::tests
