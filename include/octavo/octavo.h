#pragma once

#include "octavo/arguments.h"
#include "octavo/dtype.h"
#include "octavo/error.h"
#include "octavo/executor.h"
#include "octavo/problem.h"
#include "octavo/selection.h"
#include "octavo/stream.h"
