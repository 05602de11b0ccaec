// A block's shared memory, and for each byte of it who wrote it, who read it since, and which
// asynchronous operations have it in hand.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "clock.h"

namespace emulator {

class Warp;
struct AsyncOperation;

// An access of one lane or, for what a warp or the hardware does as a whole, of lane kWholeWarp.
struct Access {
  Epoch epoch;
  int lane;
  int line;  // of the PTX
  const Clock* clock;
  bool asynchronous = false;      // by the async proxy, which sees only what was fenced
  const Clock* fenced = nullptr;  // where asynchronous
};
constexpr int kWholeWarp = -1;

class SharedMemory {
 public:
  explicit SharedMemory(uint32_t size) : bytes_(size), cells_(size) {}
  uint32_t size() const { return uint32_t(bytes_.size()); }

  // Each returns what is wrong with the access, or nothing; it is made in both cases.
  std::string read(const Access& access, uint32_t offset, void* to, uint32_t size);
  std::string write(const Access& access, uint32_t offset, const void* from, uint32_t size);

  // The same without the bytes: for what the hardware reads or writes by itself.
  std::string note_read(const Access& access, uint32_t offset, uint32_t size);
  std::string note_write(const Access& access, uint32_t offset, uint32_t size);

  // An asynchronous operation `id` has these bytes in hand from now on, or no longer.
  void begin(uint32_t id, bool writes, uint32_t offset, uint32_t size);
  void end(uint32_t id, bool writes, uint32_t offset, uint32_t size);

  void mark_mbarrier(uint32_t offset, bool is_one);

  uint8_t* data() { return bytes_.data(); }

 private:
  struct Cell {
    uint32_t write_time = 0, write_line = 0;
    int16_t writer = -1;
    int8_t write_lane = 0;
    bool initialised = false, generic = false, mbarrier = false;
    uint16_t async_reads = 0;
    uint32_t async_write = 0;  // id + 1 of the operation that is to write it
    uint32_t readers = 0;      // of reader_sets_, since it was last written
  };
  struct Reader {
    Epoch epoch;
    uint32_t lanes;
    int line;
  };
  uint32_t with_reader(uint32_t set, const Access& access);
  std::string conflicts_with_write(const Cell& cell, const Access& access, const char* what) const;

  std::vector<uint8_t> bytes_;
  std::vector<Cell> cells_;
  std::vector<std::vector<Reader>> reader_sets_{{}};
  std::map<std::vector<uint64_t>, uint32_t> set_ids_;
};

}  // namespace emulator
