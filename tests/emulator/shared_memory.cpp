// The rules of shared memory. An access conflicts with an earlier one of another thread, unless
// they are ordered: by a barrier or mbarrier between warps (vector clocks), by a barrier of the
// warp between its lanes (its own time has advanced).
#include "shared_memory.h"

namespace emulator {
namespace {

uint32_t lanes_of(int lane) { return lane == kWholeWarp ? 0 : 1u << lane; }

std::string of_line(const char* what, uint32_t line) {
  return std::string(what) + " of PTX line " + std::to_string(line);
}

}  // namespace

bool SharedMemory::is_ordered(const Access& access, Epoch before, uint32_t lanes_before) {
  if (before.actor != access.epoch.actor) return access.clock->includes(before);
  const bool same_thread = !(lanes_before & ~lanes_of(access.lane));
  return access.lane == kWholeWarp || same_thread || before.time < access.epoch.time;
}

std::string SharedMemory::check_read(const Access& access, uint32_t offset, uint32_t size) const {
  for (uint32_t i = offset; i < offset + size; ++i) {
    const Cell& cell = cells_[i];
    if (cell.mbarrier) return "reads an mbarrier";
    if (cell.async_write)
      return of_line("reads what the asynchronous operation", cell.async_line) +
             " has yet to write, with no wait for it";
    if (!cell.initialised) return "reads shared memory that nobody has written";
    const Epoch written{cell.writer, cell.write_time};
    if (!(cell.atomic && access.atomic) && !is_ordered(access, written, lanes_of(cell.write_lane)))
      return of_line("race: reads what the store", cell.write_line) +
             " wrote, with no barrier between them";
    if (access.asynchronous && cell.generic && !access.fenced->includes(written))
      return of_line("reads asynchronously what the store", cell.write_line) +
             " wrote, with no fence.proxy.async between them";
  }
  return "";
}

std::string SharedMemory::check_write(const Access& access, uint32_t offset, uint32_t size,
                                      const void* from) const {
  for (uint32_t i = offset; i < offset + size; ++i) {
    const Cell& cell = cells_[i];
    if (cell.mbarrier) return "overwrites an mbarrier";
    if (cell.async_write)
      return of_line("overwrites what the asynchronous operation", cell.async_line) +
             " is to write, with no wait for it";
    if (cell.async_reads)
      return of_line("overwrites what the asynchronous operation", cell.async_line) +
             " may still read, with no wait for it";
    for (const Reader& reader : reader_sets_[cell.readers])
      if (!is_ordered(access, reader.epoch, reader.lanes))
        return of_line("race: overwrites what the load", reader.line) +
               " reads, with no barrier between them";
    if (cell.writer < 0 || (cell.atomic && access.atomic)) continue;
    // Threads may store one value at one place, as Triton's do where a tensor is small.
    const bool same_value = from && static_cast<const uint8_t*>(from)[i - offset] == bytes_[i];
    if (!same_value &&
        !is_ordered(access, {cell.writer, cell.write_time}, lanes_of(cell.write_lane)))
      return of_line("race: overwrites what the store", cell.write_line) +
             " wrote, with no barrier between them";
  }
  return "";
}

void SharedMemory::record_read(const Access& access, uint32_t offset, uint32_t size) {
  uint32_t before = 0, after = joined(0, access);  // neighbours mostly share a set
  for (uint32_t i = offset; i < offset + size; ++i) {
    Cell& cell = cells_[i];
    if (cell.readers != before) {
      before = cell.readers;
      after = joined(before, access);
    }
    cell.readers = after;
  }
}

void SharedMemory::record_write(const Access& access, uint32_t offset, uint32_t size) {
  for (uint32_t i = offset; i < offset + size; ++i) {
    Cell& cell = cells_[i];
    cell.writer = int16_t(access.epoch.actor);
    cell.write_time = access.epoch.time;
    cell.write_lane = int8_t(access.lane);
    cell.write_line = access.line;
    cell.initialised = true;
    cell.generic = !access.asynchronous;
    cell.atomic = access.atomic;
    cell.readers = 0;
  }
}

uint32_t SharedMemory::joined(uint32_t set, const Access& access) {
  const Addition addition{set, access.epoch.time, uint32_t(access.line),
                          int16_t(access.epoch.actor), int16_t(access.lane)};
  const auto known = additions_.find(addition);
  if (known != additions_.end()) return known->second;
  std::vector<Reader> readers;
  Reader me{access.epoch, lanes_of(access.lane), access.line};
  for (const Reader& reader : reader_sets_[set]) {
    if (reader.epoch.actor != me.epoch.actor)
      readers.push_back(reader);
    else if (reader.epoch.time == me.epoch.time)
      me.lanes |= reader.lanes;
  }
  readers.push_back(me);
  reader_sets_.push_back(std::move(readers));
  return additions_[addition] = uint32_t(reader_sets_.size() - 1);
}

void SharedMemory::begin(bool writes, int line, uint32_t offset, uint32_t size) {
  for (uint32_t i = offset; i < offset + size; ++i) {
    cells_[i].async_line = line;
    if (writes)
      cells_[i].async_write = true;
    else
      ++cells_[i].async_reads;
  }
}

void SharedMemory::end(bool writes, uint32_t offset, uint32_t size) {
  for (uint32_t i = offset; i < offset + size; ++i) {
    if (writes)
      cells_[i].async_write = false;
    else
      --cells_[i].async_reads;
  }
}

void SharedMemory::mark_mbarrier(uint32_t offset, bool is_one) {
  for (uint32_t i = offset; i < offset + 8; ++i) cells_[i].mbarrier = is_one;
}

}  // namespace emulator
