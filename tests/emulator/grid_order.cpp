#include "grid_order.h"

#include <algorithm>
#include <iterator>

#include "machine.h"

namespace emulator {
namespace {

// "griddepcontrol.wait causes the executing thread to wait until all prerequisite grids in flight
// have completed and all the memory operations from [them] are performed and made visible to the
// current grid." So what a lane has synchronised with may have waited for it.
bool has_waited(const Warp& warp, int lane) {
  if (warp.waited_for_grid >> lane & 1) return true;
  const std::vector<Epoch>& waits = warp.block.cluster.grid_waits;
  return std::any_of(waits.begin(), waits.end(),
                     [&](const Epoch& wait) { return warp.clock.includes(wait); });
}

}  // namespace

void Ranges::add(uint64_t begin, uint64_t end) {
  auto at = ends_.upper_bound(begin);
  if (at != ends_.begin() && std::prev(at)->second >= begin) {
    --at;
    begin = at->first;
  }
  while (at != ends_.end() && at->first <= end) {
    end = std::max(end, at->second);
    at = ends_.erase(at);
  }
  ends_[begin] = end;
}

void Ranges::add(const Ranges& other) {
  for (const auto& [begin, end] : other.ends_) add(begin, end);
}

bool Ranges::overlap(uint64_t begin, uint64_t end) const {
  const auto after = ends_.lower_bound(end);  // the first that begins too late
  return after != ends_.begin() && std::prev(after)->second > begin;
}

void order_access(Warp& warp, int lane, uint64_t address, uint32_t size, bool writes) {
  const Machine& machine = warp.block.cluster.machine;
  const uint64_t end = address + size;
  if (const GlobalAccesses* const before = machine.before) {
    const bool was_written = before->writes.overlap(address, end);
    if ((was_written || (writes && before->reads.overlap(address, end))) && !has_waited(warp, lane))
      warp.fail(std::string(writes ? "overwrites" : "reads") + " what the grid before it " +
                    (was_written ? "writes" : "reads") + ", with no griddepcontrol.wait",
                lane);
  }
  if (machine.accesses)
    (writes ? machine.accesses->writes : machine.accesses->reads).add(address, end);
}

void wait_for_grid_before(Warp& warp) {
  warp.waited_for_grid |= warp.active;
  if (!warp.block.cluster.machine.before) return;
  for_lanes(warp.active,
            [&](int lane) { warp.block.cluster.grid_waits.push_back(warp.now(lane)); });
}

}  // namespace emulator
