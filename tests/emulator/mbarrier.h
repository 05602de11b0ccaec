// What asynchronous copies need of mbarriers.
#pragma once

#include <cstdint>

#include "machine.h"
#include "memory.h"

namespace emulator {

// The mbarrier at a place in shared memory; fails where none was initialised, or where the warp
// has not synchronised with its initialisation.
Mbarrier& mbarrier_at(Warp& warp, int lane, SharedPlace place);

// The moment at which what an asynchronous copy writes is ordered by this mbarrier: pass it to
// `finish` before the call of complete_transactions.
inline Epoch completion_epoch(const Mbarrier& mbarrier) {
  return {mbarrier.actor, uint32_t(mbarrier.phase + 1)};
}

// The asynchronous copy of PTX line `line` has moved `bytes`; completes the phase if nothing else
// is awaited.
void complete_transactions(Mbarrier& mbarrier, int64_t bytes, int line);

}  // namespace emulator
