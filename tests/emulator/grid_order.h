// Grids of a programmatic launch, which may begin while the one before it is at work: until
// griddepcontrol.wait they may touch nothing that it writes, and write nothing that it reads.
#pragma once

#include <cstdint>
#include <map>

namespace emulator {

class Warp;

// Ranges of addresses, those that touch being one.
class Ranges {
 public:
  void add(uint64_t begin, uint64_t end);
  void add(const Ranges& other);
  bool overlap(uint64_t begin, uint64_t end) const;

 private:
  std::map<uint64_t, uint64_t> ends_;  // by where they begin
};

// Of a grid, or of several.
struct GlobalAccesses {
  Ranges reads, writes;
};

// Fails where a lane may not access global memory yet; notes that it does.
void order_access(Warp& warp, int lane, uint64_t address, uint32_t size, bool writes);

// The active lanes wait for the grid before theirs.
void wait_for_grid_before(Warp& warp);

}  // namespace emulator
