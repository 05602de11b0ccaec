// The rules of shared memory: an access conflicts with an earlier one of another thread, unless a
// barrier or an mbarrier is between them, as vector clocks tell.
#include "shared_memory.h"

namespace emulator {
namespace {

std::string of_line(const char* what, uint32_t line) {
  return std::string(what) + " of PTX line " + std::to_string(line);
}

}  // namespace

bool SharedMemory::is_ordered(const Access& access, Epoch before) {
  const int apart = before.actor - access.epoch.actor;
  if (apart == 0) return true;
  if (access.lane == kWholeWarp && apart > 0 && apart < 32) return true;
  return access.clock->includes(before);
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
    if (!(cell.atomic && access.atomic) && !is_ordered(access, written))
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
      for (uint32_t lanes = reader.lanes; lanes; lanes &= lanes - 1)
        if (!is_ordered(access, {reader.first.actor + __builtin_ctz(lanes), reader.first.time}))
          return of_line("race: overwrites what the load", reader.line) +
                 " reads, with no barrier between them";
    if (cell.writer < 0 || (cell.atomic && access.atomic)) continue;
    // Threads may store one value at one place, as Triton's do where a tensor is small.
    const bool same_value = from && static_cast<const uint8_t*>(from)[i - offset] == bytes_[i];
    if (!same_value && !is_ordered(access, {cell.writer, cell.write_time}))
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

void SharedMemory::record_write(const Access& access, uint32_t offset, uint32_t size,
                                const void* from) {
  for (uint32_t i = offset; i < offset + size; ++i) {
    Cell& cell = cells_[i];
    // Of several that store one value, readers must be ordered after the first.
    if (from && cell.writer >= 0 && !is_ordered(access, {cell.writer, cell.write_time})) continue;
    cell.writer = int16_t(access.epoch.actor);
    cell.write_time = access.epoch.time;
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
  const int lane = access.lane == kWholeWarp ? 0 : access.lane;
  Reader me{{access.epoch.actor - lane, access.epoch.time}, 1u << lane, access.line};
  std::vector<Reader> readers;
  for (Reader reader : reader_sets_[set]) {
    if (reader.first.actor == me.first.actor && reader.first.time == me.first.time) {
      me.lanes |= reader.lanes;
      continue;
    }
    if (reader.first.actor == me.first.actor) reader.lanes &= ~(1u << lane);  // read before
    if (reader.lanes) readers.push_back(reader);
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
