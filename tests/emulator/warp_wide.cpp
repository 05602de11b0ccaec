// What the lanes of a warp do together without memory. (PTX ISA, "Data Movement and Conversion
// Instructions": shfl; "Parallel Synchronization and Communication Instructions": vote, match,
// activemask, redux, elect.)
#include <algorithm>

#include "machine.h"

namespace emulator {
namespace {

void decode_shfl(Modifiers& modifiers, Instruction& instruction) {
  modifiers.take_one({"sync"});
  const std::string mode = modifiers.take_one({"up", "down", "bfly", "idx"});
  modifiers.take_one({"b32"});
  expect_operands(instruction, 5, 6);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    const size_t first = at.operands.size() - 4;  // after d, or d|p
    if (!warp.gather(at.operands.back())) return;
    const uint64_t* const b = warp.lanes(at.operands[first + 1]);
    const uint64_t* const c = warp.lanes(at.operands[first + 2]);
    std::array<uint64_t, kLanes> from, result, in_range{};
    std::copy_n(warp.lanes(at.operands[first]), kLanes, from.begin());
    for_lanes(warp.active, [&](int lane) {
      const int segment = int(c[lane] >> 8 & 31), clamp = int(c[lane] & 31);
      const int shift = int(b[lane] & 31);
      const int most = (lane & segment) | (clamp & ~segment), least = lane & segment;
      int source;
      if (mode == "up") {
        source = lane - shift;
        in_range[lane] = source >= most;
      } else {
        source = mode == "down"   ? lane + shift
                 : mode == "bfly" ? lane ^ shift
                                  : least | (shift & ~segment);
        in_range[lane] = source <= most;
      }
      if (!in_range[lane]) source = lane;
      // A lane that takes no part has nothing to give: anything may come.
      const bool gives = warp.active >> source & 1;
      result[lane] = gives ? uint32_t(from[source]) : uint32_t(warp.block.cluster.machine.dice());
    });
    for_lanes(warp.active, [&](int lane) {
      if (at.operands[0].kind != Operand::Kind::kSink)
        warp.lanes(at.operands[0])[lane] = result[lane];
      if (first == 2 && at.operands[1].kind != Operand::Kind::kSink)
        warp.lanes(at.operands[1])[lane] = in_range[lane];
    });
  };
}

void decode_vote(Modifiers& modifiers, Instruction& instruction) {
  modifiers.take_one({"sync"});
  const std::string mode = modifiers.take_one({"all", "any", "uni", "ballot"});
  modifiers.take_one({mode == "ballot" ? "b32" : "pred"});
  expect_operands(instruction, 3, 3);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    if (!warp.gather(at.operands[2])) return;
    uint32_t holds = 0;
    const uint64_t* const predicate = warp.lanes(at.operands[1]);
    for_lanes(warp.active, [&](int lane) {
      holds |= uint32_t((predicate[lane] & 1) != uint64_t(at.operands[1].negated)) << lane;
    });
    const bool all = holds == warp.active, any = holds != 0;
    const uint64_t result = mode == "all"   ? all
                            : mode == "any" ? any
                            : mode == "uni" ? all || !any
                                            : holds;
    uint64_t* const to = warp.lanes(at.operands[0]);
    for_lanes(warp.active, [&](int lane) { to[lane] = result; });
  };
}

void decode_match(Modifiers& modifiers, Instruction& instruction) {
  const bool all = modifiers.take_one({"any", "all"}) == "all";
  modifiers.take_one({"sync"});
  const bool wide = modifiers.take_one({"b32", "b64"}) == "b64";
  expect_operands(instruction, 3, all ? 4 : 3);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    if (!warp.gather(at.operands.back())) return;
    const uint64_t* const value = warp.lanes(at.operands[at.operands.size() - 2]);
    const auto key = [&](int lane) { return wide ? value[lane] : uint64_t(uint32_t(value[lane])); };
    std::array<uint64_t, kLanes> equal{};
    for_lanes(warp.active, [&](int lane) {
      for_lanes(warp.active,
                [&](int other) { equal[lane] |= uint64_t(key(lane) == key(other)) << other; });
    });
    for_lanes(warp.active, [&](int lane) {
      const bool same = equal[lane] == warp.active;
      if (at.operands[0].kind != Operand::Kind::kSink)
        warp.lanes(at.operands[0])[lane] = all && !same ? 0 : equal[lane];
      if (at.operands.size() == 4 && at.operands[1].kind != Operand::Kind::kSink)
        warp.lanes(at.operands[1])[lane] = same;
    });
  };
}

// f over the lanes' values as T, and the result to all of them.
template <typename T, typename F>
void reduce(Warp& warp, const Instruction& at, F&& f) {
  const uint64_t* const from = warp.lanes(at.operands[1]);
  T result = as<T>(from[first_lane(warp.active)]);
  for_lanes(warp.active & (warp.active - 1),
            [&](int lane) { result = f(result, as<T>(from[lane])); });
  uint64_t* const to = warp.lanes(at.operands[0]);
  for_lanes(warp.active, [&](int lane) { to[lane] = bits_of(result); });
}

void decode_redux(Modifiers& modifiers, Instruction& instruction) {
  modifiers.take_one({"sync"});
  const std::string operation = modifiers.take_one({"add", "min", "max", "and", "or", "xor"});
  const bool is_signed = modifiers.take_one({"u32", "s32", "b32"}) == "s32";
  expect_operands(instruction, 3, 3);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    if (!warp.gather(at.operands[2])) return;
    using U = uint32_t;
    if (is_signed && operation == "min")
      return reduce<int32_t>(warp, at, [](int32_t a, int32_t b) { return std::min(a, b); });
    if (is_signed && operation == "max")
      return reduce<int32_t>(warp, at, [](int32_t a, int32_t b) { return std::max(a, b); });
    reduce<U>(warp, at, [&](U a, U b) {
      return operation == "add"   ? a + b
             : operation == "min" ? std::min(a, b)
             : operation == "max" ? std::max(a, b)
             : operation == "and" ? a & b
             : operation == "or"  ? a | b
                                  : a ^ b;
    });
  };
}

void decode_activemask(Modifiers& modifiers, Instruction& instruction) {
  modifiers.take_one({"b32"});
  expect_operands(instruction, 1, 1);
  instruction.run = [](Warp& warp, const Instruction& at) {
    uint64_t* const to = warp.lanes(at.operands[0]);
    for_lanes(warp.active, [&](int lane) { to[lane] = warp.active; });
  };
}

// One of the lanes leads: the same for the same mask, and which one is nobody's business.
void decode_elect(Modifiers& modifiers, Instruction& instruction) {
  modifiers.take_one({"sync"});
  expect_operands(instruction, 3, 3);
  instruction.run = [](Warp& warp, const Instruction& at) {
    if (!warp.gather(at.operands[2])) return;
    uint32_t left = warp.active;
    const uint64_t seed = warp.block.cluster.machine.options.seed;
    for (uint64_t skip = seed % __builtin_popcount(left); skip > 0; --skip) left &= left - 1;
    const int leader = first_lane(left);
    for_lanes(warp.active, [&](int lane) {
      if (at.operands[0].kind != Operand::Kind::kSink) warp.lanes(at.operands[0])[lane] = leader;
      if (at.operands[1].kind != Operand::Kind::kSink)
        warp.lanes(at.operands[1])[lane] = lane == leader;
    });
  };
}

}  // namespace

void add_warp_decoders(Decoders& decoders) {
  decoders["shfl"] = decode_shfl;
  decoders["vote"] = decode_vote;
  decoders["match"] = decode_match;
  decoders["redux"] = decode_redux;
  decoders["activemask"] = decode_activemask;
  decoders["elect"] = decode_elect;
}

}  // namespace emulator
