// A block's shared memory, and for each byte of it who wrote it, who read it since, and which
// asynchronous operations have it in hand.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "clock.h"

namespace emulator {

constexpr int kWholeWarp = -1;  // as a lane: what a warp or the hardware does as a whole

// Who accesses, and what he knows. (`clock` and `fenced` are those of a warp.)
struct Access {
  Epoch epoch;  // of the lane's thread; of kWholeWarp, that of lane 0
  int lane;
  int line;  // of the PTX
  const Clock* clock;
  const Clock* fenced;
  bool asynchronous = false;  // by the async proxy, which sees only what was fenced
  bool atomic = false;
};

class SharedMemory {
 public:
  explicit SharedMemory(uint32_t size) : bytes_(size), cells_(size) {}
  uint32_t size() const { return uint32_t(bytes_.size()); }
  uint8_t* data() { return bytes_.data(); }

  // What is wrong with an access, or nothing. `from`, where not null, is what it writes.
  std::string check_read(const Access& access, uint32_t offset, uint32_t size) const;
  std::string check_write(const Access& access, uint32_t offset, uint32_t size,
                          const void* from) const;

  // That it was made; of a write before the bytes are, `from` being what check_write was given.
  void record_read(const Access& access, uint32_t offset, uint32_t size);
  void record_write(const Access& access, uint32_t offset, uint32_t size, const void* from);

  // An asynchronous operation of PTX line `line` has these bytes in hand from now on, or no longer.
  void begin(bool writes, int line, uint32_t offset, uint32_t size);
  void end(bool writes, uint32_t offset, uint32_t size);

  void mark_mbarrier(uint32_t offset, bool is_one);

 private:
  struct Cell {
    int16_t writer = -1;  // an actor
    bool initialised = false, generic = false, atomic = false, mbarrier = false;
    uint16_t async_reads = 0;
    uint32_t write_time = 0, write_line = 0;
    int async_line = 0;  // of the operation that is to write it, or that reads it
    bool async_write = false;
    uint32_t readers = 0;  // a set of them, of reader_sets_, since the last write
  };
  struct Reader {  // actors in a row, of a warp, that have read at the same time
    Epoch first;
    uint32_t lanes;
    int line;
  };
  struct Addition {  // a reader joins a set
    uint32_t set, time, line;
    int16_t actor, lane;
    bool operator==(const Addition& other) const {
      return set == other.set && time == other.time && line == other.line && actor == other.actor &&
             lane == other.lane;
    }
  };
  struct Hash {
    size_t operator()(const Addition& a) const {
      uint64_t h = a.set * 0x9e3779b97f4a7c15;
      h = (h ^ a.time) * 0xbf58476d1ce4e5b9;
      h = (h ^ a.line) * 0x94d049bb133111eb;
      return h ^ uint64_t(a.actor) << 8 ^ uint64_t(a.lane) ^ h >> 31;
    }
  };

  static bool is_ordered(const Access& access, Epoch before);
  uint32_t joined(uint32_t set, const Access& access);

  std::vector<uint8_t> bytes_;
  std::vector<Cell> cells_;
  // Sets never change, so that many cells share one.
  std::vector<std::vector<Reader>> reader_sets_{{}};
  std::unordered_map<Addition, uint32_t, Hash> additions_;
};

}  // namespace emulator
