// What the executor needs of wgmma.
#pragma once

#include <string>

#include "machine.h"

namespace emulator {

// What a warp that exits has left undone, or nothing: groups that were not committed or waited for.
std::string unfinished_wgmma(const Warp& warp);

}  // namespace emulator
