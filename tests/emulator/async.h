// Asynchronous operations: each takes effect at a random moment between its start and the wait for
// it. Until then nobody may overwrite what it reads, or touch what it writes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "machine.h"
#include "memory.h"

namespace emulator {

struct SharedRange {
  SharedPlace place;
  uint32_t size;
};

struct AsyncOperation {
  int line = 0;  // of the PTX, where it was started
  std::string name;
  Cluster* cluster = nullptr;
  std::vector<SharedRange> reads, writes;
  std::function<void(AsyncOperation&)> effect;  // moves the bytes, completes transactions
  size_t index = 0;                             // in the cluster's flight
  bool took_effect = false, is_over = false;
};

// Puts an operation in flight: checks that the warp may read and write its ranges now, and marks
// them. `asynchronous` where the async proxy does it (bulk copies, wgmma), and so sees of shared
// memory only what was fenced. May take effect at once.
AsyncPointer start(Warp& warp, AsyncOperation operation, bool asynchronous, int lane);

// Fails unless the warp may have the async proxy read these ranges now.
void check_async_reads(Warp& warp, const std::vector<SharedRange>& reads, int lane);

// Lets it take effect, if it has not; removes it from the cluster's flight.
void take_effect(AsyncOperation& operation);

// It has been waited for: its ranges are free again, and count as read and written at `epoch`
// (whose clocks those who may touch them next must include), by the generic proxy or the other.
void finish(AsyncOperation& operation, Epoch epoch, int lane, bool generic);

// Decodes cp.async.bulk and cp.reduce.async.bulk, but for their groups. (bulk_copy.cpp)
void decode_bulk_copy(Modifiers& modifiers, Instruction& instruction);

}  // namespace emulator
