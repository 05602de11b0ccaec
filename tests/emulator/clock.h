// Vector clocks: who has synchronised with whom. An actor is a thread, an mbarrier (for what
// arrives through it) or a warpgroup (for its wgmma); actors are numbered within their cluster, the
// threads of a warp in a row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace emulator {

struct Epoch {  // the `time`-th step of an actor
  int actor = -1;
  uint32_t time = 0;
};

class Clock {
 public:
  uint32_t operator[](int actor) const { return size_t(actor) < times_.size() ? times_[actor] : 0; }
  bool includes(Epoch epoch) const { return (*this)[epoch.actor] >= epoch.time; }
  void set(Epoch epoch) {
    if (size_t(epoch.actor) >= times_.size()) times_.resize(epoch.actor + 1);
    times_[epoch.actor] = std::max(times_[epoch.actor], epoch.time);
  }
  void join(const Clock& other) {
    if (other.times_.size() > times_.size()) times_.resize(other.times_.size());
    for (size_t i = 0; i < other.times_.size(); ++i)
      times_[i] = std::max(times_[i], other.times_[i]);
  }

 private:
  std::vector<uint32_t> times_;
};

}  // namespace emulator
