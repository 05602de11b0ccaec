// Where lanes go next, and what a warp is given to run with. (PTX ISA, "Control Flow
// Instructions"; "Miscellaneous Instructions".) Calls and returns are inlined before.
#include <algorithm>

#include "machine.h"

namespace emulator {
namespace {

void decode_bra(Modifiers& modifiers, Instruction& instruction) {
  const bool uniform = modifiers.take("uni");
  expect_operands(instruction, 1, 1);
  if (instruction.operands[0].kind != Operand::Kind::kLabel) fail("needs a label");
  instruction.flow = Instruction::Flow::kBranch;
  instruction.run = [=](Warp& warp, const Instruction&) {
    if (uniform && warp.active != warp.split->mask)
      warp.fail(".uni, but only some of the lanes jump");
    warp.diverge(warp.active);
  };
}

void decode_exit(Modifiers&, Instruction& instruction) {
  expect_operands(instruction, 0, 0);
  instruction.flow = Instruction::Flow::kExit;
  instruction.run = [](Warp& warp, const Instruction&) { warp.exit_lanes(); };
}

void decode_trap(Modifiers& modifiers, Instruction& instruction) {
  const bool is_assertion = modifiers.take("assertion");  // what a call of __assertfail becomes
  instruction.flow = Instruction::Flow::kExit;
  instruction.run = [=](Warp& warp, const Instruction&) {
    warp.fail(is_assertion ? "an assertion of the kernel failed" : "the kernel trapped",
              first_lane(warp.active));
  };
}

// Registers that setmaxnreg moves between warpgroups: those of an SM that the launch did not give
// out. How many a thread starts with is what ptxas may use at the most for the kernel's bounds.
int starting_registers(const Block& block) {
  constexpr int kOfAnSm = 65536, kMost = 255, kUnit = 8;
  const Program& program = *block.cluster.machine.launch->program;
  if (program.max_registers) return std::min(program.max_registers, kMost);
  int threads = int(block.warps.size()) * kLanes;
  for (const std::vector<int>* bounds : {&program.max_threads, &program.required_threads})
    if (!bounds->empty()) {
      int product = 1;
      for (const int size : *bounds) product *= std::clamp(size, 1, 1024);
      threads = std::max(threads, std::min(product, 1024));
    }
  return std::min(kOfAnSm / threads, kMost) / kUnit * kUnit;
}

void decode_setmaxnreg(Modifiers& modifiers, Instruction& instruction) {
  const bool increases = modifiers.take_one({"inc", "dec"}) == "inc";
  for (const char* word : {"sync", "aligned", "u32"}) modifiers.take_one({word});
  expect_operands(instruction, 1, 1);
  instruction.run = [=](Warp& warp, const Instruction& at) {
    Block& block = warp.block;
    const int start = starting_registers(block), count = int(warp.lanes(at.operands[0])[0]);
    if (count < 24 || count > 256 || count % 8)
      warp.fail("a count must be a multiple of 8 from 24 to 256, not " + std::to_string(count));
    if (block.free_registers < 0)
      block.free_registers = 65536 - start * kLanes * int(block.warps.size());
    const int now = warp.max_registers ? warp.max_registers : start;
    if (increases ? count < now : count > now)
      warp.fail("a warp that has " + std::to_string(now) + " registers asks for " +
                std::to_string(count));
    const int needed = (count - now) * kLanes;
    const auto take = [&warp, &block, needed, count] {
      block.free_registers -= needed;
      warp.max_registers = count;
    };
    if (needed <= block.free_registers) return take();
    warp.block_on({[&block, needed] { return needed <= block.free_registers; }, take,
                   std::to_string(needed) + " registers, of which " +
                       std::to_string(block.free_registers) + " are free"});
  };
}

// Grids run one after the other, which programmatic launches may always do; grid_order.cpp knows
// what they could not tell if they did not.
void decode_griddepcontrol(Modifiers& modifiers, Instruction& instruction) {
  const bool waits = modifiers.take_one({"launch_dependents", "wait"}) == "wait";
  expect_operands(instruction, 0, 0);
  instruction.run = [=](Warp& warp, const Instruction&) {
    if (waits) wait_for_grid_before(warp);
  };
}

void decode_nanosleep(Modifiers& modifiers, Instruction& instruction) {
  modifiers.take_one({"u32"});
  expect_operands(instruction, 1, 1);
  instruction.run = [](Warp&, const Instruction&) {};
}

}  // namespace

void add_control_decoders(Decoders& decoders) {
  decoders["bra"] = decode_bra;
  decoders["exit"] = decode_exit;
  decoders["trap"] = decoders["brkpt"] = decode_trap;
  decoders["setmaxnreg"] = decode_setmaxnreg;
  decoders["griddepcontrol"] = decode_griddepcontrol;
  decoders["nanosleep"] = decode_nanosleep;
}

}  // namespace emulator
