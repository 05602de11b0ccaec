// Addresses and what lies behind them. Global memory is the process's own, of which a kernel may
// touch only buffers that were registered; the other spaces are windows far above any pointer.
#pragma once

#include <cstdint>
#include <functional>

#include "machine.h"

namespace emulator {

enum class Space { kGeneric, kGlobal, kShared, kLocal, kParam, kConst };

// Where the windows lie within generic addresses. An address within shared memory is an offset
// there; mapa adds the number of another block, its rank and one, << kRankShift.
constexpr uint64_t kSharedWindow = 1ull << 56, kLocalWindow = 2ull << 56, kParamWindow = 3ull << 56;
constexpr uint64_t kWindowMask = 0xffull << 56;
constexpr int kRankShift = 24;
constexpr uint64_t kFrameOffset = 1ull << 20;  // in .param, where a lane's frames of calls begin

// The place of a byte in shared memory.
struct SharedPlace {
  Block* block;
  uint32_t offset;
};

// What an operand in brackets names, for a lane.
inline uint64_t address_of(Warp& warp, const Operand& operand, int lane) {
  if (operand.kind != Operand::Kind::kAddress) warp.fail("needs an address in brackets", lane);
  return (operand.slot < 0 ? 0 : warp.lanes(operand)[lane]) + operand.offset;
}

// Each checks that the `size` bytes at `address` (relative to its space, as an instruction with
// that space takes it) are there for the lane, aligned to `alignment`, and free of races; fails
// through warp.fail otherwise.
void load(Warp& warp, Space space, int lane, uint64_t address, void* to, uint32_t size,
          uint32_t alignment);
void store(Warp& warp, Space space, int lane, uint64_t address, const void* from, uint32_t size,
           uint32_t alignment);

// Changes `size` aligned bytes in one step that no other thread can come between.
void update(Warp& warp, Space space, int lane, uint64_t address, uint32_t size,
            const std::function<void(void*)>& change);

// The place in shared memory that an address of .shared::cluster (or of .shared::cta, which is
// part of it) names, checked to hold `size` bytes and to be aligned.
SharedPlace shared_place(Warp& warp, int lane, uint64_t address, uint32_t size, uint32_t alignment);

// Notes that a warp accesses a place itself, which must be there until then: another block may not
// end before it has synchronised with that.
void visit(Warp& warp, int lane, SharedPlace place);

// An access to shared memory by the current instruction of a lane, or of kWholeWarp.
Access access_of(const Warp& warp, int lane, bool asynchronous = false);

// A pointer to registered global memory, checked likewise; or to the param window's own bytes, for
// a tensor map that is a kernel's parameter.
uint8_t* global_pointer(Warp& warp, int lane, uint64_t address, uint32_t size, uint32_t alignment,
                        bool writes);

// Adds an instruction's accesses to the counters: each of its lanes moves `size` bytes.
void count_shared(Warp& warp, const uint64_t* addresses, uint32_t mask, uint32_t size);
void count_global(Warp& warp, const uint64_t* addresses, uint32_t mask, uint32_t size);

// The registered buffers of global memory: those of all machines.
void register_buffer(const void* data, uint64_t size, bool writable);
void unregister_buffer(const void* data);
bool is_registered(const void* data, uint64_t size, bool writes);  // all of it, and in one buffer

}  // namespace emulator
