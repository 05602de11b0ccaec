// PTX text as a tree: declarations, functions and statements, names not yet resolved. (PTX ISA,
// chapters "Syntax" and "Directives".)
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulator {

// What a kernel did wrong, or PTX that is wrong or unknown. Its text is all there is to it.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void fail(const std::string& message);

struct Location {
  int line = 0;         // of the PTX, from 1
  int source_file = 0;  // as .loc numbers it; 0 where there was no .loc
  int source_line = 0;
};

// An operand, as written.
struct Term {
  enum class Kind {
    kName,     // a register, variable, function, label, special register, or the sink `_`
    kNumber,   // bits of it: 64-bit integers, and of 0f.. and 0d.. their own
    kAddress,  // [name + bits], [bits], or for tensors [name, {..}]; parts are what follows a comma
    kVector,   // {a, b, ..}
    kList,     // (a, b, ..), of a call
    kPair,     // p|q
  };
  Kind kind = Kind::kName;
  std::string name;
  uint64_t bits = 0;
  bool negated = false;     // !p
  bool is_decimal = false;  // a number written 1.0: its bits are a double's
  std::vector<Term> parts;
};

struct Variable {
  std::string space;  // "reg", "shared", "local", "global", "const", "param"
  std::string type;   // "b32"
  std::string name;
  int count = 0;   // of a register family %r<count>; 0 for a single name
  int vector = 1;  // 2 for .v2, 4 for .v4
  int64_t elements = 1;
  bool is_open = false;  // an extern array without size: all the dynamic shared memory
  int alignment = 0;     // 0 for that of its type
  std::vector<uint8_t> initial;
  Location at;
};

struct Node {
  enum class Kind { kInstruction, kLabel, kVariable, kScope };
  Kind kind = Kind::kInstruction;
  std::string name;   // a label's, or an instruction's opcode with all modifiers
  std::string guard;  // the predicate of @p or @!p, or empty
  bool guard_negated = false;
  std::vector<Term> terms;
  Variable variable;
  std::vector<Node> nodes;  // of a scope
  Location at;
};

struct Function {
  std::string name;
  bool is_entry = false, is_defined = false;
  std::vector<Variable> returns, parameters;
  std::map<std::string, std::vector<int>> directives;  // {"maxntid": {256, 1, 1}}
  std::vector<Node> body;
  Location at;
};

struct Module {
  std::string target;  // "sm_90a"
  std::map<int, std::string> files;
  std::vector<Variable> variables;
  std::map<std::string, Function> functions;
};

// Parses a module; fails with the line of what it cannot read.
Module parse(const std::string& text);

int bytes_of(const std::string& type);  // of "b32", 4; fails on what is no type

}  // namespace emulator
