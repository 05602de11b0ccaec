// A warp: its lanes' registers, where they part and meet, and one instruction after the other.
//
// Lanes at one place are a split. A branch that parts them makes two, which wait for each other at
// the branch's meeting; in between either may be ahead, as the dice decide.
#include <cinttypes>
#include <cstdio>

#include "async.h"
#include "machine.h"
#include "wgmma.h"

namespace emulator {
namespace {

struct PlacedError : Error {  // says where it happened, already
  using Error::Error;
};

uint32_t special_value(const Warp& warp, const std::string& name, int lane) {
  const Block& block = warp.block;
  const Machine& machine = block.cluster.machine;
  const Launch& launch = *machine.launch;
  const auto dimension = [&](const auto& values) { return uint32_t(values[name.back() - 'x']); };
  const uint32_t thread = warp.thread(lane), below = (1u << lane) - 1, me = 1u << lane;
  const auto clusters = [&](int i) { return launch.grid[i] / launch.cluster[i]; };
  const std::string stem = name.substr(0, name.rfind('.'));
  if (stem == "%tid")
    return dimension(std::array<uint32_t, 3>{thread % launch.block[0],
                                             thread / launch.block[0] % launch.block[1],
                                             thread / launch.block[0] / launch.block[1]});
  if (stem == "%ntid") return dimension(launch.block);
  if (stem == "%ctaid") return dimension(block.index);
  if (stem == "%nctaid") return dimension(launch.grid);
  if (stem == "%cluster_nctaid") return dimension(launch.cluster);
  if (stem == "%nclusterid")
    return dimension(std::array<uint32_t, 3>{clusters(0), clusters(1), clusters(2)});
  const auto of_cluster = [&](bool within) {
    std::array<uint32_t, 3> values;
    for (int i = 0; i < 3; ++i)
      values[i] = within ? block.index[i] % launch.cluster[i] : block.index[i] / launch.cluster[i];
    return dimension(values);
  };
  if (stem == "%clusterid") return of_cluster(false);
  if (stem == "%cluster_ctaid") return of_cluster(true);
  if (name == "%laneid") return lane;
  if (name == "%warpid") return warp.index;
  if (name == "%nwarpid") return block.warps.size();
  if (name == "%cluster_ctarank") return block.rank;
  if (name == "%cluster_nctarank") return block.cluster.blocks.size();
  if (name == "%is_explicit_cluster") return block.cluster.blocks.size() > 1;
  if (name == "%lanemask_eq") return me;
  if (name == "%lanemask_lt") return below;
  if (name == "%lanemask_le") return below | me;
  if (name == "%lanemask_gt") return ~(below | me);
  if (name == "%lanemask_ge") return ~below;
  if (name == "%dynamic_smem_size") return launch.dynamic_shared;
  if (name == "%total_smem_size") return block.shared.size() - kSharedBase;
  if (name == "%WARP_SZ" || name == "WARP_SZ") return kLanes;
  if (name == "%smid") return block.index[0] % 7;  // any number is right, few are likelier to clash
  if (name == "%nsmid") return 7;
  return 0;  // %gridid
}

}  // namespace

Warp::Warp(Block& block, int index, uint32_t lanes)
    : block(block), index(index), actor(block.cluster.new_actors(kLanes)), live(lanes) {
  const Program& program = *block.cluster.machine.launch->program;
  times.fill(1);
  // What was never written holds anything, and another thing for every seed.
  registers.resize(size_t(program.slots) * kLanes);
  uint64_t state = block.cluster.machine.dice();
  for (uint64_t& value : registers)
    value = (state += 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;  // of SplitMix64
  local.resize(size_t(program.local_bytes + program.frame_bytes) * kLanes, uint8_t(state >> 32));
  busy.resize(program.slots);
  for (const auto& [slot, bits] : program.constants) std::fill_n(this->lanes(slot), kLanes, bits);
  for (const Special& special : program.specials)
    for (int lane = 0; lane < kLanes; ++lane)
      this->lanes(special.slot)[lane] = special_value(*this, special.name, lane);
  Split start;
  start.mask = lanes;
  splits.push_back(start);
}

std::string Warp::place(int lane) const {
  const Program& program = *block.cluster.machine.launch->program;
  std::string text = "kernel " + program.name + ", block " + std::to_string(block.index[0]) + "," +
                     std::to_string(block.index[1]) + "," + std::to_string(block.index[2]) +
                     ", warp " + std::to_string(index);
  if (lane >= 0) text += ", lane " + std::to_string(lane);
  return instruction ? text + ": " + described(program, *instruction) : text;
}

std::string described(const Program& program, const Instruction& instruction) {
  std::string text = "PTX line " + std::to_string(instruction.at.line);
  const auto file = program.files.find(instruction.at.source_file);
  if (file != program.files.end())
    text += " (" + file->second.substr(file->second.rfind('/') + 1) + ":" +
            std::to_string(instruction.at.source_line) + ")";
  return text + ": " + instruction.text;
}

void Warp::fail(const std::string& message, int lane) {
  throw PlacedError(place(lane) + ": " + message);
}

void Warp::show(uint32_t lanes, Clock& to) const {
  to.join(clock);
  for_lanes(lanes, [&](int lane) { to.set(now(lane)); });
}

void Warp::advance(uint32_t lanes) {
  for_lanes(lanes, [&](int lane) { ++times[lane]; });
}

Split* Warp::choose_ready() {
  if (splits.empty()) return nullptr;
  auto at = std::next(splits.begin(), block.cluster.machine.random(splits.size()));
  for (size_t i = 0; i < splits.size(); ++i, ++at) {
    if (at == splits.end()) at = splits.begin();
    if (at->wait) {
      if (!at->wait->ready()) continue;
      const auto then = std::move(at->wait->then);
      at->wait.reset();
      if (then) then();
      return &*at;
    }
    if (!at->rendezvous) return &*at;
    if (Split* const together = gathered(*at)) return together;
  }
  return nullptr;
}

void Warp::execute(Split& split, int quantum) {
  const std::vector<Instruction>& code = block.cluster.machine.launch->program->code;
  while (quantum-- > 0 && !split.wait) {
    if (size_t(split.pc) >= code.size()) fail("ran past the kernel's end");
    instruction = &code[split.pc];
    if (!meets(split)) return;
    const Split* const before = &split;
    const uint32_t mask = split.mask;
    step(split, mask);
    // `split` may be gone; if it is still there, it may have to wait.
    if (live == 0 || this->split != before || split.wait || split.rendezvous) return;
  }
}

void Warp::step(Split& split, uint32_t mask) {
  Machine& machine = block.cluster.machine;
  const Instruction& now = *instruction;
  if (++machine.executed > machine.options.max_instructions)
    fail("hang: still running after " + std::to_string(machine.executed) + " instructions");
  this->split = &split;
  active = mask;
  if (now.guard >= 0) {
    const uint64_t* const guard = lanes(now.guard);
    for_lanes(mask, [&](int lane) {
      if ((guard[lane] & 1) == uint64_t(now.guard_negated)) active &= ~(1u << lane);
    });
  }
  ++split.pc;
  if (active == 0) return;
  if (now.reads_clock)
    for (const Special& clock : machine.launch->program->clocks)
      std::fill_n(lanes(clock.slot), kLanes, machine.executed);
  if (now.uses_wgmma_register) wgmma_unfenced = true;
  if (now.is_aligned && !stop_for(kAllLanes)) return;
  try {
    if (busy_count && !now.is_wgmma) check_busy();
    now.run(*this, now);
  } catch (const PlacedError&) {
    throw;
  } catch (const Error& error) {
    fail(error.what());
  }
  if (!machine.options.trace.empty()) trace(now, mask);
}

void Warp::check_busy() const {
  const auto check = [&](const Operand& operand, bool writes, auto&& self) -> void {
    for (const Operand& part : operand.parts)
      self(part, writes && operand.kind == Operand::Kind::kVector, self);
    if (operand.slot < 0 || operand.kind == Operand::Kind::kLabel) return;
    const int line = busy[operand.slot];
    if (line > 0 || (line < 0 && writes))
      emulator::fail("uses a register that the wgmma of PTX line " +
                     std::to_string(std::abs(line)) + " has in hand until wgmma.wait_group");
  };
  for (size_t i = 0; i < instruction->operands.size(); ++i)
    check(instruction->operands[i],
          i == 0 && instruction->operands[i].kind != Operand::Kind::kAddress, check);
}

// Whether the split goes on: it has met no place where others are awaited, or they are all here.
bool Warp::meets(Split& split) {
  while (split.join >= 0 && joins[split.join].pc == split.pc) {
    Join& join = joins[split.join];
    join.arrived |= split.mask;
    if (join.arrived != join.expected) {
      drop(split);
      return false;
    }
    split.mask = join.arrived;
    split.join = join.outer;
    join.expected = 0;  // free
  }
  return true;
}

void Warp::drop(const Split& split) {
  splits.remove_if([&](const Split& other) { return &other == &split; });
}

void Warp::diverge(uint32_t jump) {
  const uint32_t stay = split->mask & ~jump;
  if (stay == 0) {
    split->pc = instruction->target;
    return;
  }
  if (instruction->meeting >= 0) join_at(instruction->meeting);
  Split other;
  other.pc = instruction->target;
  other.mask = jump;
  other.join = split->join;
  split->mask = stay;
  splits.push_back(other);
}

// Lets the current lanes wait for each other at `pc`, unless they do so anyway.
void Warp::join_at(int pc) {
  if (split->join >= 0 && joins[split->join].pc == pc) return;
  size_t free = 0;
  while (free < joins.size() && joins[free].expected) ++free;
  if (free == joins.size()) joins.emplace_back();
  joins[free] = {pc, split->mask, 0, split->join};
  split->join = int(free);
}

void Warp::check_exit() {
  if (const std::string left = unfinished_wgmma(*this); !left.empty()) fail("exits, and " + left);
  block.known_to_exited.join(clock);
  if (++block.exited < block.warps.size()) return;
  for (const auto& [visitor, visit] : block.visits)
    if (!block.known_to_exited.includes({visitor, visit.time}))
      fail(
          "exits, and with it its block, which has not synchronised with another block's access "
          "to its shared memory in PTX line " +
          std::to_string(visit.line));
}

void Warp::exit_lanes() {
  for_lanes(active, [&](int lane) {
    for (const CopyGroups* groups : {&copies[lane], &bulk_copies[lane]}) {
      std::vector<AsyncPointer> left = groups->open;
      for (const auto& group : groups->committed)
        left.insert(left.end(), group.begin(), group.end());
      for (const AsyncPointer& operation : left)
        if (!operation->is_over)
          fail("exits, and has not waited for the " + operation->name + " of PTX line " +
                   std::to_string(operation->line),
               lane);
    }
  });
  live &= ~active;
  leave_barriers(*this, active);
  if (live == 0) check_exit();
  const uint32_t gone = active;
  for (Join& join : joins) {
    if (!join.expected) continue;
    join.expected &= ~gone;
    join.arrived &= ~gone;
    if (join.expected && join.arrived == join.expected) {
      Split met;
      met.pc = join.pc;
      met.mask = join.arrived;
      met.join = join.outer;
      join.expected = 0;
      splits.push_back(met);
    }
  }
  split->mask &= ~gone;
  if (!split->mask) {
    const Split* const empty = split;
    split = nullptr;
    drop(*empty);
  }
}

// Whether `lanes` are all active; if not, the split stops before the instruction until they are.
bool Warp::stop_for(uint32_t lanes) {
  const uint32_t missing = lanes & live & ~active;
  if (!missing) return true;
  if (missing & split->mask)
    fail("its guard leaves out lanes that must execute it too", first_lane(missing & split->mask));
  --split->pc;
  split->rendezvous = true;
  split->sync_mask = lanes;
  split->here = active;
  return false;
}

bool Warp::gather(const Operand& mask) {
  const uint64_t* const masks = this->lanes(mask);
  const uint32_t wanted = uint32_t(masks[first_lane(active)]);
  uint32_t others = 0;
  for_lanes(active, [&](int lane) { others |= uint32_t(uint32_t(masks[lane]) != wanted) << lane; });
  if (others) {
    join_at(split->pc);
    Split apart;
    apart.pc = split->pc - 1;
    apart.mask = others;
    apart.join = split->join;
    splits.push_back(apart);
    split->mask &= ~others;
    active &= ~others;
  }
  if (~wanted & active) fail("lanes execute it that its mask does not name");
  return stop_for(wanted);
}

// Executes the instruction before which `parked` stopped, if all the lanes that it names have come,
// for all of them at once.
Split* Warp::gathered(Split& parked) {
  uint32_t here = 0, mask = 0;
  const auto is_there = [&](const Split& other) {
    return other.rendezvous && other.pc == parked.pc && other.sync_mask == parked.sync_mask;
  };
  for (const Split& other : splits)
    if (is_there(other)) here |= other.here, mask |= other.mask;
  if (parked.sync_mask & live & ~here) return nullptr;
  Split together;
  together.pc = parked.pc;
  together.mask = mask;
  instruction = &block.cluster.machine.launch->program->code[parked.pc];
  std::vector<Split*> those;
  for (Split& other : splits)
    if (is_there(other)) those.push_back(&other);
  for (Split* const other : those) other->rendezvous = false, ++other->pc;
  step(together, mask);
  split = nullptr;
  if (!together.wait) return &parked;
  // The first of them concludes the wait for all.
  const auto is_over = std::make_shared<bool>(false);
  for (Split* const other : those)
    other->wait = Wait{[is_over] { return *is_over; }, nullptr, together.wait->what};
  those.front()->wait = Wait{together.wait->ready,
                             [is_over, then = together.wait->then] {
                               if (then) then();
                               *is_over = true;
                             },
                             together.wait->what};
  return &parked;
}

void Warp::trace(const Instruction& done, uint32_t mask) {
  const std::string& wanted = block.cluster.machine.options.trace;
  const std::string me = std::to_string(block.index[0]) + ":" + std::to_string(index);
  if (wanted != me) return;
  const Program& program = *block.cluster.machine.launch->program;
  std::fprintf(stderr, "%s %08x/%08x %s\n", me.c_str(), active, mask,
               described(program, done).c_str());
  const auto show_register = [&](const Operand& operand, auto&& self) -> void {
    if (const auto name = program.names.find(operand.slot); name != program.names.end()) {
      std::fprintf(stderr, "    %s:", name->second.c_str());
      for (int lane = 0; lane < kLanes; ++lane) {
        if (active >> lane & 1)
          std::fprintf(stderr, " %" PRIx64, lanes(operand.slot)[lane]);
        else
          std::fprintf(stderr, " -");
      }
      std::fprintf(stderr, "\n");
    }
    for (const Operand& part : operand.parts) self(part, self);
  };
  for (const Operand& operand : done.operands) show_register(operand, show_register);
}

}  // namespace emulator
