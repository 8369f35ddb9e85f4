#pragma once

#include "octavo/append.h"
#include "octavo/arguments.h"
#include "octavo/dtype.h"
#include "octavo/error.h"
#include "octavo/executor.h"
#include "octavo/kv_cache.h"
#include "octavo/merge_states.h"
#include "octavo/prefix.h"
#include "octavo/problem.h"
#include "octavo/selection.h"
#include "octavo/stream.h"
