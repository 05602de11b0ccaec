// cp.async: each lane copies 4, 8 or 16 bytes from global to shared memory, in groups. (PTX ISA,
// "Data Movement and Conversion Instructions: Non-bulk copy".) Bulk copies' groups are here too.
#include <utility>

#include "async.h"

namespace emulator {
namespace {

// How many bytes are read, `size` being how many are written: a number, src-size, or none if a
// predicate, ignore-src, holds.
uint32_t source_bytes(Warp& warp, const Operand& operand, int lane, uint32_t size) {
  const uint64_t value = warp.lanes(operand)[lane];
  if (operand.is_predicate) return (value & 1) != uint64_t(operand.negated) ? 0 : size;
  if (uint32_t(value) > size)
    warp.fail(
        "copies " + std::to_string(uint32_t(value)) + " of " + std::to_string(size) + " bytes",
        lane);
  return uint32_t(value);
}

void copy(Warp& warp, int lane, uint32_t size, uint32_t bytes, uint64_t to, uint64_t from) {
  AsyncOperation operation;
  operation.name = "cp.async";
  const SharedPlace place = shared_place(warp, lane, to, size, size);
  operation.writes = {{place, size}};
  if (from % size)
    warp.fail("the global address is not a multiple of " + std::to_string(size), lane);
  const uint8_t* const source = bytes ? global_pointer(warp, lane, from, bytes, 1, false) : nullptr;
  operation.effect = [=](AsyncOperation&) {
    uint8_t* const target = place.block->shared.data() + place.offset;
    if (bytes) std::memcpy(target, source, bytes);
    std::memset(target + bytes, 0, size - bytes);
  };
  warp.copies[lane].open.push_back(start(warp, std::move(operation), false, lane));
}

// cp.async and cp.async.bulk have groups of their own.
template <bool kBulk>
void commit(Warp& warp, const Instruction&) {
  for_lanes(warp.active, [&](int lane) {
    CopyGroups& groups = (kBulk ? warp.bulk_copies : warp.copies)[lane];
    groups.committed.push_back(std::exchange(groups.open, {}));
  });
}

template <bool kBulk>
void wait(Warp& warp, uint64_t pending) {
  for_lanes(warp.active, [&](int lane) {
    auto& groups = (kBulk ? warp.bulk_copies : warp.copies)[lane].committed;
    for (; groups.size() > pending; groups.pop_front())
      for (const AsyncPointer& operation : groups.front()) {
        take_effect(*operation);
        finish(*operation, warp.now(lane), lane, /*generic=*/!kBulk);
      }
  });
}

template <bool kBulk>
void wait_group(Warp& warp, const Instruction& at) {
  wait<kBulk>(warp, warp.lanes(at.operands[0])[first_lane(warp.active)]);
}

void wait_all(Warp& warp, const Instruction& at) {
  commit<false>(warp, at);
  wait<false>(warp, 0);
}

void decode_copy(Modifiers& modifiers, Instruction& instruction) {
  if (!modifiers.take("async")) fail("the emulator does not know this copy");
  const bool is_bulk = modifiers.take("bulk");
  if (modifiers.take("commit_group")) {
    expect_operands(instruction, 0, 0);
    instruction.run = is_bulk ? commit<true> : commit<false>;
  } else if (modifiers.take("wait_group")) {
    // .read lets the writes come later, which no kernel can tell.
    modifiers.take("read");
    expect_operands(instruction, 1, 1);
    instruction.run = is_bulk ? wait_group<true> : wait_group<false>;
  } else if (is_bulk) {
    decode_bulk_copy(modifiers, instruction);
  } else if (modifiers.take("wait_all")) {
    expect_operands(instruction, 0, 0);
    instruction.run = wait_all;
  } else {
    const bool past_l1 = modifiers.take_one({"ca", "cg"}) == "cg";
    modifiers.take_one({"shared", "shared::cta"});
    modifiers.take_one({"global"});
    const size_t policies = modifiers.take("L2::cache_hint");  // the last operand
    modifiers.take_any("L2::64B L2::128B L2::256B");
    expect_operands(instruction, 3 + policies, 4 + policies);
    const bool has_bytes = instruction.operands.size() == 4 + policies;
    instruction.run = [=](Warp& warp, const Instruction& at) {
      const uint64_t size = warp.lanes(at.operands[2])[first_lane(warp.active)];
      if (size != 16 && (past_l1 || (size != 4 && size != 8)))
        warp.fail("copies " + std::to_string(size) + " bytes at a time");
      std::array<uint64_t, kLanes> to, from;
      for_lanes(warp.active, [&](int lane) {
        to[lane] = uint32_t(address_of(warp, at.operands[0], lane));
        from[lane] = address_of(warp, at.operands[1], lane);
      });
      count_shared(warp, to.data(), warp.active, uint32_t(size));
      count_global(warp, from.data(), warp.active, uint32_t(size));
      for_lanes(warp.active, [&](int lane) {
        const uint32_t bytes =
            has_bytes ? source_bytes(warp, at.operands[3], lane, uint32_t(size)) : uint32_t(size);
        copy(warp, lane, uint32_t(size), bytes, to[lane], from[lane]);
      });
    };
  }
}

}  // namespace

void add_async_decoders(Decoders& decoders) { decoders["cp"] = decode_copy; }

}  // namespace emulator
