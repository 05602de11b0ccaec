// A kernel ready to run: names resolved to slots of a warp's registers, functions inlined, branches
// given their target and the place where their lanes meet again.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ptx.h"

namespace emulator {

class Warp;
struct Instruction;
using Handler = std::function<void(Warp&, const Instruction&)>;

// Where shared memory begins: below are the 1024 bytes that sm_90 and later keep for themselves.
constexpr uint32_t kSharedBase = 1024;

struct Operand {
  enum class Kind { kNone, kValue, kAddress, kVector, kSink, kLabel };
  Kind kind = Kind::kNone;
  int slot = -1;               // of a value, or of an address's base
  int64_t offset = 0;          // of an address
  bool negated = false;        // !p
  bool is_predicate = false;   // a register of type .pred
  int target = -1;             // a label's instruction
  std::vector<Operand> parts;  // of a vector; of an address, what follows its comma
};

struct Instruction {
  std::string text;  // as written, for messages
  Location at;
  int guard = -1;  // slot of the predicate, or -1
  bool guard_negated = false;
  std::vector<Operand> operands;  // p|q are two operands in a row
  Handler run;
  enum class Flow { kNext, kBranch, kExit } flow = Flow::kNext;  // where it goes if its guard holds
  int target = -1;                                               // of a branch
  int meeting = -1;  // of a branch: where diverged lanes wait for each other, or -1 for the exit
  bool reads_clock = false;
  bool is_aligned = false;  // all lanes of a warp that have not exited execute it together
  bool is_wgmma = false, uses_wgmma_register = false;  // the latter of all others
};

// The modifiers of an opcode, as ".sync.aligned.m8n8" -> sync, aligned, m8n8. Whoever decodes it
// takes those that it knows; what is left over is an instruction that the emulator does not know.
class Modifiers {
 public:
  explicit Modifiers(const std::string& opcode);
  const std::string& base() const { return base_; }  // "ld" of "ld.global.v4.u32"
  bool take(const std::string& name);                // whether it was there, anywhere
  void take_any(const std::string& names);           // those of "weak volatile .." that are there
  // The first of `names` that is there; fails when none is, unless `otherwise` is given.
  std::string take_one(const std::vector<std::string>& names, const char* otherwise = nullptr);
  std::string take_type();  // the first type that is left ("u32", "f16x2", "pred", ..)
  std::string take_next();  // the first that is left, whatever it is; fails when none is
  bool empty() const { return left_.empty(); }
  const std::vector<std::string>& left() const { return left_; }

 private:
  std::string opcode_, base_;
  std::vector<std::string> left_;
};

// Decodes one opcode: takes the modifiers and sets instruction.run. The operands are resolved
// already. Whatever remains in `modifiers` afterwards makes the instruction unknown.
using Decoder = void (*)(Modifiers& modifiers, Instruction& instruction);
using Decoders = std::map<std::string, Decoder>;  // by base

void add_arithmetic_decoders(Decoders& decoders);  // arithmetic.cpp: add mul mad fma div ex2 ..
void add_bit_decoders(Decoders& decoders);         // bits.cpp: mov and or shl bfe prmt lop3 ..
void add_compare_decoders(Decoders& decoders);     // compare.cpp: setp set selp slct
void add_convert_decoders(Decoders& decoders);     // convert.cpp: cvt
void add_memory_decoders(Decoders& decoders);      // load_store.cpp: ld st atom red cvta ..
void add_control_decoders(Decoders& decoders);     // control.cpp: bra exit trap setmaxnreg ..
void add_warp_decoders(Decoders& decoders);        // warp_wide.cpp: shfl vote redux elect ..
void add_barrier_decoders(Decoders& decoders);     // barrier.cpp: bar barrier fence
void add_mbarrier_decoders(Decoders& decoders);    // mbarrier.cpp
void add_async_decoders(
    Decoders& decoders);  // async_copy.cpp: cp.async, and .bulk by bulk_copy.cpp
void add_matrix_decoders(Decoders& decoders);  // matrix.cpp: ldmatrix stmatrix mma
void add_wgmma_decoders(Decoders& decoders);   // wgmma.cpp

// Gives every branch its meeting. (reconvergence.cpp)
void find_meetings(std::vector<Instruction>& code);

// Fails unless the instruction has from `least` to `most` operands.
void expect_operands(const Instruction& instruction, size_t least, size_t most);

struct Special {  // a special register that the kernel reads: "%tid.x" and its slot
  std::string name;
  int slot;
};

struct Global {  // a module's variable in .global or .const
  std::shared_ptr<std::vector<uint8_t>> data;
  uint64_t address, size;  // aligned, within data
  bool writable;
};

struct Program {
  std::string name;
  std::map<int, std::string> files;
  std::vector<Instruction> code;
  int slots = 0;                      // registers, special registers and constants of a lane
  std::map<int, std::string> names;   // of registers, by slot
  std::map<int, uint64_t> constants;  // by slot
  std::vector<Special> specials;      // but for the clocks
  std::vector<Special> clocks;        // that change with every instruction
  std::vector<Variable> parameters;
  std::vector<int> parameter_offsets;
  int parameter_bytes = 0;
  uint32_t static_shared_end = kSharedBase;  // and where the dynamic part begins
  int local_bytes = 0, frame_bytes = 0;  // of a lane: .local variables, and .param ones of calls
  int max_registers = 0;                 // as .maxnreg says, or 0
  std::vector<int> max_threads, required_threads, required_cluster;
  std::vector<Global> globals;
};

Program build(const Module& module, const std::string& entry);

}  // namespace emulator
