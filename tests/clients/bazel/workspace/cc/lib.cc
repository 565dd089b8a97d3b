#include "cc/lib.h"

#include "cc/greeting.h"
// Twice on purpose: `#pragma once` goes by device and inode, which must be stable within an action.
#include "cc/greeting.h"
#include "cc/lib.h"

std::string greet(const std::string &name) { return std::string(GREETING ", ") + name + "!"; }
