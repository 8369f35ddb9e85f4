#pragma once

#include <memory>

#include "octavo/c.h"
#include "octavo/selection.h"

namespace octavo::capi {

/// Makes a handle that leads to the plan until it is removed. Handles are numbers that are never
/// used twice, so any value can be looked up safely.
octavo_plan* add_plan(Plan plan);

/// The plan, which lives on while the caller holds it. Throws Error(invalid_argument) for a handle
/// that is null, was removed or never was.
std::shared_ptr<const Plan> find_plan(const octavo_plan* handle);

/// Throws as `find_plan` does.
void remove_plan(const octavo_plan* handle);

}  // namespace octavo::capi
