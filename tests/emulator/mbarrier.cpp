// mbarrier objects: arrivals, bytes that asynchronous copies owe, phases. (PTX ISA, "Parallel
// Synchronization and Communication Instructions: mbarrier".)
#include "mbarrier.h"

namespace emulator {
namespace {

constexpr uint32_t kMostArrivals = (1 << 20) - 1;  // PTX ISA, "Contents of the mbarrier object"
constexpr int64_t kMostBytes = (1 << 20) - 1;
constexpr uint32_t kBytes = 8;

// How often a try_wait says no although the phase is over, or at once though it could have waited:
// its time limit is the implementation's, so loops around it must cope with both.
constexpr double kFalseNo = 0.1;

SharedPlace place_of(Warp& warp, const Operand& operand, int lane) {
  const SharedPlace place =
      shared_place(warp, lane, address_of(warp, operand, lane), kBytes, kBytes);
  visit(warp, lane, place);
  return place;
}

void complete_if_due(Mbarrier& mbarrier) {
  if (mbarrier.pending || mbarrier.transactions) return;
  ++mbarrier.phase;
  mbarrier.pending = mbarrier.expected;
  mbarrier.clock.set({mbarrier.actor, uint32_t(mbarrier.phase)});
  mbarrier.released = mbarrier.clock;
  mbarrier.released_fenced = mbarrier.fenced;
}

void expect(Warp& warp, Mbarrier& mbarrier, int64_t bytes, int lane) {
  mbarrier.transactions += bytes;
  if (mbarrier.transactions > kMostBytes) warp.fail("more bytes pending than 2**20 - 1", lane);
}

void initialise(Warp& warp, const Instruction& at, int lane) {
  const SharedPlace place = place_of(warp, at.operands[0], lane);
  const uint32_t count = uint32_t(warp.lanes(at.operands[1])[lane]);
  if (count == 0 || count > kMostArrivals)
    warp.fail("an mbarrier expects 1 to 2**20 - 1 arrivals, not " + std::to_string(count), lane);
  const uint64_t opaque = warp.block.cluster.machine.dice();
  store(warp, Space::kShared, lane, place.offset, &opaque, kBytes, kBytes);
  place.block->shared.mark_mbarrier(place.offset, true);
  Mbarrier& mbarrier = place.block->mbarriers[place.offset];
  mbarrier = Mbarrier();
  mbarrier.expected = mbarrier.pending = count;
  mbarrier.actor = warp.block.cluster.new_actors(1);
  mbarrier.initialised = warp.now(lane);
  mbarrier.init_line = at.at.line;
}

void invalidate(Warp& warp, const Instruction& at, int lane) {
  const SharedPlace place = place_of(warp, at.operands[0], lane);
  const Mbarrier& mbarrier = mbarrier_at(warp, lane, place);
  if (mbarrier.transactions || mbarrier.pending != mbarrier.expected)
    warp.fail("invalidates an mbarrier in mid-phase", lane);
  if (mbarrier.unwatched)
    warp.fail("invalidates an mbarrier, and nobody has waited for the copy of PTX line " +
                  std::to_string(mbarrier.unwatched),
              lane);
  place.block->mbarriers.erase(place.offset);
  place.block->shared.mark_mbarrier(place.offset, false);
}

struct Arrival {
  bool expects, drops, releases;

  void operator()(Warp& warp, const Instruction& at) const {
    const size_t address = at.operands[0].kind == Operand::Kind::kAddress ? 0 : 1;
    for_lanes(warp.active, [&](int lane) {
      Mbarrier& mbarrier = mbarrier_at(warp, lane, place_of(warp, at.operands[address], lane));
      uint32_t count = 1;
      if (at.operands.size() > address + 1) {
        const uint64_t value = warp.lanes(at.operands[address + 1])[lane];
        if (expects)
          expect(warp, mbarrier, uint32_t(value), lane);
        else
          count = uint32_t(value);
      }
      if (count == 0 || count > mbarrier.pending)
        warp.fail("arrives " + std::to_string(count) + " times where the mbarrier awaits " +
                      std::to_string(mbarrier.pending),
                  lane);
      if (address == 1 && at.operands[0].kind == Operand::Kind::kValue)
        warp.lanes(at.operands[0])[lane] = mbarrier.phase;
      if (releases) {
        warp.show(1u << lane, mbarrier.clock);
        mbarrier.fenced.join(warp.fenced);
      }
      if (drops) mbarrier.expected -= count;
      mbarrier.pending -= count;
      complete_if_due(mbarrier);
    });
    if (releases) warp.advance(warp.active);
  }
};

// A wait of some lanes, which may have to look again later.
struct Waiting {
  struct One {
    int lane;
    SharedPlace place;
    uint64_t state;
  };
  std::vector<One> all;
  bool by_parity, acquires;

  bool is_over(const One& one) const {
    const auto found = one.place.block->mbarriers.find(one.place.offset);
    if (found == one.place.block->mbarriers.end()) return true;  // an error, told by whoever looks
    const uint64_t phase = found->second.phase;
    return by_parity ? (phase & 1) != (one.state & 1) : phase > one.state;
  }
  bool all_over() const {
    for (const One& one : all)
      if (!is_over(one)) return false;
    return true;
  }
  void conclude(Warp& warp, const Operand& result, bool may_deny) const {
    const bool denies = may_deny && warp.block.cluster.machine.chance(kFalseNo);
    for (const One& one : all) {
      Mbarrier& mbarrier = mbarrier_at(warp, one.lane, one.place);
      const bool over = !denies && is_over(one);
      warp.lanes(result)[one.lane] = over;
      if (over) mbarrier.unwatched = 0;
      if (over && acquires) {
        warp.clock.join(mbarrier.released);
        warp.fenced.join(mbarrier.released_fenced);
      }
    }
  }
};

void decode_wait(Modifiers& modifiers, Instruction& instruction, bool may_suspend) {
  const bool by_parity = modifiers.take("parity"), acquires = !modifiers.take("relaxed");
  modifiers.take_any("acquire cta cluster");
  expect_operands(instruction, 3, may_suspend ? 4 : 3);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    Waiting waiting{{}, by_parity, acquires};
    const uint64_t* const state = warp.lanes(at.operands[2]);
    for_lanes(warp.active, [&](int lane) {
      const SharedPlace place = place_of(warp, at.operands[1], lane);
      mbarrier_at(warp, lane, place);
      waiting.all.push_back({lane, place, by_parity ? state[lane] & 0xffffffff : state[lane]});
    });
    Machine& machine = warp.block.cluster.machine;
    if (!may_suspend || waiting.all_over() || machine.chance(kFalseNo))
      return waiting.conclude(warp, at.operands[0], may_suspend);
    Wait wait;
    const Waiting::One& first = waiting.all.front();
    wait.what = "phase " + std::string(by_parity ? "of parity " : "") +
                std::to_string(first.state) + " of the mbarrier of PTX line " +
                std::to_string(mbarrier_at(warp, first.lane, first.place).init_line) +
                " at shared offset " + std::to_string(first.place.offset);
    wait.ready = [waiting] { return waiting.all_over(); };
    wait.then = [&warp, &at, waiting] { waiting.conclude(warp, at.operands[0], false); };
    warp.block_on(std::move(wait));
  };
}

template <typename F>
Handler each_lane(F run) {
  return [run](Warp& warp, const Instruction& at) {
    for_lanes(warp.active, [&](int lane) { run(warp, at, lane); });
  };
}

// The number in the second operand, given to `run` with the mbarrier.
template <typename F>
Handler with_bytes(F run) {
  return each_lane([run](Warp& warp, const Instruction& at, int lane) {
    Mbarrier& mbarrier = mbarrier_at(warp, lane, place_of(warp, at.operands[0], lane));
    run(warp, mbarrier, uint32_t(warp.lanes(at.operands[1])[lane]), lane);
  });
}

void decode_mbarrier(Modifiers& modifiers, Instruction& instruction) {
  const std::string kind =
      modifiers.take_one({"init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx",
                          "test_wait", "try_wait"});
  modifiers.take_any("shared shared::cta shared::cluster b64");
  if (kind == "test_wait" || kind == "try_wait")
    return decode_wait(modifiers, instruction, kind == "try_wait");
  if (kind == "init" || kind == "inval") {
    const size_t count = kind == "init" ? 2 : 1;
    expect_operands(instruction, count, count);
    instruction.run = each_lane(kind == "init" ? initialise : invalidate);
    return;
  }
  const bool relaxed = modifiers.take("relaxed");
  modifiers.take_any("release cta cluster");
  if (kind == "expect_tx" || kind == "complete_tx") {
    expect_operands(instruction, 2, 2);
    instruction.run = kind == "expect_tx"
                          ? with_bytes(expect)
                          : with_bytes([](Warp&, Mbarrier& mbarrier, int64_t bytes, int) {
                              complete_transactions(mbarrier, bytes, 0);
                            });
    return;
  }
  const bool expects = modifiers.take("expect_tx");
  expect_operands(instruction, expects ? 2 : 1, 3);
  instruction.run = Arrival{expects, kind == "arrive_drop", !relaxed};
}

}  // namespace

Mbarrier& mbarrier_at(Warp& warp, int lane, SharedPlace place) {
  const auto found = place.block->mbarriers.find(place.offset);
  if (found == place.block->mbarriers.end())
    warp.fail("there is no mbarrier at shared offset " + std::to_string(place.offset), lane);
  if (found->second.initialised.actor != warp.now(lane).actor &&
      !warp.clock.includes(found->second.initialised))
    warp.fail("race: uses the mbarrier that PTX line " + std::to_string(found->second.init_line) +
                  " initialises, with no barrier between them",
              lane);
  return found->second;
}

void complete_transactions(Mbarrier& mbarrier, int64_t bytes, int line) {
  mbarrier.transactions -= bytes;
  if (line) mbarrier.unwatched = line;
  complete_if_due(mbarrier);
}

void add_mbarrier_decoders(Decoders& decoders) { decoders["mbarrier"] = decode_mbarrier; }

}  // namespace emulator
