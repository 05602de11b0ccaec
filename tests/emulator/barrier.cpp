// Barriers of a block and of a cluster, and fences. (PTX ISA, "Parallel Synchronization and
// Communication Instructions": bar, barrier, bar.warp.sync, barrier.cluster, membar, fence.)
#include "machine.h"

namespace emulator {
namespace {

void complete_if_due(Barrier& barrier) {
  if (barrier.arrived == 0 || barrier.arrived < barrier.expected) return;
  barrier.released = std::move(barrier.clock);
  barrier.released_fenced = std::move(barrier.fenced);
  barrier.released_votes = barrier.votes;
  barrier.released_denials = barrier.denials;
  barrier.clock = barrier.fenced = Clock();
  barrier.arrived = barrier.votes = barrier.denials = 0;
  ++barrier.generation;
}

// `expected` is a number of threads, or kAllThreads: of the block or cluster, that have not exited.
constexpr uint32_t kAllThreads = 0;

void arrive(Warp& warp, Barrier& barrier, uint32_t expected, uint32_t all, bool releases,
            uint32_t votes = 0, uint32_t denials = 0) {
  const bool for_all = expected == kAllThreads;
  if (for_all) expected = all;
  if (barrier.arrived && barrier.expected != expected)
    warp.fail("expects " + std::to_string(expected) + " threads, where others expect " +
              std::to_string(barrier.expected));
  barrier.expected = expected;
  barrier.for_all = for_all && (!barrier.arrived || barrier.for_all);
  // A number counts warps, of which one with lanes that are gone, or never were, is as good.
  const bool is_whole = warp.active == warp.live && !for_all;
  barrier.arrived += is_whole ? kLanes : __builtin_popcount(warp.active);
  barrier.votes += votes;
  barrier.denials += denials;
  if (barrier.arrived > expected)
    warp.fail("more than the " + std::to_string(expected) + " threads that are expected");
  if (releases) {
    warp.show(warp.active, barrier.clock);
    barrier.fenced.join(warp.fenced);
    warp.advance(warp.active);
  }
  complete_if_due(barrier);
}

uint32_t live_threads(const Block& block) {
  uint32_t count = 0;
  for (const auto& warp : block.warps) count += __builtin_popcount(warp->live);
  return count;
}

uint32_t live_threads(const Cluster& cluster) {
  uint32_t count = 0;
  for (const auto& block : cluster.blocks) count += live_threads(*block);
  return count;
}

void wait(Warp& warp, Barrier& barrier, uint64_t generation, const std::string& name,
          std::function<void()> then) {
  Wait wait;
  wait.ready = [&barrier, generation] { return barrier.generation > generation; };
  wait.then = [&warp, &barrier, then = std::move(then)] {
    warp.clock.join(barrier.released);
    warp.fenced.join(barrier.released_fenced);
    if (then) then();
  };
  wait.what = name + " (" + std::to_string(barrier.expected) + " threads)";
  warp.block_on(std::move(wait));
}

enum class Reduction { kNone, kPopc, kAnd, kOr };

struct BlockBarrier {
  bool waits;
  Reduction reduction;

  void operator()(Warp& warp, const Instruction& at) const {
    const size_t first = reduction == Reduction::kNone ? 0 : 1;
    const size_t count = at.operands.size() - first - (first ? 1 : 0);
    const int lane = first_lane(warp.active);
    const uint64_t number = warp.lanes(at.operands[first])[lane] & 0xffffffff;
    if (number >= warp.block.barriers.size())
      warp.fail("a block has barriers 0 to 15, not " + std::to_string(number));
    uint32_t expected = kAllThreads;
    if (count > 1) {
      expected = uint32_t(warp.lanes(at.operands[first + 1])[lane]);
      if (expected == 0 || expected % kLanes)
        warp.fail("a barrier is for a multiple of 32 threads, not " + std::to_string(expected));
    }
    uint32_t votes = 0;
    if (first) {
      const Operand& vote = at.operands.back();
      const uint64_t* const holds = warp.lanes(vote);
      for_lanes(warp.active, [&](int i) { votes += (holds[i] & 1) != uint64_t(vote.negated); });
    }
    Barrier& barrier = warp.block.barriers[number];
    const uint64_t generation = barrier.generation;
    const uint32_t denials = __builtin_popcount(warp.active) - votes;
    arrive(warp, barrier, expected, live_threads(warp.block), true, votes, denials);
    if (!waits) return;
    const uint32_t lanes = warp.active;
    const Reduction what = reduction;
    emulator::wait(
        warp, barrier, generation, "barrier " + std::to_string(number),
        what == Reduction::kNone ? std::function<void()>() : [&warp, &barrier, &at, lanes, what] {
          const uint32_t votes = barrier.released_votes;
          const uint64_t result = what == Reduction::kPopc  ? votes
                                  : what == Reduction::kAnd ? barrier.released_denials == 0
                                                            : votes > 0;
          uint64_t* const to = warp.lanes(at.operands[0]);
          for_lanes(lanes, [&](int i) { to[i] = result; });
        });
  }
};

void decode_warp_barrier(Instruction& instruction) {
  expect_operands(instruction, 1, 1);
  instruction.run = [](Warp& warp, const Instruction& at) {
    if (!warp.gather(at.operands[0])) return;
    warp.show(warp.active, warp.clock);
    warp.advance(warp.active);
  };
}

void decode_cluster_barrier(Modifiers& modifiers, Instruction& instruction) {
  const bool arrives = modifiers.take_one({"arrive", "wait"}) == "arrive";
  modifiers.take("aligned");
  const bool relaxed = arrives && modifiers.take("relaxed");
  modifiers.take(arrives ? "release" : "acquire");
  expect_operands(instruction, 0, 0);
  instruction.run = [=](Warp& warp, const Instruction&) {
    Barrier& barrier = warp.block.cluster.barrier;
    if (!arrives) {
      if (warp.cluster_generation == 0)
        warp.fail("waits at the cluster's barrier, where it has not arrived");
      emulator::wait(warp, barrier, warp.cluster_generation - 1, "the cluster's barrier", {});
      warp.cluster_generation = 0;
      return;
    }
    if (warp.cluster_generation) warp.fail("arrives at the cluster's barrier twice, with no wait");
    warp.cluster_generation = barrier.generation + 1;
    arrive(warp, barrier, kAllThreads, live_threads(warp.block.cluster), !relaxed);
  };
}

void decode_barrier(Modifiers& modifiers, Instruction& instruction) {
  if (modifiers.take("warp")) {
    modifiers.take_one({"sync"});
    return decode_warp_barrier(instruction);
  }
  if (modifiers.take("cluster")) return decode_cluster_barrier(modifiers, instruction);
  modifiers.take("cta");
  BlockBarrier run;
  modifiers.take("aligned");
  const std::string kind = modifiers.take_one({"sync", "arrive", "red"});
  run.waits = kind != "arrive";
  run.reduction = Reduction::kNone;
  if (kind == "red") {
    const std::string operation = modifiers.take_one({"popc", "and", "or"});
    run.reduction = operation == "popc"  ? Reduction::kPopc
                    : operation == "and" ? Reduction::kAnd
                                         : Reduction::kOr;
    modifiers.take_one({operation == "popc" ? "u32" : "pred"});
  }
  const size_t more = kind == "red" ? 2 : 0;
  expect_operands(instruction, (run.waits ? 1 : 2) + more, 2 + more);
  instruction.run = run;
}

void show_mbarriers(Warp& warp) {
  for (auto& [offset, mbarrier] : warp.block.mbarriers) {
    const int lane = mbarrier.initialised.actor - warp.actor;
    if (lane >= 0 && lane < kLanes && warp.active >> lane & 1) mbarrier.fenced_init = true;
  }
}

// The generic proxy's memory is in order here; a proxy fence shows what happened before it to
// asynchronous readers.
void decode_fence(Modifiers& modifiers, Instruction& instruction) {
  bool shows = false;
  if (modifiers.take("proxy")) {
    const std::string proxy =
        modifiers.take_one({"async", "alias", "async::generic", "tensormap::generic"});
    shows = proxy == "async" && !modifiers.take("global");
    modifiers.take_any("shared::cta shared::cluster");
  }
  const bool shows_mbarriers = modifiers.take("mbarrier_init") || shows;
  modifiers.take_any(
      "sc acq_rel acquire release cta cluster gpu gl sys sync_restrict::shared::cta "
      "sync_restrict::shared::cluster");
  expect_operands(instruction, 0, 2);
  instruction.run = [=](Warp& warp, const Instruction&) {
    if (shows_mbarriers) show_mbarriers(warp);
    if (!shows) return;
    warp.show(warp.active, warp.fenced);
    warp.advance(warp.active);
  };
}

}  // namespace

void leave_barriers(Warp& warp, uint32_t lanes) {
  const auto leave = [&](Barrier& barrier) {
    if (!barrier.arrived || !barrier.for_all) return;
    barrier.expected -= __builtin_popcount(lanes);
    complete_if_due(barrier);
  };
  for (Barrier& barrier : warp.block.barriers) leave(barrier);
  Barrier& of_cluster = warp.block.cluster.barrier;
  const bool has_arrived = warp.cluster_generation == of_cluster.generation + 1;
  if (!has_arrived) leave(of_cluster);
}

void add_barrier_decoders(Decoders& decoders) {
  decoders["bar"] = decoders["barrier"] = decode_barrier;
  decoders["fence"] = decoders["membar"] = decode_fence;
}

}  // namespace emulator
